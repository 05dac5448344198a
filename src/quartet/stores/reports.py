"""Reports are read from a streaming replica if the shop has one, so that a long report does not slow down purchases;
and from the primary while the replica is down."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import asyncpg
import structlog

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.files import queries
from quartet.stores.postgres import Postgres, Read

log = structlog.get_logger("quartet.stores")

# Long, since a report over all years reads every order line there is.
REPORT_SECONDS = 120.0
# Concurrent reports per process, so that connections are left for shoppers.
AT_ONCE = 2

q = queries(__file__)
Found = TypeVar("Found")


async def report(
    primary: Postgres, replica: Postgres | None, read: Callable[[Read], Awaitable[Found]]
) -> tuple[Found, datetime]:
    """The result of `read`, and the time up to which all commits are included. Raises StoreUnavailable if neither
    server answers."""
    if replica is not None:
        try:
            return await _report_from_replica(replica, read)
        # Any error, since a lagging replica may not even have the table yet; an invalid query fails on the primary too.
        except (StoreUnavailable, TimeoutError, asyncpg.PostgresError) as error:
            log.info("the replica can't tell, the primary is asked", error=repr(error))
    return await _report(primary, read)


async def _report_from_replica(replica: Postgres, read: Callable[[Read], Awaitable[Found]]) -> tuple[Found, datetime]:
    """Cancels the report as soon as the replica is known to be down, since the primary can make it."""
    async with asyncio.timeout(REPORT_SECONDS) as limit:
        replica.guard.held.add(limit)
        try:
            return await _report(replica, read)
        finally:
            replica.guard.held.discard(limit)


async def _report(server: Postgres, read: Callable[[Read], Awaitable[Found]]) -> tuple[Found, datetime]:
    async with server.read(REPORT_SECONDS) as connection:
        as_of: datetime = await connection.fetchval(q.as_of)  # before the report, which may then see even more
        return await read(connection), as_of
