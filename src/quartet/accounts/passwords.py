"""argon2id in processes of its own, behind a queue that says no: 37 ms of CPU each would starve everything else."""

import asyncio
import json
import select
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import IO, Any, cast
from weakref import finalize

from quartet.accounts import hasher
from quartet.accounts.model import normal_password
from quartet.kernel.errors import TooManyRequests
from quartet.web.dependencies import Shop

# A turn that has not come by then is no use to anybody: the sign-in would be given up on its way.
LONGEST_WAIT = 5.0
BUSY_SECONDS = 3
# For one answer: nobody waits for it any longer, and whatever has stopped that process may never end.
PATIENCE = 15.0


class Busy(TooManyRequests):
    """More people are signing in than passwords can be checked. Wait for `Retry-After` seconds."""

    slug, title = "busy", "Too many people are signing in"


class _Hasher:
    """One of those processes, and the thread's that asks it."""

    def __init__(self) -> None:
        # A session of its own: where Linux shares the cores by session, what hashing takes would count as the shop's,
        # whose requests then wait for a core. It ends when its input does, so with the shop however that ends.
        process = subprocess.Popen(
            [sys.executable, "-P", hasher.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._questions, self._answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        finalize(self, _end, process)

    def ask(self, question: tuple[str | None, ...]) -> Any:
        """Raises OSError or ValueError when it is gone or has stopped."""
        self._questions.write(json.dumps(question).encode() + b"\n")
        self._questions.flush()
        answer = select.poll()
        answer.register(self._answers, select.POLLIN)
        if not answer.poll(PATIENCE * 1000):
            raise TimeoutError
        return json.loads(self._answers.readline())


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(BrokenPipeError), process:  # closes its input, and waits for it
        process.kill()  # one that has stopped would never see that


_of_thread = threading.local()


def _begun() -> _Hasher:
    _of_thread.hasher = _Hasher()
    return cast(_Hasher, _of_thread.hasher)


def _ask(*question: str | None) -> Any:
    own: _Hasher | None = getattr(_of_thread, "hasher", None)
    try:
        return (own or _begun()).ask(question)
    except (OSError, ValueError):  # gone, as a process can be; to hash once more does no harm
        return _begun().ask(question)


@cache
def _threads(hashers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(hashers, "argon2")


_is_inside: ContextVar[bool] = ContextVar("is_inside", default=False)


class Turns:
    """`hashers` at a time and one more that gets ready, at most `waiting` before the door, none of them for long."""

    def __init__(self, hashers: int, waiting: int) -> None:
        self._threads = _threads(hashers)
        self.turn = asyncio.Semaphore(hashers)
        """`async with queue.turn` waits for a hasher to be free; hold a place."""
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

    async def ask(self, *question: str | None) -> Any:
        """What a function of the hasher answers, by its name and what it is given; hold a turn."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _ask, *question)


def turns(shop: Shop) -> Turns:
    """The process's queue."""
    return shop.stores.kept(Turns, shop.settings.password_hashers, shop.settings.password_queue)


def place(shop: Shop) -> AbstractAsyncContextManager[None]:
    """A place in the process's queue; the door takes it, so that whoever finds none is sent away before any store is
    asked. Raises Busy when it is entered."""
    return turns(shop).place()


async def hash_password(shop: Shop, password: str) -> str:
    """The argon2id string. Call it outside any transaction. Raises Busy."""
    queue = turns(shop)
    async with queue.place(), queue.turn:
        return cast(str, await queue.ask("make", normal_password(password)))


async def check(queue: Turns, password: str, password_hash: str | None) -> tuple[bool, str | None]:
    """Whether it is right, and a new hash where the one given was made at another cost than today's. Takes the same
    time where there is no account or no password. Hold a turn."""
    is_right, renewed = await queue.ask("check", normal_password(password), password_hash)
    return is_right, renewed
