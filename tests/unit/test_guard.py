"""The breaker between the shop and a store, with a store that does as it is told."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.guard import Guard

DOUBT = 0.05
PATIENCE = 0.4


class Lost(Exception):
    """The connection broke."""


class Store:
    """Lives, hangs, or is gone."""

    def __init__(self, *, places: int = 10, doubt: float = DOUBT, silence: float | None = None) -> None:
        self.lives = asyncio.Event()
        self.lives.set()
        self.is_gone = False
        self.probes = 0
        self.guard = Guard("redis", self.probe, (Lost,), doubt=doubt, silence=silence, patience=PATIENCE, places=places)

    async def probe(self) -> None:
        self.probes += 1
        await self._answer()

    async def ask(self, **how: Any) -> str:
        with self.guard.call(**how):
            await self._answer()
            return "well"

    async def _answer(self) -> None:
        if self.is_gone:
            raise Lost
        await self.lives.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 — it comes true in the guard
                await asyncio.sleep(0.005)


async def test_one_lost_connection_to_a_store_that_lives_opens_nothing() -> None:
    store = Store()
    with pytest.raises(Lost), store.guard.call():
        raise Lost
    assert store.guard.state == "doubtful"
    await store.until(lambda: store.guard.state == "closed")
    assert (store.guard.openings, store.probes) == (0, 1)


async def test_a_slow_call_opens_nothing_while_the_store_answers_others() -> None:
    store = Store(doubt=0.2)
    slow = asyncio.create_task(asyncio.sleep(1))

    async def ask_slowly() -> None:
        with store.guard.call():
            await slow

    asking = asyncio.create_task(ask_slowly())
    while not slow.done():
        await store.ask()
        await asyncio.sleep(0.01)
    await asking
    assert (store.guard.openings, store.guard.state) == (0, "closed")


async def test_a_probe_that_takes_too_long_opens_nothing_while_others_are_answered() -> None:
    store = Store()

    async def slow_probe() -> None:
        store.probes += 1
        if store.probes < 3:
            await asyncio.sleep(60)

    store.guard._probe = slow_probe
    store.guard.mark_doubtful()
    async with asyncio.timeout(60):
        while store.guard.state != "closed":
            with store.guard.call():
                await asyncio.sleep(0.01)
    assert (store.guard.openings, store.probes) == (0, 3)


async def test_a_slow_call_alone_makes_doubt_that_a_probe_removes() -> None:
    store = Store()
    with store.guard.call():
        await store.until(lambda: store.probes > 0)
        await store.until(lambda: store.guard.state == "closed")
    assert store.guard.openings == 0


async def test_a_store_that_is_gone_is_refused_at_once_until_it_is_back() -> None:
    store = Store()
    store.is_gone = True
    with pytest.raises(Lost):
        await store.ask()
    await store.until(lambda: store.guard.openings == 1)
    with pytest.raises(StoreUnavailable) as refusal:
        await store.ask()
    assert refusal.value.store == "redis"
    assert store.guard.refused["open"] == 1
    store.is_gone = False
    await store.until(lambda: store.guard.state == "closed")
    assert await store.ask() == "well"
    assert store.guard.calls == 0


async def test_a_store_that_hangs_holds_nobody_past_the_opening() -> None:
    store = Store()
    store.lives.clear()

    async def ask_with_limit() -> None:
        async with asyncio.timeout(60) as limit:
            await store.ask(limit=limit)

    held = [asyncio.create_task(ask_with_limit()) for _ in range(3)]
    await store.until(lambda: store.guard.openings == 1)
    for ended in await asyncio.gather(*held, return_exceptions=True):
        assert isinstance(ended, TimeoutError)  # unknown, and not refused
    assert store.guard.calls == 0
    store.lives.set()
    await store.until(lambda: store.guard.state == "closed")


async def test_who_can_do_without_does_so_as_soon_as_there_is_doubt() -> None:
    store = Store()
    store.lives.clear()
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def ask_briefly() -> None:
        with store.guard.call(brief=True):
            store.guard.brief.add(reply)
            await reply

    needing = asyncio.create_task(store.ask())
    with pytest.raises(StoreUnavailable):
        await ask_briefly()
    assert store.guard.openings == 0, "it was only doubtful"
    with pytest.raises(StoreUnavailable):
        await store.ask(brief=True)
    assert store.guard.refused == {"open": 0, "full": 0, "doubtful": 1}
    store.lives.set()
    assert await needing == "well"
    await store.until(lambda: store.guard.state == "closed")


async def test_who_has_something_else_at_hand_turns_to_it_before_there_is_doubt() -> None:
    store = Store(doubt=60, silence=DOUBT)
    store.lives.clear()
    failing_fast: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    store.guard.fail_fast.add(failing_fast)
    brief = asyncio.create_task(store.ask(brief=True))
    with pytest.raises(StoreUnavailable):
        await failing_fast
    assert (store.guard.is_silent, store.guard.state) == (True, "closed")
    late = asyncio.create_task(store.ask(brief=True))  # is not refused
    store.lives.set()
    assert [await brief, await late] == ["well", "well"]
    assert (store.guard.is_silent, store.guard.openings) == (False, 0)


async def test_silence_becomes_doubt_though_nobody_waits_any_more() -> None:
    store = Store(doubt=1.0, silence=DOUBT)
    store.lives.clear()
    asking = asyncio.create_task(store.ask())
    await store.until(lambda: store.guard.is_silent)
    asking.cancel()
    await asyncio.wait([asking])
    await store.until(lambda: store.guard.is_doubtful)
    await store.until(lambda: store.guard.openings == 1)
    store.lives.set()
    await store.until(lambda: store.guard.state == "closed")
    assert not store.guard.is_silent
    assert await store.ask() == "well"


async def test_a_moment_in_which_the_process_itself_stood_still_is_no_silence() -> None:
    store = Store(doubt=60, silence=DOUBT)
    store.lives.clear()
    asking = asyncio.create_task(store.ask())
    await asyncio.sleep(0)
    time.sleep(5 * DOUBT)  # noqa: ASYNC251 — that is what is tried
    store.lives.set()
    assert await asking == "well"
    await asyncio.sleep(DOUBT)
    assert (store.guard.is_silent, store.probes) == (False, 0)


async def test_no_more_calls_wait_than_there_are_places() -> None:
    store = Store(places=3)
    store.lives.clear()
    waiting = [asyncio.create_task(store.ask()) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await store.ask()
    assert store.guard.refused["full"] == 1
    store.lives.set()
    assert await asyncio.gather(*waiting) == ["well"] * 3


async def test_what_the_store_refuses_and_who_gives_up_waiting_say_nothing_against_it() -> None:
    store = Store(doubt=60)
    with pytest.raises(ValueError, match="no such"), store.guard.call():
        raise ValueError("no such thing")
    store.lives.clear()
    asking = asyncio.create_task(store.ask())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert (store.guard.state, store.probes, store.guard.calls) == ("closed", 0, 0)


async def test_closing_ends_the_asking() -> None:
    store = Store()
    store.is_gone = True
    with pytest.raises(Lost):
        await store.ask()
    await store.until(lambda: store.guard.openings == 1)
    store.guard.close()
    await asyncio.sleep(0)
    asked = store.probes
    await asyncio.sleep(0.3)
    assert store.probes == asked
