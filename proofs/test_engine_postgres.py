"""What every test asks of the newest PostgreSQL, asked of the oldest that the shop is promised for: the placing of
orders, the reports. (Connections and a replica: test_engine_replica.py.)"""

from collections.abc import AsyncIterator

import pytest
from test_analytics import *  # noqa: F403
from test_place_order import *  # noqa: F403

from conftest import app, client, settings, shop, shopper, sign_in, staff, template  # noqa: F401 — on the servers below
from quartet import devstores
from quartet.devstores import postgres

OLDEST = 15


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """The four stores, with that version. Where it is not installed nothing is proved: that is a failure."""
    folder = tmp_path_factory.mktemp("stores")
    async with devstores.throwaway(folder, postgres_major=OLDEST) as urls:
        yield urls


def test_it_is_the_oldest_that_we_promise() -> None:
    assert postgres.OLDEST == OLDEST
