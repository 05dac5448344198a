"""Synchronisation and search, from end to end, on a real OpenSearch and a real Elasticsearch node."""

from collections.abc import AsyncIterator

import pytest
from test_search import *  # noqa: F403
from test_sync import *  # noqa: F403

from conftest import app, client, settings, shop, shopper, sign_in, staff, template  # noqa: F401 — on the servers below
from quartet import devstores


@pytest.fixture(scope="session", params=["opensearch", "elasticsearch"])
async def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, str]]:
    """The four stores, with that engine."""
    async with devstores.throwaway(tmp_path_factory.mktemp("stores"), search=request.param) as urls:
        yield urls
