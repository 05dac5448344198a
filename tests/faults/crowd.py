"""Shoppers who order, pay, cancel and get money back over HTTP while the shop is killed under them, and who remember
every answer that said yes; afterwards each of those is held against the books."""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from furnished import new_token
from own_stores import OwnStores, settings_over
from pydantic import SecretStr

from quartet import audit, checkout, inventory, payments, sync
from quartet.accounts import create_user
from quartet.cli import open_shop, prepare
from quartet.devstores import free_port
from quartet.kernel.clock import FixedClock
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.payments import Compared, reconcile
from quartet.payments.providers.sandbox import Faults, Sandbox
from quartet.web.dependencies import Shop

Json = dict[str, Any]
MORTAL = Path(__file__).with_name("mortal_api.py")
SKUS = ("KILL-A", "KILL-B", "KILL-C", "KILL-D")
CARDS = ("card_ok",) * 6 + ("card_async", "card_slow", "card_declined", "card_error")
STOCK = 400


@dataclass(frozen=True)
class Said:
    """A request and the answer it got in the end."""

    who: int
    path: str
    body: Json
    key: str
    status: int
    content: bytes


@dataclass
class Memory:
    """What the crowd remembers. `open`: requests that were given up without an answer."""

    said: list[Said] = field(default_factory=list)
    open: list[tuple[int, str, Json, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)


class MortalApi:
    """Serves until it is killed, or comes to the step it is doomed to die at; `start` again on the same port."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, doom: Path) -> None:
        self._process, self.url, self._doom, self.pid = process, url, doom, 0

    async def start(self) -> None:
        """A fresh process, that answers."""
        self.pid = await self._fork("")
        async with httpx.AsyncClient(base_url=self.url) as client, asyncio.timeout(30):
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get("/health/live")).is_success:
                        return
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)

    def doom(self, step: str, nth: int = 1) -> None:
        """Whoever comes to the step from now on, for the nth time, dies there."""
        self._doom.write_text(f"{nth} {step}")

    async def first_to_die(self, pids: Collection[int], seconds: float = 20) -> int | None:
        """The first of these processes to be gone, within that time; then nobody is doomed any more."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    for pid in pids:
                        if not lives(pid):
                            return pid
                    await asyncio.sleep(0.005)
        except TimeoutError:
            return None
        finally:
            self._doom.write_text("")

    async def sweeper(self, ahead: float) -> int:
        """The id of a process that recovers what is open, as if it were so many seconds later, again and again."""
        return await self._fork(str(ahead))

    async def carrier(self, ahead: float) -> int:
        """The same, of one that does what follows: carts, points, e-mails."""
        return await self._fork(f"carry {ahead}")

    async def _fork(self, line: str) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{line}\n".encode())
        return int(await self._process.stdout.readline())


def lives(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def mortal_api(settings: Settings) -> AsyncIterator[MortalApi]:
    """The API over these settings, in a process of its own."""
    doom = settings.data_dir / f"doom-{settings.port}"
    doom.write_text("")
    process = await asyncio.create_subprocess_exec(
        sys.executable, MORTAL, told(settings), doom, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        api = MortalApi(process, f"http://127.0.0.1:{settings.port}", doom)
        await api.start()
        yield api
    finally:
        assert process.stdin
        process.stdin.close()
        async with asyncio.timeout(30):
            await process.wait()


def told(settings: Settings) -> str:
    """As JSON, secrets too."""
    values = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in settings.model_dump().items()
    }
    return json.dumps(values, default=str)


class Crowd:
    """Shoppers at one shop."""

    def __init__(self, shop: Shop, seed: int, shoppers: int) -> None:
        self.shop, self.random, self.size = shop, random.Random(seed), shoppers
        self.memory = Memory()
        self.users: list[UUID] = []
        self._clients: list[httpx.AsyncClient] = []
        self._staff: httpx.AsyncClient
        self._over = False

    async def gather(self) -> None:
        """Accounts, tokens and something to buy."""
        async with self.shop.stores.pg.tx() as tx:
            for sku in SKUS:
                await inventory.put(tx, sku, f"Thing {sku}", 250, currency="GBP", actor="test", stock=STOCK)
            for _ in range(self.size):
                user = await create_user(tx, f"{uuid4().hex[:12]}@example.com", None, "Shopper")
                self.users.append(user.id)
            staff = await create_user(tx, f"{uuid4().hex[:12]}@example.com", None, "Staff", roles=("staff",))
        self._clients = [await self._client(user) for user in self.users]
        self._staff = await self._client(staff.id, "staff")

    async def _client(self, user_id: UUID, *roles: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {await new_token(self.shop, user_id, *roles)}"}
        return httpx.AsyncClient(base_url=self.shop.settings.base_url, headers=headers, timeout=15)

    async def close(self) -> None:
        """Hang up."""
        await asyncio.gather(*(client.aclose() for client in [*self._clients, self._staff]))

    async def run(self) -> None:
        """Everybody shops until `stop`."""
        await asyncio.gather(*(self._shop_on(n) for n in range(self.size)))

    def stop(self) -> None:
        """What is begun is still answered."""
        self._over = True

    async def _shop_on(self, who: int) -> None:
        dice = self.random
        while not self._over:
            await asyncio.sleep(
                dice.uniform(0, 0.2)
            )  # people look around; thousands of orders would only be slow to check
            skus = dice.sample(SKUS, dice.randint(1, 3))
            items = [{"sku": sku, "qty": dice.randint(1, 2)} for sku in skus]
            placed = await self._post(who, "/orders", {"items": items})
            if placed is None or placed.status_code != 201:
                if dice.random() < 0.1:  # so that it lasts however fast the machine is, and yet is scarce
                    more = {"delta": 20, "reason": "received"}
                    await self._post(-1, f"/inventory/{dice.choice(skus)}/movements", more)
                continue
            order = placed.json()["id"]
            if dice.random() < 0.9:
                pay = {"orderId": order, "provider": "sandbox", "paymentMethod": dice.choice(CARDS)}
                paid = await self._post(who, "/payments", pay)
                if paid is not None and paid.status_code == 201:
                    await self._see_to(who, paid.json())
            if (drawn := dice.random()) < 0.2:
                await self._post(who, f"/orders/{order}/cancel", {})
            elif drawn < 0.35:
                refund = {} if dice.random() < 0.5 else {"amountCents": dice.randint(1, 250)}
                await self._post(-1, f"/orders/{order}/refunds", refund | {"restock": dice.random() < 0.3})

    async def _see_to(self, who: int, payment: Json) -> None:
        """Most of what is held is taken; some buyers ask how their payment stands."""
        if payment["status"] == "authorized" and self.random.random() < 0.7:
            await self._post(-1, f"/payments/{payment['id']}/capture", {})
        elif self.random.random() < 0.2:
            await self._once(who, f"/payments/{payment['id']}/refresh", {}, "")

    async def _post(self, who: int, path: str, body: Json) -> httpx.Response | None:
        """As a careful client: what got no answer is sent again under its key; some give up instead."""
        key = str(uuid4())
        for _ in range(40):
            answer = await self._once(who, path, body, key)
            if answer is not None:
                self.memory.said.append(Said(who, path, body, key, answer.status_code, answer.content))
                return answer
            if self.random.random() < 0.1:
                break
            await asyncio.sleep(self.random.uniform(0.02, 0.3))
        self.memory.open.append((who, path, body, key))
        return None

    async def _once(self, who: int, path: str, body: Json, key: str) -> httpx.Response | None:
        """None when nobody knows."""
        client = self._staff if who < 0 else self._clients[who]
        try:
            answer = await client.post(path, json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            self.memory.counted["cut"] += 1
            return None
        slug = answer.json().get("type", "") if answer.status_code >= 400 else ""
        self.memory.counted[slug.removeprefix("/problems/") or str(answer.status_code)] += 1
        if answer.status_code in (503, 504) or slug == "/problems/request-in-progress":
            return None
        if answer.status_code >= 500 and slug != "/problems/provider-error":
            self.memory.faults.append(f"{path} {body}: {answer.status_code} {answer.text}")
        return answer

    async def settle(self) -> None:
        """What a worker would have done by tomorrow, and every request that is still open asked once more."""
        tomorrow = FixedClock(datetime.now(UTC) + timedelta(seconds=self.shop.settings.order_hold_seconds - 60))
        await recover_until_quiet(replace(self.shop, clock=tomorrow))
        for who, path, body, key in self.memory.open:
            for _ in range(50):  # a process may not know yet that PostgreSQL is back
                if (answer := await self._once(who, path, body, key)) is not None:
                    break
                await asyncio.sleep(0.1)
            if answer is None:
                self.memory.faults.append(f"{path} under {key} has no answer after recovery")
            else:
                self.memory.said.append(Said(who, path, body, key, answer.status_code, answer.content))
        self.memory.open.clear()
        tomorrow.advance(120)
        # Long enough for what a provider has not answered some times, too short for holds, asked after once an hour.
        await recover_until_quiet(replace(self.shop, clock=tomorrow), rests=5)
        await sync.catch_up(self.shop)

    async def verify(self) -> list[str]:
        """Everything that is not as it was said."""
        faults = list(self.memory.faults)
        report = await audit.check(self.shop)
        faults += [f"audit: {finding}" for finding in report.violations]
        async with self.shop.stores.pg.read() as read:
            orders = {str(row["id"]): dict(row) for row in await read.fetch(ORDERS)}
        faults += [fault for said in self.memory.said for fault in self._held(said, orders)]
        faults += self._counted_once(orders)
        faults += [fault async for fault in self._told_otherwise()]
        for order_id, order in orders.items():
            kept = order["captured_cents"] - order["refunded_cents"]
            if order["taken"] != kept:
                faults.append(f"order {order_id}: the provider took {order['taken']}, the books say {kept}")
            if order["charges"] > 1:
                faults.append(f"order {order_id} holds {order['charges']} charges at once")
            if order["open"]:
                faults.append(f"order {order_id} still has {order['open']} open payments or refunds")
            if order["status"] == "pending":
                faults.append(f"order {order_id} is still pending")
        return faults

    async def _told_otherwise(self) -> AsyncIterator[str]:
        """What `quartet reconcile` finds: the provider's books beside ours, charge by charge and refund by refund."""
        sandbox, compared = Sandbox(self.shop.settings, self.shop.stores.pg, Faults(random.Random(0))), Compared()
        unsure = {
            httpx.Response(said.status, content=said.content).json()["id"]
            for said in self.memory.said
            if said.path.endswith("/refunds") and said.status == 201 and b'"pending"' in said.content
        }
        today = datetime.now(UTC).date()
        for day in (today - timedelta(days=1), today, today + timedelta(days=1)):
            async for one in reconcile(self.shop.stores.pg, "sandbox", sandbox, day, compared):
                # What came to nothing after staff were told that it is on its way is named for them.
                if one.reference not in unsure or "must go back" not in one.finding:
                    yield f"{one.kind} {one.reference}: {one.finding}"
        if not compared.ours or not compared.theirs:
            yield f"nothing was compared: {compared}"

    def _held(self, said: Said, orders: dict[str, Json]) -> list[str]:
        """An answer that said yes is true for ever."""
        if said.status not in (200, 201) or said.path.startswith("/inventory/"):  # the ledger is the audit's
            return []
        told = httpx.Response(said.status, content=said.content).json()
        order = orders.get(told.get("orderId", told["id"]))
        if order is None:
            return [f"{said}: there is no such order"]
        if said.path == "/orders":
            wanted = {line["sku"]: line["qty"] for line in said.body["items"]}
            right = order["lines"] == wanted and order["total_cents"] == told["totalCents"]
            right &= str(order["user_id"]) == str(self.users[said.who])
        elif said.path.startswith("/payments") and told["status"] == "succeeded":
            right = order["captured_cents"] == told["amountCents"]
        elif said.path.endswith("/cancel"):
            right = order["status"] == "cancelled" and order["taken"] == 0
        elif said.path.endswith("/refunds") and told["status"] == "succeeded":  # pending is no yes yet
            right = order["refunded_cents"] >= told["amountCents"] and order["status"] != "pending"
        else:
            right = True
        return [] if right else [f"{said.path} said {told}, the books say {order}"]

    def _counted_once(self, orders: dict[str, Json]) -> list[str]:
        """One key, one order; and no order that nobody was told of, now that every key has been asked."""
        yes = [said for said in self.memory.said if said.path == "/orders" and said.status == 201]
        told = {httpx.Response(201, content=said.content).json()["id"] for said in yes}
        faults = [] if len(told) == len({said.key for said in yes}) else ["two keys share an order, or one has two"]
        return faults + [f"order {order_id} was told to nobody" for order_id in orders.keys() - told]


ORDERS = """
SELECT o.id, o.user_id, o.status, o.total_cents, o.captured_cents, o.refunded_cents,
       (SELECT jsonb_object_agg(i.sku, i.quantity) FROM order_items i WHERE i.order_id = o.id) AS lines,
       (SELECT count(*) FROM payments p WHERE p.order_id = o.id AND (p.status = 'pending' OR p.due IS NOT NULL))
       + (SELECT count(*) FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
          WHERE p.order_id = o.id AND r.status = 'pending') AS open,
       (SELECT count(*) FROM sandbox.books b JOIN payments p ON p.id::text = b.reference
        WHERE p.order_id = o.id AND b.captured_cents > b.refunded_cents) AS charges,
       (SELECT coalesce(sum(b.captured_cents - b.refunded_cents), 0)::bigint
        FROM sandbox.books b JOIN payments p ON p.id::text = b.reference WHERE p.order_id = o.id) AS taken
FROM orders o
"""


@asynccontextmanager
async def crowded(
    stores: OwnStores, folder: Path, secret: str, seed: int, **changed: Any
) -> AsyncIterator[tuple[Crowd, MortalApi]]:
    """A shop of its own on these stores, an API process, and a crowd in front of it. `changed`: settings."""
    port = free_port()
    settings = settings_over(stores.urls, folder, secret).model_copy(
        update={
            "port": port, "base_url": f"http://127.0.0.1:{port}", "request_timeout": 8.0, "payment_timeout": 3.0,
            "sandbox_slow_seconds": 0.4, "sandbox_async_seconds": 0.2, **changed,
        }
    )  # fmt: skip
    async with open_shop(settings) as shop:
        await prepare(shop)
        crowd = Crowd(shop, seed, shoppers=8)
        await crowd.gather()
        async with mortal_api(settings) as api:
            yield crowd, api
        await crowd.close()


async def postgres_answers(shop: Shop) -> None:
    """Waits until the shop knows that PostgreSQL is back: just after a start it still refuses at once."""
    async with asyncio.timeout(60):
        while shop.stores.pg.guard.state != "closed":  # noqa: ASYNC110 — the probe decides
            await asyncio.sleep(0.05)


async def provider_decided(shop: Shop) -> None:
    """Waits for slow and asynchronous cards: the sandbox decides about them by the machine's clock, and all of a
    recovery by the shop's may pass before that."""
    async with asyncio.timeout(60):
        while True:
            async with shop.stores.pg.read() as read:
                if not await read.fetchval("SELECT EXISTS (SELECT FROM sandbox.books WHERE status = 'pending')"):
                    return
            await asyncio.sleep(0.02)


async def recover_until_quiet(shop: Shop, rests: int = 3) -> None:
    """Each sweep a moment after the other, by the shop's own clock; the longer nothing was to do the later the next,
    since what a provider did not answer is asked again later each time."""
    await postgres_answers(shop)
    await provider_decided(shop)
    providers = payments.open_providers(shop.settings, shop.stores.pg)
    quiet = 0
    for _ in range(200):
        quiet = 0 if await checkout.recover(shop, providers) else quiet + 1
        if quiet == rests:
            return
        shop.clock.advance(4**quiet)  # type: ignore[attr-defined]
    raise AssertionError("recovery does not come to an end")


async def recover_now_and_then(shop: Shop, every: float = 0.5) -> None:
    """As the worker does, whatever becomes of the stores."""
    providers = payments.open_providers(shop.settings, shop.stores.pg)
    while True:
        with suppress(StoreUnavailable):
            await checkout.recover(shop, providers)
        await asyncio.sleep(every)
