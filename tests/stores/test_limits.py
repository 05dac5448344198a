"""The sliding window against a model in exact fractions, on a clock of its own."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quartet.stores.redis import RedisStore
from quartet.web import limits

START = 1_790_000_000_000
WINDOW = 10
WINDOW_MS = WINDOW * 1000


@pytest.fixture(scope="module")
async def redis(servers: dict[str, str]) -> AsyncIterator[RedisStore]:
    store = RedisStore(servers["redis"])
    yield store
    await store.close()


@dataclass
class Model:
    """Counts by window; knows nothing of how the script keeps them."""

    limit: int
    slot: int = 0
    current: int = 0
    previous: int = 0

    def _at(self, now: int) -> tuple[int, int, int, int]:
        slot, elapsed = divmod(now, WINDOW_MS)
        if slot < self.slot:
            slot, elapsed = self.slot, 0
        if slot == self.slot:
            return slot, elapsed, self.current, self.previous
        return slot, elapsed, 0, self.current if slot == self.slot + 1 else 0

    def used(self, now: int) -> Fraction:
        _, elapsed, current, previous = self._at(now)
        return current + Fraction(previous * (WINDOW_MS - elapsed), WINDOW_MS)

    def take(self, now: int, cost: int) -> bool:
        allowed = self.used(now) + max(cost, 1) <= self.limit
        if allowed and cost:
            slot, _, current, previous = self._at(now)
            self.slot, self.current, self.previous = slot, current + cost, previous
        return allowed

    def next_pass(self, now: int, cost: int) -> int:
        """The first millisecond at which the same request would pass, found by looking."""
        low, high = now, now + 2 * WINDOW_MS + 1
        while high - low > 1:  # the use only ever falls
            middle = (low + high) // 2
            low, high = (low, middle) if self.used(middle) + max(cost, 1) <= self.limit else (middle, high)
        return high


steps = st.lists(
    st.tuples(st.integers(-300, 4 * WINDOW_MS) | st.integers(0, 900) | st.just(WINDOW_MS), st.integers(0, 4)),
    max_size=40,
)


@settings(max_examples=80, deadline=None, print_blob=True)
@given(limit=st.integers(4, 12), steps=steps)
async def test_the_limiter_does_as_the_model(redis: RedisStore, limit: int, steps: list[tuple[int, int]]) -> None:
    model, name, now = Model(limit), uuid4().hex, START
    for pause, cost in steps:
        now += pause
        used = model.used(now)
        reply = await redis.run(limits.SCRIPT, [limits.key(name)], [limit, WINDOW_MS, cost, now])
        allowed = model.take(now, cost)
        assert reply[0] == allowed
        assert reply[1] == max(0, floor(limit - used - (cost if allowed else 0)))
        if not allowed:
            in_view = max(now, model.slot * WINDOW_MS)  # where the clock has stepped back
            assert reply[2] == model.next_pass(in_view, cost) - in_view


@settings(max_examples=30, deadline=None, print_blob=True)
@given(limit=st.integers(1, 8), pauses=st.lists(st.integers(0, 3000), min_size=20, max_size=60))
async def test_no_window_wherever_it_lies_lets_twice_the_limit_through(
    redis: RedisStore, limit: int, pauses: list[int]
) -> None:
    name, now, passed = uuid4().hex, START, []
    for pause in pauses:
        now += pause
        if (await limits.take(redis, name, limit, window=WINDOW, now_ms=now)).allowed:
            passed.append(now)
    for start in passed:
        assert sum(start <= at < start + WINDOW_MS for at in passed) <= 2 * limit


@settings(max_examples=80, deadline=None, print_blob=True)
@given(limit=st.integers(1, 12), pauses=st.lists(st.integers(0, 4 * WINDOW_MS) | st.integers(0, 900), max_size=40))
def test_a_process_alone_does_as_the_model_too(limit: int, pauses: list[int]) -> None:
    model, here, now = Model(limit), limits.Here(), START
    for pause in pauses:
        now += pause
        on_the_edge = abs(model.used(now) + 1 - limit) < Fraction(1, 1000)  # binary fractions may round either way
        expected = model.take(now, 1)
        taken = here.take("somebody", limit, window=WINDOW, now=now / 1000)
        if on_the_edge and taken.allowed != expected:
            return
        assert (taken.allowed, taken.alone) == (expected, True)
        if not expected:
            assert abs(taken.reset - (model.next_pass(now, 1) - now) / 1000) < 1.01


def test_a_process_remembers_no_more_than_it_may() -> None:
    here = limits.Here()
    for number in range(here.MOST + 10):
        here.take(f"client {number}", 1, now=1.0)
    assert len(here._windows) == here.MOST
    assert not here.take(f"client {here.MOST}", 1, now=1.0).allowed


async def test_of_many_at_once_exactly_the_limit_passes(redis: RedisStore) -> None:
    name = uuid4().hex
    taken = await asyncio.gather(*(limits.take(redis, name, 20, now_ms=START) for _ in range(100)))
    assert sum(one.allowed for one in taken) == 20
    assert sorted(one.remaining for one in taken if one.allowed) == list(range(20))


async def test_who_waits_as_told_passes_and_a_moment_earlier_does_not(redis: RedisStore) -> None:
    for begun in (0, 1, 2500, 9999):
        name, now = uuid4().hex, START - START % WINDOW_MS + begun
        for _ in range(5):
            await limits.take(redis, name, 5, window=WINDOW, now_ms=now)
        _, _, wait = await redis.run(limits.SCRIPT, [limits.key(name)], [5, WINDOW_MS, 1, now])
        assert not (await limits.take(redis, name, 5, window=WINDOW, now_ms=now + wait - 1)).allowed
        assert (await limits.take(redis, name, 5, window=WINDOW, now_ms=now + wait)).allowed


async def test_looking_takes_nothing(redis: RedisStore) -> None:
    name = uuid4().hex
    for _ in range(5):
        assert (await limits.take(redis, name, 1, cost=0, now_ms=START)).allowed
    assert (await limits.take(redis, name, 1, now_ms=START)).allowed
    looked = await limits.take(redis, name, 1, cost=0, now_ms=START)
    assert (looked.allowed, looked.remaining) == (False, 0)


async def test_a_client_is_forgotten_after_two_windows(redis: RedisStore) -> None:
    name = uuid4().hex
    await limits.take(redis, name, 5, window=WINDOW)
    assert WINDOW_MS < await redis.call("PTTL", limits.key(name)) <= 2 * WINDOW_MS


async def test_the_servers_clock_is_used_and_a_restart_of_redis_is_survived(redis: RedisStore) -> None:
    name = uuid4().hex
    assert [(await limits.take(redis, name, 2)).allowed for _ in range(3)] == [True, True, False]
    await redis.call("SCRIPT", "FLUSH")
    taken = await limits.take(redis, name, 2)
    assert not taken.allowed
    assert 1 <= taken.reset <= 120
    assert ceil(taken.reset) == taken.reset
