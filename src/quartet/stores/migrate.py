"""Numbered migrations in dbmate's file format, each room's in its own `schema/`, applied in order under a lock."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quartet.stores.postgres import Postgres, Tx

# Any constant will do; two processes that migrate at once take turns on it.
_LOCK = 7_177_000_001
_UP = re.compile(r"^-- migrate:up.*?$(.*?)(?=^-- migrate:down|\Z)", re.MULTILINE | re.DOTALL)
_ROOMS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Migration:
    """`version` is the number in the file's name."""

    version: str
    name: str
    up: str


def find(root: Path = _ROOMS) -> list[Migration]:
    """Every migration of every room, in order. ValueError when two share a number or one has no `migrate:up`."""
    found: dict[str, Migration] = {}
    for path in sorted(root.glob("*/schema/[0-9]*_*.sql"), key=lambda p: p.name):
        version, _, name = path.stem.partition("_")
        up = _UP.search(path.read_text(encoding="utf-8"))
        if up is None:
            raise ValueError(f"{path} has no `-- migrate:up`")
        if version in found:
            raise ValueError(f"two migrations are numbered {version}: {found[version].name}, {name}")
        found[version] = Migration(version, name, up.group(1).strip())
    return list(found.values())


async def migrate(pg: Postgres, migrations: Iterable[Migration] | None = None) -> list[str]:
    """Applies what is missing, all of it or nothing; answers the names applied."""
    async with pg.tx() as tx:
        await tx.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        done = await _applied(tx)
        fresh = [m for m in (find() if migrations is None else migrations) if m.version not in done]
        for migration in fresh:
            await tx.execute(migration.up)
            await tx.execute("INSERT INTO schema_migrations (version) VALUES ($1)", migration.version)
        return [f"{m.version}_{m.name}" for m in fresh]


async def _applied(tx: Tx) -> set[str]:
    await tx.execute("CREATE TABLE IF NOT EXISTS schema_migrations (version VARCHAR(128) PRIMARY KEY)")
    return {row["version"] for row in await tx.fetch("SELECT version FROM schema_migrations")}
