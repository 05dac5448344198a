"""Sales, and what was bought together, counted in PostgreSQL."""

from collections.abc import Mapping
from datetime import date, datetime

from quartet.discovery.model import Period
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)

MOST_LINES = 100
MOST_BASKETS = 2_000
MOST_OTHERS = 24
# Baskets a statement deletes.
PORTION = 20_000


async def next_day(read: Read, at: datetime) -> date | None:
    """The first day with an order from then on."""
    found: date | None = await read.fetchval(q.next_day, at)
    return found


async def count_day(tx: Tx, day: datetime) -> bool:
    """Counts what sold on a day (its first moment) anew, and fills its baskets; whether anything is new."""
    sold: int = await tx.fetchval(q.count_day, day)
    filled = await tx.execute(q.fill_baskets, day, MOST_LINES)
    return sold > 0 or not filled.endswith(" 0")


async def count_together(tx: Tx, limit: int) -> int:
    """Counts anew what goes together with some SKUs of which that has changed, and forgets baskets that are read no
    more; answers how many SKUs."""
    skus = [row["sku"] for row in await tx.fetch(q.stale, limit)]
    if skus:
        await tx.execute(q.count_together, skus, MOST_BASKETS, MOST_OTHERS)
        await tx.execute(q.trim_baskets, skus, PORTION)
    return len(skus)


async def sold_skus(read: Read) -> list[str]:
    """All that have ever sold."""
    return [row["sku"] for row in await read.fetch(q.sold_skus)]


async def rank(tx: Tx, today: date, product_ids: Mapping[str, str], kept: int) -> None:
    """Ranks products by what their SKUs sold, `kept` of each category and period; `day` is today and yesterday. SKUs
    that no product has are left out."""
    await tx.execute(q.rank, today, list(product_ids), list(product_ids.values()), kept)


async def bestsellers(read: Read, period: Period, categories: list[str] | None, limit: int) -> list[tuple[str, int]]:
    """Product ids and units, the best first; of these categories, or of all."""
    rows = await read.fetch(q.bestsellers, period, categories, limit)
    return [(row["product_id"], row["units"]) for row in rows]


async def together(read: Read, skus: list[str]) -> list[list[str]]:
    """Of each of these SKUs what is bought together with it, the best first."""
    return [row["others"] for row in await read.fetch(q.together, skus)]
