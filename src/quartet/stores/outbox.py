"""The transactional outbox: events are written in the transaction that makes them true, and delivered in order per key
by one relay at a time. Keys are divided among `PARTS`, so that several relays can work side by side.

A relay reads (`due`), delivers with no transaction open, and records the outcome (`forget`, `postpone`, `fail`). Killed
in between, it or another delivers the same events again: consumers recognise an event by its id.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)

PARTS = 4


@dataclass(frozen=True)
class Event:
    """Something that happened. `event_id` is what consumers remember to count it once."""

    id: int
    event_id: UUID
    topic: str
    key: str
    payload: dict[str, Any]
    attempts: int
    created_at: datetime


async def emit(tx: Tx, topic: str, key: str, payload: dict[str, Any]) -> None:
    """Writes an event into the transaction that makes it true."""
    await tx.execute(q.emit, topic, key, payload)


async def due(
    read: Read,
    limit: int,
    parts: Collection[int] = range(PARTS),
    *,
    topics: Collection[str],
    slow: Collection[str] = (),
    most: int = 0,
) -> list[Event]:
    """The oldest events of these parts that may be tried now, each key's in their order: `limit`, or `most` of `limit`
    keys, of which no more than `limit` are of the `slow` topics. Only of these `topics`, as if there were no others."""
    rows = await read.fetch(q.due, limit, list(parts), PARTS, list(slow), most or limit, list(topics))
    return [Event(**row) for row in rows]


async def forget(tx: Tx, ids: Sequence[int]) -> None:
    """They have been delivered."""
    await tx.execute(q.forget, ids)


async def postpone(tx: Tx, ids: Sequence[int], seconds: float) -> None:
    """Later again, through no fault of theirs."""
    await tx.execute(q.postpone, ids, seconds)


async def fail(tx: Tx, waits: Mapping[int, float]) -> None:
    """Later again, one attempt more: the seconds by event's id."""
    await tx.execute(q.fail, list(waits), list(waits.values()))


async def put_back(
    tx: Tx, event_id: UUID, topic: str, key: str, payload: dict[str, Any], *, created_at: datetime | None = None
) -> None:
    """Into the outbox again under its own `event_id`, as of when it happened."""
    await tx.execute(q.put_back, event_id, topic, key, payload, created_at)


async def depth(read: Read) -> tuple[int, datetime | None]:
    """How many events wait, and since when the oldest does."""
    row = await read.fetchrow(q.depth)
    return row["pending"], row["oldest"]


async def depth_by_topic(read: Read) -> dict[str, tuple[int, datetime]]:
    """The same of each topic of which any waits."""
    return {row["topic"]: (row["pending"], row["oldest"]) for row in await read.fetch(q.depth_by_topic)}


async def payloads(tx: Tx, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """By event's id, as they are now, until the transaction ends: an address may have been taken out since."""
    return {row["id"]: row["payload"] for row in await tx.fetch(q.payloads, ids)} if ids else {}


async def forget_orders(tx: Tx, order_ids: Sequence[UUID]) -> None:
    """No event of these that waits names a guest's address or its user any more."""
    await tx.execute(q.forget_orders, order_ids)
