"""The shop and Stripe as its documentation says it is: charged once whatever the line does, told by signed events."""

import asyncio
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from abroad import *  # noqa: F403 — its fixtures
from abroad import Abroad
from fastapi import FastAPI
from line import CUTS, Cut, Line
from pydantic import SecretStr
from stops import Killed, dies_at
from stripes_place import KEY, REDIRECTED, SECRETS, SLOW, StripesPlace
from structlog.testing import capture_logs
from till import Json, Till, look, order, settle

from quartet import audit, payments
from quartet.checkout import recover
from quartet.kernel.clock import FixedClock
from quartet.kernel.ids import new_id
from quartet.kernel.settings import Settings
from quartet.payments import Charge, Hold, Moved, Outcome, PaymentProvider, ProviderError, ProviderSilent, RefundRequest
from quartet.payments.providers import signatures
from quartet.web.dependencies import Shop

CARD = "pm_card_visa"


@pytest.fixture
def place() -> StripesPlace:
    return StripesPlace()


@pytest.fixture
def settings(settings: Settings, line: Line) -> Settings:
    return settings.model_copy(
        update={
            "payment_providers": ("stripe",),
            "stripe_secret_key": SecretStr(KEY),
            "stripe_webhook_secrets": tuple(SecretStr(secret) for secret in SECRETS),
            "stripe_api_url": line.url,
            "payment_timeout": 3.0,
        }
    )


async def pay(shopper: httpx.AsyncClient, made: Json, method: str = CARD, key: str | None = None) -> httpx.Response:
    body = {"orderId": made["id"], "provider": "stripe", "paymentMethod": method}
    return await shopper.post("/payments", json=body, headers={"Idempotency-Key": key} if key else {})


async def test_a_card_pays_in_one_request_that_says_what_it_is_for(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = await pay(shopper, made)
    assert (paid.status_code, paid.json()["status"]) == (201, "succeeded"), paid.text
    (intent,) = place.intents.values()
    assert paid.json()["providerRef"] == intent["id"]
    assert (intent["amount"], intent["currency"], intent["metadata"]) == (1000, "gbp", {"reference": paid.json()["id"]})
    assert list(place.answers) == [paid.json()["id"]]
    await abroad.books_balance()


@pytest.mark.parametrize(
    ("method", "code"),
    [("pm_card_chargeDeclined", "generic_decline"), ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds")],
)
async def test_a_declined_card_is_told_with_stripes_reason_and_another_pays(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, method: str, code: str
) -> None:
    made = await order(shopper, ("MUG", 1))
    declined = await pay(shopper, made, method)
    assert (declined.status_code, declined.json()["declineCode"]) == (402, code)
    failed = (await shopper.get(f"/payments/{declined.json()['paymentId']}")).json()
    assert (failed["status"], failed["providerRef"]) == ("failed", next(iter(place.intents)))
    place.lapse(place.intents[failed["providerRef"]])
    await abroad.tell()
    ended = (await shopper.get(f"/payments/{failed['id']}")).json()
    assert (ended["status"], ended["declineCode"]) == ("voided", code)
    assert (await pay(shopper, made)).status_code == 201
    await abroad.books_balance()


async def test_a_method_that_stripe_does_not_know_charges_nothing(
    shopper: httpx.AsyncClient, till: Till, place: StripesPlace, provider: PaymentProvider
) -> None:
    made = await order(shopper, ("MUG", 1))
    refused = await pay(shopper, made, "pm_of_nobody")
    assert (refused.status_code, refused.json()["type"]) == (502, "/problems/provider-error")
    assert place.intents == {}
    assert (await pay(shopper, made)).status_code == 201


async def test_a_buyer_who_must_show_who_he_is_is_sent_there_and_back(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    for well in (True, False):
        made = await order(shopper, ("MUG", 1))
        paid = (await pay(shopper, made, REDIRECTED)).json()
        intent = place.intents[paid["providerRef"]]
        assert paid["status"] == "pending"
        assert paid["redirectUrl"] == intent["next_action"]["redirect_to_url"]["url"]
        assert intent["next_action"]["redirect_to_url"]["return_url"].endswith(f"?payment={paid['id']}")
        assert (await shopper.post(f"/payments/{paid['id']}/refresh")).json()["status"] == "pending"
        place.settle(intent, well=well)
        back = (await shopper.post(f"/payments/{paid['id']}/refresh")).json()
        assert (back["status"], back["redirectUrl"]) == ("succeeded" if well else "failed", None)
        assert (await look(shopper, made["id"]))["status"] == ("confirmed" if well else "pending")
    await abroad.books_balance()


async def test_a_bank_that_takes_days_is_told_by_a_webhook(
    shopper: httpx.AsyncClient, abroad: Abroad, till: Till, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = (await pay(shopper, made, SLOW)).json()
    assert (paid["status"], paid["redirectUrl"]) == ("pending", None)
    place.settle(place.intents[paid["providerRef"]])
    await abroad.tell(copies=10, dice=random.Random(1))
    assert (await look(shopper, made["id"]))["status"] == "confirmed"
    assert (await till.topics(made["id"])).count("order.confirmed") == 1
    await abroad.books_balance()


@pytest.mark.parametrize("cut", CUTS)
async def test_wherever_the_line_is_cut_the_buyer_is_charged_once_or_not_at_all(
    shopper: httpx.AsyncClient, abroad: Abroad, till: Till, place: StripesPlace, line: Line, cut: Cut
) -> None:
    await order(shopper, ("MUG", 1))
    warm = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, warm)).status_code == 201  # a connection is open already
    made = await order(shopper, ("MUG", 2))
    await line.break_at(cut)
    told = await pay(shopper, made, key="click")
    await line.mend()
    if cut == "unplugged":
        assert told.status_code == 502  # it was never asked, so that the same key tries again
        assert (await pay(shopper, made, key="click")).status_code == 201
    else:
        assert (told.status_code, told.json()["status"]) == (201, "pending")
        place.forget_keys()  # nothing hangs on Stripe's memory of keys
        await abroad.settled()
        ours = await till.rows("SELECT status FROM payments WHERE order_id = $1", made["id"])
        assert ours == [{"status": "failed" if cut == "lost" else "succeeded"}]
    assert sum(intent["amount"] == 1000 for intent in place.intents.values()) == (0 if cut == "lost" else 1)
    await abroad.books_balance()


async def test_a_charge_of_a_busy_hour_is_looked_for_first_where_it_must_be(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, line: Line
) -> None:
    made = await order(shopper, ("MUG", 2))
    await line.break_at("swallowed")
    assert (await pay(shopper, made)).json()["status"] == "pending"
    await line.mend()
    place.crowd(250, after=300)
    await abroad.settled()
    assert (await look(shopper, made["id"]))["status"] == "confirmed"
    assert place.listed == 1
    await abroad.books_balance()


async def test_a_busy_hour_is_gone_through_however_long_it_takes_until_a_charge_is_known_to_be_never_sent(
    shopper: httpx.AsyncClient,
    shop: Shop,
    till: Till,
    place: StripesPlace,
    provider: PaymentProvider,
    line: Line,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 2))
    await line.break_at("lost")
    assert (await pay(shopper, made)).json()["status"] == "pending"
    await line.mend()
    place.crowd(450, after=60)
    place.latency = 0.4  # five pages take longer than one call may
    hasty = replace(shop, settings=shop.settings.model_copy(update={"payment_timeout": 1.2}))
    clock.advance(300)
    await recover(hasty, {"stripe": provider})
    told = {"status": "failed", "decline_code": "never_sent"}
    assert await till.rows("SELECT status, decline_code FROM payments") == [told]


@pytest.mark.usefixtures("provider")
async def test_a_line_that_nobody_takes_up_is_told_as_such_and_the_same_click_pays_afterwards(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, line: Line
) -> None:
    made = await order(shopper, ("MUG", 1))
    await line.break_at("ringing")
    told = await pay(shopper, made, key="click")
    await line.mend()
    assert (told.status_code, told.json()["type"]) == (502, "/problems/provider-error")
    assert (await pay(shopper, made, key="click")).status_code == 201
    assert place.taken() == 500
    await abroad.books_balance()


@pytest.mark.parametrize("fault", ["latency", "failing", "busy"])
async def test_a_stripe_that_is_ill_charges_once(
    app: FastAPI, shopper: httpx.AsyncClient, abroad: Abroad, shop: Shop, place: StripesPlace, fault: str
) -> None:
    made = await order(shopper, ("MUG", 1))
    if fault == "latency":
        app.state.shop = replace(shop, settings=shop.settings.model_copy(update={"payment_timeout": 1.0}))
    setattr(place, fault, 1.5 if fault == "latency" else True)
    told = await pay(shopper, made)
    setattr(place, fault, 0)
    assert told.status_code == (502 if fault == "busy" else 201)
    await abroad.settled()
    assert place.taken() == (0 if fault == "busy" else 500)
    await abroad.books_balance()


@pytest.mark.parametrize("cut", CUTS)
async def test_a_refund_over_a_cut_line_is_made_once(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, line: Line, cut: Cut
) -> None:
    made = await order(shopper, ("MUG", 2))
    assert (await pay(shopper, made)).status_code == 201
    await line.break_at(cut)
    told = await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 300})
    await line.mend()
    assert told.status_code == (502 if cut == "unplugged" else 201)
    place.forget_keys()
    await abroad.settled()
    assert [refund["amount"] for refund in place.refunds.values()] == ([] if cut == "unplugged" else [300])
    await abroad.books_balance()


async def test_a_refund_that_takes_days_is_asked_for_until_it_is_there(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    till: Till,
    place: StripesPlace,
    provider: PaymentProvider,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 2))
    assert (await pay(shopper, made)).status_code == 201
    place.async_refunds = True
    told = await staff.post(f"/orders/{made['id']}/refunds", json={})
    assert (told.status_code, told.json()["status"]) == (201, "pending")
    await abroad.settled()
    (refund,) = place.refunds.values()
    refund["status"] = "succeeded"
    clock.advance(3600)
    await recover(shop, {"stripe": provider})
    assert (await till.rows("SELECT status FROM payment_refunds")) == [{"status": "succeeded"}]
    await abroad.books_balance()


async def test_a_refund_that_fails_when_nobody_waits_for_it_any_more_is_named(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, provider: PaymentProvider
) -> None:
    made = await order(shopper, ("MUG", 2))
    assert (await pay(shopper, made)).status_code == 201
    place.declining = True
    assert (await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 200})).status_code == 502
    assert await abroad.differences() == []  # staff know
    place.declining, place.async_refunds = False, True
    told = await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 300})
    assert (told.status_code, told.json()["status"]) == (201, "pending")
    (refund,) = place.refunds.values()
    refund["status"] = "failed"
    await abroad.settled()
    (named,) = await abroad.differences()
    assert (named.reference, named.finding) == (
        told.json()["id"], "300 GBP must go back, and the provider can't: give them otherwise",
    )  # fmt: skip


async def test_a_refund_that_failed_unseen_is_not_named_once_its_request_was_repeated(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    assert (await pay(shopper, made)).status_code == 201

    async def give_back() -> httpx.Response:
        body, headers = {"amountCents": 300}, {"Idempotency-Key": "once"}
        return await staff.post(f"/orders/{made['id']}/refunds", json=body, headers=headers)

    app.state.shop = replace(shop, step=dies_at("refund promised"))
    with pytest.raises(Killed):
        await give_back()
    app.state.shop, place.declining = shop, True
    await abroad.settled()
    assert [named.finding for named in await abroad.differences()] == [
        "300 GBP must go back, and the provider can't: give them otherwise"
    ]
    place.declining = False
    assert (await give_back()).status_code == 201
    assert await abroad.differences() == []  # to give them otherwise as well would be to give them twice
    await abroad.books_balance()
    # A key is another request's once its day is over.
    later = "UPDATE payment_refunds SET created_at = created_at + interval '25 hours' WHERE status = 'succeeded'"
    async with shop.stores.pg.once() as tx:
        await tx.execute(later)
    assert [named.finding.partition(":")[0] for named in await abroad.differences()] == [
        "300 GBP must go back, and the provider can't"
    ]


async def test_a_refund_that_was_given_and_fails_days_later_can_be_given_anew(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, till: Till, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    assert (await pay(shopper, made)).status_code == 201
    body = {"items": [{"sku": "MUG", "qty": 2}], "restock": True}
    given = (await staff.post(f"/orders/{made['id']}/refunds", json=body)).json()
    before = await look(staff, made["id"])
    assert (before["status"], before["refundedCents"], given["status"]) == ("refunded", 1000, "succeeded")
    (refund,) = place.refunds.values()
    place.fail(refund)
    await abroad.tell(copies=3, dice=random.Random(1))

    found = await look(staff, made["id"])
    assert (found["status"], found["refundedCents"]) == ("refunded", 0)
    assert [step["to"] for step in found["history"]] == ["pending", "confirmed", "refunded"]
    assert [(r["amountCents"], r["reason"]) for r in found["refunds"]] == [(1000, "asked"), (-1000, "came back")]
    (paid,) = found["payments"]
    assert (paid["status"], [(r["id"], r["status"]) for r in paid["refunds"]]) == (
        "succeeded", [(given["id"], "failed")]
    )  # fmt: skip
    assert (await till.topics(made["id"])).count("refund.failed") == 1
    (told,) = await till.rows("SELECT payload FROM outbox WHERE topic = 'refund.failed'")
    assert (told["payload"]["refund_id"], told["payload"]["came_back"]) == (given["id"], True)
    (gone,) = await till.rows("SELECT payload FROM outbox WHERE topic = 'order.refunded'")
    assert gone["payload"]["refund_id"] == found["refunds"][0]["id"] == given["id"]  # so one is known by the other
    assert place.taken() == 1000
    await abroad.books_balance()

    again = await staff.post(f"/orders/{made['id']}/refunds", json=body)
    assert (again.status_code, again.json()["status"]) == (201, "succeeded"), again.text
    await abroad.tell(copies=2)
    found = await look(staff, made["id"])
    assert (found["status"], found["refundedCents"], found["history"][-1]["to"]) == ("refunded", 1000, "refunded")
    assert (await till.shelf("MUG"), place.taken()) == ((100, 0), 0)
    await abroad.books_balance()


async def test_a_refund_that_fails_before_it_is_written_down_as_given_stays_failed(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    place: StripesPlace,
    provider: PaymentProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await order(shopper, ("MUG", 2))
    assert (await pay(shopper, made)).status_code == 201
    gives = provider.refund

    async def told_first(asked: RefundRequest) -> Outcome:
        outcome = await gives(asked)
        place.fail(next(iter(place.refunds.values())))
        await abroad.tell()
        return outcome

    monkeypatch.setattr(provider, "refund", told_first)
    told = await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 300})
    assert (told.status_code, told.json()["status"]) == (201, "failed"), told.text
    assert (await look(staff, made["id"]))["refundedCents"] == 0
    await abroad.books_balance()


async def test_staff_see_a_refund_that_failed_only_days_after_it_was_asked_for(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, till: Till, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    assert (await pay(shopper, made)).status_code == 201
    place.async_refunds = True
    given = (await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 300})).json()
    (paid,) = (await look(staff, made["id"]))["payments"]
    assert [(r["id"], r["amountCents"], r["status"]) for r in paid["refunds"]] == [(given["id"], 300, "pending")]
    place.fail(next(iter(place.refunds.values())))
    await abroad.settled()
    (paid,) = (await look(staff, made["id"]))["payments"]
    assert [(r["id"], r["status"]) for r in paid["refunds"]] == [(given["id"], "failed")]
    (told,) = await till.rows("SELECT payload FROM outbox WHERE topic = 'refund.failed'")
    assert (told["payload"]["refund_id"], told["payload"]["amount_cents"], told["payload"]["came_back"]) == (
        given["id"], 300, False
    )  # fmt: skip
    await abroad.books_balance()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_refund_made_by_hand_at_stripe_is_one_of_the_orders(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    place: StripesPlace,
    provider: PaymentProvider,
    fails: bool,
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    refund = place.give_back(place.intents[paid["providerRef"]], 100)
    if fails:
        place.fail(refund)
    await abroad.tell(copies=3, dice=random.Random(5))
    found = await look(staff, made["id"])
    assert (found["status"], found["refundedCents"]) == ("confirmed", 0 if fails else 100)
    await abroad.books_balance()
    for day in (datetime.now(UTC).date() - timedelta(days=ago) for ago in (1, 0)):
        compared = payments.Compared()
        assert [d async for d in payments.reconcile(shop.stores.pg, "stripe", provider, day, compared)] == []
    if not fails:
        assert [(r["amountCents"], r["by"], r["reason"]) for r in found["refunds"]] == [(100, "payments", "elsewhere")]
        over = await staff.post(f"/orders/{made['id']}/refunds", json={"items": [{"sku": "MUG", "qty": 2}]})
        assert (over.status_code, over.json()["refundableCents"]) == (409, 900)
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).json()["refundedCents"] == 1000
    assert place.taken() == 0
    await abroad.books_balance()


async def test_a_refund_made_by_hand_of_a_charge_whose_answer_was_lost_waits_for_it(
    client: httpx.AsyncClient,
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    place: StripesPlace,
    line: Line,
    clock: FixedClock,
) -> None:
    warm = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, warm)).status_code == 201  # a connection is open already
    made = await order(shopper, ("MUG", 2))
    await line.break_at("swallowed")
    assert (await pay(shopper, made)).json()["status"] == "pending"
    await line.mend()
    (intent,) = (each for each in place.intents.values() if each["amount"] == 1000)
    place.events.clear()
    place.give_back(intent, 1000)
    told = list(place.events)
    assert set(await place.deliver(client, clock.now())) == {502}, "to be sent again"
    await abroad.settled()
    place.events = told
    await abroad.tell()
    assert (await look(staff, made["id"]))["status"] == "refunded"
    await abroad.books_balance()


async def test_what_was_given_back_whole_by_hand_is_not_sent(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    place.give_back(place.intents[paid["providerRef"]], 1000)
    await abroad.tell()
    assert (await staff.post(f"/orders/{made['id']}/ship")).json()["from"] == "refunded"
    await abroad.books_balance()


async def test_a_refund_made_by_hand_that_the_books_have_no_room_for_waits_for_staff(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    place.async_refunds = True
    promised = await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 600})
    assert promised.json()["status"] == "pending"
    place.async_refunds = False
    refund = place.give_back(place.intents[paid["providerRef"]], 500)
    await abroad.tell(copies=2)
    (contest,) = (await look(staff, made["id"]))["payments"][0]["contests"]
    assert (contest["reason"], contest["amountCents"], contest["settledAt"]) == ("refund", 500, None)
    assert (await staff.post(f"/orders/{made['id']}/ship")).json()["type"] == "/problems/payment-contested"
    place.fail(refund)
    await abroad.tell(copies=2)
    assert (await staff.post(f"/orders/{made['id']}/ship")).status_code == 200


async def test_a_provider_tells_of_its_own_money_alone_and_of_a_refund_as_it_was_asked_for(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, till: Till, provider: PaymentProvider
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = UUID((await pay(shopper, made)).json()["id"])
    given = UUID((await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 500})).json()["id"])
    ours = Moved("refund", "re_ours", str(paid), str(given), 500, "GBP", undone=True)
    theirs = replace(ours, reference="", cents=200)
    async with shop.stores.pg.read() as read:
        assert await payments.moved(read, "stripe", ours) == (paid, given)
        assert await payments.moved(read, "stripe", theirs) == (paid, None)
        for other in (replace(ours, cents=499), replace(ours, currency="USD")):
            assert await payments.moved(read, "stripe", other) is None
        for told in (ours, theirs):
            assert await payments.moved(read, "paypal", told) is None


async def test_a_refund_by_hand_that_failed_never_was_though_its_failure_is_told_first(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, shop: Shop, clock: FixedClock
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = UUID((await pay(shopper, made)).json()["id"])
    told = Moved("refund", "re_by_hand", str(paid), "", 500, "GBP", undone=False)
    for undone in (True, False, False):
        async with shop.stores.pg.tx() as tx:
            await payments.note_moved(tx, paid, replace(told, undone=undone), clock.now())
    found = await look(staff, made["id"])
    assert (found["refundedCents"], found["payments"][0]["refunds"]) == (0, [])
    assert (await staff.post(f"/orders/{made['id']}/ship")).status_code == 200
    await abroad.books_balance()


async def test_a_refund_by_hand_in_another_currency_is_not_taken_for_the_orders(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    shop: Shop,
    till: Till,
    place: StripesPlace,
    provider: PaymentProvider,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = UUID((await pay(shopper, made)).json()["id"])
    told = Moved("refund", "re_by_hand", str(paid), "", 500, "JPY", undone=False)
    async with shop.stores.pg.tx() as tx:
        await payments.note_moved(tx, paid, told, clock.now())
    found = await look(staff, made["id"])
    (contest,) = found["payments"][0]["contests"]
    assert (found["refundedCents"], contest["reason"], contest["settledAt"]) == (0, "refund", None)


async def test_a_dispute_of_money_that_came_twice_does_not_stop_the_parcel(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    left = (await pay(shopper, made, REDIRECTED)).json()
    assert (await pay(shopper, made)).json()["status"] == "succeeded"
    intent = place.intents[left["providerRef"]]
    place.take(intent, 500)
    await abroad.tell()
    place.dispute(intent, "needs_response")
    await abroad.tell()
    contests = {p["status"]: len(p["contests"]) for p in (await look(staff, made["id"]))["payments"]}
    assert contests == {"refunded": 1, "succeeded": 0}
    assert (await staff.post(f"/orders/{made['id']}/ship")).status_code == 200


@pytest.mark.parametrize("seed", range(4))
async def test_a_dispute_stops_the_parcel_and_every_refund_until_it_is_won(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, till: Till, place: StripesPlace, seed: int
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    intent = place.intents[paid["providerRef"]]
    place.dispute(intent, "warning_needs_response")  # the bank only asks
    place.decide(place.dispute(intent, "needs_response"), "won")
    await abroad.tell(copies=2, dice=random.Random(seed))
    (contest,) = (await look(staff, made["id"]))["payments"][0]["contests"]
    assert contest["settledAt"] is not None

    dispute = place.dispute(intent, "needs_response")
    await abroad.tell(copies=3)
    assert await _told_of(till, dispute["id"]) == [("payment.contested", "dispute")]
    for who, path in ((staff, "ship"), (staff, "refunds"), (shopper, "cancel")):
        refused = await who.post(f"/orders/{made['id']}/{path}")
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-contested"), path
    assert place.refunds == {}
    place.decide(dispute, "won")
    await abroad.tell(copies=3)
    assert await _told_of(till, dispute["id"]) == [("payment.contested", "dispute"), ("payment.settled", "dispute")]
    assert (await staff.post(f"/orders/{made['id']}/ship")).status_code == 200


async def _told_of(till: Till, provider_ref: str) -> list[tuple[str, str]]:
    found = await till.rows(
        "SELECT topic, payload FROM outbox WHERE payload ->> 'provider_ref' = $1 ORDER BY id", provider_ref
    )
    return [(row["topic"], row["payload"]["reason"]) for row in found]


@pytest.mark.usefixtures("by_hand")
async def test_a_hold_that_is_let_go_is_no_refund_whatever_stripe_calls_it(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    held = (await pay(shopper, made)).json()
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    place.give_back(place.intents[held["providerRef"]], held["amountCents"])
    await abroad.tell(copies=2)
    (payment,) = (await look(staff, made["id"]))["payments"]
    assert (payment["status"], payment["refunds"], payment["contests"]) == ("voided", [], [])


@pytest.mark.usefixtures("by_hand")
async def test_what_is_disputed_is_not_captured(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    held = (await pay(shopper, await order(shopper, ("MUG", 1)))).json()
    place.dispute(place.intents[held["providerRef"]], "needs_response")
    await abroad.tell()
    refused = await staff.post(f"/payments/{held['id']}/capture")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-contested")
    assert place.taken() == 0


async def test_a_dispute_that_is_lost_waits_for_staff_who_say_what_they_know(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    abroad: Abroad,
    place: StripesPlace,
    till: Till,
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    place.decide(place.dispute(place.intents[paid["providerRef"]], "needs_response"), "lost")
    await abroad.tell(copies=2)
    assert (await staff.post(f"/orders/{made['id']}/ship")).status_code == 409
    mine = {"note": "mine", "contests": []}
    assert (await shopper.post(f"/payments/{paid['id']}/settle", json=mine)).status_code == 403
    seen = {"note": "paid by transfer", "contests": [place.disputes[0]["id"]]}
    assert (await staff.post(f"/payments/{paid['id']}/settle", json={"note": "what?"})).status_code == 422
    for _ in range(2):
        settled = await staff.post(f"/payments/{paid['id']}/settle", json=seen)
        assert (settled.status_code, settled.json()["id"]) == (200, paid["id"])
    assert (await staff.post(f"/payments/{new_id()}/settle", json=seen)).status_code == 404
    log = (await admin.get("/audit-log", params={"action": "payment.settle"})).json()["items"]
    assert [entry["after"]["note"] for entry in log] == ["paid by transfer"]
    place.decide(place.disputes[0], "lost")  # told late, once more
    await abroad.tell()
    topics = [topic for topic, _ in await _told_of(till, place.disputes[0]["id"])]
    assert topics == ["payment.contested", "payment.settled"]
    assert (await staff.post(f"/orders/{made['id']}/ship")).status_code == 200


@pytest.mark.parametrize("cents", [1000, 400])
async def test_what_is_given_by_hand_in_place_of_a_promise_that_stripe_refuses_ends_the_promise(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, cents: int
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    place.declining = True
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).json()["refundedCents"] == 0
    place.give_back(place.intents[paid["providerRef"]], cents)
    await abroad.tell(copies=2)
    place.declining = False
    assert (await settle(staff, made, "given by hand")).json()["refundedCents"] == cents
    await abroad.settled()
    found = await look(staff, made["id"])
    assert (found["status"], found["refundedCents"], place.taken()) == ("cancelled", 1000, 0)
    refunds = {(r["reason"], r["amountCents"], r["status"]) for r in found["payments"][0]["refunds"]}
    rest = {("cancelled", 1000 - cents, "succeeded")} if cents < 1000 else set()
    assert refunds == {("cancelled", 1000, "failed"), ("elsewhere", cents, "succeeded")} | rest
    await abroad.books_balance()
    assert await abroad.differences() == []
    assert (await shopper.request("DELETE", "/users/me", json={})).status_code == 204


async def test_a_refund_by_hand_counts_as_soon_as_there_is_room(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    place.async_refunds = True
    await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 600})
    (ours,) = place.refunds.values()
    place.async_refunds = False
    place.give_back(place.intents[paid["providerRef"]], 500)
    await abroad.tell(copies=2)
    refused = await shopper.post(f"/orders/{made['id']}/cancel")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-contested")
    place.fail(ours)
    await abroad.tell(copies=2)
    await abroad.settled()
    assert (await look(shopper, made["id"]))["refundedCents"] == 500
    await abroad.books_balance()
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).json()["refundedCents"] == 1000
    assert place.taken() == 0
    await abroad.books_balance()


async def test_a_refund_by_hand_in_another_currency_waits_for_staff(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    place: StripesPlace,
    clock: FixedClock,
) -> None:
    """How much of the payment it takes nobody knows."""
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    assert (await staff.post(f"/orders/{made['id']}/refunds", json={})).status_code == 201
    told = Moved("refund", "re_of_euros", paid["providerRef"], "", 500, "EUR", undone=False)
    async with shop.stores.pg.tx() as tx:
        await payments.note_moved(tx, UUID(paid["id"]), told, clock.now())
    (ours,) = place.refunds.values()
    place.fail(ours)
    await abroad.tell(copies=2)
    found = await look(staff, made["id"])
    (contest,) = found["payments"][0]["contests"]
    assert (found["refundedCents"], contest["settledAt"]) == (0, None)


async def test_staff_who_settle_while_a_refund_is_on_its_way_ask_anew_for_what_is_left_of_it(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    place.failing = place.declining = True
    promised = await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 600})
    assert promised.json()["status"] == "pending", promised.text
    place.failing = place.declining = False
    place.give_back(place.intents[paid["providerRef"]], 500)
    await abroad.tell()
    assert (await settle(staff, made, "500 of it went by hand")).json()["refundedCents"] == 500
    await abroad.settled()
    refunds = (await look(staff, made["id"]))["payments"][0]["refunds"]
    assert {(r["reason"], r["status"]) for r in refunds} == {("asked", "failed"), ("elsewhere", "succeeded")}
    await abroad.books_balance()
    assert (await staff.post(f"/orders/{made['id']}/refunds", json={})).json()["amountCents"] == 500
    await abroad.books_balance()


@pytest.mark.parametrize("won", [False, True])
async def test_what_a_bank_took_for_good_is_not_given_back_again(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, shop: Shop, place: StripesPlace, won: bool
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    dispute = place.dispute(place.intents[paid["providerRef"]], "needs_response")
    place.decide(dispute, "lost")
    await abroad.tell()
    assert (await settle(staff, made, "lost", moneyGone=True)).json()["refundedCents"] == 1000
    refused = await shopper.post(f"/orders/{made['id']}/cancel")
    assert (refused.status_code, refused.json()["from"]) == (409, "refunded")
    await abroad.settled()
    assert place.refunds == {}
    assert (await audit.check(shop, patience=0)).violations == ()
    assert await abroad.differences() == []
    if won:  # the bank thinks better of it
        place.decide(dispute, "won")
        await abroad.tell()
        await abroad.books_balance()


async def test_of_what_a_bank_took_only_the_rest_counts_beside_what_was_given_by_hand(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, clock: FixedClock
) -> None:
    made = await order(shopper, ("MUG", 2))
    intent = place.intents[(await pay(shopper, made)).json()["providerRef"]]
    place.async_refunds = True
    await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 600})
    place.async_refunds = False
    place.dispute(intent, "needs_response")
    await abroad.tell()
    clock.advance(1)
    place.give_back(intent, 450)
    await abroad.tell()
    assert (await settle(staff, made, "all of it is gone", moneyGone=True)).json()["refundedCents"] == 1000
    refunds = (await look(staff, made["id"]))["payments"][0]["refunds"]
    assert sorted((r["reason"], r["amountCents"], r["status"]) for r in refunds) == [
        ("asked", 600, "failed"), ("elsewhere", 450, "succeeded"), ("elsewhere", 550, "succeeded"),
    ]  # fmt: skip


async def test_nobody_settles_what_came_after_the_look(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    intent = place.intents[paid["providerRef"]]
    first, second = place.dispute(intent, "needs_response"), place.dispute(intent, "needs_response")
    await abroad.tell()
    seen = {"note": "a mistake", "contests": [first["id"]]}
    refused = await staff.post(f"/payments/{paid['id']}/settle", json=seen)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-contested")
    contests = (await look(staff, made["id"]))["payments"][0]["contests"]
    assert {c["providerRef"]: c["settledAt"] for c in contests} == {first["id"]: None, second["id"]: None}
    assert (await settle(staff, made, "both a mistake")).status_code == 200
    assert (await staff.post(f"/orders/{made['id']}/ship")).status_code == 200


@pytest.mark.parametrize(
    ("stands", "events"),
    [
        ("has room", "given"), ("contested", "given"), ("settled", "given"), ("has room", "given back"),
        ("contested", "given back"), ("has room", "back"), ("has room", "back given"),
    ],
)  # fmt: skip
async def test_a_refund_of_ours_that_is_told_without_our_name_before_its_answer_is_booked_once(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    till: Till,
    place: StripesPlace,
    clock: FixedClock,
    stands: str,
    events: str,
) -> None:
    """Once, or not at all where it is told to be back."""
    made = await order(shopper, ("MUG", 2))
    paid = UUID((await pay(shopper, made)).json()["id"])
    place.async_refunds = True
    pieces = 1 if stands == "has room" else 2
    given = {"items": [{"sku": "MUG", "qty": pieces}], "restock": True}
    asked = await staff.post(f"/orders/{made['id']}/refunds", json=given)
    (refund,) = place.refunds.values()
    told = Moved("refund", refund["id"], str(paid), "", refund["amount"], "GBP", undone=False)
    for event in events.split():
        async with shop.stores.pg.tx() as tx:
            await payments.note_moved(tx, paid, replace(told, undone=event == "back"), clock.now())
    is_back = "back" in events
    refund["status"] = "failed" if is_back else "succeeded"
    if stands == "settled":
        assert (await settle(staff, made, "went by hand")).json()["refundedCents"] == 1000
    async with shop.stores.pg.tx() as tx:
        await payments.complete_refund(tx, UUID(asked.json()["id"]), "succeeded", refund["id"], clock.now())
    found = await look(staff, made["id"])
    (payment,) = found["payments"]
    assert [(r["reason"], r["status"]) for r in payment["refunds"]] == [("asked", "failed" if is_back else "succeeded")]
    assert [contest for contest in payment["contests"] if contest["settledAt"] is None] == []
    pieces_back = 0 if is_back else pieces
    assert (await till.shelf("MUG"), found["refundedCents"]) == ((98 + pieces_back, 0), 500 * pieces_back)
    await abroad.books_balance()


@pytest.mark.parametrize("told", ["in turn", "the other way round", "at once"])
async def test_money_that_came_too_late_and_whose_refund_came_back_is_given_by_hand(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    till: Till,
    place: StripesPlace,
    told: str,
) -> None:
    """In whatever order it is told: until the refund is known to be back, the other is one too many."""
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made, SLOW)).json()
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    intent = place.intents[paid["providerRef"]]
    place.settle(intent)
    await abroad.tell()
    await abroad.settled()
    (ours,) = place.refunds.values()
    place.fail(ours)
    is_back, place.events = place.events, []
    by_hand = place.give_back(intent, 1000)
    went_by_hand, place.events = place.events, []
    turns = [is_back, went_by_hand]
    for events in {"in turn": turns, "the other way round": turns[::-1], "at once": [is_back + went_by_hand]}[told]:
        place.events = events
        await abroad.tell(copies=2)
    (payment,) = (await look(staff, made["id"]))["payments"]
    assert {(r["reason"], r["status"]) for r in payment["refunds"]} == {("late", "failed"), ("elsewhere", "succeeded")}
    assert [contest for contest in payment["contests"] if contest["settledAt"] is None] == []
    await abroad.books_balance()
    assert await abroad.differences() == []
    place.fail(by_hand)
    await abroad.tell(copies=2)
    assert (await audit.check(shop, patience=0)).violations == ()
    assert [row["refunded_cents"] for row in await till.rows("SELECT refunded_cents FROM payments")] == [0]


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("cut", ["", *CUTS])
async def test_a_capture_and_a_cancellation_over_a_cut_line(
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    till: Till,
    place: StripesPlace,
    line: Line,
    cut: Cut,
) -> None:
    captured, cancelled = [await order(shopper, ("MUG", pieces)) for pieces in (1, 2)]
    held = [(await pay(shopper, made)).json() for made in (captured, cancelled)]
    assert [payment["status"] for payment in held] == ["authorized", "authorized"]
    assert place.taken() == 0
    await line.break_at(cut)
    taken = await staff.post(f"/payments/{held[0]['id']}/capture")
    gone = await shopper.post(f"/orders/{cancelled['id']}/cancel")
    await line.mend()
    assert (taken.status_code, gone.status_code) == (502 if cut == "unplugged" else 200, 200)
    if cut == "unplugged":
        taken = await staff.post(f"/payments/{held[0]['id']}/capture")
    await abroad.settled()
    assert [intent["status"] for intent in place.intents.values()] == ["succeeded", "canceled"]
    assert await till.rows("SELECT status, due FROM payments ORDER BY amount_cents") == [
        {"status": "succeeded", "due": None}, {"status": "voided", "due": None},
    ]  # fmt: skip
    await abroad.books_balance()


@pytest.mark.usefixtures("by_hand")
async def test_what_the_cards_bank_refuses_is_told_and_can_be_asked_for_again(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, provider: PaymentProvider
) -> None:
    made = await order(shopper, ("MUG", 2))
    held = (await pay(shopper, made)).json()
    for call, done in ((f"/payments/{held['id']}/capture", 200), (f"/orders/{made['id']}/refunds", 201)):
        place.declining = True
        refused = await staff.post(call, headers={"Idempotency-Key": call})
        assert (refused.status_code, refused.json()["type"]) == (502, "/problems/provider-error"), refused.text
        place.declining = False
        again = await staff.post(call, headers={"Idempotency-Key": call})
        assert (again.status_code, again.json()["status"]) == (done, "succeeded"), again.text
    await abroad.books_balance()


@pytest.mark.usefixtures("by_hand")
async def test_a_capture_of_less_made_at_stripe_is_not_taken_for_the_whole(
    client: httpx.AsyncClient,
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    abroad: Abroad,
    till: Till,
    place: StripesPlace,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 2))
    held = (await pay(shopper, made)).json()
    place.take(place.intents[held["providerRef"]], 600)
    assert await place.deliver(client, clock.now()) == [200, 200]
    assert (await staff.post(f"/payments/{held['id']}/capture")).json()["status"] == "authorized"
    await abroad.settled()
    assert (await staff.post(f"/orders/{made['id']}/ship")).status_code == 409
    assert await till.rows("SELECT captured_cents FROM orders") == [{"captured_cents": 0}]
    assert (await shopper.post(f"/payments/{held['id']}/refresh")).json()["status"] == "authorized"
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    await abroad.settled()
    assert await till.rows("SELECT status, due FROM payments") == [{"status": "voided", "due": "void"}]  # and told
    assert [each.finding for each in await abroad.differences()] == ["is voided here, succeeded there"]


@pytest.mark.usefixtures("by_hand")
async def test_a_hold_that_lapses_at_stripe_cancels_its_order_in_whatever_order_it_is_told(
    shopper: httpx.AsyncClient, abroad: Abroad, till: Till, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = (await pay(shopper, made)).json()
    place.lapse(place.intents[paid["providerRef"]])
    await abroad.tell(copies=10, dice=random.Random(3))
    seen = await look(shopper, made["id"])
    assert (seen["status"], seen["payments"][0]["status"]) == ("cancelled", "voided")
    assert await till.shelf("MUG") == (100, 0)
    await abroad.books_balance()


async def test_an_intent_whose_order_expired_is_ended_so_that_nobody_can_pay_it_any_more(
    shopper: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    till: Till,
    place: StripesPlace,
    provider: PaymentProvider,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 1))
    await pay(shopper, made, REDIRECTED)
    clock.advance(shop.settings.order_hold_seconds + 60)
    await recover(shop, {"stripe": provider})
    await abroad.settled()
    assert [intent["status"] for intent in place.intents.values()] == ["canceled"]
    assert await till.rows("SELECT status FROM payments") == [{"status": "voided"}]


@pytest.mark.parametrize("key", [None, "click"])
async def test_who_leaves_the_banks_page_pays_by_another_card(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, key: str | None
) -> None:
    made = await order(shopper, ("MUG", 1))
    left = (await pay(shopper, made, REDIRECTED, key="first")).json()
    paid = await pay(shopper, made, key=key)
    assert (paid.status_code, paid.json()["status"]) == (201, "succeeded"), paid.text
    assert [intent["status"] for intent in place.intents.values()] == ["canceled", "succeeded"]
    assert (await shopper.get(f"/payments/{left['id']}")).json()["status"] == "voided"
    assert (await pay(shopper, made, REDIRECTED, key="first")).json() == left  # its first answer
    if key is not None:
        assert (await pay(shopper, made, key=key)).content == paid.content
    place.take(place.intents[left["providerRef"]], 500)  # whatever Stripe says, money that comes twice goes back
    await abroad.tell(copies=4, dice=random.Random(5))
    assert (await shopper.get(f"/payments/{left['id']}")).json()["status"] == "refunded"
    assert place.taken() == 500
    await abroad.books_balance()


async def test_a_payment_that_succeeded_at_the_banks_page_is_not_made_again(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    first = (await pay(shopper, made, REDIRECTED)).json()
    place.settle(place.intents[first["providerRef"]])
    again = await pay(shopper, made)
    assert (again.status_code, again.json()["type"]) == (409, "/problems/order-not-payable")
    seen = await look(shopper, made["id"])
    assert (seen["status"], [payment["id"] for payment in seen["payments"]]) == ("confirmed", [first["id"]])
    await abroad.books_balance()


@pytest.mark.parametrize("cut", CUTS)
async def test_a_payment_that_nobody_can_say_was_let_go_stays_in_the_way_until_somebody_can(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace, line: Line, cut: Cut
) -> None:
    made = await order(shopper, ("MUG", 1))
    first = (await pay(shopper, made, REDIRECTED)).json()
    await line.break_at(cut)
    refused = await pay(shopper, made)
    await line.mend()
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-in-progress")
    assert refused.json()["paymentId"] == first["id"]
    await abroad.settled()
    assert (await pay(shopper, made)).json()["status"] == "succeeded"
    assert [intent["status"] for intent in place.intents.values()] == ["canceled", "succeeded"]
    await abroad.books_balance()


async def test_a_payment_that_stripe_does_not_cancel_now_is_to_be_cancelled_once_each_time(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    await pay(shopper, made, REDIRECTED)
    place.keeping = True
    refused = await pay(shopper, made)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/payment-in-progress")
    assert place.to_cancel == 1
    abroad.clock.advance(60)
    await recover(abroad.shop, {"stripe": abroad.provider})
    assert place.to_cancel == 2
    place.keeping = False
    await abroad.settled()
    assert (await pay(shopper, made)).json()["status"] == "succeeded"
    assert [intent["status"] for intent in place.intents.values()] == ["canceled", "succeeded"]
    await abroad.books_balance()


async def test_of_two_who_pay_another_way_at_once_one_does(
    app: FastAPI, shopper: httpx.AsyncClient, abroad: Abroad, shop: Shop, place: StripesPlace
) -> None:
    both = asyncio.Barrier(2)

    async def together(step: str) -> None:
        if step == "waiting payment left":
            await both.wait()

    made = await order(shopper, ("MUG", 1))
    await pay(shopper, made, REDIRECTED)
    app.state.shop = replace(shop, step=together)
    ends = await asyncio.gather(*(pay(shopper, made, key=key) for key in ("one", None)))
    assert sorted(end.status_code for end in ends) == [201, 409]
    assert [intent["status"] for intent in place.intents.values()] == ["canceled", "succeeded"]
    await abroad.books_balance()


@pytest.mark.usefixtures("by_hand")
async def test_a_hold_that_comes_while_its_buyer_pays_another_way_is_let_go(
    app: FastAPI, shopper: httpx.AsyncClient, abroad: Abroad, till: Till, place: StripesPlace
) -> None:
    made = await order(shopper, ("MUG", 1))
    first = (await pay(shopper, made, REDIRECTED)).json()
    await abroad.tell()  # that he waits: told beside the other it would have the payment let go before that comes

    async def shown_after_all(step: str) -> None:
        if step == "waiting payment left":
            place.settle(place.intents[first["providerRef"]])
            await abroad.tell()

    app.state.shop = replace(app.state.shop, step=shown_after_all)
    assert (await pay(shopper, made)).json()["status"] == "authorized"
    seen = await look(shopper, made["id"])
    assert (seen["status"], sorted(payment["status"] for payment in seen["payments"])) == (
        "confirmed", ["authorized", "voided"],
    )  # fmt: skip
    assert [intent["status"] for intent in place.intents.values()] == ["canceled", "requires_capture"]
    assert "payment.returned" not in await till.topics(made["id"])
    await abroad.books_balance()


async def test_only_what_stripe_signed_just_now_is_read(
    client: httpx.AsyncClient,
    shopper: httpx.AsyncClient,
    till: Till,
    place: StripesPlace,
    provider: PaymentProvider,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 1))
    paid = (await pay(shopper, made, SLOW)).json()
    place.settle(place.intents[paid["providerRef"]])
    body = json.dumps(place.events[-1], indent=2).encode()
    now = clock.now()
    old, new = (signatures.sign(body, secret, now) for secret in SECRETS)
    at, _, mac = new.partition(",")

    async def send(signature: str, sent: bytes = body) -> int:
        headers = {"Stripe-Signature": signature} if signature else {}
        return (await client.post("/webhooks/stripe", content=sent, headers=headers)).status_code

    for bad in (
        "", at, mac, "t=,v1=", f"t=x,{mac}", f"t={'9' * 30},{mac}", new[:-1], new.replace("v1", "v0"),
        signatures.sign(body, "whsec_of_nobody", now),
        *(signatures.sign(body, SECRETS[1], now + timedelta(seconds=s)) for s in (-301, 301)),
    ):  # fmt: skip
        assert await send(bad) == 400, bad
    assert await send(new, json.dumps(json.loads(body)).encode()) == 400  # the same JSON, other bytes
    assert (await look(shopper, made["id"]))["status"] == "pending"
    assert await send(f"{at},v1={'0' * 64},{mac}") == 200
    assert (await look(shopper, made["id"]))["status"] == "confirmed"
    assert await send(old) == 200  # while the secret is being replaced both are good

    for strange in (b"", b"{", b"[]", b"1", b"{}", b'{"id": 1, "type": "payment_intent.succeeded"}',
                    b'{"id": "e", "type": "payment_intent.succeeded", "data": {"object": {"id": "pi_"}}}'):  # fmt: skip
        assert await send(signatures.sign(strange, SECRETS[1], now), strange) == 400
    event: dict[str, Any] = json.loads(body)
    for ignored in (
        event | {"id": "evt_a", "type": "charge.dispute.created"},
        event | {"id": "evt_b", "data": {"object": event["data"]["object"] | {"metadata": {}}}},
        event | {"id": "evt_c", "data": {"object": event["data"]["object"] | {"amount": 1, "amount_received": 1}}},
    ):
        sent = json.dumps(ignored).encode()
        assert await send(signatures.sign(sent, SECRETS[1], now), sent) == 200
    assert [row["event_id"] for row in await till.rows("SELECT event_id FROM webhook_events")] == [event["id"]]


async def test_the_adapter_tells_what_happened_from_what_nobody_knows(
    provider: PaymentProvider, place: StripesPlace, line: Line
) -> None:
    charge = Charge(str(new_id()), 500, "GBP", CARD, capture=False, return_url="https://shop.example/")
    held = await provider.authorise(charge)
    assert held == Outcome("pi_1", "authorized", cents=500, currency="GBP")
    assert await provider.authorise(charge) == held
    assert await provider.look_up(charge.reference) == held
    assert await provider.look_up(str(new_id())) is None
    hold = Hold(charge.reference, "pi_1", 500, "GBP")
    unnamed = Hold(charge.reference, charge.reference, 500, "GBP")
    assert (await provider.capture(unnamed)).status == "succeeded"
    assert (await provider.capture(hold)).status == (await provider.void(hold)).status == "succeeded"
    back = RefundRequest(str(new_id()), charge.reference, "pi_1", 200, "GBP")
    assert await provider.look_up_refund(back) is None
    given = await provider.refund(back)
    assert await provider.refund(back) == await provider.look_up_refund(back) == given
    with pytest.raises(ProviderError):
        await provider.refund(replace(back, reference=str(new_id()), amount_cents=301))
    with pytest.raises(ProviderSilent):  # another request under the same key
        await provider.refund(replace(back, amount_cents=100))
    until = datetime.now(UTC) + timedelta(minutes=1)
    entries = [entry async for entry in provider.entries(until - timedelta(minutes=5), until)]
    assert [(e.kind, e.reference, e.status, e.captured_cents) for e in entries] == [
        ("charge", charge.reference, "succeeded", 500), ("refund", back.reference, "succeeded", 200),
    ]  # fmt: skip
    await line.break_at("unplugged")
    with pytest.raises(ProviderError):
        await provider.authorise(replace(charge, reference=str(new_id())))
    for cut in ("lost", "swallowed", "half"):
        await line.mend()
        await line.break_at(cut)
        with pytest.raises(ProviderSilent):
            await provider.look_up(charge.reference)


async def test_what_a_bank_takes_back_is_named_when_books_are_compared(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    for status in ("needs_response", "won", "warning_needs_response"):
        paid = (await pay(shopper, await order(shopper, ("MUG", 1)))).json()
        place.dispute(place.intents[paid["providerRef"]], status)
    (disputed, _, asked_about) = place.disputes

    async def named() -> list[str]:
        found = await abroad.differences()
        assert {each.finding for each in found} == {"500 GBP succeeded there, unknown here"}
        return [each.provider_ref for each in found]

    assert await named() == [disputed["id"]]
    asked_about["status"] = "lost"  # weeks later, and still of the day on which the bank asked
    assert await named() == [asked_about["id"], disputed["id"]]


async def test_a_charge_that_stripe_knows_no_more_is_named_and_keeps_no_other_from_being_compared(
    shopper: httpx.AsyncClient, abroad: Abroad, place: StripesPlace
) -> None:
    gone, cheap = [(await pay(shopper, await order(shopper, ("MUG", 1)))).json() for _ in range(2)]
    del place.intents[gone["providerRef"]]
    place.intents[cheap["providerRef"]] |= {"amount": 499, "amount_received": 499}
    named = {each.reference: each.finding for each in await abroad.differences()}
    assert named.pop(gone["id"]).startswith("500 GBP succeeded here, can't be looked up there: Stripe refuses")
    assert named == {cheap["id"]: "is 500 GBP here, 499 there"}


async def test_money_that_is_owed_and_refused_again_and_again_is_told_and_named(
    shopper: httpx.AsyncClient,
    abroad: Abroad,
    shop: Shop,
    place: StripesPlace,
    provider: PaymentProvider,
    clock: FixedClock,
) -> None:
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made)).json()
    place.give_back(place.intents[paid["providerRef"]], 100)  # so that the whole can't go back any more
    await shopper.post(f"/orders/{made['id']}/cancel")
    refused: list[str] = []
    with capture_logs() as said:
        while len(refused) < 12:
            clock.advance(3600)
            await recover(shop, {"stripe": provider})
            refused = [each["log_level"] for each in said if each["event"] == "refund failed, to be tried again"]
    assert refused == ["warning"] * 8 + ["error"] * 4
    named = {each.finding for each in await abroad.differences()}
    assert named == {"100 GBP succeeded there, unknown here", "1000 GBP pending here, unknown there"}


async def test_currencies_whose_smallest_unit_stripe_counts_otherwise(
    provider: PaymentProvider, place: StripesPlace
) -> None:
    for currency, sent in (("JPY", 700), ("ISK", 70_000), ("KWD", 700), ("MGA", 7)):
        made = await provider.authorise(Charge(str(new_id()), 700, currency, CARD, return_url="https://shop.example/"))
        assert (made.cents, made.currency) == (700, currency)
        assert list(place.intents.values())[-1]["amount"] == sent
    for currency in ("KWD", "MGA"):
        with pytest.raises(ProviderError, match="no such sum"):
            await provider.authorise(Charge(str(new_id()), 705, currency, CARD, return_url="https://shop.example/"))


async def test_many_intents_are_gone_through_page_by_page(provider: PaymentProvider, place: StripesPlace) -> None:
    charges = [Charge(str(new_id()), 500, "GBP", CARD, return_url="https://shop.example/") for _ in range(130)]
    for some in range(0, 130, 26):
        await asyncio.gather(*(provider.authorise(charge) for charge in charges[some : some + 26]))
    assert await provider.look_up(charges[0].reference) is not None
    until = datetime.now(UTC) + timedelta(minutes=1)
    found = [entry.reference async for entry in provider.entries(until - timedelta(minutes=5), until)]
    assert sorted(found) == sorted(charge.reference for charge in charges)


def test_a_provider_that_is_on_without_its_keys_says_which_are_missing() -> None:
    bare = Settings(_env_file=None, payment_providers=("stripe", "sandbox"))
    with pytest.raises(ValueError, match=r"QUARTET_STRIPE_SECRET_KEY is not set.*QUARTET_STRIPE_WEBHOOK_SECRETS"):
        payments.check_providers(bare)
    with pytest.raises(ValueError, match="QUARTET_STRIPE_WEBHOOK_SECRETS"):
        payments.check_providers(bare.model_copy(update={"stripe_secret_key": SecretStr("sk_1")}))
