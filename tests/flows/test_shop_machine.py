"""A shop in a hundred lines of Python, and the real one beside it: whatever is done to both, they agree."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from till import Json, Till

from conftest import SignIn
from quartet.checkout import recover
from quartet.kernel.settings import Settings
from quartet.payments import Outcome, open_providers
from quartet.payments.providers.sandbox import SIGNATURE, Sandbox
from quartet.web.dependencies import Shop

T = TypeVar("T")

PRICES = {"MUG": 500, "TEA": 325, "PEN": 7}
FIRST_STOCK = 20
SETTLE = """UPDATE sandbox.charges SET settles_at = clock_timestamp(), decline_code = $2
            WHERE reference = $1 RETURNING id"""


@dataclass
class ModelOrder:
    """What the model knows of an order."""

    items: dict[str, int]
    status: str = "pending"
    lapsed: bool = False
    expired: bool = False
    pending_payment: str = ""
    refunded: int = 0
    restocked: bool = False
    paid: bool = False

    @property
    def total(self) -> int:
        return sum(PRICES[sku] * qty for sku, qty in self.items.items())

    @property
    def left(self) -> int:
        return self.total - self.refunded if self.paid else 0


@dataclass
class Model:
    """The shop without its stores."""

    stock: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PRICES, FIRST_STOCK))
    cart: dict[str, int] = field(default_factory=dict)
    orders: dict[str, ModelOrder] = field(default_factory=dict)

    def reserved(self, sku: str) -> int:
        return sum(o.items.get(sku, 0) for o in self.orders.values() if o.status == "pending")

    def available(self, sku: str) -> int:
        return self.stock[sku] - self.reserved(sku)

    def shortages(self, items: dict[str, int]) -> list[Json]:
        return [
            {"sku": sku, "requested": items[sku], "available": self.available(sku)}
            for sku in sorted(items)
            if items[sku] > self.available(sku)
        ]

    def payable(self, order: ModelOrder) -> str:
        """Empty, or the problem there is."""
        if order.status != "pending" or order.lapsed:
            return "order-not-payable"
        return "payment-in-progress" if order.pending_payment else ""

    def captured(self, order: ModelOrder) -> None:
        """The provider has the money: the order is sold, or the money goes back."""
        order.pending_payment = ""
        if order.expired and not self.shortages(order.items):
            order.status, order.expired = "pending", False
        if order.status != "pending":
            return
        order.status, order.paid = "confirmed", True
        for sku, qty in order.items.items():
            self.stock[sku] -= qty
            if sku in self.cart:
                self.cart[sku] -= qty
                if self.cart[sku] <= 0:
                    del self.cart[sku]

    def cancel(self, order: ModelOrder) -> None:
        if order.status == "confirmed":
            self.put_back(order)
            order.refunded = order.total
        order.status = "cancelled"

    def put_back(self, order: ModelOrder) -> None:
        if not order.restocked:
            order.restocked = True
            for sku, qty in order.items.items():
                self.stock[sku] += qty

    def refund(self, order: ModelOrder, cents: int, restock: bool) -> None:
        if restock:
            self.put_back(order)
        order.refunded += cents
        if order.refunded == order.total:
            order.status = "refunded"


class World:
    """The real shop, driven from the machine's thread."""

    def __init__(self, shop: Shop, app: FastAPI, sign_in: SignIn, loop: asyncio.AbstractEventLoop) -> None:
        self.shop, self.app, self.sign_in, self.loop = shop, app, sign_in, loop
        self.till = Till(shop)
        self.sandbox = Sandbox(shop.settings, shop.stores.pg)
        self.staff: httpx.AsyncClient = self.do(sign_in("staff"))

    def do(self, work: Awaitable[T]) -> T:
        async def done() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(30)


def machine(world: World) -> type[RuleBasedStateMachine]:
    """The state machine over this world."""

    orders = st.integers(0, 3)  # the newest is 0
    skus = st.sampled_from(sorted(PRICES))

    class ShopMachine(RuleBasedStateMachine):
        """Each run has a shopper and goods of its own in the same shop."""

        @initialize()
        def open(self) -> None:
            self.model = Model()
            self.name = uuid4().hex[:8]
            self.shopper: Any = world.do(world.sign_in())
            self.last: tuple[str, Json, str, httpx.Response] | None = None
            for sku, cents in PRICES.items():
                world.do(world.till.stock(self.sku(sku), FIRST_STOCK, cents))
            self.order_items({"MUG": 2, "PEN": 1})

        def sku(self, sku: str) -> str:
            return f"{sku}-{self.name}"

        def lines(self, items: dict[str, int]) -> list[Json]:
            return [{"sku": self.sku(sku), "qty": qty} for sku, qty in items.items()]

        def post(self, path: str, body: Json, client: httpx.AsyncClient | None = None) -> httpx.Response:
            key = uuid4().hex
            answer: httpx.Response = world.do(
                (client or self.shopper).post(path, json=body, headers={"Idempotency-Key": key})
            )
            if client is None:
                self.last = (path, body, key, answer)
            assert answer.status_code < 500 or answer.status_code == 502, answer.text
            return answer

        def picked(self, n: int) -> tuple[str, ModelOrder]:
            order_id = list(self.model.orders)[-1 - n % len(self.model.orders)]
            return order_id, self.model.orders[order_id]

        @rule(sku=skus, qty=st.integers(1, 4))
        def put_into_cart(self, sku: str, qty: int) -> None:
            self.model.cart[sku] = self.model.cart.get(sku, 0) + qty
            cart = f"cart:{{{self.shopper.user_id}}}"
            world.do(world.shop.stores.redis.call("HINCRBY", cart, self.sku(sku), qty))

        @rule()
        def order_the_cart(self) -> None:
            answer = self.post("/orders", {})
            if not self.model.cart:
                assert answer.status_code == 422
            else:
                self.ordered(answer, dict(self.model.cart))

        @rule(items=st.dictionaries(skus, st.integers(1, 9), min_size=1))
        def order_items(self, items: dict[str, int]) -> None:
            self.ordered(self.post("/orders", {"items": self.lines(items)}), items)

        def ordered(self, answer: httpx.Response, items: dict[str, int]) -> None:
            if short := self.model.shortages(items):
                assert answer.status_code == 409
                assert answer.json()["shortages"] == [s | {"sku": self.sku(s["sku"])} for s in short]
                return
            assert answer.status_code == 201, answer.text
            order = ModelOrder(items)
            assert answer.json()["totalCents"] == order.total
            self.model.orders[answer.json()["id"]] = order

        @rule(sku=skus, qty=st.integers(1, 2))
        def buy(self, sku: str, qty: int) -> None:
            before = len(self.model.orders)
            self.order_items({sku: qty})
            if len(self.model.orders) > before:
                self.paid_by("card_ok", 0)

        @rule(n=orders)
        def pay(self, n: int) -> None:
            self.paid_by("card_ok", n)

        @rule(n=orders, card=st.sampled_from(["card_async", "card_async", "card_declined", "card_error"]))
        def pay_by_a_strange_card(self, n: int, card: str) -> None:
            self.paid_by(card, n)

        def paid_by(self, card: str, n: int) -> None:
            order_id, order = self.picked(n)
            body = {"orderId": order_id, "provider": "sandbox", "paymentMethod": card}
            answer = self.post("/payments", body)
            if problem := self.model.payable(order):
                assert (answer.status_code, answer.json()["type"]) == (409, f"/problems/{problem}")
            elif card == "card_declined":
                assert answer.status_code == 402
            elif card == "card_error":
                assert answer.status_code == 502
                self.last = None  # a failure is no first answer
            elif card == "card_async":
                assert (answer.status_code, answer.json()["status"]) == (201, "pending")
                order.pending_payment = answer.json()["id"]
            else:
                assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
                self.model.captured(order)

        @rule(times=st.integers(1, 2), succeeds=st.booleans())
        def the_webhook_comes(self, times: int, succeeds: bool) -> None:
            order = next((o for o in self.model.orders.values() if o.pending_payment), None)
            if order is None:
                return
            payment = order.pending_payment
            outcome = world.do(world.sandbox.look_up(payment, None))
            assert outcome is not None
            said = Outcome(outcome.provider_ref, "succeeded" if succeeds else "failed", None if succeeds else "expired")
            body = world.sandbox.event(payment, said)
            headers = {SIGNATURE: world.sandbox.sign(body, world.shop.clock.now())}
            world.do(world.till.rows(SETTLE, payment, said.decline_code))
            for _ in range(times):
                answer = world.do(self.shopper.post("/webhooks/sandbox", content=body, headers=headers))
                assert answer.status_code == 200
            if succeeds:
                self.model.captured(order)
            else:
                order.pending_payment = ""

        @rule(n=orders, by_staff=st.booleans())
        def cancel(self, n: int, by_staff: bool) -> None:
            order_id, order = self.picked(n)
            answer = self.post(f"/orders/{order_id}/cancel", {}, world.staff if by_staff else None)
            if order.status in ("pending", "confirmed"):
                assert answer.status_code == 200, answer.text
                self.model.cancel(order)
                assert answer.json()["refundedCents"] == order.refunded
            else:
                assert (answer.status_code, answer.json()["type"]) == (409, "/problems/invalid-transition")

        @rule(n=orders, cents=st.none() | st.integers(1, 1500), restock=st.booleans())
        def refund(self, n: int, cents: int | None, restock: bool) -> None:
            order_id, order = self.picked(n)
            body: Json = {"restock": restock} | ({} if cents is None else {"amountCents": cents})
            answer = self.post(f"/orders/{order_id}/refunds", body, world.staff)
            asked = order.left if cents is None else cents
            if 0 < asked <= order.left:
                assert answer.status_code == 201, answer.text
                self.model.refund(order, asked, restock)
            else:
                assert (answer.status_code, answer.json()["refundableCents"]) == (409, order.left)

        @rule(n=orders)
        def ship(self, n: int) -> None:
            order_id, order = self.picked(n)
            answer = world.do(world.staff.post(f"/orders/{order_id}/ship"))
            assert answer.status_code == (200 if order.status == "confirmed" else 409)
            if order.status == "confirmed":
                order.status = "shipped"

        @rule(n=orders)
        def an_orders_time_runs_out(self, n: int) -> None:
            order_id, order = self.picked(n)
            if order.status != "pending":
                return
            order.lapsed = True
            sql = "UPDATE orders SET expires_at = now() - interval '1 minute' WHERE id = $1 RETURNING id"
            world.do(world.till.rows(sql, order_id))

        @rule(sweeps=st.integers(1, 3))
        def recover(self, sweeps: int) -> None:
            async def at_once() -> None:
                providers = open_providers(world.shop.settings, world.shop.stores.pg)
                await asyncio.gather(*(recover(world.shop, providers) for _ in range(sweeps)))

            world.do(at_once())
            for order in self.model.orders.values():
                if order.status == "pending" and order.lapsed:
                    self.model.cancel(order)
                    order.expired = True

        @precondition(lambda self: getattr(self, "last", None) is not None)
        @rule()
        def the_last_request_again(self) -> None:
            assert self.last is not None
            path, body, key, first = self.last
            if first.status_code == 422:  # what was not valid is no first answer
                return
            again = world.do(self.shopper.post(path, json=body, headers={"Idempotency-Key": key}))
            assert (again.status_code, again.content) == (first.status_code, first.content)
            assert again.headers["idempotent-replayed"] == "true"

        @invariant()
        def the_books_agree(self) -> None:
            if hasattr(self, "model"):
                world.do(self.compare())

        async def compare(self) -> None:
            rows = await world.till.rows(
                "SELECT sku, stock, reserved FROM inventory WHERE sku LIKE $1", f"%-{self.name}"
            )
            found = {row["sku"]: (row["stock"], row["reserved"]) for row in rows}
            model = self.model
            assert found == {self.sku(s): (model.stock[s], model.reserved(s)) for s in PRICES}
            rows = await world.till.rows(
                """SELECT o.id::text, o.status, o.refunded_cents,
                          (SELECT coalesce(sum(c.amount_cents - coalesce((
                              SELECT sum(r.amount_cents) FROM sandbox.refunds r WHERE r.charge = c.reference), 0)), 0)
                           FROM payments p JOIN sandbox.charges c ON c.reference = p.id::text
                           WHERE p.order_id = o.id AND c.decline_code IS NULL
                             AND c.settles_at <= clock_timestamp())::bigint AS taken,
                          (SELECT count(*) FROM payments p
                           WHERE p.order_id = o.id AND p.status IN ('pending', 'succeeded')) AS open
                   FROM orders o WHERE o.user_id = $1""",
                self.shopper.user_id,
            )
            assert {row["id"] for row in rows} == set(model.orders)
            for row in rows:
                order = model.orders[row["id"]]
                assert (row["status"], row["refunded_cents"], row["taken"]) == (
                    order.status, order.refunded, order.left,
                )  # fmt: skip
                assert row["open"] <= 1
            cart = await world.shop.stores.redis.call("HGETALL", f"cart:{{{self.shopper.user_id}}}")
            assert {sku: int(qty) for sku, qty in cart.items()} == {self.sku(s): q for s, q in model.cart.items()}

    return ShopMachine


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Webhooks come when the machine says so."""
    return settings.model_copy(update={"sandbox_async_seconds": 3600.0, "limit_pay": 100_000, "limit_write": 100_000})


async def test_the_shop_and_its_model_agree(shop: Shop, app: FastAPI, sign_in: SignIn) -> None:
    loop = asyncio.get_running_loop()

    def run() -> None:
        world = World(shop, app, sign_in, loop)
        run_state_machine_as_test(
            machine(world),
            settings=hypothesis_settings(
                max_examples=30,
                stateful_step_count=30,
                suppress_health_check=list(HealthCheck),
                database=None,
                print_blob=True,
                phases=[Phase.generate],  # a failure is shown as it was found: making it smaller takes minutes
            ),
        )

    await asyncio.to_thread(run)
