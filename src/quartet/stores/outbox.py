"""The transactional outbox: events are written in the same transaction as the change that they report, and delivered in
order per key. Keys are divided among `PARTS` partitions, each delivered by one relay at a time, so that several relays
can work in parallel.

A relay reads events (`due`), delivers them with no transaction open, and records the outcome (`delete`, `postpone`,
`fail`). If it is killed in between, the same events are delivered again: consumers detect duplicates by `event_id`.
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
    """An event. `event_id` identifies it to consumers, which process it once; `attempts`: how often it was tried."""

    id: int
    event_id: UUID
    topic: str
    key: str
    payload: dict[str, Any]
    attempts: int
    created_at: datetime


async def emit(tx: Tx, topic: str, key: str, payload: dict[str, Any]) -> None:
    """Writes an event, in the transaction of the change that it reports."""
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
    """The oldest events of these partitions and topics that are due, in order per key: at most `limit`, or, with
    `most`, so many of at most `limit` keys, including at most `limit` events of the `slow` topics. Events of other
    topics are ignored, and hold nothing up."""
    rows = await read.fetch(q.due, limit, list(parts), PARTS, list(slow), most or limit, list(topics))
    return [Event(**row) for row in rows]


async def delete(tx: Tx, ids: Sequence[int]) -> None:
    """Deletes events that have been delivered."""
    await tx.execute(q.delete, ids)


async def postpone(tx: Tx, ids: Sequence[int], seconds: float) -> None:
    """Retries them after so many seconds, for a failure that was not theirs: it does not count as an attempt."""
    await tx.execute(q.postpone, ids, seconds)


async def fail(tx: Tx, waits: Mapping[int, float]) -> None:
    """Counts a failed attempt of each event, to be retried after the given seconds (by the event's id)."""
    await tx.execute(q.fail, list(waits), list(waits.values()))


async def requeue(
    tx: Tx, event_id: UUID, topic: str, key: str, payload: dict[str, Any], *, created_at: datetime | None = None
) -> None:
    """Writes an event again with the same `event_id`, and its original time if `created_at` is given."""
    await tx.execute(q.requeue, event_id, topic, key, payload, created_at)


async def depth(read: Read) -> tuple[int, datetime | None]:
    """The number of events in the outbox, and when the oldest was written."""
    row = await read.fetchrow(q.depth)
    return row["pending"], row["oldest"]


async def depth_by_topic(read: Read) -> dict[str, tuple[int, datetime]]:
    """The same for each topic that has any."""
    return {row["topic"]: (row["pending"], row["oldest"]) for row in await read.fetch(q.depth_by_topic)}


async def payloads(tx: Tx, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The present payloads by the event's id, locked until the transaction ends: erasure may have removed an e-mail
    address since the event was read."""
    return {row["id"]: row["payload"] for row in await tx.fetch(q.payloads, ids)} if ids else {}


async def forget_orders(tx: Tx, order_ids: Sequence[UUID]) -> None:
    """Removes the guest's e-mail address and the user's id from the waiting events of these orders."""
    await tx.execute(q.forget_orders, order_ids)
