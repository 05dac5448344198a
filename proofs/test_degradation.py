"""A crowd asks for everything, of two processes beside a worker, while one store after the other is stopped, paused and
cut off, in an order that a seed draws: nobody is told anything but what docs/operations.md says, what was told to be
paid is, and in the end all stores agree."""

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from crowd import mortal_api
from furnished import furnish, new_token
from lines import Line, lines_to
from outages import GROUPS, UNCACHED, WAYS, Group, Request, as_told, away, pay, well
from own_stores import STORES, OwnStores, agree, own_stores, settings_over
from test_stores_down import WELL, take_away

from conftest import SECRET
from quartet import sync
from quartet.accounts import create_user
from quartet.cli import open_shop, prepare
from quartet.devstores import free_port
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

SEED = int(os.environ.get("QUARTET_PROOF_DEGRADATION_SEED", "1"))
# Each store is away so long in each way, and until everything was asked for.
SECONDS = float(os.environ.get("QUARTET_PROOF_DEGRADATION_SECONDS", "5"))
CROWD = 8
PATIENCE_SECONDS = 90.0
EVERYTHING = [(group, request) for group in GROUPS for request in group.requests]


@dataclass(frozen=True, eq=False)
class Spell:
    """A stretch of time. `store` is away in that `way`, and `known` to be by every process; with no way it comes or
    goes; with no store all are there."""

    store: str = ""
    way: str = ""
    known: bool = False


@dataclass
class Town:
    """The processes, the people who ask them, and what they were told."""

    clients: list[dict[str, httpx.AsyncClient]]
    dice: random.Random
    spell: Spell = field(default_factory=Spell)
    asked: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    paid: list[str] = field(default_factory=list)
    took: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    told: Counter[int] = field(default_factory=Counter)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, clients: dict[str, httpx.AsyncClient], request: Request) -> httpx.Response:
        who, method, path, body = request
        if method == "PAY":  # what is paid leaves the cart, which is another's here
            return await pay(clients["payer"])
        if method == "PATCH":  # the other's page stays in the cache, and something really changes
            path, body = "/products/TEE", {"brand": f"Tailor {self.dice.random()}"}
        return await clients[who].request(method, path, json=body)

    async def shop_on(self) -> None:
        while not self.over.is_set():
            for group, request in self.dice.sample(EVERYTHING, len(EVERYTHING)):
                before, began = self.spell, time.monotonic()
                answer = await self.ask(self.dice.choice(self.clients), request)
                self._hear(group, request, answer, before)
                if before is self.spell and not answer.is_server_error:
                    self.took[before.store, before.way].append(time.monotonic() - began)
                await asyncio.sleep(self.dice.uniform(0, 0.2))

    def _hear(self, group: Group, request: Request, answer: httpx.Response, before: Spell) -> None:
        """Holds an answer against the table; who asked while a store came or went may be told either."""
        self.told[answer.status_code] += 1
        spells = {before, self.spell}
        if len(spells) == 1 and before.known:
            right = as_told(group, before.store, request, answer)
            # Somebody may have looked at this one of late.
            right |= group.name == UNCACHED and well(request, answer)
            self.asked.add(repr(request))
        else:
            right = well(request, answer) or any(away(answer, spell.store) for spell in spells if spell.store)
        # A crowd meets itself; that is no fault.
        if not right and answer.status_code != 409:
            self.faults.append(f"{[*spells]}: {request[:3]} {answer.status_code} {answer.text[:300]}")
        if request[1] == "PAY" and answer.status_code == 201:
            self.paid.append(answer.json()["orderId"])

    async def knows(self, store: str) -> None:
        """Returns when every process says that the store is away."""
        async with asyncio.timeout(30):
            for clients in self.clients:
                while (await _health(clients))["stores"][store]["status"] != "down":  # noqa: ASYNC110 — each finds out
                    await asyncio.sleep(0.05)

    async def is_well(self) -> bool:
        answers = [await clients[r[0]].request(*r[1:3]) for clients in self.clients for r in WELL]
        searches = answers[len(WELL) - 1 :: len(WELL)]
        return all(answer.is_success for answer in answers) and not any(a.json()["degraded"] for a in searches)


async def _health(clients: dict[str, httpx.AsyncClient]) -> dict[str, dict[str, dict[str, str]]]:
    health: dict[str, dict[str, dict[str, str]]] = (await clients["guest"].get("/health/ready")).json()
    return health


@asynccontextmanager
async def town(stores: OwnStores, folder: Path, seed: int) -> AsyncIterator[tuple[Town, Shop, dict[str, Line]]]:
    """Two processes behind lines that can be cut, the shop of the worker and of whoever looks afterwards."""
    async with AsyncExitStack() as stack:
        lines, urls = await stack.enter_async_context(lines_to(stores.urls))
        settings = settings_over(urls, folder, SECRET)
        shop = await stack.enter_async_context(open_shop(settings))
        await prepare(shop)
        people: dict[str, dict[str, str]] = {"guest": {}}
        for name, roles in (("shopper", ()), ("payer", ()), ("staff", ("staff",))):
            async with shop.stores.pg.tx() as tx:
                user = await create_user(tx, f"{name}@example.com", None, name, roles=roles)
            people[name] = {"Authorization": f"Bearer {await new_token(shop, user.id, *roles)}"}
        clients = []
        for _ in range(2):
            api = await stack.enter_async_context(mortal_api(settings.model_copy(update={"port": free_port()})))
            clients.append(
                {
                    name: await stack.enter_async_context(
                        httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30)
                    )
                    for name, headers in people.items()
                }
            )
        await furnish(clients[0]["staff"], clients[0]["shopper"])
        new = {"email": "new@example.com", "password": "correct horse battery"}
        assert (await clients[0]["guest"].post("/users", json=new)).status_code == 201
        await sync.catch_up(shop)
        yield Town(clients, random.Random(seed)), shop, lines


@pytest.mark.timeout(900)
async def test_nobody_is_told_anything_but_what_the_table_says(tmp_path: Path) -> None:
    outages = [(store, way) for store in STORES for way in WAYS]
    random.Random(SEED).shuffle(outages)
    print(f"seed {SEED}: {', '.join(' '.join(outage) for outage in outages)}")
    async with own_stores(tmp_path / "stores") as stores, town(stores, tmp_path, SEED) as (here, shop, lines):

        async def all_outages() -> None:
            await asyncio.sleep(SECONDS)
            for store, way in outages:
                await _outage(here, stores, lines, store, way)
            here.over.set()

        async def shift() -> None:
            await asyncio.gather(all_outages(), *(here.shop_on() for _ in range(CROWD)))
            ended = datetime.now(UTC)
            _tell(here)
            assert not here.faults, f"{len(here.faults)}:\n" + "\n".join(here.faults[:10])
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (await _all_paid(here, shop) and await agree(shop, ended)):  # noqa: ASYNC110 — in the stores
                    await asyncio.sleep(1)

        await together(sync.run_worker(shop, asyncio.Event()), shift())


async def _outage(here: Town, stores: OwnStores, lines: dict[str, Line], store: str, way: str) -> None:
    """One store is away for a while, then all is well for another."""
    clients = here.clients[0]
    # Known to be in the cache and in the cart.
    await clients["guest"].get("/products/MUG")
    assert (await clients["shopper"].put("/cart/items/MUG", json={"qty": 1})).is_success
    here.spell = Spell(store)
    await take_away(stores, store, way, lines)
    await here.knows(store)
    await asyncio.sleep(1.0)  # what was found before is still told for as long
    here.asked.clear()
    here.spell = Spell(store, way, known=True)
    until = time.monotonic() + SECONDS
    async with asyncio.timeout(60):
        while time.monotonic() < until or len(here.asked) < len(EVERYTHING):  # noqa: ASYNC110 — the crowd asks
            await asyncio.sleep(0.05)
    here.spell = Spell(store)
    lines[store].mend()
    await stores.mend()
    began = time.monotonic()
    async with asyncio.timeout(60):
        while not await here.is_well():  # noqa: ASYNC110 — it comes true in the shop
            await asyncio.sleep(0.05)
    print(f"{store} {way}: all well {time.monotonic() - began:.2f} s after it was back")
    here.spell = Spell()
    await asyncio.sleep(SECONDS / 2)


async def _all_paid(here: Town, shop: Shop) -> bool:
    """Whether every order that was said to be paid is."""
    async with shop.stores.pg.read() as read:
        confirmed = await read.fetchval("SELECT array_agg(id::text) FROM orders WHERE status = 'confirmed'")
    return bool(here.paid) and set(here.paid) <= set(confirmed)


def _tell(here: Town) -> None:
    print(f"answers: {dict(here.told)}, {len(here.paid)} orders paid")
    for (store, way), seconds in here.took.items():
        ordered = sorted(seconds)
        half, most = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
        name = f"{store} {way}" if store else "all there"
        print(f"{name}: {len(ordered)} answers, p50 {half * 1000:.0f} ms, p99 {most * 1000:.0f} ms")
