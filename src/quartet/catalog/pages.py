"""Reading the catalog: the product page, from Redis in one round trip, else from MongoDB once for all concurrent
readers (single-flight); the product cards of a cart; and lists by category, brand, tag and any attribute, paged."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import orjson
import structlog

from quartet.catalog import cache, store
from quartet.catalog.attributes import Condition, condition
from quartet.catalog.model import Card, Document, card, is_published, sellable_skus, wire
from quartet.kernel.errors import StoreUnavailable, invalid
from quartet.kernel.texts import composed
from quartet.stores.mongo import Mongo
from quartet.stores.redis import RedisStore
from quartet.web.dependencies import Shop
from quartet.web.paging import PageQuery

log = structlog.get_logger("quartet.catalog")

# As in search, a dash means descending order; except that `newest` is newest first with and without it.
SORTS = {
    "-rating": ("ratings.avg", -1),
    "rating": ("ratings.avg", 1),
    "price": ("priceCents", 1),
    "-price": ("priceCents", -1),
    "newest": ("publishedMs", -1),
    "-newest": ("publishedMs", -1),
    "oldest": ("publishedMs", 1),
    "name": ("name", 1),
    "-name": ("name", -1),
}
DEFAULT_SORT = "-rating"
_FILTERS = ("category", "brand", "tag", "sort", "limit", "cursor")
_LONGEST = 200
_MOST_CONDITIONS = 10


@dataclass(frozen=True)
class ProductPage:
    """A product as JSON, ready to send. `hit`: a cache hit in Redis. `age`: its greatest possible age in seconds, set
    for a hit while MongoDB is down, since changes don't reach the cache then."""

    product_id: str
    version: int
    body: bytes
    hit: bool
    published: bool = True
    age: int | None = None

    @property
    def etag(self) -> str:
        """The same as `model.etag` of the document."""
        return f'"{self.product_id[-12:]}-{self.version}"'


@dataclass
class _Flight:
    """A single-flight read of MongoDB that several requests share. `reading`: the read has begun, so it may miss later
    changes. The second part of the result: nothing had changed by the end, as all leases were still held."""

    task: asyncio.Task[tuple[ProductPage | None, bool]]
    reading: bool = False


class _KnownIds(dict[str, str]):
    """The product id that each reference last led to: mostly saves one of the two look-ups in MongoDB."""

    MOST = 10_000

    def put(self, reference: str, product_id: str) -> None:
        """Remembers the product's id; the oldest entry makes room."""
        if reference not in self and len(self) >= self.MOST:
            del self[next(iter(self))]
        self[reference] = product_id


class _Flights(dict[str, _Flight]):
    """The reads in flight, by reference."""


async def product_page(shop: Shop, reference: str) -> ProductPage | None:
    """The product with this SKU or slug, published or not; None if there is none."""
    age, redis = None, shop.stores.redis
    try:
        if shop.stores.mongo.guard.is_doubtful:  # no fallback to MongoDB, so wait for Redis
            found, left = await cache.get_with_life(redis, reference)
            age = max(0, shop.settings.product_cache_seconds - left)
        else:
            found = cache.read(await redis.fail_fast(redis.brief.call, "GET", cache.key(reference)))
    except StoreUnavailable:
        return await _shared(shop, reference, cached=False)
    if found is not None:
        product_id, version, body = found
        shop.stores.singleton(_KnownIds).put(reference, product_id)
        return ProductPage(product_id, version, body.encode(), hit=True, age=age)
    return await _shared(shop, reference)


async def _shared(shop: Shop, reference: str, *, cached: bool = True) -> ProductPage | None:
    """Single-flight: joins the read in flight, if its result is sure to be as fresh as that of an own read. `cached`:
    Redis is up, so the result can be cached."""
    flights = shop.stores.singleton(_Flights)
    while True:
        flight = flights.get(reference)
        # A finished one may still be here, as its callback has not run. Awaiting it does not yield to the event loop,
        # so this would loop for ever.
        if flight is None or flight.task.done():
            flight = flights[reference] = _Flight(asyncio.create_task(_read_shared(shop, reference, cached)))
            flight.task.add_done_callback(partial(_forget_flight, flights, reference, flight))
        early = not flight.reading
        page, unchanged = await asyncio.shield(flight.task)  # a cancelled request must not cancel it for the others
        if early or unchanged:
            return page


def _forget_flight(flights: _Flights, reference: str, flight: _Flight, _: object) -> None:
    if flights.get(reference) is flight:
        del flights[reference]


async def _read_shared(shop: Shop, reference: str, cached: bool) -> tuple[ProductPage | None, bool]:
    redis = shop.stores.redis
    try:
        leases = await redis.fail_fast(cache.lease, redis.brief, [reference]) if cached else {}
    except StoreUnavailable:
        leases = {}
    shop.stores.singleton(_Flights)[reference].reading = True
    return await _fetch(shop, reference, leases)


async def _fetch(shop: Shop, reference: str, leases: dict[str, str]) -> tuple[ProductPage | None, bool]:
    known_ids = shop.stores.singleton(_KnownIds)
    product = await store.find(shop.stores.mongo, reference, known_ids.get(reference))
    page = None
    if product is not None:
        known_ids.put(reference, product["_id"])
        published = is_published(product, shop.clock.now())
        page = ProductPage(product["_id"], product["version"], body_of(shop, product), hit=False, published=published)
    return page, await _keep(shop, leases, {} if product is None else {reference: product})


async def _keep(shop: Shop, leases: dict[str, str], products: dict[str, Document]) -> bool:
    """Caches the published ones of these products; returns whether every lease was still held."""
    now, redis = shop.clock.now(), shop.stores.redis
    entries = {
        reference: _entry(product, reference, body_of(shop, product))
        for reference, product in products.items()
        if is_published(product, now)
    }
    try:
        seconds = shop.settings.product_cache_seconds
        return await redis.fail_fast(cache.fill, redis.brief, leases, entries, seconds) if leases else False
    except StoreUnavailable:
        return False


def _entry(product: Document, reference: str, body: bytes) -> bytes:
    return cache.entry(product["_id"], product["version"], body, sold=reference in sellable_skus(product))


def _entries(shop: Shop, product: Document) -> dict[str, bytes]:
    """Cache entries by reference. There may be hundreds of references, and an entry has kilobytes: so only two
    different ones are made."""
    body, sold = body_of(shop, product), set(sellable_skus(product))
    both = {is_sold: cache.entry(product["_id"], product["version"], body, sold=is_sold) for is_sold in (True, False)}
    return {key: both[key in sold] for key in product["keys"]}


def body_of(shop: Shop, product: Document) -> bytes:
    """The product as JSON."""
    return orjson.dumps(wire(product, shop.settings.currency), option=orjson.OPT_UTC_Z)


async def cards(shop: Shop, skus: Iterable[str], *, brief: bool = False) -> dict[str, Card]:
    """Cards by SKU: one round trip to Redis, one read of MongoDB for the cache misses. Left out are SKUs that name no
    published product or can't be bought themselves. Raises StoreUnavailable("mongodb") if MongoDB is needed and down;
    `brief`: as soon as that is likely."""
    wanted = list(dict.fromkeys(skus))
    if not wanted:
        return {}
    leases: dict[str, str] = {}
    found: dict[str, Document] = {}
    try:
        for sku, (_, _, body) in (await cache.get(shop.stores.redis, wanted)).items():
            found[sku] = orjson.loads(body)
        missing = [sku for sku in wanted if sku not in found]
        if missing:
            leases = await cache.lease(shop.stores.redis, missing)
    except StoreUnavailable:
        missing = [sku for sku in wanted if sku not in found]
    if missing:
        products = await store.find_many(shop.stores.mongo.brief if brief else shop.stores.mongo, missing)
        await _keep(shop, leases, products)
        now = shop.clock.now()
        found |= {sku: product for sku, product in products.items() if is_published(product, now)}
    return {sku: card(product, sku) for sku, product in found.items() if sku in sellable_skus(product)}


async def hidden_skus(shop: Shop, skus: Iterable[str]) -> list[str]:
    """Those of these SKUs that must not be ordered: their product is a draft, not published yet, or deleted by staff;
    or the SKU is that of a product with variants, which is not sold itself. A SKU that never had a product is not
    included, since inventory may hold what the catalog does not. The cache holds only published products, so MongoDB is
    asked only for the misses. While a store is down, no order waits for it or is refused."""
    wanted, redis = list(dict.fromkeys(skus)), shop.stores.redis
    try:
        seen = await redis.fail_fast(cache.sold, redis.brief, wanted)
    except StoreUnavailable:
        seen = set()
    unseen = [sku for sku in wanted if sku not in seen]
    if not unseen:
        return []
    try:
        products = await store.find_many(shop.stores.mongo.brief, unseen, ["keys", "publishedAt", "sku", "variants"])
        others = [sku for sku in unseen if sku not in products]
        gone = await store.withdrawn(shop.stores.mongo.brief, others) if others else set()
    except StoreUnavailable:
        log.warning("order_without_catalog")
        return []
    now = shop.clock.now()
    sold = {sku for sku, found in products.items() if is_published(found, now) and sku in sellable_skus(found)}
    return [sku for sku in unseen if sku in gone or sku in products.keys() - sold]


# Lists


async def list_products(
    shop: Shop, parameters: Sequence[tuple[str, str]], paging: PageQuery
) -> tuple[Sequence[Document], str | None]:
    """One page of published documents and the cursor of the next. `parameters` are those of the URL: `category`,
    `brand`, `tag`, `sort`, `attrs.<name>[.gte|.lte|.gt|.lt]`. A category includes its descendants.

    Raises Invalid naming the parameter, StoreUnavailable.
    """
    given = _checked(parameters)
    sort = given.get("sort", DEFAULT_SORT)
    if sort not in SORTS:
        raise invalid("sort", f"must be one of {', '.join(SORTS)}")
    asked = {name: text for name, text in given.items() if name.startswith("attrs.")}
    category = given.get("category")
    slugs = None if category is None else await store.category_and_below(shop.stores.mongo, category)
    conditions, varying = await _conditions(shop, asked, slugs)
    where = store.filter_of(
        published_by=shop.clock.now(),
        categories=slugs,
        brand=given.get("brand"),
        tag=given.get("tag"),
        attributes=conditions,
        varying=varying,
    )
    asked_for = sorted((name, text) for name, text in given.items() if name not in ("sort", "limit", "cursor"))
    scope = f"products:{sort}:{asked_for}"
    after = shop.cursors.start(paging, scope, None, lambda value, sku: (value, sku))
    found = await store.page(shop.stores.mongo, where, sort=SORTS[sort], after=after, limit=paging.limit + 1)
    return shop.cursors.cut(found, paging, scope, lambda last: [_value(last, SORTS[sort][0]), last["sku"]])


@dataclass(frozen=True)
class IndexedList:
    """A list that a single MongoDB index gives in its order: categories by any of SORTS, brands by rating, a price
    range by price; or the products whose slug `begins` with a prefix. `hidden`: ids to leave out."""

    sort: str = DEFAULT_SORT
    categories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    min_price: int | None = None
    max_price: int | None = None
    begins: str = ""
    hidden: tuple[str, ...] = ()

    def filter(self, now: datetime) -> Document:
        """The MongoDB filter of the list."""
        where = store.filter_of(published_by=now, categories=self.categories or None)
        if self.brands:
            where["brand"] = {"$in": sorted(self.brands)}
        prices = {"$gte": self.min_price, "$lte": self.max_price}
        if span := {side: price for side, price in prices.items() if price is not None}:
            where["priceCents"] = span
        if self.begins:
            where["slug"] = {"$gte": self.begins, "$lt": self.begins + "~"}  # `~` sorts after all characters of slugs
        if self.hidden:
            where["_id"] = {"$nin": list(self.hidden)}
        return where

    @property
    def order(self) -> list[tuple[str, int]]:
        """The sort order: fields and directions."""
        if self.begins:
            return [("slug", 1)]
        field, direction = SORTS[self.sort]
        return [(field, direction), ("sku", direction)]


async def read_indexed_list(shop: Shop, indexed: IndexedList, *, skip: int, limit: int) -> list[Document]:
    """The published documents of the list. Raises StoreUnavailable."""
    return await store.listed(
        shop.stores.mongo, indexed.filter(shop.clock.now()), order=indexed.order, skip=skip, limit=limit
    )


def _checked(parameters: Sequence[tuple[str, str]]) -> dict[str, str]:
    for name, times in Counter(name for name, _ in parameters).items():
        if name not in _FILTERS and not name.startswith("attrs."):
            raise invalid(name[:_LONGEST], f"is not a parameter here; there are {', '.join(_FILTERS)}, attrs.<name>")
        if times > 1:
            raise invalid(name, "is given twice")
    for name, text in parameters:
        if not 1 <= len(text) <= _LONGEST and name not in ("limit", "cursor"):
            raise invalid(name, f"must have 1 to {_LONGEST} characters")
    return {name: composed(text) for name, text in parameters}


async def _conditions(
    shop: Shop, asked: dict[str, str], slugs: list[str] | None
) -> tuple[list[Condition], frozenset[str]]:
    if not asked:
        return [], frozenset()
    if len(asked) > _MOST_CONDITIONS:
        raise invalid("attrs", f"at most {_MOST_CONDITIONS} attributes at once")
    categories = await store.categories(shop.stores.mongo, slugs)
    varying = frozenset().union(*(category.varying for category in categories))
    return [condition(name, text, categories) for name, text in asked.items()], varying


def _value(product: Document, field: str) -> object:
    found: object = product
    for part in field.split("."):
        found = found[part] if isinstance(found, dict) else None
    return found


# Changes


async def forget(shop: Shop, references: Iterable[str], product_id: str, version: int | None) -> bool:
    """Deletes a changed product's cache entries. False if Redis is down: then the worker does it, driven by the change
    stream, and does not go on before it has succeeded."""
    try:
        await cache.drop(shop.stores.redis, dict.fromkeys(references, (product_id, version)))
    except StoreUnavailable:
        log.warning("product cache not invalidated", product=product_id)
        return False
    return True


async def drop_cached(shop: Shop, ids: Iterable[str], present: Mapping[str, Document]) -> None:
    """Deletes stale cache entries of changed products, under every SKU and slug that they have or recently had; those
    of `ids` without a `present` document were deleted. Up-to-date entries stay. For the consumer of the change stream.
    Raises StoreUnavailable."""
    wanted = set(ids)
    if not wanted:
        return
    claims = await store.references_of(shop.stores.mongo, wanted)
    unheld = [claim for claim in claims if claim["_id"] not in present.get(claim["productId"], {}).get("keys", ())]
    changed: dict[str, tuple[str, int | None]] = {claim["_id"]: ("", None) for claim in unheld}
    entries: dict[str, bytes] = {}
    for product_id in wanted & present.keys():
        product = present[product_id]
        changed |= dict.fromkeys(product["keys"], (product_id, product["version"]))
        entries |= _entries(shop, product)
    await cache.drop(shop.stores.redis, changed, entries)
    await store.sweep(shop.stores.mongo, unheld, shop.clock.now())


async def renew_cached(shop: Shop, changed: Iterable[Document]) -> None:
    """Replaces older cache entries of these products, under their SKUs and slugs. For callers that changed only the
    copies of price and stock. Raises StoreUnavailable."""
    shown: dict[str, tuple[str, int, bytes]] = {}
    hidden: dict[str, tuple[str, int | None]] = {}
    for product in changed:
        if is_published(product, shop.clock.now()):
            entries = _entries(shop, product)
            shown |= {key: (product["_id"], product["version"], entry) for key, entry in entries.items()}
        else:
            hidden |= dict.fromkeys(product["keys"], (product["_id"], product["version"]))
    await cache.renew(shop.stores.redis, shown)
    await cache.drop(shop.stores.redis, hidden)


async def cached_products(redis: RedisStore) -> AsyncIterator[dict[str, tuple[str, int]]]:
    """All cache entries, in batches: (product id, version) by reference. Entries added or deleted meanwhile may be
    missing. Raises StoreUnavailable."""
    cursor = ""
    while cursor != "0":
        cursor, pages = await cached_heads(redis, cursor or "0")
        yield pages


async def cached_heads(redis: RedisStore, cursor: str) -> tuple[str, dict[str, tuple[str, int]]]:
    """The next cursor and some hundreds of entries; start with "0", which is also returned at the end."""
    cursor, keys = await redis.call("SCAN", cursor, "MATCH", cache.key("*"), "COUNT", 500, "TYPE", "string")
    return cursor, await cache.heads(redis, [name.removeprefix(cache.key("")) for name in keys])


async def stale_pages(mongo: Mongo, pages: Mapping[str, tuple[str, int]]) -> dict[str, tuple[str, int | None]]:
    """The stale ones among the cached pages: older than their product, or of a deleted one. By reference: the product's
    id and its current version, None if deleted. Raises StoreUnavailable."""
    found = await store.stamps(mongo, {product_id for product_id, _ in pages.values()})
    newest = {product_id: version for product_id, (version, _) in found.items()}
    return {
        reference: (product_id, newest.get(product_id))
        for reference, (product_id, version) in pages.items()
        if version < newest.get(product_id, version + 1)
    }


async def forget_pages(redis: RedisStore) -> None:
    """Deletes all cache entries whatever their version, after the catalog was restored to an earlier state. Raises
    StoreUnavailable."""
    async for pages in cached_products(redis):
        await cache.drop(redis, {reference: (product_id, None) for reference, (product_id, _) in pages.items()})
