"""What can be sold: price, stock and what open orders hold of it, with a ledger of every change. Held in PostgreSQL."""

from quartet.inventory.model import Item, Movement, StockOutOfBounds
from quartet.inventory.store import get, lock, move, prices, put, rename

__all__ = ["Item", "Movement", "StockOutOfBounds", "get", "lock", "move", "prices", "put", "rename"]
