"""The sliding-window rate limiter: one atomic script, the server's clock, constant memory per client; shares of the
limit that a process takes ahead; and the same window in a process's own memory, for while Redis is down."""

import asyncio
import ipaddress
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import ceil
from typing import NamedTuple
from uuid import UUID

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.files import lua
from quartet.stores.redis import Arg, RedisStore

SCRIPT = lua(__file__, "limit.lua")

# Whoever gave a token out may have been so far ahead.
_AHEAD_SECONDS = 3600


class Taken(NamedTuple):
    """What is left: `reset` is the seconds until a request would pass again, or the window is new. `alone`: this
    process has counted without Redis."""

    allowed: bool
    limit: int
    remaining: int
    reset: int
    alone: bool = False


async def take(
    redis: RedisStore, name: str, limit: int, *, window: int = 60, cost: int = 1, now_ms: int | None = None
) -> Taken:
    """Counts `cost` requests of `name` when they fit into `limit` per sliding `window` seconds.

    `cost=0` only looks. `now_ms` is for tests; the server's clock otherwise, since clients' clocks differ.
    """
    return _taken(await redis.run(SCRIPT, [key(name)], [limit, window * 1000, cost, now_ms or ""]), limit)


def key(name: str) -> str:
    """The limiter's key; `name` alone picks the slot."""
    return f"limit:{{{name}}}"


def session_key(user_id: UUID, session_id: UUID) -> str:
    """The revocation mark of a session that has ended; in one hash slot with its user's counts."""
    return f"session:{{{user_id}}}:{session_id}"


def roles_key(user_id: UUID) -> str:
    """The user's roles, if they were changed recently; in the same hash slot."""
    return f"roles:{{{user_id}}}"


def mark_seconds(access_ttl: int) -> int:
    """The TTL of such a mark: as long as any access token that it is about could be valid."""
    return access_ttl + _AHEAD_SECONDS


def said(roles: Iterable[str]) -> str:
    """Roles as they stand there."""
    return ",".join(sorted(roles))


class Gone(Enum):
    """Why a valid token is refused."""

    ENDED = -1
    OTHER_ROLES = -2


async def take_signed(
    redis: RedisStore, kind: str, user_id: UUID, session_id: UUID, limit: int, *, roles: Iterable[str]
) -> Taken | Gone:
    """The same for a signed-in user's requests of one kind, unless the session has ended or the roles have changed."""
    keys = [f"limit:{{{user_id}}}:{kind}", session_key(user_id, session_id), roles_key(user_id)]
    reply = await redis.run(SCRIPT, keys, [limit, 60_000, 1, "", said(roles)])
    return Gone(reply[0]) if reply[0] < 0 else _taken(reply, limit)


def _taken(reply: list[int], limit: int) -> Taken:
    allowed, remaining, reset_ms = reply
    return Taken(bool(allowed), limit, remaining, _seconds(reset_ms))


def _seconds(ms: int) -> int:
    return -(-ms // 1000)


@lru_cache(10_000)  # to read one costs as much as all else that is done to count a request
def address_group(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one, since one customer has all of it."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if ip.version == 6:
        mapped = ip.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((ip, 64), strict=False).network_address)
    return str(ip)


def network_of(address: str) -> str | None:
    """The network of an IP address, enough for its owner to recognise: an IPv4 /24, an IPv6 /48."""
    try:
        ip = ipaddress.ip_address(address_group(address))
    except ValueError:
        return None
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))


@dataclass(slots=True)
class Share:
    """What this process has taken of a name's window, until that ends by the monotonic clock: `left` is not yet used,
    `remaining` is what Redis had left for others. When no more than `low` are left the next one is to be taken;
    `is_asked_for` says that this is being done."""

    name: str
    limit: int
    until: float
    used: int = 0
    left: int = 0
    remaining: int = 0
    low: int = 0
    is_asked_for: bool = False

    def use(self) -> Taken:
        """One request of those that are left."""
        self.used += 1
        self.left -= 1
        return Taken(True, self.limit, self.remaining + self.left, ceil(self.until - time.monotonic()))


class Shares:
    """Takes several of a name's requests at once, so that most of them need no round trip to Redis. All of a share is
    counted when it is taken and used within the same window, so the processes together never allow more than `take`
    would. A share is at most as many as this process has had of the name in this window, or `FEW` for a returning one,
    and a `PART`th of what is left: near the limit it is one, and unused shares of other processes cost a client at most
    that part of the limit for each of them. Before a share is used up the next is taken in the background, or all
    requests would make the round trip."""

    MOST = 10_000
    PART, FEW = 32, 8

    def __init__(self, redis: RedisStore, *, window: int = 60) -> None:
        self._redis, self._window = redis, window
        self._shares: dict[str, Share] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def at_hand(self, name: str) -> Share | None:
        """A share of which one may be used now."""
        share = self._shares.get(name)
        if share is None or not share.left or share.until <= time.monotonic():
            return None
        if share.left <= share.low and not share.is_asked_for:
            share.is_asked_for = True
            task = asyncio.create_task(self._renew(share))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return share

    async def take(self, name: str, limit: int) -> Taken:
        """One request, as `limits.take`; StoreUnavailable as soon as Redis says nothing for a moment."""
        if (share := self.at_hand(name)) is not None:
            return share.use()
        # Whoever does not wait for it leaves what it brings to those who come.
        return await self._redis.hastily(self._take, name, limit)

    async def _take(self, name: str, limit: int) -> Taken:
        share = self._present(name, limit)
        reply = await (self._add(share, 1) if share.is_asked_for else self._add_more(share))
        if reply[0]:
            return share.use()._replace(reset=_seconds(reply[2]))
        return share.use() if share.left and share.until > time.monotonic() else _taken(reply, limit)

    async def _renew(self, share: Share) -> None:
        share.low = 0  # where it fails, those that are left are used up first
        with suppress(StoreUnavailable):
            await self._add_more(share)

    async def _add_more(self, share: Share) -> list[int]:
        most = min(max(share.used, self.FEW), share.remaining // self.PART)
        share.is_asked_for = True
        try:
            return await self._add(share, max(1, most - share.left))
        finally:
            share.is_asked_for = False

    async def _add(self, share: Share, size: int) -> list[int]:
        """Takes so many, else one. Returns the script's reply."""
        began = time.monotonic()
        reply = await self._ask(share, size)
        if not reply[0] and size > 1:
            size = 1
            reply = await self._ask(share, size)
        if reply[0]:
            share.left += size
            share.low = share.left // 2
            share.remaining = reply[1]
            # Never too late: we began before Redis looked at its clock.
            share.until = min(share.until, began + reply[2] / 1000)
        return reply

    async def _ask(self, share: Share, size: int) -> list[int]:
        asked: list[Arg] = [share.limit, self._window * 1000, size, ""]
        reply: list[int] = await self._redis.run(SCRIPT, [key(share.name)], asked)
        return reply

    def _present(self, name: str, limit: int) -> Share:
        share, now = self._shares.get(name), time.monotonic()
        if share is None or share.until <= now:
            self._shares.pop(name, None)
            if len(self._shares) >= self.MOST:
                del self._shares[next(iter(self._shares))]
            share = self._shares[name] = Share(name, limit, now + self._window)
        return share


class Here:
    """The same window in this process's memory, for the names counted last."""

    MOST = 10_000

    def __init__(self) -> None:
        self._windows: dict[str, tuple[float, int, int]] = {}  # the window's number, its count, that of the one before

    def take(self, name: str, limit: int, *, window: int = 60, now: float | None = None) -> Taken:
        """One request, as `limits.take`. `now` in seconds is for tests."""
        slot, elapsed = divmod(time.monotonic() if now is None else now, window)
        last, current, previous = self._windows.pop(name, (slot, 0, 0))
        if last != slot:
            current, previous = 0, current if last == slot - 1 else 0
        used = previous * (window - elapsed) / window + current
        allowed = used + 1 <= limit
        if len(self._windows) >= self.MOST:
            del self._windows[next(iter(self._windows))]
        self._windows[name] = (slot, current + allowed, previous)
        wait = window - elapsed
        if not allowed and current + 1 <= limit:
            wait -= (limit - current - 1) * window / previous
        elif not allowed:  # in the next window, where this one's count fades
            wait += window - (limit - 1) * window / current
        return Taken(allowed, limit, max(0, int(limit - used - allowed)), max(1, ceil(wait)), alone=True)
