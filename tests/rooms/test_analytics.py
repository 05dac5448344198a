"""The reports, each figure reckoned a second time in plain Python."""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import cashier
from conftest import SignIn
from quartet import inventory, orders
from quartet.analytics import store
from quartet.stores import postgres
from quartet.stores.postgres import Read
from quartet.web.dependencies import Shop

Json = dict[str, Any]

SEED = 1209
FIRST = datetime(2010, 12, 1, tzinfo=UTC)
THINGS = {  # category, price in cents, currency
    "MUG": ("kitchen", 500, "GBP"), "CUP": ("kitchen", 333, "GBP"), "TEA": (None, 7, "GBP"),
    "BAG": ("bags", 2500, "GBP"), "VIN": ("kitchen", 900, "EUR"),
}  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """Something sold or given back."""

    at: datetime
    user: str
    sku: str
    order: str | None
    units: int
    gross: int
    back: int


@pytest.fixture
async def facts(shop: Shop, sign_in: SignIn) -> list[Fact]:
    """A winter of sales, refunds and credits in two currencies; every fact that counts, and orders that do not."""
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    buyers = [await sign_in() for _ in range(3)]
    async with shop.stores.pg.tx() as tx:
        for sku, (category, cents, currency) in THINGS.items():
            await inventory.put(
                tx, sku, f"A {sku}", cents, stock=5000, currency=currency, category=category, actor="test"
            )
    found: list[Fact] = []
    for _ in range(90):
        buyer = draw.choice(buyers)
        skus = draw.sample(["MUG", "CUP", "TEA", "BAG"], draw.randint(1, 3)) if draw.random() < 0.8 else ["VIN"]
        found += await _sale(shop, draw, buyer.user_id, [(sku, draw.randint(1, 9)) for sku in skus])  # type: ignore[attr-defined]
    async with shop.stores.pg.tx() as tx:
        for number in range(10):
            sku, at, user = draw.choice(["MUG", "VIN"]), _moment(draw), buyers[0].user_id  # type: ignore[attr-defined]
            await tx.execute(
                """INSERT INTO credits (user_id, at, amount_cents, currency, sku, qty, reason, source_ref)
                   VALUES ($1, $2, $3, $4, $5, 1, 'returned', $6)""",
                user, at, 100 + number, THINGS[sku][2], sku, f"credit-{number}",
            )  # fmt: skip
            found.append(Fact(at, str(user), sku, None, 0, 0, 100 + number))
    return found


def _moment(draw: random.Random) -> datetime:
    """Within four months, often at the edge of a day."""
    day = FIRST + timedelta(days=draw.randrange(120))
    return day + timedelta(seconds=draw.choice([0, 86399, draw.randrange(86400)]))


async def _sale(shop: Shop, draw: random.Random, user: Any, lines: list[tuple[str, int]]) -> list[Fact]:
    at = _moment(draw)
    async with shop.stores.pg.tx() as tx:
        order = await orders.place(tx, user, lines)
        fate = draw.choice(["pending", "cancelled", "void", "confirmed", "shipped", "delivered", "delivered"])
        if fate == "cancelled":
            await orders.cancel(tx, order.id)
        elif fate != "pending":
            await cashier.confirm(tx, order.id)
        if fate in ("shipped", "delivered"):
            await orders.ship(tx, order.id, by="test")
        if fate == "delivered":
            await orders.deliver(tx, order.id, by="test")
        await tx.execute("UPDATE orders SET created_at = $2 WHERE id = $1", order.id, at)
        if fate == "void":  # paid, refunded, cancelled: never was revenue
            await cashier.refund(tx, order.id, 1)
            await orders.cancel(tx, order.id)
        if fate in ("pending", "cancelled", "void"):
            return []
        sold = [Fact(at, str(user), i.sku, str(order.id), i.qty, i.line_total_cents, 0) for i in order.items]
        if draw.random() < 0.6:
            return sold
        refund = await cashier.refund(tx, order.id, draw.choice([None, draw.randint(1, order.total_cents)]))
        later = at + timedelta(days=draw.randrange(20))
        await tx.execute("UPDATE refunds SET at = $2 WHERE id = $1", refund.id, later)
        parts = await tx.fetch("SELECT sku, amount_cents FROM refund_items WHERE refund_id = $1", refund.id)
        return sold + [Fact(later, str(user), part["sku"], None, 0, 0, part["amount_cents"]) for part in parts]


def _key(fact: Fact, group: str) -> str:
    year, week, _ = fact.at.isocalendar()
    return {
        "day": f"{fact.at:%Y-%m-%d}", "week": f"{year}-W{week:02}", "month": f"{fact.at:%Y-%m}", "product": fact.sku,
        "category": THINGS[fact.sku][0] or "", "customer": fact.user,
    }[group]  # fmt: skip


def _sums(facts: list[Fact]) -> Json:
    gross, back = sum(f.gross for f in facts), sum(f.back for f in facts)
    return {
        "orders": len({f.order for f in facts} - {None}), "units": sum(f.units for f in facts),
        "grossCents": gross, "refundedCents": back, "netCents": gross - back,
    }  # fmt: skip


async def _revenue(staff: httpx.AsyncClient, **query: Any) -> Json:
    answer = await staff.get("/analytics/revenue", params=query)
    assert answer.status_code == 200, answer.text
    return _of_now(answer)


def _of_now(answer: httpx.Response) -> Json:
    """What it says, which is of this moment."""
    found: Json = answer.json()
    assert abs(datetime.fromisoformat(found.pop("asOf")) - datetime.now(UTC)) < timedelta(minutes=1)
    return found


def _grouped(facts: list[Fact], group: str) -> dict[str, Json]:
    groups: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[_key(fact, group)].append(fact)
    return {key: _sums(each) for key, each in groups.items()}


async def test_revenue_in_every_group_to_the_cent(staff: httpx.AsyncClient, facts: list[Fact]) -> None:
    for currency in ("GBP", "EUR"):
        counted = [fact for fact in facts if THINGS[fact.sku][2] == currency]
        assert len(counted) > 10
        for group in ("day", "week", "month", "product", "category", "customer"):
            found = await _revenue(staff, groupBy=group, currency=currency)
            want = _grouped(counted, group)
            assert {item["key"]: {name: item[name] for name in _sums([])} for item in found["items"]} == want, group
            assert found["totals"] == _sums(counted), group
            assert found["currency"] == currency
            keys = [item["key"] for item in found["items"]]
            net = [item["netCents"] for item in found["items"]]
            if group in ("day", "week", "month"):
                assert keys == sorted(keys)
            else:
                assert net == sorted(net, reverse=True)


async def test_from_and_to_and_what_limit_leaves_out(staff: httpx.AsyncClient, facts: list[Fact]) -> None:
    gbp = [fact for fact in facts if THINGS[fact.sku][2] == "GBP"]
    january = [fact for fact in gbp if (fact.at.year, fact.at.month) == (2011, 1)]
    by_days = {"from": "2011-01-01", "to": "2011-01-31", "groupBy": "day"}
    found = await _revenue(staff, **by_days)
    assert found["totals"] == _sums(january)
    by_moments = {"from": "2011-01-01T00:00:00Z", "to": "2011-02-01T01:00:00+01:00"}
    assert await _revenue(staff, **by_moments) == found
    cut = await _revenue(staff, **by_days, limit=3)
    assert cut == {"currency": "GBP", "items": found["items"][-3:], "totals": found["totals"]}
    products = await _revenue(staff, groupBy="product")
    best = await _revenue(staff, groupBy="product", limit=1)
    assert (best["items"], best["totals"]) == (products["items"][:1], products["totals"])
    nothing = await _revenue(staff, **{"from": "1999-01-01", "to": "1999-12-31"})
    assert nothing == {"currency": "GBP", "items": [], "totals": _sums([])}


async def test_groups_are_labelled_for_people(staff: httpx.AsyncClient, facts: list[Fact]) -> None:
    async def label(group: str, key: str) -> str:
        items = (await _revenue(staff, groupBy=group))["items"]
        return next(str(item["label"]) for item in items if item["key"] == key)

    assert await label("product", "MUG") == "A MUG"
    assert await label("category", "kitchen") == "kitchen"
    assert await label("category", "") == "no category"
    assert await label("customer", facts[0].user) == "Test Shopper"
    assert await label("month", "2011-01") == "January 2011"
    assert await label("week", "2010-W52") == "week of 2010-12-27"


async def test_what_lies_on_the_shelves_is_worth(
    shop: Shop, staff: httpx.AsyncClient, shopper: httpx.AsyncClient
) -> None:
    buyer = shopper.user_id  # type: ignore[attr-defined]
    async with shop.stores.pg.tx() as tx:
        for sku, stock, cents in (("GOLD", 1_000_000_000, 100_000_000_000), ("MUG", 10, 500), ("TEA", 6, 7)):
            await inventory.put(tx, sku, f"A {sku}", cents, stock=stock, currency="GBP", actor="test")
        await inventory.put(tx, "VIN", "A VIN", 900, stock=3, currency="EUR", actor="test")
    async with shop.stores.pg.tx() as tx:
        await cashier.confirm(tx, (await orders.place(tx, buyer, [("MUG", 6)])).id)
    async with shop.stores.pg.tx() as tx:
        await orders.place(tx, buyer, [("MUG", 2), ("TEA", 1)])
    found = _of_now(await staff.get("/analytics/inventory"))
    mug = {
        "sku": "MUG", "name": "A MUG", "stock": 4, "reserved": 2, "available": 2, "unitPriceCents": 500,
        "sold": 6, "sellThrough": 0.6,
    }  # fmt: skip
    assert found == {
        "currency": "GBP",
        "skus": 3,
        "stock": 1_000_000_010,
        "reserved": 3,
        "available": 1_000_000_007,
        "valueCents": 10**20 + 4 * 500 + 6 * 7,
        "reservedValueCents": 2 * 500 + 7,
        "sold": 6,
        "sellThrough": 0.0,
        "lowStockSkus": 1,
        "lowStock": [mug],
        "bestSellers": [mug],
    }
    everything_low = (await staff.get("/analytics/inventory?low=6")).json()["lowStock"]
    assert [(each["sku"], each["sold"]) for each in everything_low] == [("MUG", 6), ("TEA", 0)]
    low = (await staff.get("/analytics/inventory?low=6&limit=1")).json()
    assert (low["lowStockSkus"], [each["sku"] for each in low["lowStock"]]) == (2, ["MUG"])
    wine = (await staff.get("/analytics/inventory?currency=EUR")).json()
    assert (wine["valueCents"], wine["sold"], wine["sellThrough"]) == (2700, 0, 0.0)
    assert (await staff.get("/analytics/inventory?currency=USD")).json()["sellThrough"] is None


async def test_what_runs_low_is_looked_for_in_orders_once_and_not_for_each_of_it(shop: Shop) -> None:
    """A hundred SKUs that run low would else read a month's orders a hundred times."""
    async with shop.stores.pg.read() as read:
        plan = await read.fetch("EXPLAIN " + store.q.low_stock, "GBP", 5, FIRST, 100)
    assert not [row[0] for row in plan if "SubPlan" in row[0]]


async def test_a_question_that_is_none_is_refused_by_name(staff: httpx.AsyncClient) -> None:
    wrong = [
        ("revenue?from=yesterday", "from"),
        ("revenue?from=2011-02-30", "from"),
        ("revenue?from=0001-01-01", "from"),
        ("revenue?to=9999-12-31", "to"),
        ("revenue?to=0001-01-01T00:00:00%2B14:00", "to"),
        ("revenue?from=%00", "from"),
        ("revenue?from=2011-02-01&to=2011-01-01", "to"),
        ("revenue?from=2011-02-01&to=2011-01-31", "to"),
        ("revenue?groupBy=hour", "groupBy"),
        ("revenue?currency=pounds", "currency"),
        ("revenue?limit=0", "limit"),
        ("revenue?limit=1001", "limit"),
        ("inventory?low=-1", "low"),
        ("inventory?days=0", "days"),
        ("inventory?limit=1000", "limit"),
        ("inventory?currency=gbp", "currency"),
    ]
    for query, field in wrong:
        answer = await staff.get(f"/analytics/{query}")
        assert answer.status_code == 422, query
        assert [error["field"] for error in answer.json()["errors"]] == [field], query


async def test_a_report_may_take_longer_than_a_shoppers_call(
    shop: Shop, app: FastAPI, staff: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of PostgreSQL, and altogether."""
    monkeypatch.setattr(postgres, "CALL_SECONDS", 0.5)
    impatient = postgres.Postgres(shop.settings.postgres_url or "")
    stores = replace(shop.stores, pg=impatient)
    async with asyncio.TaskGroup() as group, shop.stores.pg.tx() as tx:
        await tx.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        counting = group.create_task(stores.report(lambda read: read.fetchval("SELECT count(*) FROM orders")))
        await asyncio.wait([counting], timeout=1)
    await impatient.close()
    assert counting.result()[0] == 0
    app.state.shop = replace(shop, settings=shop.settings.model_copy(update={"request_timeout": 1e-9}))
    assert (await staff.get("/products")).status_code == 504
    assert (await staff.get("/analytics/revenue")).status_code == 200


async def test_however_many_reports_are_read_shoppers_find_a_connection(shop: Shop) -> None:
    enough, found = asyncio.Event(), asyncio.Semaphore(0)

    async def read(_: Read) -> None:
        found.release()
        await enough.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(2 * shop.settings.postgres_pool):
            group.create_task(shop.stores.report(read))
        await found.acquire()
        assert await shop.stores.pg.ping()
        enough.set()
