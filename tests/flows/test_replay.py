"""The retailer's baskets are bought again through the front door, and the shop is sound afterwards."""

import csv
from pathlib import Path
from typing import Any

import httpx

from quartet import audit, retail, sync
from quartet.retail.dataset import COLUMNS
from quartet.retail.replay import Outcome
from quartet.web.dependencies import Shop


def line(invoice: str, sku: str, quantity: int) -> list[Any]:
    return [invoice, sku, f"RED WOODEN {sku}", quantity, "2010-12-01 08:26:00", "2.55", "17850", "United Kingdom"]


async def imported(shop: Shop, folder: Path, *lines: list[Any]) -> Path:
    file = folder / "retail.csv"
    with file.open("w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([COLUMNS, *lines])
    await retail.import_retail(shop, file)
    return file


async def test_crowds_buy_real_baskets_and_the_books_stay_sound(
    shop: Shop, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    file = await imported(
        shop, tmp_path,
        line("1", "HEART", 2), line("1", "TINS", 1), line("1", "HEART", 1),
        line("2", "TINS", 3), line("2", "LANTERN", 1),
        line("3", "LANTERN", 2), line("3", "HEART", 1),
    )  # fmt: skip
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE inventory SET unit_price_cents = 300 WHERE sku = 'HEART'")
        before = await tx.fetchval("SELECT sum(stock) FROM inventory")
    result = await retail.replay(client, retail.baskets(file, "2010-12", 9, seed=3), 4)

    assert result.outcomes == {Outcome.CONFIRMED: 9}, result.failures
    assert result.units == 3 * (4 + 4 + 3)
    assert result.cents == 3 * (3 * 300 + 255 + 4 * 255 + 2 * 255 + 300), "at today's prices"
    async with shop.stores.pg.read() as read:
        assert await read.fetchval("SELECT sum(stock) FROM inventory") == before - result.units
        sold = await read.fetchval("SELECT sum(total_cents) FROM orders WHERE status = 'confirmed'")
    assert sold == result.cents
    await sync.catch_up(shop)
    assert (await audit.check(shop)).violations == ()


async def test_what_the_shop_can_not_sell_ends_the_basket_and_not_the_replay(
    shop: Shop, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await imported(shop, tmp_path, line("1", "HEART", 1), line("1", "TINS", 1))
    wanted = [
        retail.Basket("1", (("HEART", 1), ("TINS", 999))),
        retail.Basket("2", (("HEART", 1), ("NOWHERE", 1))),
        retail.Basket("3", (("HEART", 1_000),)),
        retail.Basket("4", (("HEART", 1),)),
    ]
    result = await retail.replay(client, wanted, 1)
    assert result.outcomes == {Outcome.SHORT: 1, Outcome.UNKNOWN: 1, Outcome.TOO_MANY: 1, Outcome.CONFIRMED: 1}
    assert not result.failures
    assert result.units == 1, "what was left of a basket that failed is bought by nobody"
