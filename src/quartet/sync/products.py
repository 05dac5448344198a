"""The one path by which products reach search and the copies of price and stock reach the catalog.

An event says only *which* product changed. A batch draws its number first and then reads the present state, so of two
batches the one with the higher number began later. The last event's own batch drew after that event; any batch with a
higher number drew later still; so what the highest number wrote is the state after the last event, however events were
repeated, delayed or carried by two workers at once.

Most sales change nothing that is searched for. So what search is known to hold is kept in PostgreSQL (`store.note`,
and in queries.sql why it is safe), and a batch writes only what differs from it. The changes that our own writing of
copies makes come back by the change stream; what was carried to its end here is not carried again.
"""

import asyncio
import hashlib
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import orjson
import structlog
from prometheus_client import Counter

from quartet import catalog, inventory, search
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.fingerprints import bucket
from quartet.stores.mongo import Mongo
from quartet.stores.search import BulkResult
from quartet.sync import freshness, store
from quartet.web.dependencies import Shop

Json = dict[str, Any]
log = structlog.get_logger("quartet.sync")

PIPELINE = "search"
# As many as are compared in one slice.
BATCH = 500
TRIES = 5

BATCHES = Counter("quartet_sync_batches", "Batches of products carried to search.")
PRODUCTS = Counter("quartet_sync_products", "Products carried to search.")
UNCHANGED = Counter("quartet_sync_unchanged", "Products whose search document was known to be in place.")
REFUSED = Counter("quartet_sync_refused", "Products that search refused.")

# Why a product is carried: its document changed; its price or stock did; or what is known of search may be wrong.
Cause = Literal["changed", "stock", "doubt"]

# The stamp of each document whose copies we wrote last, once all that follows was done. Lost, it only costs work.
_ours: WeakKeyDictionary[Mongo, dict[str, catalog.Stamp]] = WeakKeyDictionary()
_MOST_REMEMBERED = 50_000


async def present(shop: Shop, products: Collection[Json]) -> dict[str, Json]:
    """These documents with inventory's price and stock of now in place of their copies, by id."""
    skus = {sku for product in products for sku in catalog.sellable_skus(product)}
    async with shop.stores.pg.read() as read:
        items = await inventory.prices(read, skus) if skus else {}
        song = await store.song(read) if catalog.CANARY in skus else 0
    levels = {sku: catalog.Level(item.unit_price_cents, item.available) for sku, item in items.items()}
    levels[catalog.CANARY] = catalog.Level(song, 0)
    return {product["_id"]: catalog.with_levels(product, levels) for product in products}


async def carry(shop: Shop, ids: Collection[str], *, cause: Cause = "changed") -> set[str]:
    """Makes search, catalog copies and cache say what is true of these products now; answers those that are refused,
    which lie among the dead letters.

    Raises StoreUnavailable; then some of it may have happened, and doing it again does no harm.
    """
    refused: set[str] = set()
    for batch in _batches(sorted(ids), shop.settings.sync_batch):
        try:
            refused |= await _carry(shop, batch, cause=cause)
        except StoreUnavailable:
            raise
        except Exception as error:
            refused |= await _carry_rest(shop, batch, error, cause=cause)
    return refused


def _batches(ids: list[str], size: int) -> list[list[str]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


async def _carry_rest(shop: Shop, ids: list[str], error: Exception, *, cause: Cause) -> set[str]:
    """One of them can't be read as a product: halve until it stands alone, so that it keeps no other back."""
    if len(ids) > 1:
        middle = len(ids) // 2
        one = await carry(shop, ids[:middle], cause=cause)
        return one | await carry(shop, ids[middle:], cause=cause)
    log.error("product can't be carried", product_id=ids[0], exc_info=error)
    async with shop.stores.pg.once() as tx:
        await store.bury(tx, PIPELINE, [(ids[0], {}, f"{type(error).__name__}: {error}")])
    return set(ids)


async def _carry(shop: Shop, ids: list[str], *, cause: Cause) -> set[str]:
    async with shop.stores.pg.once() as tx:
        draw = await store.draw(tx)
    await shop.step("drawn")
    products = await catalog.by_ids(shop.stores.mongo, ids)
    now = await present(shop, products)
    await shop.step("read")
    stale = [(product, now[product["_id"]]) for product in products if product != now[product["_id"]]]
    copied = await catalog.refresh_copies(shop, stale)
    now |= {product["_id"]: product for product in copied.documents}
    await shop.step("copied")
    away = await _tell_cache(shop, ids, now, copied.documents, cause)
    await shop.step("dropped")
    documents: dict[str, Json | None] = dict.fromkeys(ids)
    documents |= {id_: search.document(product) for id_, product in now.items()}
    refused: dict[str, BulkResult] = {}
    if draw.rebuilding:
        # First: should the build go live before we are done, what goes to the live alias now goes to it as well.
        refused |= await _put(shop, search.next_alias(shop.settings), draw.version, documents)
    sure, latest = await _note(shop, draw, now, documents, believe=cause != "doubt" and not draw.rebuilding)
    written = {id_: held for id_, held in documents.items() if id_ not in sure}
    await shop.step("noted")
    refused |= await _put(shop, shop.settings.search_alias, draw.version, written)
    await shop.step("written")
    if written:
        async with shop.stores.pg.tx() as tx:
            await store.settle(tx, draw, PIPELINE, [id_ for id_ in written if id_ not in refused])
            await store.bury(tx, PIPELINE, [(id_, {}, f"{r.status}: {r.reason}") for id_, r in refused.items()])
    if away is not None:
        raise away
    if latest and copied.ours:
        _remember(shop, copied.documents)
    BATCHES.inc()
    PRODUCTS.inc(len(ids))
    UNCHANGED.inc(len(documents) - len(written))
    REFUSED.inc(len(refused))
    return set(refused)


async def _tell_cache(
    shop: Shop, ids: Sequence[str], now: Mapping[str, Json], copied: Sequence[Json], cause: Cause
) -> StoreUnavailable | None:
    """Takes old pages out of the cache, or puts newer ones in their place. Before search is written, which takes longer
    and may be away; and if the cache is, that is said once search has been written."""
    try:
        if cause == "stock":
            await catalog.renew_cached(shop, copied)
        else:
            await catalog.drop_cached(shop, ids, now)
    except StoreUnavailable as away:
        return away
    if catalog.CANARY in now:
        freshness.cache_told(shop, now[catalog.CANARY]["priceCents"])
    return None


async def fill(shop: Shop, low: int, high: int) -> tuple[int, set[str]]:
    """Puts the products of these buckets into the index that is being built, as they are now; answers how many there
    are, and those that are refused, which lie among the dead letters.

    What is written down of them is never sure, so that no batch that began before leaves the live index without what it
    has read; and their prices and pieces as they stand in the catalog, so that copies which are old are seen to be."""
    async with shop.stores.pg.once() as tx:
        draw = await store.draw(tx)
    products = await catalog.in_buckets(shop.stores.mongo, low, high)
    try:
        now = await present(shop, products)
        documents = {id_: search.document(product) for id_, product in now.items()}
    except StoreUnavailable:
        raise
    except Exception:  # one of them can't be read as a product
        return len(products), await carry(shop, [product["_id"] for product in products], cause="doubt")
    shown = {id_: document for id_, document in documents.items() if document is not None}
    refused = await _put(shop, search.next_alias(shop.settings), draw.version, shown)
    if products:
        notes = [_noted(p["_id"], {**now[p["_id"]], **p}, documents[p["_id"]]) for p in products]
        async with shop.stores.pg.tx() as tx:
            await store.note(tx, draw, notes, believe=False)
            await store.bury(tx, PIPELINE, [(id_, {}, f"{r.status}: {r.reason}") for id_, r in refused.items()])
    return len(products), set(refused)


async def _note(
    shop: Shop, draw: store.Draw, now: Mapping[str, Json], documents: Mapping[str, Json | None], *, believe: bool
) -> tuple[set[str], bool]:
    notes = [_noted(id_, now.get(id_), document) for id_, document in documents.items()]
    async with shop.stores.pg.once() as tx:
        return await store.note(tx, draw, notes, believe=believe)


def _noted(id_: str, product: Json | None, document: Json | None) -> store.Note:
    digest = hashlib.blake2b(orjson.dumps(document), digest_size=16).digest()
    seen = product["fingerprint"] if product else 0
    levels = catalog.present_levels(product) if product else {}
    return store.Note(
        id_, digest, bucket(id_), seen, document["fingerprint"] if document else 0,
        {sku: (level.price_cents, level.available) for sku, level in levels.items()},
    )  # fmt: skip


def _remember(shop: Shop, written: Sequence[Json]) -> None:
    """Their copies are of now, search and cache know them: that they come back as changes needs nothing any more."""
    ours = _ours.setdefault(shop.stores.mongo, {})
    if len(ours) > _MOST_REMEMBERED:
        ours.clear()
    ours |= {product["_id"]: catalog.stamp(product) for product in written}


def may_be_ours(shop: Shop, ids: set[str]) -> bool:
    """Whether every one of these has lately been written by us."""
    return ids <= _ours.get(shop.stores.mongo, {}).keys()


async def without_ours(shop: Shop, ids: set[str]) -> set[str]:
    """Those of them whose present document is not just what we wrote into the catalog ourselves, and then carried."""
    ours = _ours.get(shop.stores.mongo, {})
    stamps = await catalog.stamps(shop.stores.mongo, ids & ours.keys())
    return {id_ for id_ in ids if id_ not in ours or stamps.get(id_) != ours[id_]}


async def _put(shop: Shop, alias: str, version: int, documents: Mapping[str, Json | None]) -> dict[str, BulkResult]:
    """Writes them, again and again where the engine is only busy; answers what it refuses for good."""
    refused: dict[str, BulkResult] = {}
    left = dict(documents)
    for attempt in range(TRIES):
        if not left:
            return refused
        results = await search.put(shop.stores.search, alias, version, left)
        if any(result.homeless for result in results):
            if alias == shop.settings.search_alias:
                raise StoreUnavailable("search", f"no index is behind the alias {alias}")
            return {}  # that build has ended since we drew
        refused |= {r.id: r for r in results if not r.accepted and not r.passing}
        left = {r.id: left[r.id] for r in results if r.passing}
        if left:
            await asyncio.sleep(random.uniform(0, 0.1 * 2**attempt))
    raise StoreUnavailable("search", f"the search engine keeps refusing {len(left)} of {len(documents)} items")


@dataclass(frozen=True)
class Slice:
    """A part of the catalog compared with an index: the ids that differ, and where the next slice begins (None: this
    was the last)."""

    differing: frozenset[str]
    upto: str | None


async def compare(shop: Shop, after: str, *, alias: str = "") -> Slice:
    """Compares one slice of the catalog, in order of ids, with inventory and with what search holds of it.

    What is just being changed differs too; carrying it once more does no harm."""
    products = await catalog.slice_after(shop.stores.mongo, after, BATCH)
    upto = products[-1]["_id"] if len(products) == BATCH else None
    stored = await search.stored(shop.stores.search, alias or shop.settings.search_alias, after, upto, 2 * BATCH)
    return Slice(frozenset(await _differing(shop, products, stored)), upto)


async def _differing(shop: Shop, products: list[Json], stored: Mapping[str, Json]) -> set[str]:
    wanted, differing = await wanted_of(shop, products)
    return differing | {id_ for id_ in wanted.keys() | stored.keys() if wanted.get(id_) != stored.get(id_)}


async def wanted_of(shop: Shop, products: list[Json]) -> tuple[dict[str, Json], set[str]]:
    """What search should hold of them, and those whose copies are old, or that can't be read as a product."""
    try:
        now = await present(shop, products)
        documents = {id_: document for id_, p in now.items() if (document := search.document(p)) is not None}
        return documents, {product["_id"] for product in products if product != now[product["_id"]]}
    except StoreUnavailable:
        raise
    except Exception:
        if len(products) == 1:
            return {}, {products[0]["_id"]}
    middle = len(products) // 2
    (one, bad), (other, worse) = await wanted_of(shop, products[:middle]), await wanted_of(shop, products[middle:])
    return one | other, bad | worse
