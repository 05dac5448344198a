"""argon2id in threads of its own, behind a queue that says no: 37 ms of CPU each would starve everything else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from typing import TypeVar
from weakref import WeakKeyDictionary

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from quartet.accounts.model import normal_password
from quartet.kernel.errors import TooManyRequests
from quartet.kernel.settings import Settings

T = TypeVar("T")

# OWASP's Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
_ARGON2 = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class Busy(TooManyRequests):
    """More people are signing in than passwords can be checked. Wait for `Retry-After` seconds."""

    slug, title = "busy", "Too many people are signing in"


class Turns:
    """`hashers` at a time, at most `waiting` behind them."""

    def __init__(self, hashers: int, waiting: int) -> None:
        self._threads = ThreadPoolExecutor(hashers, "argon2")
        self._free = asyncio.Semaphore(hashers)
        self._room = hashers + waiting

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a thread to be free. Raises Busy when too many wait already."""
        if self._room == 0:
            raise Busy(retry_after=2)
        self._room -= 1
        try:
            async with self._free:
                yield
        finally:
            self._room += 1

    async def run(self, work: Callable[[], T]) -> T:
        """In one of the threads; hold a turn."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[int, int], Turns]] = WeakKeyDictionary()


def turns(settings: Settings) -> Turns:
    """The process's queue, made at first use."""
    mine = _turns.setdefault(asyncio.get_running_loop(), {})
    size = (settings.password_hashers, settings.password_queue)
    if size not in mine:
        mine[size] = Turns(*size)
    return mine[size]


async def hash_password(settings: Settings, password: str) -> str:
    """The argon2id string. Call it outside any transaction. Raises Busy."""
    queue = turns(settings)
    async with queue.turn():
        return await queue.run(lambda: _ARGON2.hash(normal_password(password)))


async def is_right(queue: Turns, password: str, password_hash: str | None) -> bool:
    """Takes the same time where there is no account or no password. Hold a turn."""
    return await queue.run(lambda: _matches(password, password_hash))


def _matches(password: str, password_hash: str | None) -> bool:
    decoy = _decoy()
    try:
        matches = _ARGON2.verify(password_hash or decoy, normal_password(password))
    except (VerificationError, InvalidHashError):
        return False
    return matches and password_hash is not None


@cache
def _decoy() -> str:
    """A hash for addresses that have none, so that looking for them costs as much."""
    return _ARGON2.hash("nobody has this password")
