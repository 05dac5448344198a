"""A shop whose clock is moved by hand."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from quartet.kernel.clock import FixedClock
from quartet.web.dependencies import Shop

__all__ = ["clock", "shop"]


@pytest.fixture
def clock() -> FixedClock:
    """The shop's clock, moved by hand."""
    return FixedClock(datetime.now(UTC))


@pytest.fixture
def shop(shop: Shop, clock: FixedClock) -> Shop:
    return replace(shop, clock=clock)
