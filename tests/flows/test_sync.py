"""What changes in the catalog and in inventory reaches search, catalog copies, cache, cart and leaderboard."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from bench.running import renamed
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.asynchronous.collection import AsyncCollection
from stops import Held, Killed, dies_at

from conftest import Command, daily_points, differing, everything
from quartet import cart, catalog, inventory, search, sync
from quartet.catalog import Category, Draft, Variant
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.fingerprints import BUCKETS
from quartet.stores import letters, outbox
from quartet.stores.search import BulkResult
from quartet.sync import changes, products, relay, service, store
from quartet.sync.consumers import TOPICS
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

LAST_YEAR = datetime(2025, 1, 1, tzinfo=UTC)
Json = dict[str, Any]


def kettle(sku: str = "KETTLE", **more: Any) -> Draft:
    """Something to sell."""
    return Draft(**{"sku": sku, "name": f"Kettle {sku}", "category": "kitchen", "price_cents": 2500,
                    "published_at": LAST_YEAR, **more})  # fmt: skip


def becoming(draft: Draft) -> Callable[[dict[str, Any]], Draft]:
    """The edit that makes this of a product, whatever it was."""
    return lambda _: draft


@pytest.fixture
async def kitchen(shop: Shop) -> Shop:
    """A shop with one category."""
    await catalog.put_category(shop, Category("kitchen", "Kitchen", None, {"type": "object"}))
    return shop


async def add(shop: Shop, *drafts: Draft) -> list[str]:
    """Puts them into the catalog; their ids."""
    return [(await catalog.create_product(shop, draft, actor="test"))["_id"] for draft in drafts]


async def stored(shop: Shop) -> dict[str, Json]:
    """What search holds, by SKU."""
    await shop.stores.search.refresh(shop.settings.search_alias)
    found = await search.stored(shop.stores.search, shop.settings.search_alias, "", None, 1000)
    return {document["sku"]: document for document in found.values()}


async def copies(shop: Shop) -> dict[str, int]:
    """How many the catalog says there are, by SKU."""
    return {product["sku"]: product["available"] for product in await everything(shop)}


class Cache:
    """While it is `away` no page in it can be invalidated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away, self._drop = False, catalog.drop_cached
        monkeypatch.setattr(catalog, "drop_cached", self._unless_away)

    async def _unless_away(self, *told: Any) -> None:
        if self.away:
            raise StoreUnavailable("redis")
        await self._drop(*told)


async def equal(shop: Shop) -> bool:
    """Whether search holds what the catalog and inventory say, no more and no less."""
    await shop.stores.search.refresh(shop.settings.search_alias)
    return not await differing(shop)


async def soon(true: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Waits until it is."""
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 — it comes true in another process, or in a store
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Those run meanwhile, and none may end by itself."""
    task = asyncio.create_task(together(*works))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def worker(kitchen: Shop) -> AsyncIterator[None]:
    """A worker works meanwhile."""
    stop = asyncio.Event()
    async with running(sync.run_worker(kitchen, stop)):
        await soon(lambda: has_position(kitchen))
        yield


async def has_position(shop: Shop) -> bool:
    """In the change stream."""
    async with shop.stores.pg.read() as read:
        return await store.position(read, changes.PIPELINE) is not None


# The catalog's changes


async def test_a_page_does_not_wait_for_search(kitchen: Shop, client: httpx.AsyncClient) -> None:
    """Search keeps a batch waiting; the next change is on its page all the same, though only the stream tells of it."""
    held = Held("noted")  # what follows is search
    await add(kitchen, kettle("A"), kettle("B"))
    async with running(changes.follow(kitchen)):
        await soon(lambda: has_position(kitchen))
        await soon(lambda: equal(kitchen))
    async with running(changes.follow(replace(kitchen, step=held.step))):
        await rename_behind(kitchen, "A", "Teapot")
        await asyncio.wait_for(held.reached.wait(), 20)
        assert (await client.get("/products/B")).json()["name"] == "Kettle B"
        assert (await client.get("/products/B")).headers["x-cache"] == "hit"
        await rename_behind(kitchen, "B", "Samovar")
        await soon(lambda: has_name(client, "B", "Samovar"))


async def rename_behind(shop: Shop, sku: str, name: str) -> None:
    """Past the API, which would tell the cache itself."""
    [before] = await shop.stores.mongo.collection(catalog.PRODUCTS).find({"sku": sku})
    assert await renamed(shop.stores.mongo, before, name)


async def has_name(client: httpx.AsyncClient, sku: str, name: str) -> bool:
    """Whether the product's page says so."""
    return bool((await client.get(f"/products/{sku}")).json()["name"] == name)


async def test_what_is_put_in_changed_and_taken_out_is_found_so(kitchen: Shop, worker: None) -> None:
    await add(kitchen, kettle("A"), kettle("B"))
    await soon(lambda: equal(kitchen))
    assert set(await stored(kitchen)) == {"A", "B"}
    await catalog.change_product(
        kitchen, "A", lambda _: kettle("A", name="Teapot", tags=("new",)), if_match=None, actor="test"
    )
    await soon(lambda: equal(kitchen))
    assert (await stored(kitchen))["A"]["name"] == "Teapot"
    await catalog.delete_product(kitchen, "B", if_match=None)
    await soon(lambda: equal(kitchen))
    assert set(await stored(kitchen)) == {"A"}
    await catalog.change_product(kitchen, "A", lambda _: kettle("A", published_at=None), if_match=None, actor="test")
    await soon(lambda: equal(kitchen))
    assert await stored(kitchen) == {}


async def miss_and_come_back(kitchen: Shop) -> None:
    """A goes and B comes while nobody follows; whoever follows again carries both."""
    await add(kitchen, kettle("B"))
    await catalog.delete_product(kitchen, "A", if_match=None)
    assert set(await stored(kitchen)) == {"A"}
    async with running(changes.follow(kitchen)):
        await soon(lambda: equal(kitchen))
    assert set(await stored(kitchen)) == {"B"}


async def test_what_the_worker_missed_while_it_was_away_is_carried_when_it_is_back(kitchen: Shop) -> None:
    async with running(changes.follow(kitchen)):
        await add(kitchen, kettle("A"))
        await soon(lambda: equal(kitchen))
    await miss_and_come_back(kitchen)


async def test_what_changes_after_the_first_rebuild_was_cut_short_is_carried(kitchen: Shop) -> None:
    """It was live, and the worker died before it had written that down, or a position of its own."""

    async def cut(name: str) -> None:
        if name == "live":
            raise StoreUnavailable("postgres")

    await add(kitchen, kettle("A"))
    with pytest.raises(StoreUnavailable):
        await sync.reindex(replace(kitchen, step=cut))
    await miss_and_come_back(kitchen)


async def test_a_write_past_every_room_is_followed_too(kitchen: Shop, worker: None) -> None:
    [id_] = await add(kitchen, kettle("A"))
    await soon(lambda: equal(kitchen))
    collection = kitchen.stores.mongo.collection(catalog.PRODUCTS)
    await collection.update_one({"_id": id_}, {"$set": {"ratings.avg": 4.5}})
    await soon(lambda: equal(kitchen))
    assert (await stored(kitchen))["A"]["rating"] == 4.5
    await collection.delete_one({"_id": id_})
    await soon(lambda: equal(kitchen))
    assert await stored(kitchen) == {}


async def test_events_repeated_and_in_any_order_end_the_same(kitchen: Shop) -> None:
    ids = await add(kitchen, kettle("A"), kettle("B"), kettle("C"))
    await catalog.delete_product(kitchen, "C", if_match=None)
    for order in (ids, ids[::-1], ids + ids[:1], ids[2:] + ids[1:], []):
        await products.sync_products(kitchen, order)
    assert await equal(kitchen)
    assert set(await stored(kitchen)) == {"A", "B"}


async def test_a_slow_batch_does_not_undo_a_newer_one(kitchen: Shop) -> None:
    """The slow one read the product before it was deleted and writes after the deletion was carried."""
    [id_] = await add(kitchen, kettle("A"))
    read, go_on = asyncio.Event(), asyncio.Event()
    slow = asyncio.create_task(_carry_slowly(kitchen, id_, read, go_on))
    await read.wait()
    await catalog.delete_product(kitchen, "A", if_match=None)
    await products.sync_products(kitchen, [id_])
    go_on.set()
    await slow
    assert await stored(kitchen) == {}


async def _carry_slowly(shop: Shop, id_: str, read: asyncio.Event, go_on: asyncio.Event) -> None:
    """`sync_products`, written out so that it can be held up between reading and writing."""
    async with shop.stores.pg.once() as tx:
        batch = await store.begin_batch(tx)
    now = await products.with_current_levels(shop, await catalog.by_ids(shop.stores.mongo, [id_]))
    read.set()
    await go_on.wait()
    [result] = await search.put(
        shop.stores.search, shop.settings.search_alias, batch.version, {id_: search.document(now[id_])}
    )
    assert result.status == 409


async def test_what_search_is_sure_to_hold_is_not_written_again(kitchen: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    [id_] = await add(kitchen, kettle("A"))
    await receive(kitchen, "A", 5)
    put, written = search.put, []

    async def watched(engine: Any, alias: str, version: int, documents: Json) -> list[BulkResult]:
        written.append(set(documents))
        return await put(engine, alias, version, documents)

    monkeypatch.setattr(search, "put", watched)
    for pieces, writes in ((0, 1), (-2, 0), (-3, 1), (0, 0), (1, 1)):
        if pieces:
            await receive(kitchen, "A", pieces)
        written.clear()
        await products.sync_products(kitchen, [id_])
        assert len(written) == writes, pieces
        assert (await stored(kitchen))["A"]["inStock"] == ((await copies(kitchen))["A"] > 0)
    await products.sync_products(kitchen, [id_], cause="doubt")
    assert written[-1] == {id_}


async def receive(shop: Shop, sku: str, pieces: int) -> None:
    """That many more, or fewer; and nobody is told of it."""
    async with shop.stores.pg.tx() as tx:
        await inventory.move(tx, sku, pieces, "adjusted", actor="test")
        await tx.execute("DELETE FROM outbox")


@pytest.mark.parametrize("held", ["read", "noted"])
async def test_a_slow_batch_does_not_undo_what_a_newer_one_left_alone(kitchen: Shop, held: str) -> None:
    """The slow one saw the last piece sold, and writes after it came back: the newer one found search right as it was,
    if the slow one had said nothing yet, and wrote none the less if it had."""
    [id_] = await add(kitchen, kettle("A"))
    await receive(kitchen, "A", 1)
    await products.sync_products(kitchen, [id_])
    await receive(kitchen, "A", -1)
    stop = Held(held)
    slow = asyncio.create_task(products.sync_products(replace(kitchen, step=stop.step), [id_]))
    await stop.reached.wait()
    await receive(kitchen, "A", 1)
    await products.sync_products(kitchen, [id_])
    stop.go_on.set()
    await slow
    assert (await stored(kitchen))["A"]["inStock"]
    # The slow one's copies may be old: then they come back as a change, and are carried once more.
    await products.sync_products(kitchen, [id_])
    assert await equal(kitchen)


async def test_what_was_noted_and_never_acknowledged_is_written_by_the_next(kitchen: Shop) -> None:
    [id_] = await add(kitchen, kettle("A"))
    await products.sync_products(kitchen, [id_])
    await receive(kitchen, "A", 1)
    with pytest.raises(Killed):
        await products._sync_batch(replace(kitchen, step=dies_at("noted")), [id_])
    assert not (await stored(kitchen))["A"]["inStock"]
    await products.sync_products(kitchen, [id_])
    assert await equal(kitchen)
    assert (await stored(kitchen))["A"]["inStock"]


async def test_search_follows_though_its_numbers_are_of_a_time_that_postgresql_has_lost(kitchen: Shop) -> None:
    """PostgreSQL was put back to an earlier point, under an index that has gone on."""
    [id_] = await add(kitchen, kettle("A"))
    await sync.catch_up(kitchen)
    async with kitchen.stores.pg.tx() as tx:
        before = await tx.fetchrow("SELECT * FROM search_known WHERE product_id = $1", id_)
        await tx.execute("SELECT setval('sync_version', $1::bigint + 1000)", before["version"])
    await products.sync_products(kitchen, [id_], cause="doubt")
    async with kitchen.stores.pg.tx() as tx:
        await tx.execute("SELECT setval('sync_version', $1::bigint)", before["version"])
        await tx.execute("UPDATE search_known SET version = $2 WHERE product_id = $1", id_, before["version"])
    await catalog.change_product(kitchen, "A", lambda _: kettle("A", name="Teapot"), if_match=None, actor="test")
    with pytest.raises(StoreUnavailable, match="higher numbers"):
        await products.sync_products(kitchen, [id_])
    await products.sync_products(kitchen, [id_])  # as whoever lacks a store tries again
    assert (await stored(kitchen))["A"]["name"] == "Teapot"
    assert await equal(kitchen)


async def test_what_was_known_of_an_earlier_index_is_not_believed_of_the_next(kitchen: Shop) -> None:
    """It may hold what the rebuild's own batch read before, while a later one wrote to the old index alone."""
    [id_] = await add(kitchen, kettle("A"))
    await sync.catch_up(kitchen)
    await sync.reindex(kitchen)
    lost = {**(await stored(kitchen))["A"], "inStock": True}
    await search.put(kitchen.stores.search, kitchen.settings.search_alias, 10**6, {id_: lost})
    async with kitchen.stores.pg.tx() as tx:
        await tx.execute("SELECT setval('sync_version', 2000000)")
    await products.sync_products(kitchen, [id_])
    assert not (await stored(kitchen))["A"]["inStock"]


async def test_our_own_copies_do_not_come_back_as_changes_where_search_needs_nothing(kitchen: Shop) -> None:
    ids = set(await add(kitchen, kettle("A"), kettle("B")))
    for sku in ("A", "B"):
        await receive(kitchen, sku, 3)
    await products.sync_products(kitchen, ids)  # by which its own copies are done with
    assert await products.without_echoes(kitchen, ids) == set()
    await receive(kitchen, "A", -1)
    await receive(kitchen, "B", -3)
    await products.sync_copies(kitchen, ids)
    [sold_out] = await products.without_echoes(kitchen, ids)
    assert (await catalog.find(kitchen.stores.mongo, "B") or {})["_id"] == sold_out
    await products.sync_products(kitchen, [sold_out])
    assert await equal(kitchen)
    await catalog.change_product(kitchen, "A", lambda _: kettle("A", name="Teapot"), if_match=None, actor="test")
    await catalog.delete_product(kitchen, "B", if_match=None)
    assert await products.without_echoes(kitchen, ids) == ids


async def test_who_writes_past_every_room_after_our_copies_is_followed_too(
    kitchen: Shop, client: httpx.AsyncClient
) -> None:
    """Though the version is left as we wrote it: our own write came back before."""
    [id_] = ids = set(await add(kitchen, kettle("A")))
    await products.sync_products(kitchen, ids)
    await receive(kitchen, "A", 3)
    await products.sync_copies(kitchen, ids)
    await products.sync_products(kitchen, await products.without_echoes(kitchen, ids))
    await receive(kitchen, "A", -1)
    await products.sync_copies(kitchen, ids)
    assert await products.without_echoes(kitchen, ids) == set()
    assert await has_name(client, "A", "Kettle A")
    await kitchen.stores.mongo.collection(catalog.PRODUCTS).update_one({"_id": id_}, {"$set": {"name": "Teapot"}})
    await products.sync_products(kitchen, await products.without_echoes(kitchen, ids))
    assert (await stored(kitchen))["A"]["name"] == "Teapot"
    assert await has_name(client, "A", "Teapot")


async def test_what_the_cache_knows_of_our_copies_it_is_not_told_again(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But of what somebody else changed just before it is: an old name may stand for an old page."""
    ids = set(await add(kitchen, kettle("A"), kettle("B")))
    drop, told = catalog.drop_cached, list[set[str]]()

    async def watched(shop: Shop, changed: Any, present: Any) -> None:
        told.append(set(changed))
        await drop(shop, changed, present)

    monkeypatch.setattr(catalog, "drop_cached", watched)
    await products.invalidate_cache(kitchen, ids)
    for sku in ("A", "B"):
        await receive(kitchen, sku, 3)
    await products.sync_copies(kitchen, ids)
    await products.invalidate_cache(kitchen, ids)
    assert told == [ids, set()]
    await rename_behind(kitchen, "A", "Teapot")
    await receive(kitchen, "A", 3)
    await products.sync_copies(kitchen, ids)
    await products.invalidate_cache(kitchen, ids)
    [renamed_id] = told[-1]
    assert (await catalog.find(kitchen.stores.mongo, "A") or {})["_id"] == renamed_id
    await catalog.delete_product(kitchen, "B", if_match=None)
    await products.invalidate_cache(kitchen, ids)
    assert told[-1] == ids - {renamed_id}


async def test_what_is_remembered_of_products_is_bounded(kitchen: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a worker carries."""
    monkeypatch.setattr(products, "_MOST_REMEMBERED", 3)
    few = replace(kitchen, settings=kitchen.settings.model_copy(update={"sync_batch": 2}))
    ids = await add(kitchen, *(kettle(f"K{n}") for n in range(9)))
    for n in range(9):
        await receive(kitchen, f"K{n}", 1)
    for start in range(0, 9, 2):
        await products.sync_products(few, ids[start : start + 2])
        memory = products._memory(few)
        assert 0 < len(memory.invalidated) <= 3 + 2
        assert 0 < len(memory.own_writes) <= 3 + 2


async def test_two_workers_at_once_do_no_harm(kitchen: Shop) -> None:
    """Both follow everything, as two do for the moment in which one takes the other for dead."""
    async with running(
        changes.follow(kitchen), changes.follow(kitchen), _relay_for_ever(kitchen), _relay_for_ever(kitchen)
    ):
        skus = [f"K{i}" for i in range(12)]
        await add(kitchen, *(kettle(sku) for sku in skus))
        for round_ in range(3):
            for sku in skus[round_::3]:
                async with kitchen.stores.pg.tx() as tx:
                    await inventory.move(tx, sku, 5 + round_, "received", actor="test")
            await catalog.delete_product(kitchen, skus[round_], if_match=None)
        await soon(lambda: equal(kitchen))
    assert await copies(kitchen) == {sku: 5 + i % 3 for i, sku in enumerate(skus) if i > 2}


async def _relay_for_ever(shop: Shop) -> None:
    while True:
        await relay.relay(shop)
        await asyncio.sleep(0.02)


async def test_two_workers_share_the_work_and_one_does_all_of_it_when_it_is_alone(kitchen: Shop) -> None:
    async with running(sync.run_worker(kitchen, asyncio.Event())):
        await soon(lambda: has_position(kitchen))
        async with running(sync.run_worker(kitchen, asyncio.Event())):
            await add(kitchen, kettle("A"))
            await soon(lambda: equal(kitchen))
    async with running(sync.run_worker(kitchen, asyncio.Event())):
        await add(kitchen, kettle("B"))
        await soon(lambda: equal(kitchen))
    assert set(await stored(kitchen)) == {"A", "B"}


# Price and stock


async def test_price_and_stock_reach_the_catalogs_copies_its_page_and_search(
    kitchen: Shop, worker: None, client: httpx.AsyncClient
) -> None:
    tee = kettle("TEE", price_cents=None, variants=(Variant("TEE-S", {"size": "S"}, 900), Variant("TEE-L", {}, 1100)))
    await add(kitchen, tee)
    await soon(lambda: equal(kitchen))
    assert (await client.get("/products/TEE-L")).json()["available"] == 0
    async with kitchen.stores.pg.tx() as tx:
        await inventory.put(tx, "TEE-L", "Tee, L", 700, currency="GBP", actor="test", stock=4)
        await inventory.put(tx, "TEE-S", "Tee, S", 950, currency="GBP", actor="test", stock=1)

    async def shown() -> bool:
        page = (await client.get("/products/TEE-L")).json()
        return (page["priceCents"], page["available"]) == (700, 5)

    await soon(shown)
    await soon(lambda: equal(kitchen))
    document = (await stored(kitchen))["TEE"]
    assert (document["priceCents"], document["inStock"]) == (700, True)
    found = (await client.get("/search", params={"inStock": "true", "maxPrice": 700})).json()
    assert [item["sku"] for item in found["items"]] == ["TEE"]


async def test_differences_that_no_event_told_of_are_found_by_comparing(kitchen: Shop) -> None:
    ids = await add(kitchen, kettle("A"), kettle("B"), kettle("C"))
    await products.sync_products(kitchen, ids)
    alias = kitchen.settings.search_alias
    ghost = {**(await stored(kitchen))["A"], "id": "ghost", "sku": "GHOST"}
    await search.put(kitchen.stores.search, alias, 10**6, {"ghost": ghost, ids[1]: None})
    async with kitchen.stores.pg.tx() as tx:
        await inventory.move(tx, "C", 9, "received", actor="test")
        await tx.execute("DELETE FROM outbox")
        await tx.execute("SELECT setval('sync_version', 2000000)")
    await kitchen.stores.search.refresh(alias)
    assert await differing(kitchen) == {"ghost", ids[1], ids[2]}
    await sync.catch_up(kitchen)
    assert await equal(kitchen)
    assert (await stored(kitchen))["C"]["inStock"]
    assert await copies(kitchen) == {"A": 0, "B": 0, "C": 9}


# The outbox


async def test_a_paid_order_empties_the_cart_of_it_once_and_gives_points_once(
    kitchen: Shop, shopper: httpx.AsyncClient
) -> None:
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    await add(kitchen, kettle("A"))
    redis = kitchen.stores.redis
    assert (await shopper.post("/cart/items", json={"sku": "A", "qty": 5})).status_code == 200
    order_id = str(uuid4())
    confirmed = {"order_id": order_id, "user_id": str(user_id), "currency": "GBP", "total_cents": 4999,
                 "items": [{"sku": "A", "qty": 2}, {"sku": "A", "qty": 1}]}  # fmt: skip
    async with kitchen.stores.pg.tx() as tx:
        await outbox.emit(tx, "order.placed", order_id, confirmed)
        await outbox.emit(tx, "order.confirmed", order_id, confirmed)
    async with kitchen.stores.pg.read() as read:
        event = next(e for e in await outbox.due(read, 50, topics=TOPICS) if e.topic == "order.confirmed")
    await sync.catch_up(kitchen)
    async with kitchen.stores.pg.tx() as tx:  # and the same event once more
        await outbox.requeue(tx, event.event_id, event.topic, event.key, event.payload)
    await sync.catch_up(kitchen)
    assert await cart.lines(redis, user_id) == {"A": 2}
    assert await daily_points(kitchen, user_id) == 49
    async with kitchen.stores.pg.read() as read:
        assert (await outbox.depth(read))[0] == 0


async def test_an_event_nobody_can_carry_waits_longer_each_time_and_then_lies_dead(
    kitchen: Shop, admin: httpx.AsyncClient
) -> None:
    bought = {"order_id": "o1", "user_id": "nobody"}
    async with kitchen.stores.pg.tx() as tx:
        await outbox.emit(tx, "order.confirmed", "o1", bought)
        await outbox.emit(tx, "order.confirmed", "o1", bought | {"second": True})
        await outbox.emit(tx, "order.placed", "o2", {})
    waits: list[Any] = []
    for _ in range(relay.ATTEMPTS):
        await relay.relay(kitchen)
        async with kitchen.stores.pg.tx() as tx:
            rows = await tx.fetch(
                "SELECT key, attempts, extract(epoch FROM not_before - now()) AS wait FROM outbox ORDER BY id"
            )
            await tx.execute("UPDATE outbox SET not_before = now() WHERE attempts > 0")
        waits.append(rows[0]["wait"] if rows[0]["attempts"] else None)
        # The second of the same key has not overtaken the first; another key's was not held up.
        assert [row["key"] for row in rows] == ["o1"] * len(rows)
        assert rows[-1]["attempts"] == 0
    assert waits[-1] is None
    assert all(later > earlier for earlier, later in itertools.pairwise(waits[:-1]))
    state = (await admin.get("/sync")).json()
    assert state["deadLetters"] == 1
    assert "nobody" in state["letters"][0]["payload"]["payload"]["user_id"]
    assert "ValueError" in state["letters"][0]["reason"]
    replayed = await admin.post("/sync/dead-letters/replay")
    assert (replayed.status_code, replayed.json()) == (200, {"replayed": 1})
    async with kitchen.stores.pg.read() as read:
        assert (await outbox.depth(read))[0] == 2


async def test_what_follows_an_event_that_is_to_be_tried_later_waits_as_long_and_no_other_key_does(
    kitchen: Shop,
) -> None:
    async with kitchen.stores.pg.tx() as tx:
        await outbox.emit(tx, "order.confirmed", "o1", {"order_id": "o1", "user_id": "nobody"})
    assert await relay.relay(kitchen) == 1
    async with kitchen.stores.pg.tx() as tx:
        await tx.execute("UPDATE outbox SET not_before = now() + interval '1 hour'")
        for key in ("o1", "o2"):
            await outbox.emit(tx, "order.placed", key, {})
    assert await relay.relay(kitchen) == 1
    async with kitchen.stores.pg.read() as read:
        left = await read.fetch("SELECT topic, key FROM outbox ORDER BY id")
    assert [tuple(row) for row in left] == [("order.confirmed", "o1"), ("order.placed", "o1")]


async def test_what_this_version_does_not_know_waits_for_one_that_does_and_holds_up_nothing(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waiting() -> list[tuple[str, int]]:
        async with kitchen.stores.pg.read() as read:
            rows = await read.fetch("SELECT topic, attempts FROM outbox WHERE key = 'A' ORDER BY id")
            return [(row["topic"], row["attempts"]) for row in rows]

    async with kitchen.stores.pg.tx() as tx:
        for topic in ("stock.counted", "price.changed", "stock.changed"):
            await outbox.emit(tx, topic, "A", {"sku": "A"})
    await sync.catch_up(kitchen)
    assert await waiting() == [("stock.counted", 0)]
    monkeypatch.setattr(relay, "TOPICS", TOPICS | {"stock.counted"})
    await sync.catch_up(kitchen)
    assert await waiting() == []


async def test_all_that_waits_of_a_product_is_one_batch_and_orders_keep_their_turn(kitchen: Shop) -> None:
    """A burst of prices is over the sooner the longer it has waited, and no order's e-mail comes before its time."""
    async with kitchen.stores.pg.tx() as tx:
        for number in range(3):
            for _ in range(4):
                await outbox.emit(tx, "stock.changed", "A", {"sku": "A"})
            order = {"order_id": f"o{number}", "user_id": "nobody"}
            await outbox.emit(tx, "order.placed", f"o{number}", {})
            await outbox.emit(tx, "order.confirmed", f"o{number}", order)
    few = replace(kitchen, settings=kitchen.settings.model_copy(update={"sync_batch": 3}))
    assert await relay.relay(few) == 4 + 2 + 4 + 2 + 4
    async with kitchen.stores.pg.tx() as tx:
        left = await tx.fetch("SELECT topic, key, attempts FROM outbox ORDER BY id")
    assert [(row["topic"], row["key"], row["attempts"]) for row in left] == [
        ("order.confirmed", "o0", 1),
        ("order.confirmed", "o1", 1),
        ("order.placed", "o2", 0),
        ("order.confirmed", "o2", 0),
    ]


async def test_a_burst_is_carried_by_the_product_and_the_oldest_first(kitchen: Shop) -> None:
    """Else what changes while all products of a burst are carried waits for the next time round through all of them."""
    async with kitchen.stores.pg.tx() as tx:
        for _ in range(3):
            for sku in "DBCA":
                await outbox.emit(tx, "stock.changed", sku, {"sku": sku})
                await outbox.emit(tx, "price.changed", sku, {"sku": sku})
    few = replace(kitchen, settings=kitchen.settings.model_copy(update={"sync_batch": 2}))
    assert await relay.relay(few) == 2 * 3 * 2
    async with kitchen.stores.pg.tx() as tx:
        await outbox.emit(tx, "stock.changed", "D", {"sku": "D"})
        assert [row["key"] for row in await tx.fetch("SELECT key FROM outbox ORDER BY id")] == [*"CCAA" * 3, "D"]
    assert await relay.relay(few) == 2 * 3 * 2
    assert await relay.relay(few) == 1


async def test_a_long_queue_is_read_from_its_beginning_and_not_whole(shop: Shop) -> None:
    """Else each batch would take the longer the more waits, and one day longer than a statement may."""
    async with shop.stores.pg.tx() as tx:
        await tx.execute(
            """INSERT INTO outbox (topic, key, payload, attempts, not_before)
               SELECT 'stock.changed', 'SKU-' || n % 50000, '{}', (n % 25 = 0)::int,
                      now() + (n % 25 = 0)::int * interval '1 hour'
               FROM generate_series(1, 200000) AS n"""
        )
        await tx.execute("ANALYZE outbox")
        for mode in ("force_custom_plan", "force_generic_plan"):
            await tx.execute(f"SET LOCAL plan_cache_mode = {mode}")
            for parts in ([1], list(range(outbox.PARTS))):
                asked = (500, parts, outbox.PARTS, ["order.confirmed"], 20_000, list(TOPICS))
                found = await tx.fetch("EXPLAIN " + outbox.q.due, *asked)
                plan = "\n".join(row[0] for row in found)
                assert "using outbox_pkey on outbox event" in plan and "Seq Scan on outbox event" not in plan, plan


async def test_a_store_that_is_away_costs_an_event_no_attempt(kitchen: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async with kitchen.stores.pg.tx() as tx:
        await outbox.emit(tx, "stock.changed", "A", {"sku": "A"})
    await add(kitchen, kettle("A"))

    async def away(*_: Any) -> None:
        raise StoreUnavailable("redis")

    with monkeypatch.context() as patched:
        patched.setattr(catalog, "renew_cached", away)
        for _ in range(relay.ATTEMPTS + 2):
            await relay.relay(kitchen)
        async with kitchen.stores.pg.tx() as tx:
            await tx.execute("UPDATE outbox SET not_before = now()")
    async with kitchen.stores.pg.read() as read:
        events = await outbox.due(read, 10, topics=TOPICS)
    assert {event.attempts for event in events} == {1}
    await sync.catch_up(kitchen)
    assert await equal(kitchen)
    async with kitchen.stores.pg.read() as read:
        assert await letters.counts(read) == {}


# What the engine refuses


async def test_what_search_refuses_lies_dead_with_a_reason_and_can_be_replayed(
    kitchen: Shop, admin: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    bad, good, broken = await add(kitchen, kettle("BAD"), kettle("GOOD"), kettle("BROKEN"))
    collection = kitchen.stores.mongo.collection(catalog.PRODUCTS)
    await collection.update_one({"_id": bad}, {"$set": {"ratings.avg": "very good"}})
    await collection.update_one({"_id": broken}, {"$unset": {"slug": 1}})
    assert await products.sync_products(kitchen, [bad, good, broken]) == {bad, broken}
    assert set(await stored(kitchen)) == {"GOOD"}
    assert await products.sync_products(kitchen, [bad]) == {bad}  # again: refused again, and still one letter
    state = (await staff.get("/sync")).json()
    assert {letter["key"]: letter["reason"].split(":")[0] for letter in state["letters"]} == {
        bad: "400", broken: "KeyError"
    }  # fmt: skip
    await collection.update_one({"_id": bad}, {"$set": {"ratings.avg": 4.5}})
    assert (await admin.post("/sync/dead-letters/replay")).json() == {"replayed": 2}
    assert set(await stored(kitchen)) == {"GOOD", "BAD"}
    assert [letter["key"] for letter in (await staff.get("/sync")).json()["letters"]] == [broken]
    assert (await staff.post("/sync/dead-letters/replay")).status_code == 403


async def test_what_stays_refused_is_not_in_the_way_of_other_dead_letters(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many a replay takes some, and the next one the others."""
    broken, mended = await add(kitchen, kettle("BROKEN"), kettle("MENDED"))
    collection = kitchen.stores.mongo.collection(catalog.PRODUCTS)
    for id_ in (broken, mended):
        await collection.update_one({"_id": id_}, {"$set": {"ratings.avg": "very good"}})
        await products.sync_products(kitchen, [id_])
    await collection.update_one({"_id": mended}, {"$set": {"ratings.avg": 4.5}})
    monkeypatch.setattr(service, "REPLAYED", 1)
    assert [await sync.replay_dead_letters(kitchen, "test") for _ in range(2)] == [1, 1]
    assert set(await stored(kitchen)) == {"MENDED"}
    assert [letter.key for letter in await sync.dead_letters(kitchen, 20)] == [broken]


async def test_dead_letters_are_listed_replayed_and_dropped_by_command(kitchen: Shop, command: Command) -> None:
    mended, broken = await add(kitchen, kettle("MENDED"), kettle("BROKEN"))
    assert await command("dead-letters", "list") == (0, "there are none\n")
    collection = kitchen.stores.mongo.collection(catalog.PRODUCTS)
    await collection.update_one({"_id": mended}, {"$set": {"ratings.avg": "very good"}})
    await collection.update_one({"_id": broken}, {"$unset": {"slug": 1}})
    await products.sync_products(kitchen, [mended, broken])
    async with kitchen.stores.pg.read() as read:
        buried = {letter.key: letter for letter in await letters.newest(read, 20)}
    code, said = await command("dead-letters", "list")
    assert (code, len(said.splitlines())) == (0, 2)
    assert all(f"{letter.id}  " in said and f"{key}    {letter.reason}" in said for key, letter in buried.items())
    await collection.update_one({"_id": mended}, {"$set": {"ratings.avg": 4.5}})
    code, said = await command("dead-letters", "replay")  # and logs which can't be carried
    assert (code, said.splitlines()[-1]) == (0, "2 taken up again")
    assert set(await stored(kitchen)) == {"MENDED"}
    [left] = await sync.dead_letters(kitchen, 20)
    assert await command("dead-letters", "drop", str(left.id)) == (0, f"dropped search {broken}\n")
    assert await sync.dead_letters(kitchen, 20) == []
    assert (await command("dead-letters", "drop", str(left.id)))[0] == 1


async def test_a_product_that_can_be_read_again_lies_dead_no_more(kitchen: Shop) -> None:
    """Though search holds of it what it held before, so that there is nothing to write."""
    [id_] = await add(kitchen, kettle("A"))
    await products.sync_products(kitchen, [id_])
    collection = kitchen.stores.mongo.collection(catalog.PRODUCTS)
    [sound] = await collection.find({"_id": id_})
    await collection.replace_one({"_id": id_}, {name: held for name, held in sound.items() if name != "slug"})
    assert await products.sync_products(kitchen, [id_]) == {id_}
    await collection.replace_one({"_id": id_}, sound)
    assert await products.sync_products(kitchen, [id_]) == set()
    async with kitchen.stores.pg.read() as read:
        assert await letters.counts(read) == {}


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a batch rests between its tries, which is drawn; without the waiting."""
    drawn: list[float] = []
    rested: list[float] = []

    def draw(_low: float, high: float) -> float:
        drawn.append(high / 3)
        return drawn[-1]

    async def rest(seconds: float) -> None:
        rested.append(seconds)
        assert rested == drawn

    monkeypatch.setattr(products, "random", SimpleNamespace(uniform=draw))
    monkeypatch.setattr(products, "asyncio", SimpleNamespace(sleep=rest))
    return rested


@pytest.mark.parametrize("status", [403, 429, 503])
async def test_a_busy_engine_is_asked_again(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch, rests: list[float], status: int
) -> None:
    """The engine under load, with a shard that moves or an index closed to writes, refuses some items for now; they go
    in at a later try, the others are not sent twice."""
    ids = await add(kitchen, kettle("A"), kettle("B"))
    put, sent = search.put, []

    async def busy(engine: Any, alias: str, version: int, documents: Json) -> list[BulkResult]:
        sent.append(set(documents))
        if len(sent) > 2:
            return await put(engine, alias, version, documents)
        taken = await put(engine, alias, version, {ids[0]: documents[ids[0]]}) if ids[0] in documents else []
        return [*taken, BulkResult(ids[1], status, "not now")]

    monkeypatch.setattr(search, "put", busy)
    assert await products.sync_products(kitchen, ids) == set()
    assert sent == [set(ids), {ids[1]}, {ids[1]}]
    assert 0 < rests[0] < rests[1]
    assert await equal(kitchen)


async def test_what_an_engine_that_stays_busy_does_not_take_is_no_dead_letter(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch, rests: list[float]
) -> None:
    """It is as if the engine were away: all is done again from the saved position."""
    ids = await add(kitchen, kettle("A"))

    async def busy(_engine: Any, _alias: str, _version: int, documents: Json) -> list[BulkResult]:
        return [BulkResult(id_, 429, "queue is full") for id_ in documents]

    with monkeypatch.context() as patched:
        patched.setattr(search, "put", busy)
        with pytest.raises(StoreUnavailable):
            await products.sync_products(kitchen, ids)
    assert len(rests) > 2
    async with kitchen.stores.pg.read() as read:
        assert await letters.counts(read) == {}
    assert await products.sync_products(kitchen, ids) == set()
    assert await equal(kitchen)


# The rebuild


async def test_a_rebuild_leaves_nothing_out_that_changes_meanwhile(kitchen: Shop) -> None:
    await add(kitchen, *(kettle(f"K{i}") for i in range(30)))
    await sync.catch_up(kitchen)
    old = await kitchen.stores.search.alias_target(kitchen.settings.search_alias)
    loop = asyncio.get_running_loop()
    meanwhile: list[asyncio.Task[None]] = []

    async def change() -> None:
        for i in range(0, 30, 3):
            await catalog.delete_product(kitchen, f"K{i}", if_match=None)
            await add(kitchen, kettle(f"N{i}"))

    async def sell() -> None:
        while not built.is_set():
            async with kitchen.stores.pg.tx() as tx:
                await inventory.move(tx, "K1", 1, "received", actor="test")
            await relay.relay(kitchen)

    built = asyncio.Event()

    async def step(name: str) -> None:
        if name == "made":
            meanwhile.extend((loop.create_task(change()), loop.create_task(sell())))

    async with running(changes.follow(kitchen)):
        await soon(lambda: has_position(kitchen))
        watched = replace(kitchen, step=step)
        rebuild = await sync.reindex(watched)
        built.set()
        await asyncio.gather(*meanwhile)
        await soon(lambda: equal(kitchen))
    assert rebuild.state == "done"
    assert 20 <= rebuild.done <= 40  # what came or went meanwhile was met or not
    new = await kitchen.stores.search.alias_targets(f"{kitchen.settings.search_alias}-all")
    assert len(new) == 2  # the live one, and the one before it
    assert old not in new
    assert len(await stored(kitchen)) == 30


@pytest.mark.parametrize("before", [1, 2])
async def test_a_batch_that_a_rebuild_overtakes_reaches_the_new_index_all_the_same(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """The alias moves on between its two writes; or before both, then nothing is left that is being built."""
    [id_] = await add(kitchen, kettle("GOES"))
    await sync.catch_up(kitchen)
    index = await search.build_next(kitchen.stores.search, kitchen.settings)
    async with kitchen.stores.pg.tx() as tx:
        rebuild = await store.ask_rebuild(tx, "test")
        await store.begin_rebuild(tx, rebuild, index, 1)
    assert await products.fill(kitchen, 0, BUCKETS, asyncio.Semaphore(1)) == (1, set())
    await catalog.delete_product(kitchen, "GOES", if_match=None)
    put, coming = search.put, search.next_alias(kitchen.settings)

    async def overtaken(engine: Any, alias: str, version: int, documents: Json) -> list[BulkResult]:
        calls.append(alias)
        if len(calls) == before and await engine.alias_targets(coming):
            await search.go_live(engine, kitchen.settings, index)
        return await put(engine, alias, version, documents)

    calls: list[str] = []

    monkeypatch.setattr(search, "put", overtaken)
    assert await products.sync_products(kitchen, [id_]) == set()
    assert await kitchen.stores.search.alias_target(kitchen.settings.search_alias) == index
    assert await stored(kitchen) == {}


async def test_a_rebuild_ends_though_a_product_never_stands_still(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(kitchen, kettle("HOT"))
    await sync.catch_up(kitchen)
    prices = inventory.prices

    prices_of = itertools.count(2501)

    async def dearer_meanwhile(read: Any, skus: Any) -> Any:
        async with kitchen.stores.pg.tx() as tx:
            await inventory.put(tx, "HOT", "Hot", next(prices_of), currency="GBP", actor="test")
        return await prices(read, skus)

    with monkeypatch.context() as patched:
        patched.setattr(inventory, "prices", dearer_meanwhile)
        rebuild = await sync.reindex(kitchen)
    assert rebuild.state == "done"
    await sync.catch_up(kitchen)
    assert await equal(kitchen)
    assert set(await stored(kitchen)) == {"HOT"}


async def test_a_lost_position_and_a_lost_index_are_made_good(kitchen: Shop) -> None:
    async with running(sync.run_worker(kitchen, asyncio.Event())):
        await add(kitchen, kettle("A"))
        await soon(lambda: equal(kitchen))
    alias = kitchen.settings.search_alias
    for name in await kitchen.stores.search.alias_targets(f"{alias}-all"):
        await kitchen.stores.search.delete_index(name)
    async with kitchen.stores.pg.tx() as tx:
        await store.discard_position(tx, changes.PIPELINE)

    async def whole() -> bool:
        with suppress(Exception):
            return await equal(kitchen)
        return False

    async with running(sync.run_worker(kitchen, asyncio.Event())):
        await soon(whole)
        for name in await kitchen.stores.search.alias_targets(f"{alias}-all"):
            await kitchen.stores.search.delete_index(name)  # and once more, under a worker that runs
        await soon(whole)


async def test_what_changes_while_a_lost_position_is_made_good_is_found_meanwhile(kitchen: Shop) -> None:
    async def is_found() -> bool:
        return str((await stored(kitchen))["A"]["name"]) == "Teapot"

    await add(kitchen, kettle("A"))
    await sync.catch_up(kitchen)
    held = Held("filled")
    async with running(changes.follow(replace(kitchen, step=held.step))):
        await asyncio.wait_for(held.reached.wait(), 20)
        await rename_behind(kitchen, "A", "Teapot")
        await soon(is_found)
        assert not await has_position(kitchen)  # or what changed before would be lost with this worker
        held.go_on.set()
        await soon(lambda: has_position(kitchen))
        assert await is_found()
        await soon(lambda: equal(kitchen))


async def test_a_lost_position_is_made_good_while_the_cache_is_away(
    kitchen: Shop, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of what changed meanwhile the cache is told afterwards."""
    away, drop = asyncio.Event(), products._drop_pages

    async def fails_meanwhile(*told: Any) -> None:
        if await is_rebuilt(kitchen):
            return await drop(*told)
        away.set()
        raise StoreUnavailable("redis")

    await add(kitchen, kettle("A"))
    await sync.catch_up(kitchen)
    assert await has_name(client, "A", "Kettle A")
    monkeypatch.setattr(products, "_drop_pages", fails_meanwhile)
    held = Held("filled")
    async with running(changes.follow(replace(kitchen, step=held.step))):
        await asyncio.wait_for(held.reached.wait(), 20)
        await rename_behind(kitchen, "A", "Teapot")
        await asyncio.wait_for(away.wait(), 20)
        assert await has_name(client, "A", "Kettle A")
        held.go_on.set()
        await soon(lambda: has_position(kitchen))
        await soon(lambda: has_name(client, "A", "Teapot"))
        await soon(lambda: equal(kitchen))


@pytest.mark.parametrize("killed", [False, True])
async def test_search_follows_while_the_cache_is_away(
    kitchen: Shop, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, *, killed: bool
) -> None:
    """Not only the first batch; and the cache is told of all of it once it is back, by this worker or the next."""
    cache, skus = Cache(monkeypatch), [f"K{n}" for n in range(9)]

    async def is_shown() -> bool:
        return all([await has_name(client, sku, f"Teapot {sku}") for sku in skus])

    few = replace(kitchen, settings=kitchen.settings.model_copy(update={"sync_batch": 2}))
    await add(kitchen, *map(kettle, skus))
    async with running(changes.follow(few)):
        await soon(lambda: has_position(kitchen))
        await soon(lambda: equal(kitchen))
        assert all([await has_name(client, sku, f"Kettle {sku}") for sku in skus])
        cache.away = True
        for sku in skus:
            await rename_behind(kitchen, sku, f"Teapot {sku}")
        await soon(lambda: equal(kitchen))
        assert not await is_shown()
        if not killed:
            cache.away = False
            await soon(is_shown)
    cache.away = False
    async with running(changes.follow(few)):
        await soon(is_shown)
        now = kitchen.clock.now()
        await soon(lambda: is_caught_up(kitchen, now))


async def test_stock_is_copied_while_the_cache_is_away(kitchen: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only that of the first batch."""

    async def fails(*_: Any) -> None:
        raise StoreUnavailable("redis")

    ids = await add(kitchen, *map(kettle, "ABC"))
    for sku in "ABC":
        await receive(kitchen, sku, 7)
    monkeypatch.setattr(catalog, "renew_cached", fails)
    few = replace(kitchen, settings=kitchen.settings.model_copy(update={"sync_batch": 1}))
    with pytest.raises(StoreUnavailable):
        await products.sync_copies(few, ids)
    assert set((await copies(kitchen)).values()) == {7}


async def test_the_cache_is_told_what_it_missed_while_no_position_may_be_saved(
    kitchen: Shop, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild after a lost position may take long."""
    cache = Cache(monkeypatch)
    monkeypatch.setattr(changes, "SAVE_SECONDS", 0.0)
    (id_,) = await add(kitchen, kettle("A"))
    assert await has_name(client, "A", "Kettle A")
    await rename_behind(kitchen, "A", "Teapot")
    buffer = changes.ChangeBuffer(kitchen.clock)
    buffer.add(id_, "a position")
    cache.away = True
    await changes.process_batch(kitchen, buffer, saves=False)
    assert await has_name(client, "A", "Kettle A")
    cache.away = False
    await changes.process_batch(kitchen, buffer, saves=False)
    assert await has_name(client, "A", "Teapot")
    assert not await has_position(kitchen)


async def test_no_position_is_saved_past_what_was_put_back(kitchen: Shop) -> None:
    buffer = changes.ChangeBuffer(kitchen.clock)
    for token, id_ in enumerate("ABC"):
        buffer.add(id_, token)
    failed, _, _ = buffer.take(2)
    buffer.requeue(failed)
    taken = [buffer.take(1) for _ in range(3)]
    assert [token for _, token, _ in taken] == [None, 1, 2]
    assert taken[2][0] == {"C"}


async def test_no_more_pages_are_owed_to_the_cache_than_may_wait(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker would grow with the outage; all of it is done again later, since no position was saved."""
    Cache(monkeypatch).away = True
    few = replace(kitchen, settings=kitchen.settings.model_copy(update={"sync_batch": 1, "sync_waiting": 1}))
    buffer = changes.ChangeBuffer(kitchen.clock)
    for token, id_ in enumerate(await add(kitchen, kettle("A"), kettle("B"))):
        buffer.add(id_, token)
    await changes.process_batch(few, buffer)
    with pytest.raises(StoreUnavailable):
        await changes.process_batch(few, buffer)
    assert not await has_position(kitchen)
    assert await equal(kitchen)


async def is_caught_up(shop: Shop, with_what_was_at: datetime) -> bool:
    """Whether a position after that moment is saved."""
    async with shop.stores.pg.read() as read:
        found = await store.caught_up(read)
    return found is not None and found > with_what_was_at


async def is_rebuilt(shop: Shop) -> bool:
    """Whether the last rebuild is done."""
    async with shop.stores.pg.read() as read:
        last = await store.last_rebuild(read)
    return last is not None and last.state == "done"


async def test_a_catalog_that_was_dropped_and_put_back_is_followed_anew(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MongoDB tells whoever comes from before the drop of it, if asked to, and ends the stream, each time again."""
    async with running(sync.run_worker(kitchen, asyncio.Event())):
        await add(kitchen, kettle("A"))
        await soon(lambda: equal(kitchen))
        await soon(lambda: has_position(kitchen))
    watch, try_next = AsyncCollection.watch, AsyncChangeStream.try_next
    untold: list[Any] = []

    async def from_before(self: Any, pipeline: Any, *, resume_after: Any, **more: Any) -> Any:
        stream = await watch(self, pipeline, resume_after=resume_after, **more)
        if resume_after is not None:
            untold.append(stream) if "invalidate" in str(pipeline) else await stream.close()
        return stream

    async def or_the_end(self: Any) -> Any:
        if self not in untold:
            return await try_next(self)
        await self.close()
        return {"_id": self.resume_token, "operationType": "invalidate"}

    monkeypatch.setattr(AsyncCollection, "watch", from_before)
    monkeypatch.setattr(AsyncChangeStream, "try_next", or_the_end)
    await changes.follow(kitchen)
    assert not await has_position(kitchen)
    async with running(changes.follow(kitchen)):
        await soon(lambda: has_position(kitchen))
        await add(kitchen, kettle("B"))
        await soon(lambda: equal(kitchen))


async def test_a_rebuild_that_is_asked_for_is_done_once(
    kitchen: Shop, worker: None, staff: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    await add(kitchen, kettle("A"))
    assert (await staff.post("/sync/reindex")).status_code == 403
    first, second = await asyncio.gather(admin.post("/sync/reindex"), admin.post("/sync/reindex"))
    assert (first.status_code, second.status_code) == (202, 202)

    async def done() -> bool:
        reindex = (await staff.get("/sync")).json()["reindex"]
        return bool(reindex["id"] == second.json()["id"] and reindex["state"] == "done")

    await soon(done)
    await soon(lambda: equal(kitchen))


async def test_staff_see_how_far_each_pipeline_is(
    kitchen: Shop, worker: None, staff: httpx.AsyncClient, shopper: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    await add(kitchen, kettle("A"))
    await soon(lambda: equal(kitchen))

    async def drained() -> bool:
        changes_, outbox_, *_ = (await staff.get("/sync")).json()["pipelines"]
        return bool(changes_["items"] >= 1 and outbox_["pending"] == 0)

    await soon(drained)
    changes_, outbox_, *_ = (await staff.get("/sync")).json()["pipelines"]
    assert (changes_["name"], outbox_["name"]) == ("changes", "outbox")
    assert changes_["lagSeconds"] < 10
    assert changes_["lastToken"]
    assert (outbox_["lagSeconds"], outbox_["pending"], outbox_["deadLetters"]) == (0, 0, 0)
    assert (await shopper.get("/sync")).status_code == 403
    assert (await client.get("/sync")).status_code == 401
