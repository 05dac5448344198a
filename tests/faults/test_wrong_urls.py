"""A URL that leads nowhere, or not in: a command names the setting and says why, in one line."""

import sys
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import pytest

from quartet.cli import main

COMMAND = ("roles", "ada@example.com")


@pytest.fixture
def named(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SplitResult:
    """Every store by its URL; PostgreSQL's in parts."""
    for name, url in servers.items():
        monkeypatch.setenv(f"QUARTET_{name.upper()}_URL", url)
    monkeypatch.chdir(tmp_path)
    return urlsplit(servers["postgres"])


def _said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["quartet", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_a_wrong_password_is_said(
    named: SplitResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = named._replace(netloc=f"{named.username}:hidden@{named.hostname}:{named.port}").geturl()
    monkeypatch.setenv("QUARTET_POSTGRES_URL", wrong)
    assert _said(monkeypatch, capsys, *COMMAND) == (
        "quartet: postgres does not answer right now: "
        f'password authentication failed for user "{named.username}" (QUARTET_POSTGRES_URL)\n'
    )


def test_a_database_that_there_is_not_is_said(
    named: SplitResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUARTET_POSTGRES_URL", named._replace(path="/nowhere").geturl())
    said = _said(monkeypatch, capsys, *COMMAND)
    assert said.endswith('right now: database "nowhere" does not exist (QUARTET_POSTGRES_URL)\n')


def test_a_refusal_of_the_server_is_said(
    named: SplitResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "options=-c%20default_transaction_isolation%3Dnone"
    monkeypatch.setenv("QUARTET_POSTGRES_URL", named._replace(query=query).geturl())
    said = _said(monkeypatch, capsys, *COMMAND)
    assert said.startswith("quartet: postgres: ")
    assert "default_transaction_isolation" in said
    assert said.endswith(" (QUARTET_POSTGRES_URL)\n")


@pytest.mark.usefixtures("named")
def test_what_a_driver_makes_of_its_url_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUARTET_MONGODB_URL", "mongodb://127.0.0.1/a.b")
    said = _said(monkeypatch, capsys, *COMMAND)
    assert said == "quartet: QUARTET_MONGODB_URL: database names cannot contain the character '.'\n"
