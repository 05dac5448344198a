"""Money that is held first and taken when the goods are sent: captured, let go, or lapsed."""

import asyncio
import random

import httpx
import pytest
from fastapi import FastAPI
from stopped_clock import *  # noqa: F403 — its fixtures
from till import Json, Till, look, order, pay, sign_anew

from conftest import SEED
from quartet import audit, notify
from quartet.checkout import recover
from quartet.kernel.clock import FixedClock
from quartet.kernel.settings import Settings
from quartet.payments import Charge, Hold, Outcome, ProviderError, ProviderSilent
from quartet.payments.providers.sandbox import SIGNATURE, Faults, Sandbox
from quartet.sync.relay import relay
from quartet.web.dependencies import Shop


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A shop that captures by hand, and nobody at its address."""
    return settings.model_copy(
        update={"payment_capture": "manual", "sandbox_async_seconds": 0.2, "base_url": "http://127.0.0.1:1"}
    )


@pytest.fixture
def faults() -> Faults:
    return Faults(random.Random(7))


@pytest.fixture
def sandbox(app: FastAPI, shop: Shop, faults: Faults) -> Sandbox:
    """The shop's provider."""
    sandbox = Sandbox(shop.settings, shop.stores.pg, faults)
    app.state.providers = {"sandbox": sandbox}
    return sandbox


async def _held(shopper: httpx.AsyncClient, till: Till, pieces: int = 2) -> tuple[Json, Json]:
    """An order whose money is held, and that payment."""
    made = await order(shopper, ("MUG", pieces))
    paid = await pay(shopper, made["id"])
    assert (paid.status_code, paid.json()["status"]) == (201, "authorized"), paid.text
    assert await till.charged(made["id"]) == 0
    return made, paid.json()


async def _books_balance(shop: Shop) -> None:
    assert (await audit.check(shop, patience=0)).violations == ()


async def _lapse(till: Till, payment: Json) -> None:
    """The bank holds the money no longer."""
    sql = "UPDATE sandbox.charges SET lapses_at = clock_timestamp() WHERE reference = $1 RETURNING id"
    assert await till.rows(sql, payment["id"])


async def test_what_is_held_is_sold_and_sent_only_when_it_is_captured(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made, payment = await _held(shopper, till)
    seen = await look(shopper, made["id"])
    assert (seen["status"], seen["history"][-1]["reason"]) == ("confirmed", "authorized")
    assert await till.shelf("MUG") == (3, 0)
    assert (await pay(shopper, made["id"])).status_code == 409
    await _books_balance(shop)

    early = await staff.post(f"/orders/{made['id']}/ship")
    assert (early.status_code, early.json()["type"]) == (409, "/problems/payment-not-captured")
    assert (await staff.post(f"/orders/{made['id']}/refunds", json={})).status_code == 409  # nothing was taken

    assert (await shopper.post(f"/payments/{payment['id']}/capture")).status_code == 403
    key = {"Idempotency-Key": "capture"}
    taken = await staff.post(f"/payments/{payment['id']}/capture", headers=key)
    assert (taken.status_code, taken.json()["status"]) == (200, "succeeded"), taken.text
    again = await staff.post(f"/payments/{payment['id']}/capture", headers=key)
    assert (again.content, again.headers["idempotent-replayed"]) == (taken.content, "true")
    twice = await staff.post(f"/payments/{payment['id']}/capture")
    assert (twice.status_code, twice.json()["type"]) == (409, "/problems/nothing-to-capture")
    assert twice.json()["paymentStatus"] == "succeeded"
    assert await till.charged(made["id"]) == 1000

    for path, status in (("ship", 200), ("deliver", 200), ("refunds", 201)):
        assert (await staff.post(f"/orders/{made['id']}/{path}")).status_code == status
    assert await till.charged(made["id"]) == 0
    steps = ("placed", "confirmed", "captured", "shipped", "delivered", "refunded")
    assert await till.topics(made["id"]) == [f"order.{step}" for step in steps]
    await _books_balance(shop)


async def test_cancelling_lets_go_what_is_held(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made, payment = await _held(shopper, till)
    cancelled = await shopper.post(f"/orders/{made['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert [p["status"] for p in cancelled.json()["payments"]] == ["voided"]
    assert await till.shelf("MUG") == (5, 0)
    (row,) = await till.rows("SELECT status FROM sandbox.books WHERE reference = $1", payment["id"])
    assert row["status"] == "voided"
    late = await staff.post(f"/payments/{payment['id']}/capture")
    assert (late.status_code, late.json()["paymentStatus"]) == (409, "voided")
    assert await till.rows("SELECT FROM payment_refunds") == []
    await _books_balance(shop)


async def test_a_hold_that_lapses_takes_its_order_with_it(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    by_sweep, swept = await _held(shopper, till)
    by_capture, captured = await _held(shopper, till)
    for payment in (swept, captured):
        await _lapse(till, payment)

    told = await staff.post(f"/payments/{captured['id']}/capture")
    assert (told.status_code, told.json()["paymentStatus"]) == (409, "voided")
    clock.advance(3601)
    assert (await recover(shop, {"sandbox": sandbox})).settled == 1
    sign_anew(shop, shopper)
    for made in (by_sweep, by_capture):
        seen = await look(shopper, made["id"])
        assert (seen["status"], seen["history"][-1]["reason"]) == ("cancelled", "authorization lapsed")
        assert await till.topics(made["id"]) == ["order.placed", "order.confirmed", "order.cancelled"]
    assert await till.shelf("MUG") == (5, 0)
    while await relay(shop):
        pass
    while await notify.deliver(shop):
        pass
    texts = {subject: text for _, subject, text in shop.mail.sent}  # type: ignore[attr-defined]
    for made in (by_sweep, by_capture):
        assert "your bank only held 10.00 GBP" in texts[f"Your order {made['number']} is cancelled"]
    await _books_balance(shop)


async def test_whether_a_hold_still_stands_is_asked_once_an_hour(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    await _held(shopper, till)
    asked = []
    for seconds in (3599, 2) * 3:
        clock.advance(seconds)
        asked.append((await recover(shop, {"sandbox": sandbox})).asked)
    assert asked == [0, 1] * 3


@pytest.mark.parametrize("when", ["silent_before", "silent_after"])
async def test_a_capture_without_an_answer_is_looked_up_and_taken_once(
    shop: Shop,
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    till: Till,
    clock: FixedClock,
    sandbox: Sandbox,
    faults: Faults,
    when: str,
) -> None:
    await till.stock("MUG", 5)
    made, payment = await _held(shopper, till)
    setattr(faults, when, 1.0)
    key = {"Idempotency-Key": "capture"}
    told = await staff.post(f"/payments/{payment['id']}/capture", headers=key)
    assert (told.status_code, told.json()["status"]) == (200, "authorized")
    under_way = await staff.post(f"/payments/{payment['id']}/capture")
    assert (under_way.status_code, under_way.json()["type"]) == (409, "/problems/payment-in-progress")
    setattr(faults, when, 0.0)
    clock.advance(30)
    await asyncio.gather(*(recover(shop, {"sandbox": sandbox}) for _ in range(3)))
    assert await till.charged(made["id"]) == 1000
    (row,) = await till.rows("SELECT status, due FROM payments")
    assert (row["status"], row["due"]) == ("succeeded", None)
    await _books_balance(shop)


async def test_a_capture_that_fails_leaves_the_hold_as_it_was(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, sandbox: Sandbox, faults: Faults
) -> None:
    await till.stock("MUG", 5)
    _, payment = await _held(shopper, till)
    faults.error = 1.0
    key = {"Idempotency-Key": "capture"}
    failed = await staff.post(f"/payments/{payment['id']}/capture", headers=key)
    assert (failed.status_code, failed.json()["type"]) == (502, "/problems/provider-error")
    faults.error = 0.0
    taken = await staff.post(f"/payments/{payment['id']}/capture", headers=key)
    assert (taken.status_code, taken.json()["status"]) == (200, "succeeded")


async def test_a_buyer_who_looks_while_staff_capture_does_not_answer_in_their_place(
    app: FastAPI, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    _, payment = await _held(shopper, till)
    asked, looked = asyncio.Event(), asyncio.Event()

    class Refusing(Sandbox):
        async def capture(self, hold: Hold) -> Outcome:
            asked.set()
            await looked.wait()
            raise ProviderError("not now")

    app.state.providers = {"sandbox": Refusing(sandbox._settings, sandbox._pg)}
    key = {"Idempotency-Key": "capture"}
    capturing = asyncio.create_task(staff.post(f"/payments/{payment['id']}/capture", headers=key))
    await asked.wait()
    seen = await shopper.post(f"/payments/{payment['id']}/refresh")
    assert (seen.status_code, seen.json()["status"]) == (200, "authorized")
    looked.set()
    assert (await capturing).status_code == 502
    app.state.providers = {"sandbox": sandbox}
    taken = await staff.post(f"/payments/{payment['id']}/capture", headers=key)
    assert (taken.status_code, taken.json()["status"]) == (200, "succeeded")


async def test_nothing_is_promised_of_money_at_a_provider_that_is_off(
    app: FastAPI, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    held, _ = await _held(shopper, till)
    taken, payment = await _held(shopper, till)
    assert (await staff.post(f"/payments/{payment['id']}/capture")).status_code == 200
    app.state.providers = {}
    for made in (held, taken):
        refused = await shopper.post(f"/orders/{made['id']}/cancel")
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/provider-off")
        assert refused.json()["provider"] == "sandbox"
        assert (await look(shopper, made["id"]))["status"] == "confirmed"
    app.state.providers = {"sandbox": sandbox}
    for made in (held, taken):
        assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
        assert await till.charged(made["id"]) == 0


@pytest.mark.parametrize("when", ["silent_before", "silent_after", "error"])
async def test_a_hold_that_could_not_be_let_go_is_let_go_later(
    shop: Shop,
    shopper: httpx.AsyncClient,
    till: Till,
    clock: FixedClock,
    sandbox: Sandbox,
    faults: Faults,
    when: str,
) -> None:
    await till.stock("MUG", 5)
    made, _ = await _held(shopper, till)
    setattr(faults, when, 1.0)
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    setattr(faults, when, 0.0)
    clock.advance(30)
    assert (await recover(shop, {"sandbox": sandbox})).settled == 1
    (row,) = await till.rows("SELECT b.status, p.due FROM sandbox.books b JOIN payments p ON p.id::text = b.reference")
    assert (row["status"], row["due"]) == ("voided", None)
    assert not await recover(shop, {"sandbox": sandbox})


async def test_capturing_beside_cancelling_ends_in_one_of_both_and_nothing_is_kept(
    shop: Shop,
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    till: Till,
    clock: FixedClock,
    sandbox: Sandbox,
    faults: Faults,
) -> None:
    await till.stock("MUG", 50)
    faults.silent_after = faults.silent_before = 0.2
    ends, gone = set(), set()
    for _ in range(12):
        made = await order(shopper, ("MUG", 1))
        paid = await pay(shopper, made["id"])
        if paid.json()["status"] != "authorized":
            continue
        captured, cancelled = await asyncio.gather(
            staff.post(f"/payments/{paid.json()['id']}/capture"), shopper.post(f"/orders/{made['id']}/cancel")
        )
        assert cancelled.status_code == 200
        gone.add(made["id"])
        ends.add(captured.status_code)
    faults.silent_after = faults.silent_before = 0.0
    for _ in range(4):
        clock.advance(200)
        await recover(shop, {"sandbox": sandbox})
    rows = await till.rows(
        """SELECT o.id::text, o.status, b.captured_cents - b.refunded_cents AS kept, b.status AS theirs, p.due
           FROM orders o JOIN payments p ON p.order_id = o.id JOIN sandbox.books b ON b.reference = p.id::text"""
    )
    assert gone
    for row in rows:
        assert row["due"] is None
        if row["id"] in gone:
            assert (row["status"], row["kept"]) == ("cancelled", 0), row
            assert row["theirs"] != "authorized"
    print(ends)
    await _books_balance(shop)


async def test_a_hold_that_comes_too_late_is_let_go(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox, faults: Faults
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    faults.silent_after = 1.0
    told = await pay(shopper, made["id"])
    assert (told.status_code, told.json()["status"]) == (201, "pending")
    faults.silent_after = 0.0
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    clock.advance(30)
    await recover(shop, {"sandbox": sandbox})
    (row,) = await till.rows(
        "SELECT b.status, p.status AS ours, p.due FROM sandbox.books b JOIN payments p ON p.id::text = b.reference"
    )
    assert (row["status"], row["ours"], row["due"]) == ("voided", "voided", None)
    (letter,) = await till.rows("SELECT payload FROM outbox WHERE topic = 'payment.returned'")
    assert (letter["payload"]["reason"], letter["payload"]["held"]) == ("cancelled", True)
    await _books_balance(shop)


async def test_a_provider_that_speaks_of_another_sum_is_not_believed(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, clock: FixedClock, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    paid = (await pay(shopper, made["id"], "card_async")).json()
    await till.rows("UPDATE sandbox.charges SET amount_cents = 1 WHERE reference = $1 RETURNING id", paid["id"])
    while (await sandbox.look_up(paid["id"])).status == "pending":  # type: ignore[union-attr]  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    clock.advance(30)
    report = await recover(shop, {"sandbox": sandbox})
    assert (report.settled, report.failed) == (0, 1)
    assert (await look(shopper, made["id"]))["status"] == "pending"


async def test_a_buyer_who_is_back_is_told_how_it_stands(
    shopper: httpx.AsyncClient, client: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    paid = (await pay(shopper, made["id"], "card_async")).json()
    refresh = f"/payments/{paid['id']}/refresh"
    assert (await client.post(refresh)).status_code == 401
    async with asyncio.timeout(10):
        while (told := (await shopper.post(refresh)).json())["status"] == "pending":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert told["status"] == "authorized"
    assert (await look(shopper, made["id"]))["status"] == "confirmed"


async def test_the_sandbox_holds_once_and_decides_once(sandbox: Sandbox, till: Till) -> None:
    for number in range(10):
        charge = Charge(f"hold-{number}", 500, "GBP", "card_ok", capture=False)
        held = await sandbox.authorise(charge)
        assert held.status == "authorized"
        hold = Hold(charge.reference, held.provider_ref or "", 500, "GBP")
        ends = await asyncio.gather(sandbox.capture(hold), sandbox.void(hold), sandbox.capture(hold))
        assert len({end.status for end in ends}) == 1
        assert (await sandbox.look_up(charge.reference)) == ends[0]
    with pytest.raises(ProviderError):
        await sandbox.capture(Hold("never", "sb_", 1, "GBP"))


async def test_the_sandboxes_faults_are_drawn_from_their_seed(shop: Shop) -> None:
    settings = shop.settings.model_copy(
        update={"sandbox_error_share": 0.3, "sandbox_silent_before_share": 0.2, "sandbox_silent_after_share": 0.2}
    )

    async def run(seed: int) -> list[str]:
        sandbox = Sandbox(settings.model_copy(update={"sandbox_seed": seed}), shop.stores.pg)
        said = []
        for number in range(30):
            reference = f"{seed}-{number}"
            try:
                await sandbox.authorise(Charge(reference, 500, "GBP", "card_ok"))
                said.append("answer")
            except (ProviderError, ProviderSilent) as fault:
                said.append(type(fault).__name__)
            sandbox.faults, kept = Faults(random.Random(0)), sandbox.faults
            said[-1] += ", done" if await sandbox.look_up(reference) else ", undone"
            sandbox.faults = kept
        return said

    first = await run(1)
    assert set(first) == {"answer, done", "ProviderError, undone", "ProviderSilent, undone", "ProviderSilent, done"}
    async with shop.stores.pg.once() as tx:
        await tx.execute("DELETE FROM sandbox.charges")
    assert await run(1) == first
    assert await run(2) != first


async def test_any_order_of_a_payments_events_ends_the_same(
    client: httpx.AsyncClient, shop: Shop, shopper: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    """What a provider tells of one payment, each piece once or often and in any order, with look-ups between."""
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    await till.stock("MUG", 500)
    histories = (
        "authorized succeeded", "authorized voided", "failed voided", "failed", "authorized", "failed succeeded",
    )  # fmt: skip
    for history in histories:
        ends = set()
        for _ in range(8):
            made = await order(shopper, ("MUG", 1))
            paid = (await pay(shopper, made["id"], "card_async")).json()
            ref = (await sandbox.look_up(paid["id"])).provider_ref  # type: ignore[union-attr]
            events = [status for status in history.split() for _ in range(dice.randint(1, 3))]
            dice.shuffle(events)
            for status in events:
                body = sandbox.event(paid["id"], Outcome(ref, status, "no" if status == "failed" else None))  # type: ignore[arg-type]
                headers = {SIGNATURE: sandbox.sign(body, shop.clock.now())}
                twins = (client.post("/webhooks/sandbox", content=body, headers=headers) for _ in range(2))
                assert {answer.status_code for answer in await asyncio.gather(*twins)} == {200}
                if dice.random() < 0.2:
                    await shopper.post(f"/payments/{paid['id']}/refresh")
            seen = await look(shopper, made["id"])
            # An order that nobody pays any more expires.
            ended = "cancelled" if seen["status"] == "pending" else seen["status"]
            ends.add((ended, seen["payments"][0]["status"]))
        assert len(ends) == 1, (history, ends)
        print(history, ends)
