"""Counters that outlive processes, in PostgreSQL: the API's /metrics includes what the worker did."""

from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)


async def count(tx: Tx, name: str, n: int = 1) -> None:
    """Adds `n` in the caller's transaction: `await count(tx, "mails.sent")`."""
    await tx.execute(q.count, name, n)


async def counted(read: Read) -> dict[str, int]:
    """All counters, by name."""
    return {row["name"]: row["n"] for row in await read.fetch(q.counted)}
