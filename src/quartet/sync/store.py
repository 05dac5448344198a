"""What the worker knows in PostgreSQL: positions, dead letters, rebuilds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

Json = dict[str, Any]

q = queries(__file__)


@dataclass(frozen=True)
class Draw:
    """A batch's number, and whether it writes to an index in the making as well."""

    version: int
    rebuilding: bool


@dataclass(frozen=True)
class Position:
    """How far a pipeline is, and what it has done so far."""

    pipeline: str
    token: Any
    caught_up_at: datetime | None
    batches: int
    items: int
    retries: int
    updated_at: datetime


@dataclass(frozen=True)
class Letter:
    """Something that could not be carried, and why."""

    id: int
    pipeline: str
    key: str
    payload: Json
    reason: str
    created_at: datetime


@dataclass(frozen=True)
class Rebuild:
    """A rebuild of the search index; `total` and `done` count products."""

    id: int
    state: Literal["asked", "building", "done", "failed"]
    reason: str
    total: int
    done: int
    error: str | None
    asked_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


async def draw(tx: Tx) -> Draw:
    """The next number; before anything is read."""
    return Draw(**await tx.fetchrow(q.draw))


async def position(read: Read, pipeline: str) -> Any:
    """The token to resume from, or None."""
    return await read.fetchval(q.position, pipeline)


async def save(tx: Tx, pipeline: str, token: Any, caught_up_at: datetime | None, items: int) -> None:
    """Everything up to `token` is acknowledged."""
    await tx.execute(q.save, pipeline, token, caught_up_at, items)


async def lose(tx: Tx, pipeline: str) -> None:
    """The token is of no use any more."""
    await tx.execute(q.lose, pipeline)


async def count_retry(tx: Tx, pipeline: str) -> None:
    """One more try that failed."""
    await tx.execute(q.count_retry, pipeline)


async def positions(read: Read) -> list[Position]:
    """Every pipeline's."""
    return [Position(**row) for row in await read.fetch(q.positions)]


async def bury(tx: Tx, pipeline: str, letters: Sequence[tuple[str, Json, str]]) -> None:
    """(key, payload, reason) each; the same key again replaces what was there."""
    if letters:
        keys, payloads, reasons = zip(*letters, strict=True)
        await tx.execute(q.bury, pipeline, keys, payloads, reasons)


async def exhume(tx: Tx, pipeline: str, keys: Sequence[str]) -> None:
    """These are no dead letters any more."""
    await tx.execute(q.exhume, pipeline, keys)


async def letters(read: Read, limit: int) -> list[Letter]:
    """The newest."""
    return [Letter(**row) for row in await read.fetch(q.dead_letters, limit)]


async def letter_counts(read: Read) -> dict[str, int]:
    """By pipeline."""
    return {row["pipeline"]: row["letters"] for row in await read.fetch(q.dead_letter_counts)}


async def take_letters(read: Read, pipeline: str, limit: int) -> list[Letter]:
    """The oldest of one pipeline."""
    return [Letter(**row) for row in await read.fetch(q.take_letters, pipeline, limit)]


async def ask_rebuild(tx: Tx, reason: str) -> Rebuild:
    """The one that is open now: a new one, or that which was asked for before."""
    await tx.execute(q.ask_rebuild, reason)
    return Rebuild(**await tx.fetchrow(q.last_rebuild))


async def get_rebuild(read: Read, id_: int) -> Rebuild:
    """One that there is."""
    return Rebuild(**await read.fetchrow(q.get_rebuild, id_))


async def open_rebuild(read: Read) -> Rebuild | None:
    """What is asked for or under way."""
    row = await read.fetchrow(q.open_rebuild)
    return Rebuild(**row) if row else None


async def last_rebuild(read: Read) -> Rebuild | None:
    """The latest, whatever became of it."""
    row = await read.fetchrow(q.last_rebuild)
    return Rebuild(**row) if row else None


async def begin_rebuild(tx: Tx, rebuild: Rebuild, total: int) -> None:
    """From here on every batch writes to the new index too."""
    await tx.execute(q.begin_rebuild, rebuild.id, total)


async def advance_rebuild(tx: Tx, rebuild: Rebuild, done: int, total: int) -> None:
    """For those who watch."""
    await tx.execute(q.advance_rebuild, rebuild.id, done, total)


async def end_rebuild(tx: Tx, rebuild: Rebuild, error: str | None) -> None:
    """Done, or failed with the reason."""
    await tx.execute(q.end_rebuild, rebuild.id, error)
