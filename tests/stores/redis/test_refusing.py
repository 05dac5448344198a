"""A Redis that runs and refuses is one that is away: who asked is told to come again, and not that we have a fault."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from floor import Floor
from quartet import inventory
from quartet.devstores import Place, free_port, redis
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import resp
from quartet.stores.files import Script
from quartet.stores.redis import RedisStore

WRITE = Script("return redis.call('SET', KEYS[1], 'by a script')", "0" * 40)


class Own:
    """A server that only these tests use, spoken to past the store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    async def say(self, *command: str) -> str:
        """On a connection of its own."""
        where = urlsplit(self.url)
        line = await resp.connect({"host": where.hostname, "port": where.port})
        try:
            return str(await line.ask(command))
        finally:
            line.close()


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Own]:
    running = await redis.start(Place(tmp_path, durable=False))
    yield Own(running.server.url, tmp_path / "redis")
    await running.stop()


@pytest.fixture
async def store(own: Own) -> AsyncIterator[RedisStore]:
    store = RedisStore(own.url, doubt=60)  # so that what is refused is refused by the server
    await store.call("SET", "a", "A")
    yield store
    await store.close()


async def without_replicas(own: Own) -> None:
    await own.say("CONFIG", "SET", "min-replicas-to-write", "1")


async def with_replicas(own: Own) -> None:
    await own.say("CONFIG", "SET", "min-replicas-to-write", "0")


async def without_memory(own: Own) -> None:
    await own.say("CONFIG", "SET", "maxmemory", "1")


async def with_memory(own: Own) -> None:
    await own.say("CONFIG", "SET", "maxmemory", "0")


async def without_a_disk(own: Own) -> None:
    shutil.rmtree(own.folder)
    await own.say("CONFIG", "SET", "save", "3600 1")
    await own.say("BGSAVE")
    await until(own, "rdb_last_bgsave_status:err")


async def with_a_disk(own: Own) -> None:
    await own.say("CONFIG", "SET", "stop-writes-on-bgsave-error", "no", "save", "")  # else it would not stop either


async def a_replica(own: Own) -> None:
    await own.say("REPLICAOF", "127.0.0.1", str(free_port()))


async def a_master(own: Own) -> None:
    await own.say("REPLICAOF", "NO", "ONE")


async def until(own: Own, told: str) -> None:
    async with asyncio.timeout(20):
        while True:
            if told in await own.say("INFO", "persistence"):
                return
            await asyncio.sleep(0.02)


Change = Callable[[Own], Awaitable[None]]


@pytest.mark.parametrize(
    ("begin", "end", "word"),
    [
        (without_replicas, with_replicas, "NOREPLICAS"),
        (without_memory, with_memory, "OOM"),
        (without_a_disk, with_a_disk, "MISCONF"),
    ],
)
async def test_a_server_that_takes_no_writes_is_away_until_it_does(
    own: Own, store: RedisStore, begin: Change, end: Change, word: str
) -> None:
    await begin(own)
    for write in (
        lambda: store.call("SET", "b", "B"),
        lambda: store.run(WRITE, ["c"]),
        lambda: store.pipeline([("SET", "d", "D")]),
    ):
        with pytest.raises(StoreUnavailable) as away:
            await write()
        assert str(away.value.__cause__).startswith(word)
    await end(own)
    assert await store.run(WRITE, ["a"]) == "OK"
    assert await store.pipeline([("GET", key) for key in "abcd"]) == ["by a script", None, None, None]


async def test_a_replica_that_may_not_answer_without_its_master_is_away(own: Own, store: RedisStore) -> None:
    await own.say("CONFIG", "SET", "replica-serve-stale-data", "no")
    await a_replica(own)
    with pytest.raises(StoreUnavailable) as away:
        await store.call("GET", "a")
    assert str(away.value.__cause__).startswith("MASTERDOWN")
    await a_master(own)
    async with asyncio.timeout(20):
        while store.guard.state != "closed":  # noqa: ASYNC110 — it is asked until it lives
            await asyncio.sleep(0.01)
    assert await store.call("GET", "a") == "A"


async def test_a_server_that_is_busy_with_one_script_is_away_for_all_others(own: Own, store: RedisStore) -> None:
    await own.say("CONFIG", "SET", "busy-reply-threshold", "1")
    endless = asyncio.create_task(own.say("EVAL", "while true do end", "0"))
    with pytest.raises(StoreUnavailable) as away:
        async with asyncio.timeout(20):
            while True:  # until the script has begun
                await store.call("GET", "a")
                await asyncio.sleep(0.01)
    assert str(away.value.__cause__).startswith("BUSY ")
    await own.say("SCRIPT", "KILL")
    assert "killed" in await endless
    assert await store.call("GET", "a") == "A"


@pytest.mark.parametrize(
    "words",
    [
        "LOADING Redis is loading the dataset in memory",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MOVED 3999 127.0.0.1:6381",
        "ASK 3999 127.0.0.1:6381",
        "ERR max number of clients reached",
        "DENIED Redis is running in protected mode",
        "ERR DB index is out of range",
        "NOPERM this user has no permissions to run the 'hello' command",
    ],
)
async def test_what_a_server_says_at_the_door_is_away_too(words: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(f"-{words}\r\n".encode() * 2)  # to HELLO and to SELECT
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    store = RedisStore(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    with pytest.raises(StoreUnavailable) as away:
        await store.call("GET", "a")
    assert str(away.value.__cause__) == words
    await store.close()
    server.close()


async def test_a_shop_without_replicas_takes_orders_and_says_of_a_cart_when_to_come_again(floor: Floor) -> None:
    sku = await floor.product()
    async with floor.shop.stores.pg.tx() as tx:
        await inventory.move(tx, sku, 5, "received", actor="test")
    line = {"sku": sku, "qty": 1}
    server = floor.shop.stores.redis
    await server.call("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        refused = await floor.shopper.post("/cart/items", json=line)
        assert (refused.status_code, refused.json()["store"]) == (503, "redis")
        assert int(refused.headers["Retry-After"]) > 0
        assert (await floor.guest.get(f"/products/{sku}")).status_code == 200
        assert (await floor.shopper.post("/orders", json={"items": [line]})).status_code == 201
    finally:
        await server.call("CONFIG", "SET", "min-replicas-to-write", "0")
    assert (await floor.shopper.post("/cart/items", json=line)).status_code == 200
