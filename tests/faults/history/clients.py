"""People at several API processes who buy, pay, cancel and give back at the same time, and remember every answer.

A program is what each of them will do; orders are named by number, so that they meddle with each other's. What got no
answer is asked again under its key, unless somebody gives up; then nobody knows.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
from crowd import ORDERS, postgres_answers, recover_until_quiet
from furnished import new_token
from hypothesis import strategies as st

from history.checker import NEVER, Verdict
from history.make import judged
from history.model import TAKING, Call
from quartet import inventory, orders
from quartet.accounts import create_user
from quartet.kernel.clock import FixedClock
from quartet.kernel.errors import StoreUnavailable
from quartet.web.dependencies import Shop

Json = dict[str, Any]
CENTS = 500
SHELVES = 3
CARDS = (*TAKING, *TAKING, "card_declined", "card_error")


@dataclass(frozen=True)
class Do:
    """One deed of a program; `order` and `sku` count round those that there are."""

    name: str
    order: int = 0
    sku: int = 0
    lines: tuple[tuple[int, int], ...] = ()
    card: str = "card_ok"
    cents: int | None = None
    restock: bool = False
    delta: int = 1


_NUMBER, _SKU = st.integers(0, 7), st.integers(0, SHELVES - 1)
_LINE = st.tuples(_SKU, st.integers(1, 2))
_PLACE = st.builds(
    Do, st.just("place"), lines=st.lists(_LINE, min_size=1, max_size=2, unique_by=lambda line: line[0]).map(tuple)
)
_PAY = st.builds(Do, st.just("pay"), _NUMBER, card=st.sampled_from(CARDS))
_DEED = st.one_of(
    _PLACE, _PAY, _PAY,
    st.builds(Do, st.sampled_from(["cancel", "cancel", "ship", "look"]), _NUMBER),
    st.builds(
        Do, st.just("refund"), _NUMBER, cents=st.sampled_from([None, 1, CENTS, 2 * CENTS]), restock=st.booleans()
    ),
    st.builds(Do, st.just("move_stock"), sku=_SKU, delta=st.sampled_from([-2, -1, 1, 2])),
    st.builds(Do, st.sampled_from(["shelf", "expire"]), sku=_SKU),
)  # fmt: skip

Program = tuple[Sequence[int], Sequence[Sequence[Do]]]


def programs(clients: int, deeds: int) -> st.SearchStrategy[Program]:
    """The shelves at the start, and what each client does: first of all an order."""
    one = st.tuples(_PLACE, st.lists(_DEED, min_size=deeds // 2, max_size=deeds)).map(
        lambda found: [found[0], *found[1]]
    )
    shelves = st.lists(st.integers(1, 5), min_size=SHELVES, max_size=SHELVES)
    return st.tuples(shelves, st.lists(one, min_size=2, max_size=clients))


@dataclass
class Clients:
    """Shoppers with one account and a colleague, at these processes. `patience`: how often they ask again."""

    shop: Shop
    urls: Sequence[str]
    dice: random.Random
    patience: int = 40
    calls: list[Call] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    _ids: dict[str, str] = field(default_factory=dict)
    _lines: dict[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    _open: list[tuple[Call, str, str, Json, str]] = field(default_factory=list)
    _headers: dict[str, dict[str, str]] = field(default_factory=dict)
    _before: set[str] = field(default_factory=set)
    _skus: list[str] = field(default_factory=list)
    stock: dict[str, int] = field(default_factory=dict)
    _http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=15))

    async def run(self, parts: Sequence[Sequence[Do]]) -> None:
        """Everybody at once, each one deed after the other."""
        await asyncio.gather(*(self._client(part) for part in parts))

    async def open(self, shelves: Sequence[int]) -> None:
        """Goods, a shopper, a colleague; once PostgreSQL answers again, if it was killed just before."""
        await postgres_answers(self.shop)
        async with self.shop.stores.pg.read() as read:
            self._before = {str(row["id"]) for row in await read.fetch("SELECT id FROM orders")}
        self._skus = [f"H-{uuid4().hex[:8]}" for _ in shelves]
        self.stock = dict(zip(self._skus, shelves, strict=True))
        async with self.shop.stores.pg.tx() as tx:
            for sku, stock in self.stock.items():
                await inventory.put(tx, sku, sku, CENTS, currency="GBP", actor="test", stock=stock)
            for name, roles in (("shopper", ()), ("staff", ("staff",))):
                user = await create_user(tx, f"{uuid4().hex[:12]}@example.com", None, name, roles=roles)
                self._headers[name] = {"user": str(user.id), "roles": ",".join(roles)}
        for name, who in list(self._headers.items()):
            token = await new_token(self.shop, UUID(who["user"]), *filter(None, who["roles"].split(",")))
            self._headers[name] = {"Authorization": f"Bearer {token}"}

    async def _client(self, deeds: Sequence[Do]) -> None:
        for do in deeds:
            await asyncio.sleep(self.dice.uniform(0, 0.01))
            names = list(self._ids)
            if do.name == "place":
                await self._place(do)
            elif do.name in ("shelf", "move_stock"):
                await self._at_the_shelf(do, self._skus[do.sku])
            elif do.name == "expire":
                await self._expire()
            elif names:
                await self._with_an_order(do, names[do.order % len(names)])

    async def _place(self, do: Do) -> None:
        name = f"o{len(self._lines)}"
        lines = self._lines[name] = tuple((self._skus[sku], qty) for sku, qty in do.lines)
        body = {"items": [{"sku": sku, "qty": qty} for sku, qty in lines]}
        await self._ask("shopper", "/orders", body, Call("place", _now(), NEVER, None, order=name, lines=lines))

    async def _with_an_order(self, do: Do, name: str) -> None:
        order_id, path = self._ids[name], f"/orders/{self._ids[name]}"
        call = Call(do.name, _now(), NEVER, None, order=name, card=do.card, cents=do.cents, restock=do.restock)
        if do.name == "look":
            await self._look(path, call, lambda body: (body["status"], body["refundedCents"]))
        elif do.name == "pay":
            payment = {"orderId": order_id, "provider": "sandbox", "paymentMethod": do.card}
            await self._ask("shopper", "/payments", payment, call)
        elif do.name == "refund":
            body: dict[str, Any] = {"restock": do.restock} | ({} if do.cents is None else {"amountCents": do.cents})
            await self._ask("staff", f"{path}/refunds", body, call)
        else:
            by = "staff" if do.name == "ship" else self.dice.choice(["shopper", "staff"])
            await self._ask(by, f"{path}/{do.name}", {}, call)

    async def _at_the_shelf(self, do: Do, sku: str) -> None:
        call = Call(do.name, _now(), NEVER, None, sku=sku, delta=do.delta)
        if do.name == "shelf":
            await self._look(f"/inventory/{sku}", call, lambda body: (body["stock"], body["reserved"]))
        else:
            await self._ask("staff", f"/inventory/{sku}/movements", {"delta": do.delta, "reason": "adjusted"}, call)

    async def _expire(self) -> None:
        """The worker's sweep, a day on: it may miss an order that somebody has at hand."""
        begin = _now()
        try:
            async with self.shop.stores.pg.tx() as tx:
                later = self.shop.clock.now() + timedelta(days=1)
                expired = [str(order_id) for order_id in await orders.expire_due(tx, 100, later)]
        except StoreUnavailable:
            self.calls += [Call("expire", begin, NEVER, None, order=name) for name in self._lines]
            return
        # One that has no name yet was placed by a request whose answer is still on its way.
        ours = [f"id {order_id}" for order_id in expired if order_id not in self._before]
        self.calls += [Call("expire", begin, _now(), "yes", order=order) for order in ours]

    async def _look(self, path: str, call: Call, told: Any) -> None:
        """What got no answer told nobody anything."""
        try:
            answer = await self._http.get(self.dice.choice(self.urls) + path, headers=self._headers["staff"])
        except httpx.TransportError:
            return
        if answer.status_code == 200:
            self.calls.append(replace(call, end=_now(), said="yes", told=told(answer.json())))
        elif answer.status_code < 503:
            self.strange.append(f"{path}: {answer.status_code} {answer.text}")

    async def _ask(self, by: str, path: str, body: Json, call: Call, key: str = "") -> None:
        key = key or str(uuid4())
        # Sending is no moved money; it has no key, and nobody sends a parcel twice.
        for tried in range(1 if call.name == "ship" else self.patience):
            answer = await self._once(by, path, body, key)
            if answer is not None:
                self._remember(call, answer, again=tried > 0)
                return
            if self.dice.random() < 0.1:
                break
            await asyncio.sleep(self.dice.uniform(0.02, 0.2))
        self._open.append((call, by, path, body, key))

    async def _once(self, by: str, path: str, body: Json, key: str) -> httpx.Response | None:
        headers = self._headers[by] | {"Idempotency-Key": key}
        try:
            answer = await self._http.post(self.dice.choice(self.urls) + path, json=body, headers=headers)
        except httpx.TransportError:
            return None
        return None if answer.status_code in (503, 504) or _slug(answer) == "request-in-progress" else answer

    def _remember(self, call: Call, answer: httpx.Response, *, again: bool) -> None:
        """`again`: not at its first asking, so that an earlier one may have left something under way for a while."""
        said, told = _slug(answer) or "yes", None
        body = answer.json()
        if call.name == "place" and said == "yes":
            self._ids[call.order] = body["id"]
        elif call.name in ("pay", "refund") and said == "yes":
            told = body["amountCents"] if call.name == "refund" else None
            said = "yes" if body["status"] == "succeeded" else f"yes, {body['status']}"
        elif said == "insufficient-stock":
            told = {short["sku"]: short["available"] for short in body["shortages"]}
        elif said == "over-refund":
            told = body["refundableCents"]
        elif said == "stock-out-of-bounds":
            told = (body["stock"], body["reserved"])
        elif said == "order-not-payable" and "paymentId" in body:
            told = "too late"
        elif said == "order-not-payable" and again:
            told = "asked again"
        elif answer.status_code >= 500 and said != "provider-error":
            self.strange.append(f"{call}: {answer.status_code} {answer.text}")
        self.calls.append(replace(call, end=_now(), said=said, told=told))

    async def settle(self) -> None:
        """What a worker would have done by tomorrow; every key asked once more; a last look at everything."""
        clock = FixedClock(self.shop.clock.now() + timedelta(minutes=10))
        await recover_until_quiet(replace(self.shop, clock=clock))
        for call, by, path, body, key in self._open:
            answer = None
            for _ in range(50 if call.name != "ship" else 0):  # a process may not know yet that PostgreSQL is back
                if (answer := await self._once(by, path, body, key)) is not None:
                    break
                await asyncio.sleep(0.1)
            if answer is not None:
                self._remember(call, answer, again=True)
            else:
                self.calls.append(call)
                if call.name != "ship":
                    self.strange.append(f"{call} has no answer after recovery")
        await recover_until_quiet(replace(self.shop, clock=clock))
        for name, order_id in self._ids.items():
            look = Call("look", _now(), NEVER, None, order=name)
            await self._look(f"/orders/{order_id}", look, lambda body: (body["status"], body["refundedCents"]))
        for sku in self._skus:
            look = Call("shelf", _now(), NEVER, None, sku=sku)
            await self._look(f"/inventory/{sku}", look, lambda body: (body["stock"], body["reserved"]))
        await self._ask_the_provider()
        await self._http.aclose()

    async def _ask_the_provider(self) -> None:
        begin = _now()
        async with self.shop.stores.pg.read() as read:
            taken = {str(row["id"]): row["taken"] for row in await read.fetch(ORDERS)}
        for name in self._lines:
            if name in self._ids:
                told = taken[self._ids[name]]
                self.calls.append(Call("provider", begin, _now(), "yes", order=name, told=told))
            elif any(call.said == "yes" for call in self.calls if (call.name, call.order) == ("place", name)):
                self.strange.append(f"{name} was placed and is not there")

    def verdict(self) -> Verdict:
        """Whether all of it is possible. Raises Undecided."""
        names = {f"id {order_id}": name for name, order_id in self._ids.items()}
        calls = [replace(call, order=names.get(call.order, call.order)) for call in self.calls]
        lost = [call for call in calls if call.order.startswith("id ")]
        self.strange += [f"an order that nobody knows expired: {call}" for call in lost]
        return judged([call for call in calls if call not in lost], self.stock, CENTS)


def _slug(answer: httpx.Response) -> str:
    return str(answer.json().get("type", "")).removeprefix("/problems/") if answer.status_code >= 400 else ""


def _now() -> float:
    return time.monotonic()
