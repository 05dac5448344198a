"""argon2id in threads of its own, behind a queue that says no: 37 ms of CPU each would starve everything else."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
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

# A turn that has not come by then is no use to anybody: the sign-in would be given up on its way.
LONGEST_WAIT = 5.0
BUSY_SECONDS = 3
NICER = 5


class Busy(TooManyRequests):
    """More people are signing in than passwords can be checked. Wait for `Retry-After` seconds."""

    slug, title = "busy", "Too many people are signing in"


_is_inside: ContextVar[bool] = ContextVar("is_inside", default=False)


class Turns:
    """`hashers` at a time and one more that gets ready, at most `waiting` before the door, none of them for long."""

    def __init__(self, hashers: int, waiting: int) -> None:
        self._threads = ThreadPoolExecutor(hashers, "argon2", _step_back)
        self._free = asyncio.Semaphore(hashers)
        self._inside = asyncio.Semaphore(hashers + 1)
        self._room = hashers + waiting

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits to be let in; who is in already passes. Nothing that costs is done for those who wait. Raises Busy when
        too many do, or for too long."""
        if _is_inside.get():
            yield
            return
        if self._room == 0:
            raise Busy(retry_after=BUSY_SECONDS)
        self._room -= 1
        try:
            await self._enter()
            inside = _is_inside.set(True)
            try:
                yield
            finally:
                _is_inside.reset(inside)
                self._inside.release()
        finally:
            self._room += 1

    async def _enter(self) -> None:
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                await self._inside.acquire()
        except TimeoutError:
            raise Busy(retry_after=BUSY_SECONDS) from None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a thread to be free; hold a place."""
        async with self._free:
            yield

    async def run(self, work: Callable[[], T]) -> T:
        """In one of the threads; hold a turn."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _step_back() -> None:
    """Hashing leaves the shop the first choice of the cores: on Linux a thread has a niceness of its own."""
    if sys.platform == "linux":
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, own + NICER))


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[int, int], Turns]] = WeakKeyDictionary()


def turns(settings: Settings) -> Turns:
    """The process's queue, made at first use."""
    mine = _turns.setdefault(asyncio.get_running_loop(), {})
    size = (settings.password_hashers, settings.password_queue)
    if size not in mine:
        mine[size] = Turns(*size)
    return mine[size]


def place(settings: Settings) -> AbstractAsyncContextManager[None]:
    """A place in the process's queue, for the door: whoever finds none is sent away before any store is asked. Raises
    Busy when it is entered."""
    return turns(settings).place()


async def hash_password(settings: Settings, password: str) -> str:
    """The argon2id string. Call it outside any transaction. Raises Busy."""
    queue = turns(settings)
    async with queue.place(), queue.turn():
        return await queue.run(lambda: _ARGON2.hash(normal_password(password)))


async def check(queue: Turns, password: str, password_hash: str | None) -> tuple[bool, str | None]:
    """Whether it is right, and a new hash where the one given was made at another cost than today's. Takes the same
    time where there is no account or no password. Hold a turn."""
    return await queue.run(lambda: _check(password, password_hash))


def _check(password: str, password_hash: str | None) -> tuple[bool, str | None]:
    if not _matches(password, password_hash):
        return False, None
    stale = password_hash is not None and _ARGON2.check_needs_rehash(password_hash)
    return True, _ARGON2.hash(normal_password(password)) if stale else None


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
