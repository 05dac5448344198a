"""The documents say what is: settings, files, commands, routes."""

import importlib
import re
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import typer
from bench.__main__ import NAMES as BENCHMARKS
from prometheus_client import REGISTRY

from quartet.cli import app as commands
from quartet.gateway import ROOMS, create_app
from quartet.hooks import delivery
from quartet.hooks import model as hooks
from quartet.hooks import sender as hooks_sender
from quartet.kernel.errors import Problem
from quartet.kernel.settings import Settings
from quartet.notify import service as notify
from quartet.payments.providers import port
from quartet.stores import mail, mongo, open_stores, postgres, resp, search
from quartet.stores.guard import REST_SECONDS
from quartet.stores.reports import REPORT_SECONDS
from quartet.sync import consumers

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_example_lists_every_setting_with_its_sentence_and_its_default() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = re.findall(r"^# (.+)\n# QUARTET_(\w+)=(.*)$", text, re.MULTILINE)
    listed = {name.lower(): (sentence, default) for sentence, name, default in named}
    assert len(listed) == len(named)
    assert listed.keys() == Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        assert listed[name][0] == field.description, name
        example = {f"QUARTET_{name.upper()}": listed[name][1]} if listed[name][1] else {}
        given = Settings.model_validate(
            Settings(_env_file=None, **_read(example)).model_dump()  # type: ignore[arg-type]
        )
        assert getattr(given, name) == field.get_default(), name


def _read(environment: dict[str, str]) -> dict[str, object]:
    from pydantic_settings import EnvSettingsSource

    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        return EnvSettingsSource(Settings)()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    gone = [t for t in targets if not re.match(r"[a-z]+:", t) and not (page.parent / t).exists()]
    assert not gone


def _commands() -> dict[str, set[str]]:
    """Every command by its words, with its options."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        for name, each in getattr(command, "commands", {}).items():
            walk(each, (*words, name))
        if not hasattr(command, "commands"):
            found[" ".join(words)] = {option for parameter in command.params for option in parameter.opts}

    walk(typer.main.get_command(commands), ())
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_that_a_page_names_are_there_with_their_options(page: Path) -> None:
    text, known = page.read_text(encoding="utf-8"), _commands()
    named = re.findall(r"^(?:\.venv/bin/)?quartet (.+?)(?:  #.*)?$|`quartet ([^`]+)`", text, re.MULTILINE)
    for line in (line for either in named for line in either if line and line != "--help"):
        command = next((name for name in known if re.match(rf"{name}\b", line)), None)
        assert command is not None, line
        assert set(re.findall(r"--[a-z-]+", line)) <= known[command], line


def test_every_command_is_told_somewhere() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    known = _commands()
    assert [name for name in known if f"quartet {name}" not in text] == []


def test_the_readme_names_targets_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert {
        name for name in re.findall(r"`make (\w+)`|^make (\w+)", text, re.MULTILINE) for name in name if name
    } <= targets


def test_every_benchmark_is_named() -> None:
    text = (ROOT / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8").partition("\n## ")[0]
    assert [name for name in BENCHMARKS if f"`{name}`" not in text] == []


def test_every_event_is_told_and_who_hears_of_it() -> None:
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    events, mails = (
        set(re.findall(r"`([a-z]+\.[a-z_]+)`", _column(table))) for table in re.split(r"\|-[-|]+", text)[1:]
    )
    assert events == consumers.TOPICS
    assert mails == notify.TOPICS.keys()
    told_outside = re.search(r"may listen to (.+?), or `\*`", text, re.DOTALL)
    assert told_outside is not None
    assert re.findall(r"`(.+?)`", told_outside[1]) == list(hooks.EVENTS)


def _column(table: str) -> str:
    return "\n".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`((?:src|docs|deploy|tests|bench|proofs)/[\w./*-]*\w)", page.read_text(encoding="utf-8"))
    gone = [path for path in named if not any(ROOT.glob(path))]
    assert not gone


def test_every_metric_is_told_and_what_is_told_is_one() -> None:
    for name in (*(f"{room}.api" for room in ROOMS), "gateway.app", "sync.metrics", "sync.worker"):
        importlib.import_module(f"quartet.{name}")
    there = {metric.name for metric in REGISTRY.collect()} | {"quartet_search_freshness_seconds"}  # made when asked
    there = {name.removesuffix("_total") for name in there if name.startswith("quartet_")}
    told = re.findall(r"`(quartet_[a-z_]+)", "".join(page.read_text(encoding="utf-8") for page in PAGES))
    others = {"quartet_app", "quartet_web", "quartet_session", "quartet_csrf"}  # roles and cookies
    assert {name.removesuffix("_total") for name in told} - others == there


async def test_how_soon_a_store_is_known_to_be_away_and_what_a_call_may_take_is_told_as_it_is() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    calls = {
        "PostgreSQL": (
            f"{postgres.CALL_SECONDS:g} s a statement, {REPORT_SECONDS / 60:g} min one of a report, "
            f"{postgres.WAIT_SECONDS:g} s for a connection"
        ),
        "MongoDB": f"{mongo.CALL_SECONDS:g} s",
        "Redis": f"{resp.CALL_SECONDS:g} s",
        "search": f"{search.CALL_SECONDS:g} s, bulks {search.BULK_SECONDS:g} s",
    }
    names = ("postgres", "mongodb", "redis", "search")
    nowhere = Settings.model_validate({f"{name}_url": f"{name}://127.0.0.1:1/none" for name in names[:3]} | {
        "search_url": "http://127.0.0.1:1", "postgres_url": "postgresql://127.0.0.1:1/none"})  # fmt: skip
    async with open_stores(nowhere) as stores:
        guards = {guard.store: guard for guard in stores.guards}
    for name, (told, call) in zip(names, calls.items(), strict=True):
        guard = guards[name]
        opens = ceil((guard._doubt + guard._patience) * 10) / 10
        assert f"| {told} | {guard._doubt:g} s | {opens:g} s | {call} | " in text
        assert re.search(rf"^\| {told} \| .* \| {guard._places:,} \|$", text, re.MULTILINE), told
    assert f"every {REST_SECONDS:g} s until it answers" in text
    assert f"every {port.REST_SECONDS:g} s, the mail server every {mail.REST_SECONDS:g} s" in text
    assert f"| {hooks_sender.CONNECT_SECONDS:g} s | {hooks_sender.WHOLE_SECONDS:g} s | " in text
    assert f"| {delivery.EACH_AT_ONCE} each, {delivery.AT_ONCE} a worker | " in text
    mails = f"| {mail.DOUBT_SECONDS} s | {mail.DOUBT_SECONDS + mail.SECONDS} s | {mail.SECONDS} s | "
    assert f"{mails}{mail.SECONDS} s a step, a minute an e-mail | {notify.AT_ONCE} a worker | " in text
    paying = port.guard_of("stripe", nowhere.model_dump, (), 6.0)  # type: ignore[arg-type]
    assert (paying._doubt, paying._patience, paying._places) == (6 / 3, 6 * 0.65, 100 + 200)
    assert f"`QUARTET_PAYMENT_TIMEOUT` ({nowhere.payment_timeout:g} s)" in text


def test_every_decision_is_in_their_list_by_its_name() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = dict(re.findall(r"\[(\d+ [^\]]+)\]\((\S+)\)", (folder / "README.md").read_text(encoding="utf-8")))
    headings = {file: file.read_text(encoding="utf-8").partition("\n")[0] for file in folder.glob("[0-9]*.md")}
    assert {f"# {name.replace(' ', '. ', 1)}": file for name, file in listed.items()} == {
        heading: file.name for file, heading in headings.items()
    }


def test_the_contract_names_every_route() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").replace("{sku or slug}", "{sku}")
    named = {_shape(path) for path in re.findall(r"/[a-z][\w/{}.-]*[\w}]", text)}
    named |= {_shape(before + last) for before, last in re.findall(r"(/[\w/{}]+)/\w+ · (/\w+)", text)}
    document = create_app(lambda: None).openapi()  # type: ignore[arg-type, return-value]
    assert {_shape(path) for path in document["paths"]} - named == set()


def test_the_contract_names_every_problem_with_its_status() -> None:
    create_app(lambda: None)  # type: ignore[arg-type, return-value]
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").partition("## Problems\n")[2]
    named = {
        (int(status), slug)
        for status, slugs in re.findall(r"(\d{3}) ((?:`[a-z-]+`,?\s*)+)", text)
        for slug in re.findall(r"`([a-z-]+)`", slugs)
    }
    assert named == {(kind.status, kind.slug) for kind in Problem.kinds()}


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def test_every_problem_explains_itself() -> None:
    create_app(lambda: None)  # type: ignore[arg-type, return-value]
    kinds = list(Problem.kinds())
    assert len({kind.slug for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert 400 <= kind.status < 600, kind
        assert kind.__doc__ is not None
        assert len(kind.__doc__.split()) >= 8, kind
        assert kind.__doc__ != Problem.__doc__, kind
        assert kind.title
        assert kind.slug != Problem.slug
