"""Worker after worker is killed, at steps in any order and several in a row, while events come twice and in disorder;
whoever is left makes everything equal."""

import asyncio
import os
import random

import pytest
import test_worker_kill
from test_worker_kill import EVENT_STEPS, POINTS, REBUILD_STEPS, STEPS, Mortals, Traffic, _until_carried

from conftest import daily_points, differing
from quartet import audit, cart, sync
from quartet.stores import letters, outbox
from quartet.sync import products
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

mortals, traffic = test_worker_kill.mortals, test_worker_kill.traffic  # fixtures

SEEDS = range(int(os.environ.get("QUARTET_PROOF_SYNC_SEEDS", "3")))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
async def test_however_workers_die_and_events_repeat_all_ends_equal(
    shop: Shop,
    traffic: Traffic,
    mortals: Mortals,
    seed: int,
) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    await mortals.killed_at("saved")
    steps = [*STEPS, *EVENT_STEPS, *REBUILD_STEPS]
    dice.shuffle(steps)
    while steps:
        for _ in range(min(len(steps), dice.randint(1, 3))):  # one dies after the other with nobody between
            await traffic.round()
            step = steps.pop()
            if step in REBUILD_STEPS:
                await _begin_rebuild(shop)
            if step in EVENT_STEPS:
                await _say_again(shop, traffic, dice)
            await mortals.killed_at(step)
        await together(sync.run_worker(shop, asyncio.Event()), _until_carried(traffic, f"seed {seed}, {step}"))
    report = await audit.check(shop)
    assert report.violations == ()
    assert report.checked["search_equals_catalog"] == 40
    async with shop.stores.pg.read() as read:
        assert await letters.counts(read) == {}
    assert await daily_points(shop, traffic.user_id) == POINTS * traffic.rounds
    assert await cart.lines(shop.stores.redis, traffic.user_id) == {"OLD39": 30 - traffic.rounds}


async def _begin_rebuild(shop: Shop) -> None:
    """One that has all its steps still before it: what was cut short is ended first, since it goes on where it was."""
    last = await sync.last_rebuild(shop)
    if last is not None and last.state in ("asked", "building"):
        await sync.reindex(shop)
    await sync.ask_reindex(shop, "test")


async def _say_again(shop: Shop, traffic: Traffic, dice: random.Random) -> None:
    """Stock events for products in disorder, some of them gone; and batches carried beside each other."""
    skus = [f"OLD{dice.randrange(40)}" for _ in range(20)] + [f"NEW{dice.randrange(20)}" for _ in range(10)]
    dice.shuffle(skus)
    async with shop.stores.pg.tx() as tx:
        for sku in skus:
            await outbox.emit(tx, "stock.changed", sku, {"sku": sku})
    some = sorted(await differing(shop))
    await asyncio.gather(*(products.sync_products(shop, dice.sample(some, len(some))) for _ in range(3)))
