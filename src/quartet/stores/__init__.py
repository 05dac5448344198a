"""The four stores, opened together. Drivers live in this layer only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from quartet.kernel.settings import Settings
from quartet.stores.mongo import Mongo
from quartet.stores.postgres import Postgres
from quartet.stores.redis import RedisStore
from quartet.stores.search import SearchEngine


@dataclass(frozen=True)
class Stores:
    """What a process works with; `async with open_stores(settings) as stores`."""

    pg: Postgres
    mongo: Mongo
    redis: RedisStore
    search: SearchEngine


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Clients of all four stores. Nothing has to be up: each connects at first use and says so when it can't.

    Raises ValueError naming every URL that is not set.
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
        mongo = Mongo(mongodb_url, urlsplit(mongodb_url).path.strip("/") or "quartet")
        stack.push_async_callback(mongo.close)
        redis = RedisStore(redis_url)
        stack.push_async_callback(redis.close)
        search = SearchEngine(search_url)
        stack.push_async_callback(search.close)
        yield Stores(pg, mongo, redis, search)


async def ping_all(stores: Stores) -> dict[str, str | Exception]:
    """Each store's version, or what went wrong."""
    names = ("postgres", "mongodb", "redis", "search")
    pings = (stores.pg.ping(), stores.mongo.ping(), stores.redis.ping(), stores.search.ping())
    found = await asyncio.gather(*pings, return_exceptions=True)
    return {n: f if isinstance(f, str | Exception) else Exception(repr(f)) for n, f in zip(names, found, strict=True)}
