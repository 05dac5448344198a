"""Stock and orders against a model in plain Python: whatever is done to both, shelves, ledger and orders agree."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import cashier
from quartet import inventory, orders
from quartet.kernel.ids import new_id
from quartet.kernel.settings import Settings
from quartet.stores.postgres import Postgres, Violation

T = TypeVar("T")

PRICES = {"CUP": 250, "mug": 501, "Pot": 3, "free": 0}
STEPS = {
    ("pending", "confirmed"), ("confirmed", "shipped"), ("shipped", "delivered"),
    ("pending", "cancelled"), ("confirmed", "cancelled"),
}  # fmt: skip


@dataclass
class Placed:
    """What the model knows of an order."""

    lines: Counter[str]
    lapsed: bool
    status: str = "pending"
    captured: int = 0
    refunded: int = 0
    back_on_shelf: bool = False

    @property
    def total(self) -> int:
        return sum(PRICES[sku] * qty for sku, qty in self.lines.items())


@dataclass
class Books:
    """The model: stock by SKU, and the orders."""

    stock: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(PRICES, 20)))
    orders: dict[UUID, Placed] = field(default_factory=dict)

    def reserved(self, sku: str) -> int:
        return sum(order.lines[sku] for order in self.orders.values() if order.status == "pending")

    def available(self, sku: str) -> int:
        return self.stock[sku] - self.reserved(sku)

    def cancel(self, order: Placed) -> None:
        if order.status == "confirmed" and not order.back_on_shelf:
            self.stock += order.lines
        order.status = "cancelled"


@pytest.fixture
async def pg(settings: Settings) -> AsyncIterator[Postgres]:
    assert settings.postgres_url is not None
    pg = Postgres(settings.postgres_url, size=2)
    yield pg
    await pg.close()


def machine(pg: Postgres, loop: asyncio.AbstractEventLoop) -> type[RuleBasedStateMachine]:
    """The machine runs in a thread of its own; what it does to the shop runs on the tests' loop."""
    skus, pieces, picks = st.sampled_from(sorted(PRICES)), st.integers(1, 9), st.integers(0, 1000)

    def do(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    def has_orders(self: "StockMachine") -> bool:
        return bool(self.books.orders)

    class StockMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.books = Books()
            self.user = new_id()
            do(self.open())

        async def open(self) -> None:
            async with pg.tx() as tx:
                await tx.execute("SET LOCAL session_replication_role = replica")
                await tx.execute("TRUNCATE users, inventory, inventory_movements, orders, outbox CASCADE")
            async with pg.tx() as tx:
                await tx.execute("INSERT INTO users (id, email) VALUES ($1, $1::uuid::text)", self.user)
                for sku, cents in PRICES.items():
                    await inventory.put(tx, sku, sku, cents, stock=20, currency="GBP", actor="test")

        def picked(self, number: int) -> tuple[UUID, Placed]:
            return list(self.books.orders.items())[number % len(self.books.orders)]

        @rule(lines=st.lists(st.tuples(skus, pieces), min_size=1, max_size=5), lapsed=st.booleans())
        def place(self, lines: list[tuple[str, int]], lapsed: bool) -> None:
            async def placed() -> orders.Order:
                async with pg.once() as tx:
                    return await orders.place(tx, self.user, lines, hold=timedelta(seconds=-1 if lapsed else 900))

            wanted: Counter[str] = Counter()
            for sku, qty in lines:
                wanted[sku] += qty
            short = [
                {"sku": sku, "requested": qty, "available": self.books.available(sku)}
                for sku, qty in sorted(wanted.items())
                if qty > self.books.available(sku)
            ]
            try:
                order = do(placed())
            except orders.InsufficientStock as told:
                assert told.members["shortages"] == short
            else:
                assert not short
                self.books.orders[order.id] = Placed(wanted, lapsed)
                assert order.total_cents == self.books.orders[order.id].total

        @precondition(has_orders)
        @rule(number=picks, to=st.sampled_from(["confirmed", "shipped", "delivered", "cancelled"]))
        def step(self, number: int, to: str) -> None:
            order_id, order = self.picked(number)
            deeds: dict[str, Any] = {
                "confirmed": cashier.confirm, "shipped": orders.ship, "delivered": orders.deliver,
                "cancelled": orders.cancel,
            }  # fmt: skip

            async def stepped() -> orders.Order:
                async with pg.tx() as tx:
                    found: orders.Order = await deeds[to](tx, order_id, by="test")
                    return found

            allowed = (order.status, to) in STEPS
            try:
                found = do(stepped())
            except orders.InvalidTransition as told:
                assert not allowed and told.members == {"from": order.status, "to": to}
                return
            assert allowed and found.status == to
            if to == "cancelled":
                self.books.cancel(order)
                return
            if to == "confirmed":
                self.books.stock -= order.lines
                order.captured = order.total
            order.status = to

        @precondition(has_orders)
        @rule(number=picks, cents=st.none() | st.integers(1, 4000), restock=st.booleans())
        def refund(self, number: int, cents: int | None, restock: bool) -> None:
            order_id, order = self.picked(number)

            async def refunded() -> orders.OrderRefund:
                async with pg.tx() as tx:
                    return await cashier.refund(tx, order_id, cents, restock=restock)

            left = order.captured - order.refunded
            asked = left if cents is None else cents
            try:
                found = do(refunded())
            except orders.InvalidTransition:
                assert order.captured == 0
                return
            except orders.OverRefund as told:
                assert order.captured and not 0 < asked <= left and told.members["refundable_cents"] == left
                return
            assert 0 < asked <= left and found.amount_cents == asked
            order.refunded += asked
            assert found.restocked == (restock and order.status != "cancelled" and not order.back_on_shelf)
            if found.restocked:
                self.books.stock += order.lines
                order.back_on_shelf = True
            if asked == left and order.status != "cancelled":
                order.status = "refunded"

        @rule(limit=st.integers(1, 5))
        def expire(self, limit: int) -> None:
            async def expired() -> list[UUID]:
                async with pg.tx() as tx:
                    return await orders.expire_due(tx, limit)

            due = [key for key, order in self.books.orders.items() if order.lapsed and order.status == "pending"]
            found = do(expired())
            assert found == due[:limit]
            for order_id in found:
                self.books.cancel(self.books.orders[order_id])

        @rule(sku=skus, delta=st.integers(-25, 25).filter(bool))
        def move(self, sku: str, delta: int) -> None:
            async def moved() -> inventory.Movement:
                async with pg.once() as tx:
                    return await inventory.move(tx, sku, delta, "adjusted", actor="test")

            fits = self.books.stock[sku] + delta >= self.books.reserved(sku)
            try:
                do(moved())
            except inventory.StockOutOfBounds as told:
                assert not fits
                assert (told.members["stock"], told.members["reserved"]) == (
                    self.books.stock[sku], self.books.reserved(sku),
                )  # fmt: skip
            else:
                assert fits
                self.books.stock[sku] += delta

        @rule(sku=skus, stock=st.integers(0, 40), by_hand=st.booleans())
        def set_stock(self, sku: str, stock: int, by_hand: bool) -> None:
            async def put() -> None:
                async with pg.tx() as tx:
                    if by_hand:
                        await tx.execute("UPDATE inventory SET stock = $2 WHERE sku = $1", sku, stock)
                    else:
                        await inventory.put(tx, sku, sku, PRICES[sku], stock=stock, currency="GBP", actor="test")

            try:
                do(put())
            except (inventory.StockOutOfBounds, Violation):
                assert stock < self.books.reserved(sku)
            else:
                assert stock >= self.books.reserved(sku)
                self.books.stock[sku] = stock

        @invariant()
        def the_books_agree(self) -> None:
            do(self.compare())

        async def compare(self) -> None:
            async with pg.read() as read:
                shelves = await read.fetch("SELECT sku, stock, reserved FROM inventory")
                ledger = await read.fetch(
                    "SELECT sku, sum(stock_delta), sum(reserved_delta) FROM inventory_movements GROUP BY sku"
                )
                found = await read.fetch(
                    """SELECT o.id, o.status, o.captured_cents, o.refunded_cents,
                              (SELECT coalesce(sum(p.amount_cents), 0) FROM refunds r
                               JOIN refund_items p ON p.refund_id = r.id WHERE r.order_id = o.id) AS parts
                       FROM orders o"""
                )
            books = self.books
            want = {sku: (books.stock[sku], books.reserved(sku)) for sku in PRICES}
            assert {row[0]: (row[1], row[2]) for row in shelves} == want
            assert {row[0]: (row[1], row[2]) for row in ledger} == want
            assert {row[0]: tuple(row)[1:] for row in found} == {
                key: (order.status, order.captured, order.refunded, order.refunded)
                for key, order in books.orders.items()
            }

    return StockMachine


async def test_shelves_ledger_and_orders_agree_with_the_model(pg: Postgres) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(
        run_state_machine_as_test,
        machine(pg, loop),
        settings=hypothesis_settings(
            max_examples=25,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
            database=None,
            print_blob=True,
        ),
    )
