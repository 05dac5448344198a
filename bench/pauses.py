"""What a store that says nothing for five seconds costs those who do not need it, and how soon it is used again."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from bench.client import Client, by_the_clock
from bench.running import RunningShop, running_shop, settled

ROUNDS = 3
SECONDS = 5.0
# Requests start by the clock, whether or not those before them have been answered: who waits is counted as waiting.
RATE = 60
ADDRESS = "shopper@demo.test"
# By route: where it is, who asks, and which stores it cannot do without.
ROUTES = {
    "product page": ("/products/LAPTOP-001", "guest", set[str]()),
    "list": ("/products?category=laptops", "guest", {"mongodb"}),
    "search": ("/search?category=laptops", "guest", {"search"}),
    "cart": ("/cart", "shopper", {"redis", "postgres"}),
    "orders": ("/orders", "shopper", {"postgres"}),
}
STORES = ("postgres", "mongodb", "redis", "search")


@dataclass
class Seen:
    """Milliseconds of a route that does not need the store, before and during its pauses."""

    quiet: list[float] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def pauses() -> str:
    """A table as Markdown."""
    rows = []
    async with running_shop("osmem") as shop:
        await settled(shop)
        clients = {"guest": Client(shop.url), "shopper": await shop.sign_in(ADDRESS)}
        for store in STORES:
            seen, back = await _pause(shop, clients, store)
            rows += [
                f"| {store} | {name} | {len(s.paused)} "
                f"| {_quantile(s.quiet, 0.5):.1f} | {_quantile(s.paused, 0.5):.1f} "
                f"| {_quantile(s.quiet, 0.99):.1f} | {_quantile(s.paused, 0.99):.1f} "
                f"| {_quantile(s.paused, 0.99) / _quantile(s.quiet, 0.99):.2f} | {max(back):.2f} |"
                for name, s in seen.items()
            ]
        await asyncio.gather(*(client.close() for client in clients.values()))
    return "\n".join(
        [
            "### A store that pauses for five seconds\n",
            f"{ROUNDS} pauses of each, by SIGSTOP, beside {RATE} requests a second started by the clock; before each, "
            "as long without. Only routes that do not need the store.\n",
            "| paused | route | requests | p50 ms before | during | p99 ms before | during | × | s until used again |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
        ]
    )


async def _pause(shop: RunningShop, clients: dict[str, Client], store: str) -> tuple[dict[str, Seen], list[float]]:
    names = [name for name, (_, _, needs) in ROUTES.items() if store not in needs]
    seen, back = {name: Seen() for name in names}, []
    needing = next(name for name, (_, _, needs) in ROUTES.items() if store in needs)
    for _ in range(ROUNDS):
        await _ask(clients, {name: seen[name].quiet for name in names})
        with _stopped(shop.pids[store]):
            # Somebody who needs it, so that the shop comes to know.
            victim = asyncio.create_task(_answered(clients, needing))
            await _ask(clients, {name: seen[name].paused for name in names})
        began = time.perf_counter()
        while not await _answered(clients, needing):  # noqa: ASYNC110 — it comes true in the shop
            await asyncio.sleep(0.02)
        back.append(time.perf_counter() - began)
        await victim
        await asyncio.sleep(2)
    return seen, back


async def _answered(clients: dict[str, Client], name: str) -> bool:
    path, who, _ = ROUTES[name]
    with suppress(RuntimeError):
        _, body = await clients[who].request("GET", path)
        return b'"degraded":true' not in body
    return False


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    parent = psutil.Process(pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            process.resume()


async def _ask(clients: dict[str, Client], latencies: dict[str, list[float]]) -> None:
    """These routes by turns, at their rate."""
    running = []
    async for number, due in by_the_clock(RATE, int(RATE * SECONDS)):
        name = list(latencies)[number % len(latencies)]
        path, who, _ = ROUTES[name]
        running.append(asyncio.create_task(_timed(clients[who].request, path, due, latencies[name])))
    await asyncio.gather(*running)


async def _timed(request: Callable[..., Awaitable[object]], path: str, due: float, latencies: list[float]) -> None:
    await request("GET", path)
    latencies.append((time.perf_counter() - due) * 1000)
