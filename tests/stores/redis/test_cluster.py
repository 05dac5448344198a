"""A cluster of six: keys are found wherever they lie, and followed when they move."""

import asyncio
import contextlib
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import hiredis
import pytest
from redis.crc import key_slot

from quartet.cart.store import Carts
from quartet.devstores import Place, Running, free_port, redis
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import resp
from quartet.stores.files import Script
from quartet.stores.redis import RedisStore

SLOTS = 16384
COUNT = Script("if redis.call('EXISTS', KEYS[2]) == 0 then return redis.call('INCR', KEYS[1]) end", "0" * 40)


@pytest.fixture(scope="session")
def program() -> str:
    """Which server; "" for the one that is tested everywhere."""
    return ""


@pytest.fixture(scope="session")
async def nodes(tmp_path_factory: pytest.TempPathFactory, program: str) -> AsyncIterator[list[Running]]:
    """Three masters, then their replicas."""
    running = await redis.start_cluster(Place(tmp_path_factory.mktemp("cluster"), durable=False), name=program)
    yield running
    await asyncio.gather(*(each.stop() for each in running))


@pytest.fixture
async def store(nodes: list[Running]) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis.cluster_url(nodes[:1]))  # one is enough to find the others
    await store.call("FLUSHDB")
    yield store
    await store.close()


async def test_keys_are_found_wherever_they_lie(store: RedisStore) -> None:
    await store.pipeline([("SET", f"k{n}", n) for n in range(500)])
    assert await store.pipeline([("GET", f"k{n}") for n in range(500)]) == [str(n) for n in range(500)]
    assert sorted(await store.call("KEYS", "k*")) == sorted(f"k{n}" for n in range(500))
    seen, cursor = set(), "0"
    while True:
        cursor, keys = await store.call("SCAN", cursor, "MATCH", "k*", "COUNT", 50)
        seen |= set(keys)
        if cursor == "0":
            break
    assert len(seen) == 500
    with pytest.raises(resp.Refused, match="CROSSSLOT"):
        await store.call("DEL", "k1", "k2")
    carts, owners = Carts(store, days=30), [uuid4() for _ in range(20)]
    await asyncio.gather(*(carts.add(owner, "MUG", 2) for owner in owners))
    assert await asyncio.gather(*(carts.lines(owner) for owner in owners)) == [{"MUG": 2}] * 20
    await carts.add("a guest's token", "MUG", 1)
    await carts.merge("a guest's token", owners[0])  # which lie on two servers
    assert await carts.lines(owners[0]) == {"MUG": 3}
    await store.call("FLUSHDB")
    assert await store.call("KEYS", "*") == []


async def test_a_slot_that_moves_under_load_loses_no_piece(store: RedisStore, nodes: list[Running]) -> None:
    """As somebody deals out the slots anew: half of its keys are here and half there, then all are there."""
    names = [f"cart:{{moving}}:{n}" for n in range(40)]
    slot = key_slot(b"moving")
    source = nodes[slot * 3 // SLOTS]
    target = next(node for node in nodes[:3] if node is not source)
    here, there = await connect(source), await connect(target)
    counted: Counter[str] = Counter()
    stop = asyncio.Event()

    async def shop(name: str) -> None:
        while not stop.is_set():
            await store.call("HINCRBY", name, "MUG", 1)
            counted[name] += 1
            await asyncio.sleep(0.002)

    shoppers = [asyncio.create_task(shop(name)) for name in names]
    try:
        ids = [await each.ask(("CLUSTER", "MYID")) for each in (here, there)]
        await asyncio.sleep(0.2)
        assert await there.ask(("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])) == "OK"
        assert await here.ask(("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])) == "OK"
        port = target.server.url.rpartition(":")[2].partition("/")[0]
        for name in names:
            await here.ask(("MIGRATE", "127.0.0.1", port, name, 0, 5000))
            await asyncio.sleep(0.01)
        for each in (there, here):
            assert await each.ask(("CLUSTER", "SETSLOT", slot, "NODE", ids[1])) == "OK"
        await asyncio.sleep(0.2)
    finally:
        stop.set()
        outcomes = await asyncio.gather(*shoppers, return_exceptions=True)
    assert outcomes == [None] * len(names)
    assert {name: int(await store.call("HGET", name, "MUG")) for name in names} == dict(counted)
    for each in (here, there):
        each.close()


async def test_one_master_that_would_delete_carts_is_found(store: RedisStore, nodes: list[Running]) -> None:
    assert await store.policies() == {"noeviction"}
    last = await connect(nodes[2])
    await last.ask(("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"))
    try:
        assert await store.policies() == {"noeviction", "allkeys-lru"}
    finally:
        await last.ask(("CONFIG", "SET", "maxmemory-policy", "noeviction"))
        last.close()


@pytest.mark.parametrize("held", [["total"], []])
async def test_keys_that_are_asked_for_together_are_waited_for_while_their_slot_moves(
    store: RedisStore, nodes: list[Running], monkeypatch: pytest.MonkeyPatch, held: list[str]
) -> None:
    """Of two keys one need not exist, as most: neither of the servers may say so then, until the move has ended."""
    tag = f"together{len(held)}"
    slot = key_slot(tag.encode())
    source = nodes[slot * 3 // SLOTS]
    target = next(node for node in nodes[:3] if node is not source)
    here, there = await connect(source), await connect(target)
    ids = [await each.ask(("CLUSTER", "MYID")) for each in (here, there)]
    keys = [f"{{{tag}}}:{name}" for name in ("total", "mark")]
    await store.pipeline([("SET", f"{{{tag}}}:{name}", 7) for name in held])
    for each in (here, there):
        await each.ask(("CONFIG", "RESETSTAT"))

    async def refusals() -> int:
        told = [await each.ask(("INFO", "errorstats")) for each in (here, there)]
        return sum(map(int, re.findall(r"errorstat_TRYAGAIN:count=(\d+)", "".join(told))))

    assert await there.ask(("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])) == "OK"
    assert await here.ask(("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])) == "OK"
    with pytest.raises(StoreUnavailable):  # no call is held for longer than it may take
        await store.run(COUNT, keys)
    before = await refusals()
    with pytest.raises(StoreUnavailable):  # nor at all where something else is at hand
        await store.brief.run(COUNT, keys)
    assert await refusals() == before + 1
    monkeypatch.setattr(resp, "CALL_SECONDS", 60)
    before = await refusals()
    waiting = asyncio.gather(store.run(COUNT, keys), store.pipeline([("EVAL", COUNT.text, 2, *keys)]))
    async with asyncio.timeout(20):
        while await refusals() < before + 4 and not waiting.done():  # noqa: ASYNC110 — both have asked once more
            await asyncio.sleep(0.01)
    port = target.server.url.rpartition(":")[2].partition("/")[0]
    for name in held:
        assert await here.ask(("MIGRATE", "127.0.0.1", port, f"{{{tag}}}:{name}", 0, 5000)) == "OK"
    for each in (there, here):
        assert await each.ask(("CLUSTER", "SETSLOT", slot, "NODE", ids[1])) == "OK"
    first, [second] = await waiting
    assert {first, second} == ({8, 9} if held else {1, 2})
    for each in (here, there):
        each.close()


async def test_a_cluster_that_is_away_is_said_so() -> None:
    store = RedisStore("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.call("GET", "a")
    await store.close()


class Pod:
    """A server that says who keeps what, and for the rest says OK."""

    def __init__(self) -> None:
        self.owners: list[Pod] = []
        self._lines: list[asyncio.StreamWriter] = []
        self._queue: list[socket.socket] = []

    async def start(self) -> "Pod":
        self.port = free_port()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def end(self, *, silently: bool = False) -> None:
        """From now on nobody is at this address; `silently`: a try to connect is not even refused."""
        self._server.close()
        for line in self._lines:
            line.transport.abort()
        await asyncio.sleep(0.01)
        if silently:
            listener = socket.create_server(("127.0.0.1", self.port), backlog=0)
            self._queue = [listener, socket.create_connection(("127.0.0.1", self.port))]

    def clear(self) -> None:
        for each in self._queue:
            each.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.append(writer)
        asked = hiredis.Reader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                asked.feed(data)
                while (command := asked.gets()) is not False:
                    writer.write(self._answer(command[:2]))

    def _answer(self, command: list[bytes]) -> bytes:
        if command == [b"CLUSTER", b"INFO"]:
            return b"$16\r\ncluster_state:ok\r\n"
        if command == [b"CLUSTER", b"SLOTS"]:
            share = SLOTS // len(self.owners)
            parts = [
                f"*3\r\n:{n * share}\r\n:{(n + 1) * share - 1}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{owner.port}\r\n"
                for n, owner in enumerate(self.owners)
            ]
            return f"*{len(parts)}\r\n{''.join(parts)}".encode()
        return b"+OK\r\n"


@pytest.mark.parametrize("one_lives", [True, False])
async def test_addresses_that_servers_had_are_not_waited_for(one_lives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a restart gives each a new one; it costs a second to find out of one that nobody is there."""
    here, there = (
        next(f"k{n}" for n in range(99) if key_slot(f"k{n}".encode()) * 2 // SLOTS == half) for half in (0, 1)
    )
    pods = first, second, steady = [await Pod().start() for _ in range(3)]
    store = RedisStore(f"redis+cluster://127.0.0.1:{first.port},127.0.0.1:{second.port}", doubt=60)

    async def moves(before: Pod | None, *, silently: bool = False) -> Pod:
        after = await Pod().start()
        pods.append(after)
        if before is not None:
            await before.end(silently=silently)
        for each in pods:
            each.owners = [steady, after]
        return after

    owner = await moves(None)
    for _ in range(5):
        assert await store.pipeline([("GET", here), ("GET", there)]) == ["OK", "OK"]
        owner = await moves(owner)
    assert await store.call("GET", there) == "OK"
    for gone in [first, *pods[3:-1], *([] if one_lives else [steady])]:
        await gone.end(silently=True)
    await moves(owner, silently=True)
    waited_for, connect = list[int](), resp.connect

    async def noted(where: Mapping[str, Any]) -> resp.Connection:
        waited_for.append(where["port"])
        return await connect(where)

    monkeypatch.setattr(resp, "connect", noted)
    assert await store.call("GET", there) == "OK"
    assert set(waited_for) == {pod.port for pod in (owner, pods[-1], *(() if one_lives else (first, second, steady)))}
    await store.close()
    for pod in pods:
        pod.clear()
        await pod.end()


async def connect(node: Running) -> resp.Connection:
    """To that server itself."""
    host, _, port = node.server.url.removeprefix("redis://").partition("/")[0].partition(":")
    return await resp.connect({"host": host, "port": int(port)})
