"""The engine as the worker needs it: versions, aliases, refusals."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from shelf import THINKPAD, product

from quartet import search
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.search import store
from quartet.stores.search import SearchEngine, SearchRefused


def kept(name: str) -> dict[str, Any]:
    document = search.document(product("A", name))
    assert document is not None
    return document


async def held(engine: SearchEngine, index: Settings) -> dict[str, str]:
    """Names by id."""
    await engine.refresh(index.search_alias)
    stored = await search.stored(engine, index.search_alias, "", None, 1000)
    return {id_: document["name"] for id_, document in stored.items()}


async def test_a_newer_or_equal_version_is_taken_and_an_older_one_is_not(engine: SearchEngine, index: Settings) -> None:
    alias = index.search_alias
    for version, name, status in ((5, "five", 201), (4, "four", 409), (5, "five again", 200), (9, "nine", 200)):
        [result] = await search.put(engine, alias, version, {"a": kept(name)})
        assert result.status == status
        assert result.accepted
    assert await held(engine, index) == {"a": "nine"}


async def test_what_was_deleted_is_not_brought_back_by_an_older_write(engine: SearchEngine, index: Settings) -> None:
    alias = index.search_alias
    await search.put(engine, alias, 3, {"a": kept("three")})
    [gone] = await search.put(engine, alias, 8, {"a": None})
    [late] = await search.put(engine, alias, 7, {"a": kept("seven")})
    assert (gone.accepted, late.status) == (True, 409)
    assert await held(engine, index) == {}
    await search.put(engine, alias, 9, {"a": kept("nine")})
    assert await held(engine, index) == {"a": "nine"}


async def test_deleting_what_never_was_keeps_older_writes_out_too(engine: SearchEngine, index: Settings) -> None:
    [gone] = await search.put(engine, index.search_alias, 8, {"a": None})
    [late] = await search.put(engine, index.search_alias, 7, {"a": kept("seven")})
    assert (gone.accepted, late.status) == (True, 409)


async def test_one_bad_item_is_refused_alone_and_with_a_reason(engine: SearchEngine, index: Settings) -> None:
    documents = {
        "bad": kept("bad") | {"surprise": 1},
        "good": kept("good"),
        "worse": kept("x") | {"priceCents": "dear"},
    }
    bad, good, worse = await search.put(engine, index.search_alias, 1, documents)
    assert good.accepted
    assert [(r.status, r.accepted, r.is_transient, r.is_index_missing) for r in (bad, worse)] == [
        (400, False, False, False)
    ] * 2
    assert "surprise" in bad.reason
    assert await held(engine, index) == {"good": "good"}


async def test_a_write_to_an_index_that_is_not_there_makes_none(engine: SearchEngine, index: Settings) -> None:
    [result] = await search.put(engine, f"{index.search_alias}-nowhere", 1, {"a": kept("a")})
    assert result.is_index_missing
    assert not result.accepted
    assert await engine.mappings(f"{index.search_alias}-nowhere") == {}


async def test_a_delete_in_an_index_that_is_not_there_makes_none(engine: SearchEngine, index: Settings) -> None:
    """Engines make one for a delete with a version of ours, whatever `require_alias` says; it would be in the way of
    the alias for ever."""
    nowhere = f"{index.search_alias}-nowhere"
    gone, kept_ = await search.put(engine, nowhere, 1, {"a": None, "b": kept("b")})
    assert gone.is_index_missing
    assert kept_.is_index_missing
    assert await engine.mappings(nowhere) == {}


async def test_an_empty_index_in_the_way_of_the_next_one_is_cleared_away(engine: SearchEngine, index: Settings) -> None:
    """As a delete leaves it whose alias went between looking and writing."""
    await engine.request("PUT", f"/{search.next_alias(index)}")
    name = await search.build_next(engine, index)
    assert await engine.alias_targets(search.next_alias(index)) == [name]


async def untiring(call: Callable[[], Awaitable[str]]) -> str:
    """Asks again, as the worker does: an index that was made a moment ago does not say yet what is in it."""
    while True:
        with suppress(StoreUnavailable):
            return await call()
        await asyncio.sleep(0.02)


async def test_whoever_deletes_late_is_in_the_way_of_no_next_index(engine: SearchEngine, index: Settings) -> None:
    """Batches that began while one was being built still write to it when it is live, or given up."""
    stop = asyncio.Event()

    async def delete_late() -> None:
        while not stop.is_set():
            await search.put(engine, search.next_alias(index), 1, {"gone": None})

    async def build_and_go_back() -> None:
        try:
            for _ in range(6):
                name = await untiring(lambda: search.build_next(engine, index))
                await search.go_live(engine, index, name)
                former = await untiring(lambda: search.prepare_rollback(engine, index))
                assert await engine.alias_targets(search.next_alias(index)) == [former]
                await search.abandon_next(engine, index)
        finally:
            stop.set()

    await asyncio.gather(build_and_go_back(), *(delete_late() for _ in range(2)))


async def test_a_search_without_an_index_is_an_engine_away(engine: SearchEngine, index: Settings) -> None:
    with pytest.raises(StoreUnavailable):
        await engine.search(f"{index.search_alias}-nowhere", {"query": {"match_all": {}}})


async def test_a_bulk_of_many_megabytes_goes_in_parts(engine: SearchEngine, index: Settings) -> None:
    documents = {f"p{i}": kept(f"p{i}") | {"image": "x" * 900_000} for i in range(13)}
    results = await search.put(engine, index.search_alias, 1, documents)
    assert [result.id for result in results] == list(documents)
    assert all(result.accepted for result in results)


async def test_a_bulk_that_somebody_on_the_way_finds_too_large_goes_in_smaller_parts(
    engine: SearchEngine, index: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may allow less than the engine. What is too large by itself is refused alone."""
    request = engine.request

    async def narrow(method: str, path: str, *, body: Any = None, **more: Any) -> Any:
        if path.endswith("/_bulk") and len(body) > 5_000:
            raise SearchRefused(413, "None")
        return await request(method, path, body=body, **more)

    monkeypatch.setattr(engine, "request", narrow)
    documents: dict[str, Any] = {f"p{i}": kept(f"p{i}") for i in range(13)}
    documents |= {"large": kept("large") | {"image": "x" * 9_000}, "gone": None}
    results = await search.put(engine, index.search_alias, 1, documents)
    assert [result.id for result in results] == list(documents)
    [refused] = [result for result in results if not result.accepted]
    assert (refused.id, refused.status, refused.is_transient, "too large" in refused.reason) == (
        "large",
        413,
        False,
        True,
    )
    assert (await held(engine, index)).keys() == documents.keys() - {"large", "gone"}


async def test_preparing_at_once_makes_one_index(engine: SearchEngine, index: Settings) -> None:
    for name in await engine.alias_targets(index.search_alias):
        await engine.delete_index(name)
    assert not await search.is_current(engine, index)
    await asyncio.gather(*(search.prepare(engine, index) for _ in range(5)))
    assert len(await engine.alias_targets(index.search_alias)) == 1
    assert await search.is_current(engine, index)


async def test_an_index_of_an_earlier_definition_takes_what_documents_have_now(
    engine: SearchEngine, index: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = index.search_alias
    assert await search.add_new_fields(engine, index, alias) is False
    definition = deepcopy(store.INDEX)
    definition["mappings"]["properties"]["badge"] = {"type": "keyword"}
    definition["mappings"]["properties"]["words"]["properties"]["badge"] = {"type": "text", "copy_to": "all"}
    monkeypatch.setattr(store, "INDEX", definition)
    document = {"badge": "new", "words": {"badge": "brand-new"}}
    assert [r.accepted for r in await search.put(engine, alias, 1, {"1": document})] == [False]
    for _ in range(2):  # as by two processes
        assert await search.add_new_fields(engine, index, alias) is True
    assert [r.accepted for r in await search.put(engine, alias, 1, {"1": document})] == [True]
    await engine.refresh(alias)
    for asked in ({"term": {"badge": "new"}}, {"match": {"all": "brand"}}):
        assert len((await engine.search(alias, {"query": asked}))["hits"]["hits"]) == 1
    assert not await search.is_current(engine, index)


async def test_the_next_index_takes_the_alias_in_one_step_and_the_one_before_is_kept_to_go_back(
    engine: SearchEngine, index: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, moves = engine.request, []

    async def noted(method: str, path: str, **more: Any) -> Any:
        moves.extend([more["body"]] if path == "/_aliases" else [])
        return await request(method, path, **more)

    await search.put(engine, index.search_alias, 1, {"a": kept("old")})
    await search.build_next(engine, index)  # a build that was given up
    name = await search.build_next(engine, index)
    await search.put(engine, search.next_alias(index), 1, {"a": kept("new")})
    assert await held(engine, index) == {"a": "old"}
    await search.make_ready(engine, index)
    with monkeypatch.context() as watched:
        watched.setattr(engine, "request", noted)
        await search.go_live(engine, index, name)
    assert len(moves) == 1, "between two of them a search would have no index"
    assert await held(engine, index) == {"a": "new"}
    [former] = await engine.alias_targets(store.former_alias(index))
    assert set(await engine.alias_targets(f"{index.search_alias}-all")) == {name, former}
    assert await search.prepare_rollback(engine, index) == former
    assert await search.next_index(engine, index) == former
    await search.put(engine, search.next_alias(index), 2, {"a": kept("newest")})
    await search.make_ready(engine, index)
    await search.go_live(engine, index, former)
    assert await held(engine, index) == {"a": "newest"}
    assert await engine.alias_targets(store.former_alias(index)) == [name]
    assert await engine.alias_targets(search.next_alias(index)) == []
    await search.prepare_rollback(engine, index)  # given up too: the next build has the alias to itself
    name = await search.build_next(engine, index)
    assert await engine.alias_targets(search.next_alias(index)) == [name]


async def test_sums_of_fingerprints_are_exact_and_those_of_a_bucket_can_be_had(
    engine: SearchEngine, index: Settings
) -> None:
    stray = {name: value for name, value in kept("x").items() if name not in ("bucket", "fingerprint")}
    documents = {f"p{n}": {**kept("x"), "bucket": n // 3, "fingerprint": 2**32 - 1 - n} for n in range(300)}
    await search.put(engine, index.search_alias, 1, {**documents, "stray": stray})
    await engine.refresh(index.search_alias)
    alias = index.search_alias
    of_ten = [2**32 - 1 - n for n in range(30, 60)]
    assert await search.sums(engine, alias, 10, 20) == {10: (30, sum(of_ten))}
    each = await search.sums(engine, alias, 10, 20, each=True)
    assert each == {10 + n: (3, sum(of_ten[3 * n : 3 * n + 3])) for n in range(10)}
    assert await search.sums(engine, alias, 200, 300) == {200: (0, 0)}
    assert await search.fingerprints(engine, alias, 99, 100) == {f"p{n}": 2**32 - 1 - n for n in (297, 298, 299)}
    assert (await search.sums(engine, alias, 0, 1))[0][0] == 4
    assert (await search.sums(engine, alias, 0, 1, each=True))[0][0] == 4
    assert (await search.fingerprints(engine, alias, 0, 1))["stray"] == 0


async def test_an_engine_error_names_its_status(engine: SearchEngine, index: Settings) -> None:
    with pytest.raises(SearchRefused) as refusal:
        await engine.search(index.search_alias, {"query": {"nonsense": {}}})
    assert refusal.value.status == 400


async def test_a_document_is_written_under_the_version_given(engine: SearchEngine, index: Settings) -> None:
    await search.put(engine, index.search_alias, 41, {"a": search.document(THINKPAD)})
    found = await engine.request("GET", f"/{index.search_alias}/_doc/a")
    assert (found["_version"], found["_source"]["name"]) == (41, THINKPAD["name"])


async def test_it_says_what_it_is(engine: SearchEngine) -> None:
    assert await engine.ping() == f"{engine.engine} {engine.version}"
    assert engine.engine in ("opensearch", "elasticsearch")
    assert engine.version
