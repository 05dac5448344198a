"""Rebuilds under a crowd that changes, takes goods in and searches, with one worker after another killed at every step
of them; then back again. Searches lose nothing and see no draft, and at the end all sides are equal, document by
document."""

import asyncio
import os
import random
from datetime import UTC, datetime

import httpx
import pytest
import test_worker_kill
from test_sync import becoming
from test_worker_kill import Mortals

from quartet import audit, catalog, inventory, search, sync
from quartet.catalog import Category, Draft
from quartet.sync import store
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

mortals = test_worker_kill.mortals  # a fixture

SEEDS = range(int(os.environ.get("QUARTET_PROOF_REBUILD_SEEDS", "2")))
STEPS = ("made", "batch", "filled", "settled", "live")
ALWAYS = [f"A{n}" for n in range(60)]


class Crowd:
    """Changes, arrivals of goods, products that come and go, drafts; and shoppers, who note what is amiss."""

    def __init__(self, shop: Shop, client: httpx.AsyncClient, seed: int) -> None:
        self.shop, self.client, self.dice = shop, client, random.Random(seed)
        self.searches, self.changes = 0, 0
        self.amiss: list[str] = []

    async def prepare(self) -> None:
        await catalog.put_category(self.shop, Category("kitchen", "Kitchen", None, {"type": "object"}))
        for sku in ALWAYS:
            await catalog.create_product(self.shop, self._draft(sku, "Kettle"), actor="test")

    @staticmethod
    def _draft(sku: str, name: str, *, shown: bool = True) -> Draft:
        published = datetime(2025, 1, 1, tzinfo=UTC) if shown else None
        return Draft(sku, f"{name} {sku}", "kitchen", price_cents=2500, published_at=published)

    async def change(self) -> None:
        """For ever."""
        while True:
            self.changes += 1
            n = self.changes
            made = self._draft(self.dice.choice(ALWAYS), f"Pot {n}")
            await catalog.change_product(self.shop, made.sku, becoming(made), if_match=None, actor="test")
            async with self.shop.stores.pg.tx() as tx:
                await inventory.move(tx, self.dice.choice(ALWAYS), 1, "received", actor="test")
            await catalog.create_product(self.shop, self._draft(f"DRAFT{n}", "Secret", shown=False), actor="test")
            await catalog.create_product(self.shop, self._draft(f"GUEST{n}", "Guest"), actor="test")
            if n > 5:
                for gone in (f"DRAFT{n - 5}", f"GUEST{n - 5}"):
                    await catalog.delete_product(self.shop, gone, if_match=None)
            await asyncio.sleep(0.02)

    async def look(self) -> None:
        """For ever: each of those that are always there is found, and no draft."""
        while True:
            answer = await self.client.get("/search", params={"size": 100})
            self.searches += 1
            if answer.status_code != 200:
                self.amiss.append(answer.text)
                continue
            found = {item["sku"] for item in answer.json()["items"]}
            if missing := set(ALWAYS) - found:
                self.amiss.append(f"missing: {sorted(missing)}")
            self.amiss += [f"a draft: {sku}" for sku in found if sku.startswith("DRAFT")]
            await asyncio.sleep(0.01)

    async def ended(self, rebuild: store.Rebuild) -> None:
        """Waits until the rebuild is over."""
        async with asyncio.timeout(90):
            while True:
                last = await sync.last_rebuild(self.shop)
                assert last
                if last.id != rebuild.id or last.state not in ("asked", "building"):
                    break
                await asyncio.sleep(0.1)
        assert (last.id, last.state) == (rebuild.id, "done"), last


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
async def test_whoever_dies_in_a_rebuild_it_is_ended_and_nobody_misses_anything(
    shop: Shop, client: httpx.AsyncClient, mortals: Mortals, seed: int
) -> None:
    print(f"seed {seed}")
    crowd = Crowd(shop, client, seed)
    await crowd.prepare()
    await sync.catch_up(shop)
    dice = random.Random(seed)
    steps = [(step, back) for step in STEPS for back in (False, True) if (step, back) != ("batch", True)]
    dice.shuffle(steps)
    await sync.reindex(shop)  # so that there is one to go back to

    async def rebuilds() -> None:
        for step, back in steps:
            rebuild = await sync.ask_reindex(shop, "test", back=back)
            await mortals.killed_at(step)
            await together(sync.run_worker(shop, asyncio.Event()), crowd.ended(rebuild))

    await together(rebuilds(), crowd.change(), crowd.look())
    assert crowd.amiss == []
    assert crowd.searches > 100
    assert crowd.changes > 20
    await sync.catch_up(shop)
    report = await audit.check(shop, patience=0)
    assert report.violations == ()
    assert await shop.stores.search.alias_targets(search.next_alias(shop.settings)) == []
    print(f"{crowd.searches} searches, {crowd.changes} rounds of changes, {len(steps)} rebuilds")
