"""Redis stops within a request, before anybody can know: whoever can do without it does so long before there is doubt
that it lives, wherever in the request it happens. On a Redis of this file's own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from showcase import laptop, load, make_categories, put, tee

from conftest import SignIn, settings_of_ones_own
from quartet import sync
from quartet.catalog import cache
from quartet.devstores import Place, Running, redis
from quartet.gateway.limits import Limiter
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.stores import resp
from quartet.stores.redis import SILENCE as SILENT
from quartet.stores.redis import RedisStore
from quartet.web import limits
from quartet.web.dependencies import Shop

# Far apart, so that what is seen between them is no accident.
SILENCE, DOUBT = 0.2, 60.0
AGE = 100_000
Commands = Sequence[Sequence[Any]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    running = await redis.start(Place(tmp_path, durable=False))
    yield running
    psutil.Process(running.server.pid).resume()
    await running.stop()


@pytest.fixture
async def settings(servers: dict[str, str], template: str, tmp_path: Path, server: Running) -> AsyncIterator[Settings]:
    async with settings_of_ones_own({**servers, "redis": server.server.url}, template, tmp_path) as settings:
        yield settings.model_copy(update={"redis_doubt": SILENCE / SILENT})


@dataclass
class Stop:
    """Stops the server as soon as it is asked for what `before` says."""

    server: Running
    before: Callable[[Commands], bool] | None = None
    asked: list[Commands] = field(default_factory=list)

    @property
    def has_stopped(self) -> bool:
        return self.before is None

    def look(self, commands: Commands) -> None:
        self.asked.append(commands)
        if self.before is not None and self.before(commands):
            self.before = None
            psutil.Process(self.server.server.pid).suspend()

    def go_on(self) -> None:
        psutil.Process(self.server.server.pid).resume()


@pytest.fixture
async def stop(shop: Shop, server: Running, monkeypatch: pytest.MonkeyPatch) -> Stop:
    monkeypatch.setattr(resp, "CALL_SECONDS", DOUBT)  # nor does a call end by itself
    shop.stores.redis.guard._doubt = shop.stores.redis.guard._patience = DOUBT
    stop, ask = Stop(server), RedisStore._ask

    async def watched(store: RedisStore, commands: Commands) -> list[Any]:
        stop.look(commands)
        return await ask(store, commands)

    monkeypatch.setattr(RedisStore, "_ask", watched)
    return stop


async def heard_of(store: RedisStore) -> None:
    """Returns when the server is known to answer."""
    async with asyncio.timeout(30):
        while store.guard.is_silent:  # noqa: ASYNC110 — the probe finds out
            await asyncio.sleep(0.01)


def _keeps(commands: Commands) -> bool:
    return commands[0][0] in ("EVAL", "EVALSHA") and commands[0][1] in (cache.FILL.sha, cache.FILL.text)


STEPS: dict[str, Callable[[Commands], bool]] = {
    "it is counted": lambda commands: str(commands[0][3:4]).find("limit:") >= 0,
    "the cache is read": lambda commands: commands[0][:2] == ("GET", "product:TEE"),
    "the lease is taken": lambda commands: commands[0][0] == "SET" and "NX" in commands[0],
    "the page is kept": _keeps,
}


@pytest.mark.parametrize("step", STEPS)
async def test_a_page_is_shown_though_redis_stops_as(
    shop: Shop, stop: Stop, client: httpx.AsyncClient, staff: httpx.AsyncClient, step: str
) -> None:
    await make_categories(shop)
    await put(staff, tee())
    stop.before = STEPS[step]
    guard = shop.stores.redis.guard
    answers = await asyncio.gather(*(client.get("/products/TEE") for _ in range(5)))
    assert stop.has_stopped
    for answer in answers:
        assert (answer.status_code, answer.json()["sku"], answer.headers["X-Cache"]) == (200, "TEE", "miss")
    assert (guard.is_silent, guard.is_doubtful) == (True, False)
    changed = await client.get("/products/TEE")  # who comes later waits for nothing
    assert changed.headers["X-Cache"] == "miss"
    stop.go_on()
    await heard_of(shop.stores.redis)
    assert guard.openings == 0
    guard._check_interval = DOUBT  # a busy machine's moment is not what is asked for here
    await shop.stores.redis.call("DEL", cache.key("TEE"))  # a lease that nobody came back for
    assert [(await client.get("/products/TEE")).headers["X-Cache"] for _ in range(2)] == ["miss", "hit"]


async def test_what_was_taken_of_a_limit_while_redis_was_silent_is_used_afterwards(shop: Shop, stop: Stop) -> None:
    redis, shares = shop.stores.redis, limits.Shares(shop.stores.redis, window=AGE)
    await shares.take("somebody", 1000)
    stop.before = lambda commands: commands[0][0] == "EVALSHA"
    with pytest.raises(StoreUnavailable):
        for _ in range(1000):
            await shares.take("somebody", 1000)
    assert not redis.guard.is_doubtful
    stop.go_on()
    async with asyncio.timeout(30):
        while (share := shares.at_hand("somebody")) is None:  # noqa: ASYNC110 — the reply brings it
            await asyncio.sleep(0.01)
    await heard_of(redis)
    counted = 999 - (await limits.take(redis, "somebody", 1000, window=AGE)).remaining  # without this one
    assert counted == share.used + share.left, "nothing that was counted is lost"


async def test_tries_of_passwords_are_not_counted_without_redis_for_a_moments_silence(shop: Shop, stop: Stop) -> None:
    limiter = Limiter(shop.settings, shop.stores.redis)
    stop.before = lambda commands: "limit:{auth:" in str(commands)
    trying = asyncio.create_task(limiter.check("POST", "/sessions", None, "192.0.2.1"))
    async with asyncio.timeout(30):
        while not shop.stores.redis.guard.is_silent:  # noqa: ASYNC110 — the guard finds out
            await asyncio.sleep(0.01)
    looking = await limiter.check("GET", "/products/TEE", None, "192.0.2.1")
    assert isinstance(looking, limits.Taken)
    assert looking.is_local
    assert not trying.done()
    stop.go_on()
    tried = await trying
    assert isinstance(tried, limits.Taken)
    assert not tried.is_local


async def test_postgres_is_asked_of_a_session_whose_redis_is_silent(
    shop: Shop, stop: Stop, sign_in: SignIn, shopper: httpx.AsyncClient
) -> None:
    ended = await sign_in()
    assert (await ended.delete("/sessions/current")).status_code == 204
    stop.before = lambda commands: "session:{" in str(commands)
    async with asyncio.timeout(DOUBT / 2):
        answers = await asyncio.gather(*(who.get("/orders") for who in (ended, shopper, ended, shopper)))
    assert [answer.status_code for answer in answers] == [401, 200, 401, 200]
    assert stop.has_stopped
    assert not shop.stores.redis.guard.is_doubtful


async def test_a_search_does_not_wait_until_its_cursor_is_kept(
    shop: Shop, stop: Stop, client: httpx.AsyncClient
) -> None:
    await make_categories(shop)
    for number in range(3):
        await load(shop, laptop(f"L{number}"))
    await sync.catch_up(shop)
    shop.stores.redis.guard._doubt = SILENCE
    stop.before = lambda commands: commands[0][0] == "SET" and ":seen:" in commands[0][1]
    async with asyncio.timeout(DOUBT / 2):
        answer = await client.get("/search?size=1")
    assert stop.has_stopped
    assert (answer.status_code, answer.json()["total"]) == (200, 3)
    assert shop.stores.redis.guard.openings == 0
