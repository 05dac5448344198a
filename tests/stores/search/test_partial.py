"""What an engine answers of a part of the index is said to be that, and never taken for all there is."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from shelf import NOW, SHELF, THINKPAD

from quartet import search
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.fingerprints import bucket
from quartet.kernel.settings import Settings
from quartet.search import Wanted, store
from quartet.search.model import CategoryTree
from quartet.stores.search import SearchEngine


class Hurt(SearchEngine):
    """The same engine on a bad day: its answers are of a part, and say so in one of its ways."""

    def __init__(self, url: str, told: dict[str, Any]) -> None:
        super().__init__(url)
        self._told = told

    async def request(self, method: str, path: str, **more: Any) -> Any:
        found = await super().request(method, path, **more)
        if not path.endswith(("/_search", "/_count")):
            return found
        return {**found, **self._told, "_shards": {**found["_shards"], **self._told.get("_shards", {})}}


AT = bucket(THINKPAD["_id"])
Ask = Callable[[SearchEngine, str], Awaitable[Any]]
OF_ALL: dict[str, Ask] = {
    "stored": lambda engine, alias: search.stored(engine, alias, "", None, 100),
    "found_by_ids": lambda engine, alias: search.found_by_ids(engine, alias, [str(p["_id"]) for p in SHELF]),
    "fingerprints": lambda engine, alias: search.fingerprints(engine, alias, AT, AT + 1),
    "sums": lambda engine, alias: search.sums(engine, alias, AT, AT + 1),
    "sums of each": lambda engine, alias: search.sums(engine, alias, AT, AT + 1, each=True),
    "count": lambda engine, alias: engine.count(alias),
}
WAYS: dict[str, dict[str, Any]] = {
    "out of time": {"timed_out": True},
    "a shard failed": {"_shards": {"total": 2, "successful": 1, "failed": 1}},
    "a shard has no copy": {"_shards": {"total": 2, "successful": 1, "failed": 0}},
}


@pytest.fixture(params=WAYS)
async def hurt(request: pytest.FixtureRequest, engine_url: str) -> AsyncIterator[SearchEngine]:
    hurt = Hurt(engine_url, WAYS[request.param])
    yield hurt
    await hurt.close()


@pytest.mark.parametrize("engine_url", ["osmem"], indirect=True)
async def test_a_part_is_never_taken_for_the_whole(engine: SearchEngine, shelf: Settings, hurt: SearchEngine) -> None:
    for name, ask in OF_ALL.items():
        assert await ask(engine, shelf.search_alias), name
        with pytest.raises(StoreUnavailable):
            await ask(hurt, shelf.search_alias)


@pytest.mark.parametrize("engine_url", ["osmem"], indirect=True)
async def test_a_shopper_is_given_a_part_and_told_so(shelf: Settings, hurt: SearchEngine) -> None:
    found = await search.find(hurt, shelf, Wanted(), NOW)
    assert found.hits
    assert found.partial


@pytest.mark.parametrize("engine_url", ["osmem"], indirect=True)
async def test_what_is_offered_of_a_part_is_said_to_be_that_and_nothing_misspelt_is_sought(
    engine: SearchEngine, shelf: Settings, hurt: SearchEngine
) -> None:
    """Perhaps the other part has what begins as typed."""
    for typed, whole in (("think", ["laptop-001"]), ("thonkpad", ["laptop-001"])):
        offered, whole_index = await search.suggest(engine, shelf, typed, 10, NOW)
        assert ([one["slug"] for one in offered], whole_index) == (whole, True)
    offered, whole_index = await search.suggest(hurt, shelf, "think", 10, NOW)
    assert ([one["slug"] for one in offered], whole_index) == (["laptop-001"], False)
    assert await search.suggest(hurt, shelf, "thonkpad", 10, NOW) == ([], False)


class Noting(SearchEngine):
    """Notes the bodies of searches."""

    async def search(self, index: str, body: dict[str, Any]) -> Any:
        self.bodies = [*getattr(self, "bodies", []), body]
        return await super().search(index, body)


@pytest.mark.parametrize("engine_url", ["osmem"], indirect=True)
async def test_the_engine_is_told_how_long_a_shopper_waits(shelf: Settings, engine_url: str) -> None:
    noting, hasty = Noting(engine_url), shelf.model_copy(update={"search_seconds": 0.25})
    await search.find(noting, hasty, Wanted(q="thonkpad"), NOW)
    await search.suggest(noting, hasty, "thonkpad", 10, NOW)
    await search.alike(noting, hasty, THINKPAD, 5, NOW)
    await store.view(noting, hasty, CategoryTree(), "laptops", NOW)
    await noting.close()
    assert len(noting.bodies) > 6
    assert {body.get("timeout") for body in noting.bodies} == {"250ms"}


class GoesAway(SearchEngine):
    """Answers so many searches and no more."""

    answers = 100

    async def search(self, index: str, body: dict[str, Any]) -> Any:
        if self.answers == 0:
            raise StoreUnavailable("search")
        self.answers -= 1
        return await super().search(index, body)


@pytest.mark.parametrize("engine_url", ["osmem"], indirect=True)
async def test_what_was_found_is_given_though_the_engine_is_gone_before_a_spelling_is_looked_up(
    engine: SearchEngine, shelf: Settings, engine_url: str
) -> None:
    wanted = Wanted(q="wireles headphnes")
    leaving = GoesAway(engine_url)
    whole = await search.find(leaving, shelf, wanted, NOW)
    assert whole.did_you_mean == ["wireless headphones"]
    leaving.answers = GoesAway.answers - leaving.answers - 1
    found = await search.find(leaving, shelf, wanted, NOW)
    await leaving.close()
    assert [hit["_id"] for hit in found.hits] == [hit["_id"] for hit in whole.hits]
    assert found.did_you_mean == []
