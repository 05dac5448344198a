"""How long a loop of the worker rests when it fails."""

import asyncio
from typing import Any

import pytest

from quartet.kernel.errors import StoreUnavailable
from quartet.sync import store
from quartet.sync.worker import _supervise

FAILURES = 40


async def rests(*errors: Exception) -> list[float]:
    """The seconds after each failure, of which there are as many as named, the last one repeated."""
    slept: list[float] = []

    async def loop(shop: Any, lease: Any) -> None:
        raise errors[min(len(slept), len(errors) - 1)]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == FAILURES:
            raise asyncio.CancelledError

    shop: Any = None  # a loop's own business
    with pytest.raises(asyncio.CancelledError):
        await _supervise("test", shop, loop, store.NO_LEASE, sleep=sleep)
    return slept


async def test_a_store_that_is_back_is_noticed_within_a_second() -> None:
    slept = await rests(StoreUnavailable("search"))
    assert max(slept) <= 1
    assert min(slept[10:]) >= 0.5  # nor is it asked all the time
    assert len(set(slept[10:])) > 1  # nor do all loops ask at once


async def test_a_loop_that_is_broken_rests_longer_until_only_a_store_is_away() -> None:
    slept = await rests(*[ValueError()] * 20, StoreUnavailable("search"))
    assert slept[0] <= 0.2
    assert 2.5 <= min(slept[10:20]) <= max(slept[10:20]) <= 5
    assert max(slept[20:]) <= 1
