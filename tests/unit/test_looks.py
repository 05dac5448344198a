"""Looks at what may have changed: one for all who ask, waited for only a moment."""

import asyncio

import pytest

from quartet.kernel import looks
from quartet.kernel.looks import PeriodicCheck


class Store:
    """Answers how often it was asked, when it is well; hangs or refuses otherwise."""

    def __init__(self) -> None:
        self.asked, self.known = 0, 0
        self.is_well = asyncio.Event()
        self.is_well.set()
        self.refuses = False

    async def renew(self) -> None:
        self.asked += 1
        await self.is_well.wait()
        if self.refuses:
            raise ConnectionError
        self.known = self.asked


async def test_many_who_ask_at_once_have_it_looked_up_once_and_know_it() -> None:
    store, looking = Store(), PeriodicCheck("test", 60, 60)
    await asyncio.gather(*(looking.check(store.renew) for _ in range(50)))
    assert (store.asked, store.known, looking.is_due) == (1, 1, False)
    await looking.check(store.renew)
    assert store.asked == 1


async def test_what_is_known_is_told_while_the_store_says_nothing() -> None:
    store, looking = Store(), PeriodicCheck("test", 0, 0)
    await looking.check(store.renew)
    store.is_well.clear()
    async with asyncio.timeout(100 * looks.PATIENCE_SECONDS):
        for _ in range(100):
            await looking.check(store.renew)
    assert (store.asked, store.known) == (2, 1)
    store.is_well.set()
    async with asyncio.timeout(10):
        while store.known < 2:
            await asyncio.sleep(0.001)
            await looking.check(store.renew)


async def test_after_one_that_failed_nobody_looks_for_a_while() -> None:
    store, looking = Store(), PeriodicCheck("test", 0, 60)
    store.refuses = True
    for _ in range(3):
        await looking.check(store.renew)
    assert (store.asked, store.known, looking.is_due) == (1, 0, False)


async def test_shortly_before_it_is_time_one_is_begun_that_nobody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(looks, "monotonic", lambda: now)
    store, looking = Store(), PeriodicCheck("test", 10, 60)
    await looking.check(store.renew)
    assert looking.is_recent(store.renew)
    await asyncio.sleep(0)
    assert store.asked == 1
    now += 8
    store.is_well.clear()
    assert [looking.is_recent(store.renew) for _ in range(5)] == [True] * 5
    await asyncio.sleep(0)
    assert (store.asked, store.known) == (2, 1)
    now += 3
    assert not looking.is_recent(store.renew), "the store has not answered yet"
    store.is_well.set()
    async with asyncio.timeout(10):
        while store.known < 2:
            await asyncio.sleep(0.001)
            await looking.check(store.renew)
    assert looking.is_recent(store.renew)


async def test_while_what_is_known_is_bearable_nobody_waits_for_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(looks, "monotonic", lambda: now)
    store, looking = Store(), PeriodicCheck("test", 10, 60, bearable=15)
    await looking.check(store.renew)
    now += 14
    await looking.check(store.renew)
    assert store.known == 1, "it has not even been given a turn"
    await asyncio.sleep(0)
    assert store.known == 2
    now += 16
    await looking.check(store.renew)
    assert store.known == 3, "what is too old is waited for"
