"""A cache of search answers and suggestions with a TTL of a second: in each process, and in Redis for all processes.

Concurrent requests for the same answer cost one engine call (single-flight). It is made by the first of them whose
client gets a slot with the engine, since another client's queue may be long; requests that find the call in flight wait
for its answer and take no slot. The TTL starts when the engine is called, and an answer read from Redis keeps only the
rest of it, so that no answer is older than a second. Answers hold nothing of who asked. An answer without hits has a
fifth of the TTL: somebody may be waiting for the product to appear.

It also holds, for a quarter of an hour, which products the earlier pages of a search showed, for its cursor.
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
# Looked up once: `labels` is a good part of the cost of a cache hit.
_LOCAL, _SHARED, _REDIS, _ENGINE = (ASKED.labels(source) for source in ("process", "joined", "redis", "engine"))
# In seconds. Redis' clock stands still while it executes a batch of commands; so an answer expires there this much
# earlier, and can be made anew in time.
_EXPIRY_MARGIN = 0.05
# Bytes that Python needs for an entry beside key and body.
_OVERHEAD = 512


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """An answer: its body, how many products it found in all, and whether it may be cached (`whole`; not if it is
    partial). `logged_query`: the query under which it is logged each time it is sent. `exact`: the hits have all words
    of the query as typed."""

    body: bytes
    total: int
    whole: bool = True
    logged_query: str = ""
    exact: bool = False


class LocalCache:
    """A process's cache: LRU, limited to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self.bytes = most_bytes, 0
        self._held: OrderedDict[str, tuple[float, SearchAnswer]] = OrderedDict()
        self._renewed: set[str] = set()

    def get(self, key: str) -> SearchAnswer | None:
        """The answer, unless it has expired. Shortly before it does, one caller gets a miss, and so renews it before
        all the others have to wait."""
        found = self._held.get(key)
        if found is None or (left := found[0] - monotonic()) <= 0:
            return None
        if left < _EXPIRY_MARGIN and key not in self._renewed:
            self._renewed.add(key)
            return None
        self._held.move_to_end(key)
        return found[1]

    def put(self, key: str, answer: SearchAnswer, until: float) -> None:
        """Caches it until then, by the monotonic clock."""
        self._drop(key)
        self._held[key] = until, answer
        self.bytes += _weight(key, answer)
        while self.bytes > self._most:
            self._drop(next(iter(self._held)))

    def until(self, key: str) -> float:
        """When the answer expires; 0 if there is none."""
        return self._held[key][0] if key in self._held else 0.0

    def _drop(self, key: str) -> None:
        self._renewed.discard(key)
        if key in self._held:
            self.bytes -= _weight(key, self._held.pop(key)[1])


def _weight(key: str, answer: SearchAnswer) -> int:
    return 2 * len(key) + len(answer.body) + _OVERHEAD


Make = Callable[[], Awaitable[SearchAnswer]]
Slot = Callable[[str], AbstractAsyncContextManager[None]]


class AnswerCache:
    """The cached answers of one shop, by key. `seconds`: their TTL, 0 disables the cache; `slot`: waits for a client's
    slot with the engine."""

    def __init__(self, redis: RedisStore, alias: str, seconds: float, most_bytes: int, slot: Slot) -> None:
        self._redis, self._seconds, self._slot = redis, seconds, slot
        self._generation_key = f"search:{{{alias}}}:generation"
        self._prefix = f"search:{{{alias}}}:answer:"
        # `_waiting`: calls without a slot yet, by client and key; `_under_way`: calls to the engine and their start, by
        # key.
        self._waiting: dict[tuple[str, str], asyncio.Task[SearchAnswer]] = {}
        self._under_way: dict[str, tuple[float, asyncio.Task[SearchAnswer]]] = {}
        self.local = LocalCache(most_bytes)

    def at_hand(self, typed: str) -> SearchAnswer | None:
        """The cached answer for a URL as it came."""
        found = self.local.get(typed) if self._seconds else None
        if found is not None:
            _LOCAL.inc()
        return found

    async def get(self, key: str, typed: str, logged_query: str, make: Make, client: str = "") -> SearchAnswer:
        """The answer for the normalised `key`; it is cached under `typed`, the URL as it came, as well. `make` calls
        the engine, in a slot of the client's. Raises what `make` raises, to all who wait for the same answer, and what
        the slot raises, to this client."""
        if not self._seconds:
            async with self._slot(client):
                return replace(await make(), logged_query=logged_query)
        if (found := self.local.get(key)) is not None:
            _LOCAL.inc()
        else:
            found = await self._ask(key, client, make)
        answer = replace(found, logged_query=logged_query)
        if found is self.local.get(key):  # not if a newer answer has replaced it
            self.local.put(typed, answer, self.local.until(key))
        return answer

    async def _ask(self, key: str, client: str, make: Make) -> SearchAnswer:
        """Single-flight: joins the call that is in flight, or starts one."""
        task = self._in_flight(key) or self._waiting.get((client, key))
        if task is None:
            task = self._waiting[client, key] = asyncio.create_task(self._fetch(key, client, make))
            task.add_done_callback(lambda done: self._ended(key, client, done))
        else:
            _SHARED.inc()
        # A cancelled waiter must not cancel it for the others.
        return await asyncio.shield(task)

    def _in_flight(self, key: str) -> "asyncio.Task[SearchAnswer] | None":
        """The engine call in flight for this key, unless it began too long ago to join."""
        began, task = self._under_way.get(key, (0.0, None))
        return task if monotonic() - began <= self._seconds / 2 else None

    def _ended(self, key: str, client: str, task: "asyncio.Task[SearchAnswer]") -> None:
        if self._waiting.get((client, key)) is task:
            del self._waiting[client, key]
        if self._under_way.get(key, (0.0, None))[1] is task:
            del self._under_way[key]
        if not task.cancelled():
            task.exception()  # consumed: all who waited may have been cancelled

    async def invalidate(self) -> None:
        """Starts a new generation, which invalidates everything cached in Redis: the index or the rules have changed.
        Raises StoreUnavailable."""
        await self._redis.call("INCR", self._generation_key)

    async def _fetch(self, key: str, client: str, make: Make) -> SearchAnswer:
        """From Redis, else from the engine in the client's slot; or the result of another client's call meanwhile."""
        known = self.local.until(key)
        entry = self._prefix + hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        generation, clock, found = await self._look(key, entry)
        if found is not None:
            return found
        looked = monotonic()
        async with self._slot(client):
            task = self._waiting.pop((client, key))
            if self.local.until(key) > known and (found := self.local.get(key)) is not None:
                _LOCAL.inc()
                return found
            if (joined := self._in_flight(key)) is None:
                began = monotonic()
                self._under_way[key] = began, task  # the current task
                _ENGINE.inc()
                answer = await make()
        if joined is not None:
            _SHARED.inc()
            return await joined
        seconds = self._seconds if answer.total else self._seconds / 5
        if answer.whole:
            self.local.put(key, answer, began + seconds)
        if answer.whole and clock is not None:
            # An absolute expiry by Redis' own clock, read before: a slow SET does not prolong it.
            until = clock + int((began - looked + seconds - _EXPIRY_MARGIN) * 1000)
            await self._share(entry, f"{generation}\n{answer.total}\n{answer.exact:d}\n".encode() + answer.body, until)
        return answer

    async def _look(self, key: str, entry: str) -> tuple[str, int | None, SearchAnswer | None]:
        """The current generation, Redis' clock in milliseconds, and the answer if it is there and has not expired."""
        began = monotonic()
        try:
            generation, found, left, clock = await self._redis.brief.pipeline(
                [("GET", self._generation_key), ("GET", entry), ("PTTL", entry), ("TIME",)]
            )
        except StoreUnavailable:
            return "", None, None
        answer = None
        # A remaining TTL longer than the whole one comes from a clock that was ahead, as before a failover: the age of
        # such an answer is unknown.
        if found is not None and 0 < left <= self._seconds * 1000:
            of, total, exact, body = found.split("\n", 3)
            if of == (generation or ""):
                _REDIS.inc()
                answer = SearchAnswer(body.encode(), int(total), exact=exact == "1")
                self.local.put(key, answer, began + left / 1000)
        return generation or "", int(clock[0]) * 1000 + int(clock[1]) // 1000, answer

    async def _share(self, entry: str, value: bytes, until: int) -> None:
        try:
            await self._redis.brief.call("SET", entry, value, "PXAT", until)
        except StoreUnavailable:
            return  # other processes call the engine themselves


# --- Pages by cursor ------------------------------------------------------------------------------------------------
#
# Products change places while somebody pages: with page numbers some show up twice and others not at all. A cursor
# refers to the ids of the earlier pages, stored in Redis under their digest, and a page is the best of all products but
# those. So nothing comes twice whatever changes, a cursor always leads to the same place, and no cursor is bound to a
# client.

SEEN_IDS_SECONDS = 900
# Bytes that one process may store within that time: for one client, and for all. Redis holds carts as well, and when it
# is full there is no room for both. Past the limit, paging falls back to page numbers.
MOST_BYTES_PER_CLIENT = 4_000_000
MOST_BYTES_IN_ALL = 32_000_000
# Bytes that Redis needs for an entry beside its value.
_ENTRY = 200
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# The prefix of a packed value; no id begins with a space.
_PACKED = " "


class SeenIds:
    """The ids of earlier pages, by their digest, for the cursors of one shop; the limits are per process."""

    def __init__(self, redis: RedisStore, alias: str) -> None:
        self._redis, self._alias = redis, alias
        self._taken: dict[str, int] = {}
        # Digests already counted: a first page that many clients request counts once, for the first of them.
        self._counted: set[str] = set()
        self._all, self._until = 0, 0.0

    async def load(self, digest: str | None) -> tuple[str, ...]:
        """The ids of the earlier pages; none if they have expired or were never stored: then the page number counts."""
        if digest is None:
            return ()
        try:
            held = await self._redis.brief.call("GET", self._key(digest))
        except StoreUnavailable:
            return ()
        return unpack(held) if held else ()

    async def save(self, ids: Sequence[str], client: str) -> tuple[str, bool]:
        """Stores them; returns their digest, for a cursor, and False if they were not stored because of this client's
        own limit, so that the cursor must not be shared with others. They are not stored either while Redis is down or
        past the limit for all."""
        digest = hashlib.blake2b(" ".join(ids).encode(), digest_size=16).hexdigest()
        held = pack(ids)
        of_his, of_all = self._has_room(digest, client, len(held) + _ENTRY)
        if of_his and of_all:
            try:
                await self._redis.brief.call("SET", self._key(digest), held, "EX", SEEN_IDS_SECONDS)
            except StoreUnavailable:
                log.warning("ids of the earlier pages not stored")
        return digest, of_his

    def _has_room(self, digest: str, client: str, size: int) -> tuple[bool, bool]:
        """Whether so many more bytes are within this client's limit, and within that for all; if both, they are
        counted. Fixed windows, so that Redis holds at most twice the limit."""
        if monotonic() >= self._until:
            self._taken.clear()
            self._counted.clear()
            self._all, self._until = 0, monotonic() + SEEN_IDS_SECONDS
        if digest in self._counted:
            return True, True
        taken = self._taken.get(client, 0) + size
        room = taken <= MOST_BYTES_PER_CLIENT, self._all + size <= MOST_BYTES_IN_ALL
        if all(room):
            self._taken[client] = taken
            self._counted.add(digest)
            self._all += size
        return room

    def _key(self, digest: str) -> str:
        return f"search:{self._alias}:seen:{{{digest}}}"  # spread over a cluster's slots: no call needs two of them


def pack(ids: Sequence[str]) -> str:
    """UUIDs as base64 of their bytes; if any id is not a UUID, all as text."""
    if not all(map(_UUID.fullmatch, ids)):
        return " ".join(ids)
    return _PACKED + b64encode(bytes.fromhex("".join(ids).replace("-", ""))).decode()


def unpack(held: str) -> tuple[str, ...]:
    """The inverse of `pack`."""
    if not held.startswith(_PACKED):
        return tuple(held.split())
    packed = b64decode(held.removeprefix(_PACKED))
    return tuple(str(UUID(bytes=packed[n : n + 16])) for n in range(0, len(packed), 16))
