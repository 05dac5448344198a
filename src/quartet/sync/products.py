"""The one path by which products reach search and the copies of price and stock reach the catalog.

An event says only *which* product changed. A batch draws its number first and then reads the present state, so of two
batches the one with the higher number began later. The last event's own batch drew after that event; any batch with a
higher number drew later still; so what the highest number wrote is the state after the last event, however events were
repeated, delayed or carried by two workers at once.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter

from quartet import catalog, inventory, search
from quartet.kernel.errors import StoreUnavailable
from quartet.stores.search import BulkResult
from quartet.sync import store
from quartet.web.dependencies import Shop

Json = dict[str, Any]
Step = Callable[[str], None]

log = structlog.get_logger("quartet.sync")

PIPELINE = "search"
# As many as one bulk takes without keeping anybody waiting.
BATCH = 500
TRIES = 5

BATCHES = Counter("quartet_sync_batches", "Batches of products carried to search.")
PRODUCTS = Counter("quartet_sync_products", "Products carried to search.")
REFUSED = Counter("quartet_sync_refused", "Products that search refused.")


def unwatched(step: str) -> None:
    """Told at each step of a batch by its name; tests kill the process there."""


async def present(shop: Shop, products: Collection[Json]) -> dict[str, Json]:
    """These documents with inventory's price and stock of now in place of their copies, by id."""
    skus = {sku for product in products for sku in catalog.sellable_skus(product)}
    async with shop.stores.pg.read() as read:
        items = await inventory.prices(read, skus) if skus else {}
    levels = {sku: catalog.Level(item.unit_price_cents, item.available) for sku, item in items.items()}
    return {product["_id"]: catalog.with_levels(product, levels) for product in products}


async def carry(shop: Shop, ids: Collection[str], *, only_next: bool = False, step: Step = unwatched) -> set[str]:
    """Makes search, catalog copies and cache say what is true of these products now; answers those that are refused,
    which lie among the dead letters. `only_next`: only the index that is being built.

    Raises StoreUnavailable; then some of it may have happened, and doing it again does no harm.
    """
    refused: set[str] = set()
    for batch in _batches(sorted(ids)):
        try:
            refused |= await _carry(shop, batch, only_next=only_next, step=step)
        except StoreUnavailable:
            raise
        except Exception as error:
            refused |= await _carry_rest(shop, batch, error, only_next=only_next, step=step)
    return refused


def _batches(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]


async def _carry_rest(shop: Shop, ids: list[str], error: Exception, *, only_next: bool, step: Step) -> set[str]:
    """One of them can't be read as a product: halve until it stands alone, so that it keeps no other back."""
    if len(ids) > 1:
        middle = len(ids) // 2
        one = await carry(shop, ids[:middle], only_next=only_next, step=step)
        return one | await carry(shop, ids[middle:], only_next=only_next, step=step)
    log.error("product can't be carried", product_id=ids[0], exc_info=error)
    async with shop.stores.pg.once() as tx:
        await store.bury(tx, PIPELINE, [(ids[0], {}, f"{type(error).__name__}: {error}")])
    return set(ids)


async def _carry(shop: Shop, ids: list[str], *, only_next: bool, step: Step) -> set[str]:
    async with shop.stores.pg.once() as tx:
        draw = await store.draw(tx)
    step("drawn")
    products = await catalog.by_ids(shop.stores.mongo, ids)
    now = await present(shop, products)
    step("read")
    for product in products:
        if product != now[product["_id"]]:
            now[product["_id"]] = await catalog.refresh_copies(shop, product, now[product["_id"]])
    step("copied")
    documents: dict[str, Json | None] = dict.fromkeys(ids)
    documents |= {id_: search.document(product) for id_, product in now.items()}
    refused: dict[str, BulkResult] = {}
    if draw.rebuilding:
        # First: should the build go live before we are done, what goes to the live alias now goes to it as well.
        refused |= await _put(shop, search.next_alias(shop.settings), draw.version, documents)
    if not only_next:
        refused |= await _put(shop, shop.settings.search_alias, draw.version, documents)
        step("written")
        await catalog.drop_cached(shop, ids, now)
        step("dropped")
    async with shop.stores.pg.tx() as tx:
        await store.exhume(tx, PIPELINE, [id_ for id_ in ids if id_ not in refused])
        await store.bury(tx, PIPELINE, [(id_, {}, f"{r.status}: {r.reason}") for id_, r in refused.items()])
    BATCHES.inc()
    PRODUCTS.inc(len(ids))
    REFUSED.inc(len(refused))
    return set(refused)


async def _put(shop: Shop, alias: str, version: int, documents: Mapping[str, Json | None]) -> dict[str, BulkResult]:
    """Writes them, again and again where the engine is only busy; answers what it refuses for good."""
    refused: dict[str, BulkResult] = {}
    left = dict(documents)
    for attempt in range(TRIES):
        results = await search.put(shop.stores.search, alias, version, left)
        if any(result.homeless for result in results):
            if alias == shop.settings.search_alias:
                raise StoreUnavailable("search", f"no index is behind the alias {alias}")
            return {}  # that build has ended since we drew
        refused |= {r.id: r for r in results if not r.accepted and not r.passing}
        left = {r.id: left[r.id] for r in results if r.passing}
        if not left:
            return refused
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


async def compare_these(shop: Shop, ids: Collection[str], *, alias: str) -> set[str]:
    """Those of the products that differ from what search holds of them, and stood still while they were looked at: of
    one that sells without a pause no engine has the last state, and what was carried of it last is as good."""
    differing: set[str] = set()
    for batch in _batches(sorted(ids)):
        products = await catalog.by_ids(shop.stores.mongo, batch)
        held = await search.found_by_ids(shop.stores.search, alias, batch)
        different = await _differing(shop, products, held)
        before, _ = await _wanted(shop, products)
        after, _ = await _wanted(shop, await catalog.by_ids(shop.stores.mongo, sorted(different)))
        differing |= {id_ for id_ in different if before.get(id_) == after.get(id_)}
    return differing


async def _differing(shop: Shop, products: list[Json], stored: Mapping[str, Json]) -> set[str]:
    wanted, differing = await _wanted(shop, products)
    return differing | {id_ for id_ in wanted.keys() | stored.keys() if wanted.get(id_) != stored.get(id_)}


async def _wanted(shop: Shop, products: list[Json]) -> tuple[dict[str, Json], set[str]]:
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
    (one, bad), (other, worse) = await _wanted(shop, products[:middle]), await _wanted(shop, products[middle:])
    return one | other, bad | worse
