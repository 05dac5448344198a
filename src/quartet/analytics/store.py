"""Reports read from PostgreSQL."""

from datetime import datetime

from quartet.analytics.model import Group, Revenue, RevenueLine, StockLine, StockReport
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Record

q = queries(__file__)


async def revenue(
    read: Read, *, start: datetime, before: datetime, group: Group, currency: str, limit: int = 1000
) -> Revenue:
    """Revenue in one currency in `[start, before)`. Days, weeks (ISO 8601) and months are in UTC and in order of time,
    the latest if there are more than `limit`; other groups by net revenue, highest first."""
    rows = await read.fetch(q.revenue, currency, start, before, group, limit)
    lines = [_line(row) for row in rows if row["key"] is not None]
    if group in ("day", "week", "month"):
        lines.sort(key=lambda line: line.key or "")
    return Revenue(tuple(lines), next(_line(row) for row in rows if row["key"] is None))


async def stock_report(read: Read, *, currency: str, low: int, since: datetime, limit: int) -> StockReport:
    """Current stock; low stock is fewer than `low` pieces available; sales since `since`."""
    totals = await read.fetchrow(q.stock_totals, currency, low)
    low_stock = await read.fetch(q.low_stock, currency, low, since, limit)
    best = await read.fetch(q.best_sellers, currency, since, limit)
    stock, reserved = int(totals["stock"]), int(totals["reserved"])
    return StockReport(
        currency=currency,
        skus=totals["skus"],
        stock=stock,
        reserved=reserved,
        available=stock - reserved,
        value_cents=int(totals["value_cents"]),
        reserved_value_cents=int(totals["reserved_value_cents"]),
        sold=best[0]["all_sold"] if best else 0,
        low_stock_skus=totals["low_stock_skus"],
        low_stock=tuple(_stock(row) for row in low_stock),
        best_sellers=tuple(_stock(row) for row in best),
    )


def _line(row: Record) -> RevenueLine:
    return RevenueLine(
        row["key"], row["label"], row["orders"], row["units"] or 0, int(row["gross"] or 0), int(row["refunded"] or 0)
    )


def _stock(row: Record) -> StockLine:
    return StockLine(
        row["sku"], row["name"], row["stock"], row["reserved"], row["available"], row["unit_price_cents"], row["sold"]
    )
