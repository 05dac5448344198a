"""Routes of the reports, for staff."""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from quartet.analytics import store
from quartet.analytics.model import Group
from quartet.kernel.errors import Forbidden, Invalid, StoreUnavailable, Unauthenticated, invalid
from quartet.web.answers import answer, problems
from quartet.web.dependencies import ShopDep, Staff
from quartet.web.shapes import Currency, Shape

router = APIRouter(prefix="/analytics", tags=["analytics"])

_STAFF = (Unauthenticated, Forbidden, Invalid, StoreUnavailable)
_SHAPED = re.compile(r"\d{4}-\d{2}-\d{2}(T|$)", re.ASCII)  # Python reads many more ways to write a day
_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)

Moment = Annotated[str | None, Query(max_length=40, examples=["2011-01-31", "2011-01-31T12:00:00Z"])]
CurrencyQuery = Annotated[Currency | None, Query(description="ISO 4217; the shop's by default.")]


class TotalsShape(Shape):
    """`netCents` is `grossCents` less `refundedCents`."""

    orders: int
    units: int
    gross_cents: int
    refunded_cents: int
    net_cents: int


class RevenueLineShape(TotalsShape):
    """`key` is a day, an ISO week (2011-W05), a month (2011-01), a SKU, a category's slug or a user's id."""

    key: str
    label: str


class RevenueShape(Shape):
    """`totals` is over all groups, shown or not."""

    currency: str
    items: list[RevenueLineShape]
    totals: TotalsShape


class StockLineShape(Shape):
    """`sellThrough` is sold ÷ (sold + stock)."""

    sku: str
    name: str
    stock: int
    reserved: int
    available: int
    unit_price_cents: int
    sold: int
    sell_through: float | None


class StockReportShape(Shape):
    """Values are at today's selling prices; `sold` and `sellThrough` are of the last `days`."""

    currency: str
    skus: int
    stock: int
    reserved: int
    available: int
    value_cents: int
    reserved_value_cents: int
    sold: int
    sell_through: float | None
    low_stock_skus: int
    low_stock: list[StockLineShape]
    best_sellers: list[StockLineShape]


@router.get("/revenue", response_model=RevenueShape, responses=problems(*_STAFF))
async def get_revenue(
    shop: ShopDep,
    _: Staff,
    *,
    start: Annotated[Moment, Query(alias="from", description="From this day (UTC) or moment on.")] = None,
    end: Annotated[Moment, Query(alias="to", description="To this day, inclusive, or before this moment.")] = None,
    group_by: Annotated[Group, Query(alias="groupBy")] = "day",
    currency: CurrencyQuery = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many groups.")] = 366,
) -> Response:
    """Revenue of orders that were paid and not cancelled. An order counts on its own day, a refund or credit on the day
    it was given. Days, weeks and months come in order, the latest where `limit` cuts; others by net revenue."""
    since, before = _moment("from", start, _EARLIEST), _moment("to", end, _LATEST, whole_day=timedelta(days=1))
    if before < since:
        raise invalid("to", "must not be before `from`")
    currency = currency or shop.settings.currency
    async with shop.stores.pg.read() as read:
        found = await store.revenue(read, start=since, before=before, group=group_by, currency=currency, limit=limit)
    items = [RevenueLineShape.model_validate(line) for line in found.items]
    return answer(RevenueShape(currency=currency, items=items, totals=TotalsShape.model_validate(found.totals)))


@router.get("/inventory", response_model=StockReportShape, responses=problems(*_STAFF))
async def get_stock_report(
    shop: ShopDep,
    _: Staff,
    currency: CurrencyQuery = None,
    low: Annotated[int, Query(ge=0, le=1_000_000, description="Low is fewer than so many available.")] = 5,
    days: Annotated[int, Query(ge=1, le=3650, description="Sales of so many days back.")] = 30,
    limit: Annotated[int, Query(ge=1, le=100, description="How many SKUs in each list.")] = 20,
) -> Response:
    """Value on hand, what open orders hold, what runs low, and how quickly it sells."""
    since = shop.clock.now() - timedelta(days=days)
    async with shop.stores.pg.read() as read:
        report = await store.stock_report(
            read, currency=currency or shop.settings.currency, low=low, since=since, limit=limit
        )
    return answer(StockReportShape.model_validate(report))


def _moment(field: str, text: str | None, otherwise: datetime, whole_day: timedelta = timedelta()) -> datetime:
    """A day (its end when `whole_day`) or an RFC 3339 moment; without a zone it is UTC's."""
    if text is None:
        return otherwise
    try:
        if not _SHAPED.match(text):
            raise ValueError(text)
        if len(text) == len("2011-01-31"):
            return _within(datetime.combine(date.fromisoformat(text), time(), UTC)) + whole_day
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + arrives as a space
        return _within(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise invalid(field, "must be a day such as 2011-01-31 or a moment such as 2011-01-31T12:00:00Z") from None


def _within(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= _LATEST:
        raise ValueError("out of range")
    return moment
