"""Boards in Redis: a sorted set a day and one a week, all in one slot, since one event counts on both."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet.leaderboard.model import Period, Place, board
from quartet.stores.files import lua
from quartet.stores.redis import RedisStore

AWARD = lua(__file__, "award.lua")
TOP = lua(__file__, "top.lua")

_DAY = 86_400
# A finished board can still be looked at for a while; an event is remembered longer than the outbox ever retries.
DAILY_SECONDS = 8 * _DAY
WEEKLY_SECONDS = 35 * _DAY
EVENT_SECONDS = 30 * _DAY


async def award(redis: RedisStore, at: datetime, user_id: UUID, xp: int, event_id: str) -> bool:
    """False when the event was counted before."""
    keys = [f"leaderboard:{{xp}}:event:{event_id}", key("daily", at), key("weekly", at)]
    args: list[str | int] = [str(user_id), xp, EVENT_SECONDS, DAILY_SECONDS, WEEKLY_SECONDS]
    return bool(await redis.run(AWARD, keys, args))


async def best(redis: RedisStore, at: datetime, period: Period, limit: int) -> list[Place]:
    """The first `limit` places."""
    return _places(await redis.run(TOP, [key(period, at)], ["best", limit]))


async def place_of(redis: RedisStore, at: datetime, period: Period, user_id: UUID) -> Place | None:
    """None when the user is not on the board."""
    places = _places(await redis.run(TOP, [key(period, at)], ["of", str(user_id)]))
    return places[0] if places else None


def key(period: Period, at: datetime) -> str:
    """`leaderboard:{xp}:daily:2026-11-23`, `leaderboard:{xp}:weekly:2026-W48`."""
    return f"leaderboard:{{xp}}:{period}:{board(period, at)}"


def _places(reply: Iterable[Any]) -> list[Place]:
    parts = iter(reply)
    return [
        Place(int(rank), UUID(user), int(float(points))) for rank, user, points in zip(parts, parts, parts, strict=True)
    ]
