"""What is found, how far and from when on: what the worker and the comparison build upon, on every engine."""

import asyncio
from typing import Any

import pytest
from shelf import NOW, SHELF, THINKPAD, product

from quartet import search
from quartet.kernel.settings import Settings
from quartet.search import Wanted, store
from quartet.search.model import DEEPEST
from quartet.search.query import QueryContext
from quartet.stores.search import BULK_SECONDS, SearchEngine, SearchRefused, is_partial

# Longer than anybody would wait: it is a matter of whether, and not of how soon.
PATIENCE_SECONDS = 60
PUBLISHED = {"id-LAPTOP-001", "id-LAPTOP-002", "id-HEAD-1", "id-TEE"}


def mugs(count: int) -> dict[str, dict[str, Any] | None]:
    """Documents by id."""
    return {f"id-M{n:04}": search.document(product(f"M{n:04}", "Mug", category="mugs")) for n in range(count)}


async def test_what_was_written_is_found_though_nobody_asks_to_refresh(engine: SearchEngine, index: Settings) -> None:
    await search.put(engine, index.search_alias, 1, mugs(1))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if await search.found_by_ids(engine, index.search_alias, ["id-M0000"]):
                return
            await asyncio.sleep(0.05)


async def test_an_index_is_neither_refreshed_nor_copied_until_it_is_filled(
    engine: SearchEngine, index: Settings
) -> None:
    index = index.model_copy(update={"search_replicas": 1})
    name = await search.build_next(engine, index)
    assert await kept_settings(engine, name) == ("0", "-1")
    await search.put(engine, search.next_alias(index), 1, mugs(3))
    await search.make_ready(engine, index)
    assert await kept_settings(engine, name) == ("1", "200ms")
    assert await engine.count(name) == 3


async def kept_settings(engine: SearchEngine, index: str) -> tuple[str, str]:
    """Replicas, refresh interval."""
    [found] = (await engine.request("GET", f"/{index}/_settings")).values()
    settings = found["settings"]["index"]
    return settings["number_of_replicas"], settings["refresh_interval"]


async def test_pages_of_what_is_stored_hold_everything_once_and_in_order(engine: SearchEngine, index: Settings) -> None:
    alias, documents = index.search_alias, mugs(100)
    await search.put(engine, alias, 1, documents)
    await engine.refresh(alias)
    for size in (7, 50, 100):
        held: list[str] = []
        while page := await search.stored(engine, alias, held[-1] if held else "", None, size):
            held += page
        assert held == sorted(documents)
    assert list(await search.stored(engine, alias, "id-M0003", "id-M0006", 100)) == ["id-M0004", "id-M0005", "id-M0006"]


async def test_searches_find_everything_while_one_index_takes_over_from_another(
    engine: SearchEngine, index: Settings
) -> None:
    documents, totals, over = mugs(20), list[int](), asyncio.Event()
    await search.put(engine, index.search_alias, 1, documents)
    await engine.refresh(index.search_alias)

    async def look() -> None:
        """Without an alias it is refused; with one it may take its time."""
        asked = {"query": {"match": {"all": "mug"}}, "track_total_hits": True}
        while not over.is_set():
            found = await engine.request("POST", f"/{index.search_alias}/_search", body=asked, seconds=BULK_SECONDS)
            assert not is_partial(found)
            totals.append(found["hits"]["total"]["value"])

    looking = [asyncio.create_task(look()) for _ in range(2)]
    for version in range(2, 6):
        name = await search.build_next(engine, index)
        await search.put(engine, search.next_alias(index), version, documents)
        await search.make_ready(engine, index)
        await search.go_live(engine, index, name)
    over.set()
    await asyncio.gather(*looking)
    assert len(totals) > 2
    assert set(totals) == {20}


async def test_what_was_seen_is_not_shown_again_and_counts_all_the_same(engine: SearchEngine, shelf: Settings) -> None:
    async def shown(*seen: str) -> tuple[set[str], int]:
        found = await search.find(engine, shelf, Wanted(), NOW, QueryContext(seen=seen))
        return {hit["_id"] for hit in found.hits}, found.total

    assert await shown() == (PUBLISHED, 4)
    assert await shown("id-TEE", "id-HEAD-1") == (PUBLISHED - {"id-TEE", "id-HEAD-1"}, 4)
    assert await shown(*PUBLISHED) == (set(), 4)


async def test_what_is_alike_is_of_the_same_category_and_shares_most_first(
    engine: SearchEngine, shelf: Settings
) -> None:
    twin = product("LAPTOP-009", "ThinkPad X1 Carbon Gen 11", brand="Lenovo", attrs=THINKPAD["attrs"])
    await search.put(engine, shelf.search_alias, 8, {twin["_id"]: search.document(twin)})
    await engine.refresh(shelf.search_alias)
    assert await search.alike(engine, shelf, THINKPAD, 5, NOW) == ["id-LAPTOP-009", "id-LAPTOP-002"]
    assert await search.alike(engine, shelf, THINKPAD, 1, NOW) == ["id-LAPTOP-009"]


async def test_of_many_ids_just_those_are_found_that_are_there(engine: SearchEngine, shelf: Settings) -> None:
    await search.put(engine, shelf.search_alias, 8, mugs(300))
    await engine.refresh(shelf.search_alias)
    asked = [*mugs(200), *(f"nobodys-{n}" for n in range(200))]
    assert (await search.found_by_ids(engine, shelf.search_alias, asked)).keys() == mugs(200).keys()
    held = await search.found_by_ids(engine, shelf.search_alias, [str(p["_id"]) for p in SHELF])
    assert held["id-LAPTOP-001"] == search.document(THINKPAD)


async def test_pages_go_as_deep_as_is_promised_and_no_deeper(engine: SearchEngine, shelf: Settings) -> None:
    last = await search.find(engine, shelf, Wanted(page=DEEPEST // 100, size=100), NOW)
    assert (last.hits, last.total) == ([], 4)
    with pytest.raises(SearchRefused) as refusal:
        await store.find(engine, shelf, Wanted(page=DEEPEST // 100 + 1, size=100), NOW)
    assert refusal.value.status == 400
