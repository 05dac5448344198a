"""What the shop asks of a search engine, asked of a real OpenSearch and a real Elasticsearch node."""

from collections.abc import AsyncIterator

import pytest
from test_engine import *  # noqa: F403
from test_queries import *  # noqa: F403

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
