"""A cluster of six of Valkey and of Redis 7: a master that dies costs what its replica had not heard, and no more."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from redis.crc import key_slot
from test_cluster import SLOTS, connect

from quartet.cart.store import Carts, key
from quartet.devstores import Place, Running, redis
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import resp
from quartet.stores.redis import RedisStore

PATIENCE = 90


@pytest.fixture(params=["", "redis-server"], ids=["valkey", "redis"])
async def nodes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Running]]:
    """Three masters, then their replicas; anew for each test."""
    running = await redis.start_cluster(Place(tmp_path_factory.mktemp("cluster"), durable=False), name=request.param)
    yield running
    for each in running:
        if each.child.alive:
            os.kill(each.server.pid, signal.SIGCONT)
    await asyncio.gather(*(each.stop() for each in running))


@pytest.fixture
async def store(nodes: list[Running]) -> AsyncIterator[RedisStore]:
    """The shop's client, which is told of one of them."""
    store = RedisStore(redis.cluster_url(nodes[:1]))
    yield store
    await store.close()


class Crowd:
    """Many shoppers, each of whom puts piece after piece into a cart of their own and notes what was answered."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.owners = [uuid4() for _ in range(60)]
        self.answered: Counter[UUID] = Counter()
        self.unknown: Counter[UUID] = Counter()
        self._marked = 0.0
        self._first_after: dict[UUID, float] = {}
        self._stop = asyncio.Event()
        self._shopping: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        self._shopping = [asyncio.create_task(self._shop(owner)) for owner in self.owners]

    async def end(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._shopping)

    async def all_go_on(self) -> float:
        """Waits until everybody has asked and was answered since the mark; seconds it took."""
        async with asyncio.timeout(PATIENCE):
            while len(self._first_after) < len(self.owners):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return max(self._first_after.values()) - self._marked

    async def held(self) -> dict[UUID, int]:
        return {owner: int(await self.store.call("HGET", key(owner), "MUG") or 0) for owner in self.owners}

    def mark(self) -> None:
        """From here on the first answer to each is noted, of what is asked from here on: an answer to what was asked
        before may still be on its way from who is gone."""
        self._first_after, self._marked = {}, asyncio.get_running_loop().time()

    async def _shop(self, owner: UUID) -> None:
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            began = loop.time()
            try:
                await self.store.call("HINCRBY", key(owner), "MUG", 1)
            except StoreUnavailable:
                self.unknown[owner] += 1
            else:
                self.answered[owner] += 1
                if began > self._marked:
                    self._first_after.setdefault(owner, loop.time())
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
async def test_a_master_that_goes_is_followed_by_its_replica(
    store: RedisStore, nodes: list[Running], how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who is dead refuses at once, and who is only slow is waited for; who hangs is found out by waiting alone.
    monkeypatch.setattr(resp, "CALL_SECONDS", 10.0 if how == signal.SIGKILL else 3.0)
    crowd = Crowd(store)
    crowd.begin()
    await crowd.all_go_on()
    victim = nodes[0]
    theirs = {owner for owner in crowd.owners if key_slot(key(owner).encode()) * 3 // SLOTS == 0}
    assert 0 < len(theirs) < len(crowd.owners)
    answered = Counter(crowd.answered)
    witness = await connect(victim)
    await witness.ask(("SET", f"{key(next(iter(theirs)))}:witness", 1))
    async with asyncio.timeout(20):  # what was answered until now has reached the replica
        while await witness.ask(("WAIT", 1, 900)) != 1:
            pass
    witness.close()

    await _end(victim, how)
    crowd.mark()
    took = await crowd.all_go_on()
    await crowd.end()
    held = await crowd.held()
    lost = {owner: crowd.answered[owner] - held[owner] for owner in theirs}
    print(f"writes to all went on after {took:.2f} s; answered and lost: {sum(n for n in lost.values() if n > 0)}")
    for owner in crowd.owners:
        assert held[owner] <= crowd.answered[owner] + crowd.unknown[owner]
        assert held[owner] >= answered[owner], "what the replica had heard of is there"
    for owner in set(crowd.owners) - theirs:
        assert crowd.unknown[owner] == 0, "who is served by the others notices nothing"
        assert held[owner] == crowd.answered[owner]


async def _end(victim: Running, how: signal.Signals) -> None:
    """When this returns it does nothing any more."""
    os.kill(victim.server.pid, how)
    if how == signal.SIGKILL:
        await victim.child.wait()
        return
    while psutil.Process(victim.server.pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 — the kernel tells nobody
        await asyncio.sleep(0.001)


async def test_a_master_that_comes_back_is_a_replica_and_nothing_is_asked_of_it(
    store: RedisStore, nodes: list[Running]
) -> None:
    carts, owners = Carts(store, days=30), [uuid4() for _ in range(20)]
    await asyncio.gather(*(carts.add(owner, "MUG", 1) for owner in owners))
    os.kill(nodes[0].server.pid, signal.SIGSTOP)
    for owner in owners:
        await _insist(lambda owner=owner: carts.put(owner, "MUG", 2))
    os.kill(nodes[0].server.pid, signal.SIGCONT)
    for _ in range(3):
        for owner in owners:
            assert await _insist(lambda owner=owner: carts.lines(owner)) == {"MUG": 2}
        await asyncio.sleep(0.5)


async def _insist(ask: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                await asyncio.sleep(0.05)
