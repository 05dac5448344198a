"""The cost of a search over HTTP: cached answers compared with bare HTTP answers of the same size, uncached ones with
the engine driven directly, queries with a Zipf distribution at rising rates while products change, and the cores needed
for ten thousand searches per second."""

import asyncio
import itertools
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from statistics import median
from typing import Any
from urllib.parse import quote_plus

from bench.bare import started
from bench.client import Client, by_the_clock, keep_calling
from bench.machine import Measured, cpu_seconds, measure, middle, table, warmed
from bench.running import RunningShop, published, renamed, running_shop, settled
from bench.search_words import Zipf, typed
from quartet import search as searching
from quartet.devstores import free_port
from quartet.kernel.clock import SystemClock
from quartet.search import Wanted
from quartet.stores.search import SearchEngine

Call = Callable[[int], Coroutine[Any, Any, object]]

CALLERS = 8
CALLS, MISSES, ROUNDS = 12_000, 300, 7
KEPT = (("a search", "/search?q=laptop"), ("as you type", "/search/suggest?q=lap"))
# Warm-up calls per kind and round, repeated until the engine's JIT compiler is idle.
WARM = 3000
TYPED_RATE = 50  # per second, open loop
RATES = (50, 100, 200, 400)
SECONDS = 10.0
CHANGES = 20  # of products per second
CANARY_SECONDS = 0.5  # between two changes of the canary
LOOK_SECONDS = 0.05
GOAL_RATE = 10_000
SHARES = (0.01, 0.1, 0.5)
SOURCES = ("process", "joined", "redis", "engine")
PROCESSES = ("api", "mongodb", "postgres", "redis", "search", "worker")
_ASKED = re.compile(r'^quartet_search_answers_total\{source="(\w+)"\} (\S+)$', re.MULTILINE)


async def search(distinct: Sequence[int]) -> str:
    """The tables, as Markdown."""
    async with running_shop("auto") as shop:
        await settled(shop)
        kept, costs = await _costs(shop)
        mixes = [await _mixed(shop, count) for count in distinct]
    return "\n\n".join([kept, _cores(costs), "\n".join([_MIXED, *itertools.chain(*mixes)])])


# --- The cost of one ------------------------------------------------------------------------------------------------


async def _costs(shop: RunningShop) -> tuple[str, dict[str, Measured]]:
    """Measures uncached queries; then cached ones, compared with answers of the same size from a server that does
    nothing else."""
    guest, settings = Client(shop.url), shop.settings
    mongo, engine = shop.mongo(), SearchEngine(settings.search_url or "")
    distinct = typed(await published(mongo), 2 * WARM + 20 * MISSES, seed=3)
    await mongo.close()

    def of(where: str, words: Iterator[str]) -> Call:
        return lambda _: guest.request("GET", f"{where}?q={quote_plus(next(words))}")

    others = itertools.cycle(distinct[: 2 * WARM])
    asks = of("/search", others), of("/search/suggest", others)
    compiling = await warmed(shop.pids["search"], *asks, calls=WARM, callers=CALLERS)
    unheard = iter(distinct[2 * WARM :])
    new = partial(of, words=unheard)

    def directly(_: int) -> Coroutine[Any, Any, object]:
        return searching.find(engine, settings, Wanted(q=next(unheard)), SystemClock().now())

    runs = []
    for name, ask, calls in (
        ("empty answer: GET /health/live", _asking(guest, "/health/live"), CALLS),
        ("such a search at the engine, driven directly", directly, MISSES),
        ("a search that nobody asked before", new("/search"), MISSES),
        ("as you type, what nobody typed before", new("/search/suggest"), MISSES),
    ):
        runs.append(await measure(name, ask, calls=calls, callers=CALLERS, processes=shop.pids))
    runs.append(await _by_the_clock(shop, "the same, so many a second", new("/search/suggest")))
    kept = [await _in_turns(shop, guest, *known) for known in KEPT]
    others_ask = await measure(
        "a search kept ready, each from another address",
        _from_others(guest, KEPT[0][1]), calls=CALLS, callers=CALLERS, processes=shop.pids,
    )  # fmt: skip
    await guest.close()
    await engine.close()
    note = (
        f"{CALLERS} callers, the last line by the clock, {TYPED_RATE} a second. {2 * WARM:,} others were asked before, "
        f"until the engine's compiler took {compiling:.0%} of a core. The load's own process is not counted."
    )
    told = f"### A search over HTTP\n\n{note}\n\n{table([*runs, others_ask])}\n\n{_kept(kept)}"
    return told, {"kept": middle(kept[0].kept, "api"), "new": runs[2]}


def _asking(client: Client, path: str) -> Call:
    return lambda _: client.request("GET", path)


def _from_others(client: Client, path: str) -> Call:
    """Behind a proxy every request comes from another address: none is counted ahead against its rate limit."""
    addresses = map(str, ip_network("10.0.0.0/8").hosts())
    return lambda _: client.request("GET", path, headers={"X-Forwarded-For": next(addresses)})


@dataclass
class Turns:
    """Alternating measurements of a cached answer and of a bare one of the same size."""

    name: str
    size: int
    bare: list[Measured] = field(default_factory=list)
    kept: list[Measured] = field(default_factory=list)


async def _in_turns(shop: RunningShop, guest: Client, name: str, path: str) -> Turns:
    """Measures the two alternately: a core's speed varies within seconds here, and this way affects both."""
    _, body = await guest.request("GET", path)
    turns = Turns(name, len(body))
    async with started(free_port(), len(body)) as (url, pid):
        bare = Client(url)
        for calls in (WARM, *[CALLS] * ROUNDS):
            one = await measure("bare", _asking(bare, "/"), calls=calls, callers=CALLERS, processes={"api": pid})
            other = await measure(name, _asking(guest, path), calls=calls, callers=CALLERS, processes=shop.pids)
            if calls == CALLS:
                turns.bare.append(one)
                turns.kept.append(other)
        await bare.close()
    return turns


def _kept(found: Sequence[Turns]) -> str:
    lines = [
        "### Kept answers beside bare ones\n",
        f"{ROUNDS} times {CALLS:,} of each by turns, {CALLERS} callers: CPU µs of the process that answers, the middle "
        "one, the least and the most; and how many times the bare one's, turn by turn.\n",
        "| kept ready | bytes | bare µs | kept µs | times: the middle | least | most | bare/s | kept/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for turns in found:
        ratios = sorted(k.cpu["api"] / b.cpu["api"] for k, b in zip(turns.kept, turns.bare, strict=True))
        bare, kept = middle(turns.bare, "api"), middle(turns.kept, "api")
        lines.append(
            f"| {turns.name} | {turns.size:,} | {_spread(turns.bare)} | {_spread(turns.kept)} "
            f"| **{median(ratios):.2f}** | {ratios[0]:.2f} | {ratios[-1]:.2f} "
            f"| {bare.rate:,.0f} | {kept.rate:,.0f} |"
        )
    return "\n".join(lines)


def _spread(runs: Sequence[Measured]) -> str:
    spent = sorted(run.cpu["api"] for run in runs)
    return f"{median(spent):.0f} ({spent[0]:.0f} to {spent[-1]:.0f})"


async def _by_the_clock(shop: RunningShop, name: str, ask: Call) -> Measured:
    """Open loop: latencies count from when each call was due."""
    took: list[float] = []

    async def one(number: int, due: float) -> None:
        await ask(number)
        took.append((time.perf_counter() - due) * 1000)

    before, began = {name: cpu_seconds(pid) for name, pid in shop.pids.items()}, time.perf_counter()
    async with asyncio.TaskGroup() as group:
        async for number, due in by_the_clock(TYPED_RATE, 4 * MISSES):
            group.create_task(one(number, due))
    seconds = time.perf_counter() - began
    cpu = {name: (cpu_seconds(pid) - before[name]) / len(took) * 1e6 for name, pid in shop.pids.items()}
    return Measured(name, seconds, took, cpu)


def _cores(costs: dict[str, Measured]) -> str:
    """The cores needed, computed from the two measured costs: a core gives one second of CPU per second."""
    lines = [
        f"### Cores for {GOAL_RATE:,} searches a second\n",
        "Computed from the costs above: every process on as many cores as it takes.\n",
    ]
    processes = sorted(costs["kept"].cpu)
    lines += [
        f"| not kept ready | cores | {' | '.join(processes)} |",
        f"|---|{'---:|' * (len(processes) + 1)}",
    ]
    for share in SHARES:
        by = {
            name: GOAL_RATE * ((1 - share) * costs["kept"].cpu[name] + share * costs["new"].cpu[name]) / 1e6
            for name in processes
        }
        each = " | ".join(f"{by[name]:.1f}" for name in processes)
        lines.append(f"| {share:.0%} | **{sum(by.values()):.1f}** | {each} |")
    return "\n".join(lines)


# --- A mix of queries while products change -------------------------------------------------------------------------

_MIXED = "\n".join(
    [
        "### Queries by Zipf's law while products change\n",
        f"{SECONDS:.0f} s at each rate, started by the clock; {CHANGES} products a second change, and one is renamed "
        f"every {CANARY_SECONDS} s, whose name is asked for all the time: *stale* is for how long an answer had been "
        "wrong when it was asked for.\n",
        "| distinct queries | asked/s | answered/s | from the process | joined | Redis | engine | p50 ms | p99 ms "
        f"| CPU ms | {' | '.join(PROCESSES)} | stale p99 s | longest s |",
        f"|{'---:|' * (12 + len(PROCESSES))}",
    ]
)


async def _mixed(shop: RunningShop, distinct: int) -> list[str]:
    mongo = shop.mongo()
    queries = [f"/search?q={quote_plus(text)}" for text in typed(await published(mongo), distinct)]
    await mongo.close()
    guest, rows = Client(shop.url), []
    for rate in RATES:
        zipf = Zipf(queries, seed=rate)
        async with _changing(shop) as canary:
            await asyncio.sleep(2)  # let changes and canary start
            rows.append(f"| {distinct:,} {await _at_rate(shop, guest, zipf, rate, canary)}")
        print(rows[-1], file=sys.stderr, flush=True)
    await guest.close()
    return rows


async def _at_rate(shop: RunningShop, guest: Client, zipf: Zipf, rate: int, canary: "_Canary") -> str:
    took: list[float] = []
    failed = 0

    async def ask(_: int, due: float) -> None:
        nonlocal failed
        try:
            await guest.request("GET", zipf.draw())
            took.append(time.perf_counter() - due)
        except (RuntimeError, OSError):
            failed += 1

    before, cpu = await _asked(guest), {name: cpu_seconds(pid) for name, pid in shop.pids.items()}
    canary.stale.clear()
    began = time.perf_counter()
    await keep_calling(rate, 500, ask, int(rate * SECONDS))
    seconds = time.perf_counter() - began
    spent = {name: (cpu_seconds(pid) - cpu[name]) / len(took) * 1000 for name, pid in shop.pids.items()}
    after = await _asked(guest)
    by = {source: after.get(source, 0) - before.get(source, 0) for source in SOURCES}
    shares = " | ".join(f"{by[source] / max(sum(by.values()), 1):.1%}" for source in SOURCES)
    took.sort()
    stale = sorted(canary.stale) or [0.0]
    costs = " | ".join([f"**{sum(spent.values()):.2f}**", *(f"{spent[name]:.2f}" for name in PROCESSES)])
    return (
        f"| {rate} | {len(took) / seconds:.0f}{f' ({failed} failed)' if failed else ''} | {shares} "
        f"| {took[len(took) // 2] * 1000:.1f} | {took[int(len(took) * 0.99)] * 1000:.1f} | {costs} "
        f"| {stale[int(len(stale) * 0.99)]:.2f} | {stale[-1]:.2f} |"
    )


async def _asked(guest: Client) -> dict[str, float]:
    """The number of searches so far by source of the answer, from /metrics."""
    _, text = await guest.request("GET", "/metrics")
    return {source: float(count) for source, count in _ASKED.findall(text.decode())}


@dataclass
class _Canary:
    """`stale`: for each answer, for how many seconds its content was already outdated at the time of the request."""

    stale: list[float] = field(default_factory=list)
    written: dict[int, float] = field(default_factory=dict)

    def saw(self, number: int, asked: float) -> None:
        """Records an answer with this number to a request made at time `asked`."""
        next_one = self.written.get(number + 1)
        self.stale.append(max(0.0, asked - next_one) if next_one else 0.0)


@asynccontextmanager
async def _changing(shop: RunningShop) -> AsyncIterator[_Canary]:
    """Changes products in the background, and watches the canary among them."""
    mongo = shop.mongo()
    canary, guest = _Canary(), Client(shop.url)
    held = {product["_id"]: product for product in (await published(mongo))[:400]}
    watched, *others = held

    async def rename(id_: str, name: str) -> None:
        held[id_] = await renamed(mongo, held[id_], name) or held[id_]

    async def others_change() -> None:
        for number in itertools.count():
            id_ = others[number % len(others)]
            await rename(id_, f"{held[id_]['name'].split(' #')[0]} #{number}")
            await asyncio.sleep(1 / CHANGES)

    async def canary_changes() -> None:
        for number in itertools.count(1):
            await rename(watched, f"Zanzibarcanary number{number}")
            canary.written[number] = time.monotonic()
            await asyncio.sleep(CANARY_SECONDS)

    async def watch() -> None:
        while True:
            asked = time.monotonic()
            found = await guest.json("GET", "/search?q=zanzibarcanary")
            for item in found["items"]:
                canary.saw(int(item["name"].rpartition("number")[2]), asked)
            await asyncio.sleep(LOOK_SECONDS)

    original = held[watched]["name"]
    tasks = [asyncio.create_task(work()) for work in (others_change, canary_changes, watch)]
    try:
        yield canary
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await rename(watched, original)
        await guest.close()
        await mongo.close()
