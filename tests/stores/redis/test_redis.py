"""The one connection to Redis: replies find their questions, whatever is cut, cancelled, refused or late."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from quartet.kernel.errors import StoreUnavailable
from quartet.stores import resp
from quartet.stores.redis import RedisStore


@pytest.fixture
async def redis(servers: dict[str, str]) -> AsyncIterator[RedisStore]:
    store = RedisStore(servers["redis"])
    await store.call("FLUSHDB")
    yield store
    await store.close()


async def test_each_of_many_at_once_gets_its_own_reply(redis: RedisStore) -> None:
    async def count(name: int) -> None:
        for number in range(1, 51):
            assert await redis.call("INCR", f"n:{name}") == number

    await asyncio.gather(*(count(name) for name in range(40)))
    assert await redis.pipeline([("GET", f"n:{name}") for name in range(3)]) == ["50"] * 3


async def test_replies_are_text_numbers_dicts_and_nothing(redis: RedisStore) -> None:
    await redis.pipeline([("HSET", "h", "a", 1, "b", 2.5), ("RPUSH", "l", "x", b"y"), ("SET", "s", "žluťoučký")])
    found = await redis.pipeline([("HGETALL", "h"), ("LRANGE", "l", 0, -1), ("GET", "s"), ("GET", "no"), ("TTL", "s")])
    assert found == [{"a": "1", "b": "2.5"}, ["x", "y"], "žluťoučký", None, -1]


async def test_what_is_refused_is_the_askers_alone(redis: RedisStore) -> None:
    await redis.call("SET", "s", "text")
    outcomes = await asyncio.gather(
        redis.call("INCR", "s"), redis.call("GET", "s"), redis.call("NOSUCH"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [resp.Refused, str, resp.Refused]
    with pytest.raises(resp.Refused, match="not an integer"):
        await redis.pipeline([("SET", "t", 1), ("INCR", "s"), ("SET", "t", 2)])
    assert await redis.call("GET", "t") == "2"  # a pipeline is not atomic: the others are carried out


async def test_who_gives_up_takes_nobodys_reply_along(redis: RedisStore) -> None:
    await redis.call("SET", "a", "A")
    for _ in range(50):
        given_up = asyncio.create_task(redis.call("GET", "none"))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await redis.call("GET", "a") == "A"
        with suppress(asyncio.CancelledError):
            await given_up


async def test_a_cut_connection_is_unavailable_once_and_then_opened_again(
    redis: RedisStore, servers: dict[str, str]
) -> None:
    own = await redis.call("CLIENT", "ID")
    other = RedisStore(servers["redis"])
    asked = [asyncio.create_task(redis.call("BLPOP", "nothing", 5)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await other.call("CLIENT", "KILL", "ID", own)
    assert {type(e) for e in await asyncio.gather(*asked, return_exceptions=True)} == {StoreUnavailable}
    assert await redis.call("PING") == "PONG"
    await other.close()


async def test_a_server_that_is_silent_or_talks_rubbish_is_unavailable() -> None:
    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async def rubbish(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    for behave in (silent, rubbish):
        async with _server(behave) as url:
            store = RedisStore(url)
            with pytest.raises(StoreUnavailable):
                async with asyncio.timeout(3):
                    await store.call("PING")
            await store.close()


async def test_all_who_wait_for_a_silent_server_wait_one_second_together() -> None:
    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async with _server(silent) as url:
        store = RedisStore(url)
        async with asyncio.timeout(3):
            outcomes = await asyncio.gather(*(store.call("GET", "a") for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        await store.close()


async def test_what_is_opened_for_whoever_gave_up_serves_the_next(redis: RedisStore, servers: dict[str, str]) -> None:
    async def clients() -> dict[str, str]:
        """What each has asked last, by its id."""
        listed: str = await redis.call("CLIENT", "LIST")
        told = [dict(part.partition("=")[::2] for part in client.split()) for client in listed.splitlines()]
        return {client["id"]: client["cmd"] for client in told}

    before = (await clients()).keys()
    store = RedisStore(servers["redis"])
    given_up = asyncio.create_task(store.call("PING"))
    await asyncio.sleep(0)  # it has begun to open the connection
    given_up.cancel()
    async with asyncio.timeout(20):
        while "ping" not in [asked for name, asked in (await clients()).items() if name not in before]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # until the server has answered
    await redis.call("PING")  # whose answer comes after that
    own = await store.call("CLIENT", "ID")
    assert (await clients()).keys() - before == {str(own)}
    await store.close()


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
@pytest.mark.parametrize("is_connected", [False, True])
async def test_a_store_that_is_closed_leaves_no_connection_behind_that_was_being_opened(
    is_connected: bool, scheme: str
) -> None:
    connected = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()  # until the other side closes

    async with _server(silent) as url:
        before = asyncio.all_tasks()
        store = RedisStore(url.replace("redis", scheme, 1))
        asking = asyncio.create_task(store.call("PING"))
        await (connected.wait() if is_connected else asyncio.sleep(0))
        await store.close()
        async with asyncio.timeout(resp.CALL_SECONDS / 2):  # before the attempt would have been given up
            with pytest.raises(StoreUnavailable):
                await asking
            while asyncio.all_tasks() - before:  # noqa: ASYNC110 — a cancelled task ends a turn later
                await asyncio.sleep(0)


async def test_a_server_that_falls_silent_is_noticed_within_a_second(redis: RedisStore) -> None:
    await redis.call("PING")
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(StoreUnavailable):
        await redis.call("BLPOP", "nothing", 5)
    assert 0.9 < loop.time() - began < 10
    assert await redis.call("PING") == "PONG"


async def test_a_wrong_password_is_unavailable_and_says_so(servers: dict[str, str]) -> None:
    store = RedisStore(servers["redis"].replace("redis://", "redis://nobody:wrong@"))
    with pytest.raises(StoreUnavailable) as refused:
        await store.call("PING")
    assert "WRONGPASS" in str(refused.value.__cause__)


@asynccontextmanager
async def _server(
    behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    server = await asyncio.start_server(behave, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    server.close()
