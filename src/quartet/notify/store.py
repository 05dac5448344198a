"""E-mails waiting to be sent, in PostgreSQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from quartet.notify.model import Json, Mail
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)

Row = tuple[UUID, str, UUID | None, Json]
Outcome = Literal["sent", "dropped"]


async def keep(tx: Tx, rows: Sequence[Row]) -> None:
    """(event id, kind, user id, args) each; one that is there already stays as it is."""
    if rows:
        await tx.execute(q.keep, *zip(*rows, strict=True))


async def forget_orders(tx: Tx, order_ids: Sequence[UUID]) -> None:
    """What was given up of these orders is not taken up again."""
    await tx.execute(q.forget_orders, order_ids)


async def forget_people(tx: Tx, user_ids: Sequence[UUID]) -> None:
    """Discards what waits for them."""
    if user_ids:
        await tx.execute(q.forget_person, user_ids)


async def claim(tx: Tx, now: datetime, lease_seconds: float, limit: int) -> list[Mail]:
    """Some that are due; invisible to others until the lease ends."""
    return [Mail(**row) for row in await tx.fetch(q.claim, now, lease_seconds, limit)]


async def sent_lately(read: Read, mail: Mail) -> int:
    """How many of its kind went to the same user within an hour before it."""
    count: int = await read.fetchval(q.sent_lately, mail.id)
    return count


async def mark(tx: Tx, outcomes: Mapping[int, Outcome], now: datetime, pipeline: str) -> None:
    """These were sent, or had no recipient: done, removed from the dead letters, and counted as `mails.sent` and
    `mails.dropped`. One statement."""
    await tx.execute(q.mark, *zip(*sorted(outcomes.items()), strict=True), now, pipeline)


async def mark_dead(tx: Tx, mail: Mail, now: datetime) -> None:
    """Makes it a dead letter."""
    await tx.execute(q.mark_dead, mail.id, now)


async def postpone(tx: Tx, mail: Mail, until: datetime) -> None:
    """Later again."""
    await tx.execute(q.postpone, mail.id, until)


async def revive(tx: Tx, ids: Sequence[int]) -> None:
    """Makes dead ones wait again."""
    await tx.execute(q.revive, ids)


async def drop(tx: Tx, id_: int) -> None:
    """Discards a dead one for good."""
    await tx.execute(q.drop, id_)


async def sweep(tx: Tx, now: datetime) -> None:
    """Deletes what was done long ago."""
    await tx.execute(q.sweep, now)


async def waiting(read: Read) -> tuple[int, datetime | None]:
    """How many wait, and since when the oldest does."""
    row = await read.fetchrow(q.waiting)
    return row["waiting"], row["oldest"]
