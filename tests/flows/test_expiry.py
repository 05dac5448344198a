"""Stock that nobody paid for is free again within seconds, however many orders end at once and however slow a provider
is."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from till import Till, order, pay

from quartet import audit, sync
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Shop

ORDERS = 1_000
GOAL_SECONDS = 5.0  # on a machine that does nothing else, as `proofs/` has it
BUSY_SECONDS = 30.0
SKUS = 200
# All in one statement, so that all end at the same moment.
PLACE = """
SELECT count(place_order($1, jsonb_build_array(
           jsonb_build_object('sku', 'THING-' || n % $3, 'qty', 1),
           jsonb_build_object('sku', 'THING-' || (n * 7 + 1) % $3, 'qty', 2)), '{}', $4))
FROM generate_series(1, $2::int) AS n
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"sandbox_async_seconds": 3600.0, "base_url": "http://127.0.0.1:1"})


async def cancelled_after(shop: Shop, shopper: httpx.AsyncClient, orders: int) -> float:
    """How many seconds after its time the last of so many orders is cancelled, by a worker that has other things to do
    and a provider that takes three seconds over every question."""
    till = Till(shop)
    for number in range(SKUS):
        await till.stock(f"THING-{number}", 1_000_000)
    for _ in range(20):  # payments under way
        made = await order(shopper, ("THING-0", 1))
        assert (await pay(shopper, made["id"], "card_async")).status_code == 201
    for _ in range(10):
        async with shop.stores.pg.tx() as tx:
            hold = timedelta(minutes=5)
            await tx.fetchval(PLACE, shopper.user_id, orders // 10, SKUS, hold)  # type: ignore[attr-defined]
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE orders SET expires_at = clock_timestamp() + interval '3 seconds'")
    (row,) = await till.rows("SELECT max(expires_at) AS ends, count(*) AS waiting FROM orders WHERE status = 'pending'")
    assert row["waiting"] == orders + 20

    slow = shop.settings.model_copy(update={"sandbox_latency_seconds": 3.0})
    stop = asyncio.Event()
    working = asyncio.create_task(sync.run_worker(replace(shop, settings=slow), stop))
    while True:
        (left,) = await till.rows("SELECT count(*) AS orders FROM orders WHERE status = 'pending'")
        if not left["orders"]:
            break
        await asyncio.sleep(0.1)
    late = (datetime.now(UTC) - row["ends"]).total_seconds()
    stop.set()
    await working
    assert (await audit.check(shop, patience=0)).violations == ()
    return float(late)


async def test_a_thousand_orders_that_end_at_once_are_gone_within_seconds(
    shop: Shop, shopper: httpx.AsyncClient
) -> None:
    late = await cancelled_after(shop, shopper, ORDERS)
    print(f"the last of {ORDERS} orders was cancelled {late:.1f} s after its time")
    assert late < BUSY_SECONDS
