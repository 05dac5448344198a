"""Measures freshness. Each second the canary changes: a product that is never shown, since its publication date is far
in the future, gets another image in the catalog and another price in PostgreSQL. These writes are processed like
those of any product. Measured is the time until a search finds them, and until the product cache has the new price. The
canary's events have a topic of their own, since webhook endpoints may be subscribed to stock.changed.

The canary's price is not a row of inventory, which staff and analytics would see, but the time of its latest write
(`store.canary_price`).
"""

import asyncio
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from math import isfinite
from time import monotonic

from quartet import catalog, search
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import outbox
from quartet.sync import store
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

# Histogram bounds in seconds.
BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, float("inf"))
CATALOG, STOCK, CACHE = WHAT = ("catalog", "stock", "cache")
POLL_SECONDS = 0.05
# Canary changes not found yet; after ten minutes without a find the oldest are dropped.
MAX_PENDING = 600


@dataclass
class _Samples:
    """This process's samples that are not written to PostgreSQL yet; `newest_cached`: the newest canary write in the
    product cache."""

    counts: Counter[tuple[str, float]] = field(default_factory=Counter)
    seconds: Counter[tuple[str, float]] = field(default_factory=Counter)
    newest_cached: int = 0


def _of(shop: Shop) -> _Samples:
    return shop.stores.singleton(_Samples)


def observe(shop: Shop, what: str, seconds: float) -> None:
    """Adds one sample."""
    at = what, BOUNDS[bisect_left(BOUNDS, seconds)]
    _of(shop).counts[at] += 1
    _of(shop).seconds[at] += seconds  # type: ignore[assignment]  # a Counter adds up whatever has +


def observe_cache(shop: Shop, written_ms: int) -> None:
    """Called once the product cache has the canary's price, and those of all products of the same batch."""
    samples = _of(shop)
    if written_ms > samples.newest_cached:
        samples.newest_cached = written_ms
        observe(shop, CACHE, max(_now(shop) - written_ms, 0) / 1000)


async def flush(shop: Shop) -> None:
    """Writes this process's new samples. Raises StoreUnavailable; they are then kept for the next call, and may count
    twice if only the reply was lost."""
    samples = _of(shop)
    counts, seconds = samples.counts.copy(), samples.seconds.copy()
    if counts:
        async with shop.stores.pg.once() as tx:
            await store.observe(tx, [(what, bound, n, seconds[what, bound]) for (what, bound), n in counts.items()])
    samples.counts -= counts
    samples.seconds -= seconds


@dataclass(frozen=True)
class Freshness:
    """The delay of search after changes of the `catalog` or of price and `stock`, and of the `cache` after the latter:
    50th and 99th percentile of the last five minutes' `samples` in seconds (None beyond the last bound, or without
    samples). `age_seconds`: the age of the newest canary change found; None for the cache."""

    what: str
    p50_seconds: float | None
    p99_seconds: float | None
    samples: int
    age_seconds: float | None


def summary(
    histogram: Sequence[store.HistogramBucket], canary: Sequence[store.CanaryState], now: float
) -> list[Freshness]:
    """The freshness of each kind; `now` in seconds since 1970."""
    ages = {state.what: max(now - state.found_ms / 1000, 0) for state in canary if state.found_ms}
    found = []
    for what in WHAT:
        lately = {row.bound: row.lately for row in histogram if row.what == what}
        p50, p99 = (_quantile(lately, share) for share in (0.5, 0.99))
        found.append(Freshness(what, p50, p99, sum(lately.values()), ages.get(what)))
    return found


def _quantile(counts: Mapping[float, int], share: float) -> float | None:
    wanted, seen = share * sum(counts.values()), 0
    for bound, n in sorted(counts.items()):
        seen += n
        if seen and seen >= wanted:
            return bound if isfinite(bound) else None
    return None


def _now(shop: Shop) -> int:
    return int(shop.clock.now().timestamp() * 1000)


async def run_canary(shop: Shop) -> None:
    """Changes the canary and measures, for ever. Changes of a previous worker that were not found yet are measured as
    well."""
    if not shop.settings.canary_seconds:
        await asyncio.Event().wait()
    async with shop.stores.pg.read() as read:
        states = await store.canary_states(read)
    pending = {what: deque[tuple[int, float]](maxlen=MAX_PENDING) for what in (CATALOG, STOCK)}
    for state in states:
        if state.found_ms < state.written_ms:
            pending[state.what].append((state.written_ms, monotonic() - (_now(shop) - state.written_ms) / 1000))
    await together(_write_canary(shop, pending), _poll_search(shop, pending))


PendingWrites = dict[str, deque[tuple[int, float]]]


async def _write_canary(shop: Shop, pending: PendingWrites) -> None:
    """At a fixed rate, whether or not the previous change was found: waiting for it would hide how long that took."""
    begin = monotonic()
    for beat in count(1):
        with suppress(StoreUnavailable):
            written_ms = _now(shop)
            await catalog.put_canary(shop, written_ms)
            pending[CATALOG].append((written_ms, monotonic()))
            async with shop.stores.pg.once() as tx:
                await store.record_canary_write(tx, CATALOG, written_ms)
        with suppress(StoreUnavailable):
            written_ms = _now(shop)
            async with shop.stores.pg.tx() as tx:
                await store.record_canary_write(tx, STOCK, written_ms)
                await outbox.emit(tx, "canary.sung", catalog.CANARY, {})
            pending[STOCK].append((written_ms, monotonic()))
        await asyncio.sleep(max(begin + beat * shop.settings.canary_seconds - monotonic(), 0))


async def _poll_search(shop: Shop, pending: PendingWrites) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        if any(pending.values()):
            with suppress(StoreUnavailable):
                await _measure_found(shop, pending)


async def _measure_found(shop: Shop, pending: PendingWrites) -> None:
    found = await search.found_by_ids(shop.stores.search, shop.settings.search_alias, [catalog.CANARY])
    now = monotonic()
    for document in found.values():
        newest = {CATALOG: catalog.canary_written_ms(document["image"]), STOCK: document["priceCents"]}
        for what, writes in pending.items():
            before = len(writes)
            while writes and writes[0][0] <= newest[what]:
                observe(shop, what, max(now - writes.popleft()[1], 0))
            if len(writes) < before:
                async with shop.stores.pg.once() as tx:
                    await store.record_canary_found(tx, what, newest[what])
