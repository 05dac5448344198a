"""What the shop asks of a search engine, asked of a real OpenSearch and a real Elasticsearch node."""

from collections.abc import AsyncIterator

import pytest
from engines import engine, index, shelf
from shelf import product
from test_engine import *  # noqa: F403
from test_queries import *  # noqa: F403
from test_queries import Asker, why
from test_reach import *  # noqa: F403

from quartet import search
from quartet.devstores import Place
from quartet.devstores import search as local_search
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.stores.search import SearchEngine

__all__ = ["engine", "index", "shelf"]


@pytest.fixture(scope="session", params=["opensearch", "elasticsearch"])
async def engine_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Where a node listens. Without Java and Maven there is none, and nothing is proved."""
    running = await local_search.start(Place(tmp_path_factory.mktemp("engine")), request.param)
    yield running.server.url
    await running.stop()


async def test_a_product_stands_where_it_stands_for_words_in_fields(ask: Asker) -> None:
    """As the engines themselves tell it, field by field, with what the shop's settings say that each weighs."""
    [(_, reasons)] = (await why(ask, "lenovo thinkpad", boosts={"id-LAPTOP-001": 1.2})).values()
    assert {(reason.field, reason.word, reason.factor) for reason in reasons} == {
        (None, None, 1.2),
        ("all", "lenovo", None), ("all", "thinkpad", None), ("brand", "lenovo", 2.0), ("more", "lenovo", 1.0),
        ("name", "thinkpad", 3.0), ("exact", "thinkpad", 1.0),
    }  # fmt: skip
    assert "has “thinkpad” in name, ×3" in [reason.text for reason in reasons]
    [(_, misspelt)] = (await why(ask, "thinkpd")).values()
    assert {(reason.field, reason.word, reason.factor) for reason in misspelt} == {
        ("all", "thinkpad", None), ("exact", "thinkpad", 3.0),
    }  # fmt: skip


async def test_where_a_shard_has_no_copy_a_part_is_told_as_one_and_not_compared(
    engine: SearchEngine, shelf: Settings, ask: Asker
) -> None:
    both, nowhere = f"{shelf.search_alias}-both", f"{shelf.search_alias}-nowhere"
    await engine.request(
        "PUT",
        f"/{nowhere}",
        params={"wait_for_active_shards": "0"},
        body={
            **search.store.definition(shelf),
            "settings": {"index.routing.allocation.require._name": "nobody"},
        },
    )
    [live] = await engine.alias_targets(shelf.search_alias)
    actions = [{"add": {"index": index, "alias": both}} for index in (live, nowhere)]
    await engine.request("POST", "/_aliases", body={"actions": actions})
    found = await Asker(engine, shelf.model_copy(update={"search_alias": both})).found()
    assert (found.total, found.partial) == (4, True)
    assert not (await ask.found()).partial
    for asked in (search.stored(engine, both, "", None, 100), search.sums(engine, both, 0, 1), engine.count(both)):
        with pytest.raises(StoreUnavailable):
            await asked
    await engine.delete_index(nowhere)


@pytest.mark.parametrize("block", ["write", "read_only", "read_only_allow_delete"])
async def test_while_an_index_is_closed_to_writes_nothing_is_refused_for_good(
    engine: SearchEngine, index: Settings, block: str
) -> None:
    """By an operator, or by the engine itself where a disk is full: the document is not to blame."""
    document = search.document(product("A", "Kettle"))
    alias = index.search_alias
    await engine.change_settings(alias, {"blocks": {block: True}})
    results = await search.put(engine, alias, 1, {"a": document})
    assert [(result.accepted, result.is_transient) for result in results] == [(False, True)]
    await engine.change_settings(alias, {"blocks": {block: False}})
    [result] = await search.put(engine, alias, 1, {"a": document})
    assert result.accepted


async def test_a_new_index_whose_only_node_is_gone_is_not_built_on(engine: SearchEngine, index: Settings) -> None:
    name = await search.build_next(engine, index)
    assert await search.next_index(engine, index) == name
    await engine.delete_index(name)
    definition = search.store.definition(index)
    definition["settings"]["index.routing.allocation.require._name"] = "nobody"
    body = {**definition, "aliases": {search.next_alias(index): {}}}
    await engine.request("PUT", f"/{name}", params={"wait_for_active_shards": "0"}, body=body)
    assert await search.next_index(engine, index) is None
    await engine.delete_index(name)


async def test_a_former_index_that_was_closed_to_writes_is_opened_to_go_back_to_it(
    engine: SearchEngine, index: Settings
) -> None:
    former = await search.build_next(engine, index)
    await search.make_ready(engine, index)
    await search.go_live(engine, index, former)
    later = await search.build_next(engine, index)
    await search.make_ready(engine, index)
    await search.go_live(engine, index, later)
    await engine.change_settings(former, {"blocks": {"write": True}})
    assert await search.prepare_rollback(engine, index) == former
    [result] = await search.put(engine, search.next_alias(index), 1, {"a": search.document(product("A", "Kettle"))})
    assert result.accepted
    for name in (former, later):
        await engine.delete_index(name)
