"""Points follow the money: once for each order, taken back with a refund, and the boards can be made anew of orders."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from stops import Killed, dies_at
from till import Till, order, pay

from conftest import SEED
from quartet import accounts, leaderboard, orders, payments
from quartet.kernel.clock import FixedClock
from quartet.kernel.errors import StoreUnavailable
from quartet.leaderboard import store
from quartet.leaderboard.model import Period, Place, PointsEntry
from quartet.payments import Moved
from quartet.stores import outbox
from quartet.sync import relay
from quartet.sync.consumers import TOPICS
from quartet.web.dependencies import Shop

BEGAN = datetime.now(UTC)


@pytest.fixture
async def till(shop: Shop) -> Till:
    till = Till(shop)
    await till.stock("MUG", 10_000, 1250)
    return till


async def carry(shop: Shop) -> None:
    while await relay.relay(shop):
        pass


def days(period: Period) -> list[datetime]:
    """One of each board on which a sale may count: midnight may pass meanwhile."""
    return [*{store.key(period, at): at for at in (BEGAN, BEGAN + timedelta(days=1))}.values()]


async def boards(shop: Shop) -> dict[str, list[Place]]:
    """The days' and the weeks', whole."""
    return {
        period: [place for at in days(period) for place in await store.best(shop.stores.redis, at, period, 1000)]
        for period in store.PERIODS
    }


async def points(shop: Shop, user_id: UUID) -> tuple[int, int]:
    """Somebody's of the days and of the weeks."""
    whole = await boards(shop)
    daily, weekly = (sum(place.xp for place in whole[period] if place.user_id == user_id) for period in store.PERIODS)
    return daily, weekly


async def paid(shopper: httpx.AsyncClient, qty: int) -> str:
    placed = await order(shopper, ("MUG", qty))
    assert (await pay(shopper, placed["id"])).status_code == 201
    return str(placed["id"])


async def test_a_refund_takes_points_back_in_proportion_and_cancelling_takes_them_all(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    first, second = await paid(shopper, 4), await paid(shopper, 2)
    await carry(shop)
    assert await points(shop, user_id) == (75, 75)
    refund = await staff.post(f"/orders/{first}/refunds", json={"amountCents": 1999})
    assert refund.status_code == 201
    await carry(shop)
    assert await points(shop, user_id) == (30 + 25, 30 + 25)  # 30.01 is left of the first: whole units count
    assert (await shopper.post(f"/orders/{second}/cancel")).status_code == 200
    await carry(shop)
    assert await points(shop, user_id) == (30, 30)
    assert (await staff.post(f"/orders/{first}/refunds", json={})).status_code == 201
    await carry(shop)
    assert await points(shop, user_id) == (0, 0)
    assert (await boards(shop))["daily"] == []


async def test_a_refund_that_comes_back_gives_no_points_and_is_revenue_again_until_it_is_given_anew(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    async def money() -> tuple[int, int, int]:
        await carry(shop)
        followed = await boards(shop)
        await leaderboard.rebuild(shop, actor="test")
        assert await boards(shop) == followed
        totals = (await staff.get("/analytics/revenue", params={"currency": "GBP"})).json()["totals"]
        return totals["grossCents"], totals["refundedCents"], totals["netCents"]

    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    made = await paid(shopper, 4)
    for cents in (1000, 2000):
        given = await staff.post(f"/orders/{made}/refunds", json={"amountCents": cents})
    assert await money() == (5000, 3000, 2000)
    async with shop.stores.pg.tx() as tx:
        await payments.refund_came_back(tx, UUID(given.json()["id"]), shop.clock.now())
        await tx.execute("DELETE FROM sandbox.refunds WHERE reference = $1", given.json()["id"])
    assert await money() == (5000, 1000, 4000)
    assert await points(shop, user_id) == (20, 20)
    assert (await staff.post(f"/orders/{made}/refunds", json={"amountCents": 2500})).status_code == 201
    assert await money() == (5000, 3500, 1500)
    assert await points(shop, user_id) == (15, 15)


async def test_a_refund_that_was_taken_for_somebody_elses_first_counts_once(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    made, now = UUID(await paid(shopper, 4)), shop.clock.now()
    elsewhere = Moved("refund", "sbr_1", "", "", 1000, "GBP", undone=False)
    async with shop.stores.pg.tx() as tx:
        ours = await payments.start_refund(tx, made, 1000, "asked", by="test", now=now, ask=now)
        assert ours is not None
        # It would stand before the other is taken back, if ids said what came first.
        first = await tx.fetchval("UPDATE payment_refunds SET id = $2 WHERE id = $1 RETURNING id", ours.id, UUID(int=1))
    async with shop.stores.pg.tx() as tx:
        await payments.note_moved(tx, ours.payment_id, elsewhere, now)
    async with shop.stores.pg.tx() as tx:
        await payments.complete_refund(tx, first, "succeeded", "sbr_1", now)
    given = (await staff.get(f"/orders/{made}")).json()["refunds"]
    assert [each["amountCents"] for each in given] == [1000, -1000, 1000]
    told = await till.rows("SELECT topic, payload FROM outbox WHERE payload ? 'refund_id' ORDER BY id")
    assert [(row["topic"], row["payload"]["refund_id"]) for row in told] == [
        ("order.refunded", given[0]["id"]), ("refund.failed", given[0]["id"]), ("order.refunded", str(first)),
    ]  # fmt: skip
    assert [row["payload"].get("replaces") for row in told] == [None, None, given[0]["id"]]
    await carry(shop)
    mails = await till.rows("SELECT args FROM mails WHERE kind = 'order-refunded'")
    assert [mail["args"]["amount_cents"] for mail in mails] == [1000]
    assert await points(shop, shopper.user_id) == (40, 40)  # type: ignore[attr-defined]
    await leaderboard.rebuild(shop, actor="test")
    assert await points(shop, shopper.user_id) == (40, 40)  # type: ignore[attr-defined]


async def test_events_repeated_and_shuffled_count_the_same(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    bought = [await paid(shopper, n) for n in (1, 2, 3)]
    for id_ in bought:
        await staff.post(f"/orders/{id_}/refunds", json={"amountCents": 250})
    await shopper.post(f"/orders/{bought[2]}/cancel")
    async with shop.stores.pg.read() as read:
        events = await outbox.due(read, 500, topics=TOPICS - {"stock.changed"})
    await carry(shop)
    expected = await points(shop, user_id)
    assert expected == (10 + 22, 10 + 22)
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for _ in range(4):
        rng.shuffle(events)
        async with shop.stores.pg.tx() as tx:
            for event in events:
                await outbox.requeue(
                    tx, event.event_id, event.topic, str(uuid4()), event.payload, created_at=event.created_at
                )
        await carry(shop)
        assert await points(shop, user_id) == expected


async def test_a_refund_days_later_is_taken_off_the_board_of_the_day_it_was_bought(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    id_ = await paid(shopper, 4)
    await carry(shop)
    await staff.post(f"/orders/{id_}/refunds", json={"amountCents": 2000})
    clock = FixedClock(datetime.now(UTC))
    clock.advance(5 * 86_400)
    later = replace(shop, clock=clock)
    await carry(later)
    assert await points(shop, user_id) == (30, 30)
    assert await store.place_of(shop.stores.redis, clock.now(), "daily", user_id) is None


async def test_a_guest_has_no_points_nor_has_whoever_claims_the_order_later(
    shop: Shop, till: Till, client: httpx.AsyncClient, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    body = {"items": [{"sku": "MUG", "qty": 4}], "email": "guest@example.com"}
    before, after = [(await client.post("/orders", json=body)).json() for _ in range(2)]

    async def pay_as_guest(placed: dict[str, str]) -> None:
        paying = {"orderId": placed["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
        opened = {"X-Order-Token": placed["orderToken"]}
        assert (await client.post("/payments", json=paying, headers=opened)).status_code == 201

    await pay_as_guest(before)
    await carry(shop)
    assert await boards(shop) == {"daily": [], "weekly": []}
    async with shop.stores.pg.tx() as tx:
        assert await orders.claim(tx, "guest@example.com", user_id) == 2
    assert (await pay(shopper, after["id"])).status_code == 201  # claimed before it was paid: a user's order
    for placed in (before, after):
        await staff.post(f"/orders/{placed['id']}/refunds", json={"amountCents": 500})
    await carry(shop)
    assert await points(shop, user_id) == (45, 45)
    await leaderboard.rebuild(shop, actor="test")
    assert await points(shop, user_id) == (45, 45)


async def test_boards_made_anew_of_orders_equal_the_ones_that_followed_them(
    shop: Shop, till: Till, sign_in: object, staff: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    shoppers = [await sign_in() for _ in range(5)]  # type: ignore[operator]
    open_: list[tuple[httpx.AsyncClient, str]] = []

    async def one() -> None:
        shopper, what = rng.choice(shoppers), rng.random()
        if what < 0.5 or not open_:
            open_.append((shopper, await paid(shopper, rng.randint(1, 9))))
        elif what < 0.75:
            await staff.post(f"/orders/{rng.choice(open_)[1]}/refunds", json={"amountCents": rng.randint(1, 4000)})
        elif what < 0.9:
            owner, id_ = open_.pop(rng.randrange(len(open_)))
            await owner.post(f"/orders/{id_}/cancel")
        else:
            body = {"userId": str(shopper.user_id), "xp": rng.randint(1, 50), "eventId": uuid4().hex}
            assert (await staff.post("/leaderboard/xp", json=body)).status_code == 201

    for _ in range(40):
        await one()
        if rng.random() < 0.5:
            await relay.relay(shop)
    await carry(shop)
    followed = await boards(shop)
    assert followed["daily"]
    assert (await admin.post("/leaderboard/rebuild")).status_code == 200
    assert await boards(shop) == followed
    await shop.stores.redis.call("FLUSHDB")
    made = (await admin.post("/leaderboard/rebuild")).json()
    assert made["daily"] >= len(open_)
    assert await boards(shop) == followed
    # What is made anew follows as what was there before did.
    for _, id_ in open_:
        await staff.post(f"/orders/{id_}/refunds", json={})
    await carry(shop)
    after = await boards(shop)
    await leaderboard.rebuild(shop, actor="test")
    assert await boards(shop) == after
    assert (await staff.post("/leaderboard/rebuild")).status_code == 403


async def test_what_happens_while_boards_are_made_anew_is_on_the_new_ones(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    """Events are carried at every step of the making, and between its look at the orders and the end."""
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    first = await paid(shopper, 4)
    second = await paid(shopper, 4)
    at_steps: dict[str, Callable[[], Awaitable[Any]]] = {
        "boards begun": lambda: staff.post(f"/orders/{first}/refunds", json={"amountCents": 1000}),
        "boards made": lambda: staff.post(f"/orders/{second}/refunds", json={"amountCents": 2000}),
        "boards swapped": lambda: paid(shopper, 1),
    }

    async def step(name: str) -> None:
        if name in at_steps:
            await at_steps.pop(name)()
            await carry(shop)
            if name == "boards made":
                await paid(shopper, 2)
                await carry(shop)

    await leaderboard.rebuild(replace(shop, step=step), actor="test")
    assert not at_steps
    assert await points(shop, user_id) == (40 + 30 + 25 + 12, 40 + 30 + 25 + 12)
    rebuilt = await boards(shop)
    await leaderboard.rebuild(shop, actor="test")
    assert await boards(shop) == rebuilt
    assert await shop.stores.redis.call("KEYS", "*:next*") == []


async def test_a_making_cut_short_leaves_the_live_boards_and_the_next_one_ends_well(
    shop: Shop, till: Till, shopper: httpx.AsyncClient
) -> None:
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]

    await paid(shopper, 4)
    await carry(shop)
    for mortal in ("boards begun", "boards made"):
        with pytest.raises(Killed):
            await leaderboard.rebuild(replace(shop, step=dies_at(mortal)), actor="test")
        assert await points(shop, user_id) == (50, 50)
    await asyncio.gather(*(leaderboard.rebuild(shop, actor="test") for _ in range(4)))
    assert await points(shop, user_id) == (50, 50)
    now = shop.clock.now()
    await store.settle(shop.stores.redis, now, PointsEntry("late", user_id, 1, now))
    assert await points(shop, user_id) == (51, 51)


async def test_a_server_that_takes_over_without_the_last_of_a_making_puts_no_part_in_the_boards_place(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had the mark and all that came before. What happens afterwards makes up for nothing."""
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    redis, seed = shop.stores.redis, store.seed
    for _ in range(3):
        await paid(shopper, 4)
    await carry(shop)
    assert await points(shop, user_id) == (150, 150)
    monkeypatch.setattr("quartet.leaderboard.service.BATCH", 2)

    async def seeding(*told: Any) -> None:
        for key in await redis.call("KEYS", "leaderboard:*:next*"):
            copied = await redis.call("COPY", key, f"heard:{{xp}}:{key}", "REPLACE")
            assert copied == 1
        await seed(*told)

    async def taken_over(name: str) -> None:
        if name == "boards made":
            copies = await redis.call("KEYS", "heard:*")
            assert len(copies) == 4
            for copy in copies:
                await redis.call("RENAME", copy, copy.removeprefix("heard:{xp}:"))
            for _ in range(2):
                await paid(shopper, 4)
            await carry(shop)

    with monkeypatch.context() as patched:
        patched.setattr(store, "seed", seeding)
        with pytest.raises(StoreUnavailable, match="begin again"):
            await leaderboard.rebuild(replace(shop, step=taken_over), actor="test")
    assert await points(shop, user_id) == (250, 250)
    await leaderboard.rebuild(shop, actor="test")
    assert await points(shop, user_id) == (250, 250)
    sources = [await redis.call("HGETALL", f"{store.key('daily', at)}:sources") for at in days("daily")]
    assert sum(map(len, sources)) == 5, "and nothing but sources"


async def test_boards_made_anew_leave_out_who_was_forgotten(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    await paid(shopper, 4)
    granted = {"userId": str(user_id), "xp": 7, "eventId": uuid4().hex}
    assert (await staff.post("/leaderboard/xp", json=granted)).status_code == 201
    await carry(shop)
    assert await points(shop, user_id) == (57, 57)
    assert (await shopper.request("DELETE", "/users/me", json={})).status_code == 204
    await carry(shop)
    assert (await admin.post("/leaderboard/rebuild")).status_code == 200
    assert await points(shop, user_id) == (0, 0)


async def test_a_refund_after_they_were_forgotten_brings_nobody_back(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    bought = await paid(shopper, 2)
    await carry(shop)
    async with shop.stores.pg.tx() as tx:
        await accounts.erase(tx, user_id, shop.clock.now())
    await leaderboard.forget(shop, user_id)
    await leaderboard.rebuild(shop, actor="test")
    given = (await staff.post(f"/orders/{bought}/refunds", json={"amountCents": 100})).json()
    async with shop.stores.pg.tx() as tx:
        await payments.refund_came_back(tx, UUID(given["id"]), shop.clock.now())
    told = await till.rows("SELECT topic, payload ->> 'user_id' AS named FROM outbox ORDER BY id")
    assert [(row["topic"], row["named"]) for row in told] == [("order.refunded", None), ("refund.failed", None)]
    await carry(shop)
    assert await points(shop, user_id) == (0, 0)
