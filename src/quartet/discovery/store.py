"""Sales, and SKUs bought together, counted in PostgreSQL."""

from collections.abc import Mapping
from datetime import date, datetime

from quartet.discovery.model import Period
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)

MOST_LINES = 100
MOST_BASKETS = 2_000
MOST_OTHERS = 24
# Baskets deleted per statement.
PORTION = 20_000


async def next_day(read: Read, at: datetime) -> date | None:
    """The first day with an order at or after this time."""
    found: date | None = await read.fetchval(q.next_day, at)
    return found


async def count_day(tx: Tx, day: datetime) -> bool:
    """Recounts the sales of a day (given by its start) and updates its baskets; returns whether anything changed."""
    sold: int = await tx.fetchval(q.count_day, day)
    filled = await tx.execute(q.fill_baskets, day, MOST_LINES)
    return sold > 0 or not filled.endswith(" 0")


async def count_together(tx: Tx, limit: int) -> int:
    """Recounts what was bought together with at most `limit` SKUs whose baskets have changed, and deletes baskets no
    longer needed; returns the number of SKUs."""
    skus = [row["sku"] for row in await tx.fetch(q.stale, limit)]
    if skus:
        await tx.execute(q.count_together, skus, MOST_BASKETS, MOST_OTHERS)
        await tx.execute(q.trim_baskets, skus, PORTION)
    return len(skus)


async def sold_skus(read: Read) -> list[str]:
    """All SKUs that have ever been sold."""
    return [row["sku"] for row in await read.fetch(q.sold_skus)]


async def rank(tx: Tx, today: date, product_ids: Mapping[str, str], kept: int) -> None:
    """Ranks products by the pieces sold of their SKUs, `kept` per category and period; the period `day` is today and
    yesterday. SKUs without a product are left out."""
    await tx.execute(q.rank, today, list(product_ids), list(product_ids.values()), kept)


async def bestsellers(read: Read, period: Period, categories: list[str] | None, limit: int) -> list[tuple[str, int]]:
    """Product ids and units, best first; of these categories, or of all."""
    rows = await read.fetch(q.bestsellers, period, categories, limit)
    return [(row["product_id"], row["units"]) for row in rows]


async def together(read: Read, skus: list[str]) -> list[list[str]]:
    """For each of these SKUs the SKUs bought together with it, best first."""
    return [row["others"] for row in await read.fetch(q.together, skus)]
