"""Migrations of the database schema, each room's in its own `schema/`, applied under a lock: numbered migrations in
dbmate's file format, each applied once and in order; then SQL functions, in files without a number, each applied again
whenever its text has changed, so that a function is read and changed in one place."""

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

# Any constant will do; two processes that migrate at once take turns on it.
_LOCK = 7_177_000_001
# An index of a large table takes as long as it takes, and so does whoever has the turn.
_LONGEST = 86_400.0
# Whoever waits for a table lets nobody else to it, and two may wait for each other: so it is for moments, and begun
# anew. Only the first time, and now and then, is it longer than `deadlock_timeout`: before that autovacuum makes room
# for nobody.
_MOMENT = "SET LOCAL lock_timeout = '500ms'"
_LONGER = """
SELECT set_config('lock_timeout', (1000 * extract(epoch FROM setting) + 500)::int::text, true)
FROM CAST(current_setting('deadlock_timeout') AS interval) AS setting
"""
_TURNS = (_LONGER, _MOMENT, _MOMENT, _MOMENT, _MOMENT)
_PAUSE_SECONDS = 0.5
# And no longer, since each try builds anew what the one before had built, and whoever writes there waits meanwhile.
_TRIED_SECONDS = 20.0
_KEPT = (
    "somebody keeps a table, as a backup or a long report does: nothing was changed, run `quartet migrate` again when "
    "that has ended"
)
_UP = re.compile(r"^-- migrate:up.*?$(.*?)(?=^-- migrate:down|\Z)", re.MULTILINE | re.DOTALL)
_ROOMS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Migration:
    """`version` is what is recorded of it: the number in the file's name, or a function file's name and digest."""

    version: str
    name: str
    up: str


def find(root: Path = _ROOMS) -> list[Migration]:
    """Every migration of every room, then every file of functions, in order. ValueError when two share a number or a
    name, or one has no `migrate:up`."""
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
    """Applies what is missing, all of it or nothing; returns the names applied. If nothing is missing any role may call
    it; else ValueError if the role is not the owner, or somebody holds a lock on a table. None for a database of a
    newer version: it is left unchanged, since processes of both versions work on the newer one's functions."""
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
    """Somebody else holds a lock on a table that is needed."""


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
    """Those of these migrations that are newer than this version of Quartet. Their number is higher than all of ours;
    unknown lower ones have been merged into others since."""
    return sorted(version for version in versions if "@" not in version and version > max(_numbers()))


async def is_newer(pg: Postgres) -> bool:
    """Whether the database is of a newer version than this process. Raises StoreUnavailable."""
    async with pg.read() as read:
        return bool(newer(await _versions(read)))


async def lacking(pg: Postgres) -> str:
    """What the database lacks of the schema, and what to do about it; "" if it lacks nothing. Only numbered migrations
    count: during an upgrade processes of both versions work on the newer one's functions. Raises StoreUnavailable."""
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
    # Not IF NOT EXISTS, which asks for the right to create even where the table is there.
    if not await tx.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        await tx.execute("CREATE TABLE schema_migrations (version VARCHAR(128) PRIMARY KEY)")
    return await _versions(tx)


async def _versions(read: Read) -> set[str]:
    return {row["version"] for row in await read.fetch("SELECT version FROM schema_migrations")}
