"""One store after another is killed or freezes while staff write the catalog, shoppers look and buy, and the worker
works: every write that was acknowledged is there afterwards, in all stores alike."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from furnished import new_token
from own_stores import STORES, OwnStores, agree, own_stores, settings_over

from conftest import SECRET, api_of, client_of
from quartet import sync
from quartet.accounts import create_user
from quartet.cli import open_shop, prepare
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

KILLS = int(os.environ.get("QUARTET_PROOF_STORE_KILLS", "16"))
SEEDS = [int(seed) for seed in os.environ.get("QUARTET_PROOF_STORE_SEEDS", "1,2").split(",")]
SHELF = 12
# The comparison of the whole catalog comes round every thirty seconds; it finds what an emulator's history forgot.
PATIENCE_SECONDS = 90.0


class Writer:
    """Staff who change one product again and again, one change after the other, and remember what they were told."""

    def __init__(self, staff: httpx.AsyncClient, sku: str) -> None:
        self.staff, self.sku = staff, sku
        self.tried = self.known = 0
        self._turn = asyncio.Lock()

    async def write(self) -> None:
        async with self._turn:  # of two at a time nobody could say which is the last
            self.tried += 1
            body = {"description": str(self.tried), "priceCents": 100 + self.tried}
            answer = await self.staff.patch(f"/products/{self.sku}", json=body)
            assert answer.status_code in (200, 503, 504), answer.text
            if answer.is_success:
                self.known = self.tried

    def holds(self, shown: dict[str, Any]) -> bool:
        """Whether what is shown is the last acknowledged write, or one after it that got no answer."""
        return self.known <= int(shown["description"] or 0) <= self.tried


@asynccontextmanager
async def opened(stores: OwnStores, folder: Path) -> AsyncIterator[tuple[Shop, dict[str, httpx.AsyncClient]]]:
    """A shop on these stores, and the people in it."""
    async with open_shop(settings_over(stores.urls, folder, SECRET)) as shop:
        await prepare(shop)
        app, people = api_of(shop), {}
        for name, roles in (("shopper", ()), ("staff", ("staff",))):
            async with shop.stores.pg.tx() as tx:
                user = await create_user(tx, f"{name}@example.com", None, name, roles=roles)
            people[name] = client_of(app, {"Authorization": f"Bearer {await new_token(shop, user.id, *roles)}"})
        yield shop, people


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_store_dies_all_of_them_agree_in_the_end(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}, {KILLS} outages")
    dice, fate = random.Random(seed), random.Random(f"outages {seed}")
    async with own_stores(tmp_path / "stores") as stores, opened(stores, tmp_path) as (shop, people):
        staff, shopper = people["staff"], people["shopper"]
        await staff.put("/categories/things", json={"name": "Things", "attrs": {"type": "object"}})
        for n in range(SHELF):
            made = await staff.post(
                "/products", json={"sku": f"K{n}", "name": f"Kettle {n}", "category": "things", "priceCents": 100}
            )
            assert made.status_code == 201, made.text
            await staff.post(f"/inventory/K{n}/movements", json={"delta": 10_000, "reason": "received"})
        writers = [Writer(staff, f"K{n}") for n in range(SHELF)]
        gone: set[str] = set()
        bought: set[str] = set()
        over = asyncio.Event()

        async def write() -> None:
            while not over.is_set():
                await dice.choice(writers).write()
                await asyncio.sleep(0.001)  # a refusal comes at once: nobody else would have a turn

        async def look() -> None:
            while not over.is_set():
                answer = await shopper.get(f"/products/K{dice.randrange(SHELF)}")
                assert answer.status_code in (200, 503, 504), answer.text
                await asyncio.sleep(0.005)

        async def buy() -> None:
            while not over.is_set():
                body = {"items": [{"sku": f"K{dice.randrange(SHELF)}", "qty": 1}]}
                placed = await shopper.post("/orders", json=body, headers={"Idempotency-Key": str(uuid4())})
                assert placed.status_code in (201, 503, 504), placed.text
                if placed.status_code == 201:
                    pay = {"orderId": placed.json()["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
                    paid = await shopper.post("/payments", json=pay)
                    assert paid.status_code in (201, 503, 504), paid.text
                    if paid.status_code == 201:
                        # The provider's books are in PostgreSQL too: it may be silent, and the shop there again.
                        assert paid.json()["status"] in ("succeeded", "pending"), paid.text
                        bought.update([placed.json()["id"]] if paid.json()["status"] == "succeeded" else [])
                await asyncio.sleep(0.02)

        async def come_and_go() -> None:
            n = 0
            while not over.is_set():
                n += 1
                sku = f"GONE-{n}"
                body = {"sku": sku, "name": f"Brief {n}", "category": "things", "priceCents": 5}
                made = await staff.post("/products", json=body)
                assert made.status_code in (201, 503, 504), made.text
                await shopper.get(f"/products/{sku}")
                for _ in range(200):
                    answer = await staff.delete(f"/products/{sku}")
                    assert answer.status_code in (204, 404, 503, 504), answer.text
                    if answer.status_code in (204, 404) or over.is_set():
                        gone.add(sku) if answer.status_code in (204, 404) else None
                        break
                    await asyncio.sleep(0.1)

        async def outages() -> None:
            for _ in range(KILLS):
                await asyncio.sleep(fate.uniform(0.2, 1.0))
                store = fate.choice(STORES)
                if fate.random() < 0.3 and store != "postgres":
                    stores.freeze(store)
                    await asyncio.sleep(fate.uniform(0.2, 2.0))
                    stores.thaw(store)
                else:
                    await stores.kill(store)
                    await asyncio.sleep(fate.uniform(0, 0.8))
                    await stores.start(store)
            await asyncio.sleep(1)
            over.set()

        async def shift() -> None:
            await asyncio.gather(write(), write(), look(), look(), buy(), come_and_go(), outages())
            ended = datetime.now(UTC)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await agree(shop, ended):  # noqa: ASYNC110 — it comes true in the stores
                    await asyncio.sleep(1)

        await together(sync.run_worker(shop, asyncio.Event()), shift())
        print(
            f"{sum(w.known for w in writers)} writes acknowledged of {sum(w.tried for w in writers)}, "
            f"{len(gone)} gone, {len(bought)} orders paid"
        )
        assert sum(writer.known for writer in writers) > KILLS
        for writer in writers:
            for _ in range(2):  # as MongoDB has it, or the cache; then surely the cache
                shown = (await shopper.get(f"/products/{writer.sku}")).json()
                assert writer.holds(shown), (writer.sku, writer.known, writer.tried, shown)
        assert gone
        assert bought
        for order_id in bought:
            assert (await shopper.get(f"/orders/{order_id}")).json()["status"] == "confirmed", order_id
        for sku in gone:
            assert (await shopper.get(f"/products/{sku}")).status_code == 404, sku
        found = (await shopper.get("/search?q=brief&size=100")).json()
        assert not gone & {item["sku"] for item in found["items"]}
