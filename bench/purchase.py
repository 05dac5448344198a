"""The total cost of a purchase over HTTP, from the cart to the confirmed payment: CPU of every process until all
consequences of the orders have been processed (the outbox is empty, search and catalog copies are up to date).

Each buyer is a shopper with an account who puts the lines into the cart one by one, orders the cart and pays, both
with an Idempotency-Key, and starts again at once. Sign-ins come before and are not counted, nor is the load generator.
"""

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from uuid import UUID, uuid4

from bench.client import Client
from bench.machine import Measured, compiler_seconds, cpu_seconds
from bench.running import RunningShop, running_shop, settled
from bench.wire import wired
from quartet import orders, payments, retail, sync
from quartet.devstores import free_port
from quartet.kernel.settings import Settings
from quartet.stores import open_stores, outbox
from quartet.stores.postgres import Postgres
from quartet.sync import changes
from quartet.sync.store import positions
from quartet.web.dependencies import Shop

SEED = 20101201
PROCESSES = ("api", "worker", "postgres", "mongodb", "redis", "search")
IDLE_SECONDS = 10
CARRIED_SECONDS = 120.0
COUNTED = 10
FLOOR = 300

Lines = Sequence[tuple[str, int]]


TITLES = {"many": "two lines, many SKUs", "hot": "two lines, one hot SKU", "real": "the retailer's baskets"}


@dataclass(frozen=True)
class Bench:
    """The running shop, access to its stores, the buyers, all SKUs for sale, and the baskets of each scenario."""

    running: RunningShop
    shop: Shop
    buyers: list[Client]
    skus: list[str]
    baskets: dict[str, Iterator[Lines]]

    @property
    def cpu(self) -> dict[str, float]:
        """CPU seconds of each process so far, without those of a Java search engine's JIT compiler."""
        spent = {name: cpu_seconds(self.running.pids[name]) for name in PROCESSES}
        spent["search"] -= self.compiling
        return spent

    @property
    def compiling(self) -> float:
        """CPU seconds of the search engine's JIT compiler so far."""
        return compiler_seconds(self.running.pids["search"])


@dataclass
class Cell:
    """The result of one measurement; CPU in milliseconds per order."""

    scenario: str
    buyers: int
    seconds: float
    lines: int
    latencies: list[float] = field(repr=False)
    cpu: dict[str, float]
    compiling: float
    carried_seconds: float

    @property
    def row(self) -> str:
        """The table's row."""
        timed = Measured("", self.seconds, self.latencies, {})
        total = sum(self.cpu.values())
        times = [f"{timed.rate:.0f}", f"{timed.quantile(0.5):.0f}", f"{timed.quantile(0.99):.0f}"]
        cpu = [
            f"**{total:.1f}**",
            f"{total - self.cpu['mongodb']:.1f}",
            *(f"{self.cpu[name]:.2f}" for name in PROCESSES),
            f"{self.compiling:.2f}",
        ]
        lines, carried = f"{self.lines / len(self.latencies):.1f}", f"{self.carried_seconds:.1f}"
        return f"| {' | '.join([TITLES[self.scenario], lines, str(self.buyers), *times, *cpu, carried])} |"


ABOUT = (
    "CPU in milliseconds an order, counted until everything is carried, which the last column says how long it took "
    "after the last payment. The load itself is not counted, nor the sign-in, nor, but in its own column, what the "
    f"search engine's compiler takes until it has done its work. Seed {SEED}."
)
HEAD = [
    "bought",
    "lines",
    "buyers",
    "orders/s",
    "p50 ms",
    "p99 ms",
    "CPU ms",
    "without MongoDB",
    *PROCESSES,
    "and compiling",
    "carried s",
]


async def purchase(count: int, buyers: Sequence[int], scenarios: Sequence[str]) -> str:
    """The tables, as Markdown: `count` orders for each number of buyers and each scenario, a fifth of that in scenarios
    with baskets of twenty lines."""
    async with _bench(max(buyers)) as bench:
        await _each_sold_once(bench, max(buyers))
        await settled(bench.running)
        parts = [ABOUT, await _idle(bench), await _floor(bench), await _trips(bench)]
        rows = []
        for scenario in scenarios or TITLES:
            few = count if scenario != "real" else max(count // 5, 1)
            await _cell(bench, scenario, max(buyers), 2 * max(buyers))  # warm-up: connections, prepared statements
            rows += [(await _cell(bench, scenario, many, max(few, 2 * many))).row for many in buyers]
            await _equal(bench)
    table = [f"| {' | '.join(HEAD)} |", "|---|" + "---:|" * (len(HEAD) - 1), *rows]
    return "\n\n".join(["### From cart to confirmed payment", *parts, "\n".join(table)])


@asynccontextmanager
async def _bench(buyers: int) -> AsyncIterator[Bench]:
    async with running_shop("auto") as running, open_stores(settings := running.settings) as stores:
        guest = Client(running.url)
        skus = await _stocked(stores.pg, guest)
        crowd = [await _buyer(running, guest) for _ in range(buyers)]
        draw = Random(SEED)
        baskets: dict[str, Iterator[Lines]] = {
            "many": ([(sku, 1) for sku in draw.sample(skus, 2)] for _ in cycle([0])),
            "hot": ([(skus[0], 1), (draw.choice(skus[1:]), 1)] for _ in cycle([0])),
            "real": _real(set(skus)),
        }
        yield Bench(running, Shop(settings, stores), crowd, skus, baskets)
        await asyncio.gather(guest.close(), *(client.close() for client in crowd))


async def _stocked(pg: Postgres, guest: Client) -> list[str]:
    """The SKUs of all published products without variants, with more stock than is ever bought here."""
    page = await guest.json("GET", "/products?limit=100")
    shown = list(page["items"])
    while page["nextCursor"]:
        page = await guest.json("GET", f"/products?limit=100&cursor={page['nextCursor']}")
        shown += page["items"]
    skus = sorted(product["sku"] for product in shown if not product["variants"])
    async with pg.once() as tx:
        await tx.execute("UPDATE inventory SET stock = 100000000 WHERE sku = ANY ($1)", skus)
    for sku in skus:  # fill the product cache
        await guest.request("GET", f"/products/{sku}")
    return skus


async def _buyer(running: RunningShop, guest: Client) -> Client:
    login = {"email": f"buyer-{uuid4().hex}@demo.test", "password": uuid4().hex}
    await guest.json("POST", "/users", login, want=201)
    session = await guest.json("POST", "/sessions", login, want=201)
    return Client(running.url, {"Authorization": f"Bearer {session['accessToken']}"})


def _real(skus: set[str]) -> Iterator[Lines]:
    """Baskets of the retailer's December of which the shop sells every line."""
    drawn = retail.baskets(retail.SHIPPED, "2010-12", 1000, SEED)
    fitting = [
        b.items for b in drawn if all(sku in skus and qty <= 999 for sku, qty in b.items) and len(b.items) <= 200
    ]
    return cycle(fitting)


async def _buy(buyer: Client, lines: Lines) -> None:
    for sku, qty in lines:
        await buyer.request("POST", "/cart/items", {"sku": sku, "qty": qty})
    order = await buyer.json("POST", "/orders", {}, want=201, **{"Idempotency-Key": uuid4().hex})
    paying = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    paid = await buyer.json("POST", "/payments", paying, want=201, **{"Idempotency-Key": uuid4().hex})
    if paid["status"] != "succeeded":
        raise RuntimeError(f"not paid: {paid}")


async def _cell(bench: Bench, scenario: str, buyers: int, count: int) -> Cell:
    baskets = [next(bench.baskets[scenario]) for _ in range(count)]
    queue, latencies = iter(baskets), []

    async def shopping(buyer: Client) -> None:
        for lines in queue:
            began = time.perf_counter()
            await _buy(buyer, lines)
            latencies.append((time.perf_counter() - began) * 1000)

    before, compiling, began = bench.cpu, bench.compiling, time.perf_counter()
    await asyncio.gather(*(shopping(buyer) for buyer in bench.buyers[:buyers]))
    seconds = time.perf_counter() - began
    await _carried(bench)
    took = time.perf_counter() - began - seconds
    cpu = {name: (now - before[name]) / count * 1000 for name, now in bench.cpu.items()}
    compiled = (bench.compiling - compiling) / count * 1000
    print(f"{scenario}, {buyers}: {sum(cpu.values()):.1f} ms", file=sys.stderr, flush=True)
    return Cell(scenario, buyers, seconds, sum(map(len, baskets)), latencies, cpu, compiled, took)


async def _each_sold_once(bench: Bench, buyers: int) -> None:
    """Sells every product once before measuring: after a rebuild, a product's first sale writes it to search again."""
    baskets = [[(sku, 1) for sku in bench.skus[at : at + 20]] for at in range(0, len(bench.skus), 20)]
    bench.baskets["once"] = iter(baskets)
    await _cell(bench, "once", buyers, len(baskets))


async def _carried(bench: Bench) -> None:
    """Waits until the outbox is empty, and then until the change stream has been processed past that time."""
    pg, clock = bench.shop.stores.pg, bench.shop.clock
    async with asyncio.timeout(CARRIED_SECONDS):
        while True:
            async with pg.read() as read:
                waiting, _ = await outbox.depth(read)
            if not waiting:
                break
            await asyncio.sleep(0.1)
        empty_at = clock.now()
        while True:
            async with pg.read() as read:
                upto = {p.pipeline: p.caught_up_at for p in await positions(read)}.get(changes.PIPELINE)
            if upto is not None and upto > empty_at:
                return
            await asyncio.sleep(0.1)


async def _equal(bench: Bench) -> None:
    """Raises RuntimeError unless search and catalog copies equal inventory: otherwise work was not counted."""
    await bench.shop.stores.search.refresh(bench.shop.settings.search_alias)
    wrong = (await sync.differing(bench.shop, patience=0)).suspects
    if wrong:
        raise RuntimeError(f"{len(wrong)} products were not carried")


async def _idle(bench: Bench) -> str:
    before = bench.cpu
    await asyncio.sleep(IDLE_SECONDS)
    spent = {name: (now - before[name]) / IDLE_SECONDS * 1000 for name, now in bench.cpu.items()}
    each = ", ".join(f"{name} {ms:.1f}" for name, ms in spent.items())
    return f"Nobody there, CPU ms a second: {sum(spent.values()):.0f} ({each})."


async def _floor(bench: Bench) -> str:
    """The minimal cost of the same purchase: four empty HTTP answers, and its bare statements without other load."""
    guest = Client(bench.running.url)
    before = bench.cpu["api"]
    for _ in range(4 * FLOOR):
        await guest.request("GET", "/health/live")
    api = (bench.cpu["api"] - before) / FLOOR * 1000
    await guest.close()
    worker = bench.running.pids["worker"]
    os.kill(worker, signal.SIGSTOP)  # so that it does not use PostgreSQL meanwhile
    try:
        server, client = await _bare(bench)
    finally:
        os.kill(worker, signal.SIGCONT)
    await _carried(bench)
    return (
        f"Floor: four empty answers cost the API {api:.2f} ms; the bare statements of one purchase of two lines "
        f"(place_order, start_payment, the sandbox's charge, complete_payment; one caller, each committed) cost "
        f"PostgreSQL {server:.2f} ms and their client {client:.2f} ms. Together {api + server + client:.2f} ms."
    )


async def _bare(bench: Bench) -> tuple[float, float]:
    """CPU milliseconds per purchase, of PostgreSQL and of this process."""
    pg, settings = bench.shop.stores.pg, bench.shop.settings
    provider = payments.open_providers(settings, pg)["sandbox"]
    async with pg.read() as read:
        user_id: UUID = await read.fetchval("SELECT id FROM users WHERE email = 'shopper@demo.test'")

    async def buy(lines: Lines) -> None:
        now = bench.shop.clock.now()
        async with pg.once() as tx:
            order = await orders.place(tx, user_id, lines)
        async with pg.once() as tx:
            payment = await payments.start(tx, order.id, user_id, "sandbox", now=now, ask=now)
        charge = payments.Charge(str(payment.id), payment.amount_cents, payment.currency, "card_ok")
        outcome = await provider.authorise(charge)
        async with pg.once() as tx:
            await payments.complete(tx, payment.id, outcome, now)

    for number in range(-20, FLOOR):
        if number == 0:
            before, own = bench.cpu["postgres"], resource.getrusage(resource.RUSAGE_SELF)
        await buy(next(bench.baskets["many"]))
    after = resource.getrusage(resource.RUSAGE_SELF)
    client = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
    return (bench.cpu["postgres"] - before) / FLOOR * 1000, client / FLOOR * 1000


async def _trips(bench: Bench) -> str:
    """Round trips to the stores for a purchase of two lines, made through a second API process whose stores are behind
    counting proxies."""
    stores = ("postgres", "mongodb", "redis", "search")
    urls = {store: str(getattr(bench.running.settings, f"{store}_url")) for store in stores}
    async with wired(urls) as (through, wires), _second_api(bench.running.settings, through) as url:
        buyer = Client(url, bench.buyers[0].headers)
        for number in range(-COUNTED, COUNTED):  # the first half, uncounted, opens connections and prepares statements
            if number == 0:
                before = {store: wire.counted.copy() for store, wire in wires.items()}
            await _buy(buyer, next(bench.baskets["many"]))
        await buyer.close()
    trips = {store: (wire.counted["trips"] - before[store]["trips"]) / COUNTED for store, wire in wires.items()}
    statements = (wires["postgres"].counted["statements"] - before["postgres"]["statements"]) / COUNTED
    each = ", ".join(f"{store} {count:.1f}" for store, count in trips.items())
    await _carried(bench)
    return f"Round trips of one purchase of two lines: {each}. Statements that PostgreSQL is sent: {statements:.1f}."


@asynccontextmanager
async def _second_api(settings: Settings, urls: dict[str, str]) -> AsyncIterator[str]:
    env = {f"QUARTET_{store.upper()}_URL": url for store, url in urls.items()}
    env |= {"QUARTET_SECRET": settings.secret.get_secret_value(), "QUARTET_DATA_DIR": str(settings.data_dir)}
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "quartet.cli", "serve", "--port", str(port),
        env={**os.environ, "QUARTET_LOG_LEVEL": "warning", **env},
    )  # fmt: skip
    guest = Client(f"http://127.0.0.1:{port}")
    try:
        async with asyncio.timeout(60):
            while True:
                with suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
                    await guest.request("GET", "/health/ready")
                    break
                await asyncio.sleep(0.1)
        await guest.close()
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
