"""Dead letters: what a pipeline could not carry, with the reason, until somebody replays or drops it."""

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
class Letter:
    """Something that could not be carried, and why. `key` is the pipeline's own name for it."""

    id: int
    pipeline: str
    key: str
    payload: Json
    reason: str
    created_at: datetime


async def bury(tx: Tx, pipeline: str, letters: Sequence[tuple[str, Json, str]]) -> None:
    """(key, payload, reason) each; the same key again replaces what was there."""
    if letters:
        keys, payloads, reasons = zip(*letters, strict=True)
        await tx.execute(q.bury, pipeline, keys, payloads, reasons)


async def exhume(tx: Tx, pipeline: str, keys: Sequence[str]) -> None:
    """These are no dead letters any more."""
    await tx.execute(q.exhume, pipeline, keys)


async def newest(read: Read, limit: int) -> list[Letter]:
    """The newest."""
    return [Letter(**row) for row in await read.fetch(q.dead_letters, limit)]


async def counts(read: Read) -> dict[str, int]:
    """By pipeline."""
    return {row["pipeline"]: row["letters"] for row in await read.fetch(q.dead_letter_counts)}


async def oldest(read: Read, pipeline: str, limit: int) -> list[Letter]:
    """The oldest of one pipeline."""
    return [Letter(**row) for row in await read.fetch(q.take_letters, pipeline, limit)]


async def drop(tx: Tx, id_: int) -> Letter | None:
    """Gives one up for good; None when there is no such letter."""
    row = await tx.fetchrow(q.drop_letter, id_)
    return Letter(**row) if row else None


async def forget_person(tx: Tx, user_id: UUID, order_ids: Sequence[UUID]) -> None:
    """What could not be carried about somebody who is gone is given up, and what was about these orders of theirs."""
    await tx.execute(q.forget_letters, str(user_id), order_ids)
