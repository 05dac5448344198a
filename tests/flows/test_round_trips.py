"""What a purchase costs in round trips to PostgreSQL, counted on the wire."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from bench.wire import Wire, wired
from fastapi import FastAPI
from till import Till, order, pay

from quartet.kernel.settings import Settings
from quartet.stores.postgres import Postgres
from quartet.web.dependencies import Shop


@pytest.fixture
async def wire(settings: Settings, shop: Shop, app: FastAPI) -> AsyncIterator[Wire]:
    """The application's way to PostgreSQL, with a counter on it and one warm connection."""
    async with wired({"postgres": settings.postgres_url or ""}) as (urls, wires):
        pg = Postgres(urls["postgres"], size=1)
        app.state.shop = replace(shop, stores=replace(shop.stores, pg=pg))
        yield wires["postgres"]
        await pg.close()


async def test_a_purchase_costs_few_round_trips(shopper: httpx.AsyncClient, shop: Shop, wire: Wire) -> None:
    await Till(shop).stock("MUG", 100)
    counted: dict[str, int] = {}
    for _ in range(2):  # the first time each statement is prepared
        counted = await _purchases(shopper, wire)
    print(counted)
    assert counted == {
        "order": 1, "pay": 3, "order with a key": 4, "pay with a key": 3, "replay": 1, "cancel": 5, "refund": 10,
    }  # fmt: skip


async def _purchases(shopper: httpx.AsyncClient, wire: Wire) -> dict[str, int]:
    counted = {}
    lines = {"items": [{"sku": "MUG", "qty": 1}, {"sku": "MUG", "qty": 1}]}

    def note(name: str) -> None:
        counted[name] = wire.counted["trips"]
        wire.counted.clear()

    wire.counted.clear()
    made = await order(shopper, ("MUG", 1))
    note("order")
    assert (await pay(shopper, made["id"])).status_code == 201
    note("pay")
    key = {"Idempotency-Key": made["id"]}
    keyed = (await shopper.post("/orders", json=lines, headers=key)).json()
    note("order with a key")
    assert (await pay(shopper, keyed["id"], key=keyed["id"])).status_code == 201
    note("pay with a key")
    assert (await pay(shopper, keyed["id"], key=keyed["id"])).status_code == 201
    note("replay")
    other = await order(shopper, ("MUG", 1))
    wire.counted.clear()
    assert (await shopper.post(f"/orders/{other['id']}/cancel")).status_code == 200
    note("cancel")
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    note("refund")
    return counted
