"""The cart: adding, changing, merging, and what is left of it after a purchase."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from quartet import cart, catalog, inventory
from quartet.cart import store
from quartet.cart.store import Carts
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import open_stores
from quartet.stores.files import Script
from quartet.stores.redis import Arg, RedisStore
from quartet.web.dependencies import Shop

MOUSE, CABLE, SHIRT = "MOUSE-001", "CABLE-002", "SHIRT-003-M"


@pytest.fixture
async def goods(shop: Shop) -> None:
    """A mouse at 24.99, a cable at 5.00 that is sold out, and a shirt in one variant at 30.00."""
    await catalog.put_category(shop, catalog.Category("things", "Things", None, {"type": "object"}))
    await _sell(shop, catalog.Draft(MOUSE, "Pebble Mouse", "things", price_cents=2499), {MOUSE: 10})
    await _sell(shop, catalog.Draft(CABLE, "Cable", "things", price_cents=500))
    variant = catalog.Variant(SHIRT, {}, 3000)
    await _sell(shop, catalog.Draft("SHIRT-003", "Shirt", "things", variants=[variant]), {SHIRT: 3})


async def _sell(shop: Shop, draft: catalog.Draft, stock: Mapping[str, int] | None = None) -> None:
    image = catalog.Image(f"/images/{draft.sku.lower()}.svg", is_primary=True)
    draft = replace(draft, images=[image], published_at=datetime(2020, 1, 1, tzinfo=UTC))
    await catalog.create_product(shop, draft, actor="test")
    async with shop.stores.pg.tx() as tx:
        for sku, pieces in (stock or {}).items():
            await inventory.move(tx, sku, pieces, "received", actor="test")


def _held(answer: httpx.Response) -> dict[str, int]:
    assert answer.status_code == 200, answer.text
    return {line["sku"]: line["qty"] for line in answer.json()["items"]}


async def _add(client: httpx.AsyncClient, sku: Any, qty: Any = 1) -> httpx.Response:
    return await client.post("/cart/items", json={"sku": sku, "qty": qty})


async def test_a_cart_shows_what_is_in_it_at_the_prices_of_now(
    goods: None, shopper: httpx.AsyncClient, shop: Shop
) -> None:
    empty = await shopper.get("/cart")
    assert empty.json() == {"items": [], "itemCount": 0, "totalCents": 0, "currency": "GBP"}
    await _add(shopper, MOUSE, 2)
    await _add(shopper, SHIRT)
    answer = await _add(shopper, MOUSE)
    assert answer.json() == {
        "items": [
            {
                "sku": MOUSE,
                "qty": 3,
                "name": "Pebble Mouse",
                "slug": "pebble-mouse",
                "image": "/images/mouse-001.svg",
                "unitPriceCents": 2499,
                "lineTotalCents": 7497,
                "available": 10,
            },
            {
                "sku": SHIRT,
                "qty": 1,
                "name": "Shirt",
                "slug": "shirt",
                "image": "/images/shirt-003.svg",
                "unitPriceCents": 3000,
                "lineTotalCents": 3000,
                "available": 3,
            },
        ],
        "itemCount": 4,
        "totalCents": 10497,
        "currency": "GBP",
    }
    async with shop.stores.pg.tx() as tx:
        await inventory.put(tx, MOUSE, "Pebble Mouse", 1999, currency="GBP", actor="test")
    assert (await shopper.get("/cart")).json()["totalCents"] == 3 * 1999 + 3000


async def test_a_line_can_be_set_and_removed_and_the_cart_emptied(goods: None, shopper: httpx.AsyncClient) -> None:
    await _add(shopper, MOUSE, 2)
    assert _held(await shopper.put(f"/cart/items/{MOUSE}", json={"qty": 7})) == {MOUSE: 7}
    assert _held(await shopper.put(f"/cart/items/{CABLE}", json={"qty": 1})) == {MOUSE: 7, CABLE: 1}
    assert _held(await shopper.put(f"/cart/items/{MOUSE}", json={"qty": 0})) == {CABLE: 1}
    assert _held(await shopper.delete(f"/cart/items/{MOUSE}")) == {CABLE: 1}
    assert _held(await shopper.delete(f"/cart/items/{CABLE}")) == {}
    await _add(shopper, MOUSE, 2)
    assert (await shopper.delete("/cart")).status_code == 204
    assert _held(await shopper.get("/cart")) == {}


async def test_who_names_a_line_to_be_removed_does_not_lose_the_cart(goods: None, shopper: httpx.AsyncClient) -> None:
    await _add(shopper, MOUSE, 2)
    assert (await shopper.request("DELETE", "/cart", json={"sku": CABLE})).status_code == 422
    assert _held(await shopper.get("/cart")) == {MOUSE: 2}
    assert (await shopper.request("DELETE", "/cart", json={})).status_code == 204


async def test_what_the_shop_does_not_sell_gets_into_no_cart(
    goods: None, shopper: httpx.AsyncClient, shop: Shop
) -> None:
    await catalog.create_product(shop, catalog.Draft("DRAFT-1", "Draft", "things", price_cents=100), actor="test")
    await catalog.delete_product(shop, CABLE, if_match=None)
    for sku in ("NOPE-1", "DRAFT-1", CABLE, "SHIRT-003", "__nope__", "mäuschen", f" {MOUSE}", "💥", ":id", "x" * 200):
        for answer in (await _add(shopper, sku), await shopper.put(f"/cart/items/{sku}", json={"qty": 1})):
            assert answer.status_code == 404, sku
            assert answer.json()["errors"][0]["field"] == "sku"
        assert _held(await shopper.delete(f"/cart/items/{sku}")) == {}
    assert _held(await shopper.get("/cart")) == {}


async def test_what_inventory_alone_has_is_sold_under_its_name_there(
    goods: None, shopper: httpx.AsyncClient, shop: Shop
) -> None:
    async with shop.stores.pg.tx() as tx:
        await inventory.put(tx, "SHELF-1", "In no catalog", 100, currency="GBP", actor="test", stock=5)
    await _add(shopper, MOUSE)
    added = await _add(shopper, "SHELF-1", 2)
    assert added.status_code == 200
    [line] = [line for line in added.json()["items"] if line["sku"] == "SHELF-1"]
    assert (line["name"], line["slug"], line["image"]) == ("In no catalog", None, None)
    assert (line["unitPriceCents"], line["lineTotalCents"], line["available"]) == (100, 200, 5)
    assert (await shopper.get("/cart")).json() == added.json()


async def test_bad_values_are_named_and_change_nothing(goods: None, shopper: httpx.AsyncClient) -> None:
    await _add(shopper, MOUSE, 2)
    for qty in (0, -1, 10**9, 1000, 1.5, 1.0, "2", True, None, [1], {"$gt": ""}, 10**30):
        answer = await _add(shopper, MOUSE, qty)
        assert answer.status_code == 422, qty
        assert answer.json()["errors"][0]["field"] == "qty"
    for qty in (-1, 1000, 1.5, "2", False, None, {"$gt": ""}):
        answer = await shopper.put(f"/cart/items/{MOUSE}", json={"qty": qty})
        assert answer.status_code == 422, qty
        assert answer.json()["errors"][0]["field"] == "qty"
    for sku in ("", 1, None, {"$gt": ""}, ["x"], "x" * 201, "a\0b"):
        answer = await _add(shopper, sku)
        assert answer.status_code == 422, sku
        assert answer.json()["errors"][0]["field"] == "sku"
    for body in ({"sku": MOUSE}, {"qty": 1}, {"sku": MOUSE, "qty": 1, "price": 1}, {}):
        assert (await shopper.post("/cart/items", json=body)).status_code == 422
    surrogate = b'{"sku": "\\ud800", "qty": 1}'
    headers = {"Content-Type": "application/json"}
    assert (await shopper.post("/cart/items", content=surrogate, headers=headers)).status_code == 422
    assert _held(await shopper.get("/cart")) == {MOUSE: 2}


async def test_no_line_holds_more_than_999(goods: None, shopper: httpx.AsyncClient) -> None:
    assert _held(await _add(shopper, CABLE, 998)) == {CABLE: 998}
    refused = await _add(shopper, CABLE, 2)
    assert refused.status_code == 422
    assert refused.json()["type"] == "/problems/cart-full"
    assert refused.json()["errors"][0]["field"] == "qty"
    assert _held(await shopper.get("/cart")) == {CABLE: 998}
    assert _held(await _add(shopper, CABLE, 1)) == {CABLE: 999}


async def test_a_hundred_taps_at_once_are_a_hundred_pieces(goods: None, shopper: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(_add(shopper, MOUSE) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert _held(await shopper.get("/cart")) == {MOUSE: 100}
    answers = await asyncio.gather(*(_add(shopper, MOUSE, 90) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [422] * 11
    assert _held(await shopper.get("/cart")) == {MOUSE: 910}


async def test_what_is_no_longer_sold_stays_to_be_seen(goods: None, shopper: httpx.AsyncClient, shop: Shop) -> None:
    await _add(shopper, MOUSE, 2)
    await _add(shopper, CABLE)
    user = UUID(str(shopper.user_id))  # type: ignore[attr-defined]
    await shop.stores.redis.call("HSET", store.key(user), "GONE-1", 3)
    await catalog.delete_product(shop, CABLE, if_match=None)
    lines = {line["sku"]: line for line in (await shopper.get("/cart")).json()["items"]}
    assert [lines[sku]["available"] for sku in (MOUSE, CABLE, "GONE-1")] == [10, 0, 0]
    gone = lines["GONE-1"]
    assert (gone["name"], gone["slug"], gone["image"], gone["lineTotalCents"]) == ("GONE-1", None, None, 0)
    assert (lines[CABLE]["slug"], lines[CABLE]["name"]) == (None, "Cable")
    assert _held(await shopper.delete("/cart/items/GONE-1")) == {MOUSE: 2, CABLE: 1}


async def test_currencies_are_never_added_up(goods: None, shopper: httpx.AsyncClient, shop: Shop) -> None:
    await _add(shopper, MOUSE)
    await _add(shopper, CABLE)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE inventory SET currency = 'USD' WHERE sku = $1", CABLE)
    shown = (await shopper.get("/cart")).json()
    assert (shown["totalCents"], shown["currency"]) == (2499, "GBP")
    await shopper.delete(f"/cart/items/{MOUSE}")
    shown = (await shopper.get("/cart")).json()
    assert (shown["totalCents"], shown["currency"]) == (500, "USD")


async def test_a_guest_gets_a_key_to_a_cart_of_their_own(goods: None, client: httpx.AsyncClient) -> None:
    first = await client.get("/cart")
    token = first.headers["X-Cart-Token"]
    assert len(token) == 43
    mine = {"X-Cart-Token": token}
    added = await client.post("/cart/items", json={"sku": MOUSE, "qty": 2}, headers=mine)
    assert added.headers["X-Cart-Token"] == token
    assert _held(await client.get("/cart", headers=mine)) == {MOUSE: 2}
    other = await client.get("/cart")
    assert other.headers["X-Cart-Token"] != token
    assert _held(other) == {}
    assert (await client.delete("/cart", headers=mine)).headers["X-Cart-Token"] == token
    assert _held(await client.get("/cart", headers=mine)) == {}


async def test_a_key_that_is_not_ours_opens_nothing(
    goods: None, client: httpx.AsyncClient, shopper: httpx.AsyncClient
) -> None:
    await _add(shopper, MOUSE, 5)
    user = str(shopper.user_id)  # type: ignore[attr-defined]
    for token in (user, "", "x", "1", "*", "guest:x", "a" * 44, f"}}{user}", "é"):
        key = {b"X-Cart-Token": token.encode()}
        answer = await client.get("/cart", headers=key)
        assert _held(answer) == {}
        assert answer.headers["X-Cart-Token"] != token
        answer = await shopper.get("/cart", headers=key)
        assert _held(answer) == {MOUSE: 5}
        assert "X-Cart-Token" not in answer.headers


async def test_signing_in_brings_the_guests_cart_along(goods: None, client: httpx.AsyncClient) -> None:
    who = {"email": "ada@example.com", "password": "analytical engine"}
    await client.post("/users", json=who)
    signed = await client.post("/sessions", json=who)
    bearer = {"Authorization": f"Bearer {signed.json()['accessToken']}"}
    await client.post("/cart/items", json={"sku": MOUSE, "qty": 2}, headers=bearer)
    guest = await client.post("/cart/items", json={"sku": MOUSE, "qty": 3})
    key = {"X-Cart-Token": guest.headers["X-Cart-Token"]}
    await client.post("/cart/items", json={"sku": CABLE, "qty": 1}, headers=key)
    signed = await client.post("/sessions", json=who, headers=key)
    assert signed.status_code == 201
    bearer = {"Authorization": f"Bearer {signed.json()['accessToken']}"}
    assert _held(await client.get("/cart", headers=bearer)) == {MOUSE: 5, CABLE: 1}
    assert _held(await client.get("/cart", headers=key)) == {}
    again = await client.post("/sessions", json=who, headers=key)
    assert again.status_code == 201
    assert _held(await client.get("/cart", headers=bearer)) == {MOUSE: 5, CABLE: 1}
    wrong = await client.post("/sessions", json={**who, "password": "wrong one"}, headers=key)
    assert wrong.status_code == 401


async def test_a_guests_cart_sent_along_later_merges_once(
    goods: None, client: httpx.AsyncClient, shopper: httpx.AsyncClient
) -> None:
    guest = await client.post("/cart/items", json={"sku": MOUSE, "qty": 3})
    key = {"X-Cart-Token": guest.headers["X-Cart-Token"]}
    answers = await asyncio.gather(*(shopper.get("/cart", headers=key) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert _held(await shopper.get("/cart", headers=key)) == {MOUSE: 3}
    assert _held(await client.get("/cart", headers=key)) == {}


async def test_a_sign_in_succeeds_though_the_cart_can_not_be_merged(
    goods: None, client: httpx.AsyncClient, app: FastAPI, shop: Shop
) -> None:
    who = {"email": "ada@example.com", "password": "analytical engine"}
    await client.post("/users", json=who)
    guest = await client.post("/cart/items", json={"sku": MOUSE, "qty": 3})
    key = {"X-Cart-Token": guest.headers["X-Cart-Token"]}
    away = shop.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    async with open_stores(away) as stores:
        app.state.shop = Shop(away, stores)
        assert (await client.post("/sessions", json=who, headers=key)).status_code == 201
        refused = await client.get("/cart", headers=key)
        assert refused.status_code == 503
        assert refused.json()["store"] == "redis"
        assert int(refused.headers["Retry-After"]) >= 1
    app.state.shop = shop
    assert _held(await client.get("/cart", headers=key)) == {MOUSE: 3}


async def test_a_cart_is_shown_without_the_catalog(
    goods: None, shopper: httpx.AsyncClient, app: FastAPI, shop: Shop
) -> None:
    await _add(shopper, MOUSE, 2)
    await shop.stores.redis.call("FLUSHDB")
    user = UUID(str(shopper.user_id))  # type: ignore[attr-defined]
    await shop.stores.redis.call("HSET", store.key(user), MOUSE, 2)
    away = shop.settings.model_copy(update={"mongodb_url": "mongodb://127.0.0.1:1/none?serverSelectionTimeoutMS=200"})
    async with open_stores(away) as stores:
        app.state.shop = Shop(away, stores)
        (line,) = (await shopper.get("/cart")).json()["items"]
        assert (line["name"], line["slug"], line["unitPriceCents"], line["available"]) == (
            "Pebble Mouse",
            None,
            2499,
            10,
        )
        assert (await _add(shopper, CABLE)).status_code == 503


async def test_a_cart_is_kept_thirty_days_from_the_last_look(
    goods: None, shopper: httpx.AsyncClient, shop: Shop
) -> None:
    key = store.key(UUID(str(shopper.user_id)))  # type: ignore[attr-defined]
    month = 30 * 86_400
    await _add(shopper, MOUSE)
    for method, path in (("POST", "/cart/items"), ("PUT", f"/cart/items/{MOUSE}"), ("GET", "/cart")):
        await shop.stores.redis.call("EXPIRE", key, 60)
        body = {"POST": {"sku": MOUSE, "qty": 1}, "PUT": {"qty": 2}}.get(method)
        assert (await shopper.request(method, path, json=body)).status_code == 200
        assert month - 60 < await shop.stores.redis.call("TTL", key) <= month


async def test_a_guests_cart_that_nobody_comes_back_to_is_kept_two_days_and_thirty_from_the_second_touch(
    goods: None, client: httpx.AsyncClient, shopper: httpx.AsyncClient, shop: Shop
) -> None:
    day = 86_400

    async def lives(owner: str | UUID, days: int) -> bool:
        seconds: int = await shop.stores.redis.call("TTL", store.key(owner))
        return days * day - 60 < seconds <= days * day

    touches: list[tuple[str, str, dict[str, Any] | None]] = [
        ("GET", "/cart", None),
        ("POST", "/cart/items", {"sku": MOUSE, "qty": 1}),
        ("PUT", f"/cart/items/{MOUSE}", {"qty": 2}),
        ("POST", "/orders", {"email": "ada@example.com"}),
    ]
    for method, path, body in touches:
        token = (await _add(client, MOUSE)).headers["X-Cart-Token"]
        assert await lives(token, 2)
        touched = await client.request(method, path, json=body, headers={"X-Cart-Token": token})
        assert touched.is_success, touched.text
        assert await lives(token, 30), path
    await _add(shopper, MOUSE)
    assert await lives(UUID(str(shopper.user_id)), 30)  # type: ignore[attr-defined]


async def test_whose_a_guests_cart_became_is_known_as_long_as_a_cart_lives(shop: Shop) -> None:
    """A payment may be pending for days."""
    token, user, carts = cart.new_token(), uuid4(), Carts(shop.stores.redis, 30)
    await carts.add(token, MOUSE, 2)
    await carts.merge(token, user)
    left = [await shop.stores.redis.call("TTL", key) for key in (store.key(user), f"{store.key(token)}:moved")]
    assert abs(left[0] - left[1]) < 60


async def test_what_was_bought_leaves_the_cart_and_what_was_added_meanwhile_stays(shop: Shop) -> None:
    redis, user = shop.stores.redis, uuid4()
    carts = Carts(redis, 30)
    for sku, qty in ((MOUSE, 3), (CABLE, 1), (SHIRT, 2)):
        await carts.add(user, sku, qty)
    bought = {MOUSE: 2, CABLE: 4, "NOT-IN-IT": 1}
    done = await asyncio.gather(*(cart.take_bought(redis, user, bought, "order-1") for _ in range(5)))
    assert sorted(done) == [False] * 4 + [True]
    assert await cart.lines(redis, user) == {MOUSE: 1, SHIRT: 2}
    assert await cart.take_bought(redis, user, {SHIRT: 2}, "order-2")
    assert await cart.lines(redis, user) == {MOUSE: 1}


# --- the scripts against models -------------------------------------------------------------------------------------


CAP, LINES = 5, 3
skus = st.sampled_from(["A", "B", "C", "D"])
changes = st.tuples(st.sampled_from(["add", "set"]), skus, st.integers(0, CAP + 1))
purchases = st.tuples(st.just("bought"), st.dictionaries(skus, st.integers(1, CAP)), st.integers(1, 3))


@settings(max_examples=60)
@given(steps=st.lists(changes | purchases, max_size=30))
async def test_a_cart_does_as_the_model(redis: RedisStore, steps: list[Any]) -> None:
    user, held, seen = uuid4(), dict[str, int](), set[int]()
    key = store.key(user)
    for how, what, number in steps:
        if how == "bought":
            assert await cart.take_bought(redis, user, what, number) == (number not in seen)
            for sku, qty in what.items() if number not in seen else ():
                held[sku] = max(0, held.get(sku, 0) - qty)
            seen.add(number)
        else:
            wanted = held.get(what, 0) * (how == "add") + number
            keys = [key, *(f"{key}:{note}" for note in ("merging", "moved", "gone"))]
            said, *rest = await redis.run(store.ADD, keys, [what, number, how, CAP, LINES, 60, 60])
            if wanted > CAP:
                assert (said, int(rest[0])) == ("qty", held.get(what, 0))
            elif wanted and what not in held and len(held) == LINES:
                assert said == "lines"
            else:
                held[what] = wanted
                assert said == "ok"
                now = {sku: qty for sku, qty in held.items() if qty}
                assert dict(zip(rest[::2], map(int, rest[1::2]), strict=True)) == now
        held = {sku: qty for sku, qty in held.items() if qty}
        assert await cart.lines(redis, user) == held


class Frayed(RedisStore):
    """A Redis whose line breaks after so many calls, or just before the answer to the last comes back."""

    def __init__(self, redis: RedisStore, calls: int, *, answer_lost: bool) -> None:
        self._real, self._left, self._answer_lost = redis, calls, answer_lost

    async def call(self, *command: Arg) -> Any:
        self._left -= 1
        if self._left < 0:
            if self._answer_lost:
                await self._real.call(*command)
            raise StoreUnavailable("redis")
        return await self._real.call(*command)


@pytest.mark.parametrize(("calls", "answer_lost"), [(0, True), (1, False), (1, True)])
async def test_what_is_told_again_is_taken_from_the_cart_that_it_was_to_be_taken_from_before(
    redis: RedisStore, calls: int, answer_lost: bool
) -> None:
    carts, token, user, bought = Carts(redis, 1), cart.new_token(), uuid4(), {MOUSE: 2}
    await carts.add(token, MOUSE, 2)
    await carts.merge(token, user)
    with pytest.raises(StoreUnavailable):
        await cart.take_bought(Frayed(redis, calls, answer_lost=answer_lost), cart.name_of(token), bought, "order")
    await carts.add(token, MOUSE, 2)
    for _ in range(2):
        await cart.take_bought(redis, cart.name_of(token), bought, "order")
        assert (await carts.lines(user), await carts.lines(token)) == ({}, {MOUSE: 2})


async def test_what_somebody_puts_in_while_the_cart_is_forgotten_does_not_stay(redis: RedisStore) -> None:
    carts, user = Carts(redis, 1), uuid4()

    class Beside(RedisStore):
        """Before each command a request that was let in before comes through."""

        def __init__(self) -> None:
            pass

        async def call(self, *command: Arg) -> Any:
            await carts.add(user, MOUSE, 1)
            return await redis.call(*command)

    await Carts(Beside(), 1).forget(user)
    assert await carts.lines(user) == {}


class Dead(Exception):
    """The process is no more."""


async def test_a_cart_does_not_outlive_the_note_of_a_merge_that_stopped(redis: RedisStore) -> None:
    async def dies(step: str) -> None:
        if step == "merge noted":
            raise Dead

    token, user = cart.new_token(), uuid4()
    await Carts(redis, 30).add(token, MOUSE, 2)
    with pytest.raises(Dead):  # in a shop that by now keeps carts for a day
        await Carts(redis, 1, dies).merge(token, user)
    held = store.key(token)
    lives, noted = await redis.pipeline([("PTTL", held), ("PTTL", f"{held}:merging")])
    assert 0 < lives <= noted


async def test_what_became_of_a_merge_is_known_for_long_after_its_note_is_gone(redis: RedisStore) -> None:
    async def dies(step: str) -> None:
        if step == "merge received":
            raise Dead

    carts, token, user = Carts(redis, 1, dies), cart.new_token(), uuid4()
    await carts.add(token, MOUSE, 2)
    with pytest.raises(Dead):
        await carts.merge(token, user)
    noted = f"{store.key(token)}:merging"
    fate = store._fate(await redis.call("GET", noted))
    assert await redis.call("TTL", fate) >= await redis.call("TTL", noted) + 3600


async def test_a_merge_that_is_slow_to_end_takes_nothing_that_was_put_in_after_another_had_ended_it(
    redis: RedisStore,
) -> None:
    carts, token, user = Carts(redis, 1), cart.new_token(), uuid4()

    async def ended_meanwhile(step: str) -> None:
        if step == "merge received":
            await carts.add(token, CABLE, 1)

    await carts.add(token, MOUSE, 2)
    await Carts(redis, 1, ended_meanwhile).merge(token, user)
    assert (await carts.lines(user), await carts.lines(token)) == ({MOUSE: 2}, {CABLE: 1})


people = st.sampled_from(["guest", 0, 1])
additions = st.tuples(st.just("add"), people, skus, st.integers(1, 3))
merges = st.tuples(st.just("merge"), st.sampled_from([0, 1]), st.integers(0, 7), st.booleans())


@settings(max_examples=60)
@given(steps=st.lists(additions | merges, max_size=20))
async def test_a_merge_that_breaks_anywhere_loses_and_doubles_nothing(redis: RedisStore, steps: list[Any]) -> None:
    carts, token, users = Carts(redis, 1), cart.new_token(), (uuid4(), uuid4())
    added: dict[str, int] = {}
    for step in steps:
        if step[0] == "add":
            _, who, sku, qty = step
            await carts.add(token if who == "guest" else users[who], sku, qty)
            added[sku] = added.get(sku, 0) + qty
        else:
            _, who, calls, answer_lost = step
            seen = _sum(await cart.lines(redis, token), await cart.lines(redis, users[0]), await carts.lines(users[1]))
            assert all(seen.get(sku, 0) >= qty for sku, qty in added.items())
            try:
                await Carts(Frayed(redis, calls, answer_lost=answer_lost), 1).merge(token, users[who])
            except StoreUnavailable:
                continue
    await carts.merge(token, users[0])
    assert await cart.lines(redis, token) == {}
    assert _sum(await cart.lines(redis, users[0]), await cart.lines(redis, users[1])) == added


def _sum(*held: Mapping[str, int]) -> dict[str, int]:
    return {sku: sum(one.get(sku, 0) for one in held) for sku in {sku for one in held for sku in one}}


async def test_merging_stops_at_999_pieces_and_drops_no_line(redis: RedisStore) -> None:
    carts, token, user = Carts(redis, 1), cart.new_token(), uuid4()
    for n in range(cart.MOST_LINES):
        await carts.add(user, f"MINE-{n}", 1)
    with pytest.raises(cart.CartFull):
        await carts.add(user, "ONE-MORE", 1)
    await carts.add(user, "MINE-0", 900)
    await carts.add(token, "MINE-0", 900)
    await carts.add(token, "NEW-1", 1)
    await carts.merge(token, user)
    held = await cart.lines(redis, user)
    assert (held["MINE-0"], held["NEW-1"], len(held)) == (cart.MOST_PIECES, 1, cart.MOST_LINES + 1)


async def test_every_script_keeps_to_one_slot(redis: RedisStore) -> None:
    """As Redis Cluster sees it: what stands between the first braces is the same in all keys of a call."""
    seen: list[Sequence[str]] = []

    class Watched(RedisStore):
        def __init__(self) -> None:
            self._real = redis

        async def run(self, script: Script, keys: Sequence[str], args: Sequence[Arg] = ()) -> Any:
            seen.append(keys)
            return await self._real.run(script, keys, args)

    watched, token, user = Watched(), cart.new_token(), uuid4()
    await Carts(watched, 1).add(token, "A", 1)
    await Carts(watched, 1).merge(token, user)
    await cart.take_bought(watched, cart.name_of(token), {"A": 1}, "order")
    await Carts(watched, 1).lines(token)
    await Carts(watched, 1).clear(token)
    assert len(seen) == 8
    assert all(len({key.partition("{")[2].partition("}")[0] for key in keys}) == 1 for keys in seen)
