"""Clients of the four stores, opened together. Drivers are imported in this layer only."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from quartet.kernel.settings import Settings
from quartet.stores.guard import Guard
from quartet.stores.mongo import Mongo
from quartet.stores.postgres import Postgres, Read
from quartet.stores.redis import RedisStore
from quartet.stores.reports import AT_ONCE, report
from quartet.stores.search import SearchEngine

Found = TypeVar("Found")
Singleton = TypeVar("Singleton")


@dataclass(frozen=True)
class Stores:
    """What a process works with; `async with open_stores(settings) as stores`."""

    pg: Postgres
    mongo: Mongo
    redis: RedisStore
    search: SearchEngine
    replica: Postgres | None = None
    _reports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _singletons: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def singleton(self, kind: Callable[..., Singleton], *made_of: Any) -> Singleton:
        """An object that this process holds along with these stores, one of each class, created at first use."""
        found: Singleton | None = self._singletons.get(kind)
        if found is None:
            found = self._singletons[kind] = kind(*made_of)
        return found

    async def report(self, read: Callable[[Read], Awaitable[Found]]) -> tuple[Found, datetime]:
        """The result of `read` on PostgreSQL, or its replica if there is one, and the time up to which all commits are
        included. May take minutes, including the wait for other reports."""
        async with self._reports:
            return await report(self.pg, self.replica, read)

    @property
    def guards(self) -> tuple[Guard, ...]:
        """The guard of each store."""
        replica = () if self.replica is None else (self.replica.guard,)
        return self.pg.guard, *replica, self.mongo.guard, self.redis.guard, self.search.guard


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Clients of all four stores. No store has to be up: each client connects at first use.

    Raises ValueError naming every URL that is not set, or one that its driver can't use.
    """
    urls = {
        "QUARTET_POSTGRES_URL": settings.postgres_url,
        "QUARTET_MONGODB_URL": settings.mongodb_url,
        "QUARTET_REDIS_URL": settings.redis_url,
        "QUARTET_SEARCH_URL": settings.search_url,
    }
    missing = [name for name, url in urls.items() if not url]
    if missing:
        raise ValueError(f"not set: {', '.join(missing)} (`quartet up` starts local servers and sets them)")
    postgres_url, mongodb_url, redis_url, search_url = (url or "" for url in urls.values())
    async with AsyncExitStack() as stack:
        pg = Postgres(postgres_url, size=settings.postgres_pool)
        stack.push_async_callback(pg.close)
        with _named("QUARTET_MONGODB_URL"):
            mongo = Mongo(mongodb_url, urlsplit(mongodb_url).path.strip("/") or "quartet")
        stack.push_async_callback(mongo.close)
        with _named("QUARTET_REDIS_URL"):
            redis = RedisStore(redis_url, doubt=settings.redis_doubt)
        stack.push_async_callback(redis.close)
        search = SearchEngine(search_url)
        stack.push_async_callback(search.close)
        replica = None
        if settings.postgres_replica_url:
            replica = Postgres(settings.postgres_replica_url, size=settings.postgres_pool, name="postgres-replica")
            stack.push_async_callback(replica.close)
        yield Stores(pg, mongo, redis, search, replica)


@contextmanager
def _named(setting: str) -> Iterator[None]:
    """Raises ValueError naming the setting, for any error of a driver that can't parse its URL."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{setting}: {error}") from error


async def ping_all(stores: Stores) -> dict[str, str | Exception]:
    """Each store's version, or what went wrong."""
    names = ("postgres", "mongodb", "redis", "search")
    pings = (stores.pg.ping(), stores.mongo.ping(), stores.redis.ping(), stores.search.ping())
    found = await asyncio.gather(*pings, return_exceptions=True)
    return {n: f if isinstance(f, str | Exception) else Exception(repr(f)) for n, f in zip(names, found, strict=True)}


# The oldest major version of each engine that Quartet supports (docs/engines.md).
OLDEST = {"postgres": 15, "mongodb": 7, "redis": 7, "elasticsearch": 8, "opensearch": 2}


def too_old(store: str, version: str) -> str:
    """What is needed instead of this version (as `ping_all` returns it); "" if it is supported."""
    engine = version.partition(" ")[0] if store == "search" else store
    major, oldest = re.search(r"\d+", version), OLDEST.get(engine, 0)
    return f"{engine} {oldest} or newer is needed" if major and int(major[0]) < oldest else ""
