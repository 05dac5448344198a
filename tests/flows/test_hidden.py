"""What shoppers may not see is not sold to them either: by its SKU, out of a cart, and whoever is away."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from till import Json, Till, order

from quartet import catalog
from quartet.kernel.clock import FixedClock
from quartet.stores.mongo import Mongo
from quartet.stores.redis import RedisStore
from quartet.web.dependencies import Shop

NOW = datetime.now(UTC)
MUG, CUP, POT, BOWL, JAR = "MUG", "CUP-S", "POT", "BOWL", "JAR"


@pytest.fixture
def shop(shop: Shop) -> Shop:
    return replace(shop, clock=FixedClock(NOW))


@pytest.fixture
async def till(shop: Shop) -> Till:
    """Ten each of a mug on sale, of a draft (a cup in one variant), of a pot that is sold a minute from now, and of a
    jar that the catalog does not know."""
    till = Till(shop)
    await catalog.put_category(shop, catalog.Category("things", "Things", None, {"type": "object"}))
    variant = catalog.Variant(CUP, {}, 500)
    for draft, published in (
        (catalog.Draft(MUG, "Mug", "things", price_cents=500), NOW - timedelta(days=1)),
        (catalog.Draft("CUP", "Cup", "things", variants=[variant]), None),
        (catalog.Draft(POT, "Pot", "things", price_cents=500), NOW + timedelta(minutes=1)),
    ):
        await catalog.create_product(shop, replace(draft, published_at=published), actor="test")
    for sku in (MUG, CUP, POT, JAR):
        await till.stock(sku, 10)
    return till


async def place(client: httpx.AsyncClient, *skus: str, key: str | None = None) -> httpx.Response:
    lines: Json = {"items": [{"sku": sku, "qty": 1} for sku in skus]} if skus else {}
    return await client.post("/orders", json=lines, headers={"Idempotency-Key": key} if key else {})


def refused(answer: httpx.Response) -> list[str]:
    """What the shop does not sell."""
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/unknown-sku"), answer.text
    skus: list[str] = answer.json()["skus"]
    return skus


async def publish(staff: httpx.AsyncClient, sku: str, moment: str | None) -> None:
    answer = await staff.patch(f"/products/{sku}", json={"publishedAt": moment})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("key", [None, "click"])
async def test_drafts_and_what_is_not_sold_yet_are_refused_by_name_and_nothing_is_reserved(
    shopper: httpx.AsyncClient, till: Till, key: str | None
) -> None:
    answer = await place(shopper, POT, MUG, BOWL, CUP, POT, key=key)
    assert refused(answer) == [POT, BOWL, CUP]
    if key is not None:
        assert (await place(shopper, POT, MUG, BOWL, CUP, POT, key=key)).content == answer.content
    assert [await till.shelf(sku) for sku in (MUG, CUP, POT)] == [(10, 0)] * 3
    await order(shopper, (MUG, 1), (JAR, 1))
    assert refused(await place(shopper, CUP)) == [CUP]  # also once what is on sale has been looked up


async def test_it_is_sold_from_the_moment_on_that_it_is_shown(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    assert refused(await place(shopper, CUP, POT)) == [CUP, POT]
    await publish(staff, "CUP", NOW.isoformat())
    assert isinstance(shop.clock, FixedClock)
    shop.clock.advance(59)
    assert refused(await place(shopper, CUP, POT)) == [POT]
    shop.clock.advance(1)
    await order(shopper, (CUP, 1), (POT, 1))


async def test_what_is_taken_off_the_shelves_is_not_sold_out_of_the_cache_or_a_cart(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    assert (await shopper.post("/cart/items", json={"sku": MUG, "qty": 2})).status_code == 200
    assert (await shopper.get(f"/products/{MUG}")).headers["X-Cache"] == "hit"
    first = await place(shopper, key="cart")
    assert first.status_code == 201
    listed = await place(shopper, MUG, key="lines")
    await publish(staff, MUG, None)
    (line,) = (await shopper.get("/cart")).json()["items"]
    assert (line["sku"], line["available"], line["slug"]) == (MUG, 0, None)
    for key in (None, "new"):
        assert refused(await place(shopper, key=key)) == refused(await place(shopper, MUG)) == [MUG]
    assert (await place(shopper, key="cart")).content == first.content
    assert (await place(shopper, MUG, key="lines")).content == listed.content
    assert await till.shelf(MUG) == (10, 3)


async def test_what_staff_take_out_of_the_catalog_is_not_sold_until_it_is_back(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await order(shopper, (MUG, 1))
    assert (await staff.delete(f"/products/{MUG}")).status_code == 204
    assert refused(await place(shopper, MUG, JAR)) == [MUG]
    assert await till.shelf(MUG) == (10, 1)
    again = catalog.Draft(MUG, "Mug", "things", price_cents=500, published_at=NOW)
    await catalog.create_product(shop, again, actor="test")
    await order(shopper, (MUG, 1))

    # Of a product that stays, what can no longer be chosen.
    await publish(staff, "CUP", NOW.isoformat())
    large = {"sku": "CUP-L", "attrs": {}, "priceCents": 700}
    assert (await staff.patch("/products/CUP", json={"variants": [large]})).status_code == 200
    assert refused(await place(shopper, CUP)) == [CUP]


async def test_of_what_comes_in_variants_the_product_itself_is_not_sold(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    assert (await shopper.post("/cart/items", json={"sku": MUG, "qty": 2})).status_code == 200
    red, plain = {"sku": "MUG-RED", "attrs": {}, "priceCents": 700}, {"sku": MUG, "attrs": {}, "priceCents": 500}
    assert (await staff.patch(f"/products/{MUG}", json={"variants": [red]})).status_code == 200
    await till.stock("MUG-RED", 10)
    for _ in ("not yet looked up", "in the cache"):
        assert refused(await place(shopper, MUG, "MUG-RED")) == [MUG]
        shown = await shopper.get(f"/products/{MUG}")
        assert shown.content.startswith(b'{"id"')
    assert shown.headers["X-Cache"] == "hit"
    levels = await shop.stores.mongo.collection("products").find({"sku": MUG})
    await catalog.renew_cached(shop, [levels[0] | {"version": levels[0]["version"] + 1}])
    for answer in (await place(shopper, MUG), await place(shopper)):
        assert refused(answer) == [MUG]
    assert (await shopper.post("/cart/items", json={"sku": MUG, "qty": 1})).status_code == 404
    slug = shown.json()["slug"]
    await till.stock(slug, 10)
    assert refused(await place(shopper, slug)) == [slug]
    (line,) = (await shopper.get("/cart")).json()["items"]
    assert (line["available"], line["slug"]) == (0, None)

    assert (await staff.patch(f"/products/{MUG}", json={"variants": [red, plain]})).status_code == 200
    await order(shopper, (MUG, 1), ("MUG-RED", 1))


@pytest.mark.parametrize("away", ["redis", "mongodb", "both"])
async def test_where_a_store_is_away_nobody_who_may_buy_is_refused(
    app: FastAPI, shopper: httpx.AsyncClient, shop: Shop, till: Till, away: str
) -> None:
    held = shop.stores
    if away != "mongodb":
        held = replace(held, redis=RedisStore("redis://127.0.0.1:1/0"))
    if away != "redis":
        held = replace(held, mongo=Mongo("mongodb://127.0.0.1:1/", "away"))
    app.state.shop = replace(shop, stores=held)
    await order(shopper, (MUG, 1), (JAR, 1))
    answer = await place(shopper, CUP)
    if away == "redis":
        assert refused(answer) == [CUP]
    else:  # whether it is a draft nobody can tell
        assert answer.status_code == 201
    if away != "mongodb":
        await held.redis.close()
    if away != "redis":
        await held.mongo.close()
