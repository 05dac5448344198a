"""Dead letters: items that a pipeline could not process, with the reason, until somebody replays or drops them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

Json = dict[str, Any]

q = queries(__file__)


@dataclass(frozen=True)
class DeadLetter:
    """An item that could not be processed, and why. `key` identifies it within its pipeline."""

    id: int
    pipeline: str
    key: str
    payload: Json
    reason: str
    created_at: datetime


async def add_dead_letters(tx: Tx, pipeline: str, letters: Sequence[tuple[str, Json, str]]) -> None:
    """Stores dead letters of (key, payload, reason); one with the same key is replaced."""
    if letters:
        keys, payloads, reasons = zip(*letters, strict=True)
        await tx.execute(q.add_dead_letters, pipeline, keys, payloads, reasons)


async def delete_dead_letters(tx: Tx, pipeline: str, keys: Sequence[str]) -> None:
    """Deletes the dead letters of these keys."""
    await tx.execute(q.delete_dead_letters, pipeline, keys)


async def newest(read: Read, limit: int) -> list[DeadLetter]:
    """The newest of all pipelines."""
    return [DeadLetter(**row) for row in await read.fetch(q.dead_letters, limit)]


async def counts(read: Read) -> dict[str, int]:
    """How many there are, by pipeline."""
    return {row["pipeline"]: row["letters"] for row in await read.fetch(q.dead_letter_counts)}


async def oldest(read: Read, pipeline: str, limit: int) -> list[DeadLetter]:
    """The oldest of one pipeline, locked until the transaction ends."""
    return [DeadLetter(**row) for row in await read.fetch(q.oldest_dead_letters, pipeline, limit)]


async def drop(tx: Tx, id_: int) -> DeadLetter | None:
    """Deletes one and returns it; None if there is no such letter."""
    row = await tx.fetchrow(q.drop_dead_letter, id_)
    return DeadLetter(**row) if row else None


async def forget_person(tx: Tx, user_id: UUID, order_ids: Sequence[UUID]) -> None:
    """Deletes dead letters about an erased person, and about these orders of theirs."""
    await tx.execute(q.forget_dead_letters, str(user_id), order_ids)
