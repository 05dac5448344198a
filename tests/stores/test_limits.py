"""The sliding window against a model in exact fractions, on a clock of its own."""

import asyncio
import time
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.redis import RedisStore
from quartet.web import limits

START = 1_790_000_000_000
WINDOW = 10
WINDOW_MS = WINDOW * 1000


@dataclass
class Model:
    """Counts by window; knows nothing of how the script keeps them."""

    limit: int
    slot: int = 0
    current: int = 0
    previous: int = 0

    def _at(self, now: int) -> tuple[int, int, int, int]:
        slot, elapsed = divmod(now, WINDOW_MS)
        if slot < self.slot - 1:
            return slot, elapsed, 0, 0
        if slot < self.slot:
            slot, elapsed = self.slot, 0
        if slot == self.slot:
            return slot, elapsed, self.current, self.previous
        return slot, elapsed, 0, self.current if slot == self.slot + 1 else 0

    def used(self, now: int) -> Fraction:
        _, elapsed, current, previous = self._at(now)
        return current + Fraction(previous * (WINDOW_MS - elapsed), WINDOW_MS)

    def take(self, now: int, cost: int) -> bool:
        allowed = self.used(now) + cost <= self.limit
        if allowed:
            slot, _, current, previous = self._at(now)
            self.slot, self.current, self.previous = slot, current + cost, previous
        return allowed

    def next_pass(self, now: int, cost: int) -> int:
        """The first millisecond at which the same request would pass, found by looking."""
        low, high = now, now + 2 * WINDOW_MS + 1
        while high - low > 1:  # the use only ever falls
            middle = (low + high) // 2
            low, high = (low, middle) if self.used(middle) + cost <= self.limit else (middle, high)
        return high


steps = st.lists(
    st.tuples(
        st.integers(-300, 4 * WINDOW_MS)
        | st.integers(0, 900)
        | st.sampled_from([WINDOW_MS, -WINDOW_MS, -3 * WINDOW_MS]),
        st.integers(1, 4),
    ),
    max_size=40,
)


@settings(max_examples=80)
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


@settings(max_examples=30)
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


@settings(max_examples=80)
@given(limit=st.integers(1, 12), pauses=st.lists(st.integers(0, 4 * WINDOW_MS) | st.integers(0, 900), max_size=40))
def test_a_process_alone_does_as_the_model_too(limit: int, pauses: list[int]) -> None:
    model, local, now = Model(limit), limits.LocalWindow(), START
    for pause in pauses:
        now += pause
        on_the_edge = abs(model.used(now) + 1 - limit) < Fraction(1, 1000)  # binary fractions may round either way
        expected = model.take(now, 1)
        taken = local.take("somebody", limit, window=WINDOW, now=now / 1000)
        if on_the_edge and taken.allowed != expected:
            return
        assert (taken.allowed, taken.is_local) == (expected, True)
        if not expected:
            assert abs(taken.reset - (model.next_pass(now, 1) - now) / 1000) < 1.01


def test_a_process_remembers_no_more_than_it_may() -> None:
    local = limits.LocalWindow()
    for number in range(local.MOST + 10):
        local.take(f"client {number}", 1, now=1.0)
    assert len(local._windows) == local.MOST
    assert not local.take(f"client {local.MOST}", 1, now=1.0).allowed


# --- Shares -----------------------------------------------------------------------------------------------------------

AGE = 10 * 365 * 86_400  # a window that no run of a test reaches the end of


@settings(max_examples=30)
@given(limit=st.integers(1, 300), turns=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 80)), max_size=30))
async def test_processes_that_take_shares_allow_the_limit_and_no_more(
    redis: RedisStore, limit: int, turns: list[tuple[int, int]]
) -> None:
    name, processes, allowed = uuid4().hex, [limits.Shares(redis, window=AGE) for _ in range(3)], 0
    for number, times in turns:
        for _ in range(times):
            taken = await processes[number].take(name, limit)
            allowed += taken.allowed
            assert allowed <= limit
            if not taken.allowed:  # what the two others hold unused is all that may be missing
                assert allowed >= limit - 2 * (limit // limits.Shares.PART)


async def test_one_process_with_shares_counts_as_without(redis: RedisStore) -> None:
    name, shares = uuid4().hex, limits.Shares(redis, window=AGE)
    taken = [await shares.take(name, 500) for _ in range(501)]
    assert [one.remaining for one in taken] == [*range(499, -1, -1), 0]
    assert [one.allowed for one in taken] == [True] * 500 + [False]


async def test_shares_of_many_at_once_allow_the_limit_and_no_more(redis: RedisStore) -> None:
    name, processes = uuid4().hex, [limits.Shares(redis, window=AGE) for _ in range(2)]
    for process in processes:  # so that they take several
        for _ in range(60):
            await process.take(name, 1000)
    taken = await asyncio.gather(*(processes[n % 2].take(name, 1000) for n in range(2000)))
    assert 1000 - 1000 // limits.Shares.PART <= 120 + sum(one.allowed for one in taken) <= 1000


async def _have(shares: limits.Shares, name: str, times: int) -> None:
    """So many requests, one after the other."""
    for _ in range(times):
        assert (await shares.take(name, 3000)).allowed
        await asyncio.gather(*shares._tasks)


async def test_most_of_a_shares_requests_need_no_trip(redis: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    trips, run = [], redis.run

    async def noted(*asked: Any) -> Any:
        trips.append(asked)
        return await run(*asked)

    monkeypatch.setattr(redis, "run", noted)
    name, shares = uuid4().hex, limits.Shares(redis, window=AGE)
    await _have(shares, name, 2000)
    assert len(trips) < 100


async def test_before_a_share_is_used_up_the_next_is_taken_behind_the_backs_of_those_who_come(
    redis: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, shares, run, used = uuid4().hex, limits.Shares(redis, window=AGE), redis.run, 10
    await _have(shares, name, used)
    trips, redis_answers = [], asyncio.Event()

    async def slow(*asked: Any) -> Any:
        trips.append(asked)
        await redis_answers.wait()
        return await run(*asked)

    monkeypatch.setattr(redis, "run", slow)
    while (share := shares.at_hand(name)) is not None:  # none of them waits
        share.use()
        used += 1
        await asyncio.sleep(0)
    assert len(trips) == 1
    redis_answers.set()
    await asyncio.gather(*shares._tasks)
    assert (await shares.take(name, 3000)).remaining == 3000 - used - 1
    assert len(trips) == 1


async def test_what_is_left_of_a_share_is_used_while_redis_is_away(
    redis: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, shares, used = uuid4().hex, limits.Shares(redis, window=AGE), 0
    await _have(shares, name, 10)
    left = shares._shares[name].left

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("redis")

    monkeypatch.setattr(redis, "run", away)
    while (share := shares.at_hand(name)) is not None:
        share.use()
        used += 1
        await asyncio.sleep(0)
    assert used == left > 1
    with pytest.raises(StoreUnavailable):
        await shares.take(name, 3000)


async def test_a_share_ends_with_its_window_and_others_are_forgotten_for_new_ones(
    redis: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits.Shares, "MOST", 2)
    shares, ours = limits.Shares(redis, window=AGE), uuid4().hex
    await _have(shares, ours, 10)
    assert shares.at_hand(ours) is not None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + AGE)
    assert shares.at_hand(ours) is None
    others = {uuid4().hex, uuid4().hex}
    for name in others:
        await shares.take(name, 1000)
    assert set(shares._shares) == others


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


async def test_a_server_whose_clock_is_behind_keeps_nobody_out_for_longer_than_a_window(redis: RedisStore) -> None:
    """As after a failover. A little behind it still counts on."""
    for behind, is_allowed in ((WINDOW_MS, False), (2 * WINDOW_MS, True), (3_600_000, True)):
        name = uuid4().hex
        for _ in range(5):
            await limits.take(redis, name, 5, window=WINDOW, now_ms=START)
        assert (await limits.take(redis, name, 5, window=WINDOW, now_ms=START - behind)).allowed is is_allowed


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
