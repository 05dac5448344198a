"""A payment provider that is away: who pays is told so at once, what was asked of it stays unknown, and what is due
goes on as soon as it is back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from abroad import noticed, unprobed
from fastapi import FastAPI
from line import Line, serving
from paypals_place import CLIENT, SECRET, WEBHOOK, PayPalsPlace
from pydantic import SecretStr
from stopped_clock import *  # noqa: F403 — its fixtures
from stripes_place import KEY, SECRETS, SLOW, StripesPlace
from till import Json, Till, look, order

from quartet import audit, orders, payments
from quartet.checkout import recover
from quartet.kernel.clock import FixedClock
from quartet.kernel.settings import Settings
from quartet.payments import Providers
from quartet.web.dependencies import Shop

CARD = "pm_card_visa"


@dataclass
class Door:
    """Before a provider. Shut, whoever comes waits in vain, and is let in at last when it is opened."""

    inside: Any
    came: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.came += 1
        await self.open.wait()
        await self.inside(scope, receive, send)


@pytest.fixture
def stripe() -> StripesPlace:
    return StripesPlace()


@pytest.fixture
def paypal() -> PayPalsPlace:
    return PayPalsPlace()


@pytest.fixture
def door(stripe: StripesPlace) -> Door:
    door = Door(stripe.app)
    door.open.set()
    return door


@pytest.fixture
async def line(door: Door) -> AsyncIterator[Line]:
    """To Stripe."""
    async with serving(door) as line:
        yield line
        door.open.set()


@pytest.fixture
async def beside(paypal: PayPalsPlace) -> AsyncIterator[Line]:
    """To PayPal."""
    async with serving(paypal.app) as line:
        yield line


@pytest.fixture
def settings(settings: Settings, line: Line, beside: Line) -> Settings:
    return settings.model_copy(
        update={
            "payment_providers": ("stripe", "paypal", "sandbox"),
            "stripe_secret_key": SecretStr(KEY),
            "stripe_webhook_secrets": tuple(SecretStr(secret) for secret in SECRETS),
            "stripe_api_url": line.url,
            "paypal_client_id": CLIENT,
            "paypal_client_secret": SecretStr(SECRET),
            "paypal_webhook_id": WEBHOOK,
            "paypal_api_url": beside.url,
            "payment_timeout": 3.0,
        }
    )


@pytest.fixture
async def providers(app: FastAPI, shop: Shop, line: Line, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Those that the shop asks."""
    monkeypatch.setattr("quartet.payments.providers.port.REST_SECONDS", 0.02)
    async with payments.opened_providers(shop.settings, shop.stores.pg) as providers:
        app.state.providers = providers
        line.at_rest = partial(unprobed, providers["stripe"])
        yield providers


@pytest.fixture
async def till(shop: Shop) -> Till:
    """A hundred mugs."""
    till = Till(shop)
    await till.stock("MUG", 100)
    return till


async def pay(
    shopper: httpx.AsyncClient, made: Json, method: str = CARD, *, by: str = "stripe", key: str | None = None
) -> httpx.Response:
    body = {"orderId": made["id"], "provider": by, "paymentMethod": method}
    return await shopper.post("/payments", json=body, headers={"Idempotency-Key": key} if key else {})


async def gone(provider: Any) -> None:
    """The shop has noticed that it does not answer."""
    async with asyncio.timeout(30):
        while not provider.is_away:  # noqa: ASYNC110 — it comes true in the guard
            await asyncio.sleep(0.01)


def refused(answer: httpx.Response) -> bool:
    """At once, nothing having been asked."""
    told = (answer.status_code, answer.json()["type"], answer.json().get("provider"))
    return told == (503, "/problems/provider-away", "stripe") and "Retry-After" in answer.headers


async def books_balance(shop: Shop, till: Till, *places: StripesPlace | PayPalsPlace) -> None:
    violations = (await audit.check(shop, patience=0)).violations
    assert violations == (), violations
    (row,) = await till.rows("SELECT coalesce(sum(captured_cents - refunded_cents), 0)::bigint AS kept FROM orders")
    assert row["kept"] == sum(place.taken() for place in places)


@pytest.mark.parametrize("fault", ["unplugged", "lost", "swallowed", "failing"])
async def test_who_pays_while_a_provider_is_away_is_told_so_at_once_and_pays_by_the_same_click_when_it_is_back(
    shopper: httpx.AsyncClient,
    shop: Shop,
    till: Till,
    stripe: StripesPlace,
    paypal: PayPalsPlace,
    line: Line,
    providers: Any,
    clock: FixedClock,
    fault: Any,
) -> None:
    first, made = [await order(shopper, ("MUG", 1)) for _ in range(2)]
    if fault == "failing":
        stripe.failing = True
    else:
        await line.break_at(fault)
    asked = await pay(shopper, first, key="first")
    assert (asked.status_code, asked.json().get("status")) == ((502, 502) if fault == "unplugged" else (201, "pending"))
    await gone(providers["stripe"])
    there = len(stripe.intents)
    for _ in range(3):
        assert refused(await pay(shopper, made, key="click"))
        assert refused(await pay(shopper, made))
    assert await till.rows("SELECT FROM payments WHERE order_id = $1", made["id"]) == []
    assert len(stripe.intents) == there
    if fault != "unplugged":
        assert (await pay(shopper, first, key="first")).json() == asked.json()  # its first answer
    other = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, other, "paypal", by="paypal")).json()["status"] == "pending"  # who is not away
    assert (await pay(shopper, other, "card_ok", by="sandbox")).json()["status"] == "succeeded"

    stripe.failing = False
    await line.mend()
    await noticed(providers["stripe"])
    assert (await pay(shopper, made, key="click")).json()["status"] == "succeeded"
    for seconds in (30, 300):
        clock.advance(seconds)
        await recover(shop, providers)
    left = await till.rows("SELECT status FROM payments WHERE order_id = $1", first["id"])
    assert left == [{"status": "failed" if fault in ("unplugged", "lost") else "succeeded"}]
    charged = [intent["metadata"]["reference"] for intent in stripe.intents.values()]
    assert len(charged) == len(set(charged)) == (1 if fault in ("unplugged", "lost") else 2)
    assert providers["paypal"].guard.openings == 0
    (free,) = await till.rows("SELECT total_cents FROM orders WHERE id = $1", other["id"])
    (row,) = await till.rows("SELECT sum(captured_cents)::bigint AS kept FROM orders")
    assert row["kept"] == stripe.taken() + free["total_cents"]


async def test_what_costs_nothing_is_bought_while_its_provider_is_away(
    shopper: httpx.AsyncClient, shop: Shop, till: Till, stripe: StripesPlace, line: Line, providers: Any
) -> None:
    await till.stock("SAMPLE", 5, cents=0)
    free, cut, dear = [await order(shopper, *lines) for lines in ([("SAMPLE", 2)], [("SAMPLE", 1)], [("MUG", 1)])]
    await line.break_at("unplugged")
    await pay(shopper, dear)
    await gone(providers["stripe"])
    assert refused(await pay(shopper, dear))
    assert refused(await pay(shopper, {"id": str(uuid4())}))
    paid = await pay(shopper, free, key="click")
    assert (paid.status_code, paid.json()["status"], paid.json()["amountCents"]) == (201, "succeeded", 0)
    assert (await pay(shopper, free, key="click")).json() == paid.json()
    assert (await look(shopper, free["id"]))["status"] == "confirmed"
    now = shop.clock.now()
    async with shop.stores.pg.tx() as tx:  # and its process dies
        buyer = (await orders.get(tx, UUID(cut["id"]))).user_id
        await payments.start(tx, UUID(cut["id"]), buyer, "stripe", now=now, ask=now)
    await recover(shop, providers)
    assert (await look(shopper, cut["id"]))["status"] == "confirmed"
    assert await till.shelf("SAMPLE") == (2, 0)
    assert stripe.intents == {}


async def test_a_provider_that_hangs_is_known_before_the_first_who_waits_gives_up_and_his_charge_is_found(
    shopper: httpx.AsyncClient,
    shop: Shop,
    till: Till,
    stripe: StripesPlace,
    paypal: PayPalsPlace,
    door: Door,
    providers: Any,
    clock: FixedClock,
) -> None:
    first, made = [await order(shopper, ("MUG", 1)) for _ in range(2)]
    guard = providers["stripe"].guard
    assert guard._doubt + guard._patience < shop.settings.payment_timeout
    guard._check_interval, guard._doubt, guard._patience = 0.1, 0.2, 0.3  # as if he had far longer
    door.open.clear()
    waiting = asyncio.create_task(pay(shopper, first))
    await gone(providers["stripe"])
    assert not waiting.done()
    assert refused(await pay(shopper, made))
    assert (await waiting).json()["status"] == "pending"  # it was sent
    door.open.set()
    await noticed(providers["stripe"])
    for seconds in (30, 300):
        clock.advance(seconds)
        await recover(shop, providers)
    ours = await till.rows("SELECT status FROM payments")
    assert ours == [{"status": "succeeded" if stripe.intents else "failed"}]
    await books_balance(shop, till, stripe, paypal)


async def test_however_many_come_while_it_is_asked_whether_it_lives_one_question_is_sent(
    shopper: httpx.AsyncClient, till: Till, stripe: StripesPlace, door: Door, providers: Any
) -> None:
    made = [await order(shopper, ("MUG", 1)) for _ in range(12)]
    stripe.failing = True
    assert (await pay(shopper, made[0])).json()["status"] == "pending"
    await gone(providers["stripe"])
    providers["stripe"].guard._patience = 60.0  # however long this machine takes
    door.open.clear()
    door.came = 0
    async with asyncio.timeout(30):
        while not door.came:  # noqa: ASYNC110 — whoever comes wakes nobody
            await asyncio.sleep(0.01)
    told = await asyncio.gather(*(pay(shopper, one) for one in made[1:]))
    assert all(refused(answer) for answer in told)
    assert door.came == 1
    stripe.failing = False
    door.open.set()
    await noticed(providers["stripe"])
    told = await asyncio.gather(*(pay(shopper, one) for one in made[1:]))
    assert {answer.json()["status"] for answer in told} == {"succeeded"}


async def test_a_declined_card_and_whatever_else_it_refuses_is_an_answer(
    shopper: httpx.AsyncClient, till: Till, stripe: StripesPlace, door: Door, providers: Any
) -> None:
    made = await order(shopper, ("MUG", 1))
    for method, status in (("pm_card_chargeDeclined", 402), ("pm_of_nobody", 502)) * 4:
        assert (await pay(shopper, made, method)).status_code == status
    stripe.busy = True  # 429
    for _ in range(4):
        assert (await pay(shopper, made)).status_code == 502
    stripe.busy = False
    assert (await pay(shopper, made)).status_code == 201
    guard = providers["stripe"].guard
    assert (guard.state, guard.openings, guard.refused) == ("closed", 0, {"open": 0, "full": 0, "doubtful": 0})
    assert door.came == 13  # nor was it asked whether it lives


async def test_what_is_due_stays_due_as_it_is_and_goes_on_once_it_is_back(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    shop: Shop,
    till: Till,
    stripe: StripesPlace,
    paypal: PayPalsPlace,
    line: Line,
    providers: Any,
    clock: FixedClock,
) -> None:
    paid, slow = [await order(shopper, ("MUG", 1)) for _ in range(2)]
    assert (await pay(shopper, paid)).json()["status"] == "succeeded"
    assert (await pay(shopper, slow, SLOW)).json()["status"] == "pending"
    await line.break_at("unplugged")
    await pay(shopper, await order(shopper, ("MUG", 1)))
    await gone(providers["stripe"])
    told = await staff.post(f"/orders/{paid['id']}/refunds", json={"amountCents": 100})
    assert refused(told)  # who asks by hand is told, and nothing is promised any more
    assert (await shopper.post(f"/orders/{paid['id']}/cancel")).json()["status"] == "cancelled"
    (due,) = await till.rows("SELECT id, asked, ask_at FROM payment_refunds WHERE status = 'pending'")
    for _ in range(10):
        clock.advance(60)
        assert (await recover(shop, providers)).failed == 0
    assert await till.rows("SELECT id, asked, ask_at FROM payment_refunds WHERE status = 'pending'") == [due]
    assert await till.rows("SELECT max(asked) AS asked FROM payments") == [{"asked": 0}]
    stripe.settle(next(intent for intent in stripe.intents.values() if intent["status"] == "processing"))

    await line.mend()
    await noticed(providers["stripe"])
    await recover(shop, providers)
    assert (await look(staff, slow["id"]))["status"] == "confirmed"
    refunds = (await look(staff, paid["id"]))["payments"][0]["refunds"]
    assert [refund["status"] for refund in refunds] == ["succeeded"]  # what was refused was never begun
    assert [refund["amount"] for refund in stripe.refunds.values()] == [500]
    await books_balance(shop, till, stripe, paypal)


async def test_a_refund_that_nobody_answered_for_is_not_given_up_because_it_could_not_be_asked_for_again(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    shop: Shop,
    till: Till,
    stripe: StripesPlace,
    line: Line,
    providers: Any,
    clock: FixedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await order(shopper, ("MUG", 1))
    await pay(shopper, made)
    await line.break_at("lost")
    asked = await staff.post(f"/orders/{made['id']}/refunds", json={})
    assert (asked.status_code, asked.json()["status"]) == (201, "pending")
    await line.mend()
    await noticed(providers["stripe"])

    async def away(_refund: Any) -> None:
        raise payments.ProviderAway("stripe")

    clock.advance(30)
    with monkeypatch.context() as just_then:
        just_then.setattr(providers["stripe"], "refund", away)  # it was looked up, and the breaker has opened
        await recover(shop, providers)
    assert await till.rows("SELECT status FROM payment_refunds") == [{"status": "pending"}]
    clock.advance(60)
    await recover(shop, providers)
    assert await till.rows("SELECT status FROM payment_refunds") == [{"status": "succeeded"}]
    assert [refund["amount"] for refund in stripe.refunds.values()] == [500]


async def test_a_payment_that_waits_for_its_buyer_is_not_let_go_for_one_that_can_not_be_begun(
    shopper: httpx.AsyncClient, till: Till, paypal: PayPalsPlace, line: Line, providers: Any
) -> None:
    made = await order(shopper, ("MUG", 1))
    waits = (await pay(shopper, made, "paypal", by="paypal")).json()
    await line.break_at("unplugged")
    await pay(shopper, await order(shopper, ("MUG", 1)))
    await gone(providers["stripe"])
    assert refused(await pay(shopper, made))
    paypal.approve(waits["providerRef"])
    assert (await shopper.post(f"/payments/{waits['id']}/refresh")).json()["status"] == "succeeded"


async def test_what_stripe_tells_of_a_payment_that_it_must_be_asked_for_is_to_be_told_again(
    shopper: httpx.AsyncClient,
    client: httpx.AsyncClient,
    till: Till,
    stripe: StripesPlace,
    line: Line,
    providers: Any,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 1))
    await pay(shopper, made)
    await stripe.deliver(client, clock.now())
    (intent,) = stripe.intents.values()
    await line.break_at("unplugged")
    await pay(shopper, await order(shopper, ("MUG", 1)))
    await gone(providers["stripe"])
    stripe.give_back(intent, 100)
    told = list(stripe.events)
    assert set(await stripe.deliver(client, clock.now())) == {503}
    await line.mend()
    await noticed(providers["stripe"])
    stripe.events, stripe.busy = list(told), True
    assert set(await stripe.deliver(client, clock.now())) == {502}  # it is there, and does not say
    stripe.events, stripe.busy = told, False
    assert set(await stripe.deliver(client, clock.now())) == {200}
    assert (await look(shopper, made["id"]))["refundedCents"] == 100


@pytest.mark.parametrize("fault", ["latency", "failing", "sign_in_seconds", "the token has ended"])
async def test_paypal_is_away_when_it_says_nothing_fails_or_lets_nobody_in(
    shopper: httpx.AsyncClient, till: Till, paypal: PayPalsPlace, beside: Line, providers: Any, fault: str
) -> None:
    made = await order(shopper, ("MUG", 1))
    if fault != "sign_in_seconds":
        await pay(shopper, await order(shopper, ("MUG", 1)), "paypal", by="paypal")
    if fault == "the token has ended":
        fault, providers["paypal"]._token_until = "sign_in_seconds", 0.0
    setattr(paypal, fault, 60.0)
    first = asyncio.create_task(pay(shopper, await order(shopper, ("MUG", 1)), "paypal", by="paypal"))
    await gone(providers["paypal"])
    told = await pay(shopper, made, "paypal", by="paypal")
    assert (told.status_code, told.json()["provider"]) == (503, "paypal")
    assert (await first).status_code == (502 if fault == "sign_in_seconds" else 201)
    setattr(paypal, fault, 0.0)
    await noticed(providers["paypal"])
    assert (await pay(shopper, made, "paypal", by="paypal")).json()["status"] == "pending"


async def test_metrics_tell_how_each_provider_stands(
    shopper: httpx.AsyncClient, till: Till, line: Line, providers: Providers
) -> None:
    made = await order(shopper, ("MUG", 1))
    await line.break_at("unplugged")
    await pay(shopper, made)
    await gone(providers["stripe"])
    assert refused(await pay(shopper, made))
    said = (await shopper.get("/metrics")).text
    assert 'quartet_store_breaker{state="closed",store="stripe"} 0.0' in said
    assert 'quartet_store_breaker{state="closed",store="paypal"} 1.0' in said
    assert 'quartet_store_breaker_openings_total{store="stripe"} 1.0' in said
    assert 'quartet_store_breaker{state="closed",store="postgres"} 1.0' in said
