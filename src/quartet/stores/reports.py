"""Where reports are read: from a streaming replica if the shop has one, so that a long report takes nothing from
the buyers; and from the primary while the replica is down."""

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

# A report of all years goes through every line that ever sold, and whoever asks for it knows that.
REPORT_SECONDS = 120.0
# Of one process; whoever shops goes on with its other connections.
AT_ONCE = 2

q = queries(__file__)
Found = TypeVar("Found")


async def report(
    primary: Postgres, replica: Postgres | None, read: Callable[[Read], Awaitable[Found]]
) -> tuple[Found, datetime]:
    """What `read` finds, and the time until which everything committed is included. Raises StoreUnavailable if nobody
    answers."""
    if replica is not None:
        try:
            return await _while_it_lives(replica, read)
        # A replica that lags may not even know the table yet. What is wrong with the question, the primary says too.
        except (StoreUnavailable, TimeoutError, asyncpg.PostgresError) as error:
            log.info("the replica can't tell, the primary is asked", error=repr(error))
    return await _report(primary, read)


async def _while_it_lives(replica: Postgres, read: Callable[[Read], Awaitable[Found]]) -> tuple[Found, datetime]:
    """Cancelled as soon as the replica is known to be down, since the primary can be asked."""
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
