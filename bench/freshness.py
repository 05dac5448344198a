"""Freshness: how long it takes until searches and the product page show a change of the catalog or of a price, at 200
changes and 50 searches per second; and how soon freshness recovers after a worker is killed, the engine is paused, or
20,000 products change at once."""

import asyncio
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from bench.client import Client, keep_calling
from bench.machine import compiler_seconds, cpu_seconds, held_still, quantile
from bench.running import RunningShop, published, renamed, running_shop, settled
from quartet import inventory, search
from quartet.cli import open_shop
from quartet.kernel.errors import StoreUnavailable
from quartet.sync.tasks import end
from quartet.web.dependencies import Shop

CHANGES, SEARCHES, PROBES = 200, 50, 10  # per second
BURST = 20_000
AFTER_SECONDS = 20.0
# Warm-up under load: at first a Java engine's JIT compiler takes half a core.
WARM_SECONDS = 120.0
PAUSED_SECONDS = 5.0
LOOK_SECONDS = 0.04
GOAL_SECONDS = 1.0
MOST_LOOKED_AT = 10  # at once: each look at a page is a request, and many of them would distort the measurement
WORDS = ("laptop", "lamp", "tea", "set", "heart", "black", "red", "box", "bag", "retro")

Product = dict[str, Any]


Mark = int  # identifies a change of a product; increases with every change
Look = Callable[[Sequence[Product]], Awaitable[Mapping[str, Mark]]]


@dataclass
class Watch:
    """A place where changes become visible. `look` returns the mark that it shows for each given product, by id.

    `found`: for each probe the time of the write, and the seconds until it was visible. `fell`: how often an older mark
    was shown after a newer one.
    """

    name: str
    look: Look
    waiting: dict[str, tuple[Product, Mark, float]] = field(default_factory=dict)
    found: list[tuple[float, float]] = field(default_factory=list)
    fell: int = 0
    _shown: dict[str, Mark] = field(default_factory=dict)

    async def watch(self) -> None:
        """Polls for ever. A probe also counts as found if a later change is shown."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.waiting:
                with suppress(StoreUnavailable, OSError, RuntimeError):
                    await self._look([product for product, *_ in self.waiting.values()][:MOST_LOOKED_AT])

    async def _look(self, products: Sequence[Product]) -> None:
        shown = await self.look(products)
        now = time.monotonic()
        for id_, mark in shown.items():
            self.fell += mark < self._shown.get(id_, mark)
            self._shown[id_] = mark
            _, wanted, written = self.waiting[id_]
            if mark >= wanted:
                self.found.append((written, now - written))
                del self.waiting[id_]


class Changes(ABC):
    """Changes products one after another; the watches wait for some of the changes, the probes."""

    name: str

    def __init__(self, shop: Shop, guest: Client, products: list[Product]) -> None:
        self.shop, self.products = shop, products
        self._guest, self._at = guest, 0
        self._under_way: set[int] = set()
        self.watches = [Watch("search", self._in_search), Watch("product page", self._on_page)]

    async def change(self, *, probe: bool = False) -> None:
        """Changes the next product; `probe`: the watches wait for it."""
        place = self._next(probe)
        product = self.products[place]
        self._under_way.add(place)
        try:
            if probe:
                await self._on_page([product])  # puts it into the cache, so that the cache can be stale
            if made := await (self._make(product) if probe else self._make_another(product)):
                self.products[place], mark = made
                for watch in self.watches if probe else ():
                    watch.waiting[product["_id"]] = (product, mark, time.monotonic())
        except StoreUnavailable:
            pass  # MongoDB's emulator is overloaded; skip this one
        finally:
            self._under_way.remove(place)

    def _next(self, probe: bool) -> int:
        while True:
            self._at = (self._at + 1) % len(self.products)
            waiting = probe and any(self.products[self._at]["_id"] in watch.waiting for watch in self.watches)
            if not waiting and self._at not in self._under_way:
                return self._at

    async def _in_search(self, products: Sequence[Product]) -> Mapping[str, Mark]:
        ids = [product["_id"] for product in products]
        held = await search.found_by_ids(self.shop.stores.search, self.shop.settings.search_alias, ids)
        return {id_: self._mark(document) for id_, document in held.items()}

    async def _on_page(self, products: Sequence[Product]) -> Mapping[str, Mark]:
        pages = (self._guest.json("GET", f"/products/{quote(product['sku'], safe='')}") for product in products)
        answers = await asyncio.gather(*pages)
        return {product["_id"]: self._mark(page) for product, page in zip(products, answers, strict=True)}

    @abstractmethod
    async def _make(self, product: Product) -> tuple[Product, Mark] | None:
        """Changes the product; returns it with its new mark, or None if it is gone."""

    async def _make_another(self, product: Product) -> tuple[Product, Mark] | None:
        """Makes a change that no watch waits for."""
        return await self._make(product)

    @abstractmethod
    def _mark(self, shown: Mapping[str, Any]) -> Mark: ...


class Names(Changes):
    """Changes in MongoDB, not through the API, which would invalidate the cache itself."""

    name = "Names, changed in MongoDB"

    async def _make(self, product: Product) -> tuple[Product, Mark] | None:
        mark = time.monotonic_ns()
        after = await renamed(self.shop.stores.mongo, product, f"{product['name'].split(' #')[0]} #{mark}")
        return None if after is None else (after, mark)

    def _mark(self, shown: Mapping[str, Any]) -> Mark:
        return int(shown["name"].partition(" #")[2] or 0)


class Prices(Changes):
    """Changes in PostgreSQL: alternately a piece is received or the price rises by a cent; a probe is always a
    price."""

    name = "Prices and stock, changed in PostgreSQL"
    _turn = False

    async def _make(self, product: Product) -> tuple[Product, Mark] | None:
        sku, price = product["sku"], product["priceCents"] + 1
        async with self.shop.stores.pg.once() as tx:
            await inventory.put(tx, sku, product["name"], price, currency=self.shop.settings.currency, actor="bench")
        return {**product, "priceCents": price}, price

    async def _make_another(self, product: Product) -> tuple[Product, Mark] | None:
        self._turn = not self._turn
        if self._turn:
            return await self._make(product)
        async with self.shop.stores.pg.once() as tx:
            await inventory.move(tx, product["sku"], 1, "received", actor="bench")
        return product, product["priceCents"]

    def _mark(self, shown: Mapping[str, Any]) -> Mark:
        return int(shown["priceCents"])


KINDS: Mapping[str, type[Changes]] = {"prices": Prices, "names": Names}


async def freshness(changed: Sequence[str]) -> str:
    """A Markdown table for each of the KINDS in `changed`."""
    parts = ["### Freshness"]
    for kind in map(KINDS.__getitem__, changed):
        async with (
            running_shop("auto") as running,
            _another_worker(running.data) as other,
            open_shop(running.settings) as shop,
        ):
            await settled(running)
            guest = Client(running.url)
            products = [product for product in await published(running.mongo()) if not product["variants"]]
            parts.append(await _table(kind(shop, guest, products), running, other, guest))
            await guest.close()
    return "\n\n".join(parts)


async def _table(changes: Changes, running: RunningShop, other: int, guest: Client) -> str:
    lines = [
        f"{changes.name}: {len(changes.products)} products, {CHANGES} changes and {SEARCHES} searches a second.\n",
        "| | seen in | p50 s | p99 s | slowest s | under 1 s again after s | changes/s | searches/s | load average |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    made = searched = failed = 0
    steady: dict[str, float] = {}

    async def write(number: int, _due: float) -> None:
        nonlocal made
        await changes.change(probe=number % (CHANGES // PROBES) == 0)
        made += 1

    async def ask(number: int, _due: float) -> None:
        nonlocal searched, failed
        try:
            await guest.json("GET", f"/search?q={WORDS[number % len(WORDS)]}")
            searched += 1
        except Exception:
            failed += 1

    watching = [asyncio.ensure_future(watch.watch()) for watch in changes.watches]
    load = [asyncio.ensure_future(keep_calling(rate, 100, call)) for rate, call in ((CHANGES, write), (SEARCHES, ask))]
    await asyncio.sleep(WARM_SECONDS)
    for name, event in (
        ("steady", _nothing),
        ("a worker killed", partial(_kill, running.pids["worker"])),
        ("the other worker killed", partial(_kill, other)),
        ("the engine stopped for 5 s", lambda: _pause(running.pids["search"])),
        (f"{BURST:,} changes at once", lambda: _burst(changes)),
    ):
        began, before, busy = time.monotonic(), (made, searched), _busy(running, other)
        await event()
        over = time.monotonic()
        await asyncio.sleep(AFTER_SECONDS)
        seconds = time.monotonic() - began
        rates = (made - before[0]) / seconds, (searched - before[1]) / seconds
        steady = steady or {who: (now - busy[who]) / seconds for who, now in _busy(running, other).items()}
        for watch in changes.watches:
            lines.append(_row(name, watch, began, over, rates))
            print(lines[-1], file=sys.stderr, flush=True)
    await end(load)
    await asyncio.sleep(AFTER_SECONDS)  # time for the last changes to be found
    await end(watching)
    shares = ", ".join(f"{who} {share:.2f}" for who, share in sorted(steady.items(), key=lambda each: -each[1]))
    lines.append(f"\nCores taken in steady state: {shares}.")
    lines.append(
        f"\nSearches that failed: {failed}. "
        + " ".join(
            f"In {w.name}: {len(w.waiting)} never found, {w.fell} older ones after newer." for w in changes.watches
        )
    )
    return "\n".join(lines)


def _row(name: str, watch: Watch, began: float, over: float, rates: tuple[float, float]) -> str:
    took = [seconds for written, seconds in watch.found if written >= began]
    again = max((written for written, s in watch.found if written >= began and s > GOAL_SECONDS), default=over) - over
    p50, p99 = quantile(took, 0.5), quantile(took, 0.99)
    return (
        f"| {name} | {watch.name} | {p50:.2f} | {p99:.2f} | {max(took):.2f} | {max(again, 0):.1f} | {rates[0]:.0f} "
        f"| {rates[1]:.0f} | {os.getloadavg()[0]:.0f} |"
    )


def _busy(running: RunningShop, other: int) -> dict[str, float]:
    """CPU seconds so far of each process, of the engine's JIT compiler separately, and of this process, which makes the
    changes and looks for them."""
    busy = {who: cpu_seconds(pid) for who, pid in (running.pids | {"the other worker": other}).items()}
    compiling = compiler_seconds(running.pids["search"])
    return busy | {
        "search": busy["search"] - compiling, "its compiler": compiling, "these measurements": time.process_time()
    }  # fmt: skip


async def _nothing() -> None:
    pass


async def _kill(pid: int) -> None:
    psutil.Process(pid).kill()


async def _pause(pid: int) -> None:
    with held_still(pid):
        await asyncio.sleep(PAUSED_SECONDS)


async def _burst(changes: Changes) -> None:
    left = iter(range(BURST))

    async def writer() -> None:
        for _ in left:
            await changes.change()

    await asyncio.gather(*(writer() for _ in range(8)))


@asynccontextmanager
async def _another_worker(data: Path) -> AsyncIterator[int]:
    """Runs a second worker, so that one can be killed while the other goes on; yields its pid."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "quartet.cli",
        "worker",
        "--data",
        str(data),
        env={**os.environ, "QUARTET_LOG_LEVEL": "warning", "QUARTET_CANARY_SECONDS": "0"},
    )
    try:
        yield process.pid
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
