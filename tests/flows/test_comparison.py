"""What no event told of is found among all products by sums of fingerprints, named, and mended; what is only on its way
is not taken for it."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from rich.console import Console
from test_sync import (
    Cache,
    add,
    becoming,
    copies,
    equal,
    has_position,
    kettle,
    kitchen,
    receive,
    rename_behind,
    running,
    soon,
    stored,
)

from conftest import differing
from quartet import catalog, inventory, search, sync
from quartet.cli import bring_up
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.fingerprints import BUCKETS, bucket
from quartet.stores import outbox
from quartet.stores.search import BulkResult, SearchEngine
from quartet.sync import changes, compare, store
from quartet.web.dependencies import Shop

__all__ = ["kitchen"]
SKUS = [f"K{i}" for i in range(60)]


@pytest.fixture
async def full(kitchen: Shop) -> Shop:
    """Sixty products that are the same on all sides."""
    await add(kitchen, *map(kettle, SKUS))
    await sync.catch_up(kitchen)
    assert await wrong(kitchen) == set()
    return kitchen


async def wrong(shop: Shop) -> set[str]:
    """The SKUs (or ids, where the catalog has none) that differ."""
    await shop.stores.search.refresh(shop.settings.search_alias)
    found = await compare.differing(shop, patience=0)
    assert found.products >= len(SKUS) - 1
    skus = {p["_id"]: p["sku"] for p in await catalog.by_ids(shop.stores.mongo, found.suspects.keys())}
    return {skus.get(id_, id_) for id_ in found.suspects}


async def product(shop: Shop, sku: str) -> dict[str, Any]:
    """The document of it."""
    found = await catalog.find(shop.stores.mongo, sku)
    assert found is not None
    return found


async def put_in_search(shop: Shop, documents: dict[str, Any]) -> None:
    """Past everybody, under a number that is newer than any so far, as of now."""
    async with shop.stores.pg.tx() as tx:
        batch = await store.begin_batch(tx)
    await search.put(shop.stores.search, shop.settings.search_alias, batch.version, documents)


async def test_every_way_of_being_wrong_is_found_and_mended(full: Shop) -> None:
    gone, late, ghost = (await product(full, "K1"))["_id"], await product(full, "K2"), "no-such-product"
    old = search.document(late | {"name": "Kettle of old"})
    await put_in_search(full, {gone: None, late["_id"]: old, ghost: {**(old or {}), "id": ghost}})
    collection = full.stores.mongo.collection(catalog.PRODUCTS)
    unseen = await product(full, "K3")
    changed = {**unseen, "name": "Teapot"}
    await collection.replace_one(
        {"_id": unseen["_id"]}, changed | catalog.with_version(changed, 2, unseen["updatedAt"])
    )
    await collection.delete_one({"_id": (deleted := await product(full, "K4"))["_id"]})
    await collection.insert_one({**(await product(full, "K5")), "_id": "by-hand", "sku": "HAND", "slug": "hand"})
    await receive(full, "K6", 7)
    assert await wrong(full) == {"K1", "K2", ghost, "K3", deleted["_id"], "HAND", "K6"}
    await compare.repair(full, (await compare.differing(full, patience=0)).suspects)
    assert await wrong(full) == set()
    assert await equal(full)
    held = await stored(full)
    assert (held["K3"]["name"], held["K2"]["name"], "K4" in held, held["K6"]["inStock"]) == (
        "Teapot", "Kettle K2", False, True,
    )  # fmt: skip
    assert (await copies(full))["K6"] == 7


async def test_products_that_somebody_wrote_without_bucket_and_fingerprint_are_found_and_get_them(full: Shop) -> None:
    collection = full.stores.mongo.collection(catalog.PRODUCTS)
    for sku in ("K7", "K8"):
        await collection.update_one({"sku": sku}, {"$unset": {"bucket": 1, "fingerprint": 1}})
    await put_in_search(full, {"stray": {"id": "stray", "sku": "STRAY"}})
    assert await wrong(full) == {"K7", "K8", "stray"}
    await compare.repair(full, (await compare.differing(full, patience=0)).suspects)
    assert await wrong(full) == set()
    assert (await product(full, "K7"))["bucket"] == bucket((await product(full, "K7"))["_id"])


async def test_half_an_answer_of_the_engine_is_none_and_mends_nothing(full: Shop) -> None:
    """Else what the other half holds would be written anew, and what it holds of what is gone be left."""

    class Hurt(SearchEngine):
        async def request(self, method: str, path: str, **more: Any) -> Any:
            found = await super().request(method, path, **more)
            if path.endswith("/_search"):
                found["hits"]["hits"] = found["hits"]["hits"][::2]
                found["timed_out"] = True
            return found

    await full.stores.search.refresh(full.settings.search_alias)
    hurt = Hurt(str(full.settings.search_url))
    shop = replace(full, stores=replace(full.stores, search=hurt))
    for compared in (compare.differing, compare.compare_ranges):
        with pytest.raises(StoreUnavailable):
            await compared(shop)
    with pytest.raises(StoreUnavailable):
        await compare.scrub(shop, 0, BUCKETS)
    with pytest.raises(StoreUnavailable):
        await compare.run(shop)
    await hurt.close()


async def test_what_left_the_version_as_it_was_is_found_by_reading(full: Shop) -> None:
    await full.stores.mongo.collection(catalog.PRODUCTS).update_one({"sku": "K9"}, {"$set": {"priceCents": 1}})
    changed = await product(full, "K9")
    await put_in_search(full, {(await product(full, "K10"))["_id"]: {
        **(search.document(await product(full, "K10")) or {}), "brand": "forged"}})  # fmt: skip
    assert await wrong(full) == set()
    await full.stores.search.refresh(full.settings.search_alias)
    found = await compare.scrub(full, 0, BUCKETS, patience=0)
    assert set(found.suspects) == {changed["_id"], (await product(full, "K10"))["_id"]}
    await compare.repair(full, found.suspects)
    assert (await product(full, "K9"))["priceCents"] == 2500
    assert await equal(full)


async def test_what_inventory_calls_otherwise_than_the_catalog_is_found_by_reading_and_gets_its_name_back(
    full: Shop, staff: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: Any) -> bool:
        raise StoreUnavailable("mongodb")

    async def called(*skus: str) -> list[tuple[str, str | None]]:
        async with full.stores.pg.read() as read:
            items = await inventory.prices(read, skus)
            return [(items[sku].name, items[sku].category) for sku in skus]

    before = await called("K1", "K2")
    with monkeypatch.context() as failing:  # just between inventory and the catalog
        failing.setattr("quartet.catalog.store.replace", gone)
        assert (await staff.patch("/products/K1", json={"name": "Teapot"})).status_code == 503
    put = await staff.put("/inventory/K2", json={"name": "Mine", "unitPriceCents": 2500})
    assert put.status_code == 200, put.text
    await sync.catch_up(full)
    assert [name for name, _ in await called("K1", "K2")] == ["Teapot", "Mine"]
    found = await compare.scrub(full, 0, BUCKETS, patience=0)
    assert set(found.suspects) == {(await product(full, sku))["_id"] for sku in ("K1", "K2")}
    await compare.repair(full, found.suspects)
    assert await called("K1", "K2") == before == [("Kettle K1", "kitchen"), ("Kettle K2", "kitchen")]
    await sync.catch_up(full)
    assert (await compare.scrub(full, 0, BUCKETS, patience=0)).suspects == {}


async def test_one_wrong_product_costs_the_sums_and_its_own_bucket(full: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """No product is read, and no fingerprint of a bucket in which nothing is wrong."""
    asked: list[tuple[str, int, int]] = []
    for room in (catalog, search, store):
        fingerprints = room.fingerprints

        def watched(*args: Any, room: Any = room, fingerprints: Any = fingerprints) -> Any:
            asked.append((room.__name__.split(".")[-1], *args[-2:]))
            return fingerprints(*args)

        monkeypatch.setattr(room, "fingerprints", watched)
    monkeypatch.setattr(catalog, "by_ids", None)
    one = (await product(full, "K11"))["_id"]
    await put_in_search(full, {one: None})
    await full.stores.search.refresh(full.settings.search_alias)
    found = await compare.differing(full, patience=0)
    assert set(found.suspects) == {one}
    its = (bucket(one), bucket(one) + 1)
    assert asked == [("search", *its), ("store", *its), ("catalog", *its)] * 2


async def test_what_is_only_on_its_way_is_no_difference(full: Shop) -> None:
    """Sales, changes and deletions without a pause, carried by a worker, while everything is compared over and over."""
    over = asyncio.Event()

    async def trade() -> None:
        for n in range(10_000):
            if over.is_set():
                return
            sku = SKUS[n % 50]
            async with full.stores.pg.tx() as tx:
                await inventory.move(tx, sku, 1, "received", actor="test")
            await catalog.change_product(
                full, sku, becoming(kettle(sku, name=f"Kettle {n}")), if_match=None, actor="test"
            )
            if n % 10 == 0:
                await catalog.delete_product(full, SKUS[50], if_match=None)
                await add(full, kettle(SKUS[50]))

    async with running(sync.run_worker(full, asyncio.Event())):
        trading = asyncio.create_task(trade())
        looks = [await compare.differing(full) for _ in range(3)]
        over.set()
        await trading
        assert [look.suspects for look in looks] == [{}] * 3
        await soon(lambda: equal(full))
    assert await wrong(full) == set()


async def test_what_only_a_newer_version_carries_is_not_waited_for(full: Shop) -> None:
    await put_in_search(full, {(gone := (await product(full, "K15"))["_id"]): None})
    await full.stores.search.refresh(full.settings.search_alias)
    async with full.stores.pg.tx() as tx:
        await outbox.emit(tx, "order.gift_wrapped", "K15", {})
        later = full.clock.now() + timedelta(hours=1)
        await store.save_position(tx, changes.PIPELINE, None, caught_up_at=later, items=0)
    async with asyncio.timeout(60):
        assert set((await compare.differing(full, patience=600)).suspects) == {gone}


@pytest.mark.parametrize("way", ["sums", "reading"])
async def test_a_worker_finds_what_no_event_told_of(full: Shop, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """What is gone from search by sums, what is not as its fingerprint says by reading, a page of an older version."""

    async def nothing(*_: object, **__: object) -> compare.Comparison:
        return compare.Comparison()

    monkeypatch.setattr(compare, "scrub" if way == "sums" else "differing", nothing)
    monkeypatch.setattr(compare, "SLICE_SECONDS", 0.0)
    quick = full.settings.model_copy(update={"comparison_share": 1.0})
    held, redis = await stored(full), full.stores.redis

    async def page_is_gone() -> bool:
        return bool(await redis.call("EXISTS", "product:K18") == 0)

    async with running(sync.run_worker(replace(full, settings=quick), asyncio.Event())):
        await soon(lambda: has_position(full))  # what a worker does first, the rebuild, is done
        wrong = {held[sku]["id"]: {**held[sku], "brand": "forged"} for sku in ("K12", "K13", "K14")}
        await put_in_search(full, dict.fromkeys(wrong) if way == "sums" else wrong)
        await redis.call("SET", "product:K18", f"{held['K18']['id']} 0 {{}}")
        await soon(lambda: equal(full), 60)
        await soon(page_is_gone, 60)
    assert await differing(full) == set()


async def test_all_is_compared_while_the_cache_is_away(
    full: Shop, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once it is back it is told of what was mended meanwhile, without a look at its pages."""
    cache = Cache(monkeypatch)
    cache.away = True

    async def no_page(*_: Any) -> Any:
        raise StoreUnavailable("redis")

    async def at_once(*_: Any) -> None:
        """There is no worker to wait for."""

    async def are_shown() -> bool:
        names = [(await client.get(f"/products/{sku}")).json()["name"] for sku in some]
        return names == ["Teapot"] * len(some)

    monkeypatch.setattr(catalog, "cached_heads", no_page)
    monkeypatch.setattr(compare, "_wait_until_processed", at_once)
    monkeypatch.setattr(compare, "SLICE_SECONDS", 0.0)
    quick = full.settings.model_copy(update={"comparison_share": 1.0})
    some = [sku for sku, held in (await stored(full)).items() if bucket(held["id"]) >= compare.WIDTH][:3]
    assert not await are_shown()
    for sku in some:
        await rename_behind(full, sku, "Teapot")
    async with running(compare.run(replace(full, settings=quick))):
        await soon(lambda: equal(full), 60)
        assert not await are_shown()
        cache.away = False
        await soon(are_shown, 60)


class RestedError(Exception):
    """The comparison has paused."""


async def test_what_search_refuses_is_no_reason_to_hurry(full: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It differs until somebody decides about it; till then all products would be compared without a pause."""
    await put_in_search(full, {(await product(full, "K13"))["_id"]: None})
    await full.stores.search.refresh(full.settings.search_alias)
    is_mended = False

    async def refuse(engine: SearchEngine, alias: str, version: int, documents: dict[str, Any]) -> list[BulkResult]:
        return [BulkResult(id_, 400, "no such field") for id_ in documents]

    async def arrived(*_: object) -> None:
        """Nothing is under way."""

    async def rest(seconds: float) -> None:
        if is_mended:
            raise RestedError

    async def step(name: str) -> None:
        nonlocal is_mended
        assert not (is_mended and name == "compared"), "it did not pause"
        is_mended = is_mended or name == "mended"

    monkeypatch.setattr(search, "put", refuse)
    monkeypatch.setattr(compare, "_wait_until_processed", arrived)
    monkeypatch.setattr(compare, "asyncio", SimpleNamespace(sleep=rest))
    monkeypatch.setattr(compare, "FEW", 0)
    with pytest.raises(RestedError):
        await compare.run(replace(full, step=step))


async def test_a_shop_without_the_demo_that_is_started_again_has_in_search_what_an_engine_in_memory_lost(
    full: Shop,
) -> None:
    engine = full.stores.search
    await engine.delete_index(await engine.alias_target(full.settings.search_alias) or "")
    await bring_up(full.settings, Console(quiet=True), empty=True)
    assert await wrong(full) == set()
