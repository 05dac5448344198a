"""Rows of inventory and of its ledger, and the error for stock out of bounds."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from quartet.kernel.errors import Conflict

MAX_STOCK = 1_000_000_000


@dataclass(frozen=True)
class Item:
    """A sellable SKU: pieces in stock, pieces reserved by open orders, and the price of one, in minor units."""

    sku: str
    name: str
    stock: int
    reserved: int
    unit_price_cents: int
    currency: str
    category: str | None
    updated_at: datetime

    @property
    def available(self) -> int:
        """Pieces that can be bought now."""
        return self.stock - self.reserved


@dataclass(frozen=True)
class Movement:
    """One entry of the ledger; `actor` is a user's id or a part of the shop."""

    id: int
    sku: str
    stock_delta: int
    reserved_delta: int
    reason: str
    order_id: UUID | None
    note: str | None
    actor: str
    created_at: datetime


class StockOutOfBounds(Conflict):
    """The stock would fall below what open orders have reserved, or rise above 1,000,000,000 pieces. Nothing was
    changed; `stock` and `reserved` are the current values."""

    slug, title = "stock-out-of-bounds", "The stock can not become that"
