"""Measures freshness. Each second the canary changes: a product that is never shown, since its publication date is far
in the future, gets another image in the catalog and another price in PostgreSQL (its "songs"), which are processed like
those of any product. Measured is the time until a search finds them, and until the product cache has the new price. The
canary's events have a topic of their own, since webhook endpoints may be subscribed to stock.changed.

The canary's price is not a row of inventory, which staff and analytics would see, but its latest song (`store.song`).
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
LISTEN_SECONDS = 0.05
# Canary changes not found yet; after ten minutes without a find the oldest are dropped.
MOST_UNHEARD = 600


@dataclass
class _Samples:
    """This process's samples that are not written to PostgreSQL yet; `told`: the newest song in the product cache."""

    counts: Counter[tuple[str, float]] = field(default_factory=Counter)
    seconds: Counter[tuple[str, float]] = field(default_factory=Counter)
    told: int = 0


def _of(shop: Shop) -> _Samples:
    return shop.stores.kept(_Samples)


def observe(shop: Shop, what: str, seconds: float) -> None:
    """Adds one sample."""
    at = what, BOUNDS[bisect_left(BOUNDS, seconds)]
    _of(shop).counts[at] += 1
    _of(shop).seconds[at] += seconds  # type: ignore[assignment]  # a Counter adds up whatever has +


def cache_told(shop: Shop, song: int) -> None:
    """Called once the product cache has the canary's price, and those of all products of the same batch."""
    samples = _of(shop)
    if song > samples.told:
        samples.told = song
        observe(shop, CACHE, max(_now(shop) - song, 0) / 1000)


async def write_down(shop: Shop) -> None:
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


def summary(tooks: Sequence[store.Took], songs: Sequence[store.Song], now: float) -> list[Freshness]:
    """The freshness of each kind; `now` in seconds since 1970."""
    ages = {song.what: max(now - song.heard / 1000, 0) for song in songs if song.heard}
    found = []
    for what in WHAT:
        lately = {took.bound: took.lately for took in tooks if took.what == what}
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


async def sing(shop: Shop) -> None:
    """Changes the canary and measures, for ever. Changes of a previous worker that were not found yet are measured as
    well."""
    if not shop.settings.canary_seconds:
        await asyncio.Event().wait()
    async with shop.stores.pg.read() as read:
        songs = await store.songs(read)
    unheard = {what: deque[tuple[int, float]](maxlen=MOST_UNHEARD) for what in (CATALOG, STOCK)}
    for song in songs:
        if song.heard < song.sung:
            unheard[song.what].append((song.sung, monotonic() - (_now(shop) - song.sung) / 1000))
    await together(_sing(shop, unheard), _listen(shop, unheard))


Unheard = dict[str, deque[tuple[int, float]]]


async def _sing(shop: Shop, unheard: Unheard) -> None:
    """At a fixed rate, whether or not the previous change was found: waiting for it would hide how long that took."""
    begin = monotonic()
    for beat in count(1):
        with suppress(StoreUnavailable):
            song = _now(shop)
            await catalog.put_canary(shop, song)
            unheard[CATALOG].append((song, monotonic()))
            async with shop.stores.pg.once() as tx:
                await store.sing(tx, CATALOG, song)
        with suppress(StoreUnavailable):
            song = _now(shop)
            async with shop.stores.pg.tx() as tx:
                await store.sing(tx, STOCK, song)
                await outbox.emit(tx, "canary.sung", catalog.CANARY, {})
            unheard[STOCK].append((song, monotonic()))
        await asyncio.sleep(max(begin + beat * shop.settings.canary_seconds - monotonic(), 0))


async def _listen(shop: Shop, unheard: Unheard) -> None:
    while True:
        await asyncio.sleep(LISTEN_SECONDS)
        if any(unheard.values()):
            with suppress(StoreUnavailable):
                await _hear(shop, unheard)


async def _hear(shop: Shop, unheard: Unheard) -> None:
    found = await search.found_by_ids(shop.stores.search, shop.settings.search_alias, [catalog.CANARY])
    now = monotonic()
    for document in found.values():
        heard = {CATALOG: catalog.canary_written_ms(document["image"]), STOCK: document["priceCents"]}
        for what, songs in unheard.items():
            before = len(songs)
            while songs and songs[0][0] <= heard[what]:
                observe(shop, what, max(now - songs.popleft()[1], 0))
            if len(songs) < before:
                async with shop.stores.pg.once() as tx:
                    await store.hear(tx, what, heard[what])
