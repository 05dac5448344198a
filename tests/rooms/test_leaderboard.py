"""Points: who leads today and this week, each event once."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from quartet import accounts, leaderboard
from quartet.kernel.clock import FixedClock
from quartet.leaderboard import model, store
from quartet.leaderboard.model import Period, PointsEntry
from quartet.stores.redis import RedisStore
from quartet.web.dependencies import Shop

SignIn = Callable[..., Awaitable[httpx.AsyncClient]]

MONDAY = datetime(2026, 11, 23, 9, tzinfo=UTC)


@pytest.fixture
def clock(app: FastAPI, shop: Shop) -> FixedClock:
    """The shop's clock, standing at the present (tokens are of the present), so that no test sees midnight pass."""
    clock = FixedClock(datetime.now(UTC))
    app.state.shop = Shop(shop.settings, shop.stores, clock, shop.mail)
    return clock


async def _people(shop: Shop, *names: str | None) -> list[UUID]:
    async with shop.stores.pg.tx() as tx:
        return [(await accounts.create_user(tx, f"{uuid4().hex}@example.com", None, name)).id for name in names]


async def _award(redis: RedisStore, clock: FixedClock, user_id: UUID, xp: int, source: str, at: datetime) -> None:
    await store.settle(redis, clock.now(), PointsEntry(source, user_id, xp, at))


async def _give(staff: httpx.AsyncClient, user_id: UUID, xp: int, event_id: str = "") -> httpx.Response:
    body = {"userId": str(user_id), "xp": xp, "eventId": event_id or uuid4().hex}
    answer = await staff.post("/leaderboard/xp", json=body)
    assert answer.status_code == 201, answer.text
    return answer


async def test_the_best_of_today_come_first_and_equal_points_share_a_rank(
    client: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, clock: FixedClock
) -> None:
    ada, ben, cat, dan = await _people(shop, "Ada", "Ben", None, "Dan")
    for who, xp in ((ada, 10), (ben, 30), (cat, 30), (dan, 5), (ada, 15)):
        await _give(staff, who, xp)
    answer = await client.get("/leaderboard")
    assert answer.status_code == 200
    rows = answer.json()["items"]
    assert [(row["rank"], row["xp"]) for row in rows] == [(1, 30), (1, 30), (3, 25), (4, 5)]
    assert {row["displayName"] for row in rows[:2]} == {"Ben", "A shopper"}
    assert [row["displayName"] for row in rows[2:]] == ["Ada", "Dan"]
    assert all(set(row) == {"rank", "displayName", "xp"} for row in rows)
    assert (await client.get("/leaderboard?limit=2&period=weekly")).json()["items"] == rows[:2]
    assert rows == (await client.get("/leaderboard")).json()["items"]


async def test_an_empty_board_is_a_list(client: httpx.AsyncClient) -> None:
    assert (await client.get("/leaderboard?period=weekly")).json() == {"items": []}


async def test_one_sees_ones_own_place(
    client: httpx.AsyncClient, sign_in: SignIn, staff: httpx.AsyncClient, shop: Shop, clock: FixedClock
) -> None:
    me = await sign_in()
    assert (await me.get("/leaderboard/me")).json() == {"rank": None, "xp": 0}
    (ada,) = await _people(shop, "Ada")
    await _give(staff, ada, 50)
    await _give(staff, me.user_id, 20)  # type: ignore[attr-defined]
    assert (await me.get("/leaderboard/me")).json() == {"rank": 2, "xp": 20}
    await _give(staff, me.user_id, 30)  # type: ignore[attr-defined]
    assert (await me.get("/leaderboard/me?period=weekly")).json() == {"rank": 1, "xp": 50}
    assert (await client.get("/leaderboard/me")).status_code == 401


async def test_an_event_counts_once(
    client: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, clock: FixedClock
) -> None:
    ada, ben = await _people(shop, "Ada", "Ben")
    answers = await asyncio.gather(*(_give(staff, ada, 10, "order-1") for _ in range(10)))
    assert sorted(answer.json()["counted"] for answer in answers) == [False] * 9 + [True]
    assert not (await _give(staff, ben, 99, "order-1")).json()["counted"]
    (row,) = (await client.get("/leaderboard")).json()["items"]
    assert (row["displayName"], row["xp"]) == ("Ada", 10)


async def test_a_hundred_awards_at_once_are_all_counted(shop: Shop) -> None:
    (ada,) = await _people(shop, "Ada")
    redis, clock = shop.stores.redis, FixedClock(MONDAY)
    await asyncio.gather(*(_award(redis, clock, ada, 1, f"event-{n}", MONDAY) for n in range(100)))
    place = await store.place_of(redis, MONDAY, "daily", ada)
    assert place is not None
    assert place.xp == 100


async def test_bad_values_are_named(client: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop) -> None:
    (ada,) = await _people(shop, "Ada")
    good = {"userId": str(ada), "xp": 1, "eventId": "x"}
    values: list[tuple[str, Any]] = [
        *(("xp", xp) for xp in (0, -1, 1.5, "2", True, None, 10**30, {"$gt": ""})),
        *(("userId", user) for user in ("", "ada", 1, None, str(uuid4()), {"$gt": ""}, "a\0b")),
        *(("eventId", event) for event in ("", 1, None, "x" * 201, {"$gt": ""}, "a\0b")),
        ("more", 1),
    ]
    for field, value in values:
        answer = await staff.post("/leaderboard/xp", json={**good, field: value})
        assert answer.status_code == 422, (field, value)
        assert answer.json()["errors"][0]["field"] == field
    for query, field in (
        ("period=hourly", "period"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
    ):
        answer = await client.get(f"/leaderboard?{query}")
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == field
    assert (await client.get("/leaderboard")).json() == {"items": []}


async def test_a_new_day_and_a_new_week_begin_empty(client: httpx.AsyncClient, shop: Shop, clock: FixedClock) -> None:
    ada, ben = await _people(shop, "Ada", "Ben")
    clock.at = late = MONDAY.replace(hour=23, minute=59, second=59)
    redis = shop.stores.redis
    await _award(redis, clock, ada, 10, "event-1", late)
    clock.advance(1)
    assert (await client.get("/leaderboard")).json() == {"items": []}
    await _award(redis, clock, ben, 4, "event-2", clock.now())
    await _award(redis, clock, ada, 10, "event-1", late)
    assert [row["xp"] for row in (await client.get("/leaderboard")).json()["items"]] == [4]
    assert [row["xp"] for row in (await client.get("/leaderboard?period=weekly")).json()["items"]] == [10, 4]
    clock.at = MONDAY + timedelta(days=7)
    await _award(redis, clock, ada, 10, "event-1", late)
    assert (await client.get("/leaderboard?period=weekly")).json() == {"items": []}


async def test_boards_are_dropped_when_nobody_asks_any_more(shop: Shop) -> None:
    (ada,) = await _people(shop, "Ada")
    redis, clock, day = shop.stores.redis, FixedClock(MONDAY.replace(hour=0)), 86_400
    await _award(redis, clock, ada, 10, "event-1", MONDAY)
    lives = {store.key("daily", MONDAY): 8 * day, store.key("weekly", MONDAY): 35 * day}
    assert set(await redis.call("KEYS", "leaderboard:*")) == {n for key in lives for n in (key, f"{key}:sources")}
    for key, seconds in lives.items():
        assert seconds - 60 < await redis.call("TTL", key) <= seconds
        assert seconds - 60 < await redis.call("TTL", f"{key}:sources") <= seconds
    clock.advance(9 * day)
    await _award(redis, clock, ada, 10, "event-2", MONDAY)  # its day is gone, its week still counts it
    assert (await store.place_of(redis, MONDAY, "daily", ada)).xp == 10  # type: ignore[union-attr]
    assert (await store.place_of(redis, MONDAY, "weekly", ada)).xp == 20  # type: ignore[union-attr]
    clock.advance(30 * day)
    await _award(redis, clock, ada, 10, "event-3", MONDAY)
    assert (await store.place_of(redis, MONDAY, "weekly", ada)).xp == 20  # type: ignore[union-attr]


async def test_what_a_source_is_worth_only_shrinks_in_whatever_order_it_is_said(shop: Shop) -> None:
    ada, ben = await _people(shop, "Ada", "Ben")
    redis, clock, rng = shop.stores.redis, FixedClock(MONDAY), random.Random(7)
    said = [PointsEntry(f"o{n}", ada, points, MONDAY) for n in range(30) for points in (90, 60, 60, 0 if n % 3 else 15)]
    for _ in range(3):
        rng.shuffle(said)
        for first in range(0, len(said), 10):
            await asyncio.gather(*(store.settle(redis, MONDAY, worth) for worth in said[first : first + 10]))
    assert (await store.place_of(redis, MONDAY, "daily", ada)).xp == 10 * 15  # type: ignore[union-attr]
    await _award(redis, clock, ben, 5, "p", MONDAY)
    await _award(redis, clock, ben, 0, "p", MONDAY)
    assert await store.place_of(redis, MONDAY, "daily", ben) is None  # nobody stands there with nothing


async def test_somebody_forgotten_is_on_no_board(shop: Shop) -> None:
    ada, ben = await _people(shop, "Ada", "Ben")
    clock = FixedClock(MONDAY)
    for n, who in enumerate((ada, ben)):
        for days in (0, 3, 6):
            at = MONDAY - timedelta(days=days)
            await _award(shop.stores.redis, clock, who, 10, f"{n}-{days}", at)
    await leaderboard.forget(Shop(shop.settings, shop.stores, clock), ada)
    for days in (0, 3, 6):
        for period in store.PERIODS:
            places = await store.best(shop.stores.redis, MONDAY - timedelta(days=days), period, 10)
            assert [place.user_id for place in places] == [ben]


async def test_what_was_read_before_somebody_was_forgotten_brings_nobody_back(shop: Shop) -> None:
    """An event that a worker held in its hands meanwhile, points that staff were just giving, and a rebuild."""
    (ada,), now = await _people(shop, "Ada"), MONDAY + timedelta(days=7)
    shop = Shop(shop.settings, shop.stores, FixedClock(now))
    held = PointsEntry(f"order:{uuid4()}", ada, 10, now)
    await store.begin(shop.stores.redis, now, "a rebuild")
    await leaderboard.forget(shop, ada)
    await store.settle(shop.stores.redis, now, held)
    await store.seed(shop.stores.redis, now, "daily", [held])
    await store.seed(shop.stores.redis, now, "weekly", [held])
    for which in ("live", "made anew"):
        for period in store.PERIODS:
            assert await store.place_of(shop.stores.redis, now, period, ada) is None, which
        assert await store.swap(shop.stores.redis, now, "a rebuild", {"daily": 1, "weekly": 1}) is (which == "live")


def test_a_week_is_named_as_iso_8601_does() -> None:
    assert model.board("weekly", datetime(2027, 1, 1, tzinfo=UTC)) == "2026-W53"
    assert model.board("weekly", datetime(2025, 12, 29, tzinfo=UTC)) == "2026-W01"
    assert model.board("daily", datetime(2027, 1, 1, tzinfo=UTC)) == "2027-01-01"


awards = st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(0, 8), st.integers(0, 40))


@settings(max_examples=60)
@given(steps=st.lists(awards, max_size=25), limit=st.integers(1, 6), start=st.integers(0, 10**6))
async def test_boards_do_as_the_model(
    redis: RedisStore, steps: list[tuple[int, int, int, int]], limit: int, start: int
) -> None:
    mark, now = uuid4().hex, MONDAY + timedelta(hours=start)
    users = [UUID(int=(uuid4().int & ~0xFF) | n) for n in range(5)]
    await redis.call("DEL", store.key("daily", now), store.key("weekly", now))
    boards: dict[str, dict[UUID, int]] = {}
    counted: dict[int, datetime] = {}
    clock = FixedClock(now)
    for who, xp, event, hours in steps:
        clock.advance(hours * 3600)
        fresh = {store.key("daily", clock.at), store.key("weekly", clock.at)} - boards.keys()
        for key in fresh:
            await redis.call("DEL", key)
            boards[key] = {}
        at = counted.get(event, clock.at)
        await _award(redis, clock, users[who], 3 if event in counted else xp, f"{mark}-{event}", at)
        if event not in counted:
            for key in (store.key("daily", clock.at), store.key("weekly", clock.at)):
                boards[key][users[who]] = boards[key].get(users[who], 0) + xp
        counted.setdefault(event, clock.at)
    periods: tuple[Period, ...] = ("daily", "weekly")
    for period in periods:
        board = boards.get(store.key(period, clock.at), {})
        order = sorted(board, key=lambda user: (board[user], str(user)), reverse=True)
        places = [leaderboard.Place(1 + sum(x > board[u] for x in board.values()), u, board[u]) for u in order]
        assert await store.best(redis, clock.at, period, limit) == places[:limit]
        for user in users:
            mine = next((place for place in places if place.user_id == user), None)
            assert await store.place_of(redis, clock.at, period, user) == mine
