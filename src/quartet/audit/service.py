"""Runs every consistency rule against the running shop. Changes still in flight are given a few seconds to arrive."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from quartet import catalog, search, sync
from quartet.audit.model import POSTGRES_RULES, Finding, Report, differences
from quartet.stores.files import queries
from quartet.web.dependencies import Shop

q = queries(__file__)

Json = dict[str, Any]

SLICE = 500
# A product that changes just now differs for as long as the worker takes; what still differs after this is wrong.
PATIENCE_SECONDS = 10.0
# A rule goes through all orders, or the whole ledger: of millions that takes minutes.
RULE_SECONDS = 3600.0
RECHECK_SECONDS = 0.5


async def check(shop: Shop, *, patience: float = PATIENCE_SECONDS, quick: bool = False, repair: bool = False) -> Report:
    """All rules, in slices; memory holds one slice and what is suspicious.

    `quick`: of the products only those are read whose fingerprints differ, so that what left a product's version as it
    was is not seen. `repair`: what is wrong in catalog copies, search and cache is written again, as their owners say;
    everything else is only read, always.
    """
    checked: dict[str, int] = {}
    violations = await _postgres(shop, checked)
    products, suspicious = await (_by_fingerprints(shop, patience) if quick else _by_reading(shop))
    entries = 0
    async for cached in catalog.cached_products(shop.stores.redis):
        entries += len(cached)
        suspicious |= {finding.subject for finding in await _cache(shop, cached)}
    checked |= {"copies_equal_inventory": products, "search_equals_catalog": products, "cache_is_not_older": entries}
    wrong = await _second_look(shop, suspicious, patience)
    left = await _repair(shop, suspicious) if repair and suspicious else wrong
    mended = [finding for finding in wrong if finding.subject not in {each.subject for each in left}]
    return Report(checked, tuple(sorted([*violations, *left])), tuple(sorted(mended)))


async def _by_reading(shop: Shop) -> tuple[int, set[str]]:
    """How many products there are, and those in which something may be wrong: all are read."""
    number, suspicious = 0, set[str]()
    async for ids, known in _slices(shop):
        number += known
        suspicious |= {finding.subject for finding in await _products(shop, ids)}
    return number, suspicious


async def _by_fingerprints(shop: Shop, patience: float) -> tuple[int, set[str]]:
    """The same without reading any."""
    await shop.stores.search.refresh(shop.settings.search_alias)
    found = await sync.differing(shop, patience=patience)
    return found.products, set(found.suspects)


async def _repair(shop: Shop, ids: Collection[str]) -> list[Finding]:
    """Has them written again; answers what still is wrong."""
    await sync.repair(shop, ids)
    async for cached in catalog.cached_products(shop.stores.redis):
        theirs = {reference: entry for reference, entry in cached.items() if entry[0] in ids}
        await catalog.drop_pages(shop.stores.redis, await catalog.stale_pages(shop.stores.mongo, theirs))
    await shop.stores.search.refresh(shop.settings.search_alias)
    return await _second_look(shop, ids, RECHECK_SECONDS)


async def _postgres(shop: Shop, checked: dict[str, int]) -> list[Finding]:
    """The rules that are queries."""
    found = []
    async with shop.stores.pg.read(RULE_SECONDS) as read:
        checked |= dict(await read.fetchrow(q.counts))
        for rule in POSTGRES_RULES:
            found += [Finding(rule, row["subject"], row["finding"]) for row in await read.fetch(q.texts[rule])]
    return found


async def _slices(shop: Shop) -> AsyncIterator[tuple[set[str], int]]:
    """Ids of products, those of the catalog and those that search holds, in order; and how many the catalog has."""
    after = ""
    while True:
        ids = await catalog.ids_after(shop.stores.mongo, after, SLICE)
        upto = ids[-1] if len(ids) == SLICE else None
        held = await search.stored(shop.stores.search, shop.settings.search_alias, after, upto, 2 * SLICE)
        # The canary changes each second, on purpose.
        yield {*ids, *held} - {catalog.CANARY}, len(set(ids) - {catalog.CANARY})
        if upto is None:
            return
        after = upto


async def _products(shop: Shop, ids: Collection[str]) -> list[Finding]:
    """Copies and search of these products. The subject is the product's id."""
    products = {product["_id"]: product for product in await catalog.by_ids(shop.stores.mongo, sorted(ids))}
    true = await sync.with_current_levels(shop, products.values())
    held = await search.found_by_ids(shop.stores.search, shop.settings.search_alias, sorted(ids))
    found = []
    for id_ in ids:
        document = search.document(true[id_]) if id_ in true else None
        if id_ in products and products[id_] != true[id_]:
            wrong = differences(products[id_], true[id_])
            found.append(Finding("copies_equal_inventory", id_, f"{products[id_]['sku']}: {wrong}"))
        if document is None and id_ in held:
            what = "a draft" if id_ in products else "deleted"
            found.append(Finding("search_equals_catalog", id_, f"{held[id_].get('sku')} is {what}, yet in search"))
        elif document is not None and id_ not in held:
            found.append(Finding("search_equals_catalog", id_, f"{document['sku']} is not in search"))
        elif document is not None and document != held[id_]:
            wrong = differences(held[id_], document)
            found.append(Finding("search_equals_catalog", id_, f"{document['sku']}: {wrong}"))
    return found


async def _cache(shop: Shop, cached: Mapping[str, tuple[str, int]]) -> list[Finding]:
    """Entries older than their product, or of one that is gone. The subject is the product's id."""
    found = []
    for reference, (product_id, newest) in (await catalog.stale_pages(shop.stores.mongo, cached)).items():
        state = "deleted" if newest is None else f"at version {newest}"
        text = f"product:{reference} holds version {cached[reference][1]}, the product is {state}"
        found.append(Finding("cache_is_not_older", product_id, text))
    return found


async def _second_look(shop: Shop, ids: Collection[str], patience: float) -> list[Finding]:
    """What of these products still is wrong after waiting for it to come right."""
    deadline = asyncio.get_running_loop().time() + patience
    left = set(ids)
    while left:
        found = await _products(shop, left)
        async for cached in catalog.cached_products(shop.stores.redis):
            found += await _cache(shop, {ref: entry for ref, entry in cached.items() if entry[0] in left})
        left = {finding.subject for finding in found}
        if asyncio.get_running_loop().time() >= deadline:
            return found
        await asyncio.sleep(RECHECK_SECONDS)
    return []
