"""GET /bestsellers and GET /products/{sku}/related: what was bought leads from one product to another."""

import asyncio
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import httpx
import pytest
from rich.console import Console
from standstill import Standstill, until_done

import cashier
from conftest import SignIn, stuck
from floor import made
from quartet import catalog, discovery, inventory, orders, sync
from quartet.catalog import Category, Draft, Variant
from quartet.cli import bring_up
from quartet.discovery import service, store
from quartet.discovery.service import LEAST_READ, Round, count
from quartet.search.service import MOST_WAITING
from quartet.stores import postgres
from quartet.web.dependencies import Shop

Json = dict[str, Any]
SEED = 4711
NOW = datetime.now(UTC)
GOODS = {
    "TEA": "drinks", "MILK": "drinks", "SUGAR": "food", "SALT": "food", "CAKE": "food", "LAMP": "home", "ROPE": "home",
    "EVER": "home",
}  # fmt: skip


@pytest.fixture
async def shelf(shop: Shop) -> Shop:
    """Eight things in three categories under one, and a shirt in two sizes."""
    await catalog.put_category(shop, Category("things", "Things", None, {"type": "object"}))
    for slug in ("drinks", "food", "home"):
        await catalog.put_category(shop, Category(slug, slug.title(), "things", {"type": "object"}))
    drafts = [Draft(sku, sku.title(), category, price_cents=100, published_at=NOW - timedelta(days=900))
              for sku, category in GOODS.items()]  # fmt: skip
    sizes = [Variant(f"SHIRT-{size}", {"size": size}, 100) for size in "SL"]
    drafts.append(Draft("SHIRT", "Shirt", "home", variants=sizes, published_at=NOW - timedelta(days=900)))
    for draft in drafts:
        await catalog.create_product(shop, draft, actor="test")
    async with shop.stores.pg.tx() as tx:
        for sku in [*GOODS, "SHIRT-S", "SHIRT-L"]:
            await inventory.put(tx, sku, sku.title(), 100, currency="GBP", actor="test", stock=10_000)
    await sync.catch_up(shop)
    return shop


async def sold(shop: Shop, buyer: httpx.AsyncClient, *skus: str, qty: int = 1, days_ago: int = 0) -> Any:
    """An order that is paid, of so long ago; its id."""
    async with shop.stores.pg.tx() as tx:
        order = await orders.place(tx, buyer.user_id, [(sku, qty) for sku in skus])  # type: ignore[attr-defined]
        await cashier.confirm(tx, order.id)
        await tx.execute(
            "UPDATE orders SET created_at = created_at - make_interval(days => $2) WHERE id = $1", order.id, days_ago
        )
    return order.id


async def related(client: httpx.AsyncClient, sku: str, **params: Any) -> list[tuple[str, str]]:
    items = (await made(client.get(f"/products/{sku}/related", params=params)))["items"]
    return [(item["sku"], item["reason"]) for item in items]


async def bestsellers(client: httpx.AsyncClient, **params: Any) -> list[tuple[str, int]]:
    items = (await made(client.get("/bestsellers", params=params)))["items"]
    return [(item["sku"], item["units"]) for item in items]


async def test_what_is_bought_together_is_shown_together(shelf: Shop, shopper: httpx.AsyncClient) -> None:
    """What is in every basket is no advice: twice together with a thing seldom sold says more."""
    for _ in range(4):
        await sold(shelf, shopper, "TEA", "MILK", "EVER")
    for sku in ("LAMP", "ROPE", "CAKE", "SALT") * 5:
        await sold(shelf, shopper, sku, "EVER")
    await sold(shelf, shopper, "TEA", "LAMP")  # once is chance
    await sync.catch_up(shelf)
    await discovery.count_all(shelf)
    assert await related(shopper, "TEA") == [("MILK", "bought-together"), ("EVER", "bought-together")]
    assert await related(shopper, "tea", limit=1) == [("MILK", "bought-together")]
    assert (await related(shopper, "LAMP"))[0] == ("EVER", "bought-together")


async def test_a_start_leaves_the_orders_of_years_to_the_worker(shelf: Shop, shopper: httpx.AsyncClient) -> None:
    await sold(shelf, shopper, "TEA")
    await bring_up(shelf.settings, Console(quiet=True), empty=True)
    assert await bestsellers(shopper) == []
    await discovery.count_all(shelf)
    assert await bestsellers(shopper) == [("TEA", 1)]


async def test_a_sku_on_two_lines_of_an_order_is_one_basket(shelf: Shop, shopper: httpx.AsyncClient) -> None:
    """As orders brought along from elsewhere have it."""
    once, alone = await sold(shelf, shopper, "TEA", "MILK"), await sold(shelf, shopper, "ROPE")
    async with shelf.stores.pg.tx() as tx:
        again = """INSERT INTO order_items (order_id, sku, quantity, unit_price_cents, product_name)
                   SELECT order_id, sku, quantity, unit_price_cents, product_name FROM order_items
                   WHERE order_id = ANY ($1::uuid[]) AND sku IN ('MILK', 'ROPE')"""
        await tx.execute(again, [once, alone])
    await discovery.count_all(shelf)
    async with shelf.stores.pg.read() as read:
        kept = await read.fetch("SELECT sku, others FROM bought_together ORDER BY sku")
    assert [(row["sku"], list(row["others"])) for row in kept] == [("MILK", []), ("TEA", [])]


async def test_counting_agrees_with_counting_by_hand(shelf: Shop, sign_in: SignIn) -> None:
    print(f"seed {SEED}")
    draw, buyer = random.Random(SEED), await sign_in()
    pairs: Counter[tuple[str, str]] = Counter()
    baskets: Counter[str] = Counter()
    units: Counter[str] = Counter()
    for _ in range(60):
        skus, qty = draw.sample(list(GOODS), draw.randint(1, 4)), draw.randint(1, 3)
        order_id = await sold(shelf, buyer, *skus, qty=qty, days_ago=draw.choice([0, 5, 20, 100, 800]))
        if draw.random() < 0.2:
            async with shelf.stores.pg.tx() as tx:
                await orders.cancel(tx, order_id, by="test")
            continue
        units.update(dict.fromkeys(skus, qty))
        if len(skus) > 1:
            baskets.update(skus)
            pairs.update(permutations(skus, 2))
    await discovery.count_all(shelf)
    for sku in GOODS:
        scores = {b: times / (baskets[b] + 10) ** 0.5 for (a, b), times in pairs.items() if a == sku and times > 1}
        expected = sorted(scores, key=lambda b: (-scores[b], b))
        found = [other for other, reason in await related(buyer, sku) if reason == "bought-together"]
        assert [round(scores[b], 9) for b in found] == [round(scores[b], 9) for b in expected], sku
    assert dict(await bestsellers(buyer, period="all")) == {sku: n for sku, n in units.items() if n}


async def test_only_the_latest_baskets_are_kept_and_none_is_counted_twice(
    shelf: Shop, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_BASKETS", 3)
    monkeypatch.setattr(store, "PORTION", 4)
    for days_ago in range(6, 0, -1):
        await sold(shelf, shopper, "TEA", "MILK", "EVER", days_ago=days_ago)
    await sold(shelf, shopper, "LAMP", "ROPE", days_ago=6)
    for left in (16, 12, 11):
        await discovery.count_all(shelf)
        async with shelf.stores.pg.tx() as tx:
            assert await tx.fetchval("SELECT count(*) FROM baskets") == left
            counted = await tx.fetch("SELECT sku, baskets FROM bought_together ORDER BY sku")
            await tx.execute("UPDATE bought_together SET stale = true")
        assert dict(counted) == {"EVER": 6, "LAMP": 1, "MILK": 6, "ROPE": 1, "TEA": 6}
    assert await related(shopper, "TEA", limit=2) == [("EVER", "bought-together"), ("MILK", "bought-together")]


async def test_bestsellers_go_by_period_and_category(shelf: Shop, shopper: httpx.AsyncClient) -> None:
    for sku, qty, days_ago in (("TEA", 5, 0), ("MILK", 6, 5), ("SUGAR", 7, 20), ("SALT", 8, 100), ("LAMP", 9, 800)):
        await sold(shelf, shopper, sku, qty=qty, days_ago=days_ago)
    await discovery.count_all(shelf)
    days, week, month = [("TEA", 5)], [("MILK", 6), ("TEA", 5)], [("SUGAR", 7), ("MILK", 6), ("TEA", 5)]
    assert await bestsellers(shopper, period="day") == days
    assert await bestsellers(shopper, period="week") == week
    assert await bestsellers(shopper) == month
    assert await bestsellers(shopper, period="year") == [("SALT", 8), *month]
    assert await bestsellers(shopper, period="all") == [("LAMP", 9), ("SALT", 8), *month]
    assert await bestsellers(shopper, period="all", category="food") == [("SALT", 8), ("SUGAR", 7)]
    assert await bestsellers(shopper, category="things", limit=2) == month[:2]
    assert await bestsellers(shopper, category="nothing") == []


async def test_so_many_of_each_category_are_kept(
    shelf: Shop, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that sold as often the one whose id comes first; what has no category in inventory has one of its own."""
    async with shelf.stores.pg.tx() as tx:
        await tx.execute("UPDATE inventory SET category = NULL WHERE sku = 'LAMP'")
    for sku, qty in (("TEA", 5), ("MILK", 5), ("SUGAR", 7), ("SALT", 8), ("LAMP", 9), ("ROPE", 1)):
        await sold(shelf, shopper, sku, qty=qty)
    monkeypatch.setattr(service, "MOST_STORED", 1)
    await discovery.count_all(shelf)
    async with shelf.stores.pg.read() as read:
        kept = await read.fetch("SELECT category, units FROM bestsellers WHERE period = 'all' ORDER BY 1")
        tied = await read.fetchval("SELECT product_id FROM bestsellers WHERE category = 'drinks' AND period = 'all'")
    assert [tuple(row) for row in kept] == [("", 9), ("drinks", 5), ("food", 8), ("home", 1)]
    assert tied == min((await catalog.product_ids_of_skus(shelf.stores.mongo, ["TEA", "MILK"])).values())


@pytest.mark.parametrize("table", ["sold_days", "baskets", "bought_together"])
async def test_counting_may_take_longer_than_a_call(
    shelf: Shop, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """It goes through every day there was, and much that nobody has read for long."""
    await sold(shelf, shopper, "TEA", "MILK", qty=2)
    monkeypatch.setattr(postgres, "CALL_SECONDS", 1.0)
    impatient = postgres.Postgres(shelf.settings.postgres_url or "")
    async with asyncio.TaskGroup() as group, shelf.stores.pg.tx() as tx:
        await tx.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        shop = replace(shelf, stores=replace(shelf.stores, pg=impatient))
        counting = group.create_task(discovery.count_all(shop))
        await stuck(shelf)
        await asyncio.wait([counting], timeout=1.5)
    await impatient.close()
    assert set(await bestsellers(shopper)) == {("TEA", 2), ("MILK", 2)}


async def test_variants_sell_for_their_product(shelf: Shop, shopper: httpx.AsyncClient) -> None:
    for size in "SLL":
        await sold(shelf, shopper, f"SHIRT-{size}", "ROPE")
    await discovery.count_all(shelf)
    assert await bestsellers(shopper) == [("ROPE", 3), ("SHIRT", 3)] or await bestsellers(shopper) == [
        ("SHIRT", 3), ("ROPE", 3),
    ]  # fmt: skip
    assert ("ROPE", "bought-together") in await related(shopper, "SHIRT-S")
    assert ("SHIRT", "bought-together") in await related(shopper, "ROPE")


async def test_a_product_that_moved_when_it_got_variants_is_a_bestseller_where_most_of_it_sold(
    shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    """Its own SKU, which nobody buys any more, stays in inventory as it was."""
    await sold(shelf, shopper, "LAMP", qty=5, days_ago=20)
    sizes = [{"sku": f"LAMP-{size}", "attrs": {"size": size}, "priceCents": 100} for size in "SL"]
    await made(staff.patch("/products/LAMP", json={"category": "food", "variants": sizes}))
    for size in "SL":
        await made(staff.post(f"/inventory/LAMP-{size}/movements", json={"delta": 10, "reason": "restocked"}))
    await sold(shelf, shopper, "LAMP-S", qty=2)
    await sold(shelf, shopper, "LAMP-L")
    await discovery.count_all(shelf)
    assert await bestsellers(shopper, period="week", category="food") == [("LAMP", 3)]
    assert await bestsellers(shopper, period="month", category="home") == [("LAMP", 8)]
    assert await bestsellers(shopper, period="month", category="food") == []


async def test_a_product_that_moves_is_a_bestseller_where_it_is_now(
    shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    """Though nothing is sold meanwhile: with the next round of the days."""
    await sold(shelf, shopper, "LAMP", qty=2)
    state = Round()
    while await count(shelf, state):
        pass
    await made(staff.patch("/products/LAMP", json={"category": "food"}))
    await sync.catch_up(shelf)
    state.rests_until = 0.0
    while await count(shelf, state):
        pass
    assert await bestsellers(shopper, category="food") == [("LAMP", 2)]
    assert await bestsellers(shopper, category="home") == []


async def test_what_is_cancelled_is_taken_back(shelf: Shop, shopper: httpx.AsyncClient) -> None:
    ids = [await sold(shelf, shopper, "TEA", "MILK", qty=2, days_ago=3) for _ in range(2)]
    await discovery.count_all(shelf)
    assert await related(shopper, "TEA") == [("MILK", "bought-together")]
    async with shelf.stores.pg.tx() as tx:
        await orders.cancel(tx, ids[0], by="test")
    await discovery.count_all(shelf)
    assert await related(shopper, "TEA") == [("MILK", "alike")]
    assert await bestsellers(shopper) in ([("MILK", 2), ("TEA", 2)], [("TEA", 2), ("MILK", 2)])


async def test_what_is_given_back_has_not_sold(
    shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    lines = {"items": [{"sku": "TEA", "qty": 3}, {"sku": "MILK", "qty": 2}]}
    order = await made(shopper.post("/orders", json=lines))
    paying = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    await made(shopper.post("/payments", json=paying))
    state = Round()
    while await count(shelf, state):
        pass
    assert await bestsellers(shopper) == [("TEA", 3), ("MILK", 2)]
    refund = f"/orders/{order['id']}/refunds"
    await made(staff.post(refund, json={"items": [{"sku": "TEA", "qty": 2}]}))
    await count(shelf, state)
    assert await bestsellers(shopper) == [("MILK", 2), ("TEA", 1)]
    await made(staff.post(refund, json={"items": [{"sku": "MILK", "qty": 2}]}))
    await count(shelf, state)
    assert await bestsellers(shopper) == [("TEA", 1)]
    await made(staff.post(refund, json={}))
    await count(shelf, state)
    assert await bestsellers(shopper) == []


async def test_only_what_is_public_is_shown(shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient) -> None:
    for _ in range(2):
        await sold(shelf, shopper, "TEA", "MILK")
    await discovery.count_all(shelf)
    await made(staff.patch("/products/MILK", json={"publishedAt": None}))
    await sync.catch_up(shelf)
    assert await bestsellers(shopper) == [("TEA", 2)]
    assert await related(shopper, "TEA") == []
    assert (await shopper.get("/products/MILK/related")).status_code == 404
    await made(staff.delete("/products/MILK"))
    assert await bestsellers(shopper) == [("TEA", 2)]


async def test_of_what_is_bought_together_no_more_is_read_than_is_shown(
    shelf: Shop, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the drafts that come first a portion is read, then one of the others."""
    skus = [f"BAG-{n:02}" for n in range(60)]
    for n, sku in enumerate(skus):
        published_at = NOW if n >= LEAST_READ else None
        draft = Draft(sku, sku, "home", price_cents=100, published_at=published_at)
        await catalog.create_product(shelf, draft, actor="test")
    async with shelf.stores.pg.tx() as tx:
        await tx.execute("INSERT INTO bought_together (sku, baskets, others) VALUES ('TEA', 1, $1)", skus)
    read: list[int] = []
    by_ids = catalog.by_ids

    async def noted(mongo: Any, ids: Any) -> Any:
        read.append(len(ids))
        return await by_ids(mongo, ids)

    monkeypatch.setattr(catalog, "by_ids", noted)
    shown = await related(shopper, "TEA", limit=3)
    assert shown == [(sku, "bought-together") for sku in skus[LEAST_READ : LEAST_READ + 3]]
    assert read == [LEAST_READ, LEAST_READ]


async def test_a_card_says_what_there_is_now_and_is_cacheable(
    shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    await sold(shelf, shopper, "TEA")
    await discovery.count_all(shelf)
    first = await shopper.get("/bestsellers")
    assert first.json()["items"] == [
        {"id": first.json()["items"][0]["id"], "sku": "TEA", "slug": "tea", "name": "Tea", "brand": None,
         "category": "drinks", "priceCents": 100, "currency": "GBP", "rating": 0, "inStock": True, "image": None,
         "units": 1}
    ]  # fmt: skip
    assert first.headers["Cache-Control"] == "public, max-age=5, must-revalidate"
    again = await shopper.get("/bestsellers", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    stock = (await made(staff.get("/inventory/TEA")))["available"]
    await made(staff.post("/inventory/TEA/movements", json={"delta": -stock, "reason": "adjusted"}))
    await sync.catch_up(shelf)
    changed = await shopper.get("/bestsellers", headers={"If-None-Match": first.headers["ETag"]})
    assert (changed.status_code, changed.json()["items"][0]["inStock"]) == (200, False)


async def test_what_is_alike_shares_what_few_others_have(shelf: Shop, shopper: httpx.AsyncClient) -> None:
    attrs = {"type": "object", "properties": {"color": {"type": "string"}, "wood": {"type": "string"}}}
    await catalog.put_category(shelf, Category("desks", "Desks", None, attrs))
    for sku, color, wood in (("A", "red", "oak"), ("B", "red", "pine"), ("C", "blue", "oak"), ("D", "red", "ash")):
        draft = Draft(f"DESK-{sku}", f"Model {sku}", "desks", attrs={"color": color, "wood": wood}, price_cents=1,
                      published_at=NOW)  # fmt: skip
        await catalog.create_product(shelf, draft, actor="test")
    await sync.catch_up(shelf)
    found = await related(shopper, "DESK-A")
    assert {sku for sku, _ in found} == {"DESK-B", "DESK-C", "DESK-D"}
    assert {reason for _, reason in found} == {"alike"}


async def test_what_is_alike_takes_the_clients_share_of_the_engine(
    shelf: Shop, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever looks at many products at once would keep the engine from those who search."""
    engine, share = Standstill(monkeypatch), shelf.settings.search_share
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        asked = [group.create_task(shopper.get("/products/LAMP/related")) for _ in range(share + MOST_WAITING + 2)]
        await until_done(asked, 2)
        assert engine.asked == share
        engine.go_on()
    assert Counter(one.result().status_code for one in asked) == {200: share + MOST_WAITING, 429: 2}


async def test_a_dealers_basket_says_nothing(shelf: Shop, shopper: httpx.AsyncClient) -> None:
    skus = [f"BULK-{n}" for n in range(101)]
    async with shelf.stores.pg.tx() as tx:
        for sku in skus:
            await inventory.put(tx, sku, sku, 100, currency="GBP", actor="test", stock=10)
    for _ in range(2):
        await sold(shelf, shopper, *skus)
    await discovery.count_all(shelf)
    async with shelf.stores.pg.read() as read:
        assert await read.fetchval("SELECT count(*) FROM baskets") == 0
