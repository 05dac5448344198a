"""Routes of the reports, for staff."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from quartet import merchandising
from quartet.analytics import store
from quartet.analytics.model import Group
from quartet.kernel.errors import Forbidden, Invalid, StoreUnavailable, Unauthenticated
from quartet.web.answers import answer, problems
from quartet.web.dependencies import ShopDep, Staff
from quartet.web.moments import From, To, span
from quartet.web.shapes import Currency, Shape

router = APIRouter(prefix="/analytics", tags=["analytics"])

_STAFF = (Unauthenticated, Forbidden, Invalid, StoreUnavailable)
CurrencyQuery = Annotated[Currency | None, Query(description="ISO 4217; the shop's by default.")]


class TotalsShape(Shape):
    """`netCents` is `grossCents` less `refundedCents`."""

    orders: int
    units: int
    gross_cents: int
    refunded_cents: int
    net_cents: int


class RevenueLineShape(TotalsShape):
    """`key` is a day, an ISO week (2011-W05), a month (2011-01), a SKU, a category's slug, or, for a customer, a user's
    id, a guest's e-mail address, or '' for guests whose data was erased."""

    key: str
    label: str


class RevenueShape(Shape):
    """`totals` covers all groups, including those past `limit`."""

    as_of: datetime
    currency: str
    items: list[RevenueLineShape]
    totals: TotalsShape


class StockLineShape(Shape):
    """`sellThrough` is sold ÷ (sold + stock); null if both are 0."""

    sku: str
    name: str
    stock: int
    reserved: int
    available: int
    unit_price_cents: int
    sold: int
    sell_through: float | None


class StockReportShape(Shape):
    """Values are at today's selling prices; `sold` and `sellThrough` cover the last `days`."""

    as_of: datetime
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


class QueryTotalsShape(Shape):
    """`withoutResults` and `opened` count searches: those that found nothing, and those that led to a product's page.
    `clickThrough` is opened ÷ searches. `units` and `grossCents` are the purchases that came from these searches,
    refunds not deducted."""

    searches: int
    without_results: int
    opened: int
    click_through: float | None
    units: int
    gross_cents: int


class QueryLineShape(QueryTotalsShape):
    """`query` normalised as by a search: in lower case, without accents and punctuation; `…` replaces what looked like
    an e-mail address or a long number."""

    query: str


class SearchReportShape(Shape):
    """`totals` covers all queries, including those past `limit`."""

    as_of: datetime
    currency: str
    items: list[QueryLineShape]
    totals: QueryTotalsShape


@router.get("/revenue", response_model=RevenueShape, responses=problems(*_STAFF))
async def get_revenue(
    shop: ShopDep,
    _: Staff,
    *,
    start: From = None,
    end: To = None,
    group_by: Annotated[Group, Query(alias="groupBy")] = "day",
    currency: CurrencyQuery = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many groups.")] = 366,
) -> Response:
    """Revenue of orders that were paid and not cancelled. An order counts on its own day, a refund or credit on the day
    it was given. Days, weeks and months come in order of time, the latest if there are more than `limit`; other groups
    by net revenue, highest first."""
    since, before = span(start, end)
    currency = currency or shop.settings.currency
    found, as_of = await shop.stores.report(
        lambda read: store.revenue(read, start=since, before=before, group=group_by, currency=currency, limit=limit)
    )
    items = [RevenueLineShape.model_validate(line) for line in found.items]
    totals = TotalsShape.model_validate(found.totals)
    return answer(RevenueShape(as_of=as_of, currency=currency, items=items, totals=totals))


@router.get("/inventory", response_model=StockReportShape, responses=problems(*_STAFF))
async def get_stock_report(
    shop: ShopDep,
    _: Staff,
    currency: CurrencyQuery = None,
    low: Annotated[int, Query(ge=0, le=1_000_000, description="Low is fewer than so many available.")] = 5,
    days: Annotated[int, Query(ge=1, le=3650, description="Sales of so many days back.")] = 30,
    limit: Annotated[int, Query(ge=1, le=100, description="How many SKUs in each list.")] = 20,
) -> Response:
    """Value of the stock, reserved stock, SKUs low in stock, bestsellers, and sell-through."""
    since = shop.clock.now() - timedelta(days=days)
    report, as_of = await shop.stores.report(
        lambda read: store.stock_report(
            read, currency=currency or shop.settings.currency, low=low, since=since, limit=limit
        )
    )
    said = {name: getattr(report, name) for name in StockReportShape.model_fields if name != "as_of"}
    return answer(StockReportShape.model_validate({"as_of": as_of, **said}))


@router.get("/search", response_model=SearchReportShape, responses=problems(*_STAFF))
async def get_search_report(
    shop: ShopDep,
    _: Staff,
    *,
    start: From = None,
    end: To = None,
    sort: Annotated[
        merchandising.ReportOrder, Query(description="The most first; `withoutResults` shows only those with any.")
    ] = "searches",
    currency: CurrencyQuery = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many queries.")] = 100,
) -> Response:
    """Queries, and the clicks and purchases that they led to. The search log behind it does not say who searched."""
    since, before = span(start, end)
    currency = currency or shop.settings.currency
    found, as_of = await shop.stores.report(
        lambda read: merchandising.report(read, start=since, before=before, currency=currency, order=sort, limit=limit)
    )
    items = [QueryLineShape.model_validate(line) for line in found.items]
    totals = QueryTotalsShape.model_validate(found.totals)
    return answer(SearchReportShape(as_of=as_of, currency=currency, items=items, totals=totals))
