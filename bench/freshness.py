"""How long it takes until a catalog change is found, at 200 changes and 50 searches a second; and how soon that is so
again after a worker is killed, the engine stands still, or 20,000 products change at once."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.client import Client
from bench.running import RunningShop, published, renamed, running_shop, settled
from quartet import search
from quartet.kernel.errors import StoreUnavailable
from quartet.stores.mongo import Mongo
from quartet.stores.search import SearchEngine

CHANGES, SEARCHES, PROBES = 200, 50, 20  # a second
BURST = 20_000
STEADY_SECONDS, AFTER_SECONDS = 15.0, 15.0
PAUSED_SECONDS = 5.0
LOOK_SECONDS = 0.04
GOAL_SECONDS = 1.0
WORDS = ("laptop", "lamp", "tea", "set", "heart", "black", "red", "box", "bag", "retro")


@dataclass
class Load:
    """What writes, and what listens. `found`: when each probe was written, and how many seconds until it was found."""

    mongo: Mongo
    engine: SearchEngine
    alias: str
    products: list[dict[str, Any]]
    found: list[tuple[float, float]] = field(default_factory=list)
    waiting: dict[str, tuple[str, float]] = field(default_factory=dict)
    searched: list[float] = field(default_factory=list)
    failed: int = 0
    at: int = 0

    async def change(self, *, probe: bool = False) -> None:
        """The next product gets another name, as any change is made."""
        self.at = (self.at + 1) % len(self.products)
        if probe:
            while self.products[self.at]["_id"] in self.waiting:
                self.at = (self.at + 1) % len(self.products)
        before = self.products[self.at]
        name = f"{before['name'].split(' #')[0]} #{time.monotonic_ns()}"
        place = self.at
        with suppress(StoreUnavailable):  # the emulator of MongoDB has more to do than it can; the next one then
            if after := await renamed(self.mongo, before, name):
                self.products[place] = after
                if probe:
                    self.waiting[after["_id"]] = (name, time.monotonic())

    async def look(self) -> None:
        """Which of the probes a search finds by now. One that was changed again since is found as that."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.waiting:
                with suppress(Exception):
                    held = await search.found_by_ids(self.engine, self.alias, list(self.waiting)[:500])
                    now = time.monotonic()
                    for id_, document in held.items():
                        name, written = self.waiting[id_]
                        if document["name"].rpartition("#")[2] >= name.rpartition("#")[2]:
                            self.found.append((written, now - written))
                            del self.waiting[id_]


async def _by_the_clock(rate: float, call: Callable[[int], Awaitable[object]]) -> None:
    """So many a second, whether or not those before are done; at most a hundred at once."""
    begin, number, running = time.monotonic(), 0, set[asyncio.Task[object]]()
    while True:
        number += 1
        await asyncio.sleep(max(begin + number / rate - time.monotonic(), 0))
        if len(running) < 100:
            task = asyncio.ensure_future(call(number))
            running.add(task)
            task.add_done_callback(running.discard)


async def freshness() -> str:
    """A table as Markdown."""
    async with running_shop("auto") as running, _another_worker(running.data):
        await settled(running)
        settings = running.settings
        assert settings.search_url
        mongo = running.mongo()
        products = await published(mongo)
        load = Load(mongo, SearchEngine(settings.search_url), settings.search_alias, products)
        guest = Client(running.url)
        lines = [
            "### Freshness\n",
            f"{len(products)} products, {CHANGES} changes and {SEARCHES} searches a second asked for.\n",
            "| | p50 s | p99 s | slowest s | under 1 s again after s | changes/s made | searches/s | load average |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        made = 0

        async def write(number: int) -> None:
            nonlocal made
            await load.change(probe=number % (CHANGES // PROBES) == 0)
            made += 1

        async def ask(number: int) -> None:
            began = time.monotonic()
            try:
                await guest.json("GET", f"/search?q={WORDS[number % len(WORDS)]}")
                load.searched.append(time.monotonic() - began)
            except Exception:
                load.failed += 1

        tasks = [asyncio.ensure_future(work) for work in
                 (load.look(), _by_the_clock(CHANGES, write), _by_the_clock(SEARCHES, ask))]  # fmt: skip
        await asyncio.sleep(5)
        for name, event in (
            ("steady", _nothing),
            ("a worker killed", lambda: _kill_worker(running)),
            ("the engine paused for 5 s", lambda: _pause(running.pids["search"])),
            (f"{BURST:,} changes at once", lambda: _burst(load)),
        ):
            began, before, searched = time.monotonic(), made, len(load.searched)
            await event()
            over = time.monotonic()
            await asyncio.sleep(STEADY_SECONDS if event is _nothing else AFTER_SECONDS)
            seconds = time.monotonic() - began
            rates = (made - before) / seconds, (len(load.searched) - searched) / seconds
            lines.append(_row(name, load, began, over, rates))
            print(lines[-1], file=sys.stderr, flush=True)
        for task in tasks:
            task.cancel()
        lines.append(f"\nSearches that failed: {load.failed}. Probes never found: {len(load.waiting)}.")
        await guest.close()
    return "\n".join(lines)


def _row(name: str, load: Load, began: float, over: float, rates: tuple[float, float]) -> str:
    took = sorted(seconds for written, seconds in load.found if written >= began)
    again = max((written for written, s in load.found if written >= began and s > GOAL_SECONDS), default=over) - over
    p50, p99 = (took[min(len(took) - 1, int(share * len(took)))] for share in (0.5, 0.99))
    return (
        f"| {name} | {p50:.2f} | {p99:.2f} | {took[-1]:.2f} | {max(again, 0):.1f} | {rates[0]:.0f} | {rates[1]:.0f} "
        f"| {os.getloadavg()[0]:.0f} |"
    )


async def _nothing() -> None:
    pass


async def _kill_worker(running: RunningShop) -> None:
    psutil.Process(running.pids["worker"]).kill()


async def _pause(pid: int) -> None:
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        await asyncio.sleep(PAUSED_SECONDS)
    finally:
        for process in family:
            process.resume()


async def _burst(load: Load) -> None:
    left = iter(range(BURST))

    async def writer() -> None:
        for _ in left:
            await load.change()

    await asyncio.gather(*(writer() for _ in range(8)))


@asynccontextmanager
async def _another_worker(data: Path) -> AsyncIterator[None]:
    """So that one can be killed and another goes on."""
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
        yield
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
