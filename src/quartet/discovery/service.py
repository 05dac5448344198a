"""Bestsellers and related products: counted in the background, in small slices, and looked up."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic

import structlog

from quartet import catalog, search
from quartet.discovery import store
from quartet.discovery.model import MOST_STORED, Json, Period, Related, round_robin
from quartet.kernel.errors import NotFound, StoreUnavailable
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.discovery")

# Counting may take at most this share of the time: the pause after a slice is chosen accordingly.
SHARE = 0.05
PAUSE_SECONDS = 2.0
IDLE_SECONDS = 30.0
# Pause between two rounds over all days: past days change by cancellations, refunds and imports.
ROUND_SECONDS = 600.0
SLICE_SECONDS = 0.2
SKUS_A_SLICE = 50
# Statement timeout: ranking reads all days, and counting pairs reads thousands of baskets, perhaps from a cold disk.
# Nobody waits for them, and one that exceeds it is repeated with the same timeout.
STATEMENT_SECONDS = 120.0
_SKUS_A_LOOK = 1_000
# At most so many SKUs bought together with a product, the best of each variant first; there might be thousands.
MOST_OTHERS = 500
# Products read per call at least, even if fewer are shown.
LEAST_READ = 20


@dataclass
class Round:
    """The position in the round over all days with orders. If it is lost with the process, the round just starts
    again."""

    after: datetime | None = None
    changed: bool = True
    rests_until: float = 0.0


async def run(shop: Shop) -> None:
    """Counts for ever. Raises any failure; call it again then."""
    state = Round()
    while True:
        began = monotonic()
        goes_on = await count(shop, state)
        await asyncio.sleep(max(PAUSE_SECONDS if goes_on else IDLE_SECONDS, (monotonic() - began) / SHARE))


async def count_all(shop: Shop) -> None:
    """One whole round, in this process: for loaders and tests."""
    state = Round()
    while await count(shop, state):
        pass


async def count(shop: Shop, state: Round) -> bool:
    """One slice: today and yesterday, some earlier days, what is bought together with some SKUs, and the bestsellers if
    anything has changed. False at the end of the round, if nothing is left to count."""
    until = monotonic() + SLICE_SECONDS
    today = shop.clock.now().astimezone(UTC).date()
    for day in (today - timedelta(days=1), today):
        state.changed |= await _count_day(shop, day)
    while (day_on := await _next_day(shop, state, today)) is not None:
        state.changed |= await _count_day(shop, day_on)
        if monotonic() > until:
            break
    counted, until = SKUS_A_SLICE, monotonic() + SLICE_SECONDS
    while counted == SKUS_A_SLICE and monotonic() < until:
        async with shop.stores.pg.tx(STATEMENT_SECONDS) as tx:
            counted = await store.count_together(tx, SKUS_A_SLICE)
        await shop.step("company counted")
    if state.changed:
        await _rank(shop, today)
        state.changed = False
    return state.after is not None or counted == SKUS_A_SLICE


async def _next_day(shop: Shop, state: Round, today: date) -> date | None:
    """The next day of the round; None at its end, and during the pause after it."""
    if monotonic() < state.rests_until:
        return None
    async with shop.stores.pg.read() as read:
        day = await store.next_day(read, state.after or datetime(1900, 1, 1, tzinfo=UTC))
    if day is None or day >= today:
        state.after, state.rests_until = None, monotonic() + ROUND_SECONDS
        state.changed = True  # a product's category may have changed, which no day's count shows
        return None
    state.after = _midnight(day) + timedelta(days=1)
    return day


async def _count_day(shop: Shop, day: date) -> bool:
    async with shop.stores.pg.tx(STATEMENT_SECONDS) as tx:
        changed = await store.count_day(tx, _midnight(day))
    await shop.step("day counted")
    return changed


async def _rank(shop: Shop, today: date) -> None:
    async with shop.stores.pg.read(STATEMENT_SECONDS) as read:
        skus = await store.sold_skus(read)
    product_ids: dict[str, str] = {}
    for start in range(0, len(skus), _SKUS_A_LOOK):
        product_ids |= await catalog.product_ids_of_skus(shop.stores.mongo, skus[start : start + _SKUS_A_LOOK])
    async with shop.stores.pg.once(STATEMENT_SECONDS) as tx:
        await store.rank(tx, today, product_ids, MOST_STORED)
    await shop.step("bestsellers ranked")


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


async def bestsellers(shop: Shop, period: Period, category: str | None, limit: int) -> list[tuple[Json, int]]:
    """Published products with pieces sold, best first; a category includes its descendants.

    Raises StoreUnavailable."""
    below = None if category is None else await catalog.category_and_below(shop.stores.mongo, category)
    async with shop.stores.pg.read() as read:
        ranked = await store.bestsellers(read, period, below, MOST_STORED)
    units = dict(ranked)
    return [(product, units[product["_id"]]) for product in await _first_public(shop, list(units), limit)]


async def related(shop: Shop, reference: str, limit: int, *, client: str) -> list[Related]:
    """Published products related to this one: bought together with it, then similar ones. Similar ones are left out
    while search is down; `client`: whose turn at the engine it takes. Raises NotFound, StoreUnavailable,
    TooManyRequests."""
    product = await catalog.find(shop.stores.mongo, reference)
    if product is None or not catalog.is_published(product, shop.clock.now()):
        raise NotFound(f"there is no product {reference}")
    async with shop.stores.pg.read() as read:
        skus = round_robin(await store.together(read, catalog.sellable_skus(product)))[:MOST_OTHERS]
    ids = await catalog.product_ids_of_skus(shop.stores.mongo, skus)
    others = [id_ for id_ in dict.fromkeys(ids[sku] for sku in skus if sku in ids) if id_ != product["_id"]]
    together = await _first_public(shop, others, limit)
    if len(together) == limit:
        return [Related(other, "bought-together") for other in together]
    known = {other["_id"] for other in (product, *together)}
    near = [id_ for id_ in await _alike(shop, product, limit + len(known), client) if id_ not in known]
    alike = await _first_public(shop, near, limit - len(together))
    return [Related(other, "bought-together") for other in together] + [Related(other, "alike") for other in alike]


async def _alike(shop: Shop, product: Json, limit: int, client: str) -> list[str]:
    try:
        return await search.similar_products(shop, product, limit, client=client)
    except StoreUnavailable as away:
        log.warning("nothing alike is found", error=away.detail)
        return []


async def _first_public(shop: Shop, ids: Sequence[str], limit: int) -> list[Json]:
    """The first `limit` of these products that are published. Read in portions, since usually most of them are."""
    now, portion = shop.clock.now(), max(2 * limit, LEAST_READ)
    found: list[Json] = []
    for start in range(0, len(ids), portion):
        some = ids[start : start + portion]
        products = {product["_id"]: product for product in await catalog.by_ids(shop.stores.mongo, some)}
        found += [products[id_] for id_ in some if id_ in products and catalog.is_published(products[id_], now)]
        if len(found) >= limit:
            break
    return found[:limit]
