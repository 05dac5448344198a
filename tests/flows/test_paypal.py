"""The shop and PayPal as its documentation says it is: the buyer agrees there, is charged once whatever the line does,
and what PayPal tells is asked for."""

import asyncio
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from abroad import *  # noqa: F403 — its fixtures
from abroad import Abroad
from fastapi import FastAPI
from line import CUTS, Cut, Line
from paypals_place import CLIENT, SECRET, WEBHOOK, PayPalsPlace
from pydantic import SecretStr
from till import Json, Till, look, order, settle

from quartet import payments
from quartet.checkout import recover
from quartet.kernel.clock import FixedClock
from quartet.kernel.ids import new_id
from quartet.kernel.settings import Settings
from quartet.payments import Charge, Hold, Outcome, PaymentProvider, ProviderError, ProviderSilent, RefundRequest
from quartet.sync import worker
from quartet.sync.store import NO_LEASE
from quartet.web.dependencies import Shop


@pytest.fixture
def place() -> PayPalsPlace:
    return PayPalsPlace()


@pytest.fixture
def settings(settings: Settings, line: Line) -> Settings:
    return settings.model_copy(
        update={
            "payment_providers": ("paypal",),
            "paypal_client_id": CLIENT,
            "paypal_client_secret": SecretStr(SECRET),
            "paypal_webhook_id": WEBHOOK,
            "paypal_api_url": line.url,
            "payment_timeout": 3.0,
        }
    )


async def click(shopper: httpx.AsyncClient, made: Json, key: str | None = None) -> httpx.Response:
    body = {"orderId": made["id"], "provider": "paypal", "paymentMethod": "paypal"}
    return await shopper.post("/payments", json=body, headers={"Idempotency-Key": key} if key else {})


async def pay(shopper: httpx.AsyncClient, made: Json) -> Json:
    answer = await click(shopper, made)
    assert (answer.status_code, answer.json()["status"]) == (201, "pending"), answer.text
    paid: Json = answer.json()
    return paid


async def back(shopper: httpx.AsyncClient, paid: Json) -> Json:
    """The buyer is back from PayPal's page."""
    answer = await shopper.post(f"/payments/{paid['id']}/refresh")
    assert answer.status_code == 200, answer.text
    seen: Json = answer.json()
    return seen


async def test_the_buyer_agrees_at_paypal_and_is_charged_when_back(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = await pay(shopper, made)
    (theirs,) = place.orders.values()
    assert (paid["providerRef"], paid["redirectUrl"]) == (theirs["id"], theirs["links"][0]["href"])
    unit = theirs["purchase_units"][0]
    assert unit["amount"] == {"currency_code": "GBP", "value": "10.00"}
    assert unit["custom_id"] == unit["invoice_id"] == paid["id"]
    assert (await back(shopper, paid))["status"] == "pending"  # he only looked
    place.approve(theirs["id"])
    ends = await asyncio.gather(*(back(shopper, paid) for _ in range(4)))
    assert {end["status"] for end in ends} == {"succeeded"}
    assert (await look(shopper, made["id"]))["status"] == "confirmed"
    assert place.taken() == 1000

    part = await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 300})
    assert (part.status_code, part.json()["status"]) == (201, "succeeded"), part.text
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).json()["refundedCents"] == 1000
    assert place.taken() == 0
    await abroad.books_balance()


async def test_a_buyer_who_never_comes_back_is_charged_by_the_webhook_or_the_sweep(
    shopper: httpx.AsyncClient, abroad: Abroad, till: Till, place: PayPalsPlace
) -> None:
    made = [await order(shopper, ("MUG", 1)) for _ in range(2)]
    paid = [await pay(shopper, one) for one in made]
    place.approve(paid[0]["providerRef"])
    await abroad.tell(copies=6)
    assert (await look(shopper, made[0]["id"]))["status"] == "confirmed"
    await abroad.tell(copies=6, dice=random.Random(2))

    place.approve(paid[1]["providerRef"])
    await abroad.settled()
    assert {row["status"] for row in await till.rows("SELECT status FROM orders")} == {"confirmed"}
    assert place.taken() == 1000
    await abroad.books_balance()


async def test_reports_of_what_went_back_whole_and_of_money_that_is_no_orders_differ_in_nothing(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace
) -> None:
    for body in ({}, {"amountCents": 300}):
        made = await order(shopper, ("MUG", 2))
        paid = await pay(shopper, made)
        place.approve(paid["providerRef"])
        await back(shopper, paid)
        assert (await staff.post(f"/orders/{made['id']}/refunds", json=body)).json()["status"] == "succeeded"
    place.moved = [("T0000", "-80.00"), ("T1111", "5.00")]
    assert await abroad.differences() == []
    place.moved = [("T1110", "-5.00")]
    assert [each.finding for each in await abroad.differences()] == ["500 GBP succeeded there, unknown here"]


async def test_a_declined_instrument_is_told_and_the_order_stays_payable(
    shopper: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = await pay(shopper, made)
    place.approve(paid["providerRef"])
    place.declining = True
    told = await back(shopper, paid)
    assert (told["status"], told["declineCode"]) == ("failed", "instrument_declined")
    place.declining = False
    again = await pay(shopper, made)
    place.approve(again["providerRef"])
    assert (await back(shopper, again))["status"] == "succeeded"
    assert place.taken() == 500
    await abroad.books_balance()


async def test_what_was_agreed_to_for_a_declined_or_cancelled_payment_is_not_taken(
    shopper: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    till: Till,
    place: PayPalsPlace,
    provider: PaymentProvider,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = await pay(shopper, made)
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    place.approve(paid["providerRef"])
    await abroad.tell(copies=2)
    assert (await back(shopper, paid))["status"] == "pending"
    await abroad.settled()
    assert place.taken() == 0
    del place.orders[paid["providerRef"]]  # after three days PayPal forgets it
    clock.advance(3600)
    await recover(shop, {"paypal": provider})
    assert await till.rows("SELECT status FROM payments") == [{"status": "voided"}]


async def test_who_leaves_paypals_page_pays_another_way_and_what_was_left_is_never_taken(
    shopper: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    left, paid = [await pay(shopper, made) for _ in range(2)]
    assert (await shopper.get(f"/payments/{left['id']}")).json()["status"] == "voided"

    async def agree_and_tell(payment: Json) -> None:
        place.approve(payment["providerRef"])
        await abroad.tell(copies=3, dice=random.Random(6))
        await back(shopper, payment)

    await agree_and_tell(left)
    await abroad.settled()
    assert (place.taken(), (await look(shopper, made["id"]))["status"]) == (0, "pending")
    await agree_and_tell(paid)
    assert (place.taken(), (await look(shopper, made["id"]))["status"]) == (500, "confirmed")
    assert place.orders[left["providerRef"]]["status"] == "APPROVED"
    await abroad.books_balance()


@pytest.mark.parametrize("step", ["waiting payment left", "provider voided"])
async def test_who_agrees_while_he_pays_another_way_is_charged_once(
    app: FastAPI,
    shopper: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    place: PayPalsPlace,
    provider: PaymentProvider,
    step: str,
) -> None:
    made = await order(shopper, ("MUG", 1))
    first = await pay(shopper, made)

    async def agreed_after_all(passed: str) -> None:
        order_there = place.orders[first["providerRef"]]
        if passed == step and order_there["status"] == "PAYER_ACTION_REQUIRED":
            place.approve(order_there["id"])
            await abroad.tell()

    app.state.shop = replace(shop, step=agreed_after_all)
    if step == "provider voided":  # too late
        second = await pay(shopper, made)
        place.approve(second["providerRef"])
        await back(shopper, second)
    else:
        refused = await click(shopper, made)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-in-progress")
    await abroad.settled()
    assert (place.taken(), (await look(shopper, made["id"]))["status"]) == (500, "confirmed")
    await abroad.books_balance()


@pytest.mark.parametrize("cut", CUTS)
async def test_wherever_the_line_is_cut_while_a_payment_is_left_the_order_is_payable_afterwards(
    shopper: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace, provider: PaymentProvider, line: Line, cut: Cut
) -> None:
    made = await order(shopper, ("MUG", 1))
    left = await pay(shopper, made)
    await line.break_at(cut)
    refused = await click(shopper, made)
    await line.mend()
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-in-progress")
    await abroad.settled()
    paid = await pay(shopper, made)
    for one in (left, paid):
        place.approve(one["providerRef"])
        await back(shopper, one)
    assert (place.taken(), (await look(shopper, made["id"]))["status"]) == (500, "confirmed")
    await abroad.books_balance()


def _slow_to_look_up(provider: PaymentProvider, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Whoever looks a payment up has asked, and waits for the answer."""
    asked, answers, look_up = asyncio.Event(), asyncio.Event(), provider.look_up

    async def slowly(reference: str, provider_ref: str | None = None) -> Outcome | None:
        asked.set()
        await answers.wait()
        return await look_up(reference, provider_ref)

    monkeypatch.setattr(provider, "look_up", slowly)
    return asked, answers


@pytest.mark.parametrize("capture", ["automatic", "manual"])
async def test_what_somebody_was_just_taking_while_it_was_left_goes_back(
    app: FastAPI,
    shopper: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    place: PayPalsPlace,
    provider: PaymentProvider,
    monkeypatch: pytest.MonkeyPatch,
    capture: str,
) -> None:
    patient = {"payment_capture": capture, "payment_timeout": 60.0}
    app.state.shop = replace(shop, settings=shop.settings.model_copy(update=patient))
    made = await order(shopper, ("MUG", 1))
    left = await pay(shopper, made)
    asked, answers = _slow_to_look_up(provider, monkeypatch)
    looking = asyncio.create_task(back(shopper, left))
    await asked.wait()
    paid = await pay(shopper, made)
    place.approve(left["providerRef"])
    answers.set()
    assert (await looking)["status"] == ("refunded" if capture == "automatic" else "voided")
    place.approve(paid["providerRef"])
    assert (await back(shopper, paid))["status"] == ("succeeded" if capture == "automatic" else "authorized")
    parts = [place.orders[each["providerRef"]]["purchase_units"][0]["payments"] for each in (left, paid)]
    held = [part["status"] for theirs in parts for part in theirs.get("authorizations", ())]
    assert held == ([] if capture == "automatic" else ["VOIDED", "CREATED"])
    assert (await look(shopper, made["id"]))["status"] == "confirmed"
    await abroad.books_balance()


@pytest.mark.usefixtures("by_hand")
async def test_a_hold_that_somebody_was_just_asking_for_when_it_was_left_is_let_go(
    app: FastAPI,
    shopper: httpx.AsyncClient,
    abroad: Abroad,
    place: PayPalsPlace,
    provider: PaymentProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await order(shopper, ("MUG", 1))
    left = await pay(shopper, made)
    asked, answers = _slow_to_look_up(provider, monkeypatch)

    async def held_after_all(step: str) -> None:
        if step == "waiting payment left" and not answers.is_set():
            place.approve(left["providerRef"])
            answers.set()
            assert (await looking)["status"] == "voided"

    looking = asyncio.create_task(back(shopper, left))
    await asked.wait()
    app.state.shop = replace(app.state.shop, step=held_after_all)
    paid = await pay(shopper, made)
    place.approve(paid["providerRef"])
    assert (await back(shopper, paid))["status"] == "authorized"
    assert (await look(shopper, made["id"]))["status"] == "confirmed"
    parts = [place.orders[each["providerRef"]]["purchase_units"][0]["payments"] for each in (left, paid)]
    assert [part["authorizations"][0]["status"] for part in parts] == ["VOIDED", "CREATED"]
    await abroad.books_balance()


async def test_a_payment_that_waits_at_a_provider_that_is_off_is_in_the_way_until_it_is_on_again(
    app: FastAPI, shopper: httpx.AsyncClient, shop: Shop, till: Till, place: PayPalsPlace, provider: PaymentProvider
) -> None:
    made = await order(shopper, ("MUG", 1))
    left = await pay(shopper, made)
    settings = shop.settings.model_copy(update={"payment_providers": ("sandbox",)})
    sandbox = payments.open_providers(settings, shop.stores.pg)
    app.state.providers = sandbox
    body = {"orderId": made["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    refused = await shopper.post("/payments", json=body)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-in-progress")
    assert refused.json()["paymentId"] == left["id"]
    app.state.providers = {"paypal": provider, **sandbox}
    assert (await shopper.post("/payments", json=body)).json()["status"] == "succeeded"
    assert (await shopper.get(f"/payments/{left['id']}")).json()["status"] == "voided"
    assert place.taken() == 0


async def test_a_payment_that_went_through_is_not_let_go_by_whoever_has_just_seen_it_wait(
    shopper: httpx.AsyncClient, shop: Shop, till: Till, place: PayPalsPlace, provider: PaymentProvider
) -> None:
    paid = await pay(shopper, await order(shopper, ("MUG", 1)))
    place.approve(paid["providerRef"])
    assert (await back(shopper, paid))["status"] == "succeeded"
    now = shop.clock.now()
    async with shop.stores.pg.tx() as tx:
        assert await payments.leave(tx, UUID(paid["id"]), ["paypal"], now=now, ask=now) is None
    assert await till.rows("SELECT due FROM payments") == [{"due": None}]


@pytest.mark.parametrize("cut", CUTS)
async def test_wherever_the_line_is_cut_while_the_order_is_made_nobody_is_charged(
    shopper: httpx.AsyncClient,
    abroad: Abroad,
    till: Till,
    place: PayPalsPlace,
    provider: PaymentProvider,
    line: Line,
    cut: Cut,
) -> None:
    await pay(shopper, await order(shopper, ("MUG", 1)))
    made = await order(shopper, ("MUG", 1))
    await line.break_at(cut)
    told = await click(shopper, made)
    await line.mend()
    assert told.status_code == (502 if cut == "unplugged" else 201)
    if cut != "unplugged":
        assert (told.json()["status"], told.json()["redirectUrl"]) == ("pending", None)
        await abroad.settled()
    ours = await till.rows("SELECT status FROM payments WHERE order_id = $1", made["id"])
    assert ours == [{"status": "failed"}]
    assert place.taken() == 0


@pytest.mark.usefixtures("provider")
@pytest.mark.parametrize("signed_in", [True, False])
async def test_a_line_that_nobody_takes_up_is_told_as_such_and_the_same_click_pays_afterwards(
    shopper: httpx.AsyncClient, till: Till, place: PayPalsPlace, line: Line, signed_in: bool
) -> None:
    if signed_in:
        await pay(shopper, await order(shopper, ("MUG", 1)))
    made = await order(shopper, ("MUG", 1))
    await line.break_at("ringing")
    told = await click(shopper, made, "click")
    await line.mend()
    assert (told.status_code, told.json()["type"]) == (502, "/problems/provider-error")
    assert (await click(shopper, made, "click")).status_code == 201


async def test_a_sign_in_that_takes_too_long_asked_for_nothing(
    till: Till, place: PayPalsPlace, provider: PaymentProvider
) -> None:
    charges = [Charge(str(new_id()), 500, "GBP", "paypal", return_url="https://shop.example/") for _ in range(5)]
    place.sign_in_seconds = 10.0
    async with asyncio.timeout(4):  # one after the other they would wait for five seconds
        told = await asyncio.gather(*(provider.authorise(charge) for charge in charges), return_exceptions=True)
    assert {type(each) for each in told} == {ProviderError}
    assert not place.orders


async def test_money_that_was_taken_is_not_told_as_untaken_because_nobody_could_look_afterwards(
    place: PayPalsPlace, provider: PaymentProvider
) -> None:
    charge = Charge(str(new_id()), 500, "GBP", "paypal", capture=False, return_url="https://shop.example/")
    ref = (await provider.authorise(charge)).provider_ref or ""
    place.approve(ref)
    assert (await provider.look_up(charge.reference, ref)).status == "authorized"  # type: ignore[union-attr]
    place.hiding = True
    with pytest.raises(ProviderSilent):
        await provider.capture(Hold(charge.reference, ref, 500, "GBP"))
    place.hiding = False
    assert (await provider.look_up(charge.reference, ref)).status == "succeeded"  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", CUTS)
async def test_wherever_the_line_is_cut_while_the_money_is_taken_it_is_taken_once(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace, line: Line, cut: Cut
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = await pay(shopper, made)
    place.approve(paid["providerRef"])
    await line.break_at(cut)
    assert (await back(shopper, paid))["status"] == "pending"
    await line.mend()
    place.forget_keys()
    await abroad.settled()
    assert place.taken() == 1000
    await line.break_at(cut)
    told = await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 300})
    await line.mend()
    assert told.status_code in (201, 502)
    place.forget_keys()
    await abroad.settled()
    await abroad.books_balance()


@pytest.mark.parametrize("fault", ["latency", "failing"])
async def test_a_paypal_that_is_ill_takes_once(
    app: FastAPI, shopper: httpx.AsyncClient, abroad: Abroad, shop: Shop, place: PayPalsPlace, fault: str
) -> None:
    paid = await pay(shopper, await order(shopper, ("MUG", 1)))
    place.approve(paid["providerRef"])
    if fault == "latency":
        app.state.shop = replace(shop, settings=shop.settings.model_copy(update={"payment_timeout": 1.0}))
    setattr(place, fault, 1.5 if fault == "latency" else True)
    assert (await back(shopper, paid))["status"] == "pending"
    setattr(place, fault, 0)
    await abroad.settled()
    assert place.taken() == 500
    await abroad.books_balance()


@pytest.mark.usefixtures("provider")
async def test_the_worker_signs_in_once_however_often_it_sweeps_and_leaves_no_connection_open(
    shopper: httpx.AsyncClient,
    shop: Shop,
    till: Till,
    place: PayPalsPlace,
    line: Line,
    clock: FixedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "RECOVER_SECONDS", 0.01)
    await pay(shopper, await order(shopper, ("MUG", 1)))
    signed_in, connected = place.tokens_given, line.connected

    async with asyncio.timeout(20):
        sweeping = asyncio.ensure_future(worker.LOOPS["recovery"](shop, NO_LEASE))
        while not await till.rows("SELECT FROM payments WHERE asked > 3"):
            clock.advance(5)
            await asyncio.sleep(0.05)
        assert place.tokens_given == signed_in + 1
        assert line.connected == connected + 1
        sweeping.cancel()
        while line.connected > connected:  # noqa: ASYNC110 — the line tells nobody
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("cut", ["", *CUTS])
async def test_what_is_held_is_taken_let_go_or_lapses(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    till: Till,
    place: PayPalsPlace,
    line: Line,
    cut: Cut,
) -> None:
    captured, cancelled, lapsed = [await order(shopper, ("MUG", pieces)) for pieces in (1, 2, 3)]
    held = []
    for made in (captured, cancelled, lapsed):
        paid = await pay(shopper, made)
        place.approve(paid["providerRef"])
        held.append(await back(shopper, paid))
    assert [payment["status"] for payment in held] == ["authorized"] * 3
    assert place.taken() == 0
    await line.break_at(cut)
    taken = await staff.post(f"/payments/{held[0]['id']}/capture")
    gone = await shopper.post(f"/orders/{cancelled['id']}/cancel")
    await line.mend()
    assert taken.status_code in ((502,) if cut == "unplugged" else (200,)), taken.text
    assert gone.status_code == 200
    if cut == "unplugged":
        taken = await staff.post(f"/payments/{held[0]['id']}/capture")
    await abroad.settled()
    place.lapse(held[2]["providerRef"])
    await abroad.tell(copies=3, dice=random.Random(4))
    assert await till.rows("SELECT status, due FROM payments ORDER BY amount_cents") == [
        {"status": "succeeded", "due": None}, {"status": "voided", "due": None}, {"status": "voided", "due": None},
    ]  # fmt: skip
    assert (await look(shopper, lapsed["id"]))["status"] == "cancelled"
    assert place.taken() == 500
    await abroad.books_balance()


@pytest.mark.usefixtures("by_hand")
async def test_a_hold_of_days_ago_of_which_somebody_took_a_part_is_named_on_the_day_on_which_he_did(
    shopper: httpx.AsyncClient, abroad: Abroad, shop: Shop, place: PayPalsPlace
) -> None:
    paid = await pay(shopper, await order(shopper, ("MUG", 2)))
    place.approve(paid["providerRef"])
    assert (await back(shopper, paid))["status"] == "authorized"
    async with shop.stores.pg.once() as tx:
        await tx.execute("UPDATE payments SET created_at = created_at - interval '4 days'")
    place.take(paid["providerRef"], 600)
    await abroad.tell()
    named = [(each.reference, each.finding) for each in await abroad.differences()]
    assert named == [
        (paid["id"], "is 1000 GBP here, 600 there"), (paid["id"], "is authorized here, succeeded there"),
    ]  # fmt: skip


@pytest.mark.usefixtures("by_hand")
async def test_a_hold_that_could_not_be_taken_once_is_taken_at_the_next_try(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace
) -> None:
    paid = await pay(shopper, await order(shopper, ("MUG", 1)))
    place.approve(paid["providerRef"])
    held = await back(shopper, paid)
    place.declining = True
    assert (await staff.post(f"/payments/{held['id']}/capture")).status_code == 502
    place.declining = False
    taken = await staff.post(f"/payments/{held['id']}/capture")
    assert (taken.status_code, taken.json()["status"]) == (200, "succeeded"), taken.text
    assert place.taken() == 500
    await abroad.books_balance()


@pytest.mark.usefixtures("by_hand")
async def test_a_hold_that_paypal_could_not_take_is_still_one(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace, provider: PaymentProvider
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = await pay(shopper, made)
    place.approve(paid["providerRef"])
    held = await back(shopper, paid)
    place.declining = True
    for _ in range(2):
        declined = await staff.post(f"/payments/{held['id']}/capture")
        assert (declined.status_code, declined.json()["type"]) == (502, "/problems/provider-error")
    await abroad.tell()
    assert (await back(shopper, paid))["status"] == "authorized"
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    await abroad.settled()
    assert [
        part["status"] for part in place.orders[paid["providerRef"]]["purchase_units"][0]["payments"]["authorizations"]
    ] == ["VOIDED"]
    assert place.taken() == 0
    await abroad.books_balance()


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_hold_whose_capture_took_its_time_and_came_to_nothing_ends_with_its_order(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    till: Till,
    place: PayPalsPlace,
    cancelled: bool,
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = await pay(shopper, made)
    place.approve(paid["providerRef"])
    held = await back(shopper, paid)
    place.slow = True
    assert (await staff.post(f"/payments/{held['id']}/capture")).json()["status"] == "authorized"
    if cancelled:
        assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    place.decline(paid["providerRef"])
    await abroad.tell()
    assert (await look(shopper, made["id"]))["status"] == "cancelled"
    await abroad.settled()
    assert await till.rows("SELECT status, due FROM payments") == [{"status": "voided", "due": None}]
    assert place.taken() == 0
    assert await till.shelf("MUG") == (100, 0)
    await abroad.books_balance()


async def test_a_refund_made_by_hand_at_paypal_is_one_of_the_orders(
    shopper: httpx.AsyncClient, abroad: Abroad, shop: Shop, place: PayPalsPlace, provider: PaymentProvider
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = await pay(shopper, made)
    place.approve(paid["providerRef"])
    await back(shopper, paid)
    part = place.refund(paid["providerRef"], "3.00")
    await abroad.tell(copies=3, dice=random.Random(3))
    found = await look(shopper, made["id"])
    assert (found["refundedCents"], found["payments"][0]["refunds"][0]["reason"]) == (300, "elsewhere")
    days = [datetime.now(UTC).date() - timedelta(days=ago) for ago in (1, 0)]
    for day in days:
        compared = payments.Compared()
        assert [d async for d in payments.reconcile(shop.stores.pg, "paypal", provider, day, compared)] == []
    part["custom_id"] = paid["id"]  # as a report may have it
    for day in days:
        compared = payments.Compared()
        assert [d async for d in payments.reconcile(shop.stores.pg, "paypal", provider, day, compared)] == []
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).json()["refundedCents"] == 1000
    assert place.taken() == 0
    await abroad.books_balance()


@pytest.mark.parametrize("outcome", ["RESOLVED_SELLER_FAVOUR", "RESOLVED_BUYER_FAVOUR"])
async def test_a_dispute_at_paypal_stops_the_parcel_until_it_is_lifted(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace, outcome: str
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = await pay(shopper, made)
    place.approve(paid["providerRef"])
    await back(shopper, paid)
    place.dispute(paid["providerRef"], "CREATED")
    await abroad.tell()
    refused = await staff.post(f"/orders/{made['id']}/ship")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-contested")
    assert (refused.json()["paymentId"], refused.json()["reason"]) == (paid["id"], "dispute")
    place.dispute(paid["providerRef"], "RESOLVED", outcome)
    await abroad.tell()
    shipped = await staff.post(f"/orders/{made['id']}/ship")
    assert shipped.status_code == (200 if outcome == "RESOLVED_SELLER_FAVOUR" else 409)


async def test_what_paypal_reverses_stops_the_parcel_until_staff_have_looked(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: PayPalsPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = await pay(shopper, made)
    place.approve(paid["providerRef"])
    await back(shopper, paid)
    place.reverse(paid["providerRef"])
    await abroad.tell(copies=2)
    assert (await staff.post(f"/orders/{made['id']}/ship")).json()["reason"] == "reversal"
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).json()["type"] == "/problems/payment-contested"
    settled = await settle(staff, made, "the bank was wrong")
    assert settled.status_code == 200, settled.text
    assert (await staff.post(f"/orders/{made['id']}/ship")).status_code == 200


async def test_only_what_paypal_says_is_its_own_is_read(
    client: httpx.AsyncClient,
    shopper: httpx.AsyncClient,
    till: Till,
    place: PayPalsPlace,
    provider: PaymentProvider,
    line: Line,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = await pay(shopper, made)
    place.approve(paid["providerRef"])
    body = json.dumps(place.events[-1], indent=1).encode()
    now = clock.now()
    good = place.sign(body, now)

    async def send(headers: dict[str, str], sent: bytes = body) -> int:
        return (await client.post("/webhooks/paypal", content=sent, headers=headers)).status_code

    for name in good:
        if name != "Content-Type":
            assert await send({k: v for k, v in good.items() if k != name}) == 400
    for wrong in (
        {"PayPal-Cert-Url": "https://paypal.com.example.org/cert"},
        {"PayPal-Cert-Url": "http://api.paypal.com/cert"},
        {"PayPal-Cert-Url": "https://notpaypal.com/cert"},
        {"PayPal-Transmission-Sig": "0" * 64},
        {"PayPal-Transmission-Id": "T-0"},
        {"PayPal-Transmission-Time": "yesterday"},
        {"PayPal-Transmission-Time": "2026-01-01T00:00:00"},
        place.sign(body, now - timedelta(days=3, minutes=1)),
    ):
        assert await send(good | wrong) == 400, wrong
    assert await send(good, json.dumps(json.loads(body)).encode()) == 400  # the same JSON, other bytes
    smuggled = body[:-1] + b',"webhook_id":"WH-2"}'
    assert await send(good, smuggled) == 400
    for strange in (b"", b"{", b"[]", b"1", b"{}", b'{"id": 1}', b'{"id":"a","event_type":"b","resource":1}'):
        assert await send(place.sign(strange, now), strange) == 400
    assert (await look(shopper, made["id"]))["status"] == "pending"
    await line.break_at("unplugged")
    assert await send(good) == 502  # it will come again
    await line.mend()
    ignored = json.dumps(json.loads(body) | {"id": "WH-X", "event_type": "CUSTOMER.ACCOUNT.UPDATED"}).encode()
    assert await send(place.sign(ignored, now), ignored) == 200
    assert (await look(shopper, made["id"]))["status"] == "pending"
    assert await send(good) == 200
    assert (await look(shopper, made["id"]))["status"] == "confirmed"


async def test_a_token_is_kept_renewed_before_it_ends_and_drawn_anew_when_it_ended_early(
    till: Till, place: PayPalsPlace, provider: PaymentProvider
) -> None:
    charge = Charge(str(new_id()), 500, "GBP", "paypal", return_url="https://shop.example/")
    await asyncio.gather(*(provider.authorise(charge) for _ in range(8)))
    assert (len(place.orders), place.tokens_given) == (1, 1)
    place.tokens.clear()
    await asyncio.gather(*(provider.authorise(charge) for _ in range(8)))
    assert place.tokens_given == 2
    place.token_seconds = 59
    place.tokens.clear()
    for _ in range(2):
        await provider.authorise(charge)
    assert place.tokens_given > 3


async def test_the_adapter_tells_what_happened_from_what_nobody_knows(
    provider: PaymentProvider, place: PayPalsPlace, line: Line
) -> None:
    charge = Charge(str(new_id()), 500, "GBP", "paypal", return_url="https://shop.example/")
    made = await provider.authorise(charge)
    ref = made.provider_ref or ""
    assert (made.status, made.cents, made.currency) == ("pending", 500, "GBP")
    assert await provider.look_up(charge.reference) is None
    assert await provider.look_up(charge.reference, "ORDER-0") is None
    place.approve(ref)
    assert (await provider.look_up(charge.reference, ref)).status == "succeeded"  # type: ignore[union-attr]
    give = RefundRequest(str(new_id()), charge.reference, ref, 200, "GBP")
    assert await provider.look_up_refund(give) is None
    given = await provider.refund(give)
    assert await provider.refund(give) == await provider.look_up_refund(give) == given
    with pytest.raises(ProviderError):
        await provider.refund(replace(give, reference=str(new_id()), amount_cents=301))
    until = datetime.now(UTC) + timedelta(minutes=1)
    entries = [entry async for entry in provider.entries(until - timedelta(minutes=5), until)]
    assert [(e.kind, e.reference, e.status, e.captured_cents) for e in entries] == [
        ("charge", charge.reference, "succeeded", 500), ("refund", give.reference, "succeeded", 200),
    ]  # fmt: skip
    place.taken_back_as = "T1201"  # a chargeback
    assert [e.kind async for e in provider.entries(until - timedelta(minutes=5), until)] == ["charge", "refund"]
    (part,) = place.orders[ref]["purchase_units"][0]["payments"]["captures"]
    part["amount"] = {"currency_code": "GBP", "value": "3.00"}  # less was taken than the order says
    assert (await provider.look_up(charge.reference, ref)).cents == 300  # type: ignore[union-attr]
    for currency, sent in (("JPY", "700"), ("KWD", "0.700"), ("GBP", "7.00")):
        await provider.authorise(replace(charge, reference=str(new_id()), amount_cents=700, currency=currency))
        assert list(place.orders.values())[-1]["purchase_units"][0]["amount"]["value"] == sent
    await provider.authorise(replace(charge, reference=str(new_id()), amount_cents=700, currency="HUF"))
    with pytest.raises(ProviderError):
        await provider.authorise(replace(charge, reference=str(new_id()), amount_cents=750, currency="HUF"))
    for cut in ("lost", "swallowed", "half"):
        await line.break_at(cut)
        with pytest.raises(ProviderSilent):
            await provider.look_up(charge.reference, ref)
        await line.mend()
    await line.break_at("unplugged")
    with pytest.raises(ProviderError):
        await provider.authorise(replace(charge, reference=str(new_id())))
