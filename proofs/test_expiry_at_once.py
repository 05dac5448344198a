"""Ten thousand unpaid orders that end in the same second."""

import httpx
import pytest
from test_expiry import GOAL_SECONDS, cancelled_after

from quartet.kernel.settings import Settings
from quartet.web.dependencies import Shop

ORDERS = 10_000


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"sandbox_async_seconds": 3600.0, "base_url": "http://127.0.0.1:1"})


async def test_none_keeps_its_stock_five_seconds_past_its_time(shop: Shop, shopper: httpx.AsyncClient) -> None:
    late = await cancelled_after(shop, shopper, ORDERS)
    print(f"the last of {ORDERS} orders was cancelled {late:.1f} s after its time")
    assert late < GOAL_SECONDS
