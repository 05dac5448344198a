"""A worker's memory does not grow with what it has carried: a million changes, as fast as it takes them."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import psutil
import pytest
from test_sync import running, soon

from quartet import catalog
from quartet.sync import changes, store
from quartet.web.dependencies import Shop

CHANGES = 1_000_000
PRODUCTS = 3_000
# After so many everything is there that there will ever be: connections, statements, the ids of all the products.
WARM = 200_000
MOST_GROWN = 30_000_000


@pytest.mark.timeout(600)
async def test_memory_is_flat_over_a_million_changes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    process, told, rss = psutil.Process(), 0, dict[int, int]()

    async def stream(_mongo: Any, _position: Any = None) -> AsyncGenerator[tuple[str | None, Any], None]:
        nonlocal told
        for told in range(1, CHANGES + 1):
            yield f"product {told % PRODUCTS}", {"at": told}
            if told % 200 == 0:
                await asyncio.sleep(0.002)  # what is carried meanwhile is many batches, and not one
            if told % WARM == 0:
                rss[told] = process.memory_info().rss
        while True:
            yield None, {"at": told}

    async def carried() -> bool:
        async with shop.stores.pg.read() as read:
            return bool(await store.position(read, changes.PIPELINE) == {"at": CHANGES})

    monkeypatch.setattr(catalog, "watch", stream)
    async with shop.stores.pg.once() as tx:
        await store.save(tx, changes.PIPELINE, {"at": 0}, caught_up_at=None, items=0)
    async with running(changes.follow(shop)):
        await soon(carried, 500)
        async with shop.stores.pg.read() as read:
            [position] = [p for p in await store.positions(read) if p.pipeline == changes.PIPELINE]
    print(f"{CHANGES:,} changes in {position.batches} batches; MB:", {n: size // 1_000_000 for n, size in rss.items()})
    assert rss[CHANGES] - rss[WARM] < MOST_GROWN
