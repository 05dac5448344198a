"""Masters that are switched behind one address: who was demoted keeps its clients, and they have to leave it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_refusing import Own

from quartet.devstores import Place, redis
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import resp
from quartet.stores.redis import RedisStore


class Address:
    """What carries each connection to the server that is behind it when it is opened, and to no other."""

    def __init__(self, behind: Own) -> None:
        self.behind = behind
        self._carrying: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """The URL."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def close(self) -> None:
        self._server.close()
        for each in self._carrying:
            each.cancel()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        where = urlsplit(self.behind.url)
        there, back = await asyncio.open_connection(where.hostname, where.port)
        ways = {asyncio.create_task(_pass_on(*way)) for way in ((reader, back), (there, writer))}
        self._carrying |= ways
        with suppress(asyncio.CancelledError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, back):
            end.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Own, Own]]:
    """A master and its replica."""
    running = [await redis.start(Place(tmp_path / name, durable=False)) for name in "ab"]
    first, second = (Own(each.server.url, tmp_path) for each in running)
    for each in (first, second):
        await each.say("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    await first.say("SET", "a", "before")
    await follows(second, first)
    yield first, second
    await asyncio.gather(*(each.stop() for each in running))


@pytest.fixture
async def address(pair: tuple[Own, Own]) -> AsyncIterator[Address]:
    address = Address(pair[0])
    yield address
    address.close()


@pytest.fixture
async def store(address: Address) -> AsyncIterator[RedisStore]:
    store = RedisStore(await address.open(), doubt=60)  # nothing is to be learnt from silence
    assert await store.call("GET", "a") == "before"
    yield store
    await store.close()


async def follows(own: Own, master: Own) -> None:
    where = urlsplit(master.url)
    await own.say("REPLICAOF", str(where.hostname), str(where.port))
    async with asyncio.timeout(20):
        while "master_link_status:up" not in await own.say("INFO", "replication"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def switch(master: Own, replica: Own) -> None:
    """As an operator does; both keep their clients."""
    await replica.say("REPLICAOF", "NO", "ONE")
    await follows(master, replica)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 — it comes true in the guard
            await asyncio.sleep(0.01)


async def test_after_a_switch_one_write_is_refused_and_the_next_is_the_new_masters(
    pair: tuple[Own, Own], address: Address, store: RedisStore
) -> None:
    await switch(*pair)
    address.behind = pair[1]
    with pytest.raises(StoreUnavailable) as away:
        await store.call("SET", "a", "lost")
    assert str(away.value.__cause__).startswith("READONLY")
    assert await store.call("SET", "a", "after") == "OK"
    assert await pair[1].say("GET", "a") == "after"
    await until(lambda: store.guard.state == "closed")
    assert store.guard.openings == 0


async def test_whoever_waits_for_the_former_master_is_told_that_it_is_gone(
    pair: tuple[Own, Own], address: Address, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await switch(*pair)
    address.behind = pair[1]
    monkeypatch.setattr(resp, "CALL_SECONDS", 600)
    write = store.pipeline([("SET", "a", "lost"), ("GET", "a")])
    waiting = store.call("XREAD", "BLOCK", 0, "STREAMS", "s", "$")
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(write, waiting, return_exceptions=True)
    assert {type(each) for each in outcomes} == {StoreUnavailable}
    assert await store.call("GET", "a") == "before"


async def test_while_no_master_is_at_the_address_redis_is_away(
    pair: tuple[Own, Own], address: Address, store: RedisStore
) -> None:
    await switch(*pair)  # and the address follows later
    with pytest.raises(StoreUnavailable):
        await store.call("SET", "a", "lost")
    await until(lambda: store.guard.openings == 1)
    for command in (("SET", "a", "lost"), ("GET", "a"), ("INFO", "server")):
        with pytest.raises(StoreUnavailable):
            await store.call(*command)
    assert store.guard.refused["open"] == 3
    newcomer = RedisStore(await address.open())
    with pytest.raises(StoreUnavailable):
        await newcomer.ping()
    await newcomer.close()
    address.behind = pair[1]
    await until(lambda: store.guard.state == "closed")
    assert await store.call("SET", "a", "after") == "OK"


async def test_a_server_that_still_loads_is_away_until_it_has_loaded() -> None:
    async def load(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(1000):
            for word in (b"HELLO", b"SELECT", b"PING", b"GET"):
                allowed = word in (b"HELLO", b"SELECT") or loaded.is_set()
                writer.write((b"+OK\r\n" if allowed else b"-LOADING Redis is loading\r\n") * asked.count(word))
        writer.close()

    loaded = asyncio.Event()
    server = await asyncio.start_server(load, "127.0.0.1", 0)
    store = RedisStore(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", doubt=60)
    with pytest.raises(StoreUnavailable):
        await store.call("GET", "a")
    await until(lambda: store.guard.openings == 1)
    loaded.set()
    await until(lambda: store.guard.state == "closed")
    assert await store.call("GET", "a") == "OK"
    await store.close()
    server.close()
