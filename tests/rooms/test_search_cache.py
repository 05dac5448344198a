"""Answers to searches are kept for a second, by each process and in Redis for all."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any
from uuid import uuid4

import httpx
import pytest
from bench.wire import wired
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from standstill import Standstill, until_done

from conftest import api_of, client_of
from quartet import catalog, merchandising
from quartet.catalog import Category, Draft, Ratings
from quartet.kernel.errors import StoreUnavailable, TooManyRequests
from quartet.kernel.looks import PeriodicCheck
from quartet.merchandising import rules
from quartet.merchandising import service as log
from quartet.search import cache, invalidate_answers, service
from quartet.search.cache import ASKED, AnswerCache, LocalCache, SearchAnswer
from quartet.search.service import MOST_WAITING, ConcurrencyLimit, search_state
from quartet.stores import open_stores
from quartet.stores.postgres import Postgres
from quartet.stores.redis import RedisStore
from quartet.stores.search import SearchEngine
from quartet.sync import catch_up
from quartet.web.dependencies import Shop

SECOND = 1.0
LONG = 600.0  # where it is not time that is looked at, none runs out on a busy machine
MUCH = 1_000_000


class Engine:
    """Makes answers that say when they were made, and counts them."""

    def __init__(self, takes: float = 0.0) -> None:
        self.takes, self.made = takes, 0

    async def __call__(self) -> SearchAnswer:
        self.made += 1
        began = monotonic()
        await asyncio.sleep(self.takes)
        return SearchAnswer(repr(began).encode(), total=1, exact=True)


@pytest.fixture
def process(shop: Shop) -> Callable[..., AnswerCache]:
    """What another process of the same shop keeps; for so many seconds."""
    alias, at_once = uuid4().hex, ConcurrencyLimit(100).slot
    return lambda seconds=SECOND, slot=at_once: AnswerCache(shop.stores.redis, alias, seconds, MUCH, slot)


async def test_what_many_ask_at_once_is_made_once(process: Callable[..., AnswerCache]) -> None:
    engine, answers = Engine(takes=0.05), process(LONG)
    given = await asyncio.gather(*(answers.get("k", f"typed {n % 7}", "", engine) for n in range(100)))
    assert engine.made == 1
    assert len({ready.body for ready in given}) == 1
    assert answers.at_hand("typed 3") == given[0]
    assert answers.at_hand("typed 8") is None


async def test_another_process_takes_it_over_with_what_is_left_of_its_time(
    process: Callable[..., AnswerCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, one, other = Engine(), process(LONG), process(LONG)
    first = await one.get("k", "t", "", engine)
    await asyncio.sleep(0.3)
    assert await other.get("k", "t", "", engine) == first
    assert engine.made == 1
    over = float(first.body) + LONG + 0.01
    assert other.local.until("k") <= over
    monkeypatch.setattr(cache, "monotonic", lambda: over)
    await other.invalidate()  # as if it were gone from Redis, whose clock is its own
    assert other.at_hand("t") is None
    assert (await other.get("k", "t", "", engine)).body != first.body


async def test_what_lives_on_since_the_clock_of_redis_was_set_back_is_not_believed(
    shop: Shop, process: Callable[..., AnswerCache]
) -> None:
    """Or a server took over whose clock is five minutes behind."""
    engine, one, other, third = Engine(), *(process(LONG) for _ in range(3))
    first = await one.get("k", "t", "", engine)
    [entry] = await shop.stores.redis.call("KEYS", f"{one._prefix}*")
    assert await shop.stores.redis.call("PEXPIRE", entry, int(LONG + 300) * 1000)
    second = await other.get("k", "t", "", engine)
    assert second.body != first.body
    assert await third.get("k", "t", "", engine) == second, "it was put in the place of the other"


async def test_nobody_is_told_what_was_true_more_than_a_second_before(process: Callable[..., AnswerCache]) -> None:
    """Three processes, some queries, an engine that takes its time; ages are told when the answer is given."""
    draw, oldest, stop = random.Random(20260601), 0.0, monotonic() + 3
    processes = [process() for _ in range(3)]
    engines = {f"q{n}": Engine(takes=0.02 * n) for n in range(5)}

    async def shopper() -> None:
        nonlocal oldest
        while monotonic() < stop:
            answers, key = draw.choice(processes), draw.choice(list(engines))
            asked = monotonic()
            ready = answers.at_hand(key) or await answers.get(key, key, "", engines[key])
            oldest = max(oldest, asked - float(ready.body))
            await asyncio.sleep(draw.random() * 0.01)

    await asyncio.gather(*(shopper() for _ in range(20)))
    assert oldest <= SECOND
    # Each once a second; where they ask at the same moment, once a process.
    assert all(engine.made <= 20 for engine in engines.values()), [engine.made for engine in engines.values()]


async def test_what_found_nothing_is_kept_for_less(
    process: Callable[..., AnswerCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, engine, now = process(), Engine(), monotonic()
    monkeypatch.setattr(cache, "monotonic", lambda: now)

    async def nothing() -> SearchAnswer:
        return replace(await engine(), total=0)

    await answers.get("k", "t", "", nothing)
    assert answers.at_hand("t") is not None
    now += SECOND / 5
    assert answers.at_hand("t") is None


async def test_a_part_of_an_answer_and_a_failure_are_not_kept(process: Callable[..., AnswerCache]) -> None:
    answers, engine = process(), Engine()

    async def part() -> SearchAnswer:
        return replace(await engine(), whole=False)

    async def away() -> SearchAnswer:
        await asyncio.sleep(0.02)
        raise StoreUnavailable("search")

    assert not (await answers.get("k", "t", "", part)).whole
    assert answers.at_hand("t") is None
    failed = await asyncio.gather(*(answers.get("k", "t", "", away) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(one, StoreUnavailable) for one in failed)
    assert (await answers.get("k", "t", "", engine)).whole


async def test_who_gives_up_waiting_takes_nothing_from_the_others(process: Callable[..., AnswerCache]) -> None:
    answers, engine = process(LONG), Engine(takes=0.1)
    first = asyncio.create_task(answers.get("k", "t", "", engine))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(answers.get("k", "t", "", engine)) for _ in range(3)]
    await asyncio.sleep(0.01)
    first.cancel()
    given = await asyncio.gather(*others)
    assert engine.made == 1
    assert len(given) == 3


async def test_what_is_kept_of_another_index_is_not_taken_over(process: Callable[..., AnswerCache]) -> None:
    engine, one, other = Engine(), process(LONG), process(LONG)
    await one.get("k", "t", "", engine)
    await one.invalidate()
    await other.get("k", "t", "", engine)
    assert engine.made == 2


async def test_without_redis_each_process_keeps_its_own() -> None:
    redis = RedisStore("redis://127.0.0.1:1")
    answers, engine = AnswerCache(redis, "a", LONG, MUCH, ConcurrencyLimit(1).slot), Engine()
    for _ in range(3):
        await answers.get("k", "t", "", engine)
    assert engine.made == 1
    await redis.close()


@given(st.lists(st.tuples(st.text("abc", max_size=3), st.integers(0, 3000)), max_size=60))
def test_what_is_kept_stays_within_its_bytes(puts: list[tuple[str, int]]) -> None:
    kept = LocalCache(10_000)
    for key, size in puts:
        kept.put(key, SearchAnswer(b"x" * size, 1), monotonic() + 60)
        assert kept.bytes <= 10_000
        assert kept.get(key) is not None
    assert kept.bytes == sum(len(ready.body) + 512 + 2 * len(key) for key, (_, ready) in kept._held.items())


async def test_at_its_end_one_makes_the_next_and_nobody_else_waits(
    process: Callable[..., AnswerCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, answers = Engine(), process(LONG)
    first = await answers.get("k", "t", "", engine)
    until = answers.local.until("k")
    monkeypatch.setattr(cache, "monotonic", lambda: until - 0.001)
    await answers.invalidate()  # as if it were gone from Redis, whose clock is its own
    assert answers.at_hand("t") is None
    assert answers.at_hand("t") == first
    renewing = asyncio.create_task(answers.get("k", "t", "", engine))
    await asyncio.sleep(0)
    assert await answers.get("k", "another", "", engine) == first
    assert answers.at_hand("t") == first
    second = await renewing
    assert second != first
    assert engine.made == 2
    assert answers.at_hand("t") == second


async def test_a_clients_searches_take_turns() -> None:
    limit, running, most = ConcurrencyLimit(2), 0, 0

    async def search(client: str) -> None:
        nonlocal running, most
        async with limit.slot(client):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

    await asyncio.gather(*(search("a hundred connections") for _ in range(100)))
    flood = await asyncio.gather(*(search("flood") for _ in range(300)), return_exceptions=True)
    assert most == 2
    assert sum(isinstance(one, TooManyRequests) for one in flood) == 300 - 2 - MOST_WAITING
    await asyncio.gather(*(search(f"client {n}") for n in range(10)))
    assert most == 10
    assert limit._slots == {}


async def test_nobody_is_held_up_or_refused_for_the_queue_of_one_who_asks_the_same(
    process: Callable[..., AnswerCache],
) -> None:
    engine, limit = Engine(), ConcurrencyLimit(1)
    answers, goes_on = process(LONG, limit.slot), asyncio.Event()

    async def slowly() -> SearchAnswer:
        await goes_on.wait()
        return await engine()

    queue = [asyncio.create_task(answers.get(f"strange {n}", "t", "", slowly, "anna")) for n in range(MOST_WAITING)]
    queue.append(asyncio.create_task(answers.get("mug", "t", "", engine, "anna")))
    async with asyncio.timeout(30):
        while limit._slots.get("anna", (None, 0))[1] < 1 + MOST_WAITING:  # noqa: ASYNC110 — they look in Redis first
            await asyncio.sleep(0.01)
        annas, bens = await asyncio.gather(
            answers.get("cup", "t", "", engine, "anna"), answers.get("cup", "t", "", engine, "ben"),
            return_exceptions=True,
        )  # fmt: skip
        assert isinstance(annas, TooManyRequests)
        assert isinstance(bens, SearchAnswer)
        ready = await answers.get("mug", "t", "", engine, "ben")
        # What he has been given she need not ask for, once it is her turn; nor does she need one while it is kept.
        assert await answers.get("mug", "t", "", slowly, "anna") == ready
        goes_on.set()
        assert (await asyncio.gather(*queue))[-1] == ready
    assert engine.made == MOST_WAITING + 2
    assert (limit._slots, answers._waiting, answers._under_way) == ({}, {}, {})


async def test_who_waits_for_what_another_is_asking_takes_no_turn(process: Callable[..., AnswerCache]) -> None:
    engine, limit = Engine(takes=0.2), ConcurrencyLimit(1)
    answers = process(LONG, limit.slot)
    asked = asyncio.create_task(answers.get("mug", "t", "", engine, "anna"))
    while not engine.made:  # noqa: ASYNC110 — it looks in Redis first
        await asyncio.sleep(0.01)
    joined = [asyncio.create_task(answers.get("mug", "t", "", engine, "ben")) for _ in range(2 * MOST_WAITING)]
    await asyncio.sleep(0)
    assert "ben" not in limit._slots
    assert {await one for one in joined} == {await asked}
    assert engine.made == 1


async def test_who_goes_away_leaves_his_turn_to_nobody_while_the_engine_works(
    process: Callable[..., AnswerCache],
) -> None:
    limit, running, most = ConcurrencyLimit(2), 0, 0
    answers = process(LONG, limit.slot)

    async def search() -> SearchAnswer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return SearchAnswer(b"", 1)

    for n in range(10):
        with suppress(TimeoutError):
            await asyncio.wait_for(answers.get(f"k{n}", "t", "", search, "hasty"), 0.005)
    await answers.get("the last", "t", "", search, "hasty")
    assert most == 2


async def test_what_waited_for_its_turn_is_as_new_as_any(process: Callable[..., AnswerCache]) -> None:
    slow, engine, one, other = (
        Engine(takes=1.2 * SECOND),
        Engine(),
        process(SECOND, ConcurrencyLimit(1).slot),
        process(),
    )
    first = asyncio.create_task(one.get("slow", "t", "", slow, "anna"))
    while not slow.made:  # noqa: ASYNC110 — it looks in Redis first
        await asyncio.sleep(0.01)
    waited = await one.get("mug", "t", "", engine, "anna")
    assert await other.get("mug", "t", "", engine) == waited
    assert other.local.until("mug") <= float(waited.body) + SECOND + 0.01
    await first


# --- Over HTTP ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _served(shop: Shop, seconds: float = SECOND) -> AsyncIterator[httpx.AsyncClient]:
    keeping = replace(shop, settings=shop.settings.model_copy(update={"search_cache_seconds": seconds}))
    async with client_of(api_of(keeping)) as client:
        yield client


async def _put(shop: Shop, sku: str, name: str, **more: Any) -> None:
    given: dict[str, Any] = {"price_cents": 900, "published_at": datetime(2025, 1, 1, tzinfo=UTC)} | more
    draft = Draft(sku, name, "mugs", **given)
    await catalog.create_product(shop, draft, actor="test")
    await catch_up(shop)


async def test_a_search_is_the_same_for_a_second_and_then_the_present(shop: Shop) -> None:
    await catalog.put_category(shop, Category("mugs", "Mugs", None, {"type": "object"}))
    await _put(shop, "MUG-1", "Blue mug")
    async with _served(shop) as client:
        first = await client.get("/search?q=mug")
        began = monotonic()
        await _put(shop, "MUG-2", "Red mug")
        again = [await client.get(address) for address in ("/search?q=mug", "/search?q=mug", "/search?q=%20MUG")]
        if monotonic() - began < SECOND * 0.8:  # on a machine that has been asleep nothing is left to see
            assert {answer.content for answer in again} == {first.content}
        # Each is a search of its own, in the log too.
        assert len({answer.headers["x-search-id"] for answer in [first, *again]}) == 4
        await asyncio.sleep(max(0.0, began + SECOND - monotonic()))
        assert (await client.get("/search?q=mug")).json()["total"] == 2
        # What can't be read is refused, whatever was kept.
        assert (await client.get("/search?q=mug&colour=red")).status_code == 422


@pytest.fixture
async def mugs(shop: Shop) -> Shop:
    """A shop with one."""
    await catalog.put_category(shop, Category("mugs", "Mugs", None, {"type": "object"}))
    await _put(shop, "MUG-1", "Blue mug")
    return shop


@pytest.fixture
async def other_process(mugs: Shop) -> AsyncIterator[Shop]:
    """The same shop with connections and memory of its own."""
    async with open_stores(mugs.settings) as stores:
        yield replace(mugs, stores=stores)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What engines are asked from here on."""
    asked, search = [], SearchEngine.search

    async def noted(engine: SearchEngine, alias: str, body: dict[str, Any]) -> Any:
        asked.append(repr(body))
        return await search(engine, alias, body)

    monkeypatch.setattr(SearchEngine, "search", noted)
    return asked


# Whatever can be asked, so that one that was taken for another would show something else of the two mugs.
DIFFERENT = (
    "", "q=blue", "q=blue-mug", "q=mug", "q=mugs&sort=price", "sort=price", "sort=-price", "sort=-newest", "size=1",
    "size=1&page=2", "size=1&page=2&facets=true", "facets=false", "inStock=true", "inStock=false", "minRating=4",
    "minPrice=901", "maxPrice=899", "brand=Finch", "brand=Finch&brand=Hale", "brand=none",
    "category=mugs", "category=mugs&category=none", "attrs.color=blue", "attrs.color=red", "attrs.color=none",
    "attrs.color=blue&attrs.color=red", "attrs.size=3", "attrs.size.gte=3", "attrs.size.lt=3",
    "attrs.size.gte=1&attrs.size.lt=3", "attrs.size.gte=1&attrs.color=red", "attrs.size.in=1..3", "attrs.size.in=3..9",
    "attrs.size.in=1..3&attrs.size.in=3..9",
)  # fmt: skip


async def test_what_is_kept_of_one_search_is_given_to_no_other(mugs: Shop, other_process: Shop) -> None:
    await _put(mugs, "MUG-2", "Red mug", brand="Finch", attrs={"color": "red", "size": 3}, ratings=Ratings(4.5, 2))
    asked = [f"/search?{query}" for query in DIFFERENT]
    async with _served(mugs, LONG) as keeping, _served(other_process, 0) as asking:
        kept = [await _shown(keeping, address) for address in asked]
        assert kept == [await _shown(asking, address) for address in asked]
        assert [await _shown(keeping, address) for address in reversed(asked)] == kept[::-1]


async def _shown(client: httpx.AsyncClient, address: str) -> dict[str, Any]:
    """What an answer says, but for what each has of its own."""
    body: dict[str, Any] = (await client.get(address)).json()
    return {name: said for name, said in body.items() if name not in ("tookMs", "nextCursor")}


async def test_what_is_kept_asks_nothing_of_postgresql(
    mugs: Shop, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted on the wire. What was searched is written down behind it, many searches at once, and what staff say is
    looked at two or three times a second, however many ask."""
    monkeypatch.setattr(log, "GATHER_SECONDS", LONG)
    async with wired({"postgres": mugs.settings.postgres_url or ""}) as (urls, wires):
        pg = Postgres(urls["postgres"], size=1)
        counted = replace(mugs, stores=replace(mugs.stores, pg=pg))
        counted.stores.singleton(rules.SearchSettingsCache).stamp_check = PeriodicCheck("test", LONG, LONG)
        async with _served(counted, LONG) as client:
            await client.get("/search?q=mug")
            asked = wires["postgres"].counted
            assert (trips := asked["trips"]) > 0
            for headers in (None, shopper.headers):
                for n in range(20):  # as it was typed before, and as nobody did
                    for way in ("/search?q=mug", f"/search?q={'+' * n}MUG"):
                        assert (await client.get(way, headers=headers)).json()["total"] == 1
            assert asked["trips"] == trips
            await merchandising.write_log(counted)
            assert trips < asked["trips"] < trips + 20
        await pg.close()


async def test_what_staff_are_told_of_a_search_is_kept_for_nobody(mugs: Shop, staff: httpx.AsyncClient) -> None:
    async with _served(mugs, LONG) as client:
        for _ in range(2):
            told = await client.get("/search?q=mug&explain=true", headers=staff.headers)
            assert told.json()["items"][0]["why"]
            shown = (await client.get("/search?q=mug")).json()
            assert "why" not in shown["items"][0]
            assert "tier" not in shown
            assert (await client.get("/search?q=mug&explain=true")).status_code == 401


def _guests(query: bytes, *headers: tuple[bytes, bytes]) -> tuple[bytes, Any, Any]:
    """A guest's GET as the server reads it."""
    return b"/search?" + query, [(b"host", b"shop"), *headers], ("127.0.0.1", 1)


async def test_a_guest_is_answered_by_the_server_as_by_the_application(mugs: Shop) -> None:
    async with _served(mugs, LONG) as client:
        at_once = client._transport.app.state.at_once  # type: ignore[attr-defined]
        given = None
        while given is None:  # until several are counted ahead
            first = await client.get("/search?q=mug", headers={"X-Request-Id": "ours"})
            given = at_once(*_guests(b"q=mug", (b"x-request-id", b"ours")))
        head, body = given
        told = httpx.Headers([line.split(b": ", 1) for line in head.split(b"\r\n")[:-1]])
        assert (first.status_code, body) == (200, first.content)
        assert sorted(first.headers) == sorted(told)
        assert len(told.raw) == len(told)
        changing = {"x-search-id", "ratelimit-remaining", "ratelimit-reset"}
        assert {n: v for n, v in told.items() if n not in changing} == {
            n: v for n, v in first.headers.items() if n not in changing
        }
        assert told["x-search-id"] != first.headers["x-search-id"]
        left = int(first.headers["ratelimit-remaining"])
        assert int(told["ratelimit-remaining"]) == left - 1
        # What was not asked before is not at hand; nor is what tells who asks, or has a body.
        others: list[tuple[bytes, Any, Any]] = [
            _guests(b"q=mugs"),
            _guests(b"q=mug", (b"authorization", b"Bearer x")),
            _guests(b"q=mug", (b"cookie", b"quartet=x")),
            _guests(b"q=mug", (b"content-length", b"2")),
            _guests(b"q=mug", (b"transfer-encoding", b"chunked")),
            (b"/search/?q=mug", [], ("127.0.0.1", 1)),
            (b"/search?q=mug", [], ("127.0.0.2", 1)),  # of whom none are counted ahead
        ]
        for other in others:
            assert at_once(*other) is None
        asked_before = _counted("/search")
        assert b"x-request-id: a b" not in at_once(*_guests(b"q=mug", (b"x-request-id", b"a b")))[0]
        assert _counted("/search") == asked_before + 1


def _counted(route: str) -> float:
    labels = {"method": "GET", "route": route, "status": "200"}
    return REGISTRY.get_sample_value("quartet_http_requests_total", labels) or 0.0


async def test_behind_a_proxy_the_server_counts_whom_the_proxy_saw(mugs: Shop) -> None:
    behind = replace(mugs, settings=mugs.settings.model_copy(update={"trust_proxy": True}))
    async with _served(behind, LONG) as client, asyncio.timeout(60):
        at_once = client._transport.app.state.at_once  # type: ignore[attr-defined]
        ours, others = (
            (b"x-forwarded-for", b"203.0.113.9, 198.51.100.7"),
            (b"x-forwarded-for", b"198.51.100.7, 203.0.113.9"),
        )
        while (given := at_once(*_guests(b"q=mug", ours))) is None:  # until several are counted ahead
            said = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "198.51.100.7")]
            await client.get("/search?q=mug", headers=said)
        assert b"ratelimit-remaining: " in given[0]
        assert at_once(*_guests(b"q=mug", others)) is None
        assert at_once(*_guests(b"q=mug")) is None  # of the proxy itself
        # Of two lines the last counts: the first may be what the client says of itself.
        assert at_once(*_guests(b"q=mug", others, ours)) is not None
        assert at_once(*_guests(b"q=mug", ours, others)) is None


async def test_what_the_server_answers_counts_towards_the_limit(mugs: Shop) -> None:
    limit = 200
    strict = replace(mugs, settings=mugs.settings.model_copy(update={"limit_search": limit}))
    minute, counted = -1.0, 0
    while minute != time() // 60:  # what is counted is counted of a minute
        minute, counted = time() // 60, await _let_in(strict, limit)
    assert counted == limit


async def _let_in(shop: Shop, limit: int) -> int:
    """How many searches of one guest are answered, by the server and by the application."""
    await shop.stores.redis.call("FLUSHDB")
    counted = 0
    async with _served(shop, LONG) as client:
        at_once = client._transport.app.state.at_once  # type: ignore[attr-defined]
        for _ in range(limit):
            while at_once(*_guests(b"q=mug")) is not None:
                counted += 1
            if (await client.get("/search?q=mug")).status_code == 429:
                break
            counted += 1
    return counted


def _offered(answer: httpx.Response) -> list[str]:
    return [item["text"] for item in answer.json()["items"]]


async def test_what_is_offered_as_one_types_is_asked_for_once_for_all(
    mugs: Shop, other_process: Shop, shopper: httpx.AsyncClient, asked: list[str]
) -> None:
    """One engine for two processes and whoever asks; the time that it is kept is out of reach here."""
    from_engine = ASKED.labels("engine")._value.get()
    async with _served(mugs, LONG) as one, _served(other_process, LONG) as other:
        ways = ("/search/suggest?q=blu", "/search/suggest?q=blu", "/search/suggest?q=%20BLU&size=10")
        first = await one.get(ways[0])
        again = [await client.get(way, headers=headers) for client in (one, other) for way in ways
                 for headers in (None, shopper.headers)]  # fmt: skip
        assert _offered(first) == ["Blue mug"]
        assert {answer.content for answer in again} == {first.content}
        assert len(asked) == 1
        assert ASKED.labels("engine")._value.get() == from_engine + 1
        # They are no searches: nobody's log has what was typed on the way to one.
        assert not any("x-search-id" in answer.headers for answer in [first, *again])
        for differing in ("/search/suggest?q=blu&size=1", "/search/suggest?q=blue"):
            await one.get(differing)
        assert len(asked) == 3


async def test_what_is_offered_takes_turns_with_searches(mugs: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a flood of beginnings would keep the engine from everybody else."""
    engine, share = Standstill(monkeypatch), mugs.settings.search_share
    async with _served(mugs, LONG) as client, asyncio.timeout(60), asyncio.TaskGroup() as group:
        ways = [f"/search{way}?q=mu{n}" for n in range(share) for way in ("/suggest", "")]
        asked = [group.create_task(client.get(way)) for way in ways]
        await engine.until_asked(share)
        flood = [group.create_task(client.get(f"/search/suggest?q=m{n}")) for n in range(2 * MOST_WAITING)]
        await until_done(flood, MOST_WAITING + share)
        assert engine.asked == share
        assert {one.result().status_code for one in flood if one.done()} == {429}
        engine.go_on()
    assert {one.result().status_code for one in asked} == {200}


async def test_what_staff_have_explained_takes_turns_too(
    mugs: Shop, staff: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, share = Standstill(monkeypatch), mugs.settings.search_share
    ways = [f"/search?q=mu{n}&explain=true" for n in range(share + 2)]
    async with _served(mugs, LONG) as client, asyncio.timeout(30), asyncio.TaskGroup() as group:
        asked = [group.create_task(client.get(way, headers=staff.headers)) for way in ways]
        while [count for _, count in search_state(mugs).concurrency._slots.values()] != [share + 2]:  # noqa: ASYNC110 — as they come
            await asyncio.sleep(0.01)
        await engine.until_asked(share)
        assert engine.asked == share
        engine.go_on()
    assert {one.result().status_code for one in asked} == {200}


async def test_a_search_is_not_held_up_by_the_queue_of_another_who_asks_the_same(
    mugs: Shop, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, share = Standstill(monkeypatch), mugs.settings.search_share
    async with _served(mugs, LONG) as client, asyncio.timeout(60), asyncio.TaskGroup() as group:
        asked = [group.create_task(client.get(f"/search/suggest?q=mu{n}")) for n in range(share)]
        await engine.until_asked(share)
        ways, places = ("/search?q=mug", "/search/suggest?q=mug"), search_state(mugs).concurrency._slots
        asked += [group.create_task(client.get(way)) for way in ways]
        while [count for _, count in places.values()] != [share + 2]:  # noqa: ASYNC110 — they look in Redis first
            await asyncio.sleep(0.01)
        ours = [group.create_task(client.get(way, headers=shopper.headers)) for way in ways]
        await engine.until_asked(2)
        engine.go_on()
    assert {one.result().status_code for one in asked + ours} == {200}


async def test_what_was_offered_from_another_index_is_not_taken_over(
    mugs: Shop, other_process: Shop, asked: list[str]
) -> None:
    async with _served(mugs, LONG) as one, _served(other_process, LONG) as other:
        await one.get("/search/suggest?q=blu")
        await _put(mugs, "MUG-2", "Blue jug")
        await invalidate_answers(mugs)
        before = len(asked)
        assert set(_offered(await other.get("/search/suggest?q=blu"))) == {"Blue mug", "Blue jug"}
        assert len(asked) == before + 1


async def test_what_is_offered_beside_products_is_of_now(mugs: Shop) -> None:
    """Past queries and categories are in memory anyway: what is kept does not make them older."""
    async with _served(mugs, LONG) as client:
        await _categories_are(client, [{"text": "Mugs", "slug": "mugs"}])
        await catalog.put_category(mugs, Category("mugs", "Mugs, all", None, {"type": "object"}))
        mugs.stores._singletons.pop(rules.SearchSettingsCache)  # as when a minute has passed
        await _categories_are(client, [{"text": "Mugs, all", "slug": "mugs"}])


async def _categories_are(client: httpx.AsyncClient, wanted: list[dict[str, str]]) -> None:
    """Asked again where looking them up took longer than anybody waits for, as beside much other work."""
    async with asyncio.timeout(60):
        while (await client.get("/search/suggest?q=mug")).json()["categories"] != wanted:
            pass


async def test_what_is_offered_is_never_older_than_a_second(mugs: Shop) -> None:
    async with _served(mugs) as client:
        began, held = monotonic(), dict[str, float]()
        while len(held) < 2:  # as it was typed, and as all ways to type it: unless the answer itself took a second
            assert _offered(await client.get("/search/suggest?q=blu")) == ["Blue mug"]
            held = {key: until for key, (until, _) in search_state(mugs).answers.local._held.items() if "blu" in key}
        assert all(until <= monotonic() + SECOND for until in held.values())
        await _put(mugs, "MUG-2", "Blue jug")
        await asyncio.sleep(max(0.0, max(held.values()) - monotonic()))
        assert monotonic() - began >= SECOND
        assert set(_offered(await client.get("/search/suggest?q=blu"))) == {"Blue mug", "Blue jug"}


async def test_what_is_offered_without_the_engine_is_not_kept(mugs: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(engine: SearchEngine, alias: str, body: dict[str, Any]) -> Any:
        raise StoreUnavailable("search")

    async with _served(mugs, LONG) as client:
        with monkeypatch.context() as gone:
            gone.setattr(SearchEngine, "search", away)
            assert (await client.get("/search/suggest?q=blu")).json()["degraded"] is True
        assert (await client.get("/search/suggest?q=blu")).json()["degraded"] is False


async def test_what_is_offered_of_a_part_of_the_index_is_not_kept(mugs: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    search = SearchEngine.search

    async def out_of_time(engine: SearchEngine, alias: str, body: dict[str, Any]) -> Any:
        found = await search(engine, alias, body)
        return {**found, "timed_out": True, "hits": {**found["hits"], "hits": []}}

    async with _served(mugs, LONG) as client:
        with monkeypatch.context() as slow:
            slow.setattr(SearchEngine, "search", out_of_time)
            assert _offered(await client.get("/search/suggest?q=blu")) == []
        assert _offered(await client.get("/search/suggest?q=blu")) == ["Blue mug"]


@pytest.fixture
def at_hand(mugs: Shop, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What routes are asked from here on; nobody looks again at what staff say, so that what is at hand is given."""
    routed: list[str] = []
    mugs.stores._singletons.pop(rules.SearchSettingsCache, None)
    mugs.stores.singleton(rules.SearchSettingsCache).stamp_check = PeriodicCheck("test", 3600, 3600)
    for name in ("answer", "suggestions"):
        monkeypatch.setattr(service, name, _noted(routed, name, getattr(service, name)))
    return routed


def _noted(routed: list[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    async def noted(*args: Any, **named: Any) -> Any:
        routed.append(name)
        return await call(*args, **named)

    return noted


async def test_what_is_at_hand_is_given_like_any_other_answer(mugs: Shop, at_hand: list[str]) -> None:
    """Without its route: counted against the same limit, under the same headers and figures."""
    async with _served(mugs, LONG) as client:
        for path, name in (("/search", "answer"), ("/search/suggest", "suggestions")):
            before = _counted(path)
            routed, ready = [await client.get(f"{path}?q=mug", headers={"X-Request-Id": f"r{n}"}) for n in (1, 2)]
            assert at_hand == [name]
            assert (ready.status_code, ready.content) == (200, routed.content)
            assert list(ready.headers) == list(routed.headers)
            assert ready.headers["x-request-id"] == "r2"
            left = [int(answer.headers["ratelimit-remaining"]) for answer in (routed, ready)]
            assert left[1] < left[0]
            changing = {"x-request-id", "x-search-id", "ratelimit-remaining", "ratelimit-reset"}
            assert [(k, v) for k, v in ready.headers.items() if k not in changing] == [
                (k, v) for k, v in routed.headers.items() if k not in changing
            ]
            assert _counted(path) == before + 2
            head = await client.head(f"{path}?q=mug")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == routed.headers["content-length"]
            assert (await client.post(f"{path}?q=mug")).status_code == 405
            assert at_hand == [name]
            at_hand.clear()


async def test_what_is_at_hand_is_for_nobody_who_may_not_ask(
    mugs: Shop, at_hand: list[str], shopper: httpx.AsyncClient
) -> None:
    few = replace(mugs, settings=mugs.settings.model_copy(update={"limit_search": 3}))
    async with _served(few, LONG) as client:
        assert [(await client.get("/search?q=mug")).status_code for _ in range(5)] == [200] * 3 + [429] * 2
        mine = shopper.headers
        assert (await client.get("/search?q=mug", headers=mine)).status_code == 200
        assert (await client.delete("/sessions/current", headers=mine)).status_code == 204
        # Counted as a guest, who has had all.
        assert (await client.get("/search?q=mug", headers=mine)).status_code == 429
        assert at_hand == ["answer"]
