"""Compares all products on all sides at once by checksums, without reading them: finds what no event reported.

Each side stores a product's bucket and fingerprint (`kernel/fingerprints.py`) and adds up the fingerprints of a range
of buckets itself: the catalog's are of id, version and time of change, search's of its documents. The table
`search_known` connects the two: what the latest batch read and wrote, with price and stock, which PostgreSQL compares
with inventory. Where sums differ, the sums of single buckets are compared, and then each product in the buckets that
differ. One wrong product among a million costs the sums of 16 ranges and of one range's 4,096 buckets, and the few
fingerprints of its own bucket.

A product that is just being changed differs too. So a difference is checked again once everything in flight has been
processed, and counts only if the same two sides still have the same two values. A write past the shop's own code that
leaves the version unchanged is not found this way; that takes reading documents (`scrub`), a few at a time.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

import orjson
import structlog
from prometheus_client import Counter

from quartet import catalog, search
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.fingerprints import BUCKETS, bucket
from quartet.stores import outbox
from quartet.sync import store
from quartet.sync.consumers import TOPICS
from quartet.sync.products import batches, expected_documents, misnamed, rename, retry_invalidation, sync_products
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.sync")

WIDTH = 4096
RANGES = range(0, BUCKETS, WIDTH)
# How long to wait for changes in flight before a difference is reported.
PATIENCE_SECONDS = 10.0
RECHECK_SECONDS = 0.5
# Fingerprints fetched in one call; an engine returns ten thousand at most.
MOST_AT_ONCE = 5_000
# Products read in one call.
BATCH = 500
SLICE_SECONDS = 1.0
SCRUBBED = 200
# If more differ, the engine has probably lost data: then all ranges are compared at once, without a pause.
FEW = 50

COMPARED = Counter("quartet_comparison_products", "Products whose fingerprints were compared.")
READ = Counter("quartet_comparison_read", "Products that the comparison read whole.")
SECONDS = Counter("quartet_comparison_seconds", "How long stores were asked for comparing.")
DIFFERING = Counter("quartet_worker_differing", "Products that the comparison found different.")
STALE_PAGES = Counter("quartet_comparison_stale_pages", "Cached pages that the comparison found old.")

Sums = Mapping[int, tuple[int, int]]
# Which two sides differ, and the value of each.
Difference = tuple[object, ...]
Suspects = dict[str, frozenset[Difference]]


@dataclass(frozen=True)
class Sides:
    """Number of products and sum of fingerprints on each side, by bucket or for all together: the catalog; the catalog
    as last `seen` by a batch; what search should have (`wanted`); what it has (`held`)."""

    catalog: Sums
    seen: Sums
    wanted: Sums
    held: Sums

    def differing(self) -> list[int]:
        """The buckets in which they differ, sorted."""
        pairs = (self.catalog, self.seen), (self.wanted, self.held)
        return sorted({at for one, other in pairs for at in one.keys() | other.keys() if one.get(at) != other.get(at)})

    def most(self, at: int) -> int:
        """The largest number of products on any side."""
        return max(side.get(at, (0, 0))[0] for side in (self.catalog, self.seen, self.wanted, self.held))


@dataclass
class Comparison:
    """The result of one comparison: by product, which sides differ; in `where`, the ranges of buckets with differences.
    `seconds` were spent on store calls."""

    products: int = 0
    suspects: Suspects = field(default_factory=dict)
    where: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0


async def differing(shop: Shop, lows: Iterable[int] = RANGES, *, patience: float = PATIENCE_SECONDS) -> Comparison:
    """The products in these ranges (each of `WIDTH` buckets; by default all) that differ, and still do once the changes
    in flight have been processed. Raises StoreUnavailable."""
    began = await _database_time(shop)
    found = await compare_ranges(shop, lows)
    if found.suspects:
        await _wait_until_processed(shop, began, patience)
        asked = monotonic()
        found.suspects = persisting(found.suspects, await recheck(shop, found))
        found.seconds += monotonic() - asked
    return found


async def compare_ranges(shop: Shop, lows: Iterable[int] = RANGES, *, alias: str = "") -> Comparison:
    """Compares these ranges once."""
    found = Comparison()
    for low in lows:
        part = await compare_range(shop, low, low + WIDTH, alias=alias)
        found.products += part.products
        found.suspects |= part.suspects
        found.where += part.where
        found.seconds += part.seconds
    return found


async def recheck(shop: Shop, found: Comparison, *, alias: str = "") -> Suspects:
    """Compares again where something differed."""
    return await _suspects(shop, found.where, alias)


def persisting(before: Suspects, now: Suspects) -> Suspects:
    """The differences that are the same in both."""
    both = {id_: parts & now.get(id_, frozenset()) for id_, parts in before.items()}
    return {id_: parts for id_, parts in both.items() if parts}


async def compare_range(shop: Shop, low: int, high: int, *, alias: str = "") -> Comparison:
    """The products in these buckets that differ at the moment, including those just being changed."""
    asked = monotonic()
    # Before the sums, which include what a batch records of price and stock between the two reads.
    counts = dict.fromkeys(map(bucket, await _stale_levels(shop, low, high)), 1)
    whole = await _sides(shop, low, high, alias, each=False)
    found = Comparison(whole.most(low))
    if whole.differing():
        parts = await _sides(shop, low, high, alias, each=True)
        counts |= {at: parts.most(at) for at in parts.differing()}
    found.where = list(_runs(counts))
    found.suspects = await _suspects(shop, found.where, alias)
    found.seconds = monotonic() - asked
    COMPARED.inc(found.products)
    return found


async def _database_time(shop: Shop) -> datetime:
    """The current time by PostgreSQL's clock."""
    async with shop.stores.pg.read() as read:
        return await store.database_time(read)


async def _sides(shop: Shop, low: int, high: int, alias: str, *, each: bool) -> Sides:
    # Derived data is read first: a concurrent change then makes it look behind, never ahead.
    held = await search.sums(shop.stores.search, alias or shop.settings.search_alias, low, high, each=each)
    async with shop.stores.pg.read() as read:
        seen, wanted = await store.sums(read, low, high, each=each)
    sums = await catalog.sums(shop.stores.mongo, low, high, each=each)
    sides = (sums, seen, wanted, held)
    return Sides(*({at: total for at, total in side.items() if total != (0, 0)} for side in sides))


async def _stale_levels(shop: Shop, low: int, high: int) -> Suspects:
    async with shop.stores.pg.read() as read:
        stale = await store.stale_levels(read, low, high)
    return {id_: frozenset({("inventory", *states)}) for id_, states in stale.items()}


def _runs(counts: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Merges neighbouring buckets into ranges of at most `MOST_AT_ONCE` products."""
    start = end = -1
    number = 0
    for at in sorted(counts):
        number += counts[at]
        if at != end or number > MOST_AT_ONCE:
            if start >= 0:
                yield start, end
            start, number = at, counts[at]
        end = at + 1
    if start >= 0:
        yield start, end


async def _suspects(shop: Shop, runs: Iterable[tuple[int, int]], alias: str) -> Suspects:
    found: Suspects = {}
    for low, high in runs:
        parts = await _stale_levels(shop, low, high)
        held = await search.fingerprints(shop.stores.search, alias or shop.settings.search_alias, low, high)
        async with shop.stores.pg.read() as read:
            known = await store.fingerprints(read, low, high)
        present = await catalog.fingerprints(shop.stores.mongo, low, high)
        for id_ in present.keys() | known.keys() | held.keys():
            seen, wanted = known.get(id_, (0, 0))
            # A side without the product has None, one that has it without a fingerprint has 0.
            if present.get(id_) != (seen or None):
                parts[id_] = parts.get(id_, frozenset()) | {("catalog", present.get(id_), seen)}
            if held.get(id_) != (wanted or None):
                parts[id_] = parts.get(id_, frozenset()) | {("search", wanted, held.get(id_))}
        found |= parts
    return found


async def _wait_until_processed(shop: Shop, since: datetime, patience: float) -> None:
    """Waits until everything that had happened by `since` has been processed and can be found; at most `patience`
    seconds, since there may be no worker. An outbox event is processed once the change stream has passed the copies
    made for it."""
    deadline, copied = monotonic() + patience, None
    while monotonic() < deadline:
        await asyncio.sleep(min(RECHECK_SECONDS, patience))
        async with shop.stores.pg.read() as read:
            waiting = await outbox.depth_by_topic(read)
            caught_up = await store.caught_up(read)
        # Topics that only a newer version knows don't count: their events may wait until its workers run.
        if copied is None and all(oldest > since for topic, (_, oldest) in waiting.items() if topic in TOPICS):
            copied = shop.clock.now()
        if caught_up is not None and copied is not None and caught_up > copied:
            await asyncio.sleep(min(RECHECK_SECONDS, patience))
            return


async def scrub(shop: Shop, low: int, high: int, *, patience: float = PATIENCE_SECONDS) -> Comparison:
    """The same comparison on whole documents in these buckets: also finds writes that left the version unchanged, and
    names in inventory that differ from the catalog's."""
    began, asked = await _database_time(shop), monotonic()
    held = await search.fingerprints(shop.stores.search, shop.settings.search_alias, low, high)
    present = await catalog.fingerprints(shop.stores.mongo, low, high)
    suspects = await read_and_compare(shop, held.keys() | present.keys(), names=True)
    found = Comparison(len(present), suspects, seconds=monotonic() - asked)
    if found.suspects:
        await _wait_until_processed(shop, began, patience)
        asked = monotonic()
        found.suspects = persisting(found.suspects, await read_and_compare(shop, found.suspects, names=True))
        found.seconds += monotonic() - asked
    return found


async def read_and_compare(shop: Shop, ids: Collection[str], *, alias: str = "", names: bool = False) -> Suspects:
    """Reads all these products; returns those with any difference, with `names` including their names in inventory."""
    found: Suspects = {}
    for some in batches(sorted(ids), BATCH):
        READ.inc(len(some))
        held = await search.found_by_ids(shop.stores.search, alias or shop.settings.search_alias, some)
        products = await catalog.by_ids(shop.stores.mongo, some)
        wanted, stale = await expected_documents(shop, products)
        found |= {p["_id"]: frozenset({("copies", p["version"])}) for p in products if p["_id"] in stale}
        if names:
            for id_, skus in (await misnamed(shop, products)).items():
                found[id_] = found.get(id_, frozenset()) | {("names", *skus)}
        for id_ in some:
            if wanted.get(id_) != held.get(id_):
                sides = orjson.dumps(wanted.get(id_)), orjson.dumps(held.get(id_))
                found[id_] = found.get(id_, frozenset()) | {("search", *sides)}
    return found


async def repair(shop: Shop, ids: Collection[str], *, failed_invalidations: set[str] | None = None) -> set[str]:
    """Reads these products anew from the systems of record and writes them to the derived stores, with a version number
    as always; returns those that search rejects. `failed_invalidations` as for `sync_products`."""
    DIFFERING.inc(len(ids))
    refused = await sync_products(shop, ids, cause="doubt", failed_invalidations=failed_invalidations)
    await rename(shop, ids)
    await shop.step("mended")
    return refused


async def run(shop: Shop) -> None:
    """Compares all products in an endless cycle, range by range, and repairs differences; also cycles through whole
    documents, a few hundred at a time, and through the cached pages. The setting `comparison_share` limits the share of
    time spent on store calls. Goes on while only the cache is down. Raises StoreUnavailable."""
    low, scrubbed, cursor = 0, 0, "0"
    wrong, failed_invalidations = set[str](), set[str]()
    while True:
        compared = await differing(shop, [low] if len(wrong) <= FEW else RANGES)
        wide = max(1, SCRUBBED * WIDTH // max(compared.products, SCRUBBED))
        whole = await scrub(shop, scrubbed, min(scrubbed + wide, BUCKETS))
        await shop.step("compared")
        wrong = compared.suspects.keys() | whole.suspects.keys()
        if wrong:
            log.warning("comparison found differences", products=len(wrong), some=sorted(wrong)[:5])
            # What search rejects differs until somebody handles its dead letter: no reason to hurry.
            wrong -= await repair(shop, wrong, failed_invalidations=failed_invalidations)
        with suppress(StoreUnavailable):  # other stores than the cache are missed by the next turn
            if await retry_invalidation(shop, failed_invalidations):
                cursor = await _check_cached_pages(shop, cursor)
        low, scrubbed = (low + WIDTH) % BUCKETS, (scrubbed + wide) % BUCKETS
        took = compared.seconds + whole.seconds
        SECONDS.inc(took)
        if len(wrong) <= FEW:
            await asyncio.sleep(max(SLICE_SECONDS, took / shop.settings.comparison_share))


async def _check_cached_pages(shop: Shop, cursor: str) -> str:
    """Checks some hundred cached pages and deletes stale ones; returns the next cursor. A page may be stale only
    because its product is just being changed; deleting it then costs no more than a cache miss."""
    cursor, pages = await catalog.cached_heads(shop.stores.redis, cursor)
    old = await catalog.stale_pages(shop.stores.mongo, pages)
    STALE_PAGES.inc(len(old))
    await catalog.drop_pages(shop.stores.redis, old)
    return cursor
