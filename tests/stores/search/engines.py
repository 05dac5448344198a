"""What we ask of a search engine is asked of every engine that this machine can run."""

import os
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from shelf import SHELF

from quartet import search
from quartet.devstores import Place
from quartet.devstores import search as local_search
from quartet.devstores.jvm import find_java
from quartet.kernel.settings import Settings
from quartet.stores.search import SearchEngine

__all__ = ["engine", "engine_url", "index", "shelf"]

# Where CI promises Java and Maven, their absence is a failure and not one engine fewer.
ENGINES = ["osmem", "opensearch", "elasticsearch"] if find_java() or os.environ.get("CI") else ["osmem"]


@pytest.fixture(scope="session", params=ENGINES)
async def engine_url(
    request: pytest.FixtureRequest, servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """Where an engine listens."""
    if request.param == "osmem":
        yield servers["search"]
    else:
        running = await local_search.start(Place(tmp_path_factory.mktemp("engine"), durable=False), request.param)
        yield running.server.url
        await running.stop()


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[SearchEngine]:
    """A client that gives it time: some of what is asked here keeps an engine from saying that it lives."""
    engine = SearchEngine(engine_url, patience=30)
    yield engine
    await engine.close()


@pytest.fixture
async def index(engine: SearchEngine) -> AsyncIterator[Settings]:
    """Settings whose alias names an empty index of the shop's kind."""
    settings = Settings(_env_file=None, search_alias=f"t{uuid4().hex[:12]}")
    await search.prepare(engine, settings)
    yield settings
    for name in await engine.alias_targets(f"{settings.search_alias}-all"):
        await engine.delete_index(name)


@pytest.fixture
async def shelf(engine: SearchEngine, index: Settings) -> Settings:
    """The same, with a few products in it."""
    documents = {p["_id"]: search.document(p) for p in SHELF}
    results = await search.put(engine, index.search_alias, 7, documents)
    assert all(result.accepted for result in results), results
    await engine.refresh(index.search_alias)
    return index
