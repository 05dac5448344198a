"""A search or suggestion from the request to the answer. The steps of a search:

1. The gateway calls `api.at_hand` with the URL as it came: a cached answer of the last second needs nothing else.
2. `api` parses the parameters into a `Wanted`, and `merchandising.ruling` gives the rules of staff and sales for `q`.
3. `answer` looks in `cache.AnswerCache` by the normalised request (`_key`): in this process, among the calls in flight,
   in Redis; else it waits for one of the client's slots with the engine.
4. In that slot `store.find` queries tier by tier (`query.body`) until something is found, with the categories
   (`_category_tree`), the facets of the category in view (`_view`), and the ids of the earlier pages (`cache.SeenIds`).
5. If the engine is down, `find_in_catalog` lists what an index of the catalog in MongoDB gives.
6. `api` serialises the result, which is cached, and logs the search each time it is sent (`merchandising.note_search`).
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any

import structlog

from quartet import catalog, merchandising
from quartet.kernel.errors import StoreUnavailable, TooManyRequests
from quartet.kernel.looks import PeriodicCheck
from quartet.merchandising import Ruling
from quartet.search import store, words
from quartet.search.cache import AnswerCache, SearchAnswer, SeenIds
from quartet.search.documents import document
from quartet.search.model import CategoryTree, CategoryView, Found, Tier, Wanted
from quartet.search.query import QueryContext
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.search")

# MongoDB's skip walks the index past everything skipped.
DEEPEST_LISTED = 1000
_SORTS = {"relevance": "-rating", "-rating": "-rating", "price": "price", "-price": "-price", "-newest": "newest"}
_ASCII = re.compile(r"[a-z0-9]", re.IGNORECASE)
# Searches of one client that may wait for the engine; past it 429. As many as clients commonly have connections, so
# that a client within its rate limit is not refused for sending its searches at once; waiting ones block nobody else.
MOST_WAITING = 100


class ConcurrencyLimit:
    """Limits each client's concurrent searches at the engine: at most `share` at once, `MOST_WAITING` more wait,
    further ones are refused. So one client's flood of uncached queries does not make the others wait. Cache hits take
    no slot, nor do requests that join another's call."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._slots: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def slot(self, client: str) -> AsyncIterator[None]:
        """Waits for a slot of the client's and holds it. Raises TooManyRequests."""
        slots, count = self._slots.get(client) or (asyncio.Semaphore(self._share), 0)
        if count >= self._share + MOST_WAITING:
            raise TooManyRequests(retry_after=1)
        self._slots[client] = slots, count + 1
        try:
            async with slots:
                yield
        finally:
            count = self._slots[client][1] - 1
            if count:
                self._slots[client] = slots, count
            else:
                del self._slots[client]


class SearchState:
    """The search state of one process."""

    def __init__(self, shop: Shop) -> None:
        settings = shop.settings
        self.seen_ids = SeenIds(shop.stores.redis, settings.search_alias)
        self.concurrency = ConcurrencyLimit(settings.search_share)
        self.answers = AnswerCache(
            shop.stores.redis,
            settings.search_alias,
            settings.search_cache_seconds,
            settings.search_cache_bytes,
            self.concurrency.slot,
        )
        self.category_tree = CategoryTree()
        self.category_check = PeriodicCheck(
            "categories", CATEGORIES_SECONDS, CATEGORIES_SECONDS, bearable=CATEGORIES_STALE_SECONDS
        )
        self.views: dict[str, tuple[float, CategoryView]] = {}


def search_state(shop: Shop) -> SearchState:
    """This shop's search state."""
    return shop.stores.singleton(SearchState, shop)


async def answer(
    shop: Shop,
    wanted: Wanted,
    write: Callable[[Wanted, Found, str | None], bytes],
    *,
    typed: str,
    client: str,
    cursor: str | None = None,
    ruling: Ruling,
) -> SearchAnswer:
    """The answer to a search; `write` serialises the result and the next page's cursor. `typed`: the URL as it
    came; `client`: whose slot it takes; `ruling`: the rules for its query. Raises Invalid, StoreUnavailable,
    TooManyRequests."""
    key = _key(wanted)
    scope = f"search {key}"  # without the rules, which may change while somebody pages
    before = None
    if cursor is not None:
        before, page = shop.cursors.decode(cursor, scope)
        wanted = replace(wanted, page=page)

    async def make() -> SearchAnswer:
        try:
            now = shop.clock.now()
            category_tree = await _category_tree(shop)
            view, seen = await _view(shop, wanted, category_tree, now), await search_state(shop).seen_ids.load(before)
            context = QueryContext(ruling, category_tree, view, seen)
            ruling_of = partial(merchandising.ruling, shop)
            found = await store.find(shop.stores.search, shop.settings, wanted, now, context, ruling_of=ruling_of)
        except StoreUnavailable as away:
            found = await find_in_catalog(shop, wanted, ruling.hidden, away)
            return SearchAnswer(write(wanted, found, None), found.total, whole=False)
        place, is_everybodys = await _further(shop, wanted, found, context.seen, client)
        further = shop.cursors.encode(place, scope) if place else None
        # Other clients may have room where this one is past its limit: its cursor must not be cached for them.
        whole = is_everybodys and not found.partial
        return SearchAnswer(write(wanted, found, further), found.total, whole, exact=_is_exact(wanted, found))

    if wanted.explain:  # for staff, never cached
        async with search_state(shop).concurrency.slot(client):
            return await make()
    # Only the first page is logged: further ones belong to the same search.
    logged_query = wanted.q if wanted.page == 1 and wanted.q.strip() else ""
    asked = f"{key} {ruling} {wanted.page} {wanted.counts} {before}"
    return await search_state(shop).answers.get(asked, typed, logged_query, make, client)


def _is_exact(wanted: Wanted, found: Found) -> bool:
    """Whether the hits match all words as typed. A query longer than the words that are used never counts as that."""
    return found.tier is Tier.EXACT and words.count(wanted.q) <= words.MOST_WORDS


# Suggestions beside products: categories, (name, slug) each, and past queries; every process has them in memory.
Beside = tuple[list[tuple[str, str]], list[str]]


async def suggestions(
    shop: Shop,
    q: str,
    size: int,
    beside: Beside,
    write: Callable[[list[dict[str, Any]], Beside, bool], bytes],
    *,
    typed: str,
    client: str,
    hidden: Sequence[str],
) -> SearchAnswer:
    """The answer to what somebody has typed so far; `write` serialises the products' `{text, slug}`, the
    suggestions `beside` them, and whether the engine is down. `typed`: the URL as it came; `client`: whose slot it
    takes; `hidden`: products hidden from this query. Raises StoreUnavailable, TooManyRequests."""

    async def make() -> SearchAnswer:
        try:
            now, begun = shop.clock.now(), _starts_any_word(beside, q)
            items, whole = await store.suggest(
                shop.stores.search, shop.settings, q, size, now, hidden=hidden, strictly=begun
            )
        except StoreUnavailable as away:
            items = await suggest_from_catalog(shop, q, size, hidden, away)
            return SearchAnswer(write(items, beside, True), len(items), whole=False)
        return SearchAnswer(write(items, beside, False), len(items), whole)

    # `beside` is in the key, since it may have changed, and differ where normalised queries give the same products.
    key = f"as you type {(words.normalised_query(q), size, beside, hidden)!r}"
    return await search_state(shop).answers.get(key, typed, "", make, client)


def _starts_any_word(beside: Beside, q: str) -> bool:
    """Whether any of these contains the typed text at the start of a word: then it is not taken for misspelt."""
    categories, queries = beside
    typed = f" {words.normalised_query(q)}"
    return any(typed in f" {words.normalised_query(text)}" for text in (*(name for name, _ in categories), *queries))


async def similar_products(shop: Shop, product: Mapping[str, Any], limit: int, *, client: str) -> list[str]:
    """Ids of the most similar published products of the same category, best first; `client`: whose slot it takes.
    Raises StoreUnavailable, TooManyRequests."""
    async with search_state(shop).concurrency.slot(client):
        return await store.alike(shop.stores.search, shop.settings, product, limit, shop.clock.now())


# --- Pages by cursor ------------------------------------------------------------------------------------------------

MOST_SEEN = 1000


async def _further(
    shop: Shop, wanted: Wanted, found: Found, seen: tuple[str, ...], client: str
) -> tuple[list[str | int | None] | None, bool]:
    """What the next page's cursor holds: the digest of the earlier pages (None if paging goes by number) and the page
    number; None on the last page and past `MOST_SEEN`, where the shopper should refine the search. And whether the
    cursor may be shared with other clients."""
    following = wanted.page + 1
    shown = len(seen) + len(found.hits) if seen else (wanted.page - 1) * wanted.size + len(found.hits)
    if not found.hits or shown >= min(found.total, MOST_SEEN):
        return None, True
    if wanted.page > 1 and not seen:
        return [None, following], True
    digest, has_room = await search_state(shop).seen_ids.save([*seen, *(hit["_id"] for hit in found.hits)], client)
    # A first page is cached for everybody in any case: at worst they go on from it by page number.
    return [digest, following], has_room or not seen


# --- The category in view -------------------------------------------------------------------------------------------

CATEGORIES_SECONDS = 1.0
# Up to this age a search uses the known categories while they are renewed in the background: with steady traffic no
# search waits for it, not even when MongoDB has just begun to hang.
CATEGORIES_STALE_SECONDS = 1.5
VIEW_SECONDS = 60.0
# The same of one computed from a part of the products: where counting takes longer than the engine's time limit, each
# further try costs as much.
PARTIAL_SECONDS = 10.0


async def _category_tree(shop: Shop) -> CategoryTree:
    """The shop's categories, at most `CATEGORIES_STALE_SECONDS` old; the last known ones while MongoDB is slow or
    down."""
    kept = search_state(shop)

    async def renew() -> None:
        kept.category_tree = _build_category_tree(await catalog.categories(shop.stores.mongo))

    await kept.category_check.check(renew)
    return kept.category_tree


def _build_category_tree(categories: Sequence[catalog.Category]) -> CategoryTree:
    kinds = {
        c.slug: {name: _is_number(held) for name, held in c.attrs.get("properties", {}).items()} for c in categories
    }
    by_name: dict[str, list[str]] = {}
    for c in categories:
        for name in {words.name_of(c.name), words.name_of(c.slug)} - {""}:
            by_name.setdefault(name, []).append(c.slug)
    return CategoryTree(
        {c.slug: c.parent for c in categories},
        {slug: frozenset(name for name, number in held.items() if number) for slug, held in kinds.items()},
        {slug: frozenset(name for name, number in held.items() if not number) for slug, held in kinds.items()},
        by_name,
    )


def _is_number(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") in ("number", "integer")


async def _view(shop: Shop, wanted: Wanted, category_tree: CategoryTree, now: datetime) -> CategoryView | None:
    """The attribute facets if a single category is in view. Its bands are computed over all its products and cached for
    a minute, so that they don't change from page to page. If the engine runs out of time, the known ones are kept."""
    if len(wanted.category) != 1 or not wanted.counts or wanted.category[0] not in category_tree.numeric_attrs:
        return None
    [slug] = wanted.category
    views = search_state(shop).views
    until, view = views.get(slug, (0.0, None))
    if view is None or until <= monotonic():
        found = await store.view(shop.stores.search, shop.settings, category_tree, slug, now)
        _, known = views.get(slug, (0.0, None))  # perhaps stored by a concurrent search meanwhile
        view = known if known is not None and found.partial else found
        views[slug] = monotonic() + (PARTIAL_SECONDS if found.partial else VIEW_SECONDS), view
    return view


def _key(wanted: Wanted) -> str:
    """The same key for all equivalent requests, whatever the page."""
    attrs = sorted(map(repr, wanted.attrs))
    plain = (
        wanted.min_price, wanted.max_price, wanted.in_stock, wanted.min_rating, wanted.sort, wanted.size,
    )  # fmt: skip
    text = words.normalised_query(wanted.q), words.article_number(wanted.q)
    return repr((text, sorted(wanted.category), sorted(wanted.brand), plain, attrs))


async def invalidate_answers(shop: Shop) -> None:
    """Invalidates the answers cached in Redis, after the alias was switched to another index or the search rules were
    restored from a backup. While Redis is down, their TTL of a second ends them."""
    try:
        await search_state(shop).answers.invalidate()
    except StoreUnavailable:
        log.warning("cached searches not invalidated")


# While the engine is down: only what a single MongoDB index gives in its order. Nothing is scanned, and no text of a
# shopper becomes a pattern. What no index can answer is 503, and so is a prefix without a match, since the engine might
# find the text in the middle of a name.


async def find_in_catalog(shop: Shop, wanted: Wanted, hidden: Sequence[str], away: StoreUnavailable) -> Found:
    """One page from the catalog; `total` counts what is known to exist: this page, the earlier ones, and one more if
    there is one. Raises `away` if no index answers the search."""
    indexed = indexed_list_of(wanted)
    if indexed is None:
        raise away
    indexed = replace(indexed, hidden=tuple(hidden))
    if indexed.categories:
        indexed = replace(indexed, categories=(await _category_tree(shop)).below(indexed.categories))
    skipped = (wanted.page - 1) * wanted.size
    found = await _listed(shop, indexed, away, skip=skipped, limit=wanted.size + 1)
    hits = [{"_source": document(product)} for product in found[: wanted.size]]
    return Found(skipped + len(found), hits, degraded=True)


async def suggest_from_catalog(
    shop: Shop, q: str, size: int, hidden: Sequence[str], away: StoreUnavailable
) -> list[dict[str, Any]]:
    """Names that begin as typed, `{text, slug}`, from the catalog. Raises `away` if there are none."""
    begins = _beginning(q)
    if not begins:
        raise away
    found = await _listed(shop, catalog.IndexedList(begins=begins, hidden=tuple(hidden)), away, skip=0, limit=size)
    return [{"text": product["name"], "slug": product["slug"]} for product in found]


async def _listed(
    shop: Shop, indexed: catalog.IndexedList, away: StoreUnavailable, *, skip: int, limit: int
) -> list[dict[str, Any]]:
    try:
        found = await catalog.read_indexed_list(shop, indexed, skip=skip, limit=limit)
    except StoreUnavailable:  # MongoDB is down as well: the error names the search engine
        raise away from None
    if not found and indexed.begins:
        raise away
    return found


def indexed_list_of(wanted: Wanted) -> catalog.IndexedList | None:
    """The catalog list that answers this search, if a single index gives it."""
    priced = wanted.min_price is not None or wanted.max_price is not None
    checked = wanted.in_stock is not None or wanted.min_rating is not None or wanted.attrs
    if checked or wanted.page * wanted.size > DEEPEST_LISTED:
        return None
    if wanted.q.strip():
        alone = not (wanted.category or wanted.brand or priced) and wanted.sort == "relevance"
        begins = _beginning(wanted.q)
        return catalog.IndexedList(begins=begins) if alone and begins else None
    sort = _SORTS[wanted.sort]
    if wanted.brand and (wanted.category or sort != "-rating"):
        return None
    if priced and (wanted.brand or sort not in ("price", "-price")):
        return None
    return catalog.IndexedList(sort, wanted.category, wanted.brand, wanted.min_price, wanted.max_price)


def _beginning(text: str) -> str:
    """The prefix of the slugs of names that begin like this; "" if the text has no ASCII letter or digit."""
    return catalog.slugify(text) if _ASCII.search(text) else ""
