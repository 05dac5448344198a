"""Migrations of the database schema, each room's in its own `schema/`, applied under a lock: first numbered migrations
in dbmate's file format, each applied once and in order; then SQL functions, in files without a number, each applied
again whenever its text has changed, so that every function has one source."""

import asyncio
import hashlib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic

import asyncpg

from quartet.stores.postgres import Postgres, Read, Tx

# The key of the advisory lock that concurrent migrations take turns on; an arbitrary constant.
_LOCK = 7_177_000_001
# The timeout, in seconds: building an index on a large table, or waiting for another process that does, may take hours.
_LONGEST = 86_400.0
# While a migration waits for a table's lock, all other sessions queue behind it, and two may deadlock: so it waits
# briefly and is retried. On the first try, and every fifth, it waits longer than `deadlock_timeout`, since autovacuum
# gives way only after that.
_MOMENT = "SET LOCAL lock_timeout = '500ms'"
_LONGER = """
SELECT set_config('lock_timeout', (1000 * extract(epoch FROM setting) + 500)::int::text, true)
FROM CAST(current_setting('deadlock_timeout') AS interval) AS setting
"""
_TURNS = (_LONGER, _MOMENT, _MOMENT, _MOMENT, _MOMENT)
_PAUSE_SECONDS = 0.5
# It is retried for no longer, since each try repeats the work of the one before while writers of the tables wait.
_TRIED_SECONDS = 20.0
_KEPT = (
    "somebody keeps a table, as a backup or a long report does: nothing was changed, run `quartet migrate` again when "
    "that has ended"
)
_UP = re.compile(r"^-- migrate:up.*?$(.*?)(?=^-- migrate:down|\Z)", re.MULTILINE | re.DOTALL)
_ROOMS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Migration:
    """A migration. `version` is what the database records: the file's number, or a function file's name and digest."""

    version: str
    name: str
    up: str


def find(root: Path = _ROOMS) -> list[Migration]:
    """Every migration of every room, then every file of functions, in order. Raises ValueError if two have the same
    number or name, or one has no `migrate:up`."""
    found: dict[str, Migration] = {}
    for path in sorted(root.glob("*/schema/[0-9]*_*.sql"), key=lambda p: p.name):
        version, _, name = path.stem.partition("_")
        up = _UP.search(path.read_text(encoding="utf-8"))
        if up is None:
            raise ValueError(f"{path} has no `-- migrate:up`")
        if version in found:
            raise ValueError(f"two migrations are numbered {version}: {found[version].name}, {name}")
        found[version] = Migration(version, name, up.group(1).strip())
    return [*found.values(), *_functions(root)]


def _functions(root: Path) -> list[Migration]:
    found: dict[str, Migration] = {}
    for path in sorted(root.glob("*/schema/[a-z]*.sql"), key=lambda p: (p.parent.parent.name, p.name)):
        if path.stem in found:
            raise ValueError(f"two files of functions are called {path.name}")
        text = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        found[path.stem] = Migration(f"{path.stem}@{digest}", path.stem, text)
    return list(found.values())


async def migrate(pg: Postgres, migrations: Iterable[Migration] | None = None) -> list[str] | None:
    """Applies what is missing, in one transaction; returns the names applied. If nothing is missing any role may call
    it; else raises ValueError if the role is not the owner, or another session holds a lock on a table. None for a
    database of a newer version: it is left unchanged, since processes of both versions use the newer functions."""
    wanted = list(find() if migrations is None else migrations)
    turns, until = itertools.cycle(_TURNS), monotonic() + _TRIED_SECONDS
    while True:
        try:
            return await _migrate(pg, wanted, next(turns))
        except asyncpg.InsufficientPrivilegeError as error:
            raise ValueError(f"{error}: `quartet migrate` is for the database's owner (docs/access.md)") from error
        except _KeptError as error:
            if monotonic() >= until:
                raise ValueError(_KEPT) from error
        await asyncio.sleep(_PAUSE_SECONDS)


class _KeptError(Exception):
    """Another session holds a lock on a table that is needed."""


async def _migrate(pg: Postgres, wanted: Iterable[Migration], patience: str) -> list[str] | None:
    async with pg.tx(_LONGEST) as tx:
        try:
            await tx.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            done = await _applied(tx)
            if newer(done):
                return None
            fresh = [m for m in wanted if m.version not in done]
            await tx.execute(patience)
            for migration in fresh:
                await _apply(tx, migration)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            raise _KeptError from error
    return [m.name if "@" in m.version else f"{m.version}_{m.name}" for m in fresh]


async def _apply(tx: Tx, migration: Migration) -> None:
    await tx.execute(migration.up)
    await tx.execute("DELETE FROM schema_migrations WHERE starts_with(version, $1)", f"{migration.name}@")
    await tx.execute("INSERT INTO schema_migrations (version) VALUES ($1)", migration.version)


def newer(versions: Iterable[str]) -> list[str]:
    """Those of these migrations that are newer than this version of Quartet: their numbers are higher than all of ours.
    Unknown lower numbers are of older migrations that have been merged into others."""
    return sorted(version for version in versions if "@" not in version and version > max(_numbers()))


async def is_newer(pg: Postgres) -> bool:
    """Whether the database is of a newer version than this process. Raises StoreUnavailable."""
    async with pg.read() as read:
        return bool(newer(await _versions(read)))


async def lacking(pg: Postgres) -> str:
    """A message that says how many migrations the database lacks, and what to do; "" if none. Only numbered migrations
    count: during an upgrade processes of both versions work with the newer functions. Raises StoreUnavailable."""
    async with pg.read() as read:
        try:
            done = await _versions(read)
        except asyncpg.UndefinedTableError:
            done = set()
    missing = len(_numbers() - done)
    return f"the database lacks {missing} of the shop's migrations: run `quartet migrate`" if missing else ""


@cache
def _numbers() -> frozenset[str]:
    return frozenset(migration.version for migration in find() if "@" not in migration.version)


async def _applied(tx: Tx) -> set[str]:
    # Not IF NOT EXISTS, which needs the right to create tables even if the table exists.
    if not await tx.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        await tx.execute("CREATE TABLE schema_migrations (version VARCHAR(128) PRIMARY KEY)")
    return await _versions(tx)


async def _versions(read: Read) -> set[str]:
    return {row["version"] for row in await read.fetch("SELECT version FROM schema_migrations")}
