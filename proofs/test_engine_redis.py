"""What is kept in Redis, on Redis 7 and on a cluster of Valkey: carts, leaderboards, limits, the product cache."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from test_cart import *  # noqa: F403
from test_leaderboard import *  # noqa: F403
from test_limits import *  # noqa: F403

from conftest import app, client, redis, settings, shop, shopper, sign_in, staff, template  # noqa: F401 — on the servers below
from quartet.devstores import Place
from quartet.devstores import redis as local_redis


@pytest.fixture(scope="session", params=["redis-server", "cluster"])
async def servers(
    request: pytest.FixtureRequest, servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, str]]:
    """The four stores, with that server of Redis. Where it is not installed nothing is proved: that is a failure."""
    place = Place(tmp_path_factory.mktemp("redis"), durable=False)
    if request.param == "cluster":
        running = await local_redis.start_cluster(place)
        url = local_redis.cluster_url(running)
    else:
        running = [await local_redis.start(place, request.param)]
        url = running[0].server.url
    yield {**servers, "redis": url}
    await asyncio.gather(*(each.stop() for each in running))
