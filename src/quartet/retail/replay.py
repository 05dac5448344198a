"""Buys real baskets of the retailer's year over HTTP, as shoppers would, and measures it.

A closed model: each buyer makes one request after another, so the load adapts to the shop's speed, and the latencies
lack the queueing that an open model would show ("coordinated omission"). Read p99 with that in mind.
"""

import asyncio
import math
import random
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from quartet.retail.dataset import Unread, opened, read
from quartet.retail.model import SERVICES, Line, refusal

# After so many tries an unavailable server counts as a failure.
_TRIES = 6


@dataclass(frozen=True)
class Basket:
    """The purchases of one invoice: SKU and pieces, lines of the same SKU added up."""

    invoice: str
    items: tuple[tuple[str, int], ...]


def baskets(path: Path, month: str, count: int, seed: int) -> list[Basket]:
    """`count` random baskets of one month (`2010-12`), determined by `seed`; repeated if there are fewer."""
    with opened(path) as (text, _):
        found = list(_baskets(line for line in _month(read(text), month) if refusal(line) is None))
    if not found:
        return []
    draw = random.Random(seed)
    drawn: list[Basket] = []
    while len(drawn) < count:
        drawn += draw.sample(found, min(len(found), count - len(drawn)))
    return drawn


def _month(lines: Iterable[Line | Unread], month: str) -> Iterator[Line]:
    """The month's lines; the file is in order of time, so reading stops after it."""
    for line in lines:
        if isinstance(line, Line):
            at = f"{line.at:%Y-%m}"
            if at == month:
                yield line
            elif at > month:
                return


def _baskets(lines: Iterable[Line]) -> Iterator[Basket]:
    for invoice, bought in groupby(lines, key=lambda line: line.invoice):
        pieces: Counter[str] = Counter()
        for line in bought:
            if not line.is_cancellation and line.sku not in SERVICES:
                pieces[line.sku] += line.quantity
        if pieces:
            yield Basket(invoice, tuple(pieces.items()))


class Outcome:
    """How a basket ended."""

    CONFIRMED = "confirmed"
    SHORT = "insufficient stock"
    UNKNOWN = "unknown SKU"
    TOO_MANY = "more than a cart holds"
    DECLINED = "payment declined"
    FAILED = "failed"


@dataclass
class Replayed:
    """The result of a replay. Latencies are in seconds, one list per step; `waits` counts responses 429 and 503 after
    which the call was retried."""

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: Counter[str] = field(default_factory=Counter)
    waits: int = 0
    units: int = 0
    cents: int = 0
    seconds: float = 0.0

    @property
    def orders_a_second(self) -> float:
        return self.outcomes[Outcome.CONFIRMED] / self.seconds if self.seconds else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value such that at least `share` of all values are not above it."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


class _Refused(Exception):
    """A basket ended without an order; `outcome` says why."""

    def __init__(self, outcome: str, why: str = "") -> None:
        super().__init__(why)
        self.outcome = outcome


class _Buyer:
    """One shopper with an account, buying basket after basket."""

    def __init__(self, http: httpx.AsyncClient, result: Replayed) -> None:
        self._http = http
        self._result = result
        self._email = f"replay-{secrets.token_hex(8)}@demo.test"
        self._password = secrets.token_urlsafe(18)
        self._bearer: dict[str, str] = {}

    async def enter(self) -> None:
        """Signs up and signs in."""
        account = {"email": self._email, "password": self._password}
        made = await self._send("sign up", "POST", "/users", json=account)
        if made.status_code != 201:
            raise _Refused(Outcome.FAILED, _why("sign up", made))
        await self._sign_in()

    async def _sign_in(self) -> None:
        account = {"email": self._email, "password": self._password}
        entered = await self._send("sign in", "POST", "/sessions", json=account)
        if entered.status_code != 201:
            raise _Refused(Outcome.FAILED, _why("sign in", entered))
        self._bearer = {"Authorization": f"Bearer {entered.json()['accessToken']}"}

    async def buy(self, basket: Basket) -> str:
        """Fills the cart line by line, orders and pays; returns the outcome."""
        try:
            await self._fill(basket)
            order = await self._order()
            await self._pay(order)
        except _Refused as refused:
            await self._send("give up", "DELETE", "/cart")
            if refused.outcome == Outcome.FAILED:
                self._result.failures[str(refused)] += 1
            return refused.outcome
        self._result.units += sum(pieces for _, pieces in basket.items)
        self._result.cents += order["totalCents"]
        return Outcome.CONFIRMED

    async def _fill(self, basket: Basket) -> None:
        for sku, pieces in basket.items:
            added = await self._send("add to cart", "POST", "/cart/items", json={"sku": sku, "qty": pieces})
            if added.status_code == 404:
                raise _Refused(Outcome.UNKNOWN)
            if added.status_code == 422:
                raise _Refused(Outcome.TOO_MANY)
            if added.status_code != 200:
                raise _Refused(Outcome.FAILED, _why("add to cart", added))

    async def _order(self) -> dict[str, Any]:
        placed = await self._send("order", "POST", "/orders", json={}, once=True)
        if placed.status_code == 201:
            order: dict[str, Any] = placed.json()
            return order
        slug = _slug(placed)
        outcome = {"insufficient-stock": Outcome.SHORT, "unknown-sku": Outcome.UNKNOWN}.get(slug, Outcome.FAILED)
        raise _Refused(outcome, _why("order", placed))

    async def _pay(self, order: dict[str, Any]) -> None:
        card = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
        paid = await self._send("pay", "POST", "/payments", json=card, once=True)
        if paid.status_code == 402:
            raise _Refused(Outcome.DECLINED)
        if paid.status_code != 201 or paid.json()["status"] != "succeeded":
            raise _Refused(Outcome.FAILED, _why("pay", paid))

    async def _send(self, step: str, method: str, path: str, *, json: Any = None, once: bool = False) -> httpx.Response:
        """One call, retried after 429 and 503, and after a new sign-in if the token has expired. `once` sends an
        Idempotency-Key, so that a retried call still orders or charges once."""
        key = {"Idempotency-Key": str(uuid4())} if once else {}
        for attempt in range(_TRIES):
            began = time.perf_counter()
            response = await self._http.request(method, path, json=json, headers={**self._bearer, **key})
            self._result.latencies[step].append(time.perf_counter() - began)
            last = attempt == _TRIES - 1
            if response.status_code in (429, 503) and not last:
                self._result.waits += 1
                await asyncio.sleep(float(response.headers.get("Retry-After", 1)))
            elif response.status_code == 401 and path != "/sessions" and not last:
                await self._sign_in()
            else:
                break
        return response


def _slug(response: httpx.Response) -> str:
    try:
        return str(response.json()["type"]).rsplit("/", 1)[-1]
    except (ValueError, KeyError, TypeError):
        return ""


def _why(step: str, response: httpx.Response) -> str:
    return f"{step}: {response.status_code} {_slug(response)}".strip()


async def replay(
    http: httpx.AsyncClient,
    wanted: Sequence[Basket],
    buyers: int,
    *,
    bought: Callable[[str], None] = lambda _outcome: None,
) -> Replayed:
    """Lets `buyers` concurrent shoppers buy the baskets from one queue. `bought` is called with each outcome.

    The clock starts once all have signed in. Raises httpx.TransportError if the shop does not answer.
    """
    result = Replayed()
    crowd = [_Buyer(http, result) for _ in range(min(buyers, len(wanted)))]
    try:
        await asyncio.gather(*(buyer.enter() for buyer in crowd))
    except _Refused as refused:
        result.failures[str(refused)] += 1
        result.outcomes[Outcome.FAILED] = len(wanted)
        return result
    queue = iter(wanted)

    async def shop(buyer: _Buyer) -> None:
        for basket in queue:
            outcome = await buyer.buy(basket)
            result.outcomes[outcome] += 1
            bought(outcome)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as crowd_at_work:
        for buyer in crowd:
            crowd_at_work.create_task(shop(buyer))
    result.seconds = time.perf_counter() - began
    return result
