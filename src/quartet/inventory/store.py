"""Inventory and its ledger in PostgreSQL.

A transaction that changes several SKUs locks them in SKU order, as orders do; otherwise two could deadlock.
"""

from collections.abc import Iterable
from dataclasses import replace

from quartet.inventory.model import MAX_STOCK, Item, Movement, StockOutOfBounds
from quartet.kernel.errors import NotFound
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Record, Tx

q = queries(__file__)


def _item(row: Record) -> Item:
    return Item(
        row["sku"], row["name"], row["stock"], row["reserved"], row["unit_price_cents"], row["currency"],
        row["category"], row["updated_at"],
    )  # fmt: skip


async def prices(read: Read, skus: Iterable[str]) -> dict[str, Item]:
    """Price and stock of these SKUs, by SKU, without those that don't exist; one query."""
    return {row["sku"]: _item(row) for row in await read.fetch(q.prices, list(skus))}


async def lock(tx: Tx, skus: Iterable[str]) -> dict[str, Item]:
    """The same with their rows locked until the transaction ends, for the values before a change."""
    return {row["sku"]: _item(row) for row in await tx.fetch(q.lock, list(skus))}


async def get(read: Read, sku: str) -> Item:
    """Raises NotFound."""
    row = await read.fetchrow(q.prices, [sku])
    if row is None:
        raise NotFound(f"there is no SKU {sku}")
    return _item(row)


async def page(read: Read, *, after: str, limit: int, below: int | None = None, text: str | None = None) -> list[Item]:
    """Items in SKU order after a SKU; `below`: fewer than so many available; `text`: part of the SKU or the name."""
    return [_item(row) for row in await read.fetch(q.page, after, below, text, limit)]


async def put(
    tx: Tx,
    sku: str,
    name: str,
    unit_price_cents: int,
    *,
    currency: str,
    actor: str,
    stock: int | None = None,
    category: str | None = None,
) -> tuple[Item, bool]:
    """Creates or changes a row; returns it, and whether it is new. Without `stock` the stock is unchanged (0 when new),
    without `category` the category. `actor` is a user's id or a part of the shop.

    Raises StockOutOfBounds if `stock` is less than what is reserved, or more than `MAX_STOCK`.
    """
    row = await tx.fetchrow(q.put, sku, name, unit_price_cents, currency, category)
    item, created = _item(row), bool(row["created"])
    if stock is None or stock == item.stock:
        return item, created
    if stock < item.reserved:
        raise _out_of_bounds(item, stock)
    await move(tx, sku, stock - item.stock, "received" if created else "adjusted", actor=actor)
    return replace(item, stock=stock), created


async def rename(tx: Tx, sku: str, name: str, *, category: str | None = None) -> Item | None:
    """Changes the name, and the category if one is given; None if there is no such row."""
    row = await tx.fetchrow(q.rename, sku, name, category)
    return _item(row) if row else None


async def move(tx: Tx, sku: str, delta: int, reason: str, *, note: str | None = None, actor: str) -> Movement:
    """Changes the stock by `delta` pieces and records why. Raises NotFound, StockOutOfBounds."""
    row = await tx.fetchrow(q.move, sku, delta, reason, note, actor)
    if row is None:
        item = await get(tx, sku)
        raise _out_of_bounds(item, item.stock + delta)
    return Movement(**row)


async def movements(read: Read, sku: str, *, before: int, limit: int) -> list[Movement]:
    """A SKU's ledger, newest first, entries older than `before`."""
    return [Movement(**row) for row in await read.fetch(q.movements, sku, before, limit)]


def _out_of_bounds(item: Item, stock: int) -> StockOutOfBounds:
    return StockOutOfBounds(
        f"the stock of {item.sku} can't become {stock}: "
        f"{item.reserved} pieces are reserved, and {MAX_STOCK} are the most",
        stock=item.stock, reserved=item.reserved,
    )  # fmt: skip
