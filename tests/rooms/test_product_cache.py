"""The product page in Redis: quick, and never older than what staff were told is done."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from showcase import at, hours, laptop, load, make_categories, put, tee, thinkpad

from quartet import audit, catalog, sync
from quartet.catalog import cache, pages, store
from quartet.catalog.pages import product_page
from quartet.kernel.errors import StoreUnavailable
from quartet.stores.mongo import Collection, Document, Mongo
from quartet.stores.redis import RedisStore
from quartet.web.dependencies import Shop

Client = httpx.AsyncClient


@pytest.fixture
async def tees(shop: Shop, staff: Client) -> None:
    await make_categories(shop)
    await put(staff, tee())


async def hit(client: Client, reference: str) -> str:
    answer = await client.get(f"/products/{reference}")
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-cache"])


async def test_the_second_look_comes_from_redis(tees: None, client: Client) -> None:
    for reference in ("TEE", "everyday-tee", "TEE-RED-M"):
        first, second = await client.get(f"/products/{reference}"), await client.get(f"/products/{reference}")
        assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
        assert second.content == first.content
        assert second.headers["content-type"] == "application/json"
        assert "max-age=" in second.headers["cache-control"]
        assert second.headers["etag"] == first.headers["etag"]


async def test_an_entry_lives_fifteen_minutes_at_most(tees: None, shop: Shop, client: Client) -> None:
    await hit(client, "TEE")
    assert 0 < await shop.stores.redis.call("TTL", "product:TEE") <= 900


async def test_who_has_the_present_version_gets_304(tees: None, client: Client, staff: Client) -> None:
    tag = (await client.get("/products/TEE")).headers["etag"]
    for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await client.get("/products/TEE", headers={"If-None-Match": header})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        assert answer.headers["x-cache"] == "hit"
    on_two_lines = [("If-None-Match", '"other"'), ("If-None-Match", tag)]
    assert (await client.get("/products/TEE", headers=on_two_lines)).status_code == 304
    await staff.patch("/products/TEE", json={"brand": "Hartley Row"})
    assert (await client.get("/products/TEE", headers={"If-None-Match": tag})).status_code == 200


async def test_a_change_is_seen_at_once_under_every_name(tees: None, client: Client, staff: Client) -> None:
    names = ("TEE", "everyday-tee", "TEE-RED-M", "TEE-BLACK-L")
    for name in names:
        await hit(client, name)
    patched = await staff.patch("/products/TEE", json={"brand": "Hartley Row"})
    for name in names:
        assert (await client.get(f"/products/{name}")).json() == patched.json()


async def test_a_name_given_up_shows_nothing_any_more(tees: None, client: Client, staff: Client) -> None:
    for name in ("everyday-tee", "TEE-RED-M", "TEE"):
        await hit(client, name)
    await staff.patch("/products/TEE", json={"slug": "plain-tee", "variants": tee()["variants"][:1]})
    for name in ("everyday-tee", "TEE-RED-M"):
        assert (await client.get(f"/products/{name}")).status_code == 404
    await put(staff, thinkpad(slug="everyday-tee"))
    assert (await client.get("/products/everyday-tee")).json()["sku"] == "LAPTOP-001"
    await staff.delete("/products/TEE")
    assert (await client.get("/products/TEE")).status_code == 404


async def test_a_product_taken_off_the_shop_is_gone_at_once(tees: None, client: Client, staff: Client) -> None:
    await hit(client, "TEE")
    await staff.patch("/products/TEE", json={"publishedAt": None})
    assert (await client.get("/products/TEE")).status_code == 404
    assert (await staff.get("/products/TEE")).headers["x-cache"] == "miss"  # a draft is nobody's to find in Redis
    assert (await client.get("/products/TEE")).status_code == 404


async def test_a_scheduled_product_is_neither_early_nor_late(shop: Shop) -> None:
    await make_categories(shop)
    then, clock = at(shop, datetime(2030, 1, 1, tzinfo=UTC) - hours(1))
    await load(then, laptop("NEW", published_at=datetime(2030, 1, 1, tzinfo=UTC)))
    for _ in range(2):
        page = await product_page(then, "NEW")
        assert page is not None
        assert (page.published, page.hit) == (False, False)
    clock.advance(3600)
    for from_redis in (False, True):
        page = await product_page(then, "NEW")
        assert page is not None
        assert (page.published, page.hit) == (True, from_redis)


# A slow reader


@dataclass
class Pause:
    """Where a reader waits: it has its answer from MongoDB and has not put it anywhere yet."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    reads: int = 0


class PausingCollection(Collection):
    def __init__(self, inner: Collection, pause: Pause) -> None:
        super().__init__(inner._collection, inner._guard)
        self._pause = pause

    async def find_one(self, where: Mapping[str, Any], projection: Sequence[str] | None = None) -> Document | None:
        found = await super().find_one(where, projection)
        self._pause.reads += 1
        self._pause.reached.set()
        await self._pause.go_on.wait()
        return found


class PausingMongo(Mongo):
    """MongoDB whose products arrive late."""

    def __init__(self, inner: Mongo, pause: Pause) -> None:
        self._inner, self._pause, self.guard = inner, pause, inner.guard

    def collection(self, name: str) -> Collection:
        found = self._inner.collection(name)
        return PausingCollection(found, self._pause) if name == catalog.PRODUCTS else found


def slow(shop: Shop) -> tuple[Shop, Pause]:
    """The same shop, in another process, whose reads of products wait."""
    pause = Pause()
    stores = replace(shop.stores, mongo=PausingMongo(shop.stores.mongo, pause))
    return replace(shop, stores=stores), pause


Change = Callable[[Client], Awaitable[httpx.Response]]
CHANGES: dict[str, Change] = {
    "patched": lambda staff: staff.patch("/products/TEE", json={"brand": "New"}),
    "deleted": lambda staff: staff.delete("/products/TEE"),
    "taken off": lambda staff: staff.patch("/products/TEE", json={"publishedAt": None}),
    "renamed": lambda staff: staff.patch("/products/TEE", json={"slug": "new"}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("looked", [False, True], ids=["unseen", "seen since"])
async def test_a_slow_reader_puts_no_old_product_back(
    tees: None, shop: Shop, client: Client, staff: Client, change: str, looked: bool
) -> None:
    slow_shop, pause = slow(shop)
    reader = asyncio.create_task(product_page(slow_shop, "everyday-tee"))
    await pause.reached.wait()
    assert (await CHANGES[change](staff)).is_success
    present = (await client.get("/products/everyday-tee")).content if looked else None
    pause.go_on.set()
    await reader
    after = await client.get("/products/everyday-tee")
    assert after.status_code == (200 if change == "patched" else 404)
    if change == "patched":
        assert after.json()["brand"] == "New"
    if looked:
        assert after.json().get("brand") == httpx.Response(200, content=present or b"").json().get("brand")


async def test_a_slow_reader_of_cards_puts_nothing_old_back_either(tees: None, shop: Shop, staff: Client) -> None:
    class Late(PausingCollection):
        async def find(self, *args: Any, **kwargs: Any) -> list[Document]:
            found = await super().find(*args, **kwargs)
            self._pause.reached.set()
            await self._pause.go_on.wait()
            return found

    class LateMongo(PausingMongo):
        def collection(self, name: str) -> Collection:
            found = self._inner.collection(name)
            return Late(found, self._pause) if name == catalog.PRODUCTS else found

    pause = Pause()
    slow_shop = replace(shop, stores=replace(shop.stores, mongo=LateMongo(shop.stores.mongo, pause)))
    reader = asyncio.create_task(catalog.cards(slow_shop, ["TEE-RED-M"]))
    await pause.reached.wait()
    await staff.patch("/products/TEE", json={"name": "Better Tee"})
    pause.go_on.set()
    await reader
    assert (await catalog.cards(shop, ["TEE-RED-M"]))["TEE-RED-M"].name == "Better Tee, red, M"


async def test_who_asks_at_the_same_moment_shares_one_read(tees: None, shop: Shop) -> None:
    slow_shop, pause = slow(shop)
    readers = [asyncio.create_task(product_page(slow_shop, "TEE")) for _ in range(30)]
    await pause.reached.wait()
    readers += [asyncio.create_task(product_page(slow_shop, "TEE")) for _ in range(30)]
    readers[0].cancel()  # one gives up; the others get their answer all the same
    await asyncio.sleep(0)
    pause.go_on.set()
    found = await asyncio.gather(*readers[1:])
    assert len({page.body for page in found if page}) == 1
    assert None not in found
    assert pause.reads == 1


async def test_who_asks_after_a_change_does_not_share_a_read_from_before_it(
    tees: None, shop: Shop, staff: Client
) -> None:
    slow_shop, pause = slow(shop)
    before = asyncio.create_task(product_page(slow_shop, "TEE"))
    await pause.reached.wait()
    await staff.patch("/products/TEE", json={"brand": "New"})
    after = asyncio.create_task(product_page(slow_shop, "TEE"))
    await asyncio.sleep(0.02)
    pause.go_on.set()
    await before
    page = await after
    assert page is not None
    assert b'"brand":"New"' in page.body


async def test_who_comes_just_as_a_read_ends_begins_another(tees: None, shop: Shop) -> None:
    """The read is over, and not yet taken out; somebody changed the product meanwhile, or Redis went away. To wait for
    what is over gives the loop no turn: this once kept a whole process busy for ever."""

    async def over() -> tuple[None, bool]:
        return None, False

    task = asyncio.create_task(over())
    await task
    shop.stores.singleton(pages._Flights)["TEE"] = pages._Flight(task, reading=True)
    page = await product_page(shop, "TEE")
    assert page is not None
    assert "TEE" not in shop.stores.singleton(pages._Flights)


# Redis away, and the worker's part


@pytest.fixture
async def redisless(shop: Shop) -> AsyncIterator[Shop]:
    """The same shop where nothing answers at Redis' address."""
    gone = RedisStore("redis://127.0.0.1:1/0")
    yield replace(shop, stores=replace(shop.stores, redis=gone))
    await gone.close()


async def test_without_redis_the_page_comes_from_mongodb(tees: None, redisless: Shop) -> None:
    page = await product_page(redisless, "TEE-RED-M")
    assert page is not None
    assert page.hit is False
    assert (await catalog.cards(redisless, ["TEE-RED-M"])).keys() == {"TEE-RED-M"}


async def test_without_redis_those_who_ask_at_the_same_moment_share_reads(tees: None, redisless: Shop) -> None:
    """Nobody can tell whether a read that has begun misses a change: whoever came since shares the next."""
    await product_page(redisless, "TEE")  # from here on Redis is known to be away
    slow_shop, pause = slow(redisless)
    readers = [asyncio.create_task(product_page(slow_shop, "TEE")) for _ in range(30)]
    await pause.reached.wait()
    readers += [asyncio.create_task(product_page(slow_shop, "TEE")) for _ in range(30)]
    await asyncio.sleep(0)
    pause.go_on.set()
    assert None not in await asyncio.gather(*readers)
    assert pause.reads == 2


async def test_a_name_that_was_looked_for_before_is_found_by_one_look_up(
    tees: None, redisless: Shop, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, find_one = [], Collection.find_one

    async def noted(collection: Collection, *asked: Any) -> Document | None:
        reads.append(asked)
        return await find_one(collection, *asked)

    monkeypatch.setattr(Collection, "find_one", noted)

    async def look(reference: str) -> tuple[str | None, int]:
        reads.clear()
        page = await product_page(redisless, reference)
        return orjson.loads(page.body)["sku"] if page else None, len(reads)

    assert [await look("everyday-tee") for _ in range(2)] == [("TEE", 2), ("TEE", 1)]
    await staff.patch("/products/TEE", json={"slug": "plain-tee"})
    assert await look("everyday-tee") == (None, 2)
    await put(staff, thinkpad(slug="everyday-tee"))
    assert [await look("everyday-tee") for _ in range(2)] == [("LAPTOP-001", 3), ("LAPTOP-001", 1)]
    await staff.delete("/products/LAPTOP-001")
    assert await look("everyday-tee") == (None, 2)


async def test_what_a_change_could_not_tell_redis_the_worker_does(
    tees: None, shop: Shop, redisless: Shop, client: Client
) -> None:
    """The API's process lost Redis while staff renamed one product and deleted another; others still see it."""
    await make_categories(shop)
    await load(shop, laptop("OLD"))
    for reference in ("everyday-tee", "TEE", "OLD", "laptop-old-old"):
        await hit(client, reference)
    ids = list((await catalog.product_ids_of_skus(shop.stores.mongo, ["TEE", "OLD"])).values())

    def rename(found: Document) -> catalog.Draft:
        variants = [catalog.Variant(v["sku"], v["attrs"], v["priceCents"]) for v in found["variants"]]
        return catalog.Draft(
            found["sku"], "Tee", "shirts", slug="tee", attrs=found["attrs"], variants=variants,
            published_at=found["publishedAt"],
        )  # fmt: skip

    await catalog.change_product(redisless, "TEE", rename, if_match=None, actor="test")
    await catalog.delete_product(redisless, "OLD", if_match=None)
    assert await hit(client, "everyday-tee") == "hit"  # nobody could tell
    with pytest.raises(StoreUnavailable):
        await catalog.drop_cached(redisless, ids, {})
    present = {product["_id"]: product for product in await catalog.by_ids(shop.stores.mongo, ids)}
    await catalog.drop_cached(shop, ids, present)
    for reference, status in {"everyday-tee": 404, "OLD": 404, "laptop-old-old": 404, "TEE": 200, "tee": 200}.items():
        assert (await client.get(f"/products/{reference}")).status_code == status
    assert (await client.get("/products/TEE")).json()["name"] == "Tee"
    # An hour later nothing is left of the names that were given up.
    await catalog.drop_cached(at(shop, datetime.now(UTC) + hours(1))[0], ids, present)
    assert await catalog.product_ids_of_skus(shop.stores.mongo, ["OLD", "laptop-old-old", "everyday-tee"]) == {}
    assert len(await catalog.product_ids_of_skus(shop.stores.mongo, ["TEE", "tee", "TEE-RED-M"])) == 3


async def test_a_product_loaded_again_under_its_id_is_not_shown_as_it_was_before_it_was_deleted(
    shop: Shop, redisless: Shop, client: Client, staff: Client
) -> None:
    await make_categories(shop)
    await load(shop, laptop("OLD"))
    await staff.patch("/products/OLD", json={"brand": "Old"})
    await hit(client, "OLD")
    seen = (await client.get("/products/OLD")).headers["etag"]
    await catalog.delete_product(redisless, "OLD", if_match=None)  # which nobody could tell Redis
    await load(shop, laptop("OLD", name="New"))
    found = await store.by_sku(shop.stores.mongo, "OLD") or {}
    await catalog.drop_cached(shop, [found["_id"]], {found["_id"]: found})  # as the worker does
    answer = await client.get("/products/OLD", headers={"If-None-Match": seen})
    assert (answer.status_code, answer.json()["name"]) == (200, "New")


async def test_the_worker_leaves_an_entry_that_shows_the_change(tees: None, shop: Shop, client: Client) -> None:
    await hit(client, "TEE")
    ids = list((await catalog.product_ids_of_skus(shop.stores.mongo, ["TEE"])).values())
    present = {product["_id"]: product for product in await catalog.by_ids(shop.stores.mongo, ids)}
    await catalog.drop_cached(shop, ids, present)
    assert await hit(client, "TEE") == "hit"
    newer = {id_: {**product, "version": product["version"] + 1} for id_, product in present.items()}
    await catalog.drop_cached(shop, ids, newer)
    assert await hit(client, "TEE") == "miss"
    past_the_api = {id_: {**product, "name": "Shirt"} for id_, product in present.items()}
    await catalog.drop_cached(shop, ids, past_the_api)
    assert await hit(client, "TEE") == "miss"


@pytest.mark.parametrize("tell", ["drop", "renew"])
async def test_a_page_is_not_made_once_for_each_of_its_many_skus(
    tees: None, shop: Shop, monkeypatch: pytest.MonkeyPatch, tell: str
) -> None:
    """A batch of large products would take gigabytes."""
    [id_] = (await catalog.product_ids_of_skus(shop.stores.mongo, ["TEE"])).values()
    [product] = await catalog.by_ids(shop.stores.mongo, [id_])
    made = list[bytes]()

    def entry(*args: Any, **said: Any) -> bytes:
        made.append(real(*args, **said))
        return made[-1]

    real = cache.entry
    monkeypatch.setattr(cache, "entry", entry)
    if tell == "drop":
        await catalog.drop_cached(shop, [id_], {id_: product})
    else:
        await catalog.renew_cached(shop, [product])
    assert (len(made), len(product["keys"]) > 2) == (2, True)


async def test_a_sale_puts_the_newer_page_in_the_place_of_the_older(tees: None, shop: Shop, client: Client) -> None:
    redis = shop.stores.redis
    [id_] = (await catalog.product_ids_of_skus(shop.stores.mongo, ["TEE"])).values()
    [product] = await catalog.by_ids(shop.stores.mongo, [id_])
    await hit(client, "TEE")
    await redis.call("EXPIRE", cache.key("TEE"), 60)
    sold = {**product, "available": 1, "version": product["version"] + 1}
    await catalog.renew_cached(shop, [sold])
    page = await client.get("/products/TEE")
    assert (page.headers["X-Cache"], page.json()["available"]) == ("hit", 1)
    assert 50 < await redis.call("TTL", cache.key("TEE")) <= 60
    assert await redis.call("EXISTS", cache.key("tee")) == 0  # nobody had looked for it by that name
    await catalog.renew_cached(shop, [product])  # a slow worker's, older
    assert (await client.get("/products/TEE")).json()["available"] == 1
    await catalog.renew_cached(shop, [{**sold, "version": sold["version"] + 1, "publishedAt": None}])
    assert await redis.call("EXISTS", cache.key("TEE")) == 0


async def test_a_reader_that_began_before_a_sale_puts_nothing_after_it(tees: None, shop: Shop) -> None:
    redis = shop.stores.redis
    [id_] = (await catalog.product_ids_of_skus(shop.stores.mongo, ["TEE"])).values()
    [product] = await catalog.by_ids(shop.stores.mongo, [id_])
    leases = await cache.lease(redis, ["TEE"])
    await catalog.renew_cached(shop, [{**product, "version": product["version"] + 1}])
    assert not await cache.fill(redis, leases, {"TEE": cache.entry(id_, product["version"], b"{}")}, 60)
    await redis.call("SET", cache.key("TEE"), cache.entry("another", 99, b"{}"))
    await catalog.renew_cached(shop, [product])
    assert await redis.call("EXISTS", cache.key("TEE")) == 0


async def test_the_cache_can_be_read_by_an_audit(tees: None, shop: Shop, client: Client) -> None:
    for reference in ("TEE", "everyday-tee"):
        await hit(client, reference)
    await cache.lease(shop.stores.redis, ["TEE-RED-M"])
    found: dict[str, tuple[str, int]] = {}
    async for some in pages.cached_products(shop.stores.redis):
        found |= some
    assert {reference: version for reference, (_, version) in found.items()} == {"TEE": 1, "everyday-tee": 1}


GARBAGE = (b"", b"\0garbage", b"garbage", b"a b", b"a b c", b"a 1", b"\xff 1 \xfe", b"a 9" + b"9" * 5000 + b" {}")


async def test_what_is_no_entry_is_as_if_it_were_not_there(
    tees: None, shop: Shop, client: Client, staff: Client
) -> None:
    redis = shop.stores.redis
    await put(staff, thinkpad())
    await staff.patch("/products/TEE", json={"publishedAt": None})
    await sync.catch_up(shop)
    slug = (await client.get("/products/LAPTOP-001")).json()["slug"]
    await hit(client, slug)
    await redis.call("HSET", cache.key("ANOTHERS"), "field", "value")
    for garbage in GARBAGE:
        for sku in ("LAPTOP-001", "TEE"):
            await redis.call("SET", cache.key(sku), garbage)
        assert await hit(client, "LAPTOP-001") == "miss"
        assert (await client.get("/products/TEE")).status_code == 404
        assert list(await catalog.cards(shop, ["LAPTOP-001", "TEE"])) == ["LAPTOP-001"]
        assert await catalog.hidden_skus(shop, ["LAPTOP-001", "TEE"]) == ["TEE"]
        assert [reference async for some in pages.cached_products(redis) for reference in some] == [slug]
        assert (await audit.check(shop, repair=True)).violations == ()
    await staff.patch("/products/LAPTOP-001", json={"brand": "Hartley Row"})  # whatever lies there goes with a change
    assert (await hit(client, "LAPTOP-001"), await hit(client, "LAPTOP-001")) == ("miss", "hit")


# The scripts against a model

Entry = tuple[str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("lease"), st.integers(0, 3)),
        st.tuples(st.just("fill"), st.integers(0, 3), st.sampled_from("AB"), st.integers(1, 12)),
        st.tuples(st.just("give back"), st.integers(0, 3)),
        st.tuples(st.just("drop"), st.sampled_from("AB"), st.integers(1, 12) | st.none()),
        st.tuples(st.just("forget scripts")),
    ),
    max_size=30,
)


@settings(max_examples=80)
@given(steps=steps)
async def test_the_scripts_do_as_the_model(redis: RedisStore, steps: list[tuple[Any, ...]]) -> None:
    """Four readers and a writer at one key. Whatever they do, only the lease's holder puts something, a drop takes
    every lease, and it takes every entry that is not the same product at that version or later."""
    reference = uuid4().hex
    held: dict[int, str] = {}  # each reader's last lease, by now perhaps worthless
    lease: str | None = None
    entry: Entry | None = None
    for step in steps:
        match step:
            case ("lease", reader):
                got = await cache.lease(redis, [reference])
                assert bool(got) == (lease is None and entry is None)
                if got:
                    lease = held[reader] = got[reference]
            case ("fill", reader, product, version):
                ours = reader in held and held[reader] == lease
                body = cache.entry(product, version, b'{"name": "x y"}')
                put_in = await cache.fill(redis, {reference: held.get(reader, "lease none")}, {reference: body}, 60)
                assert put_in == ours
                if ours:
                    lease, entry = None, (product, version)
            case ("give back", reader):
                ours = reader in held and held[reader] == lease
                assert await cache.fill(redis, {reference: held.get(reader, "lease none")}, {}, 60) == ours
                if ours:
                    lease = None
            case ("drop", product, version):
                await cache.drop(redis, {reference: (product, version)})
                lease = None
                if entry and not (version is not None and entry[0] == product and entry[1] >= version):
                    entry = None
            case _:
                await redis.call("SCRIPT", "FLUSH")
        found = await cache.get(redis, [reference])
        assert found == ({reference: (*entry, '{"name": "x y"}')} if entry else {})
        ttl = await redis.call("TTL", cache.key(reference))
        assert ttl == -2 if lease is None and entry is None else 0 < ttl <= 60
