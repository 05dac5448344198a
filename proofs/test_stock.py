"""Stock is never sold twice, and nobody waits for somebody who waits for them, however people come."""

import asyncio
import os
import random

import httpx
import pytest
from till import Till, order, pay

from conftest import SignIn
from quartet import audit, checkout, payments
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Shop

SEEDS = int(os.environ.get("QUARTET_PROOF_SEEDS", "120"))
STORMS = int(os.environ.get("QUARTET_PROOF_STORMS", "12"))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Nobody is limited."""
    unlimited = {"limit_pay": 10**9, "limit_write": 10**9, "limit_browse": 10**9}
    return settings.model_copy(update=unlimited | {"sandbox_slow_seconds": 0.01, "sandbox_async_seconds": 3600.0})


@pytest.fixture
def till(shop: Shop) -> Till:
    """Goods and books."""
    return Till(shop)


async def _deadlocks(till: Till) -> int:
    (row,) = await till.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    found: int = row["deadlocks"]
    return found


@pytest.mark.timeout(600)
async def test_sixty_four_buyers_on_ten_pieces(shop: Shop, sign_in: SignIn, till: Till) -> None:
    print(f"seeds 0 to {SEEDS - 1}")
    buyers = [await sign_in() for _ in range(16)]
    for seed in range(SEEDS):
        dice = random.Random(seed)
        sku = f"MUG-{seed}"
        await till.stock(sku, 10)

        async def buy(n: int, sku: str = sku, dice: random.Random = dice) -> httpx.Response:
            await asyncio.sleep(dice.choice((0, 0, dice.uniform(0, 0.02))))
            return await buyers[n % 16].post("/orders", json={"items": [{"sku": sku, "qty": 1}]})

        answers = await asyncio.gather(*(buy(n) for n in dice.sample(range(64), 64)))
        got = [answer for answer in answers if answer.status_code == 201]
        told = [answer for answer in answers if answer.status_code == 409]
        assert (len(got), len(told)) == (10, 54), f"seed {seed}: {[a.text for a in answers if a.status_code > 409]}"
        for answer in told:
            (shortage,) = answer.json()["shortages"]
            assert (shortage["sku"], shortage["requested"], shortage["available"]) == (sku, 1, 0), f"seed {seed}"
        assert await till.shelf(sku) == (10, 10), f"seed {seed}"

        # Some of the ten go away again while everybody else tries once more: still never more than ten.
        leavers = dice.sample(got, dice.randint(1, 9))
        by_user = {str(buyer.user_id): buyer for buyer in buyers}  # type: ignore[attr-defined]
        rows = await till.rows("SELECT id::text, user_id::text FROM orders WHERE status = 'pending'")
        owner = {row["id"]: by_user[row["user_id"]] for row in rows}
        gone, again = await asyncio.gather(
            asyncio.gather(*(owner[a.json()["id"]].post(f"/orders/{a.json()['id']}/cancel") for a in leavers)),
            asyncio.gather(*(buy(n) for n in range(24))),
        )
        assert {answer.status_code for answer in gone} == {200}, f"seed {seed}"
        assert {answer.status_code for answer in again} <= {201, 409}, f"seed {seed}"
        held = 10 - len(leavers) + sum(answer.status_code == 201 for answer in again)
        assert held <= 10, f"seed {seed}"
        assert await till.shelf(sku) == (10, held), f"seed {seed}"
        still = [a for a in (*got, *again) if a.status_code == 201 and a not in leavers]
        await till.rows("SELECT 1")
        stayed = {a.json()["id"]: a for a in still}
        rows = await till.rows("SELECT id::text, user_id::text FROM orders WHERE status = 'pending'")
        await asyncio.gather(*(pay(by_user[row["user_id"]], row["id"]) for row in rows if row["id"] in stayed))
        assert await till.shelf(sku) == (10 - held, 0), f"seed {seed}"
    assert await _deadlocks(till) == 0
    assert (await audit.check(shop)).violations == ()


@pytest.mark.timeout(600)
async def test_carts_in_any_order_never_wait_for_each_other(
    shop: Shop, sign_in: SignIn, staff: httpx.AsyncClient, till: Till
) -> None:
    """Orders, payments, cancellations, refunds with restocking, expiry, recovery, and staff who count and price the
    same goods, all at once, each naming them in another order."""
    print(f"seeds 0 to {STORMS - 1}")
    skus = [f"{letter}-1" for letter in "ABCDEF"]
    providers = payments.open_providers(shop.settings, shop.stores.pg)
    for sku in skus:
        await till.stock(sku, 100_000)
    shoppers = [await sign_in() for _ in range(12)]
    for seed in range(STORMS):
        dice = random.Random(seed)

        async def shop_on(client: httpx.AsyncClient, n: int, dice: random.Random = dice) -> list[int]:
            said = []
            for _ in range(5):
                names = skus if n % 2 else skus[::-1]
                if n % 3 == 0:
                    names = dice.choices(skus, k=8)  # named twice, and in no order
                placed = await order(client, *((sku, dice.randint(1, 3)) for sku in names))
                answers = await asyncio.gather(
                    pay(client, placed["id"], dice.choice(("card_ok", "card_slow", "card_declined"))),
                    *([client.post(f"/orders/{placed['id']}/cancel")] if dice.random() < 0.4 else []),
                )
                said += [answer.status_code for answer in answers]
                if dice.random() < 0.3:
                    refunded = await staff.post(f"/orders/{placed['id']}/refunds", json={"restock": True})
                    said.append(refunded.status_code)
                if dice.random() < 0.3:
                    await till.rows(
                        "UPDATE orders SET expires_at = now() WHERE user_id = $1 AND status = 'pending' RETURNING id",
                        client.user_id,  # type: ignore[attr-defined]
                    )
            return said

        async def count(dice: random.Random = dice) -> list[int]:
            said = []
            for _ in range(20):
                sku = dice.choice(skus)
                moved = await staff.post(f"/inventory/{sku}/movements", json={"delta": 1, "reason": "found"})
                price = {"name": f"A {sku}", "unitPriceCents": dice.randint(1, 900)}
                said += [moved.status_code, (await staff.put(f"/inventory/{sku}", json=price)).status_code]
            return said

        async def sweep() -> list[int]:
            for _ in range(10):
                await checkout.recover(shop, providers)
                await asyncio.sleep(0.01)
            return []

        crowd = [shop_on(client, n) for n, client in enumerate(shoppers * 2)]
        found = await asyncio.gather(*crowd, count(), count(), sweep(), sweep())
        assert {status for said in found for status in said} <= {200, 201, 402, 409}, f"seed {seed}"
        assert await _deadlocks(till) == 0, f"seed {seed}"
    await till.rows("UPDATE orders SET expires_at = now() - interval '1 minute' WHERE status = 'pending' RETURNING id")
    while await checkout.recover(shop, providers):
        pass
    assert (await audit.check(shop)).violations == ()
    for sku in skus:
        assert (await till.shelf(sku))[1] == 0
