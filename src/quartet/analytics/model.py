"""Reports as values. Cents are minor units of one currency; currencies are never added up."""

from dataclasses import dataclass
from typing import Literal

Group = Literal["day", "week", "month", "product", "category", "customer"]


@dataclass(frozen=True)
class RevenueLine:
    """A group's revenue, or all groups' (`key` None). `gross_cents` is the orders' total, `refunded_cents` the refunds
    and credits; each counts on its own day."""

    key: str | None
    label: str | None
    orders: int
    units: int
    gross_cents: int
    refunded_cents: int

    @property
    def net_cents(self) -> int:
        """Negative if refunds exceed sales."""
        return self.gross_cents - self.refunded_cents


@dataclass(frozen=True)
class Revenue:
    """`totals` covers all groups, including those past the limit."""

    items: tuple[RevenueLine, ...]
    totals: RevenueLine


@dataclass(frozen=True)
class StockLine:
    """A SKU's stock and sales. `sell_through` is sold ÷ (sold + stock): 1 if everything is sold; None if both are
    0."""

    sku: str
    name: str
    stock: int
    reserved: int
    available: int
    unit_price_cents: int
    sold: int

    @property
    def sell_through(self) -> float | None:
        """The share sold; see `sell_through`."""
        return sell_through(self.sold, self.stock)


@dataclass(frozen=True)
class StockReport:
    """Values are at today's selling prices; `sold` counts pieces sold in the report's period."""

    currency: str
    skus: int
    stock: int
    reserved: int
    available: int
    value_cents: int
    reserved_value_cents: int
    sold: int
    low_stock_skus: int
    low_stock: tuple[StockLine, ...]
    best_sellers: tuple[StockLine, ...]

    @property
    def sell_through(self) -> float | None:
        """Of all SKUs together."""
        return sell_through(self.sold, self.stock)


def sell_through(sold: int, stock: int) -> float | None:
    """Sold ÷ (sold + stock), to four decimals.

    >>> sell_through(1, 3)
    0.25
    """
    return round(sold / (sold + stock), 4) if sold + stock else None
