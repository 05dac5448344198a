"""The retailer's customers bought what goes together: the pairs that anybody would name come out of their orders."""

import csv
import itertools
import lzma
from pathlib import Path

import httpx
import pytest

from floor import made
from quartet import discovery, retail, sync
from quartet.retail.dataset import COLUMNS
from quartet.web.dependencies import Shop

# Of one make in other colours or sizes, by the retailer's numbers.
PAIRS = {
    "21733": "85123A",  # the red hanging heart, the white one
    "22865": "22866",  # hand warmers: owl, Scotty dog
    "22866": "22865",
    "22112": "22111",  # hot water bottles: chocolate, Scotty dog
    "82494L": "82482",  # wooden frame, wooden picture frame, both antique white
    "22470": "22469",  # heart of wicker, large and small
}


def december(folder: Path) -> Path:
    """The shipped file's first month, as a file of its own."""
    file = folder / "retail.csv"
    with lzma.open(retail.SHIPPED, "rt", encoding="utf-8", newline="") as source, file.open("w", newline="") as text:
        rows = csv.reader(source)
        at = COLUMNS.index("at")
        csv.writer(text).writerows([next(rows), *itertools.takewhile(lambda row: row[at] < "2011", rows)])
    return file


@pytest.mark.timeout(600)
async def test_known_pairs_come_out_of_real_orders(shop: Shop, client: httpx.AsyncClient, tmp_path: Path) -> None:
    await retail.import_retail(shop, december(tmp_path))
    await sync.catch_up(shop)
    await discovery.count_all(shop)
    for sku, other in PAIRS.items():
        items = (await made(client.get(f"/products/{sku}/related", params={"limit": 5})))["items"]
        assert other in [item["sku"] for item in items], (sku, [(item["sku"], item["name"]) for item in items])
        assert {item["reason"] for item in items} == {"bought-together"}
    best = (await made(client.get("/bestsellers", params={"period": "all", "limit": 100})))["items"]
    async with shop.stores.pg.read() as read:
        expected = await read.fetch(
            """SELECT sku, sum(quantity - refunded_qty) AS units FROM order_items JOIN orders o ON o.id = order_id
               WHERE o.status IN ('confirmed', 'shipped', 'delivered')
               GROUP BY sku ORDER BY 2 DESC LIMIT 20"""
        )
    assert [item["units"] for item in best[:10]] == [row["units"] for row in expected[:10]]
