"""Money goes back in sums or by the piece, with or without the pieces: nothing twice, all of it to the cent."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from till import Till, look, order, pay

from quartet import audit, checkout, inventory, orders, payments
from quartet.kernel.clock import SystemClock
from quartet.payments import Moved, Outcome, ProviderError, ProviderSilent
from quartet.payments.providers.sandbox import Sandbox
from quartet.stores.postgres import Postgres, Tx, Violation
from quartet.web.dependencies import Shop

Json = dict[str, Any]


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


class Moody(Sandbox):
    """A provider that can refuse refunds, for now or (an outcome) for good, or give them and say nothing."""

    mood: Exception | Outcome | None = None

    async def refund(self, asked: Any) -> Any:
        if isinstance(self.mood, ProviderError):
            raise self.mood
        if isinstance(self.mood, Outcome):
            return self.mood
        outcome = await super().refund(asked)
        if self.mood is not None:
            raise self.mood
        return outcome


@pytest.fixture
def provider(app: FastAPI, shop: Shop) -> Moody:
    moody = Moody(shop.settings, shop.stores.pg)
    app.state.providers = {"sandbox": moody}
    return moody


async def bought(shopper: httpx.AsyncClient, till: Till) -> Json:
    """Two mugs at 500 and three bags of tea at 333, paid."""
    await till.stock("MUG", 10, 500)
    await till.stock("TEA", 10, 333)
    made = await order(shopper, ("MUG", 2), ("TEA", 3))
    assert (await pay(shopper, made["id"])).status_code == 201
    return made


async def refund(staff: httpx.AsyncClient, made: Json, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await staff.post(f"/orders/{made['id']}/refunds", json=body, headers=headers)


def lines(**pieces: int) -> list[Json]:
    return [{"sku": sku, "qty": qty} for sku, qty in pieces.items()]


async def test_pieces_go_back_by_line_to_the_shelf_or_not(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    made = await bought(shopper, till)
    first = await refund(staff, made, items=lines(MUG=1, TEA=2), restock=True, reason="did not like them")
    assert first.status_code == 201, first.text
    told = first.json()
    assert (told["amountCents"], told["items"], told["restock"]) == (1166, lines(MUG=1, TEA=2), True)
    assert (await till.shelf("MUG"), await till.shelf("TEA")) == ((9, 0), (9, 0))
    broken = await refund(staff, made, items=lines(MUG=1))
    assert (broken.status_code, broken.json()["amountCents"]) == (201, 500)
    assert await till.shelf("MUG") == (9, 0)

    found = await look(shopper, made["id"])
    by = str(staff.user_id)  # type: ignore[attr-defined]
    assert (found["status"], found["refundedCents"]) == ("confirmed", 1666)
    assert [(r["amountCents"], r["restocked"], r["by"], r["reason"]) for r in found["refunds"]] == [
        (1166, True, by, "did not like them"),
        (500, False, by, "asked"),
    ]
    assert found["refunds"][0]["items"] == [
        {"sku": "MUG", "amountCents": 500, "qty": 1, "restockedQty": 1},
        {"sku": "TEA", "amountCents": 666, "qty": 2, "restockedQty": 2},
    ]
    over = await refund(staff, made, items=lines(MUG=1, TEA=2))
    assert (over.status_code, over.json()["type"]) == (409, "/problems/over-refund")
    assert over.json()["pieces"] == [
        {"sku": "MUG", "requested": 1, "refundable": 0}, {"sku": "TEA", "requested": 2, "refundable": 1}
    ]  # fmt: skip
    assert (await refund(staff, made, items=lines(GHOST=1))).json()["pieces"][0]["refundable"] == 0
    last = await refund(staff, made, items=[*lines(TEA=1)], restock=True)
    assert last.status_code == 201
    found = await look(shopper, made["id"])
    assert (found["status"], found["refundedCents"]) == ("refunded", 1999)
    assert [step["to"] for step in found["history"]] == ["pending", "confirmed", "refunded"]
    assert await till.charged(made["id"]) == 0
    assert (await audit.check(till.shop, patience=0)).violations == ()


async def test_a_refund_is_a_sum_or_lines(shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till) -> None:
    made = await bought(shopper, till)
    bodies: list[dict[str, Any]] = [
        {"amountCents": 1, "items": lines(MUG=1)}, {"items": []}, {"items": lines(MUG=0)}, {"items": lines(MUG=1000)},
        {"items": [{"sku": "MUG"}]}, {"amountCents": 0},
    ]  # fmt: skip
    for body in bodies:
        assert (await refund(staff, made, **body)).status_code == 422, body
    assert (await look(shopper, made["id"]))["refunds"] == []


async def test_sums_and_lines_share_what_was_paid(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    made = await bought(shopper, till)
    assert (await refund(staff, made, amountCents=1200)).status_code == 201
    dear = await refund(staff, made, items=lines(MUG=2))
    assert (dear.status_code, dear.json()["refundableCents"]) == (409, 799)
    assert (await refund(staff, made, items=lines(MUG=1), restock=True)).status_code == 201
    assert await till.shelf("MUG") == (9, 0)
    rest = await refund(staff, made, restock=True)
    assert (rest.status_code, rest.json()["amountCents"]) == (201, 299)
    assert (await till.shelf("MUG"), await till.shelf("TEA")) == ((10, 0), (10, 0))
    assert (await look(shopper, made["id"]))["status"] == "refunded"
    revenue = (await staff.get("/analytics/revenue?from=2020-01-01&to=2040-01-01&groupBy=product")).json()
    assert {row["key"]: (row["grossCents"], row["refundedCents"]) for row in revenue["items"]} == {
        "MUG": (1000, 1000), "TEA": (999, 999)
    }  # fmt: skip
    assert (await audit.check(till.shop, patience=0)).violations == ()


async def test_the_cents_of_a_sum_fall_on_what_is_left_of_each(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    prices = {"A": 1, "B": 1, "C": 1, "D": 4}
    for sku, cents in prices.items():
        await till.stock(sku, 1, cents)
    made = await order(shopper, *((sku, 1) for sku in prices))
    await pay(shopper, made["id"])
    for cents in (2, 1, 3, 1):
        assert (await refund(staff, made, amountCents=cents)).status_code == 201
    given = (await look(shopper, made["id"]))["refunds"]
    parts = [{part["sku"]: part["amountCents"] for part in each["items"]} for each in given]
    # Shares of 2/7, 2/7, 2/7 and 8/7; then what is left is 1, 1, 1 and 2, and so on.
    assert parts[0] == {"A": 1, "D": 1}
    assert {sku: sum(part.get(sku, 0) for part in parts) for sku in prices} == prices


async def test_a_cancellation_puts_back_what_no_refund_has_settled(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    made = await bought(shopper, till)
    await refund(staff, made, items=lines(MUG=1))  # broken before it was sent
    await refund(staff, made, items=lines(TEA=1), restock=True)
    gone = await shopper.post(f"/orders/{made['id']}/cancel")
    assert (gone.json()["status"], gone.json()["refundedCents"]) == ("cancelled", 1999)
    assert (await till.shelf("MUG"), await till.shelf("TEA")) == ((9, 0), (10, 0))
    assert await till.charged(made["id"]) == 0
    assert (await audit.check(till.shop, patience=0)).violations == ()


async def test_ten_refunds_of_the_same_pieces_at_once_give_them_back_once(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    for _ in range(5):
        made = await bought(shopper, till)
        asked = [refund(staff, made, items=lines(MUG=2), restock=True) for _ in range(5)]
        asked += [refund(staff, made, items=lines(MUG=1, TEA=1), restock=True) for _ in range(5)]
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {201, 409}
        found = await look(shopper, made["id"])
        back = Counter[str]()
        for part in (part for each in found["refunds"] for part in each["items"]):
            back[part["sku"]] += part["restockedQty"]
        assert back["MUG"] == 2
        assert await till.charged(made["id"]) == 1999 - found["refundedCents"] == 1999 - 500 * 2 - 333 * back["TEA"]
    assert (await audit.check(till.shop, patience=0)).violations == ()


async def test_pieces_on_their_way_are_taken_and_come_back_when_the_provider_refuses(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till, provider: Moody
) -> None:
    made = await bought(shopper, till)
    provider.mood = ProviderError("no")
    assert (await refund(staff, made, "k", items=lines(MUG=2), restock=True)).status_code == 502
    provider.mood = ProviderSilent()
    silent = await refund(staff, made, "k", items=lines(MUG=2), restock=True)
    assert (silent.status_code, silent.json()["status"]) == (201, "pending")
    assert (await refund(staff, made, items=lines(MUG=1))).json()["pieces"][0]["refundable"] == 0
    assert await till.shelf("MUG") == (8, 0)
    assert (await audit.check(till.shop, patience=0)).violations == ()

    provider.mood = None
    async with till.shop.stores.pg.once() as tx:
        await tx.execute("UPDATE payment_refunds SET ask_at = now()")
    await checkout.recover(till.shop, {"sandbox": provider})
    assert await till.shelf("MUG") == (10, 0)
    (given,) = (await look(shopper, made["id"]))["refunds"]
    assert (given["amountCents"], given["restocked"]) == (1000, True)
    assert await till.charged(made["id"]) == 999
    assert (await audit.check(till.shop, patience=0)).violations == ()


async def test_what_the_provider_refuses_for_a_cancelled_order_is_asked_for_again(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, till: Till, provider: Moody
) -> None:
    made = await bought(shopper, till)
    now = SystemClock().now()
    async with shop.stores.pg.tx() as tx:
        held = await payments.start_refund(
            tx,
            UUID(made["id"]),
            None,
            "asked",
            by=str(staff.user_id),  # type: ignore[attr-defined]
            items=[("MUG", 1)],
            restock=True,
            now=now,
            ask=now,
        )
    assert held is not None
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).json()["refundedCents"] == 1499
    provider.mood = ProviderError("no")
    with pytest.raises(ProviderError):
        await checkout.completion.execute_refund(shop, {"sandbox": provider}, held)
    provider.mood = None
    async with shop.stores.pg.once() as tx:
        await tx.execute("UPDATE payment_refunds SET ask_at = now()")
    await checkout.recover(shop, {"sandbox": provider})
    assert (await look(shopper, made["id"]))["refundedCents"] == 1999
    assert await till.charged(made["id"]) == 0
    assert (await till.shelf("MUG"), await till.shelf("TEA")) == ((10, 0), (10, 0))
    assert (await audit.check(shop, patience=0)).violations == ()


@pytest.mark.parametrize("restock", [True, False])
async def test_a_refund_that_fails_after_its_order_was_cancelled_leaves_no_piece_behind(
    shopper: httpx.AsyncClient, shop: Shop, till: Till, provider: Moody, restock: bool
) -> None:
    made = await bought(shopper, till)
    async with shop.stores.pg.tx() as tx:
        promised = await payments.start_refund(
            tx, UUID(made["id"]), None, "asked", by="test", items=[("MUG", 1)], restock=restock,
            now=SystemClock().now(), ask=SystemClock().now(),
        )  # fmt: skip
    assert promised is not None
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).json()["refundedCents"] == 1499
    assert (await till.shelf("MUG"), await till.shelf("TEA")) == ((9, 0), (10, 0))
    provider.mood = Outcome("re_1", "failed")
    for _ in range(2):  # asked for, then as the cancellation's
        async with shop.stores.pg.once() as tx:
            await tx.execute("UPDATE payment_refunds SET ask_at = now()")
        await checkout.recover(shop, {"sandbox": provider})
    assert (await till.shelf("MUG"), await till.shelf("TEA")) == ((10, 0), (10, 0))
    async with shop.stores.pg.tx() as tx:  # and should it have been given after all
        await payments.complete_refund(tx, promised.id, "succeeded", "re_1", SystemClock().now())
    assert await till.shelf("MUG") == (10, 0)
    assert (await look(shopper, made["id"]))["refundedCents"] == 1999
    assert (await audit.check(shop, patience=0)).violations == ()


async def test_the_database_counts_no_piece_twice(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    made = await bought(shopper, till)
    await refund(staff, made, items=lines(MUG=2), restock=True)
    for change, constraint in (
        ("refunded_qty = refunded_qty + 1", "order_items_refunded"),
        ("restocked_qty = restocked_qty + 1", "order_items_restocked"),
        ("settled_qty = settled_qty + 1", "order_items_settled"),
        ("refunded_qty = -1", "order_items_refunded"),
    ):
        with pytest.raises(Violation, match=constraint):
            async with shop.stores.pg.once() as tx:
                await tx.execute(
                    f"UPDATE order_items SET {change} WHERE order_id = $1 AND sku = 'MUG'", UUID(made["id"])
                )


STATUSES = ("pending", "confirmed", "shipped", "delivered", "cancelled", "refunded")
ALLOWED = {
    ("pending", "confirmed"), ("confirmed", "shipped"), ("shipped", "delivered"), ("pending", "cancelled"),
    ("confirmed", "cancelled"), ("confirmed", "refunded"), ("shipped", "refunded"), ("delivered", "refunded"),
}  # fmt: skip


async def test_no_hand_in_the_data_makes_a_step_that_the_table_does_not_know(shop: Shop, till: Till) -> None:
    await till.stock("MUG", 100)
    async with shop.stores.pg.once() as tx:
        user_id = await tx.fetchval("INSERT INTO users (id, email) VALUES ($1, 'a@b.c') RETURNING id", uuid4())
    for start in STATUSES:
        async with shop.stores.pg.once() as tx:
            placed = await orders.place(tx, user_id, [("MUG", 1)])
        async with shop.stores.pg.tx() as tx:
            await tx.execute("SET LOCAL session_replication_role = replica")  # past the trigger, for once
            await tx.execute("UPDATE orders SET status = $2 WHERE id = $1", placed.id, start)
        for end in STATUSES:
            try:
                async with shop.stores.pg.tx() as tx:
                    await tx.execute("UPDATE orders SET status = $2 WHERE id = $1", placed.id, end)
                    raise Kept
            except Kept:
                assert (start, end) in ALLOWED, f"{start} became {end}"
            except Violation as refused:
                assert refused.sqlstate == "QT004"
                assert (start, end) not in ALLOWED, f"{start} can not become {end}"


class Kept(Exception):
    """The database let it pass; nothing of it is kept."""


@pytest.fixture
async def pg(shop: Shop) -> AsyncIterator[Postgres]:
    yield shop.stores.pg


sums = st.tuples(st.just("sum"), st.one_of(st.none(), st.integers(1, 2500)))
by_line = st.tuples(st.just("lines"), st.dictionaries(st.sampled_from(["MUG", "TEA"]), st.integers(1, 3), min_size=1))
asked = st.tuples(st.one_of(sums, by_line), st.booleans(), st.sampled_from(["succeeded", "failed", "pending"]))
deeds = st.one_of(asked, st.just("cancel"), st.just("settle"), st.just("comes back"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=st.lists(deeds, max_size=9))
async def test_any_sequence_of_refunds_adds_up(pg: Postgres, deeds: list[Any]) -> None:
    now = SystemClock().now()
    prices, ordered = {"MUG": 500, "TEA": 333}, {"MUG": 2, "TEA": 3}
    async with pg.tx() as tx:
        for sku, cents in prices.items():
            await inventory.put(tx, sku, sku, cents, currency="GBP", actor="test", stock=1000)
        user_id = await tx.fetchval("INSERT INTO users (id, email) VALUES ($1, $1::uuid::text) RETURNING id", uuid4())
        placed = await orders.place(tx, user_id, ordered.items())
        payment = await payments.start(tx, placed.id, user_id, "sandbox", now=now, ask=now)
        await payments.complete(tx, payment.id, payments.Outcome(str(payment.id), "succeeded"), now)

    # The model: cents and pieces that are free, on their way, back.
    left, free, open_pieces = 1999, Counter(ordered), Counter(ordered)
    promised: list[tuple[UUID, int, Counter[str] | None, bool, Counter[str]]] = []
    given: list[tuple[UUID, int, Counter[str] | None]] = []
    shelf, cancelled, whole = Counter[str](), False, False

    async def settle(refund_id: UUID, status: str) -> None:
        async with pg.tx() as tx:
            await payments.complete_refund(tx, refund_id, status, f"r_{refund_id}", now)

    def returned(pieces: Counter[str] | None, restock: bool, settles: Counter[str]) -> None:
        if restock and pieces is not None:
            shelf.update(settles)
        elif restock and not cancelled:
            shelf.update(open_pieces)
            open_pieces.clear()

    for deed in deeds:
        whole = whole or sum(sum_ for _, sum_, _ in given) == 1999
        if deed == "settle":
            for refund_id, sum_, pieces, restock, settles in promised:
                await settle(refund_id, "succeeded")
                returned(pieces, restock, settles)
                given.append((refund_id, sum_, pieces))
            promised = []
        elif deed == "comes back":
            if given:
                refund_id, sum_, pieces = given.pop()
                for _ in range(2):
                    async with pg.tx() as tx:
                        await payments.refund_came_back(tx, refund_id, now)
                await settle(refund_id, "succeeded")
                left += sum_
                free.update(pieces or {})
        elif deed == "cancel":
            try:
                async with pg.tx() as tx:
                    await orders.cancel(tx, placed.id)
                    rest = await payments.start_refund(
                        tx, placed.id, None, "cancelled", by=str(user_id), now=now, ask=now
                    )
            except orders.InvalidTransition:
                continue
            cancelled = True
            shelf.update(open_pieces)
            open_pieces.clear()
            if rest is not None:
                assert rest.amount_cents == left
                left = 0
                await settle(rest.id, "succeeded")
                given.append((rest.id, rest.amount_cents, None))
        else:
            (kind, what), restock, outcome = deed
            pieces = Counter(what) if kind == "lines" else None
            cents = sum(prices[s] * n for s, n in pieces.items()) if pieces else what if what else left
            fits = 0 < cents <= left and (pieces is None or all(n <= free[s] for s, n in pieces.items()))
            try:
                async with pg.tx() as tx:
                    given_back = await payments.start_refund(
                        tx, placed.id, None if pieces else what, "asked", by=str(user_id), restock=restock, now=now,
                        ask=now, items=None if pieces is None else list(pieces.items()),
                    )  # fmt: skip
            except orders.OverRefund:
                assert not fits, (deed, left, free)
                continue
            if given_back is None:
                assert left == 0
                continue
            assert fits, (deed, left, free)
            assert given_back.amount_cents == cents
            settles = Counter({s: min(n, open_pieces[s]) for s, n in (pieces or {}).items()})
            if outcome == "failed" and cancelled:
                outcome = "pending"
            if outcome == "failed":
                await settle(given_back.id, "failed")
                continue
            left -= cents
            free.subtract(pieces or {})
            open_pieces.subtract(settles)
            if outcome == "pending":
                promised.append((given_back.id, cents, pieces, restock, settles))
            else:
                await settle(given_back.id, "succeeded")
                given.append((given_back.id, cents, pieces))
                returned(pieces, restock, settles)
    for refund_id, _, pieces, restock, settles in promised:
        await settle(refund_id, "succeeded")
        returned(pieces, restock, settles)
    whole = whole or left == 0  # and stays so, whatever comes back

    async with pg.read() as read:
        found = await orders.get(read, placed.id)
        back = await read.fetch(
            """SELECT sku, sum(stock_delta)::int FROM inventory_movements
               WHERE order_id = $1 AND reason = 'returned' GROUP BY 1""",
            placed.id,
        )
        parts = await read.fetch(
            """SELECT sku, sum(p.amount_cents)::int FROM refund_items p JOIN refunds r ON r.id = refund_id
               WHERE order_id = $1 GROUP BY 1""",
            placed.id,
        )
    assert found.refunded_cents == 1999 - left == sum(r.amount_cents for r in found.refunds)
    assert {row[0]: row[1] for row in back} == {s: n for s, n in shelf.items() if n}
    assert all(r.amount_cents == sum(part.amount_cents for part in r.items) for r in found.refunds)
    assert all(0 <= row[1] <= prices[row[0]] * ordered[row[0]] for row in parts)
    assert found.status == ("cancelled" if cancelled else "refunded" if whole else "confirmed")


ours = st.tuples(st.just("ask"), st.sampled_from([300, 500, 1000, 1500, None]))
by_hand = st.tuples(st.just("by hand"), st.sampled_from([200, 500, 1000, 2000]))
told = st.sampled_from(["given", "refused", "back", "by hand is back"])


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(late=st.booleans(), deeds=st.lists(st.one_of(ours, by_hand, told), min_size=3, max_size=12))
async def test_any_sequence_of_refunds_of_ours_and_by_hand_adds_up(pg: Postgres, late: bool, deeds: list[Any]) -> None:
    """What was given by hand counts as soon as there is room for it, however that came about, and never twice."""
    now = SystemClock().now()
    async with pg.tx() as tx:
        await inventory.put(tx, "MUG", "MUG", 500, currency="GBP", actor="test", stock=1000)
        user_id = await tx.fetchval("INSERT INTO users (id, email) VALUES ($1, $1::uuid::text) RETURNING id", uuid4())
        placed = await orders.place(tx, user_id, [("MUG", 4)])
        payment = await payments.start(tx, placed.id, user_id, "sandbox", now=now, ask=now)
        if late:
            await orders.cancel(tx, placed.id)
        await payments.complete(tx, payment.id, Outcome(str(payment.id), "succeeded"), now)
        promised = [
            row[0] for row in await tx.fetch("SELECT id FROM payment_refunds WHERE payment_id = $1", payment.id)
        ]
    given_back: list[UUID] = []
    hands: list[Moved] = []

    async def do(tx: Tx, deed: Any) -> None:
        match deed:
            case ("ask", cents):
                by = str(user_id)
                made = await payments.start_refund(tx, placed.id, cents, "asked", by=by, now=now, ask=now)
                promised.extend([] if made is None else [made.id])
            case "given" | "refused" if promised:
                refund_id = promised.pop(0)
                status = "succeeded" if deed == "given" else "failed"
                done = await payments.complete_refund(tx, refund_id, status, f"r_{refund_id}", now)
                given_back.extend([done.id] if done.status == "succeeded" else [])
            case "back" if given_back:
                await payments.refund_came_back(tx, given_back.pop(), now)
            case ("by hand", cents):
                hands.append(Moved("refund", f"re_{uuid4()}", "", "", cents, "GBP", undone=False))
                await payments.note_moved(tx, payment.id, hands[-1], now)
            case "by hand is back" if hands:
                await payments.note_moved(tx, payment.id, replace(hands.pop(0), undone=True), now)

    for deed in deeds:
        with suppress(orders.OverRefund, orders.PaymentContested):
            async with pg.tx() as tx:
                await do(tx, deed)
        async with pg.read() as read:
            [(left, counted, given, ordered, booked, open_contests)] = await read.fetch(
                """SELECT left_of_payment(p.id), p.refunded_cents, (
                       SELECT coalesce(sum(amount_cents), 0)::bigint FROM payment_refunds
                       WHERE payment_id = p.id AND status = 'succeeded'), o.refunded_cents, (
                       SELECT coalesce(sum(amount_cents), 0)::bigint FROM refunds WHERE order_id = o.id), (
                       SELECT coalesce(array_agg(amount_cents), '{}') FROM payment_contests
                       WHERE payment_id = p.id AND settled_at IS NULL)
                   FROM payments p JOIN orders o ON o.id = p.order_id WHERE p.id = $1""",
                payment.id,
            )
        assert counted == given, (deed, counted, given)
        assert ordered == booked == (0 if late else given), (deed, ordered, booked, given)
        assert left >= 0
        assert [cents for cents in open_contests if cents <= left] == [], (deed, left, open_contests)
