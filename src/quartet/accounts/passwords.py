"""argon2id hashing in separate processes, behind a bounded queue: at 37 ms of CPU per password it would starve
everything else."""

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

# A longer wait is useless: the sign-in would be given up before it is answered.
LONGEST_WAIT = 5.0
BUSY_SECONDS = 3
# Timeout of one answer: nobody waits longer for it, and a process that hangs may never give one.
ANSWER_SECONDS = 15.0


class Busy(TooManyRequests):
    """More passwords are waiting to be checked than the server can handle. Wait for `Retry-After` seconds."""

    slug, title = "busy", "Too many people are signing in"


class _Hasher:
    """A hasher process, used by one thread only."""

    def __init__(self) -> None:
        # A session of its own: where Linux schedules CPU time by session, hashing would count as the shop's, whose
        # requests then wait for a core. The process ends when its stdin closes, so with the shop, however that ends.
        process = subprocess.Popen(
            [sys.executable, "-P", hasher.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._questions, self._answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        finalize(self, _end, process)

    def ask(self, question: tuple[str | None, ...]) -> Any:
        """Raises OSError or ValueError if the process has died or hangs."""
        self._questions.write(json.dumps(question).encode() + b"\n")
        self._questions.flush()
        answer = select.poll()
        answer.register(self._answers, select.POLLIN)
        if not answer.poll(ANSWER_SECONDS * 1000):
            raise TimeoutError
        return json.loads(self._answers.readline())


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(BrokenPipeError), process:  # closes its stdin, and waits for it
        process.kill()  # a hanging process would not notice that


_of_thread = threading.local()


def _start_hasher() -> _Hasher:
    _of_thread.hasher = _Hasher()
    return cast(_Hasher, _of_thread.hasher)


def _ask(*question: str | None) -> Any:
    own: _Hasher | None = getattr(_of_thread, "hasher", None)
    try:
        return (own or _start_hasher()).ask(question)
    except (OSError, ValueError):  # the process died; hashing again does no harm
        return _start_hasher().ask(question)


@cache
def _threads(hashers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(hashers, "argon2")


_is_inside: ContextVar[bool] = ContextVar("is_inside", default=False)


class HashingQueue:
    """At most `hashers` passwords are hashed at a time while one more request gets ready; at most `waiting` requests
    wait, that one included, none of them for long."""

    def __init__(self, hashers: int, waiting: int) -> None:
        self._threads = _threads(hashers)
        self.free_hasher = asyncio.Semaphore(hashers)
        """`async with queue.free_hasher` waits for a hasher to be free; hold a place."""
        self._inside = asyncio.Semaphore(hashers + 1)
        self._room = hashers + waiting

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits for a place; passes at once if the caller has one already. Nothing costly is done for those who wait.
        Raises Busy if too many wait, or this one for too long."""
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
        """Calls a function of the hasher, by its name and arguments; hold a hasher."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _ask, *question)


def hashing_queue(shop: Shop) -> HashingQueue:
    """This process's queue."""
    return shop.stores.singleton(HashingQueue, shop.settings.password_hashers, shop.settings.password_queue)


def place(shop: Shop) -> AbstractAsyncContextManager[None]:
    """A place in this process's queue. The gateway takes it, so that a sign-in is rejected before any store is called
    if there is none. Raises Busy on entering."""
    return hashing_queue(shop).place()


async def hash_password(shop: Shop, password: str) -> str:
    """The argon2id hash. Call it outside any transaction. Raises Busy."""
    queue = hashing_queue(shop)
    async with queue.place(), queue.free_hasher:
        return cast(str, await queue.ask("make", normal_password(password)))


async def check(queue: HashingQueue, password: str, password_hash: str | None) -> tuple[bool, str | None]:
    """Whether the password is right, and a new hash if the given one was made with other parameters than today's. Takes
    the same time if there is no account or no password. Hold a hasher."""
    is_right, renewed = await queue.ask("check", normal_password(password), password_hash)
    return is_right, renewed
