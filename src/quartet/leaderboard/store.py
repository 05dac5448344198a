"""Leaderboards in Redis, a sorted set per day and per week, all in one hash slot; points from staff in PostgreSQL."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from quartet.leaderboard.model import Period, Place, PointsEntry, board, end_of
from quartet.stores.files import lua, queries
from quartet.stores.postgres import Read, Tx
from quartet.stores.redis import Command, RedisStore

q = queries(__file__)
SETTLE = lua(__file__, "settle.lua")
SWAP = lua(__file__, "swap.lua")
TOP = lua(__file__, "top.lua")

PERIODS: tuple[Period, ...] = ("daily", "weekly")
# How long after its end a board can still be read, and points on it be corrected.
KEPT: dict[Period, timedelta] = {"daily": timedelta(days=7), "weekly": timedelta(days=28)}
BUILDING = "leaderboard:{xp}:building"
# Erased users, by when they were: an event read before the erasure must not put them on a board again.
ERASED_USERS = "leaderboard:{xp}:gone"
# TTL of a rebuild that never finished.
BUILDING_SECONDS = 3600


async def settle(redis: RedisStore, now: datetime, entry: PointsEntry) -> None:
    """Sets what a source is worth, on the boards of its day and week that still exist."""
    if periods := [p for p in PERIODS if _seconds_left(p, entry.at, now) > 0]:
        await _settle(redis, now, periods, entry.at, [entry])


async def seed(redis: RedisStore, now: datetime, period: Period, entries: Sequence[PointsEntry]) -> None:
    """The same for many sources, on the new board of this period that is being built."""
    if entries:
        await _settle(redis, now, [period], now, entries, which="next")


async def _settle(
    redis: RedisStore,
    now: datetime,
    periods: Sequence[Period],
    at: datetime,
    entries: Sequence[PointsEntry],
    *,
    which: Literal["live", "next"] = "live",
) -> None:
    seconds = [_seconds_left(period, at, now) for period in periods]
    said = [part for entry in entries for part in (entry.source, str(entry.user_id), entry.points)]
    await redis.run(SETTLE, [ERASED_USERS, *_keys(periods, at)], [which, *seconds, *said])


async def begin(redis: RedisStore, now: datetime, whose: str) -> None:
    """From here on every change to the current boards goes to the new ones as well."""
    making = [name for period in PERIODS for name in _names(period, now)[2:]]
    await redis.pipeline([("DEL", *making), ("SET", BUILDING, whose, "EX", BUILDING_SECONDS)])


async def swap(redis: RedisStore, now: datetime, whose: str, made: Mapping[Period, int]) -> bool:
    """Replaces the live boards with the new ones, each `made` of so many sources. False: another rebuild has begun
    since, or a Redis server has taken over that lacks some of the sources."""
    return bool(await redis.run(SWAP, _keys(PERIODS, now), [whose, *(made[period] for period in PERIODS)]))


async def forget(redis: RedisStore, now: datetime, user_id: UUID) -> None:
    """Removes a user from every board that still exists, for good: what is settled later leaves the user out."""
    days = [now - timedelta(days=n) for n in range(KEPT["weekly"].days + 8)]
    names = {name for at in days for period in PERIODS for name in _names(period, at)[::2]}
    marks: list[Command] = [
        ("ZADD", ERASED_USERS, now.timestamp(), str(user_id)),
        ("ZREMRANGEBYSCORE", ERASED_USERS, "-inf", days[-1].timestamp()),
        ("EXPIRE", ERASED_USERS, int((now - days[-1]).total_seconds())),
    ]
    await redis.pipeline([*marks, *(("ZREM", name, str(user_id)) for name in sorted(names))])


async def best(redis: RedisStore, at: datetime, period: Period, limit: int) -> list[Place]:
    """The first `limit` places."""
    return _places(await redis.run(TOP, [key(period, at)], ["best", limit]))


async def place_of(redis: RedisStore, at: datetime, period: Period, user_id: UUID) -> Place | None:
    """None if the user is not on the board."""
    places = _places(await redis.run(TOP, [key(period, at)], ["of", str(user_id)]))
    return places[0] if places else None


def key(period: Period, at: datetime) -> str:
    """`leaderboard:{xp}:daily:2026-11-23`, `leaderboard:{xp}:weekly:2026-W48`."""
    return f"leaderboard:{{xp}}:{period}:{board(period, at)}"


def _names(period: Period, at: datetime) -> tuple[str, str, str, str]:
    """The keys of a board and its sources, and of both while they are being rebuilt."""
    name = key(period, at)
    return name, f"{name}:sources", f"{name}:next", f"{name}:next:sources"


def _keys(periods: Iterable[Period], at: datetime) -> list[str]:
    return [BUILDING, *(name for period in periods for name in _names(period, at))]


def _seconds_left(period: Period, at: datetime, now: datetime) -> int:
    """The board's TTL, by the shop's own clock."""
    return int((end_of(period, at) + KEPT[period] - now).total_seconds())


def _places(reply: Iterable[Any]) -> list[Place]:
    parts = iter(reply)
    return [
        Place(int(rank), UUID(user), int(float(points))) for rank, user, points in zip(parts, parts, parts, strict=True)
    ]


async def give(tx: Tx, event_id: str, user_id: UUID, xp: int, at: datetime) -> tuple[PointsEntry, bool]:
    """What staff gave for this event, and whether it was given by this call."""
    given = await tx.fetchval(q.give, event_id, user_id, xp, at) is not None
    row = await tx.fetchrow(q.grant, event_id)
    return _granted(event_id, row["user_id"], row["xp"], row["at"]), given


async def grants_since(read: Read, at: datetime) -> list[PointsEntry]:
    """All that staff gave since then, except to erased users."""
    return [_granted(*row) for row in await read.fetch(q.grants_since, at)]


def _granted(event_id: str, user_id: UUID, xp: int, at: datetime) -> PointsEntry:
    return PointsEntry(f"grant:{event_id}", user_id, xp, at)
