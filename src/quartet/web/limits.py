"""The sliding-window rate limiter: an atomic Lua script with Redis' clock and constant memory per client; shares of a
limit, by which a process counts several requests in advance; and the same window in process memory, for while Redis is
down."""

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

# How far the clock of the process that issued a token may have been ahead.
_AHEAD_SECONDS = 3600


class Taken(NamedTuple):
    """The result of counting a request. `remaining`: how many more are allowed; `reset`: seconds until the window ends
    or, if the request was refused, until one will be allowed. `is_local`: counted in this process, without Redis."""

    allowed: bool
    limit: int
    remaining: int
    reset: int
    is_local: bool = False


async def take(redis: RedisStore, name: str, limit: int, *, window: int = 60, now_ms: int | None = None) -> Taken:
    """Counts a request of `name` if it fits into `limit` per sliding window of `window` seconds.

    `now_ms` is for tests; else Redis' clock is used, since processes' clocks differ. Raises StoreUnavailable.
    """
    return _taken(await redis.run(SCRIPT, [key(name)], [limit, window * 1000, 1, now_ms or ""]), limit)


def key(name: str) -> str:
    """The limiter's key in Redis; the hash tag is `name`."""
    return f"limit:{{{name}}}"


def session_key(user_id: UUID, session_id: UUID) -> str:
    """The key that marks a session as ended; in the same hash slot as its user's counts."""
    return f"session:{{{user_id}}}:{session_id}"


def roles_key(user_id: UUID) -> str:
    """The key of the user's roles, set if they were changed recently; in the same hash slot."""
    return f"roles:{{{user_id}}}"


def marker_ttl(access_ttl: int) -> int:
    """The TTL of these two keys: as long as any older access token can be valid."""
    return access_ttl + _AHEAD_SECONDS


def joined_roles(roles: Iterable[str]) -> str:
    """Roles as stored under `roles_key`: sorted, separated by commas."""
    return ",".join(sorted(roles))


class Revoked(Enum):
    """Why a valid token is refused."""

    ENDED = -1
    OTHER_ROLES = -2


async def take_for_user(
    redis: RedisStore, kind: str, user_id: UUID, session_id: UUID, limit: int, *, roles: Iterable[str]
) -> Taken | Revoked:
    """Counts one request of this `kind` by a signed-in user, per window of a minute; Revoked, and not counted, if the
    session has ended or the roles have changed. Raises StoreUnavailable."""
    keys = [f"limit:{{{user_id}}}:{kind}", session_key(user_id, session_id), roles_key(user_id)]
    reply = await redis.run(SCRIPT, keys, [limit, 60_000, 1, "", joined_roles(roles)])
    return Revoked(reply[0]) if reply[0] < 0 else _taken(reply, limit)


def _taken(reply: list[int], limit: int) -> Taken:
    allowed, remaining, reset_ms = reply
    return Taken(bool(allowed), limit, remaining, _seconds(reset_ms))


def _seconds(ms: int) -> int:
    return -(-ms // 1000)


@lru_cache(10_000)  # parsing an address costs as much as the rest of counting a request
def address_group(address: str) -> str:
    """An IPv4 address, or the /64 network of an IPv6 one, since a customer gets a whole /64; else "unknown"."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if ip.version == 6:
        mapped = ip.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((ip, 64), strict=False).network_address)
    return str(ip)


def network_of(address: str) -> str | None:
    """The network of an IP address, enough for its owner to recognise: an IPv4 /24, an IPv6 /48; None if it is not an
    IP address."""
    try:
        ip = ipaddress.ip_address(address_group(address))
    except ValueError:
        return None
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))


@dataclass(slots=True)
class Share:
    """Requests of a name that this process has counted in Redis in advance. `until`: when the window ends, by the
    monotonic clock; `used`: how many this process has used in it; `left`: how many are not yet used; `remaining`: how
    many Redis had left beside them. At `low` or fewer, the next share is fetched; `is_fetching`: this is under way."""

    name: str
    limit: int
    until: float
    used: int = 0
    left: int = 0
    remaining: int = 0
    low: int = 0
    is_fetching: bool = False

    def use(self) -> Taken:
        """Uses one of those that are left."""
        self.used += 1
        self.left -= 1
        return Taken(True, self.limit, self.remaining + self.left, ceil(self.until - time.monotonic()))


class Shares:
    """Counts several requests of a name in one call to Redis (a share), so that most requests need no round trip. A
    share is counted in full when it is taken, and used within the same window only, so all processes together never
    allow more than `take` would.

    A share is at most as large as the number of requests that this process has had of the name in this window (or
    `FEW`, from the second request on), and at most 1/`PART` of what was left when it last asked: near the limit it is
    one, and the unused share of each other process costs a client at most that part of the limit. The next share is
    fetched in the background before one is used up, else all requests would wait for the round trip then."""

    MOST = 10_000
    PART, FEW = 32, 8

    def __init__(self, redis: RedisStore, *, window: int = 60) -> None:
        self._redis, self._window = redis, window
        self._shares: dict[str, Share] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def at_hand(self, name: str) -> Share | None:
        """A share with requests left, if there is one; fetches the next in the background if they are few."""
        share = self._shares.get(name)
        if share is None or not share.left or share.until <= time.monotonic():
            return None
        if share.left <= share.low and not share.is_fetching:
            share.is_fetching = True
            task = asyncio.create_task(self._renew(share))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return share

    async def take(self, name: str, limit: int) -> Taken:
        """Counts one request, as `limits.take`. Raises StoreUnavailable as soon as Redis is silent."""
        if (share := self.at_hand(name)) is not None:
            return share.use()
        # A caller may stop waiting, but the call goes on, and later requests use the share that it brings.
        return await self._redis.fail_fast(self._take, name, limit)

    async def _take(self, name: str, limit: int) -> Taken:
        share = self._present(name, limit)
        reply = await (self._add(share, 1) if share.is_fetching else self._add_more(share))
        if reply[0]:
            return share.use()._replace(reset=_seconds(reply[2]))
        return share.use() if share.left and share.until > time.monotonic() else _taken(reply, limit)

    async def _renew(self, share: Share) -> None:
        share.low = 0  # if it fails, it is not tried again before those left are used up
        with suppress(StoreUnavailable):
            await self._add_more(share)

    async def _add_more(self, share: Share) -> list[int]:
        most = min(max(share.used, self.FEW), share.remaining // self.PART)
        share.is_fetching = True
        try:
            return await self._add(share, max(1, most - share.left))
        finally:
            share.is_fetching = False

    async def _add(self, share: Share, size: int) -> list[int]:
        """Takes `size` requests, or one if so many are not left. Returns the script's reply."""
        began = time.monotonic()
        reply = await self._ask(share, size)
        if not reply[0] and size > 1:
            size = 1
            reply = await self._ask(share, size)
        if reply[0]:
            share.left += size
            share.low = share.left // 2
            share.remaining = reply[1]
            # Never later than by Redis' clock, which was read after `began`.
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


class LocalWindow:
    """The same window in this process's memory, for the `MOST` names used last."""

    MOST = 10_000

    def __init__(self) -> None:
        self._windows: dict[str, tuple[float, int, int]] = {}  # number of the window, its count, the previous count

    def take(self, name: str, limit: int, *, window: int = 60, now: float | None = None) -> Taken:
        """Counts one request, as `limits.take`. `now` in seconds is for tests."""
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
        elif not allowed:  # not before the next window, in which this one's count decays
            wait += window - (limit - 1) * window / current
        return Taken(allowed, limit, max(0, int(limit - used - allowed)), max(1, ceil(wait)), is_local=True)
