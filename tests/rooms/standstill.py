"""A search engine that stands still until it is told to go on."""

import asyncio
from typing import Any

import pytest

from quartet.stores.search import SearchEngine


class Standstill:
    """From here on whoever asks an engine waits; `asked` counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self._came, self._on, search = 0, asyncio.Semaphore(0), asyncio.Event(), SearchEngine.search

        async def held(engine: SearchEngine, alias: str, body: dict[str, Any]) -> Any:
            self.asked += 1
            self._came.release()
            await self._on.wait()
            return await search(engine, alias, body)

        monkeypatch.setattr(SearchEngine, "search", held)

    async def until_asked(self, times: int) -> None:
        """Waits for so many."""
        for _ in range(times):
            await self._came.acquire()

    def go_on(self) -> None:
        """Everybody is answered, those who wait and whoever comes."""
        self._on.set()


async def until_done(tasks: list[asyncio.Task[Any]], so_many: int) -> None:
    """Waits for so many of them, whichever they are."""
    while sum(one.done() for one in tasks) < so_many:
        await asyncio.wait([one for one in tasks if not one.done()], return_when=asyncio.FIRST_COMPLETED)
