"""Calls that are given up leave the store to others."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from lines import lines_to

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.mongo import Mongo

CALLS = 20
# The driver looks again for a server after half a second.
ITS_WAIT = 0.6


@asynccontextmanager
async def calls_to_nobody(url: str) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Calls under way while MongoDB's line is cut. In the end the line is mended, and it answers again."""
    async with lines_to({"mongodb": url}) as (lines, urls), asyncio.timeout(60):
        lines["mongodb"].cut()
        mongo = Mongo(urls["mongodb"], "t_giving_up")
        calls = [asyncio.create_task(mongo.collection("things").find_one({})) for _ in range(CALLS)]
        while mongo.guard.calls < CALLS:  # noqa: ASYNC110 — nobody tells
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # the driver waits for a server
        assert not any(call.done() for call in calls)
        yield [*calls]
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        lines["mongodb"].mend()
        while not await _answers(mongo):  # noqa: ASYNC110 — it is found out by asking
            await asyncio.sleep(0.05)
        await mongo.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_calls_given_up_twice_keep_nobody_from_mongodb(servers: dict[str, str], turns: int) -> None:
    """As when a breaker opens and, so many turns of the event loop later, what had called ends too: while the first is
    being taken in, the second comes."""
    async with calls_to_nobody(servers["mongodb"]) as calls:
        for wait in (turns, 0):
            _give_up(calls)
            await _pass(wait)


@pytest.mark.parametrize("turns", range(8))
async def test_calls_given_up_when_the_driver_was_waiting_keep_nobody_from_mongodb(
    servers: dict[str, str], turns: int
) -> None:
    """So many turns of the event loop after the wait of all of them ran out."""
    async with calls_to_nobody(servers["mongodb"]) as calls:
        time.sleep(ITS_WAIT)  # noqa: ASYNC251 — nobody gets a turn meanwhile
        await _pass(turns)
        assert not any(call.done() for call in calls)
        _give_up(calls)


def _give_up(calls: list[asyncio.Task[object]]) -> None:
    for call in calls:
        call.cancel()


async def _pass(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def _answers(mongo: Mongo) -> bool:
    try:
        await mongo.ping()
    except StoreUnavailable:
        return False
    return True
