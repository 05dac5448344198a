"""A search or suggestion from what was asked to the ready answer. What happens to a query, in this order:

1. The gateway asks `api.at_hand`, by the address as it came: an answer of the last second needs nothing else.
2. `api` reads the parameters into a `Wanted`, and `merchandising.ruling` says what staff and sales say of the words.
3. `answer` asks `cache.Answers` by what is meant (`_key`): this process, whoever is just asking the same, Redis; else
   it takes one of the client's turns with the engine.
4. In it `store.find` asks tier by tier (`query.body`) until something is found, with the categories (`_shelves`), what
   is counted where one of them is in view (`_view`), and the ids of the pages before (`cache.Leaves`).
5. Where the engine is away, `find_listed` lists what an index of the catalog gives.
6. `api` makes the bytes, which are kept, and notes the search each time they are given (`merchandising.note_search`).
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
from quartet.kernel.looks import Looks
from quartet.merchandising import Ruling
from quartet.search import store, words
from quartet.search.cache import Answers, Leaves, Ready
from quartet.search.model import Found, Shelves, Tier, View, Wanted, document
from quartet.search.query import Told
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.search")

# An index is walked past everything that is skipped.
DEEPEST_LISTED = 1000
_SORTS = {"relevance": "-rating", "-rating": "-rating", "price": "price", "-price": "-price", "-newest": "newest"}
_ASCII = re.compile(r"[a-z0-9]", re.IGNORECASE)
# Of one client's searches that wait for the engine; past it 429. As many as clients commonly keep connections, so that
# who is within the limit of searches a minute is not refused for asking them together; waiting keeps nobody else.
MOST_WAITING = 100


class Turns:
    """How many searches a client has with the engine: at most `share` at once, some more wait, further ones are
    refused. So nobody's flood of strange queries keeps the others waiting. Whatever is kept ready takes no turn, nor
    does who waits for what another is just asking."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._places: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """The client's turn. Raises TooManyRequests."""
        places, count = self._places.get(client) or (asyncio.Semaphore(self._share), 0)
        if count >= self._share + MOST_WAITING:
            raise TooManyRequests(retry_after=1)
        self._places[client] = places, count + 1
        try:
            async with places:
                yield
        finally:
            count = self._places[client][1] - 1
            if count:
                self._places[client] = places, count
            else:
                del self._places[client]


class Desk:
    """What one process keeps of searches."""

    def __init__(self, shop: Shop) -> None:
        settings = shop.settings
        self.leaves = Leaves(shop.stores.redis, settings.search_alias)
        self.turns = Turns(settings.search_share)
        self.answers = Answers(
            shop.stores.redis,
            settings.search_alias,
            settings.search_cache_seconds,
            settings.search_cache_bytes,
            self.turns.turn,
        )
        self.shelves = Shelves()
        self.looks_at_shelves = Looks("categories", SHELVES_SECONDS, SHELVES_SECONDS, bearable=BEARABLE_SECONDS)
        self.views: dict[str, tuple[float, View]] = {}


def desk(shop: Shop) -> Desk:
    """The one of this shop."""
    return shop.stores.kept(Desk, shop)


async def answer(
    shop: Shop,
    wanted: Wanted,
    write: Callable[[Wanted, Found, str | None], bytes],
    *,
    typed: str,
    client: str,
    cursor: str | None = None,
    said: Ruling,
) -> Ready:
    """The ready answer to a search, its bytes made by `write` of what was found and of the next page's cursor. `typed`:
    its address as it came; `client`: whose turn it takes. Raises Invalid, StoreUnavailable, TooManyRequests."""
    key = _key(wanted)
    scope = f"search {key}"  # without what is said of the query: that may change while somebody leafs
    before = None
    if cursor is not None:
        before, page = shop.cursors.decode(cursor, scope)
        wanted = replace(wanted, page=page)

    async def make() -> Ready:
        try:
            now = shop.clock.now()
            shelves = await _shelves(shop)
            view, seen = await _view(shop, wanted, shelves, now), await desk(shop).leaves.before(before)
            told = Told(said, shelves, view, seen)
            ruling = partial(merchandising.ruling, shop)
            found = await store.find(shop.stores.search, shop.settings, wanted, now, told, ruling=ruling)
        except StoreUnavailable as away:
            found = await find_listed(shop, wanted, said.hidden, away)
            return Ready(write(wanted, found, None), found.total, whole=False)
        place, is_everybodys = await _further(shop, wanted, found, told.seen, client)
        further = shop.cursors.encode(place, scope) if place else None
        # A cursor that this client alone has no room for is not for others.
        whole = is_everybodys and not found.partial
        return Ready(write(wanted, found, further), found.total, whole, exact=_is_exact(wanted, found))

    if wanted.explain:  # for staff, and of now
        async with desk(shop).turns.turn(client):
            return await make()
    # Further pages belong to the same search.
    noted = wanted.q if wanted.page == 1 and wanted.q.strip() else ""
    asked = f"{key} {said} {wanted.page} {wanted.counts} {before}"
    return await desk(shop).answers.get(asked, typed, noted, make, client)


def _is_exact(wanted: Wanted, found: Found) -> bool:
    """Whether it has all words as they are. Those past the number that is heeded could say anything."""
    return found.tier is Tier.EXACT and words.count(wanted.q) <= words.MOST_WORDS


# Categories, (name, slug) each, and past queries, which every process has in memory.
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
) -> Ready:
    """The ready answer to what somebody has typed so far, its bytes made by `write` of the products' `{text, slug}`, of
    what is offered `beside` them, and of whether the engine is away. `typed`: its address as it came; `client`: whose
    turn it takes; `hidden`: products that this query does not find. Raises StoreUnavailable, TooManyRequests."""

    async def make() -> Ready:
        try:
            now, begun = shop.clock.now(), _begun(beside, q)
            items, whole = await store.suggest(
                shop.stores.search, shop.settings, q, size, now, hidden=hidden, strictly=begun
            )
        except StoreUnavailable as away:
            items = await suggest_listed(shop, q, size, hidden, away)
            return Ready(write(items, beside, True), len(items), whole=False)
        return Ready(write(items, beside, False), len(items), whole)

    # What is beside them may have changed since, and differ where accents and spaces make no other products.
    key = f"as you type {(words.asked(q), size, beside, hidden)!r}"
    return await desk(shop).answers.get(key, typed, "", make, client)


def _begun(beside: Beside, q: str) -> bool:
    """Whether anything of these begins as typed: then nothing is misspelt."""
    categories, queries = beside
    typed = f" {words.asked(q)}"
    return any(typed in f" {words.asked(text)}" for text in (*(name for name, _ in categories), *queries))


async def alike_in_turn(shop: Shop, product: Mapping[str, Any], limit: int, *, client: str) -> list[str]:
    """Ids of published products of the same category that share most with it, the best first; `client`: whose turn it
    takes. Raises StoreUnavailable, TooManyRequests."""
    async with desk(shop).turns.turn(client):
        return await store.alike(shop.stores.search, shop.settings, product, limit, shop.clock.now())


# --- Pages by cursor ------------------------------------------------------------------------------------------------

MOST_SEEN = 1000


async def _further(
    shop: Shop, wanted: Wanted, found: Found, seen: tuple[str, ...], client: str
) -> tuple[list[str | int | None] | None, bool]:
    """Where the next page's cursor leads: the digest of the pages before, None where pages go by number, and the page.
    None on the last, and where it gets too far: refine the search instead. And whether it is as good for others."""
    following = wanted.page + 1
    shown = len(seen) + len(found.hits) if seen else (wanted.page - 1) * wanted.size + len(found.hits)
    if not found.hits or shown >= min(found.total, MOST_SEEN):
        return None, True
    if wanted.page > 1 and not seen:
        return [None, following], True
    digest, has_room = await desk(shop).leaves.keep([*seen, *(hit["_id"] for hit in found.hits)], client)
    # A first page is everybody's who asks the same, also where they leaf on from it by number.
    return [digest, following], has_room or not seen


# --- The category in view -------------------------------------------------------------------------------------------

SHELVES_SECONDS = 1.0
# Until then a search goes on with what is known while that is renewed: where many search nobody waits for it, not even
# when MongoDB has just begun to hang.
BEARABLE_SECONDS = 1.5
VIEW_SECONDS = 60.0


async def _shelves(shop: Shop) -> Shelves:
    """The shop's categories, at most `BEARABLE_SECONDS` old; the last known while MongoDB is slow or away."""
    kept = desk(shop)

    async def renew() -> None:
        kept.shelves = _read_shelves(await catalog.categories(shop.stores.mongo))

    await kept.looks_at_shelves.look(renew)
    return kept.shelves


def _read_shelves(categories: Sequence[catalog.Category]) -> Shelves:
    kinds = {
        c.slug: {name: _is_number(held) for name, held in c.attrs.get("properties", {}).items()} for c in categories
    }
    called: dict[str, list[str]] = {}
    for c in categories:
        for name in {words.name_of(c.name), words.name_of(c.slug)} - {""}:
            called.setdefault(name, []).append(c.slug)
    return Shelves(
        {c.slug: c.parent for c in categories},
        {slug: frozenset(name for name, number in held.items() if number) for slug, held in kinds.items()},
        {slug: frozenset(name for name, number in held.items() if not number) for slug, held in kinds.items()},
        called,
    )


def _is_number(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") in ("number", "integer")


async def _view(shop: Shop, wanted: Wanted, shelves: Shelves, now: datetime) -> View | None:
    """What is counted where one category is in view. Its bands are those of all its products, and stay for a minute, so
    that they don't move under the shopper's hand."""
    if len(wanted.category) != 1 or not wanted.counts or wanted.category[0] not in shelves.numbers:
        return None
    [slug] = wanted.category
    views = desk(shop).views
    until, view = views.get(slug, (0.0, None))
    if view is None or until <= monotonic():
        view = await store.view(shop.stores.search, shop.settings.search_alias, shelves, slug, now)
        views[slug] = monotonic() + VIEW_SECONDS, view
    return view


def _key(wanted: Wanted) -> str:
    """One key for all ways to ask the same, whichever page of it."""
    attrs = sorted(map(repr, wanted.attrs))
    plain = (
        wanted.min_price, wanted.max_price, wanted.in_stock, wanted.min_rating, wanted.sort, wanted.size,
    )  # fmt: skip
    text = words.asked(wanted.q), words.article(wanted.q)
    return repr((text, sorted(wanted.category), sorted(wanted.brand), plain, attrs))


async def turn_over(shop: Shop) -> None:
    """Searches go to another index from now on, or staff have said something new of queries: nobody takes over what
    others keep of them. Where Redis is away, their second ends it."""
    try:
        await desk(shop).answers.turn()
    except StoreUnavailable:
        log.warning("kept searches not turned over")


# While the engine is away: what an index of MongoDB lists in its order, and nothing else. Nothing is scanned, and
# nothing that a shopper wrote becomes a pattern. What no index answers is 503, and so is a beginning that finds
# nothing, since the engine might find it further on in a name.


async def find_listed(shop: Shop, wanted: Wanted, hidden: Sequence[str], away: StoreUnavailable) -> Found:
    """One page; `total` is what is known to be there: this page, those before it, and one more if there is one. Raises
    `away` where no index answers."""
    shelf = shelf_of(wanted)
    if shelf is None:
        raise away
    shelf = replace(shelf, hidden=tuple(hidden))
    if shelf.categories:
        shelf = replace(shelf, categories=(await _shelves(shop)).below(shelf.categories))
    skipped = (wanted.page - 1) * wanted.size
    found = await _listed(shop, shelf, away, skip=skipped, limit=wanted.size + 1)
    hits = [{"_source": document(product)} for product in found[: wanted.size]]
    return Found(skipped + len(found), hits, degraded=True)


async def suggest_listed(
    shop: Shop, q: str, size: int, hidden: Sequence[str], away: StoreUnavailable
) -> list[dict[str, Any]]:
    """Names that begin as typed, `{text, slug}`. Raises `away` where there are none."""
    begins = _beginning(q)
    if not begins:
        raise away
    found = await _listed(shop, catalog.Shelf(begins=begins, hidden=tuple(hidden)), away, skip=0, limit=size)
    return [{"text": product["name"], "slug": product["slug"]} for product in found]


async def _listed(
    shop: Shop, shelf: catalog.Shelf, away: StoreUnavailable, *, skip: int, limit: int
) -> list[dict[str, Any]]:
    try:
        found = await catalog.on_shelf(shop, shelf, skip=skip, limit=limit)
    except StoreUnavailable:  # MongoDB as well: what was asked for is search
        raise away from None
    if not found and shelf.begins:
        raise away
    return found


def shelf_of(wanted: Wanted) -> catalog.Shelf | None:
    """The list that answers this search, if one index gives it."""
    priced = wanted.min_price is not None or wanted.max_price is not None
    checked = wanted.in_stock is not None or wanted.min_rating is not None or wanted.attrs
    if checked or wanted.page * wanted.size > DEEPEST_LISTED:
        return None
    if wanted.q.strip():
        alone = not (wanted.category or wanted.brand or priced) and wanted.sort == "relevance"
        begins = _beginning(wanted.q)
        return catalog.Shelf(begins=begins) if alone and begins else None
    sort = _SORTS[wanted.sort]
    if wanted.brand and (wanted.category or sort != "-rating"):
        return None
    if priced and (wanted.brand or sort not in ("price", "-price")):
        return None
    return catalog.Shelf(sort, wanted.category, wanted.brand, wanted.min_price, wanted.max_price)


def _beginning(text: str) -> str:
    """How slugs of names that begin like this begin; "" when there is nothing to go by."""
    return catalog.slugify(text) if _ASCII.search(text) else ""
