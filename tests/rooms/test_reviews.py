"""Reviews: by buyers only, one each, and ratings that follow them exactly."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from showcase import fields, laptop, load, make_categories

import cashier
from floor import walked
from quartet import catalog, inventory, orders
from quartet.catalog import store
from quartet.catalog.service import add_review, follow_reviews
from quartet.kernel.clock import FixedClock
from quartet.web.dependencies import Shop

Client = httpx.AsyncClient
SignIn = Callable[..., Awaitable[Client]]

GOOD = {"rating": 5, "title": "Light", "body": "Carried it for a year."}


@pytest.fixture(autouse=True)
async def shelf(shop: Shop) -> None:
    """A laptop that had ten votes of 4.0 before the shop had reviews, and one without any."""
    await make_categories(shop)
    await load(shop, laptop("OLD", ratings=catalog.Ratings(4.0, 10)), laptop("NEW"))
    async with shop.stores.pg.tx() as tx:
        for sku in ("NEW", "OLD"):
            await inventory.put(tx, sku, sku, 100, currency="GBP", actor="test", stock=500)


async def buy(shop: Shop, client: Client, *skus: str, paid: bool = True) -> UUID:
    """An order of one each."""
    async with shop.stores.pg.tx() as tx:
        order = await orders.place(tx, client.user_id, [(sku, 1) for sku in skus])  # type: ignore[attr-defined]
        if paid:
            await cashier.confirm(tx, order.id)
    return order.id


async def rating(client: Client, sku: str) -> tuple[float, int]:
    shown = (await client.get(f"/products/{sku}")).json()["ratings"]
    return shown["avg"], shown["count"]


async def test_a_buyer_reviews_and_the_ratings_follow_at_once(shop: Shop, shopper: Client, client: Client) -> None:
    await buy(shop, shopper, "OLD", "NEW")
    assert await rating(client, "OLD") == (4.0, 10)
    made = await shopper.post("/products/OLD/reviews", json={**GOOD, "rating": 5})
    assert made.status_code == 201, made.text
    assert {k: made.json()[k] for k in ("rating", "title", "body", "author")} == GOOD | {"author": "Test Shopper"}
    assert await rating(client, "OLD") == (4.09, 11)
    assert (await shopper.post("/products/laptop-new-new/reviews", json={**GOOD, "rating": 1})).status_code == 201
    assert await rating(client, "NEW") == (1.0, 1)
    listed = (await client.get("/products/OLD/reviews")).json()
    assert listed == {"items": [made.json()], "nextCursor": None}
    assert str(shopper.user_id) not in str(listed)  # type: ignore[attr-defined]


async def test_only_who_has_bought_may_review(shop: Shop, sign_in: SignIn, client: Client) -> None:
    guest, looker, waiting, sorry = client, await sign_in(), await sign_in(), await sign_in()
    await buy(shop, looker, "NEW")
    await buy(shop, waiting, "OLD", paid=False)
    async with shop.stores.pg.tx() as tx:
        await orders.cancel(tx, await buy(shop, sorry, "OLD"))
    assert (await guest.post("/products/OLD/reviews", json=GOOD)).status_code == 401
    for shopper in (looker, waiting, sorry):
        refused = await shopper.post("/products/OLD/reviews", json=GOOD)
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/not-bought")
    assert await rating(client, "OLD") == (4.0, 10)


async def test_one_review_each_however_often_it_is_sent(shop: Shop, shopper: Client, client: Client) -> None:
    await buy(shop, shopper, "NEW")
    answers = await asyncio.gather(
        *(shopper.post("/products/NEW/reviews", json={**GOOD, "rating": 1 + i % 5}) for i in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    assert {a.json()["type"] for a in answers if a.status_code == 409} == {"/problems/already-reviewed"}
    (winner,) = (a.json() for a in answers if a.status_code == 201)
    assert await rating(client, "NEW") == (float(winner["rating"]), 1)


async def test_many_reviews_at_once_beside_staffs_changes_are_all_counted(
    shop: Shop, sign_in: SignIn, staff: Client, client: Client
) -> None:
    buyers = [await sign_in() for _ in range(12)]
    for buyer in buyers:
        await buy(shop, buyer, "OLD")
    given = [1 + i % 5 for i in range(12)]
    answers = await asyncio.gather(
        *(b.post("/products/OLD/reviews", json={**GOOD, "rating": r}) for b, r in zip(buyers, given, strict=True)),
        *(staff.patch("/products/OLD", json={"brand": f"Brand {i}"}) for i in range(6)),
    )
    assert {answer.status_code for answer in answers} == {201, 200}
    assert await rating(client, "OLD") == (round((40 + sum(given)) / 22, 2), 22)


async def test_ratings_that_a_crash_left_behind_are_mended_by_the_next_try(shop: Shop, shopper: Client) -> None:
    await buy(shop, shopper, "NEW")
    await shopper.post("/products/NEW/reviews", json={**GOOD, "rating": 3})
    found = await store.by_sku(shop.stores.mongo, "NEW")
    assert found is not None
    unrated = {**found, "ratings": {"avg": 0.0, "count": 0}, "version": found["version"] + 1}
    assert await store.replace(shop.stores.mongo, unrated, found["version"])
    assert (await shopper.post("/products/NEW/reviews", json=GOOD)).status_code == 409
    assert (await store.by_sku(shop.stores.mongo, "NEW") or {})["ratings"] == {"avg": 3.0, "count": 1}
    await follow_reviews(shop, "gone")  # of a product that was deleted meanwhile: nothing to do


@pytest.mark.parametrize("seconds", [86400, 0.109])
async def test_reviews_are_listed_the_newest_first_page_by_page(
    shop: Shop, sign_in: SignIn, client: Client, seconds: float
) -> None:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    then = replace(shop, clock=clock)
    written = []
    for i in range(7):
        buyer = await sign_in()
        await buy(shop, buyer, "NEW")
        await add_review(then, buyer.user_id, "NEW", rating=3, title=f"Day {i // 2}", body="b")  # type: ignore[attr-defined]
        written.append(f"Day {i // 2}")
        if i % 2:
            clock.advance(seconds)
    shown = await walked(client, "/products/NEW/reviews", 3)
    assert [review["title"] for review in shown] == written[::-1]
    assert len({review["id"] for review in shown}) == 7
    cursor = (await client.get("/products/NEW/reviews?limit=3")).json()["nextCursor"]
    other = await client.get(f"/products/OLD/reviews?cursor={cursor}")
    assert (other.status_code, fields(other)) == (422, ["cursor"])


async def test_reviews_go_with_their_product(shop: Shop, shopper: Client, staff: Client) -> None:
    await buy(shop, shopper, "NEW")
    await shopper.post("/products/NEW/reviews", json=GOOD)
    await staff.delete("/products/NEW")
    assert (await shopper.get("/products/NEW/reviews")).status_code == 404
    assert await shop.stores.mongo.collection(store.REVIEWS).find({}) == []


async def test_a_bad_review_is_refused_naming_the_field(shop: Shop, shopper: Client) -> None:
    await buy(shop, shopper, "NEW")
    bad: dict[str, list[Any]] = {
        "rating": [0, 6, 4.5, "5", True, None, {"$gt": 0}],
        "title": ["", "x" * 121, 5, None, "a\0b"],
        "body": ["", "x" * 5001, None, {"$ne": ""}],
        "stars": [5],
    }
    for name, values in bad.items():
        for value in values:
            answer = await shopper.post("/products/NEW/reviews", json={**GOOD, name: value})
            assert (answer.status_code, fields(answer)) == (422, [name]), answer.text
    for missing in GOOD:
        answer = await shopper.post("/products/NEW/reviews", json={k: v for k, v in GOOD.items() if k != missing})
        assert (answer.status_code, fields(answer)) == (422, [missing])
