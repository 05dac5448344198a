"""The rules of the house, checked: layers, drivers, where text for databases lives, what the repository may name."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "quartet"
ROOMS = sorted(p.name for p in SOURCE.iterdir() if p.is_dir() and (p / "__init__.py").exists())
DRIVERS = {"asyncpg", "pymongo", "redis", "opensearchpy", "elasticsearch", "aiosmtplib"}
WEB = {"fastapi", "starlette"}
WEB_ROOMS = {"web", "gateway"}


def _modules() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*.py") if "__pycache__" not in p.parts)


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines()]


def test_the_layers_hold() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout


def test_drivers_live_in_stores_only() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _modules()
        if _room(path) not in {"stores", "devstores"}
        for name, line in _imports(path)
        if name.split(".")[0] in DRIVERS
    ]
    assert not found


def test_every_package_that_is_imported_is_declared() -> None:
    """One that only comes with another package could be gone with its next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = packages_distributions()
    used = project["project"]["dependencies"]
    all_ = used + project["dependency-groups"]["dev"]
    for folders, listed in ((["src"], used), (["tests", "proofs", "bench"], all_)):
        declared = {_plain(re.split(r"[^\w.-]", requirement)[0]) for requirement in listed}
        paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
        imported = {name.split(".")[0] for path in paths for name, _ in _imports(path)} - {"quartet"}
        sources = {name: {_plain(package) for package in installed[name]} for name in imported & installed.keys()}
        assert not {name: packages for name, packages in sources.items() if not packages & declared}


def _plain(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_the_web_framework_stays_at_the_edge() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _modules()
        if _room(path) not in WEB_ROOMS and path.name != "api.py"
        for name, line in _imports(path)
        if name.split(".")[0] in WEB
    ]
    assert not found


def test_a_room_is_entered_by_its_front_door() -> None:
    shared = {"kernel", "stores", "web", "devstores", "gateway"}
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _modules()
        for name, line in _imports(path)
        if name.startswith("quartet.") and len(parts := name.split(".")) > 2
        if parts[1] in set(ROOMS) - shared and parts[1] != _room(path)
        if (SOURCE / parts[1] / f"{parts[2]}.py").exists()
        if not (_room(path) == "gateway" and parts[2] == "api") and name not in FRONT_DOOR_MODULES
    ]
    assert not sorted(set(found))


# Modules that are their room's front door by name.
FRONT_DOOR_MODULES = {"quartet.accounts.tokens", "quartet.accounts.cookies"}


def test_local_servers_are_the_command_lines_business() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in _modules()
        if _room(path) not in {"devstores", "cli", "supervise", "doctor"}
        for name, line in _imports(path)
        if name.startswith("quartet.devstores")
    ]
    assert not found


_SQL = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b", re.S)
# Statements of the machinery itself, which belong to no room.
_SQL_ALLOWED = {"stores/migrate.py", "stores/postgres.py"}


def test_sql_lives_in_sql_files() -> None:
    found = []
    for path in _modules():
        if str(path.relative_to(SOURCE)) in _SQL_ALLOWED or _room(path) == "devstores":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            if _SQL.search(node.value)
        ]
    assert not found


def test_every_query_is_used_and_every_query_used_exists() -> None:
    problems = []
    for file in sorted(SOURCE.rglob("queries.sql")):
        names = set(re.findall(r"^-- name: (\w+)", file.read_text(encoding="utf-8"), re.M))
        nodes = [n for path in file.parent.glob("*.py") for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        used = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "q"
        } - {"texts"}
        # A room may also take its queries by name from a table, as the audit does with its rules.
        used |= names & {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        problems += [f"{file.relative_to(ROOT)}: {name} is not used" for name in sorted(names - used)]
        problems += [f"{file.relative_to(ROOT)}: {name} does not exist" for name in sorted(used - names)]
    assert not problems


def test_every_query_says_why_or_needs_no_word() -> None:
    """A statement of more than three lines has a sentence above it."""
    silent = []
    for file in sorted(SOURCE.rglob("queries.sql")):
        parts = re.split(r"^-- name: (\w+)\s*$", file.read_text(encoding="utf-8"), flags=re.M)
        silent += [
            f"{file.relative_to(ROOT)}: {name}"
            for name, text in zip(parts[1::2], parts[2::2], strict=True)
            if len(text.strip().splitlines()) > 3 and "--" not in text
        ]
    assert not silent


def test_nothing_connects_or_reads_settings_at_import() -> None:
    code = "import socket, sys\ndef refuse(*a, **k): raise SystemExit('connected at import')\n" + (
        "socket.socket.connect = refuse\nimport os\nos.environ['QUARTET_PORT'] = 'not a port'\n"
        + "\n".join(
            f"import {'.'.join(('quartet', *path.relative_to(SOURCE).with_suffix('').parts)).removesuffix('.__init__')}"
            for path in _modules()
            if path.name != "__main__.py"
        )
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr


def test_no_registry_is_named() -> None:
    hosts = ("pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "repo1." + "maven", "repo.maven" + ".apache")
    named = []
    for path in _tracked():
        if path.suffix in {".xz", ".png", ".svg"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        named += [f"{path.relative_to(ROOT)} names {host}" for host in hosts if host in text]
    assert not named


# What else some rooms have: whoever adds to it says so here, and has thought of whether it is another room.
OF_ITS_OWN = {
    "accounts": {"cookies.py", "hasher.py", "lockout.py", "passwords.py", "tokens.py"},
    "audit": {"report.py"},
    "catalog": {"attributes.py", "cache.py", "pages.py"},
    "checkout": {
        "answers.py", "captures.py", "completion.py", "paying.py", "placing.py", "recovery.py", "refunds.py",
        "webhooks.py",
    },
    "demo": {"drawing", "logins.py", "seed.py", "tour.py"},
    "gateway": {
        "app.py", "auth.py", "document.py", "errors.py", "limits.py", "metrics.py", "middleware.py",
        "security.py", "server.py", "system.py",
    },
    "hooks": {"addresses.py", "delivery.py", "sender.py"},
    "merchandising": {"rules.py", "typeahead.py"},
    "notify": {"templates.py"},
    "orders": {"shapes.py"},
    "payments": {"providers", "reconcile.py"},
    "retail": {
        "console.py", "dataset.py", "naming.py", "replay.py", "report.py", "shelves.py", "verify.py",
    },
    "search": {
        "attributes.py", "cache.py", "clauses.py", "documents.py", "facets.py", "query.py", "why.py", "words.py",
    },
    "sync": {
        "changes.py", "compare.py", "consumers.py", "freshness.py", "leases.py", "metrics.py", "products.py",
        "reindex.py", "relay.py", "tasks.py", "worker.py",
    },
}  # fmt: skip
EVERYWHERE = {"__init__.py", "model.py", "service.py", "store.py", "api.py"}
FOLDERS = {path.relative_to(SOURCE).parts[0] for path in _modules() if path.parent != SOURCE}


@pytest.mark.parametrize("room", sorted(FOLDERS - {"kernel", "stores", "web", "devstores"}))
def test_a_room_has_the_files_every_room_has(room: str) -> None:
    held = {path.relative_to(SOURCE / room).parts[0] for path in _modules() if path.is_relative_to(SOURCE / room)}
    assert "__init__.py" in held, f"{room} has no front door"
    strange = held - EVERYWHERE
    assert strange == OF_ITS_OWN.get(room, set()), f"{room} has {sorted(strange)}: does it hold two rooms?"
