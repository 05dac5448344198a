"""The one code path by which products reach search (`sync_products`), and the one by which the copies of price and
stock reach the catalog and the cached pages (`sync_copies`). Writing a copy is a change of the catalog like any other,
so it reaches search by the change stream; cached pages don't wait for search then, and prices are updated while the
engine is down.

An event says only *which* product changed. A batch draws its number first and then reads the present state, so of two
batches the one with the higher number began later. The last event's own batch drew after that event; any batch with a
higher number drew later still; so what the highest number wrote is the state after the last event, however events were
repeated, delayed or processed by two workers at once.

Most sales change nothing in the search document. So what search is known to have is recorded in PostgreSQL
(`store.note`; queries.sql explains why that is safe), and a batch writes only what differs from it. Our own writes of
copies come back through the change stream; such echoes are skipped if search is already up to date.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal

import orjson
import structlog
from prometheus_client import Counter

from quartet import catalog, inventory, search
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.fingerprints import bucket
from quartet.stores import letters
from quartet.stores.search import BulkResult
from quartet.sync import freshness, store
from quartet.web.dependencies import Shop

Json = dict[str, Any]
log = structlog.get_logger("quartet.sync")

PIPELINE = "search"
TRIES = 5

BATCHES = Counter("quartet_sync_batches", "Batches of products carried to search.")
PRODUCTS = Counter("quartet_sync_products", "Products carried to search.")
UNCHANGED = Counter("quartet_sync_unchanged", "Products whose search document was known to be in place.")
REFUSED = Counter("quartet_sync_refused", "Products that search refused.")

# Why a product is processed: its document changed; or the record of what search has may be wrong.
Cause = Literal["changed", "doubt"]
Work = Callable[[Shop, list[str]], Awaitable[set[str]]]

_MOST_REMEMBERED = 50_000


@dataclass(frozen=True)
class _Memory:
    """Stamps by product id. `invalidated`: the cache has all changes up to this one. `own_writes`: the document into
    which we last wrote copies, from when cache and search are up to date with it until it comes back through the change
    stream. Losing this memory only costs work."""

    invalidated: dict[str, catalog.Stamp] = field(default_factory=dict)
    own_writes: dict[str, catalog.Stamp] = field(default_factory=dict)

    def not_invalidated(self, products: Iterable[Json]) -> set[str]:
        return {
            product["_id"] for product in products if self.invalidated.get(product["_id"]) != catalog.stamp(product)
        }


def _memory(shop: Shop) -> _Memory:
    return shop.stores.singleton(_Memory)


def _remember(known: dict[str, catalog.Stamp], products: Iterable[Json]) -> None:
    if len(known) > _MOST_REMEMBERED:
        known.clear()
    known |= {product["_id"]: catalog.stamp(product) for product in products}


async def with_current_levels(shop: Shop, products: Collection[Json]) -> dict[str, Json]:
    """These documents with inventory's current price and stock in place of their copies, by id."""
    skus = {sku for product in products for sku in catalog.sellable_skus(product)}
    async with shop.stores.pg.read() as read:
        items = await inventory.prices(read, skus) if skus else {}
        price = await store.canary_price(read) if catalog.CANARY in skus else 0
    levels = {sku: catalog.Level(item.unit_price_cents, item.available) for sku, item in items.items()}
    levels[catalog.CANARY] = catalog.Level(price, 0)
    return {product["_id"]: catalog.with_levels(product, levels) for product in products}


async def sync_products(
    shop: Shop, ids: Collection[str], *, cause: Cause = "changed", failed_invalidations: set[str] | None = None
) -> set[str]:
    """Brings search, catalog copies and cache up to date for these products; returns those that are rejected, which
    become dead letters.

    Raises StoreUnavailable; then some of it may have happened, and doing it again does no harm. With
    `failed_invalidations` only the cache may be down: the products whose cached pages could not be invalidated are
    added to it.
    """
    return await _each(shop, ids, partial(_sync_batch, cause=cause, failed_invalidations=failed_invalidations))


async def sync_copies(shop: Shop, ids: Collection[str]) -> None:
    """Brings catalog copies and cached pages up to date with inventory for these products. Products that can't be read
    become dead letters. Raises StoreUnavailable, as `sync_products` does: if only the cache is down, once all are
    copied."""
    away: list[StoreUnavailable] = []
    await _each(shop, ids, partial(_copy_batch, away=away))
    if away:
        raise away[0]


async def _each(shop: Shop, ids: Collection[str], work: Work) -> set[str]:
    refused: set[str] = set()
    for batch in batches(sorted(ids), shop.settings.sync_batch):
        try:
            refused |= await work(shop, batch)
        except StoreUnavailable:
            raise
        except Exception as error:
            refused |= await _bisect(shop, batch, error, work)
    return refused


def batches(ids: list[str], size: int) -> list[list[str]]:
    """Splits the ids into batches of this size."""
    return [ids[start : start + size] for start in range(0, len(ids), size)]


async def _bisect(shop: Shop, ids: list[str], error: Exception, work: Work) -> set[str]:
    """After a failure caused by one of them, which can't be read as a product: bisects the batch until that one is
    alone and becomes a dead letter, so that it blocks no other."""
    if len(ids) > 1:
        middle = len(ids) // 2
        return await _each(shop, ids[:middle], work) | await _each(shop, ids[middle:], work)
    log.error("product can't be synced", product_id=ids[0], exc_info=error)
    async with shop.stores.pg.tx() as tx:
        await letters.add_dead_letters(tx, PIPELINE, [(ids[0], {}, f"{type(error).__name__}: {error}")])
        await store.mark_uncertain(tx, ids)
    return set(ids)


async def _copy_batch(shop: Shop, ids: list[str], *, away: list[StoreUnavailable]) -> set[str]:
    async with shop.stores.pg.once() as tx:
        batch = await store.begin_batch(tx)
    products = await catalog.by_ids(shop.stores.mongo, ids)
    now = await with_current_levels(shop, products)
    await shop.step("levels read")
    stale = _stale(products, now)
    copied = await catalog.refresh_copies(shop, stale)
    now |= {product["_id"]: product for product in copied.documents}
    await shop.step("levels copied")
    try:
        await catalog.renew_cached(shop, copied.documents)
    except StoreUnavailable as error:  # the change stream reports these copies too, and so their pages
        away.append(error)
        return set()
    if catalog.CANARY in now:
        freshness.observe_cache(shop, now[catalog.CANARY]["priceCents"])
    await shop.step("pages renewed")
    if not now:
        return set()
    documents = {id_: search.document(product) for id_, product in now.items()}
    sure, latest = await _note(shop, batch, now, documents, believe=not batch.rebuilding)
    await shop.step("levels noted")
    if copied.ours:
        _remember_copies(shop, [read for read, _ in stale], copied.documents, sure if latest else set())
    return set()


def _remember_copies(shop: Shop, read: Sequence[Json], written: Sequence[Json], sure: set[str]) -> None:
    memory = _memory(shop)
    # If another writer had changed the product before, pages may be cached under its old references: left to
    # `invalidate_cache`.
    not_invalidated = memory.not_invalidated(read)
    invalidated = [product for product in written if product["_id"] not in not_invalidated]
    _remember(memory.invalidated, invalidated)
    for product in written:
        memory.own_writes.pop(product["_id"], None)
    _remember(memory.own_writes, [product for product in invalidated if product["_id"] in sure])


def _stale(products: Sequence[Json], now: Mapping[str, Json]) -> list[tuple[Json, Json]]:
    """The products with stale copies, each with its refreshed document."""
    return [(product, now[product["_id"]]) for product in products if product != now[product["_id"]]]


async def _sync_batch(
    shop: Shop, ids: list[str], *, cause: Cause = "changed", failed_invalidations: set[str] | None = None
) -> set[str]:
    async with shop.stores.pg.once() as tx:
        batch = await store.begin_batch(tx)
    await shop.step("drawn")
    products = await catalog.by_ids(shop.stores.mongo, ids)
    now = await with_current_levels(shop, products)
    await shop.step("read")
    copied = await catalog.refresh_copies(shop, _stale(products, now))
    now |= {product["_id"]: product for product in copied.documents}
    await shop.step("copied")
    away = await _try_invalidate(shop, ids, now)
    await shop.step("dropped")
    documents: dict[str, Json | None] = dict.fromkeys(ids)
    documents |= {id_: search.document(product) for id_, product in now.items()}
    refused: dict[str, BulkResult] = {}
    beside: StoreUnavailable | None = None
    if batch.rebuilding:
        # First, since the build may go live before we are done: what we then write to the live alias is in it too.
        try:
            refused |= await _put(shop, search.next_alias(shop.settings), batch.version, documents)
        except StoreUnavailable as error:  # of that index alone, if its node is: the live one is kept up to date
            beside = error
    sure, latest = await _note(shop, batch, now, documents, believe=cause != "doubt" and not batch.rebuilding)
    written = {id_: held for id_, held in documents.items() if id_ not in sure}
    await shop.step("noted")
    refused |= await _put(shop, shop.settings.search_alias, batch.version, written)
    await shop.step("written")
    if written:
        async with shop.stores.pg.tx() as tx:
            await store.confirm_written(tx, batch, PIPELINE, [id_ for id_ in written if id_ not in refused])
            await letters.add_dead_letters(
                tx, PIPELINE, [(id_, {}, f"{r.status}: {r.reason}") for id_, r in refused.items()]
            )
    if beside is not None:
        raise beside
    if away is not None:
        if failed_invalidations is None:
            raise away
        failed_invalidations.update(ids)
    elif latest and copied.ours:
        _remember(_memory(shop).own_writes, copied.documents)
    BATCHES.inc()
    PRODUCTS.inc(len(ids))
    UNCHANGED.inc(len(documents) - len(written))
    REFUSED.inc(len(refused))
    return set(refused)


async def _try_invalidate(shop: Shop, ids: Sequence[str], now: Mapping[str, Json]) -> StoreUnavailable | None:
    """Updates the cache before search, which takes longer and may be down. If the cache is down, the error is returned,
    to be raised once search has been written."""
    try:
        await _drop_pages(shop, set(ids), now)
    except StoreUnavailable as away:
        return away
    return None


async def misnamed(shop: Shop, products: Collection[Json]) -> dict[str, list[str]]:
    """The products whose SKUs have another name or category in inventory, by id, with these SKUs."""
    skus = {sku for product in products for sku in catalog.sellable_skus(product)}
    async with shop.stores.pg.read() as read:
        items = await inventory.prices(read, skus)
    found = {product["_id"]: [item.sku for item, *_ in _renames(product, items)] for product in products}
    return {id_: renamed for id_, renamed in found.items() if renamed}


async def rename(shop: Shop, ids: Collection[str]) -> None:
    """Sets names and categories in inventory to the catalog's. They can differ because a change is written to inventory
    first and then may fail in MongoDB, and because staff can edit inventory's names directly."""
    products = await catalog.by_ids(shop.stores.mongo, ids)
    async with shop.stores.pg.tx() as tx:
        items = await inventory.lock(tx, [sku for product in products for sku in catalog.sellable_skus(product)])
        renames = [each for product in products for each in _renames(product, items)]
        for item, name, category in sorted(renames, key=lambda each: each[0].sku):
            await inventory.rename(tx, item.sku, name, category=category)


def _renames(product: Json, items: Mapping[str, inventory.Item]) -> Iterator[tuple[inventory.Item, str, str]]:
    for sku, name in catalog.names(product).items():
        item = items.get(sku)
        if item is not None and (item.name, item.category) != (name, product["category"]):
            yield item, name, product["category"]


async def invalidate_cache(shop: Shop, ids: set[str]) -> None:
    """Invalidates the cached pages of changed products. Raises StoreUnavailable."""
    outdated = await _changed_since(shop, ids, _memory(shop).invalidated)
    products = await catalog.by_ids(shop.stores.mongo, outdated)
    await _drop_pages(shop, outdated, {product["_id"]: product for product in products})


async def retry_invalidation(shop: Shop, failed_invalidations: set[str]) -> bool:
    """Invalidates the cached pages of products that were processed while the cache was down, and takes them out; False
    if it still is."""
    try:
        while some := set(islice(failed_invalidations, shop.settings.sync_batch)):
            await invalidate_cache(shop, some)
            failed_invalidations -= some
    except StoreUnavailable:
        return False
    return True


async def _drop_pages(shop: Shop, ids: set[str], now: Mapping[str, Json]) -> None:
    await catalog.drop_cached(shop, ids, now)
    _remember(_memory(shop).invalidated, [now[id_] for id_ in ids & now.keys()])


def may_be_echoes(shop: Shop, ids: AbstractSet[str]) -> bool:
    """Whether we have recently written all of these ourselves."""
    return ids <= _memory(shop).own_writes.keys()


async def without_echoes(shop: Shop, ids: set[str]) -> set[str]:
    """Filters out echoes: products whose current document is what we wrote into the catalog ourselves and have fully
    processed. Each write comes back once; a later change is another writer's, who may have left the version
    unchanged."""
    own_writes = _memory(shop).own_writes
    foreign = await _changed_since(shop, ids, own_writes)
    for id_ in ids - foreign:
        own_writes.pop(id_, None)
    return foreign


async def _changed_since(shop: Shop, ids: set[str], known: Mapping[str, catalog.Stamp]) -> set[str]:
    stamps = await catalog.stamps(shop.stores.mongo, ids & known.keys())
    return {id_ for id_ in ids if id_ not in known or stamps.get(id_) != known[id_]}


async def fill(shop: Shop, low: int, high: int, bulks: asyncio.Semaphore) -> tuple[int, set[str]]:
    """Writes the current state of the products of these buckets into the index that is being built; returns how many
    there are, and those rejected, which are dead letters by now. `bulks` limits the concurrent bulk requests.

    Their notes are never marked as certain, so that no batch that began before skips a write to the live index. They
    have the price and stock of the catalog's copies, so that stale copies are found."""
    async with shop.stores.pg.once() as tx:
        batch = await store.begin_batch(tx)
    products = await catalog.in_buckets(shop.stores.mongo, low, high)
    try:
        now = await with_current_levels(shop, products)
        documents = {id_: search.document(product) for id_, product in now.items()}
    except StoreUnavailable:
        raise
    except Exception:  # one of them can't be read as a product
        ids = [product["_id"] for product in products]
        return len(products), await sync_products(shop, ids, cause="doubt", failed_invalidations=set())
    # The JSON, of which a note keeps a digest, is half the cost of a note: made once, and reused for the engine.
    written = {id_: orjson.dumps(document) for id_, document in documents.items()}
    shown = {id_: written[id_] for id_, document in documents.items() if document is not None}
    notes = [_noted(p["_id"], now[p["_id"]] | p, documents[p["_id"]], written[p["_id"]]) for p in products]
    async with bulks:
        refused = await _put(shop, search.next_alias(shop.settings), batch.version, shown)
    if products:
        async with shop.stores.pg.tx() as tx:
            await store.note(tx, batch, notes, believe=False)
            await letters.add_dead_letters(
                tx, PIPELINE, [(id_, {}, f"{r.status}: {r.reason}") for id_, r in refused.items()]
            )
    return len(products), set(refused)


async def _note(
    shop: Shop, batch: store.Batch, now: Mapping[str, Json], documents: Mapping[str, Json | None], *, believe: bool
) -> tuple[set[str], bool]:
    notes = [_noted(id_, now.get(id_), held, orjson.dumps(held)) for id_, held in documents.items()]
    async with shop.stores.pg.once() as tx:
        return await store.note(tx, batch, notes, believe=believe)


def _noted(id_: str, product: Json | None, document: Json | None, written: bytes) -> store.Note:
    """`written`: the document's JSON."""
    digest = hashlib.blake2b(written, digest_size=16).digest()
    seen = product["fingerprint"] if product else 0
    levels = catalog.present_levels(product) if product else {}
    return store.Note(
        id_, digest, bucket(id_), seen, document["fingerprint"] if document else 0,
        {sku: (level.price_cents, level.available) for sku, level in levels.items()},
    )  # fmt: skip


async def _put(
    shop: Shop, alias: str, version: int, documents: Mapping[str, Json | bytes | None]
) -> dict[str, BulkResult]:
    """Writes the documents; returns those that the engine rejects for good. If the index has an earlier definition, the
    missing fields are added to it and those rejected are tried again."""
    refused = await _try(shop, alias, version, documents)
    if refused and await search.add_new_fields(shop.stores.search, shop.settings, alias):
        refused = await _try(shop, alias, version, {id_: documents[id_] for id_ in refused})
    return refused


async def _try(
    shop: Shop, alias: str, version: int, documents: Mapping[str, Json | bytes | None]
) -> dict[str, BulkResult]:
    """Writes with retries and backoff while the engine is only busy; returns what it rejects."""
    refused: dict[str, BulkResult] = {}
    left = dict(documents)
    for attempt in range(TRIES):
        if not left:
            return refused
        results = await search.put(shop.stores.search, alias, version, left)
        if any(result.is_index_missing for result in results):
            if alias == shop.settings.search_alias:
                raise StoreUnavailable("search", f"no index is behind the alias {alias}")
            return {}  # that build has ended since the batch drew its number
        if alias == shop.settings.search_alias and (newer := [r.id for r in results if r.status == 409]):
            await _check_version_known(shop, version, newer)
        refused |= {r.id: r for r in results if not r.accepted and not r.is_transient}
        left = {r.id: left[r.id] for r in results if r.is_transient}
        if left:
            await asyncio.sleep(random.uniform(0, 0.1 * 2**attempt))
    raise StoreUnavailable("search", f"the search engine keeps refusing {len(left)} of {len(documents)} items")


async def _check_version_known(shop: Shop, version: int, newer: Sequence[str]) -> None:
    """Called when search has newer versions of documents. A batch is noted before it writes, so a newer batch must be
    noted for these. If none is, PostgreSQL was restored to a point before that number was drawn, or a standby took over
    that had not received it: draws higher numbers from then on and raises StoreUnavailable, for a retry."""
    async with shop.stores.pg.tx() as tx:
        if not await store.is_newest(tx, version, newer):
            return
        await store.skip_versions(tx)
    raise StoreUnavailable("search", "it holds what was written under higher numbers than have been drawn")


async def expected_documents(shop: Shop, products: list[Json]) -> tuple[dict[str, Json], set[str]]:
    """The documents that search should have for these products, and the ids of those with stale copies or that can't be
    read as a product."""
    try:
        now = await with_current_levels(shop, products)
        documents = {id_: document for id_, p in now.items() if (document := search.document(p)) is not None}
        return documents, {product["_id"] for product in products if product != now[product["_id"]]}
    except StoreUnavailable:
        raise
    except Exception:
        if len(products) == 1:
            return {}, {products[0]["_id"]}
    middle = len(products) // 2
    (one, bad), (other, worse) = (
        await expected_documents(shop, products[:middle]),
        await expected_documents(shop, products[middle:]),
    )
    return one | other, bad | worse
