"""Points and ranks."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from quartet import accounts, orders
from quartet.kernel.errors import StoreUnavailable, invalid
from quartet.leaderboard import store
from quartet.leaderboard.model import Period, Place, PointsEntry, end_of, points, start_of
from quartet.web import trail
from quartet.web.dependencies import Shop

UNKNOWN_NAME = "A shopper"
# The lock's name: one rebuild at a time over all processes.
REBUILD_LOCK = "quartet leaderboard"
BATCH = 500


@dataclass(frozen=True)
class Row:
    """A place as shown publicly."""

    rank: int
    display_name: str
    xp: int


async def settle_order(
    shop: Shop, order_id: str, user_id: UUID, *, left_cents: int, currency: str, confirmed_at: datetime
) -> None:
    """Counts what is left, after refunds, of the money paid for an order, on the boards of its confirmation. Idempotent
    and independent of the order of calls: an order's points only ever decrease."""
    entry = PointsEntry(f"order:{order_id}", user_id, points(left_cents, currency), confirmed_at)
    await store.settle(shop.stores.redis, shop.clock.now(), entry)


async def give(shop: Shop, user_id: UUID, xp: int, event_id: str, *, actor: str) -> bool:
    """Gives points from staff on today's and this week's board, each event once; False: given before. Raises Invalid
    naming `userId`."""
    async with shop.stores.pg.tx() as tx:
        if not await accounts.exists(tx, user_id):
            raise invalid("userId", "is nobody's")
        entry, given = await store.give(tx, event_id, user_id, xp, shop.clock.now())
        if given:
            await trail.record(tx, actor, "leaderboard.give", "user", user_id, after={"xp": xp, "eventId": event_id})
    await shop.step("xp given")
    await store.settle(shop.stores.redis, shop.clock.now(), entry)
    return given


async def forget(shop: Shop, user_id: UUID) -> None:
    """Removes a user from the boards."""
    await store.forget(shop.stores.redis, shop.clock.now(), user_id)


async def rebuild(shop: Shop, *, actor: str) -> dict[Period, int]:
    """Rebuilds today's and this week's board from orders and from what staff gave, beside the live ones, and replaces
    those atomically; returns the number of sources of each. What happens meanwhile is counted on both.

    The orders are read only after new events have begun to go to both boards: whatever an earlier event reports was in
    PostgreSQL by then. Raises StoreUnavailable, and then the live boards are unchanged.
    """
    whose = uuid4().hex
    async with (
        shop.stores.pg.advisory_lock(REBUILD_LOCK),
        trail.attempt(shop, actor, "leaderboard.rebuild", "boards", "all", after={"build": whose}),
    ):
        now = shop.clock.now()
        await store.begin(shop.stores.redis, now, whose)
        await shop.step("boards begun")
        entries = await _entries(shop, start_of("weekly", now))
        made: dict[Period, int] = {}
        for period in store.PERIODS:
            counted = [entry for entry in entries if start_of(period, now) <= entry.at < end_of(period, now)]
            for first in range(0, len(counted), BATCH):
                await store.seed(shop.stores.redis, now, period, counted[first : first + BATCH])
            made[period] = len(counted)
        await shop.step("boards made")
        if not await store.swap(shop.stores.redis, now, whose, made):
            raise StoreUnavailable("redis", "the boards in the making are gone, or a part of them: begin again")
        await shop.step("boards swapped")
    return made


async def _entries(shop: Shop, since: datetime) -> list[PointsEntry]:
    async with shop.stores.pg.read() as read:
        sold = await orders.counted_since(read, since)
        given = await store.grants_since(read, since)
    return given + [
        PointsEntry(f"order:{o.order_id}", o.user_id, points(o.left_cents, o.currency), o.confirmed_at) for o in sold
    ]


async def top(shop: Shop, period: Period, limit: int) -> list[Row]:
    """The top places of today or of this week, with names; a user without a name appears as `A shopper`."""
    places = await store.best(shop.stores.redis, shop.clock.now(), period, limit)
    if not places:
        return []
    async with shop.stores.pg.read() as read:
        names = await accounts.names(read, [place.user_id for place in places])
    return [Row(place.rank, names.get(place.user_id, UNKNOWN_NAME), place.xp) for place in places]


async def place_of(shop: Shop, period: Period, user_id: UUID) -> Place | None:
    """None if the user has no points in that period."""
    return await store.place_of(shop.stores.redis, shop.clock.now(), period, user_id)
