"""Endpoints and deliveries in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from quartet.hooks.model import EVENTS, Delivery, Endpoint, State
from quartet.kernel.errors import NotFound
from quartet.stores import tallies
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Record, Tx

q = queries(__file__)

_BY_STATE: dict[State | None, str] = {
    None: q.deliveries,
    "delivered": q.deliveries_delivered,
    "pending": q.deliveries_pending,
    "dead": q.deliveries_dead,
}


def _endpoint(row: Record) -> Endpoint:
    return Endpoint(**{**row, "events": tuple(row["events"])})


async def add(tx: Tx, endpoint: Endpoint) -> None:
    """A new one."""
    await tx.execute(
        q.add, endpoint.id, endpoint.url, endpoint.events, endpoint.description, endpoint.salt, endpoint.created_by,
        endpoint.created_at,
    )  # fmt: skip


async def get(read: Read, id_: UUID) -> Endpoint:
    """Raises NotFound."""
    return _found(await read.fetchrow(q.get, id_), id_)


async def lock(tx: Tx, id_: UUID) -> Endpoint:
    """The same, with its row locked until the transaction ends. Raises NotFound."""
    return _found(await tx.fetchrow(q.lock, id_), id_)


def _found(row: Record | None, id_: UUID) -> Endpoint:
    if row is None:
        raise NotFound(f"there is no webhook endpoint {id_}")
    return _endpoint(row)


async def page(read: Read, before: UUID | None, limit: int) -> list[Endpoint]:
    """The newest first."""
    return [_endpoint(row) for row in await read.fetch(q.page, before, limit)]


async def save(tx: Tx, e: Endpoint) -> None:
    """What is known of it now; its row is locked."""
    await tx.execute(
        q.save, e.id, e.url, e.events, e.description, e.salt, e.old_salt, e.old_until, e.enabled, e.disabled_reason,
        e.failures, e.opened, e.open_until, e.failing_since, e.updated_at,
    )  # fmt: skip


async def remove(tx: Tx, id_: UUID) -> None:
    """Hides its deliveries, and `sweep` deletes them; its row is locked."""
    await tx.execute(q.remove, id_)


async def keep(tx: Tx, outbox_ids: Sequence[int]) -> None:
    """Records deliveries of these events, which are still in the outbox, to all endpoints that listen."""
    await tx.execute(q.keep, outbox_ids, EVENTS)


async def put(tx: Tx, endpoint_id: UUID, event_id: UUID, topic: str, now: datetime) -> Delivery:
    """One by hand, about nothing."""
    return Delivery(**await tx.fetchrow(q.put, endpoint_id, event_id, topic, str(event_id), {}, now))


async def claim(tx: Tx, now: datetime, *, each: int, limit: int, lease_seconds: float) -> list[Delivery]:
    """Some that are due, at most `each` of one endpoint; invisible to others until the lease ends."""
    await tx.execute(q.take_turns)
    return [Delivery(**row) for row in await tx.fetch(q.claim, now, each, limit, lease_seconds)]


async def finish(tx: Tx, d: Delivery) -> bool:
    """Records the outcome of an attempt; False: the lease is another's by now, or it is gone."""
    found = await tx.fetchval(
        q.finish, d.id, d.attempts, d.state, d.not_before, d.status, d.answer, d.error, d.done_at, d.payload
    )  # fmt: skip
    return found is not None


async def deliveries(read: Read, endpoint_id: UUID, *, before: int, state: State | None, limit: int) -> list[Delivery]:
    """An endpoint's, the newest first."""
    return [Delivery(**row) for row in await read.fetch(_BY_STATE[state], endpoint_id, before, limit)]


async def delivery(read: Read, endpoint_id: UUID, id_: int) -> Delivery:
    """Raises NotFound."""
    row = await read.fetchrow(q.delivery, endpoint_id, id_)
    if row is None:
        raise NotFound(f"there is no delivery {id_} to this endpoint")
    return Delivery(**row)


async def again(tx: Tx, endpoint_id: UUID, id_: int, now: datetime) -> Delivery | None:
    """Makes it wait anew; None while it is pending."""
    row = await tx.fetchrow(q.again, endpoint_id, id_, now)
    return Delivery(**row) if row else None


async def sweep(tx: Tx, now: datetime) -> None:
    """Deletes deliveries of removed endpoints and those done long ago, and gives up what is too late, counted as
    `webhooks.dead`."""
    await tx.execute(q.sweep_removed)
    if dead := await tx.fetchval(q.expire, now):
        await tallies.count(tx, "webhooks.dead", dead)
    await tx.execute(q.sweep, now)


async def waiting(read: Read) -> tuple[int, datetime | None]:
    """How many deliveries wait, and since when the oldest of their events happened."""
    row = await read.fetchrow(q.waiting)
    return row["waiting"], row["oldest"]


async def breakers(read: Read, now: datetime) -> dict[str, int]:
    """How many endpoints are in which state."""
    return {row["breaker"]: row["endpoints"] for row in await read.fetch(q.breakers, now)}


async def forget_orders(tx: Tx, order_ids: Sequence[UUID]) -> None:
    """No delivery about these names a guest's address or its user any more."""
    await tx.execute(q.forget_orders, order_ids)
