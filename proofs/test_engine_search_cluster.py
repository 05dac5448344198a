"""Three nodes of OpenSearch, of which one is killed under load: the one that leads, which is the worst."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from shelf import product

from quartet import search
from quartet.devstores import Place, Running
from quartet.devstores import search as local_search
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.stores.search import SearchEngine

WRITERS, SEARCHERS = 4, 4
# How long searches may fail; and how much longer than before the kill one may wait for its answer, on a machine that
# may be busy with three nodes and more.
A_WHILE = 1.0


@pytest.fixture
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Running]]:
    """Where Java and Maven are missing nothing is proved: that is a failure."""
    running = await local_search.start_cluster(Place(tmp_path_factory.mktemp("cluster"), durable=False))
    yield running
    await asyncio.gather(*(each.child.stop(patience=10) for each in running))


@pytest.fixture
async def engine(nodes: list[Running]) -> AsyncIterator[SearchEngine]:
    engine = SearchEngine("http://" + ",".join(urlsplit(each.server.url).netloc for each in nodes))
    yield engine
    await engine.close()


class Load:
    """Products are written one version after the other, and searched for, by many at once."""

    def __init__(self, engine: SearchEngine, alias: str) -> None:
        self.engine, self.alias = engine, alias
        self.acknowledged: dict[str, int] = {}
        self.writes = self.searches = self.failed_writes = self.failed_searches = 0
        self.waited = self.failing = 0.0  # at most for an answer, and for one before which a search failed
        self._stop = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        self._running = [asyncio.create_task(self._write(n)) for n in range(WRITERS)]
        self._running += [asyncio.create_task(self._search()) for _ in range(SEARCHERS)]

    async def end(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._running)

    async def more(self, count: int) -> None:
        """Waits until so many more writes were acknowledged, and searches answered."""
        writes, searches = self.writes + count, self.searches + count
        async with asyncio.timeout(120):
            while self.writes < writes or self.searches < searches:
                assert not any(task.done() for task in self._running), "somebody gave up"
                await asyncio.sleep(0.05)

    async def _write(self, writer: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            id_, version = f"w{writer}-{number % 50}", number
            document = search.document(product(f"W{writer}-{number % 50}", f"Mug {number}"))
            try:
                [result] = await search.put(self.engine, self.alias, version, {id_: document})
            except StoreUnavailable:
                self.failed_writes += 1
                continue
            if result.accepted:
                self.acknowledged[id_] = version
                self.writes += 1
            else:
                self.failed_writes += 1

    async def _search(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            began, failed, answered = loop.time(), False, False
            while not answered:
                try:
                    found = await self.engine.search(self.alias, {"query": {"match_all": {}}, "size": 5})
                    answered = found["_shards"]["failed"] == 0
                except StoreUnavailable:
                    pass
                if not answered:
                    self.failed_searches, failed = self.failed_searches + 1, True
                    await asyncio.sleep(0.02)
            self.searches += 1
            self.waited = max(self.waited, seconds := loop.time() - began)
            self.failing = max(self.failing, seconds) if failed else self.failing
            await asyncio.sleep(0.01)


async def _leader(engine: SearchEngine, nodes: list[Running]) -> Running:
    [leading] = await engine.request("GET", "/_cat/cluster_manager", params={"format": "json"})
    return next(node for number, node in enumerate(nodes) if leading["node"] == f"quartet-{number}")


@pytest.mark.timeout(400)
async def test_a_node_killed_under_load_costs_no_acknowledged_write_and_no_search(
    engine: SearchEngine, nodes: list[Running]
) -> None:
    settings = Settings(_env_file=None, search_alias=f"t{uuid4().hex[:12]}", search_replicas=1)
    await search.prepare(engine, settings)
    await engine.request(
        "GET",
        "/_cluster/health",
        params={"wait_for_status": "green", "wait_for_nodes": "3", "timeout": "60s"},
        seconds=60,
    )
    load = Load(engine, settings.search_alias)
    load.begin()
    await load.more(100)
    load.waited = 0.0  # cold
    await load.more(100)
    before, load.waited, load.failing = load.waited, 0.0, 0.0
    leader = await _leader(engine, nodes)
    os.kill(leader.server.pid, signal.SIGKILL)
    await load.more(200)
    await load.end()
    assert await _leader(engine, nodes) is not leader
    print(
        f"{load.writes} writes ({load.failed_writes} failed), {load.searches} searches ({load.failed_searches} failed) "
        f"for {load.failing * 1000:.0f} ms at most, and the longest wait for one {before * 1000:.0f} ms before and "
        f"{load.waited * 1000:.0f} ms around the kill"
    )
    await engine.refresh(settings.search_alias)
    for id_, version in load.acknowledged.items():
        found = await engine.request("GET", f"/{settings.search_alias}/_doc/{id_}")
        assert found["_version"] >= version, id_
    assert load.failing < A_WHILE
    assert load.waited < before + A_WHILE
