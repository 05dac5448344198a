"""Points and places."""

from dataclasses import dataclass
from uuid import UUID

from quartet import accounts
from quartet.kernel.clock import Clock
from quartet.kernel.errors import invalid
from quartet.leaderboard import store
from quartet.leaderboard.model import Period, Place
from quartet.stores.redis import RedisStore
from quartet.web.dependencies import Shop

NAMELESS = "A shopper"


@dataclass(frozen=True)
class Row:
    """A place as everybody may see it."""

    rank: int
    display_name: str
    xp: int


async def award(redis: RedisStore, clock: Clock, user_id: UUID, xp: int, event_id: UUID | str) -> bool:
    """Gives points on today's and this week's board, once for each event; 0 points do nothing.

    False: counted before."""
    if xp <= 0:
        return False
    return await store.award(redis, clock.now(), user_id, xp, str(event_id))


async def give(shop: Shop, user_id: UUID, xp: int, event_id: str) -> bool:
    """The same for somebody who must exist. Raises Invalid naming `userId`."""
    async with shop.stores.pg.read() as read:
        if not await accounts.exists(read, user_id):
            raise invalid("userId", "is nobody's")
    return await award(shop.stores.redis, shop.clock, user_id, xp, event_id)


async def top(shop: Shop, period: Period, limit: int) -> list[Row]:
    """The best of today or of this week, with names; who has none appears as `A shopper`."""
    places = await store.best(shop.stores.redis, shop.clock.now(), period, limit)
    if not places:
        return []
    async with shop.stores.pg.read() as read:
        names = await accounts.names(read, [place.user_id for place in places])
    return [Row(place.rank, names.get(place.user_id, NAMELESS), place.xp) for place in places]


async def place_of(shop: Shop, period: Period, user_id: UUID) -> Place | None:
    """None when the user has no points in that time."""
    return await store.place_of(shop.stores.redis, shop.clock.now(), period, user_id)
