"""Local servers for stores that have no URL: for `quartet up` and for the tests.

Real servers where a package or the machine has one, else emulators; all on loopback, on free ports, under one data
folder.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from quartet.devstores import mongo, postgres, redis
from quartet.devstores import search as search_engine
from quartet.devstores.local import (
    Child,
    Command,
    LocalServer,
    Place,
    Running,
    StartError,
    clear_leftovers,
    free_port,
    is_locked,
    launch,
    lock_folder,
    why_closed,
    write_private,
)

__all__ = [
    "Child",
    "Command",
    "LocalServer",
    "Place",
    "Running",
    "StartError",
    "clear_leftovers",
    "free_port",
    "is_locked",
    "launch",
    "lock_folder",
    "throwaway",
    "why_closed",
    "write_private",
]


@asynccontextmanager
async def throwaway(
    folder: Path, search: str = "osmem", postgres_major: int | None = None
) -> AsyncIterator[dict[str, str]]:
    """Runs all four stores for tests, without flushing to disk, which is faster; yields their URLs by name.

    The caller deletes `folder`. The names are ``postgres``, ``mongodb``, ``redis`` and ``search``.
    """
    place = Place(folder, durable=False)
    starting = [
        asyncio.ensure_future(start)
        for start in (
            postgres.start(place, postgres_major),
            mongo.start(place),
            redis.start(place),
            search_engine.start(place, search),
        )
    ]
    try:
        running = await asyncio.gather(*starting)
        yield {each.server.name: each.server.url for each in running}
    finally:
        ended = await asyncio.gather(*starting, return_exceptions=True)
        await asyncio.gather(*(each.stop() for each in ended if isinstance(each, Running)))
        await asyncio.to_thread(postgres.discard, place)
