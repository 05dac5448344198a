"""Lockout after too many wrong passwords: per account, existing or not, and per client IP address."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from quartet.accounts.model import TooManyAttempts
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.stores import Stores
from quartet.stores.files import lua
from quartet.web.limits import address_group

SCRIPT = lua(__file__, "lockout.lua")

FIRST_WAIT = 60
LONGEST_WAIT = 900
# Seconds in which a full bucket drains: one of an account's ten wrong passwords is forgotten every 36 minutes.
DRAIN = 6 * 3600

# After Redis failed, it is asked again only this much later: sign-ins hold a hasher while they wait for it.
_REST_SECONDS = 1.0
_MOST_KEPT = 10_000


@dataclass(frozen=True)
class Buckets:
    """The buckets in which a try is counted: keys and limits of the account's and, if the IP address is known, the
    address's."""

    keys: tuple[str, ...]
    limits: tuple[int, ...]


@dataclass(frozen=True)
class CountedTry:
    """A counted try; `locked_until` says until when it locked each bucket, in case the password is wrong."""

    buckets: Buckets
    locked_until: tuple[int, ...]


def buckets_of(settings: Settings, email: str, address: str) -> Buckets:
    """`email` in the form by which accounts are found, `address` the client's IP address, "" if unknown."""
    account, network = settings.limit_sign_in_failures, settings.limit_address_failures
    if not address:
        return Buckets((_key("account", email),), (account,))
    return Buckets((_key("account", email), _key("address", address_group(address))), (account, network))


def _key(kind: str, name: str) -> str:
    """Hashed, so that the keys in Redis do not reveal the customers' addresses. One hash slot, since one script reads
    both."""
    return f"lockout:{{sign-in}}:{kind}:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


async def check(stores: Stores, buckets: Buckets, *, now_ms: int | None = None) -> None:
    """Raises TooManyAttempts while the account or the IP address is locked."""
    await _run(stores, "look", buckets, now_ms)


async def count_try(stores: Stores, buckets: Buckets, *, now_ms: int | None = None) -> CountedTry:
    """Counts a try before its password is checked. Raises TooManyAttempts, and then does not count it."""
    return CountedTry(buckets, tuple(await _run(stores, "try", buckets, now_ms)))


async def record_success(stores: Stores, tried: CountedTry, *, now_ms: int | None = None) -> None:
    """The password was right: empties the account's bucket, and restores the IP address's to its state before the
    try."""
    await _run(stores, "right", tried.buckets, now_ms, tried.locked_until)


async def forget(stores: Stores, settings: Settings, email: str) -> None:
    """Unlocks an account whose owner has proved ownership in another way."""
    await record_success(stores, CountedTry(buckets_of(settings, email, ""), ()))


async def _run(
    stores: Stores, what: str, buckets: Buckets, now_ms: int | None, locked_until: tuple[int, ...] = ()
) -> list[int]:
    local = stores.singleton(_LocalLockout)
    if time.monotonic() < local.rests_until:
        return local.run(what, buckets, locked_until)
    waits = (FIRST_WAIT * 1000, LONGEST_WAIT * 1000, DRAIN * 1000)
    try:
        wait, *until = await stores.redis.run(
            SCRIPT, buckets.keys, [what, now_ms or "", *waits, *buckets.limits, *locked_until]
        )
    except StoreUnavailable:
        local.rests_until = time.monotonic() + _REST_SECONDS
        return local.run(what, buckets, locked_until)
    if wait:
        raise TooManyAttempts(retry_after=-(-wait // 1000))
    return list(until)


class _LocalLockout:
    """This process's own, stricter limit while Redis is down: from half the number of failures on, every further try
    waits the longest. It is lost when the process ends, and drops the oldest entries when it holds too many."""

    def __init__(self) -> None:
        self.rests_until = 0.0
        self._failures: dict[str, tuple[int, float]] = {}

    def run(self, what: str, buckets: Buckets, locked_until: tuple[int, ...]) -> list[int]:
        if what == "right":
            self._failures.pop(buckets.keys[0], None)
            for key in buckets.keys[1:]:
                count, since = self._failures.get(key, (0, 0.0))
                self._failures[key] = (max(0, count - 1), since)
            return []
        wait = max(self._waits(buckets))
        if wait > 0:
            raise TooManyAttempts(retry_after=int(wait) + 1)
        if what == "try":
            for key in buckets.keys:
                self._add(key)
        return list(locked_until)

    def _waits(self, buckets: Buckets) -> Iterator[float]:
        for key, limit in zip(buckets.keys, buckets.limits, strict=True):
            count, since = self._failures.get(key, (0, 0.0))
            left = since + LONGEST_WAIT - time.monotonic()
            if left <= 0:
                self._failures.pop(key, None)
            yield left if count >= max(1, limit // 2) else 0

    def _add(self, key: str) -> None:
        count, _ = self._failures.pop(key, (0, 0.0))
        if len(self._failures) >= _MOST_KEPT:
            del self._failures[next(iter(self._failures))]
        self._failures[key] = (count + 1, time.monotonic())
