"""A worker's memory does not grow with what it has carried: a million changes, as fast as it takes them."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import psutil
import pytest
import test_sync
from test_sync import kettle, running, soon

from quartet import catalog, sync
from quartet.catalog import Level
from quartet.sync import changes, compare, products, store, worker
from quartet.web.dependencies import Shop

kitchen = test_sync.kitchen  # a fixture

CHANGES = 1_000_000
PRODUCTS = 3_000
# Every so many changes all products have another name and price, by which catalog, pages and search are written; and
# the next are told once that is done, so that what is carried is many batches, and not one.
ROUND = 100_000
# After so many everything is there that there will ever be: connections, statements, what is remembered of products.
WARM = 200_000
MOST_GROWN = 30_000_000
SELL = """INSERT INTO inventory (sku, name, stock, unit_price_cents, currency)
          SELECT 'K' || n, 'Kettle', 5, 2500, 'GBP' FROM generate_series(1, $1::int) AS n"""


@pytest.mark.timeout(900)
async def test_memory_is_flat_over_a_million_changes(kitchen: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    process, told, rss = psutil.Process(), 0, dict[int, int]()
    skus = [f"K{n}" for n in range(1, PRODUCTS + 1)]
    await catalog.load_products(kitchen, [kettle(sku) for sku in skus], dict.fromkeys(skus, Level(2500, 5)))
    ids = [catalog.loaded_id(sku) for sku in skus]
    async with kitchen.stores.pg.tx() as tx:
        await tx.execute(SELL, PRODUCTS)
    await sync.catch_up(kitchen)

    async def change_all() -> None:
        async with kitchen.stores.pg.tx() as tx:
            await tx.execute("UPDATE inventory SET unit_price_cents = unit_price_cents + 1")
        collection = kitchen.stores.mongo.collection(catalog.PRODUCTS)
        for some in products.batches(ids, 500):
            found = await catalog.by_ids(kitchen.stores.mongo, some)
            fresh = [
                catalog.with_version({**p, "name": f"Kettle {told}"}, p["version"] + 1, p["updatedAt"]) for p in found
            ]
            await collection.replace_many([({"_id": p["_id"]}, p) for p in fresh])

    async def stream(_mongo: Any, position: Any = None) -> AsyncGenerator[tuple[str | None, Any], None]:
        nonlocal told
        told = position["at"]
        while told < CHANGES:
            await change_all()
            for _ in range(ROUND):
                told += 1
                yield ids[told % PRODUCTS], {"at": told}
                if told % 200 == 0:
                    await asyncio.sleep(0.002)
            while not await carried():
                yield None, {"at": told}
            if told % WARM == 0:
                rss[told] = process.memory_info().rss
        while True:
            yield None, {"at": told}

    async def carried() -> bool:
        async with kitchen.stores.pg.read() as read:
            return bool(await store.position(read, changes.PIPELINE) == {"at": told})

    async def all_told() -> bool:
        return CHANGES in rss

    monkeypatch.setattr(catalog, "watch", stream)
    async with kitchen.stores.pg.once() as tx:
        await store.save_position(tx, changes.PIPELINE, {"at": 0}, caught_up_at=None, items=0)
    async with running(worker._supervise("changes", kitchen, worker._changes, store.NO_LEASE)):
        await soon(all_told, 800)
        async with kitchen.stores.pg.read() as read:
            [position] = [p for p in await store.positions(read) if p.pipeline == changes.PIPELINE]
    print(f"{CHANGES:,} changes in {position.batches} batches; MB:", {n: size // 1_000_000 for n, size in rss.items()})
    assert rss[CHANGES] - rss[WARM] < MOST_GROWN
    await kitchen.stores.search.refresh(kitchen.settings.search_alias)
    assert (await compare.differing(kitchen, patience=0)).suspects == {}
