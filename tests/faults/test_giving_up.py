"""Calls that are given up leave the store to others."""

import asyncio

import pytest
from lines import lines_to

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.mongo import Mongo

CALLS = 20


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_calls_given_up_twice_keep_nobody_from_mongodb(servers: dict[str, str], turns: int) -> None:
    """As when a breaker opens and, so many turns of the event loop later, what had called ends too: while the first is
    being taken in, the second comes. Then the store is back."""
    async with lines_to({"mongodb": servers["mongodb"]}) as (lines, urls), asyncio.timeout(60):
        lines["mongodb"].cut()
        mongo = Mongo(urls["mongodb"], "t_giving_up")
        calls = [asyncio.create_task(mongo.collection("things").find_one({})) for _ in range(CALLS)]
        while mongo.guard.calls < CALLS:  # noqa: ASYNC110 — nobody tells
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # the driver waits for a server
        for wait in (turns, 0):
            for call in calls:
                call.cancel()
            for _ in range(wait):
                await asyncio.sleep(0)
        await asyncio.wait(calls)
        lines["mongodb"].mend()
        while not await _answers(mongo):  # noqa: ASYNC110 — it is found out by asking
            await asyncio.sleep(0.05)
        await mongo.close()


async def _answers(mongo: Mongo) -> bool:
    try:
        await mongo.ping()
    except StoreUnavailable:
        return False
    return True
