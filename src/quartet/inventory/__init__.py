"""Inventory: price, stock and reserved pieces of every SKU, with a ledger of every change. Stored in PostgreSQL."""

from quartet.inventory.model import Item, Movement, StockOutOfBounds
from quartet.inventory.store import get, lock, move, prices, put, rename

__all__ = ["Item", "Movement", "StockOutOfBounds", "get", "lock", "move", "prices", "put", "rename"]
