"""Ready answers of searches and suggestions, kept for a second: in each process, and in Redis for all of them.

What many ask at once is asked of the engine once: by whoever of them first has a turn of his own, since another's queue
may be long. Who finds it asked already waits for that answer and takes no turn. An answer's second begins when the
engine is asked, and Redis hands it on with what is left of it, so that nobody is told what was true more than a second
before. Nothing of who asked is in it. An answer that found nothing is kept for a fifth of that: somebody may be waiting
for the product to appear.

And, for a quarter of an hour, what was shown to whoever leafs through a search.
"""

import asyncio
import hashlib
import re
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from time import monotonic
from uuid import UUID

import structlog
from prometheus_client import Counter

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.redis import RedisStore

log = structlog.get_logger("quartet.search")

ASKED = Counter("quartet_search_answers", "Searches and suggestions by where the answer came from.", ["source"])
# By name each costs a look-up, which is a good part of what a kept answer costs.
_LOCAL, _SHARED, _REDIS, _ENGINE = (ASKED.labels(source) for source in ("process", "joined", "redis", "engine"))
# Redis' clock stands still while it carries out what has come in together. So much earlier an answer is gone from there
# and can be made anew.
_STANDS_STILL = 0.05
# An entry's key, and what Python needs for it.
_OVERHEAD = 512


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer as bytes; how many it found in all; whether it may be kept (not one that is partial). `noted`: the
    words that it is logged under each time it is given. `exact`: what was found has all of these as they are."""

    body: bytes
    total: int
    whole: bool = True
    noted: str = ""
    exact: bool = False


class Kept:
    """A process's answers, the least recently used given up first, within so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self.bytes = most_bytes, 0
        self._held: OrderedDict[str, tuple[float, Ready]] = OrderedDict()
        self._renewed: set[str] = set()

    def get(self, key: str) -> Ready | None:
        """The answer, unless its time is over. At its end one who asks is told that it is, and may bring the next one
        before all the others would have to wait for it."""
        found = self._held.get(key)
        if found is None or (left := found[0] - monotonic()) <= 0:
            return None
        if left < _STANDS_STILL and key not in self._renewed:
            self._renewed.add(key)
            return None
        self._held.move_to_end(key)
        return found[1]

    def put(self, key: str, ready: Ready, until: float) -> None:
        """Keeps it until then, by the monotonic clock."""
        self._drop(key)
        self._held[key] = until, ready
        self.bytes += _weight(key, ready)
        while self.bytes > self._most:
            self._drop(next(iter(self._held)))

    def until(self, key: str) -> float:
        """When the answer's time is over."""
        return self._held[key][0] if key in self._held else 0.0

    def _drop(self, key: str) -> None:
        self._renewed.discard(key)
        if key in self._held:
            self.bytes -= _weight(key, self._held.pop(key)[1])


def _weight(key: str, ready: Ready) -> int:
    return 2 * len(key) + len(ready.body) + _OVERHEAD


Make = Callable[[], Awaitable[Ready]]
Turn = Callable[[str], AbstractAsyncContextManager[None]]


class Answers:
    """The answers of one shop, by what was asked. `seconds` 0 keeps none; `turn`: a client's turn with the engine."""

    def __init__(self, redis: RedisStore, alias: str, seconds: float, most_bytes: int, turn: Turn) -> None:
        self._redis, self._seconds, self._turn = redis, seconds, turn
        self._generation_key = f"search:{{{alias}}}:generation"
        self._prefix = f"search:{{{alias}}}:answer:"
        # By client and what it asks, those without a turn yet; by what is asked, since when the engine has been at it.
        self._waiting: dict[tuple[str, str], asyncio.Task[Ready]] = {}
        self._under_way: dict[str, tuple[float, asyncio.Task[Ready]]] = {}
        self.kept = Kept(most_bytes)

    def at_hand(self, typed: str) -> Ready | None:
        """The answer to an address that was asked for just so a moment ago."""
        found = self.kept.get(typed) if self._seconds else None
        if found is not None:
            _LOCAL.inc()
        return found

    async def get(self, key: str, typed: str, noted: str, make: Make, client: str = "") -> Ready:
        """The answer to what `key` says in one way and `typed` as it came; `make` asks the engine, in a turn of the
        client's. Raises what `make` raises, to all who wait for the same, and what the turn raises, to this client."""
        if not self._seconds:
            async with self._turn(client):
                return replace(await make(), noted=noted)
        if (found := self.kept.get(key)) is not None:
            _LOCAL.inc()
        else:
            found = await self._ask(key, client, make)
        ready = replace(found, noted=noted)
        if found is self.kept.get(key):  # and not what somebody has asked since
            self.kept.put(typed, ready, self.kept.until(key))
        return ready

    async def _ask(self, key: str, client: str, make: Make) -> Ready:
        """Once for all who ask at once."""
        task = self._with_engine(key) or self._waiting.get((client, key))
        if task is None:
            task = self._waiting[client, key] = asyncio.create_task(self._fetch(key, client, make))
            task.add_done_callback(lambda done: self._ended(key, client, done))
        else:
            _SHARED.inc()
        # Who gives up waiting takes nothing from the others.
        return await asyncio.shield(task)

    def _with_engine(self, key: str) -> "asyncio.Task[Ready] | None":
        """What is being asked, unless it is too old for who comes now."""
        began, task = self._under_way.get(key, (0.0, None))
        return task if monotonic() - began <= self._seconds / 2 else None

    def _ended(self, key: str, client: str, task: "asyncio.Task[Ready]") -> None:
        if self._waiting.get((client, key)) is task:
            del self._waiting[client, key]
        if self._under_way.get(key, (0.0, None))[1] is task:
            del self._under_way[key]
        if not task.cancelled():
            task.exception()  # whoever asked may have gone, so that nobody hears of a failure

    async def turn(self) -> None:
        """What is kept in Redis is of an index that is no longer searched. Raises StoreUnavailable."""
        await self._redis.call("INCR", self._generation_key)

    async def _fetch(self, key: str, client: str, make: Make) -> Ready:
        """From Redis, else in the client's turn from the engine; or what comes of another's turn meanwhile."""
        known = self.kept.until(key)
        entry = self._prefix + hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        generation, clock, found = await self._look(key, entry)
        if found is not None:
            return found
        looked = monotonic()
        async with self._turn(client):
            task = self._waiting.pop((client, key))
            if self.kept.until(key) > known and (found := self.kept.get(key)) is not None:
                _LOCAL.inc()
                return found
            if (joined := self._with_engine(key)) is None:
                began = monotonic()
                self._under_way[key] = began, task  # which is this one
                _ENGINE.inc()
                ready = await make()
        if joined is not None:
            _SHARED.inc()
            return await joined
        seconds = self._seconds if ready.total else self._seconds / 5
        if ready.whole:
            self.kept.put(key, ready, began + seconds)
        if ready.whole and clock is not None:
            # By Redis' own clock, read before: whatever is slow on its way there is no younger for it.
            until = clock + int((began - looked + seconds - _STANDS_STILL) * 1000)
            await self._share(entry, f"{generation}\n{ready.total}\n{ready.exact:d}\n".encode() + ready.body, until)
        return ready

    async def _look(self, key: str, entry: str) -> tuple[str, int | None, Ready | None]:
        """The generation of now, Redis' clock in milliseconds, and the answer if it is there and has some time left."""
        began = monotonic()
        try:
            generation, found, left, clock = await self._redis.brief.pipeline(
                [("GET", self._generation_key), ("GET", entry), ("PTTL", entry), ("TIME",)]
            )
        except StoreUnavailable:
            return "", None, None
        ready = None
        # One that has more left than any is given was put there by a clock that was ahead, as before another server
        # took over: nobody knows how old it is.
        if found is not None and 0 < left <= self._seconds * 1000:
            of, total, exact, body = found.split("\n", 3)
            if of == (generation or ""):
                _REDIS.inc()
                ready = Ready(body.encode(), int(total), exact=exact == "1")
                self.kept.put(key, ready, began + left / 1000)
        return generation or "", int(clock[0]) * 1000 + int(clock[1]) // 1000, ready

    async def _share(self, entry: str, value: bytes, until: int) -> None:
        try:
            await self._redis.brief.call("SET", entry, value, "PXAT", until)
        except StoreUnavailable:
            return  # the others ask the engine themselves


# --- Pages by cursor ------------------------------------------------------------------------------------------------
#
# Products move while somebody leafs: a page by number then shows some twice and others not at all. A cursor names the
# ids of the pages before, kept in Redis under a digest of themselves, and a page is the best of all the others. So
# nothing comes twice whatever changes, one cursor always opens the same, and none is anybody's own.

LEAF_SECONDS = 900
# Bytes that one process keeps within that time: for one client who leafs, and for all. Redis has carts to keep as well,
# and no room for both where it is full. Where all leaf so much, pages go by number.
MOST_OF_ONE = 4_000_000
MOST_OF_ALL = 32_000_000
# What Redis needs for an entry itself.
_ENTRY = 200
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# Where it says so at its beginning; no id begins with a space.
_PACKED = " "


class Leaves:
    """Those of one shop, as far as one process keeps them."""

    def __init__(self, redis: RedisStore, alias: str) -> None:
        self._redis, self._alias = redis, alias
        self._taken: dict[str, int] = {}
        # A first page that many ask for, a second after another, takes its room once, of whoever asks first.
        self._counted: set[str] = set()
        self._all, self._until = 0, 0.0

    async def before(self, digest: str | None) -> tuple[str, ...]:
        """The ids of the pages before; none when they are forgotten, or never were kept: then pages go by number."""
        if digest is None:
            return ()
        try:
            held = await self._redis.brief.call("GET", self._key(digest))
        except StoreUnavailable:
            return ()
        return unpack(held) if held else ()

    async def keep(self, ids: Sequence[str], client: str) -> tuple[str, bool]:
        """Their digest, for a cursor, and whether it is as good for others: they are kept as far as `client` has his
        share. Where Redis is away or has enough of all, nobody's are."""
        digest = hashlib.blake2b(" ".join(ids).encode(), digest_size=16).hexdigest()
        held = pack(ids)
        of_his, of_all = self._has_room(digest, client, len(held) + _ENTRY)
        if of_his and of_all:
            try:
                await self._redis.brief.call("SET", self._key(digest), held, "EX", LEAF_SECONDS)
            except StoreUnavailable:
                log.warning("pages before not kept")
        return digest, of_his

    def _has_room(self, digest: str, client: str, size: int) -> tuple[bool, bool]:
        """Whether so much more may be kept, by this client's share and by that of all; then it is counted. By windows,
        so that at most twice as much is in Redis."""
        if monotonic() >= self._until:
            self._taken.clear()
            self._counted.clear()
            self._all, self._until = 0, monotonic() + LEAF_SECONDS
        if digest in self._counted:
            return True, True
        taken = self._taken.get(client, 0) + size
        room = taken <= MOST_OF_ONE, self._all + size <= MOST_OF_ALL
        if all(room):
            self._taken[client] = taken
            self._counted.add(digest)
            self._all += size
        return room

    def _key(self, digest: str) -> str:
        return f"search:{self._alias}:seen:{{{digest}}}"  # over all servers of a cluster: nothing asks for two at once


def pack(ids: Sequence[str]) -> str:
    """UUIDs by their bytes; where there are others, text."""
    if not all(map(_UUID.fullmatch, ids)):
        return " ".join(ids)
    return _PACKED + b64encode(bytes.fromhex("".join(ids).replace("-", ""))).decode()


def unpack(held: str) -> tuple[str, ...]:
    """What was packed."""
    if not held.startswith(_PACKED):
        return tuple(held.split())
    packed = b64decode(held.removeprefix(_PACKED))
    return tuple(str(UUID(bytes=packed[n : n + 16])) for n in range(0, len(packed), 16))
