"""What a crash, a lost webhook, a silent provider or an unpaid order leaves open is brought to its end, once."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from stopped_clock import *  # noqa: F403 — its fixtures
from till import Json, Till, look, order, pay, sign_anew

from conftest import SEED
from quartet.checkout import recover
from quartet.kernel.clock import FixedClock
from quartet.kernel.settings import Settings
from quartet.payments import (
    Charge,
    Entry,
    Hold,
    Outcome,
    ProviderError,
    Providers,
    ProviderSilent,
    RefundRequest,
    WebhookEvent,
    open_providers,
)
from quartet.payments.providers.sandbox import SIGNATURE, Sandbox
from quartet.stores.postgres import Violation
from quartet.sync import worker
from quartet.sync.store import NO_LEASE
from quartet.web.dependencies import Shop


@dataclass
class Held:
    """A provider behind two gates: requests reach it, and its answers leave it, only while they stand open."""

    inner: Sandbox
    way_in: asyncio.Event = field(default_factory=asyncio.Event)
    way_out: asyncio.Event = field(default_factory=asyncio.Event)
    waiting_in: asyncio.Event = field(default_factory=asyncio.Event)
    waiting_out: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def methods(self) -> Collection[str]:
        return self.inner.methods

    @property
    def is_away(self) -> bool:
        return self.inner.is_away

    async def authorise(self, charge: Charge) -> Outcome:
        return await self._through(self.inner.authorise(charge))

    async def capture(self, hold: Hold) -> Outcome:
        return await self._through(self.inner.capture(hold))

    async def void(self, hold: Hold) -> Outcome:
        return await self._through(self.inner.void(hold))

    async def refund(self, refund: RefundRequest) -> Outcome:
        return await self._through(self.inner.refund(refund))

    async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
        return await self.inner.look_up(reference, provider_ref)

    async def look_up_refund(self, refund: RefundRequest) -> Outcome | None:
        return await self.inner.look_up_refund(refund)

    def entries(self, since: datetime, until: datetime) -> AsyncIterator[Entry]:
        return self.inner.entries(since, until)

    async def close(self) -> None:
        await self.inner.close()

    async def parse_webhook(self, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookEvent:
        return await self.inner.parse_webhook(headers, body, now)

    async def _through(self, call: Coroutine[None, None, Outcome]) -> Outcome:
        self.waiting_in.set()
        try:
            await self.way_in.wait()
        except asyncio.CancelledError:
            call.close()
            raise
        outcome = await call
        await self._leave()
        return outcome

    async def _leave(self) -> None:
        self.waiting_out.set()
        await self.way_out.wait()


class Silent(Held):
    """A provider that does what it is asked and says nothing."""

    async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
        raise ProviderSilent("the line is dead")

    async def _leave(self) -> None:
        raise ProviderSilent("the line is dead")


class Mistaken(Held):
    """A provider that does what it is asked and says that it has failed."""

    async def _leave(self) -> None:
        await super()._leave()
        raise ProviderError("something went wrong")


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A provider that does not take its time, and nobody at the shop's address."""
    quick = {"sandbox_slow_seconds": 0.5, "sandbox_async_seconds": 0.1, "base_url": "http://127.0.0.1:1"}
    return settings.model_copy(update=quick)


@pytest.fixture
def sandbox(shop: Shop) -> Sandbox:
    """The provider itself."""
    return Sandbox(shop.settings, shop.stores.pg)


@pytest.fixture
def held(app: FastAPI, sandbox: Sandbox) -> Held:
    """The shop's provider, behind gates."""
    held = Held(sandbox)
    app.state.providers = {"sandbox": held}
    return held


def _providers(sandbox: Sandbox) -> Providers:
    return {"sandbox": sandbox}


async def _crash(task: "asyncio.Task[httpx.Response]") -> None:
    """The process dies here."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _paid_once(till: Till, shopper: httpx.AsyncClient, made: Json, before: int) -> None:
    """Confirmed, sold, told and charged, each once."""
    seen = await look(shopper, made["id"])
    assert seen["status"] == "confirmed"
    pieces = sum(line["qty"] for line in made["items"])
    assert await till.shelf("MUG") == (before - pieces, 0)
    assert (await till.topics(made["id"])).count("order.confirmed") == 1
    sold = await till.rows("SELECT FROM inventory_movements WHERE order_id = $1 AND reason = 'sold'", made["id"])
    assert len(sold) == 1
    assert await till.charged(made["id"]) == made["totalCents"]
    assert [p["status"] for p in seen["payments"]].count("succeeded") == 1


async def test_a_crash_after_the_charge_is_mended_and_the_key_answers(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    held.way_in.set()
    click = asyncio.create_task(pay(shopper, made["id"], key="click"))
    await held.waiting_out.wait()
    await _crash(click)

    held.way_out.set()
    again = await pay(shopper, made["id"], key="click")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/request-in-progress")
    assert not await recover(shop, _providers(sandbox))  # the request might still be alive
    clock.advance(30)
    report = await recover(shop, _providers(sandbox))
    assert (report.asked, report.settled) == (1, 1)

    await _paid_once(till, shopper, made, 5)
    again = await pay(shopper, made["id"], key="click")
    assert (again.status_code, again.json()["status"]) == (201, "succeeded")
    assert again.headers["idempotent-replayed"] == "true"
    assert not await recover(shop, _providers(sandbox))


async def test_a_crash_before_the_charge_makes_the_order_payable_again(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    click = asyncio.create_task(pay(shopper, made["id"], key="click"))
    await held.waiting_in.wait()
    await _crash(click)
    held.way_in.set()
    held.way_out.set()

    clock.advance(30)
    assert (await recover(shop, _providers(sandbox))).settled == 0  # it may yet arrive
    other = await pay(shopper, made["id"])
    assert (other.status_code, other.json()["type"]) == (409, "/problems/payment-in-progress")
    clock.advance(150)
    assert (await recover(shop, _providers(sandbox))).settled == 1

    paid = await pay(shopper, made["id"], key="click")  # nothing had happened: the key is free
    assert paid.status_code == 201
    assert "idempotent-replayed" not in paid.headers
    await _paid_once(till, shopper, made, 5)


async def test_a_provider_that_falls_silent_leaves_the_payment_pending(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    silent = Silent(sandbox)
    silent.way_in.set()
    app.state.providers = {"sandbox": silent}
    made = await order(shopper, ("MUG", 1))
    told = await pay(shopper, made["id"], key="click")
    assert (told.status_code, told.json()["status"]) == (201, "pending")
    assert (await look(shopper, made["id"]))["status"] == "pending"

    clock.advance(5)
    assert (await recover(shop, _providers(sandbox))).settled == 1
    await _paid_once(till, shopper, made, 5)
    again = await pay(shopper, made["id"], key="click")
    assert again.content == told.content  # the first answer, whatever has happened since


async def test_a_provider_slower_than_our_patience_is_asked_later(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held, sandbox: Sandbox
) -> None:
    app.state.shop = replace(shop, settings=shop.settings.model_copy(update={"payment_timeout": 1.0}))
    held.way_in.set()
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, made["id"])).json()["status"] == "pending"
    clock.advance(5)
    assert (await recover(shop, _providers(sandbox))).settled == 1
    await _paid_once(till, shopper, made, 5)


async def test_redirect_webhooks_and_sweeps_at_once_complete_a_payment_once(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held, sandbox: Sandbox
) -> None:
    held.way_in.set()
    before = 50
    await till.stock("MUG", before)
    for _ in range(5):
        held.way_out.clear()
        held.waiting_out.clear()
        made = await order(shopper, ("MUG", 2))
        redirect = asyncio.create_task(pay(shopper, made["id"], key=made["id"]))
        await held.waiting_out.wait()
        (payment,) = await till.rows("SELECT id FROM payments WHERE order_id = $1", made["id"])
        outcome = await sandbox.look_up(str(payment["id"]))
        assert outcome is not None
        body = sandbox.event(str(payment["id"]), outcome)
        clock.advance(30)
        held.way_out.set()
        told, answers, _ = await asyncio.gather(
            redirect,
            asyncio.gather(*(_webhook(shopper, sandbox, body, clock) for _ in range(4))),
            asyncio.gather(*(recover(shop, _providers(sandbox)) for _ in range(3))),
        )
        assert told.status_code == 201
        assert {answer.status_code for answer in answers} == {200}
        await _paid_once(till, shopper, made, before)
        before -= 2
        replayed = await pay(shopper, made["id"], key=made["id"])
        assert replayed.content == told.content


async def test_webhooks_ten_times_in_any_order_are_carried_out_once(
    shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    before = 50
    await till.stock("MUG", before)
    orders = [await order(shopper, ("MUG", 1)) for _ in range(4)]
    bodies = []
    for made in orders:
        told = (await pay(shopper, made["id"], "card_async")).json()
        assert told["status"] == "pending"
        bodies.append(sandbox.event(told["id"], Outcome(told["providerRef"], "succeeded")))
    print(f"seed {SEED}")
    sent = bodies * 10
    random.Random(SEED).shuffle(sent)
    answers = await asyncio.gather(*(_webhook(shopper, sandbox, body, clock) for body in sent))
    assert {answer.status_code for answer in answers} == {200}
    assert await till.shelf("MUG") == (46, 0)
    for made in orders:
        assert (await till.topics(made["id"])).count("order.confirmed") == 1
    assert len(await till.rows("SELECT FROM webhook_events")) == 4


async def test_a_webhook_that_fails_after_one_that_succeeded_changes_nothing(
    shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    paid = (await pay(shopper, made["id"])).json()
    late = sandbox.event(paid["id"], Outcome(paid["providerRef"], "failed", "card_declined"))
    assert (await _webhook(shopper, sandbox, late, clock)).status_code == 200
    await _paid_once(till, shopper, made, 5)


async def test_a_failed_charge_that_was_taken_after_all_pays_or_goes_back(
    shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    for paid_otherwise in (False, True):
        made = await order(shopper, ("MUG", 1))
        failed = (await pay(shopper, made["id"], "card_declined")).json()["paymentId"]
        if paid_otherwise:
            await pay(shopper, made["id"])
        await till.rows(
            "UPDATE sandbox.charges SET decline_code = NULL WHERE reference = $1 RETURNING reference", failed
        )
        outcome = await sandbox.look_up(failed)
        assert outcome is not None
        assert (await _webhook(shopper, sandbox, sandbox.event(failed, outcome), clock)).status_code == 200
        assert (await look(shopper, made["id"]))["status"] == "confirmed"
        assert await till.charged(made["id"]) == made["totalCents"]
        status = (await shopper.get(f"/payments/{failed}")).json()["status"]
        assert status == ("refunded" if paid_otherwise else "succeeded")
    (letter,) = await till.rows("SELECT payload ->> 'reason' AS why FROM outbox WHERE topic = 'payment.returned'")
    assert letter["why"] == "paid"
    assert await till.shelf("MUG") == (3, 0)


async def test_webhooks_that_are_not_the_providers_are_refused_and_strange_ones_ignored(
    app: FastAPI, client: httpx.AsyncClient, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    told = (await pay(shopper, made["id"], "card_async")).json()
    body = sandbox.event(told["id"], Outcome(told["providerRef"], "succeeded"))
    now = clock.now()
    good = sandbox.sign(body, now)

    other = Sandbox(sandbox._settings.model_copy(update={"secret": SecretStr("x" * 40)}), sandbox._pg)
    for signature in (
        None, "", "t=,v1=", good.replace("v1=", "v0="), good[:-1] + ("0" if good[-1] != "0" else "1"), good.upper(),
        other.sign(body, now), sandbox.sign(body + b" ", now), "t=99999999999999999999,v1=ab", "t=1,v1=\u00e9",
        sandbox.sign(body, now - timedelta(seconds=301)), sandbox.sign(body, now + timedelta(seconds=301)),
    ):  # fmt: skip
        headers = {} if signature is None else {SIGNATURE.encode(): signature.encode("latin-1")}
        answer = await client.post("/webhooks/sandbox", content=body, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-signature"), signature
    assert (await look(shopper, made["id"]))["status"] == "pending"

    event = json.loads(body)
    for strange in (
        event | {"type": "charge.disputed"},
        event | {"id": "e1", "data": event["data"] | {"reference": "none of ours"}},
        event | {"id": "e2", "data": event["data"] | {"reference": "01a00000-0000-7000-8000-000000000000"}},
    ):
        assert (await _webhook(client, sandbox, json.dumps(strange).encode(), clock)).status_code == 200
    for broken in (b"", b"{", b"[]", b"1", b"{}", b'{"id": 1, "type": "charge.succeeded"}'):
        assert (await _webhook(client, sandbox, broken, clock)).status_code == 400
    unknown = await client.post("/webhooks/nobody", content=body, headers={SIGNATURE: good})
    assert unknown.status_code == 404
    app.state.providers = {"sandbox": sandbox, "another": sandbox}
    anothers = await client.post("/webhooks/another", content=body, headers={SIGNATURE: good})
    assert anothers.status_code == 200
    assert (await look(shopper, made["id"]))["status"] == "pending"
    assert (await _webhook(client, sandbox, body, clock)).status_code == 200
    await _paid_once(till, shopper, made, 5)


async def test_a_lost_webhook_is_asked_for(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, made["id"], "card_async")).json()["status"] == "pending"
    while not (await recover(shop, _providers(sandbox))).settled:
        clock.advance(3)
        await asyncio.sleep(0.05)
    await _paid_once(till, shopper, made, 5)


@pytest.mark.parametrize("faults", [{}, {"sandbox_webhook_copies": 10, "sandbox_webhook_late_seconds": 0.3}])
async def test_the_sandbox_delivers_its_webhook_to_the_shops_address_as_often_as_it_is_told_to(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient, till: Till, faults: Json
) -> None:
    asked: list[str] = []

    async def door(scope: Json, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        asked.append(scope["path"])

    async with _served(door) as url:
        app.state.shop = replace(shop, settings=shop.settings.model_copy(update={"base_url": url} | faults))
        await till.stock("MUG", 5)
        made = await order(shopper, ("MUG", 1))
        assert (await pay(shopper, made["id"], "card_async")).json()["status"] == "pending"
        async with asyncio.timeout(10):
            while len(asked) < faults.get("sandbox_webhook_copies", 1):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert set(asked) == {"/webhooks/sandbox"}
        await _paid_once(till, shopper, made, 5)
        assert len(await till.rows("SELECT FROM webhook_events")) == 1


async def test_each_copy_of_a_webhook_is_late_by_itself_within_what_the_sandbox_is_told(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient, till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def send(_: Sandbox, reference: str, outcome: Outcome, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(Sandbox, "_send", send)
    told = {"sandbox_webhook_copies": 10, "sandbox_webhook_late_seconds": 5000.0, "sandbox_async_seconds": 1000.0}
    app.state.shop = replace(shop, settings=shop.settings.model_copy(update=told))
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, made["id"], "card_async")).json()["status"] == "pending"
    async with asyncio.timeout(10):
        while len(waits) < 10:  # noqa: ASYNC110 — tasks of their own
            await asyncio.sleep(0)
    assert len(set(waits)) == 10
    assert all(0 < wait <= 6000 for wait in waits)
    assert max(waits) > 3500


async def test_the_sandbox_takes_the_time_that_it_is_told_to_and_does_nothing_before(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient, till: Till
) -> None:
    slow = shop.settings.model_copy(update={"sandbox_latency_seconds": 60.0, "payment_timeout": 0.2})
    app.state.shop = replace(shop, settings=slow)
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, made["id"])).json()["status"] == "pending"
    assert await till.charged(made["id"]) == 0


async def test_what_was_paid_in_time_and_not_noticed_is_confirmed_and_does_not_expire(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    held.way_in.set()
    click = asyncio.create_task(pay(shopper, made["id"]))
    await held.waiting_out.wait()
    await _crash(click)
    clock.advance(shop.settings.order_hold_seconds + 60)
    report = await recover(shop, _providers(sandbox))
    assert (report.settled, report.expired) == (1, 0)
    sign_anew(shop, shopper)
    await _paid_once(till, shopper, made, 5)


async def _paid_after_expiry(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held, *, sold_meanwhile: bool
) -> tuple[Json, httpx.Response]:
    """An order that expires while its charge is under way, and what the click is told."""
    made = await order(shopper, ("MUG", 2))
    click = asyncio.create_task(pay(shopper, made["id"], key="late"))
    await held.waiting_in.wait()
    clock.advance(shop.settings.order_hold_seconds + 60)
    assert (await recover(shop, {"sandbox": Silent(held.inner)})).expired == 1
    assert await till.shelf("MUG") == (5, 0)
    sign_anew(shop, shopper)
    if sold_meanwhile:
        await order(shopper, ("MUG", 4))
    held.way_in.set()
    held.way_out.set()
    return made, await click


async def test_what_is_paid_after_it_expired_is_sold_all_the_same_where_there_is_stock(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held
) -> None:
    await till.stock("MUG", 5)
    made, told = await _paid_after_expiry(shop, shopper, till, clock, held, sold_meanwhile=False)
    assert (told.status_code, told.json()["status"]) == (201, "succeeded")
    await _paid_once(till, shopper, made, 5)
    seen = await look(shopper, made["id"])
    assert [(step["to"], step["by"], step["reason"]) for step in seen["history"][1:]] == [
        ("cancelled", "system", "expired"),
        ("pending", "payments", "paid after it expired"),
        ("confirmed", "payments", "paid"),
    ]
    assert await till.topics(made["id"]) == ["order.placed", "order.cancelled", "order.confirmed"]


async def test_what_is_paid_after_its_stock_was_sold_goes_back_and_the_buyer_is_told(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held
) -> None:
    await till.stock("MUG", 5)
    made, told = await _paid_after_expiry(shop, shopper, till, clock, held, sold_meanwhile=True)
    assert (told.status_code, told.json()["type"]) == (409, "/problems/order-not-payable")
    assert await till.charged(made["id"]) == 0
    seen = await look(shopper, made["id"])
    assert (seen["status"], seen["refundedCents"]) == ("cancelled", 0)
    assert await till.shelf("MUG") == (5, 4)
    payment = (await shopper.get(f"/payments/{told.json()['paymentId']}")).json()
    assert (payment["status"], payment["refundedCents"]) == ("refunded", 1000)
    again = await pay(shopper, made["id"], key="late")
    assert (again.status_code, again.content) == (409, told.content)
    (letter,) = await till.rows("SELECT payload FROM outbox WHERE topic = 'payment.returned'")
    assert letter["payload"] == {
        "payment_id": payment["id"], "order_id": made["id"], "user_id": str(shopper.user_id),  # type: ignore[attr-defined]
        "email": None, "amount_cents": 1000, "currency": "GBP", "reason": "expired", "held": False,
    }  # fmt: skip


@pytest.mark.parametrize("key", [None, "click"])
async def test_an_order_that_its_buyer_cancelled_never_comes_back(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, held: Held, key: str | None
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    click = asyncio.create_task(pay(shopper, made["id"], key=key))
    await held.waiting_in.wait()
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    held.way_in.set()
    held.way_out.set()
    told = await click
    assert (told.status_code, told.json()["type"]) == (409, "/problems/order-not-payable")
    again = await pay(shopper, made["id"], key=key)
    assert (again.status_code, again.content == told.content) == (409, key is not None)
    assert (await look(shopper, made["id"]))["status"] == "cancelled"
    assert await till.shelf("MUG") == (5, 0)
    assert await till.charged(made["id"]) == 0
    (letter,) = await till.rows("SELECT payload ->> 'reason' AS why FROM outbox WHERE topic = 'payment.returned'")
    assert letter["why"] == "cancelled"
    with pytest.raises(Violation) as refused:
        async with shop.stores.pg.once() as tx:
            await tx.execute("UPDATE orders SET status = 'pending' WHERE id = $1", made["id"])
    assert refused.value.sqlstate == "QT004"


async def test_a_webhook_that_comes_before_the_providers_answer_is_what_the_request_tells(
    shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    held.way_in.set()
    made = await order(shopper, ("MUG", 2))
    click = asyncio.create_task(pay(shopper, made["id"], key="click"))
    await held.waiting_out.wait()
    payment_id = await _told_by_webhook(shopper, till, sandbox, clock, made["id"])
    (row,) = await till.rows("SELECT processed_at FROM payments WHERE order_id = $1", made["id"])
    clock.advance(1)
    held.way_out.set()
    told = await click
    assert datetime.fromisoformat(told.json()["processedAt"]) == row["processed_at"] < clock.now()
    assert (await shopper.get(f"/payments/{payment_id}")).content == told.content
    await _paid_once(till, shopper, made, 5)
    assert (await pay(shopper, made["id"], key="click")).content == told.content


async def test_an_answer_that_a_webhook_has_given_stays_whatever_the_provider_answers(
    app: FastAPI, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    mistaken = Mistaken(sandbox)
    mistaken.way_in.set()
    app.state.providers = {"sandbox": mistaken}
    made = await order(shopper, ("MUG", 2))
    click = asyncio.create_task(pay(shopper, made["id"], key="click"))
    await mistaken.waiting_out.wait()
    await _told_by_webhook(shopper, till, sandbox, clock, made["id"])
    mistaken.way_out.set()
    assert (await click).status_code >= 500
    again = await pay(shopper, made["id"], key="click")
    assert (again.status_code, again.json()["status"]) == (201, "succeeded"), again.text
    assert again.headers["idempotent-replayed"] == "true"
    await _paid_once(till, shopper, made, 5)


async def test_an_order_whose_time_is_over_is_not_paid_even_before_the_sweep(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    clock.advance(shop.settings.order_hold_seconds + 60)
    sign_anew(shop, shopper)
    told = await pay(shopper, made["id"])
    seen = (await shopper.get(f"/orders/{made['id']}")).json()["status"]
    assert (told.status_code, told.json()["orderStatus"], told.json()["detail"]) == (409, seen, "the order is expired")


async def test_paying_beside_expiring_ends_in_one_of_both(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 50)
    ends = []
    for _ in range(8):
        stock, _ = await till.shelf("MUG")
        made = await order(shopper, ("MUG", 1))
        late = replace(shop, clock=FixedClock(clock.now() + timedelta(seconds=901)))
        paid, _ = await asyncio.gather(
            pay(shopper, made["id"]), asyncio.gather(*(recover(late, _providers(sandbox)) for _ in range(2)))
        )
        await recover(late, _providers(sandbox))
        seen = await look(shopper, made["id"])
        ends.append(seen["status"])
        if seen["status"] == "confirmed":
            assert paid.status_code == 201
            assert await till.shelf("MUG") == (stock - 1, 0)
            assert await till.charged(made["id"]) == made["totalCents"]
        else:
            assert (seen["status"], paid.status_code) == ("cancelled", 409)
            assert await till.shelf("MUG") == (stock, 0)
            assert await till.charged(made["id"]) == 0
    print(ends)


async def test_sweeps_at_once_share_the_work(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 100)
    for _ in range(45):
        await order(shopper, ("MUG", 1))
    clock.advance(shop.settings.order_hold_seconds + 60)
    reports = await asyncio.gather(*(recover(shop, _providers(sandbox)) for _ in range(4)))
    assert sum(report.expired for report in reports) == 45
    assert await till.shelf("MUG") == (100, 0)
    released = await till.rows("SELECT FROM inventory_movements WHERE reason = 'released'")
    assert len(released) == 45


@pytest.mark.parametrize("gate", ["before", "after"])
async def test_a_crash_around_a_refund_is_mended_and_the_money_goes_back_once(
    shop: Shop,
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    till: Till,
    clock: FixedClock,
    held: Held,
    sandbox: Sandbox,
    gate: str,
) -> None:
    await till.stock("MUG", 5)
    held.way_in.set()
    held.way_out.set()
    cancelled, refunded = [await order(shopper, ("MUG", 1)) for _ in range(2)]
    for made in (cancelled, refunded):
        assert (await pay(shopper, made["id"])).status_code == 201

    for client, path, key in (
        (shopper, f"/orders/{cancelled['id']}/cancel", {"Idempotency-Key": "c"}),
        (staff, f"/orders/{refunded['id']}/refunds", {"Idempotency-Key": "r"}),
    ):
        held.way_out.clear()
        held.waiting_in.clear()
        held.waiting_out.clear()
        if gate == "before":
            held.way_in.clear()
        click = asyncio.create_task(client.post(path, json={}, headers=key))
        await (held.waiting_in if gate == "before" else held.waiting_out).wait()
        await _crash(click)
        assert (await client.post(path, json={}, headers=key)).status_code == 409
        clock.advance(30)
        reports = await asyncio.gather(*(recover(shop, _providers(sandbox)) for _ in range(2)))
        assert sum(report.refunds for report in reports) == 1
        again = await client.post(path, json={}, headers=key)
        assert again.status_code in (200, 201)
        assert again.headers["idempotent-replayed"] == "true"

    for made, status in ((cancelled, "cancelled"), (refunded, "refunded")):
        seen = await look(shopper, made["id"])
        assert (seen["status"], seen["refundedCents"]) == (status, made["totalCents"])
        assert await till.charged(made["id"]) == 0
    assert await till.shelf("MUG") == (4, 0)


async def _paid_then_held(shopper: httpx.AsyncClient, till: Till, held: Held) -> Json:
    """An order of two mugs that is paid; what the provider is asked next it does, and its answer does not leave it."""
    await till.stock("MUG", 5)
    held.way_in.set()
    held.way_out.set()
    made = await order(shopper, ("MUG", 2))
    assert (await pay(shopper, made["id"])).status_code == 201
    held.way_out.clear()
    held.waiting_out.clear()
    return made


class Refusing(Held):
    """A provider that can't be reached when money is to go back."""

    async def refund(self, refund: RefundRequest) -> Outcome:
        raise ProviderError("nobody there")

    async def look_up_refund(self, refund: RefundRequest) -> Outcome | None:
        return None


async def test_a_refund_that_one_saw_fail_and_another_succeed_has_happened(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held
) -> None:
    """One sweep stands still with the provider's yes in its hand while another is refused."""
    made = await _paid_then_held(shopper, till, held)
    path, body = f"/orders/{made['id']}/refunds", {"items": [{"sku": "MUG", "qty": 1}], "restock": True}
    held.way_in.clear()
    held.waiting_in.clear()
    click = asyncio.create_task(staff.post(path, json=body))
    await held.waiting_in.wait()
    await _crash(click)
    held.way_in.set()
    clock.advance(30)

    slow = asyncio.create_task(recover(shop, {"sandbox": held}))
    await held.waiting_out.wait()
    clock.advance(3)
    assert (await recover(shop, {"sandbox": Refusing(held.inner)})).refunds == 0  # it is asked for already
    clock.advance(30)
    assert (await recover(shop, {"sandbox": Refusing(held.inner)})).refunds == 1
    assert (await look(shopper, made["id"]))["refundedCents"] == 0
    held.way_out.set()
    await slow

    seen = await look(shopper, made["id"])
    assert seen["refundedCents"] == made["totalCents"] // 2
    assert await till.charged(made["id"]) == made["totalCents"] - seen["refundedCents"]
    assert await till.shelf("MUG") == (4, 0)
    too_much = await staff.post(path, json={"items": [{"sku": "MUG", "qty": 2}]})
    assert (too_much.status_code, too_much.json()["pieces"][0]["refundable"]) == (409, 1)


class Forgetful(Held):
    """A provider that can't say which refunds it has made."""

    async def look_up_refund(self, refund: RefundRequest) -> Outcome | None:
        raise ProviderError("try again later")


async def test_a_refund_is_not_failed_because_the_provider_could_not_say_whether_it_was_made(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held
) -> None:
    """Called failed, its key would be free, and the same click would give the money back a second time."""
    made = await _paid_then_held(shopper, till, held)
    path, body, key = f"/orders/{made['id']}/refunds", {"amountCents": 55}, {"Idempotency-Key": "r"}
    click = asyncio.create_task(staff.post(path, json=body, headers=key))
    await held.waiting_out.wait()
    await _crash(click)
    held.way_out.set()

    clock.advance(30)
    assert (await recover(shop, {"sandbox": Forgetful(held.inner)})).refunds == 1
    again = await staff.post(path, json=body, headers=key)
    assert (again.status_code, again.json()["status"]) == (201, "pending")
    clock.advance(30)
    assert (await recover(shop, {"sandbox": held.inner})).refunds == 1
    assert (await look(shopper, made["id"]))["refundedCents"] == 55
    assert await till.charged(made["id"]) == made["totalCents"] - 55


async def test_a_refund_that_the_provider_will_not_make(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, clock: FixedClock
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    paid = (await pay(shopper, made["id"])).json()
    await till.rows("UPDATE sandbox.charges SET amount_cents = 1 WHERE reference = $1 RETURNING id", paid["id"])

    told = await staff.post(f"/orders/{made['id']}/refunds", json={})
    assert (told.status_code, told.json()["type"]) == (502, "/problems/provider-error")
    assert (await look(shopper, made["id"]))["status"] == "confirmed"

    cancelled = await shopper.post(f"/orders/{made['id']}/cancel")  # this one has to happen, so it is tried again
    assert (cancelled.status_code, cancelled.json()["refundedCents"]) == (200, 0)
    await till.rows("UPDATE sandbox.charges SET amount_cents = 500 WHERE reference = $1 RETURNING id", paid["id"])
    clock.advance(30)
    assert (await recover(shop, open_providers(shop.settings, shop.stores.pg))).refunds == 1
    assert (await look(shopper, made["id"]))["refundedCents"] == 500


async def test_a_refund_that_the_provider_answers_as_failed_is_told_and_can_be_tried_again(
    app: FastAPI, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, made["id"])).status_code == 201

    class Failing(Held):
        async def refund(self, refund: RefundRequest) -> Outcome:
            return Outcome("re_1", "failed")

    app.state.providers = {"sandbox": Failing(sandbox)}
    key = {"Idempotency-Key": "back"}
    told = await staff.post(f"/orders/{made['id']}/refunds", json={}, headers=key)
    assert (told.status_code, told.json()["type"]) == (502, "/problems/provider-error")
    app.state.providers = _providers(sandbox)
    again = await staff.post(f"/orders/{made['id']}/refunds", json={}, headers=key)
    assert (again.status_code, again.json()["status"]) == (201, "succeeded")
    assert await till.charged(made["id"]) == 0


async def test_a_payment_that_takes_long_is_asked_after_ever_more_rarely(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    asked = 0

    class Pondering(Held):
        async def authorise(self, charge: Charge) -> Outcome:
            return Outcome(None, "pending")

        async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
            nonlocal asked
            asked += 1
            return Outcome(None, "pending")

    app.state.providers = {"sandbox": Pondering(sandbox)}
    assert (await pay(shopper, made["id"])).json()["status"] == "pending"
    for _ in range(300):
        clock.advance(1)
        await recover(shop, app.state.providers)
    assert 5 <= asked <= 9, "after 2, 4, 8 … seconds"


async def test_what_was_paid_long_ago_and_not_told_is_asked_for_before_the_order_expires(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    agreed = clock.now() + timedelta(seconds=shop.settings.order_hold_seconds * 0.8)

    class Untold(Held):
        async def authorise(self, charge: Charge) -> Outcome:
            return Outcome(None, "pending")

        async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
            return Outcome("ch_1", "succeeded" if clock.now() > agreed else "pending")

    app.state.providers = {"sandbox": Untold(sandbox)}
    assert (await pay(shopper, made["id"])).json()["status"] == "pending"
    for _ in range(shop.settings.order_hold_seconds // 20 + 2):
        clock.advance(20)
        assert (await recover(shop, app.state.providers)).expired == 0
    sign_anew(shop, shopper)
    seen = await look(shopper, made["id"])
    assert [(step["to"], step["reason"]) for step in seen["history"]] == [("pending", None), ("confirmed", "paid")]


async def test_nobody_answers_for_a_request_that_is_being_paid(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    """The buyer looks, and the worker asks soon after, while the provider takes its time."""
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))

    class Slow(Held):
        async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
            return Outcome(None, "pending")

    app.state.providers = {"sandbox": (slow := Slow(sandbox))}
    paying = asyncio.create_task(pay(shopper, made["id"], key="slow"))
    await slow.waiting_in.wait()
    (payment,) = await till.rows("SELECT id FROM payments")
    assert (await shopper.post(f"/payments/{payment['id']}/refresh")).json()["status"] == "pending"
    clock.advance(3)
    assert (await recover(shop, app.state.providers)).asked == 1
    slow.way_in.set()
    slow.way_out.set()
    paid = await paying
    assert (paid.status_code, paid.json()["status"]) == (201, "succeeded")
    again = await pay(shopper, made["id"], key="slow")
    assert (again.content, again.headers["idempotent-replayed"]) == (paid.content, "true")


async def test_who_pays_in_the_last_second_is_waited_for(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 2)
    made, left = await order(shopper, ("MUG", 2)), shop.settings.order_hold_seconds
    clock.advance(left - 1)
    click = asyncio.create_task(pay(shopper, made["id"]))
    await held.waiting_in.wait()
    clock.advance(2)
    assert (await recover(shop, _providers(sandbox))).expired == 0
    held.way_in.set()
    held.way_out.set()
    assert ((await click).status_code, await till.shelf("MUG")) == (201, (0, 0))


async def test_who_pays_in_the_last_second_is_waited_for_three_seconds_and_no_longer(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, held: Held, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 2)
    made = await order(shopper, ("MUG", 2))
    ends = datetime.fromisoformat(made["expiresAt"])
    clock.at = ends - timedelta(seconds=1)
    click = asyncio.create_task(pay(shopper, made["id"]))
    await held.waiting_in.wait()
    for late, expired in ((2.9, 0), (3.1, 1)):
        clock.at = ends + timedelta(seconds=late)
        assert (await recover(shop, _providers(sandbox))).expired == expired
    assert await till.shelf("MUG") == (2, 0)
    held.way_in.set()
    held.way_out.set()
    assert ((await click).status_code, await till.shelf("MUG")) == (201, (0, 0))  # nobody has bought them meanwhile


class SlowToSay(Held):
    """A provider that takes its time when it is asked how a charge stands."""

    async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
        self.waiting_out.set()
        await self.way_out.wait()
        return await self.inner.look_up(reference, provider_ref)


async def test_while_a_provider_takes_its_time_the_stock_of_others_is_given_back(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 2)
    asked, unpaid = await order(shopper, ("MUG", 1)), await order(shopper, ("MUG", 1))
    assert (await pay(shopper, asked["id"], "card_async")).json()["status"] == "pending"
    clock.advance(60)
    slow = SlowToSay(sandbox)
    sweep = asyncio.create_task(recover(shop, {"sandbox": slow}))
    await slow.waiting_out.wait()
    clock.at = datetime.fromisoformat(unpaid["expiresAt"]) + timedelta(seconds=1)
    async with asyncio.timeout(8):
        while await till.shelf("MUG") != (2, 0):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert not sweep.done()
    slow.way_out.set()
    assert (await sweep).expired == 2


async def test_nobody_is_asked_for_nothing(app: FastAPI, shopper: httpx.AsyncClient, till: Till, held: Held) -> None:
    await till.stock("GIFT", 2, cents=0)
    made = await order(shopper, ("GIFT", 1))
    async with asyncio.timeout(10):
        paid = await pay(shopper, made["id"])
    assert (paid.status_code, paid.json()["status"]) == (201, "succeeded")
    assert (await look(shopper, made["id"]))["status"] == "confirmed"
    assert not held.waiting_in.is_set()


async def test_events_that_nobody_sends_any_more_are_forgotten_and_change_nothing_if_they_come_all_the_same(
    client: httpx.AsyncClient,
    shop: Shop,
    shopper: httpx.AsyncClient,
    till: Till,
    clock: FixedClock,
    sandbox: Sandbox,
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    paid = (await pay(shopper, made["id"])).json()
    told = sandbox.event(paid["id"], Outcome(paid["providerRef"], "succeeded"))
    assert (await _webhook(client, sandbox, told, clock)).is_success
    old = "INSERT INTO webhook_events SELECT 'sandbox', n::text, 'x', NULL, $1 FROM generate_series(1, 5) n RETURNING 1"
    await till.rows(old, clock.now() - timedelta(days=30, seconds=1))

    async def swept_until(left: int) -> None:
        sweeping = asyncio.ensure_future(worker.LOOPS["sweeps"](shop, NO_LEASE))
        async with asyncio.timeout(10):
            while len(await till.rows("SELECT FROM webhook_events")) > left:  # noqa: ASYNC110 — nobody tells
                await asyncio.sleep(0.02)
        sweeping.cancel()

    await swept_until(1)
    clock.advance(31 * 24 * 3600)
    await swept_until(0)
    sign_anew(shop, shopper)
    assert (await _webhook(client, sandbox, told, clock)).is_success
    await _paid_once(till, shopper, made, 5)


async def _webhook(client: httpx.AsyncClient, sandbox: Sandbox, body: bytes, clock: FixedClock) -> httpx.Response:
    headers = {SIGNATURE: sandbox.sign(body, clock.now()), "Content-Type": "application/json"}
    return await client.post("/webhooks/sandbox", content=body, headers=headers)


async def _told_by_webhook(
    client: httpx.AsyncClient, till: Till, sandbox: Sandbox, clock: FixedClock, order_id: str
) -> str:
    """The provider tells how the order's one payment stands there; its id."""
    (payment,) = await till.rows("SELECT id::text FROM payments WHERE order_id = $1", order_id)
    outcome = await sandbox.look_up(payment["id"])
    assert outcome is not None
    assert (await _webhook(client, sandbox, sandbox.event(payment["id"], outcome), clock)).status_code == 200
    return str(payment["id"])


@asynccontextmanager
async def _served(app: Any) -> AsyncIterator[str]:
    """The application on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="error"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving
