"""Our books beside a provider's: every difference is found and named, and nothing else."""

import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from till import Till, order, pay

from conftest import Command
from quartet.kernel.settings import Settings
from quartet.payments import (
    Charge,
    Compared,
    Difference,
    Entry,
    Outcome,
    ProviderAway,
    RefundRequest,
    days_due,
    reconcile,
)
from quartet.payments.providers.sandbox import Sandbox
from quartet.web.dependencies import Shop


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"base_url": "http://127.0.0.1:1"})


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


@pytest.fixture
def sandbox(app: FastAPI, shop: Shop) -> Sandbox:
    sandbox = Sandbox(shop.settings, shop.stores.pg)
    app.state.providers = {"sandbox": sandbox}
    return sandbox


async def _differences(shop: Shop, sandbox: Sandbox, *days: date) -> list[Difference]:
    found = []
    for day in days or _today():
        found += [d async for d in reconcile(shop.stores.pg, "sandbox", sandbox, day, Compared())]
    return found


def _today() -> Iterator[date]:
    """Midnight may have passed since the test began."""
    now = datetime.now(UTC).date()
    yield from (now - timedelta(days=1), now)


async def _paid(shopper: httpx.AsyncClient) -> str:
    made = await order(shopper, ("MUG", 2))
    paid: str = (await pay(shopper, made["id"])).json()["id"]
    return paid


async def test_books_that_agree_have_no_difference(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 100)
    for _ in range(3):
        await _paid(shopper)
    refunded, cancelled, declined, unpaid = [await order(shopper, ("MUG", 1)) for _ in range(4)]
    for made in (refunded, cancelled):
        await pay(shopper, made["id"])
    await staff.post(f"/orders/{refunded['id']}/refunds", json={"amountCents": 100})
    await shopper.post(f"/orders/{cancelled['id']}/cancel")
    await pay(shopper, declined["id"], "card_declined")
    await pay(shopper, declined["id"], "card_error")
    await pay(shopper, unpaid["id"], "card_async")
    assert await _differences(shop, sandbox) == []


async def test_every_kind_of_difference_is_found_and_named(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 100)
    await _paid(shopper)  # nothing is wrong with this one

    async def change(sql: str, *args: Any) -> None:
        async with shop.stores.pg.once() as tx:
            assert await tx.execute(sql, *args) in ("UPDATE 1", "DELETE 1"), sql

    expected: dict[tuple[str, str], str] = {}
    stranger = await sandbox.authorise(Charge("an order of another shop", 77, "GBP", "card_ok"))
    expected["charge", "an order of another shop"] = "77 GBP succeeded there, unknown here"
    assert stranger.provider_ref
    lost = str(uuid4())
    await sandbox.authorise(Charge(lost, 78, "EUR", "card_ok"))
    expected["charge", lost] = "78 EUR succeeded there, unknown here"

    for sql, finding in (
        ("DELETE FROM sandbox.charges WHERE reference = $1", "1000 GBP succeeded here, unknown there"),
        ("UPDATE sandbox.charges SET amount_cents = 1001 WHERE reference = $1", "is 1000 GBP here, 1001 there"),
        ("UPDATE sandbox.charges SET currency = 'USD' WHERE reference = $1", "is in GBP here, in USD there"),
        ("UPDATE sandbox.charges SET decline_code = 'no' WHERE reference = $1", "is succeeded here, failed there"),
        ("UPDATE payments SET status = 'failed' WHERE id = $1", "is failed here, succeeded there"),
        ("UPDATE payments SET status = 'pending' WHERE id = $1", "is pending here, succeeded there"),
        ("UPDATE sandbox.charges SET capture = false WHERE reference = $1", "is succeeded here, authorized there"),
    ):
        paid = await _paid(shopper)
        await change(sql, paid)
        expected["charge", paid] = finding

    for since, finding in (
        ("25 hours", "is authorized here, and its capture does not come about"),
        ("1 hour", ""),
    ):
        due = await _paid(shopper)
        await change("UPDATE sandbox.charges SET capture = false WHERE reference = $1", due)
        waiting = f"status = 'authorized', due = 'capture', updated_at = now() - interval '{since}'"
        await change(f"UPDATE payments SET {waiting} WHERE id = $1", due)
        if finding:
            expected["charge", due] = finding

    back = await _paid(shopper)
    theirs = RefundRequest(str(uuid4()), back, "", 10, "GBP")
    await sandbox.refund(theirs)
    expected["refund", theirs.reference] = "10 GBP succeeded there, unknown here"
    for sql, finding in (
        ("DELETE FROM sandbox.refunds WHERE reference = $1", "30 GBP succeeded here, unknown there"),
        ("UPDATE sandbox.refunds SET amount_cents = 31 WHERE reference = $1", "is 30 GBP here, 31 there"),
        ("UPDATE payment_refunds SET status = 'failed' WHERE id = $1", "is failed here, succeeded there"),
        ("UPDATE payment_refunds SET status = 'pending' WHERE id = $1", "is pending here, succeeded there"),
    ):
        made = await order(shopper, ("MUG", 1))
        await pay(shopper, made["id"])
        refund = (await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 30})).json()["id"]
        await change(sql, refund)
        expected["refund", refund] = finding

    found = await _differences(shop, sandbox)
    assert {(d.kind, d.reference): d.finding for d in found} == expected
    assert len(found) == len(expected)
    (named,) = [d for d in found if d.finding == "is 1000 GBP here, 1001 there"]
    assert named.provider_ref.startswith("sb_")


class Twice(Sandbox):
    """A provider that has done everything a second time, a moment later."""

    async def entries(self, since: datetime, until: datetime) -> AsyncIterator[Entry]:
        async for entry in super().entries(since, until):
            yield entry
            later = entry.created_at + timedelta(seconds=1)
            again = replace(entry, provider_ref=f"{entry.provider_ref} again", created_at=later)
            if later < until:
                yield again
            if entry.status == "succeeded" and later < until:  # a try that came to nothing is no second time
                yield replace(again, provider_ref="declined", status="failed", captured_cents=0)


async def test_what_was_charged_or_given_back_twice_is_named(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 10)
    made, declined = [await order(shopper, ("MUG", 1)) for _ in range(2)]
    charge = (await pay(shopper, made["id"])).json()
    await pay(shopper, declined["id"], "card_declined")
    refund = (await staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 30})).json()["id"]
    found = await _differences(shop, Twice(shop.settings, shop.stores.pg))
    first = charge["providerRef"]
    named = {(d.kind, d.reference): (d.provider_ref, d.finding) for d in found}
    assert set(named) == {("charge", charge["id"]), ("refund", refund)}
    assert named["charge", charge["id"]] == (f"{first} again", f"500 GBP succeeded there beside {first}: twice")
    assert len(found) == 2


async def test_a_refund_of_anothers_making_is_named_before_it_is_done(shop: Shop, sandbox: Sandbox) -> None:
    class Dashboard(Sandbox):
        """Somebody gives money back there, which takes some days."""

        async def entries(self, since: datetime, until: datetime) -> AsyncIterator[Entry]:
            if since <= (now := datetime.now(UTC) - timedelta(hours=1)) < until:
                yield Entry("refund", "re_1", "", "pending", 10, 0, "GBP", now, "pi_1")
                yield Entry("charge", "pi_2", "", "pending", 10, 0, "GBP", now)  # another shop's

    found = {(d.provider_ref, d.finding) for d in await _differences(shop, Dashboard(shop.settings, shop.stores.pg))}
    assert found == {("re_1", "10 GBP pending there, unknown here")}


async def test_money_that_must_go_back_and_can_not_is_named(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await till.stock("MUG", 10)
    made = await order(shopper, ("MUG", 1))
    await pay(shopper, made["id"])

    async def cannot(_: RefundRequest) -> Outcome:
        """As Stripe says of a card that is no more."""
        return Outcome("re_1", "failed")

    monkeypatch.setattr(sandbox, "refund", cannot)
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).json()["status"] == "cancelled"
    (named,) = await _differences(shop, sandbox)
    assert (named.kind, named.finding.partition(",")[0]) == ("refund", "500 GBP must go back")


async def test_a_charge_on_either_side_of_midnight_is_the_same_charge(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    await till.stock("MUG", 10)
    paid = await _paid(shopper)
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    days = (date(2026, 3, 1), date(2026, 3, 2))
    for ours, theirs in ((-1, 1), (1, -1), (-7200, 1), (1, -7200)):
        async with shop.stores.pg.tx() as tx:
            await tx.execute(
                "UPDATE payments SET created_at = $2 WHERE id = $1", paid, midnight + timedelta(seconds=ours)
            )
            await tx.execute(
                "UPDATE sandbox.charges SET created_at = $2 WHERE reference = $1",
                paid,
                midnight + timedelta(seconds=theirs),
            )
        assert await _differences(shop, sandbox, *days) == []


@pytest.mark.parametrize("status", ["failed", "pending", "voided"])
@pytest.mark.parametrize("later", [timedelta(minutes=10), timedelta(minutes=12), timedelta(days=4)])
async def test_what_was_taken_however_much_later_than_we_know_is_named_once(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, sandbox: Sandbox, status: str, later: timedelta
) -> None:
    await till.stock("MUG", 10)
    paid = await _paid(shopper)
    made = datetime(2026, 3, 2, 9, 59, tzinfo=UTC)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE payments SET created_at = $2, status = $3 WHERE id = $1", paid, made, status)
        await tx.execute("UPDATE sandbox.charges SET created_at = $2 WHERE reference = $1", paid, made + later)
    days = {made.date(), (made + later).date()}
    assert [d.finding for d in await _differences(shop, sandbox, *days)] == [f"is {status} here, succeeded there"]


async def test_a_provider_that_goes_away_meanwhile_makes_no_differences(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await till.stock("MUG", 10)
    paid = await _paid(shopper)
    async with shop.stores.pg.once() as tx:
        await tx.execute("DELETE FROM sandbox.charges WHERE reference = $1", paid)

    async def away(*_: object) -> None:
        raise ProviderAway("sandbox")

    monkeypatch.setattr(sandbox, "look_up", away)
    with pytest.raises(ValueError, match="the provider sandbox does not answer"):
        await _differences(shop, sandbox)


MANY = """
WITH one AS (
    INSERT INTO orders (user_id, total_cents, currency, created_at) VALUES ($1, 100, 'GBP', $2) RETURNING id
), ours AS (
    INSERT INTO payments (id, order_id, provider, provider_ref, amount_cents, currency, status, refunded_cents,
                          created_at)
    SELECT gen_random_uuid(), one.id, 'sandbox', gen_random_uuid(), 100, 'GBP', 'refunded', 100,
           $2::timestamptz + n * make_interval(secs => 86400.0 / $3::int)
    FROM one, generate_series(0, $3::int - 1) AS n RETURNING id, created_at
)
INSERT INTO sandbox.charges (reference, id, method, amount_cents, currency, settles_at, created_at)
SELECT id::text, 'sb_' || id, 'card_ok', 100, 'GBP', created_at, created_at FROM ours
"""


async def test_memory_stays_flat_however_many_there_are(
    shop: Shop, shopper: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    peaks = []
    for day, many in ((date(2026, 3, 1), 2_400), (date(2026, 3, 2), 12_000), (date(2026, 3, 3), 12_000)):
        async with shop.stores.pg.once() as tx:
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            await tx.execute(MANY, shopper.user_id, start, many)  # type: ignore[attr-defined]
        compared = Compared()
        tracemalloc.start()
        found = [d async for d in reconcile(shop.stores.pg, "sandbox", sandbox, day, compared)]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (found, compared.ours, compared.theirs) == ([], many, many)
    print(peaks)
    assert max(peaks) < 8_000_000


@pytest.fixture
def run(command: Command) -> Command:
    """`quartet reconcile` with options: its exit code and what it says."""
    return partial(command, "reconcile")


async def test_the_command_names_them_and_fails(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, sandbox: Sandbox, run: Command
) -> None:
    await till.stock("MUG", 10)
    paid = await _paid(shopper)

    day = datetime.now(UTC).date()
    code, said = await run("--from", str(day - timedelta(days=1)), "--to", str(day))
    assert (code, "no difference" in said) == (0, True), said
    async with shop.stores.pg.once() as tx:
        await tx.execute("UPDATE sandbox.charges SET amount_cents = 1 WHERE reference = $1", paid)
    code, said = await run("--from", str(day - timedelta(days=1)), "--to", str(day), "--provider", "sandbox")
    assert code == 1
    assert paid in said
    assert "is 1000 GBP here, 1 there" in said
    assert (await run("--provider", "stripe"))[0] == 1
    assert (await run("--day", "yesterday"))[0] == 2
    assert (await run())[0] == 0  # yesterday


async def _move(shop: Shop, payment: str, at: datetime) -> None:
    """Both books say that it was made then."""
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE payments SET created_at = $2 WHERE id = $1", payment, at)
        await tx.execute("UPDATE sandbox.charges SET created_at = $2 WHERE reference = $1", payment, at)


async def test_what_turns_out_weeks_later_is_found_when_its_day_is_compared_again(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, sandbox: Sandbox, run: Command
) -> None:
    await till.stock("MUG", 10)
    now = datetime.now(UTC)
    for days in (30, 29):  # should midnight pass just now, the second is of thirty days ago
        paid = await _paid(shopper)
        await _move(shop, paid, now - timedelta(days=days))
        async with shop.stores.pg.once() as tx:
            await tx.execute("UPDATE sandbox.charges SET amount_cents = 1 WHERE reference = $1", paid)
    code, said = await run("--provider", "sandbox")
    assert code == 1, said
    assert "is 1000 GBP here, 1 there" in said


async def test_no_day_is_compared_again_that_is_older_than_the_first_payment(
    shop: Shop, shopper: httpx.AsyncClient, till: Till, sandbox: Sandbox
) -> None:
    today = date(2026, 6, 30)
    assert await days_due(shop.stores.pg, "sandbox", today) == [date(2026, 6, 29)]
    await till.stock("MUG", 10)
    await _move(shop, await _paid(shopper), datetime(2026, 6, 16, 23, 59, tzinfo=UTC))
    compared = await days_due(shop.stores.pg, "sandbox", today)
    assert compared == [date(2026, 6, day) for day in (29, 27, 23, 16)]
    assert await days_due(shop.stores.pg, "stripe", today) == [date(2026, 6, 29)]
