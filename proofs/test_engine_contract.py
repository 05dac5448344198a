"""What the shop asks of a search engine, asked of a real OpenSearch and a real Elasticsearch node."""

from collections.abc import AsyncIterator

import pytest
from test_engine import *  # noqa: F403
from test_queries import *  # noqa: F403
from test_queries import Asker, why

from conftest import TESTS, fixtures_of
from quartet.devstores import Place
from quartet.devstores import search as local_search

_theirs = fixtures_of(TESTS / "stores" / "search" / "conftest.py", "search_fixtures")
engine, index, shelf = _theirs.engine, _theirs.index, _theirs.shelf


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
