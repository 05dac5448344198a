"""A shop in several processes, its people and its books, for attacks to be run against."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
from crowd import ORDERS, told
from furnished import new_token

from quartet import checkout, inventory
from quartet.accounts import create_user
from quartet.cli import open_shop, prepare
from quartet.devstores import free_port
from quartet.kernel.clock import FixedClock
from quartet.kernel.settings import Settings
from quartet.payments import open_providers
from quartet.web.dependencies import Shop
from races.steering import HEADER, SOUND, WHO, Helm, Schedule, Variant, steered

Json = dict[str, Any]
API = Path(__file__).with_name("api.py")
PROCESSES = 2
# How long requests may take to gather behind a lock that is held from outside: in all, and from one to the next.
GATHER_SECONDS = 0.5
STILL_SECONDS = 0.02


@dataclass(frozen=True)
class Answer:
    """Status and body of an answer; `body` is {} where there is none."""

    status: int
    body: Json

    @property
    def slug(self) -> str:
        """Which problem it is, or the empty text."""
        return str(self.body.get("type", "")).removeprefix("/problems/") if self.status >= 400 else ""


@dataclass(frozen=True)
class Person:
    """Somebody signed in; `headers` say so."""

    id: UUID
    email: str
    headers: dict[str, str]


Call = Callable[[], Awaitable[Any]]


@dataclass
class Round:
    """One try of an attack: what is done at the same time, what all of it needs (SQL that locks it, with arguments;
    None where they meet at no row), and who can tell afterwards whether it was right: faults by the answers' names."""

    calls: dict[str, Call]
    pile: tuple[str, Any] | None
    judge: Callable[[dict[str, Any]], Awaitable[list[str]]]


class Processes:
    """Forks API processes over settings and variants."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def start(self, settings: Settings, variant: Variant) -> int:
        """One more; it answers when this returns. Its process id."""
        assert self._process.stdin and self._process.stdout
        line = json.dumps({"settings": told(settings), "variant": asdict(variant)}, default=str)
        self._process.stdin.write(line.encode() + b"\n")
        pid = int(await self._process.stdout.readline())
        async with httpx.AsyncClient() as client, asyncio.timeout(30):
            while True:
                try:
                    await client.get(f"http://127.0.0.1:{settings.port}/health/live")
                    return pid
                except httpx.TransportError:
                    await asyncio.sleep(0.02)


@asynccontextmanager
async def processes(helm: Helm) -> AsyncIterator[Processes]:
    """Imports once, forks often."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, API, str(helm.path),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20,
    )  # fmt: skip
    try:
        yield Processes(process)
    finally:
        assert process.stdin
        process.stdin.close()
        async with asyncio.timeout(30):
            await process.wait()


@dataclass
class Arena:
    """`steered` is the shop in this process, stopping as the API does; `later` the same a quarter of an hour on.
    `holding` is a process where money is only held until somebody takes it. `piles`: of each attack's
    piled rounds how many calls stood behind the lock, of how many."""

    shop: Shop
    steered: Shop
    helm: Helm
    urls: list[str]
    holding: str
    client: httpx.AsyncClient
    people: list[Person] = field(default_factory=list)
    staff: list[Person] = field(default_factory=list)
    piles: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    _calls: int = 0

    @property
    def later(self) -> Shop:
        """When every reservation of now is over."""
        return replace(self.steered, clock=clock_in(self.shop.settings.order_hold_seconds + 60))

    async def gather(self, shoppers: int = 6) -> None:
        """Shoppers, whose addresses are proved, and two colleagues."""
        for roles, people in (((), self.people), (("staff",), self.staff)):
            for _ in range(shoppers if not roles else 2):
                email = f"{uuid4().hex[:12]}@example.com"
                async with self.shop.stores.pg.tx() as tx:
                    user = await create_user(tx, email, None, "Somebody", roles=roles)
                    await tx.execute("UPDATE users SET email_verified_at = now() WHERE id = $1", user.id)
                token = await new_token(self.shop, user.id, *roles)
                people.append(Person(user.id, email, {"Authorization": f"Bearer {token}"}))

    async def ask(
        self, method: str, path: str, *, by: Person | None = None, body: Any = None, key: str | None = None,
        headers: Mapping[str, str] | None = None, content: bytes | None = None, at: str = "",
    ) -> Answer:  # fmt: skip
        """One request, at one process after the other, or at that one."""
        self._calls += 1
        url = (at or self.urls[self._calls % len(self.urls)]) + path
        sent = dict(headers or {}) | (by.headers if by else {}) | ({"Idempotency-Key": key} if key else {})
        if who := WHO.get():
            sent[HEADER] = who
        answer = await self.client.request(method, url, json=body, content=content, headers=sent)
        return Answer(answer.status_code, answer.json() if answer.content else {})

    async def good(self, method: str, path: str, **how: Any) -> Json:
        """The body of an answer that said yes."""
        answer = await self.ask(method, path, **how)
        assert answer.status < 300, (method, path, answer)
        return answer.body

    async def stock(self, pieces: int, cents: int = 500) -> str:
        """A new SKU."""
        sku = f"R-{uuid4().hex[:10]}"
        async with self.shop.stores.pg.tx() as tx:
            await inventory.put(tx, sku, f"A {sku}", cents, currency="GBP", actor="test", stock=pieces)
        return sku

    def placing(self, by: Person, *lines: tuple[str, int], key: str | None = None) -> Call:
        """The request that orders these lines."""
        body = {"items": [{"sku": sku, "qty": qty} for sku, qty in lines]}
        return partial(self.ask, "POST", "/orders", by=by, body=body, key=key)

    async def order(self, by: Person, *lines: tuple[str, int]) -> Json:
        """A new order."""
        answer: Answer = await self.placing(by, *lines)()
        assert answer.status == 201, answer
        return answer.body

    def paying(self, by: Person, order: Json, card: str = "card_ok", key: str | None = None) -> Call:
        """The request that pays an order."""
        body = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": card}
        return partial(self.ask, "POST", "/payments", by=by, body=body, key=key)

    async def paid(self, by: Person, *lines: tuple[str, int]) -> Json:
        """A new order that is confirmed."""
        order = await self.order(by, *lines)
        answer: Answer = await self.paying(by, order)()
        assert answer.status == 201, answer
        return order

    async def held(self, by: Person, *lines: tuple[str, int]) -> tuple[Json, Json]:
        """A new order whose money is held, and its payment."""
        order = await self.order(by, *lines)
        body = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
        payment = await self.good("POST", "/payments", by=by, body=body, at=self.holding)
        assert payment["status"] == "authorized", payment
        return order, payment

    def cancelling(self, by: Person, order: Json) -> Call:
        """The request that cancels it."""
        return partial(self.ask, "POST", f"/orders/{order['id']}/cancel", by=by)

    def refunding(self, by: Person, order: Json, cents: int | None, key: str | None = None) -> Call:
        """The request that gives back so much."""
        body = {} if cents is None else {"amountCents": cents}
        return partial(self.ask, "POST", f"/orders/{order['id']}/refunds", by=by, body=body, key=key)

    def shipping(self, by: Person, order: Json) -> Call:
        """The request that sends it."""
        return partial(self.ask, "POST", f"/orders/{order['id']}/ship", by=by)

    def sweeping(self, shop: Shop) -> Call:
        """What the worker does every second."""
        return partial(checkout.recover, shop, open_providers(shop.settings, shop.stores.pg))

    async def rows(self, sql: str, *args: Any) -> list[Json]:
        """What a query finds."""
        async with self.shop.stores.pg.read() as read:
            return [dict(row) for row in await read.fetch(sql, *args)]

    async def play(self, round_: Round, mode: str, dice: random.Random, name: str) -> tuple[list[str], str]:
        """Makes the calls; answers what was wrong, and how it went. Modes: `steered`, `piled` (all of them behind a
        lock held from outside, then let go) and `free` (a start at random within 5 ms)."""
        calls = {who: partial(_outcome, call) for who, call in round_.calls.items()}
        async with self.helm.schedule(name, dice) as schedule:
            if mode == "steered":
                answers = await schedule.run({who: _by(f"{name}.{who}", call) for who, call in calls.items()})
            elif mode == "piled" and round_.pile:
                answers, behind = await self._piled(calls, round_.pile)
                self.piles.setdefault(name.partition("-")[0], []).append((behind, len(calls)))
            else:
                answers = await _at_random(calls, dice)
        if died := [f"{who} died of {a!r}" for who, a in answers.items() if isinstance(a, Exception)]:
            return died, _told_how(schedule, answers)
        try:
            faults = await round_.judge(answers)
        except AssertionError as error:
            faults = [str(error)]
        faults += [f"{who} was answered {a}" for who, a in answers.items() if isinstance(a, Answer) and a.status >= 500]
        return faults, _told_how(schedule, answers)

    async def _piled(self, calls: Mapping[str, Call], needed: tuple[str, Any]) -> tuple[dict[str, Any], int]:
        pile = await asyncpg.connect(self.shop.settings.postgres_url)
        try:
            async with pile.transaction():
                await pile.execute(*needed)
                tasks = {who: asyncio.ensure_future(call()) for who, call in calls.items()}
                behind = await self._behind(len(tasks))
        finally:
            await pile.close()
        return {who: await task for who, task in tasks.items()}, behind

    async def _behind(self, most: int) -> int:
        """How many are, once all are or no more come."""
        loop, behind = asyncio.get_running_loop(), 0
        deadline = still = loop.time() + GATHER_SECONDS
        while behind < most and loop.time() < min(deadline, still):
            await asyncio.sleep(0.005)
            (row,) = await self.rows(BLOCKED)
            if row["blocked"] != behind:
                behind, still = row["blocked"], loop.time() + STILL_SECONDS
        return behind

    async def settle(self, *orders: Json) -> None:
        """What a worker would have done in a minute, for these orders."""
        clock = clock_in(60)
        providers = open_providers(self.shop.settings, self.shop.stores.pg)
        for _ in range(10):
            await checkout.recover(replace(self.shop, clock=clock), providers)
            (row,) = await self.rows(f"SELECT coalesce(sum(open), 0) AS open FROM ({ORDERS}) o WHERE id = ANY($1)",
                                     [order["id"] for order in orders])  # fmt: skip
            if not row["open"]:
                return
            clock.advance(60)
            await asyncio.sleep(0.01)  # the provider goes by a clock of its own
        raise AssertionError("recovery does not come to an end")

    async def book(self, order: Json) -> Json:
        """One order in the shop's and the provider's books."""
        (row,) = await self.rows(f"SELECT * FROM ({ORDERS}) o WHERE id = $1", order["id"])
        return row

    async def unbalanced(self, orders: Iterable[Json], skus: Iterable[str]) -> list[str]:
        """What does not add up, when all is settled: money by order, pieces by SKU."""
        faults = []
        found = await self.rows(f"SELECT * FROM ({ORDERS}) o WHERE id = ANY($1)", [order["id"] for order in orders])
        for book in found:
            kept = book["captured_cents"] - book["refunded_cents"]
            if book["taken"] != kept or book["charges"] > 1 or book["open"]:
                faults.append(f"the provider holds {book['taken']} in {book['charges']} charges: {book}")
            sold = book["status"] in ("confirmed", "shipped", "delivered")
            if (sold and book["captured_cents"] != book["total_cents"]) or (not sold and kept):
                faults.append(f"{book['status']} does not go with its money: {book}")
        return faults + [f"{row}" for row in await self.rows(SHELVES, list(skus))]

    async def shelf(self, sku: str) -> tuple[int, int]:
        """Stock and reserved."""
        (row,) = await self.rows("SELECT stock, reserved FROM inventory WHERE sku = $1", sku)
        return row["stock"], row["reserved"]


BLOCKED = """
SELECT count(*) AS blocked FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""

# Rows whose reserved pieces are not those of pending orders, whose ledger does not add up, or which owe pieces.
SHELVES = """
SELECT sku, stock, reserved, held, ledger_stock, ledger_reserved FROM (
    SELECT i.sku, i.stock, i.reserved,
           (SELECT coalesce(sum(l.quantity), 0) FROM order_items l JOIN orders o ON o.id = l.order_id
            WHERE l.sku = i.sku AND o.status = 'pending') AS held,
           (SELECT coalesce(sum(stock_delta), 0) FROM inventory_movements m WHERE m.sku = i.sku) AS ledger_stock,
           (SELECT coalesce(sum(reserved_delta), 0) FROM inventory_movements m WHERE m.sku = i.sku) AS ledger_reserved
    FROM inventory i WHERE i.sku = ANY ($1)) AS shelf
WHERE reserved <> held OR stock <> ledger_stock OR reserved <> ledger_reserved OR reserved NOT BETWEEN 0 AND stock
"""


@asynccontextmanager
async def arena(settings: Settings, helm: Helm, forge: Processes, variant: Variant = SOUND) -> AsyncIterator[Arena]:
    """A shop in a database of its own that is migrated already, broken as `variant` says, in two API processes."""
    ports = [free_port() for _ in range(PROCESSES + 1)]
    unlimited = {f"limit_{kind}": 10**9 for kind in ("browse", "search", "write", "auth", "pay")}
    settings = settings.model_copy(
        update=unlimited | {
            "base_url": f"http://127.0.0.1:{ports[0]}", "request_timeout": 20.0, "payment_timeout": 15.0,
            "sandbox_slow_seconds": 0.02, "sandbox_async_seconds": 0.02,
        }
    )  # fmt: skip
    async with open_shop(settings) as shop:
        await shop.stores.redis.call("FLUSHDB")  # of the shops before this one
        await prepare(shop)
        kinds = ["automatic"] * PROCESSES + ["manual"]
        pids = [
            await forge.start(settings.model_copy(update={"port": port, "payment_capture": kind}), variant)
            for port, kind in zip(ports, kinds, strict=True)
        ]
        try:
            async with steered(shop, helm.stop, variant) as same, httpx.AsyncClient(timeout=30) as client:
                *urls, holding = [f"http://127.0.0.1:{port}" for port in ports]
                here = Arena(shop, same, helm, urls, holding, client)
                await here.gather()
                await variant.break_in(shop.stores.pg)
                yield here
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await shop.stores.mongo.drop_database()


def sandbox_of(shop: Shop) -> Any:
    """The provider, for its signatures."""
    return open_providers(shop.settings, shop.stores.pg)["sandbox"]


def clock_in(seconds: float) -> FixedClock:
    """A clock so many seconds ahead, that stands."""
    return FixedClock(datetime.now(UTC) + timedelta(seconds=seconds))


def _by(who: str, call: Call) -> Call:
    async def named() -> Any:
        WHO.set(who)
        return await call()

    return named


async def _outcome(call: Call) -> Any:
    """An answer, or what the call died of: a sweep that meets a deadlock is a fault as well."""
    try:
        return await call()
    except Exception as error:
        return error


async def _at_random(calls: Mapping[str, Call], dice: random.Random) -> dict[str, Any]:
    async def later(call: Call, seconds: float) -> Any:
        await asyncio.sleep(seconds)
        return await call()

    found = await asyncio.gather(*(later(call, dice.uniform(0, 0.005)) for call in calls.values()))
    return dict(zip(calls, found, strict=True))


def _told_how(schedule: Schedule, answers: Mapping[str, Any]) -> str:
    lines = [*schedule.trace, *(f"{who} -> {answer}" for who, answer in answers.items())]
    return "\n".join(f"    {line}" for line in lines)
