"""The first start fills the shop; every later one leaves it as its people made it."""

import asyncio
from typing import Any

import httpx
import pytest

from quartet import catalog
from quartet.demo import SeedReport, seed
from quartet.demo.logins import FILE, LOGINS, kept
from quartet.demo.model import load, sellables
from quartet.web.dependencies import Shop

GOODS = load()
ROWS = [row for product in GOODS.products for row in sellables(product)]
TABLES = ("inventory", "inventory_movements", "users", "outbox")


async def everything(shop: Shop) -> dict[str, Any]:
    """All that the stores of record hold, and the file of logins."""
    held: dict[str, Any] = {"logins": (shop.settings.data_dir / FILE).stat().st_mtime_ns}
    async with shop.stores.pg.read() as read:
        for table in TABLES:
            held[table] = [dict(row) for row in await read.fetch(f"SELECT * FROM {table} ORDER BY 1")]
    for name in (catalog.PRODUCTS, "categories"):
        held[name] = await shop.stores.mongo.collection(name).find({}, sort=[("_id", 1)])
    return held


async def sign_in(client: httpx.AsyncClient, email: str, password: str) -> httpx.Response:
    return await client.post("/sessions", json={"email": email, "password": password})


async def test_the_first_start_fills_the_shop_and_a_second_changes_nothing(shop: Shop) -> None:
    told: list[tuple[str, int, int]] = []
    first = await seed(shop, lambda *stage: told.append(stage))
    assert (first.skus, first.categories) == (len(ROWS), len(GOODS.categories))
    assert (first.products, first.people) == (len(GOODS.products), len(LOGINS))
    assert {stage: done for stage, done, _ in told} == {
        "Stocking the shelves": len(ROWS),
        "Filling the catalog": len(GOODS.products),
    }
    before = await everything(shop)

    assert await seed(shop) == SeedReport(0, 0, 0, 0, first.logins)
    assert await everything(shop) == before


async def test_the_shop_sells_what_the_catalog_promises(shop: Shop, client: httpx.AsyncClient) -> None:
    await seed(shop)
    laptop = (await client.get("/products/thinkpad-x1-carbon-gen-12")).json()
    written = next(product for product in GOODS.products if product["sku"] == "LAPTOP-001")
    copied = (
        "sku",
        "name",
        "slug",
        "category",
        "brand",
        "description",
        "images",
        "attrs",
        "variants",
        "priceCents",
        "tags",
    )
    assert {field: laptop[field] for field in copied} == {field: written[field] for field in copied}
    assert laptop["currency"] == "GBP"
    assert laptop["ratings"] == {"avg": 4.7, "count": 284}
    assert laptop["available"] == written["stock"]

    shirt = (await client.get("/products/SHIRT-001-BLACK-M")).json()
    assert shirt["sku"] == "SHIRT-001"
    assert shirt["available"] == sum(variant["available"] for variant in shirt["variants"]) > 0
    for sent in ({}, {"Range": "bytes=abc"}):
        picture = await client.get(laptop["images"][0]["url"], headers=sent)
        assert (picture.status_code, picture.headers["Content-Type"]) == (200, "image/svg+xml")
    assert (await client.get("/products/LAPTOP-011")).status_code == 404, "not published yet"
    assert (await client.get("/products/SHOE-009")).status_code == 404, "a draft"

    answer = await client.get(
        "/products", params={"category": "laptops", "attrs.ram_gb.gte": "32", "sort": "-rating", "limit": "20"}
    )
    found = answer.json()["items"]
    assert len(found) >= 5
    assert all(laptop["attrs"]["ram_gb"] >= 32 for laptop in found)
    ratings = [laptop["ratings"]["avg"] for laptop in found]
    assert ratings == sorted(ratings, reverse=True)

    async with shop.stores.pg.read() as read:
        rows = await read.fetch("SELECT sku, name, unit_price_cents, stock, currency FROM inventory")
        ledger = await read.fetch("SELECT sku, sum(stock_delta)::int AS stock FROM inventory_movements GROUP BY sku")
    assert {(row["sku"], row["name"], row["unit_price_cents"], row["stock"]) for row in rows} == set(ROWS)
    assert {row["currency"] for row in rows} == {"GBP"}
    assert {row["sku"]: row["stock"] for row in ledger} == {row.sku: row.stock for row in ROWS if row.stock}


async def test_the_demo_people_sign_in_with_the_kept_passwords_and_new_ones_when_those_are_lost(
    shop: Shop, client: httpx.AsyncClient
) -> None:
    first = (await seed(shop)).logins
    assert kept(shop.settings.data_dir) == first
    for login in LOGINS:
        signed = await sign_in(client, login.email, first[login.email])
        assert signed.status_code == 201
        bearer = {"Authorization": f"Bearer {signed.json()['accessToken']}"}
        me = (await client.get("/users/me", headers=bearer)).json()
        assert (me["displayName"], sorted(me["roles"])) == (login.name, sorted(login.roles))

    (shop.settings.data_dir / FILE).unlink()
    again = await seed(shop)
    assert again.people == 0
    assert set(again.logins) == set(first)
    assert not set(again.logins.values()) & set(first.values())
    assert kept(shop.settings.data_dir) == again.logins
    email = LOGINS[0].email
    assert (await sign_in(client, email, first[email])).status_code == 401
    assert (await sign_in(client, email, again.logins[email])).status_code == 201


async def test_what_staff_changed_or_deleted_stays_so(shop: Shop, staff: httpx.AsyncClient) -> None:
    await seed(shop)
    assert (await staff.delete("/products/MOUSE-003")).status_code == 204
    repriced = await staff.put(
        "/inventory/MOUSE-001", json={"name": "Silent Mouse", "unitPriceCents": 1999, "stock": 7}
    )
    assert repriced.status_code == 200
    assert await seed(shop) == SeedReport(0, 0, 0, 0, kept(shop.settings.data_dir))
    assert (await staff.get("/products/MOUSE-003")).status_code == 404
    mouse = (await staff.get("/inventory/MOUSE-001")).json()
    assert (mouse["name"], mouse["unitPriceCents"], mouse["stock"]) == ("Silent Mouse", 1999, 7)


async def test_a_start_cut_short_is_finished_by_the_next(shop: Shop) -> None:
    stop = len(GOODS.products) // 2

    def pull_the_plug(stage: str, done: int, total: int) -> None:
        if stage == "Filling the catalog" and done >= stop:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await seed(shop, pull_the_plug)
    half = len(await shop.stores.mongo.collection(catalog.PRODUCTS).find({}))
    assert 0 < half < len(GOODS.products)
    report = await seed(shop)
    assert (report.skus, report.products, report.people) == (0, len(GOODS.products) - half, len(LOGINS))
    assert len(await shop.stores.mongo.collection(catalog.PRODUCTS).find({})) == len(GOODS.products)


async def test_a_catalog_that_is_empty_again_is_filled_with_the_stock_of_now(shop: Shop) -> None:
    """MongoDB may be set up anew while PostgreSQL's books go on."""
    await seed(shop)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE inventory SET stock = 3 WHERE sku = 'LAPTOP-001'")
    await shop.stores.mongo.drop_database()
    await catalog.prepare(shop.stores.mongo)
    report = await seed(shop)
    assert (report.skus, report.products, report.people) == (0, len(GOODS.products), 0)
    laptop = await shop.stores.mongo.collection(catalog.PRODUCTS).find_one({"sku": "LAPTOP-001"})
    assert laptop is not None and laptop["available"] == 3
