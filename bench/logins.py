"""The effect of a thousand concurrent sign-ins on the latency of other requests."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from bench.client import Client, by_the_clock
from bench.machine import cpu_seconds, quantile
from bench.running import RunningShop, running_shop, settled

T = TypeVar("T")
Flood = Callable[[], Awaitable[dict[str, dict[str, int]]]]

CROWD = 1000
ROUNDS = 5
# Requests per second in an open loop: latencies include queueing.
RATE = 100
QUIET_SECONDS = 5.0
ADDRESS = "shopper@demo.test"


@dataclass
class Seen:
    """Latencies in milliseconds by kind of request; the API's CPU seconds, and the seconds in which they were used."""

    latencies: dict[str, list[float]] = field(default_factory=lambda: {"product page": [], "cart line": []})
    seconds: float = 0.0
    cpu: float = 0.0


async def logins() -> str:
    """Two Markdown tables: with the crowd's process at normal priority, and at idle priority."""
    return "\n\n".join([await _logins(apart=False), await _logins(apart=True)])


async def _logins(*, apart: bool) -> str:
    quiet, flooded = Seen(), Seen()
    statuses: Counter[str] = Counter()
    async with running_shop("osmem") as shop, _flood(shop, apart=apart) as flood:
        await settled(shop)
        guest, shopper = Client(shop.url), await shop.sign_in(ADDRESS)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "product page": lambda: guest.request("GET", "/products/LAPTOP-001"),
            "cart line": lambda: shopper.request("POST", "/cart/items", {"sku": "MOUSE-001", "qty": 1}),
        }
        await _shop_while(asyncio.sleep(QUIET_SECONDS), calls, Seen(), shop)  # warm
        for _ in range(ROUNDS):
            await shopper.request("DELETE", "/cart", want=204)
            await _shop_while(asyncio.sleep(QUIET_SECONDS), calls, quiet, shop)
            await shopper.request("DELETE", "/cart", want=204)
            told = await _shop_while(flood(), calls, flooded, shop)
            statuses.update(told["statuses"])
        await asyncio.gather(guest.close(), shopper.close())
    return _table(quiet, flooded, statuses, "where others leave it a core" if apart else "on the shop's cores")


def _table(quiet: Seen, flooded: Seen, statuses: Counter[str], where: str) -> str:
    rows = [
        f"| {name}, {'quiet' if seen is quiet else 'while they sign in'} | {quantile(ms, 0.5):.1f} "
        f"| {quantile(ms, 0.99):.1f} | {max(ms):.1f} | {len(ms)} |"
        for name in quiet.latencies
        for seen in (quiet, flooded)
        for ms in [seen.latencies[name]]
    ]
    answered = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    return "\n".join(
        [
            f"### A thousand sign-ins at once, the crowd {where}\n",
            f"{ROUNDS} times {CROWD}, each on a new connection, beside {RATE} requests a second started by the clock: "
            f"{answered}, all answered after {flooded.seconds / ROUNDS:.1f} s each time. The API took "
            f"{quiet.cpu / quiet.seconds:.0%} of a core when quiet, {flooded.cpu / flooded.seconds:.0%} meanwhile.\n",
            "| request | p50 ms | p99 ms | longest ms | requests |",
            "|---|---:|---:|---:|---:|",
            *rows,
        ]
    )


async def _shop_while(
    meanwhile: Awaitable[T], calls: dict[str, Callable[[], Awaitable[object]]], seen: Seen, shop: RunningShop
) -> T:
    """Makes the requests in turn, at `RATE`, until `meanwhile` is done."""
    over = asyncio.ensure_future(meanwhile)
    began, before = time.perf_counter(), cpu_seconds(shop.pids["api"])
    running: set[asyncio.Task[None]] = set()
    async for number, due in by_the_clock(RATE):
        if over.done():
            break
        name = list(calls)[number % len(calls)]
        task = asyncio.create_task(_timed(calls[name], due, seen.latencies[name]))
        running.add(task)
        task.add_done_callback(running.discard)
    seen.seconds += time.perf_counter() - began
    seen.cpu += cpu_seconds(shop.pids["api"]) - before
    await asyncio.gather(*running)
    return over.result()


async def _timed(call: Callable[[], Awaitable[object]], due: float, latencies: list[float]) -> None:
    await call()
    latencies.append((time.perf_counter() - due) * 1000)


@asynccontextmanager
async def _flood(shop: RunningShop, *, apart: bool) -> AsyncIterator[Flood]:
    """Runs the crowd's process; yields a function that triggers one crowd."""
    host, _, port = shop.url.removeprefix("http://").partition(":")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.flood", host, port, str(CROWD), *(["apart"] if apart else []),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def come() -> dict[str, dict[str, int]]:
        stdin.write(f"{ADDRESS} {shop.logins[ADDRESS]}\n".encode())
        told: dict[str, dict[str, int]] = json.loads(await stdout.readline())
        return told

    try:
        yield come
    finally:
        stdin.close()
        await process.wait()
