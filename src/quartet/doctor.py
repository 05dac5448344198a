"""`quartet doctor`: checks whether this machine has what `quartet up` needs, and says how to fix what is missing."""

import asyncio
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from quartet import devstores
from quartet.devstores import jvm, mongo, postgres, redis, search
from quartet.gateway import MEANWHILE
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.stores import open_stores, ping_all, too_old
from quartet.stores.postgres import Postgres
from quartet.stores.redis import RedisStore
from quartet.stores.trouble import reason
from quartet.supervise import LEAST_FREE_BYTES, STORES, port_trouble, read_running_note, without_password

_NAMED = re.compile(r"^\s*(?:export\s+)?(\w+)\s*=", re.MULTILINE)

UNREACHABLE = "tcp://127.0.0.1:9"
"""Stands in for a store without a URL where a client of every store has to be made; never asked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `wrong`: it keeps `quartet up` from running; `advice` may be given without it."""

    what: str
    found: str
    advice: str = ""
    wrong: bool = False


async def examine(settings: Settings) -> list[Finding]:
    """Checks everything that `quartet up` needs with these settings; starts and changes nothing."""
    data = settings.data_dir.expanduser().resolve()
    findings = [_python(), *_unknown(settings), _folder(data), _disk(data), _port(settings, data)]
    findings += await asyncio.to_thread(_local_engines, settings)
    return findings + await _given_stores(settings) + await _replica(settings)


def show(findings: list[Finding], console: Console) -> int:
    """Prints the findings as a table; returns the exit status, 1 if something is wrong."""
    table = Table()
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        mark = "✗" if finding.wrong else "!" if finding.advice else "✓"
        table.add_row(mark, finding.what, finding.found, finding.advice)
    console.print(table)
    wrong = sum(finding.wrong for finding in findings)
    console.print(f"{wrong} to be put right" if wrong else "`quartet up` can run here")
    return 1 if wrong else 0


def _python() -> Finding:
    version = sys.version.split()[0]
    old = sys.version_info < (3, 11)
    return Finding("Python", version, "install Python 3.11 or newer" if old else "", old)


def _unknown(settings: Settings) -> list[Finding]:
    """`QUARTET_…` variables that are not settings: most likely misspelt ones, which would be ignored silently."""
    file = Path(str(settings.model_config["env_file"]))
    written = _NAMED.findall(file.read_text("utf-8", "replace")) if file.is_file() else []
    known = {f"QUARTET_{name.upper()}" for name in Settings.model_fields}
    unknown = {name.upper() for name in (*os.environ, *written) if name.upper().startswith("QUARTET_")} - known
    return [
        Finding("setting", f"{name} is none", ".env.example lists them all")
        for name in sorted(unknown)
        if not name.startswith("QUARTET_TEST_")
    ]


def _folder(data: Path) -> Finding:
    there = _existing(data)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Finding("data folder", f"{data} can't be written", "choose another with --data", wrong=True)
    return Finding("data folder", str(data) + ("" if data.exists() else " (made at the first start)"))


def _existing(data: Path) -> Path:
    """The data folder, or its nearest existing parent."""
    return next(folder for folder in (data, *data.parents) if folder.exists())


def _disk(data: Path) -> Finding:
    free = shutil.disk_usage(_existing(data)).free
    found = f"{free / 2**30:.1f} GB free"
    if free < LEAST_FREE_BYTES:
        advice = f"at least {LEAST_FREE_BYTES // 2**20} MB are needed: make room"
        return Finding("disk", found, advice, wrong=True)
    return Finding("disk", found)


def _port(settings: Settings, data: Path) -> Finding:
    if devstores.is_locked(data):
        port, running = read_running_note(data).get("port"), "a `quartet up` runs on this data folder"
        return Finding("port", running if port is None else f"{port}: {running}")  # none while it starts
    trouble = port_trouble(settings.port, settings.host)
    if trouble:
        return Finding("port", *trouble, wrong=True)
    return Finding("port", f"{settings.port} is free")


def _local_engines(settings: Settings) -> list[Finding]:
    """Checks of the local servers that would be started for stores without a URL."""
    found = {"postgres": _postgres(), "mongodb": _mongodb(), "redis": _redis(), "search": _search(settings)}
    return [finding for name, finding in found.items() if not getattr(settings, f"{name}_url")]


def _postgres() -> Finding:
    found = postgres.find()
    if found is None:
        advice = f"install postgresql {postgres.OLDEST} or newer, or set QUARTET_POSTGRES_URL"
        return Finding("PostgreSQL", "none", advice, wrong=True)
    return Finding("PostgreSQL", f"{found.major}, {_origin(found.folder)}")


def _mongodb() -> Finding:
    match mongo.find():
        case None:
            return Finding(
                "MongoDB", "none", "install mongod 7 or 8 or nx-27017, or set QUARTET_MONGODB_URL", wrong=True
            )
        case "mongod":
            return Finding("MongoDB", "mongod")
        case emulator:
            return Finding(
                "MongoDB", f"{emulator}, an emulator", "fine for a demo; mongod 7 or 8 on PATH is used if there"
            )


def _redis() -> Finding:
    found = redis.find()
    if found is None:
        return Finding("Redis", "none", "install redis-server 7 or newer, or set QUARTET_REDIS_URL", wrong=True)
    return Finding("Redis", f"{found.name}, {_origin(found)}")


def _origin(path: Path) -> str:
    return "from its wheel" if path.is_relative_to(sys.prefix) else str(path)


def _search(settings: Settings) -> Finding:
    java = jvm.find_java()
    tools = f"Java {java.major}, Maven" if java else "no JDK of Java 17 or newer with Maven"
    engine = settings.dev_search
    if engine == "auto":
        engine = "opensearch" if java else "osmem"
    if engine != "osmem":
        advice = "" if java else "install a JDK of Java 17 or newer and Maven, or set QUARTET_DEV_SEARCH=osmem"
        return Finding("search", f"{engine} ({tools})", advice, wrong=java is None)
    if search.find_osmem() is None:
        return Finding("search", "none", "install a JDK of Java 17 or newer and Maven, or osmem-server", wrong=True)
    advice = "" if java else "fine for a demo; with a JDK of Java 17 or newer and Maven a real OpenSearch is used"
    return Finding("search", f"osmem ({tools})", advice)


async def _given_stores(settings: Settings) -> list[Finding]:
    given = {name: url for name in STORES if (url := getattr(settings, f"{name}_url"))}
    if not given:
        return []
    schemes = {"postgres": "postgresql", "mongodb": "mongodb", "redis": "redis", "search": "http"}
    others = {
        f"{name}_url": UNREACHABLE.replace("tcp", scheme) for name, scheme in schemes.items() if name not in given
    }
    async with open_stores(settings.model_copy(update=others)) as stores:
        versions = await ping_all(stores)
        evicting = await _evicting(stores.redis) if isinstance(versions["redis"], str) else []
    findings = []
    for name, url in given.items():
        version, shown = versions[name], without_password(url)
        if isinstance(version, Exception):
            advice = f"start it, correct QUARTET_{name.upper()}_URL, or leave it unset to have a local one"
            advice += f"; meanwhile {MEANWHILE[name]}"
            findings.append(Finding(name, f"{shown} does not answer: {reason(version)}", advice, wrong=True))
        else:
            needed = too_old(name, version)
            findings.append(Finding(name, f"{version}, {shown}", needed, wrong=bool(needed)))
    return findings + evicting


async def _replica(settings: Settings) -> list[Finding]:
    """Checks the replica; never `wrong`, since the shop works without it."""
    if not (url := settings.postgres_replica_url):
        return []
    replica, shown = Postgres(url), without_password(url)
    try:
        version = await replica.ping()
    except Exception as away:
        advice = "start it, correct QUARTET_POSTGRES_REPLICA_URL, or leave it unset; meanwhile the primary is asked"
        return [Finding("replica", f"{shown} does not answer: {reason(away)}", advice)]
    finally:
        await replica.close()
    return [Finding("replica", f"{version}, {shown}", too_old("postgres", version))]


async def _evicting(store: RedisStore) -> list[Finding]:
    """Warns of an eviction policy: carts are stored only in Redis, and the marks of ended sessions, if evicted, are
    missing until the worker restores them from PostgreSQL."""
    try:
        policies = await store.policies() - {"noeviction"}
    except StoreUnavailable:  # it went down just now: the next run will report it
        return []
    advice = "set maxmemory-policy noeviction: when this server's memory is full it deletes carts, unasked"
    return [Finding("redis", f"maxmemory-policy {policy}", advice) for policy in sorted(policies)]
