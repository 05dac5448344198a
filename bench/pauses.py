"""The effect of a store that does not answer for five seconds on routes that do not need it, and how soon it is used
again."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from bench.client import Client, by_the_clock
from bench.machine import held_still, quantile
from bench.running import RunningShop, running_shop, settled

SECONDS = 5.0
FIRST_SECONDS = 0.05
# Requests per second in an open loop: latencies include queueing.
RATE = 60
ADDRESS = "shopper@demo.test"
# By route: its path, the client, and the stores that it needs.
ROUTES = {
    "product page": ("/products/LAPTOP-001", "guest", set[str]()),
    "list": ("/products?category=laptops", "guest", {"mongodb"}),
    "search": ("/search?category=laptops", "guest", {"search"}),
    "cart": ("/cart", "shopper", {"redis", "postgres"}),
    "orders": ("/orders", "shopper", {"postgres"}),
}


@dataclass
class Seen:
    """Latencies in milliseconds of a route that does not need the store, before (`quiet`) and during its pauses
    (`paused`); `first`: of requests in flight when it stopped or sent within `FIRST_SECONDS` after, before the outage
    was detected. `refused`: requests refused at any time because the machine was overloaded."""

    quiet: list[float] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    refused: int = 0


async def pauses(rounds: int, stores: Sequence[str]) -> str:
    """The results as a Markdown table."""
    rows = []
    async with running_shop("osmem") as shop:
        await settled(shop)
        clients = {"guest": Client(shop.url), "shopper": await shop.sign_in(ADDRESS)}
        for store in stores:
            seen, back = await _pause(shop, clients, store, rounds)
            rows += [
                f"| {store} | {name} | {len(s.paused)} "
                f"| {quantile(s.quiet, 0.5):.1f} | {quantile(s.paused, 0.5):.1f} "
                f"| {quantile(s.quiet, 0.99):.1f} | {quantile(s.paused, 0.99):.1f} "
                f"| {quantile(s.paused, 0.99) / quantile(s.quiet, 0.99):.2f} "
                f"| {len(s.first)} | {quantile(s.first or [0], 0.5):.0f} | {max(s.first, default=0):.0f} "
                f"| {s.refused} | {max(back):.2f} |"
                for name, s in seen.items()
            ]
        await asyncio.gather(*(client.close() for client in clients.values()))
    return "\n".join(
        [
            "### A store that pauses for five seconds\n",
            f"{rounds} pauses of each, by SIGSTOP, beside {RATE} requests a second started by the clock; before each, "
            "as long without. Only routes that do not need the store. The first: who was under way when it stopped, or "
            f"came within {FIRST_SECONDS * 1000:.0f} ms.\n",
            "| paused | route | requests | p50 ms before | during | p99 ms before | during | × "
            "| the first | their p50 ms | longest | refused | s until used again |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
        ]
    )


async def _pause(
    shop: RunningShop, clients: dict[str, Client], store: str, rounds: int
) -> tuple[dict[str, Seen], list[float]]:
    names = [name for name, (_, _, needs) in ROUTES.items() if store not in needs]
    seen, back = {name: Seen() for name in names}, []
    needing = next(name for name, (_, _, needs) in ROUTES.items() if store in needs)
    for _ in range(rounds):
        stopped: list[float] = []
        async with _asking(clients, seen, stopped):
            # At a random point of the request cycle, else the same route would always be in flight.
            await asyncio.sleep(SECONDS + random.random() / RATE * len(names))
            with held_still(shop.pids[store]):
                stopped.append(time.perf_counter())
                # A request that needs the store, so that the outage is detected.
                victim = asyncio.create_task(_answered(clients, needing))
                await asyncio.sleep(SECONDS)
            began = time.perf_counter()
            stopped.append(began)
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


@asynccontextmanager
async def _asking(clients: dict[str, Client], seen: dict[str, Seen], stopped: list[float]) -> AsyncIterator[None]:
    """Requests these routes in turn, at `RATE`. Requests in flight while the store is stopped count as paused."""
    running = []

    async def ask() -> None:
        async for number, due in by_the_clock(RATE):
            name = list(seen)[number % len(seen)]
            running.append(asyncio.create_task(_timed(clients, name, due, seen[name], stopped)))

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(*running)


async def _timed(clients: dict[str, Client], name: str, due: float, seen: Seen, stopped: list[float]) -> None:
    path, who, _ = ROUTES[name]
    try:
        await clients[who].request("GET", path)
    except RuntimeError:
        seen.refused += 1
        return
    ended = time.perf_counter()
    if not stopped or ended < stopped[0]:
        seen.quiet.append((ended - due) * 1000)
    elif len(stopped) < 2 or due < stopped[1]:
        seen.paused.append((ended - due) * 1000)
        if due < stopped[0] + FIRST_SECONDS:
            seen.first.append((ended - due) * 1000)
