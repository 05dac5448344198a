"""The import's writes: bulk COPY into the tables of accounts, inventory, orders and payments, in one transaction.

The only module that writes other modules' tables directly, since half a million lines need COPY. The tables' triggers
and constraints apply here too.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, Self
from uuid import UUID

from quartet.retail import naming
from quartet.retail.dataset import Customer
from quartet.retail.model import (
    CURRENCY,
    SERVICES,
    Goods,
    Invoice,
    Line,
    email_of,
    id_of,
    opening_stock,
    product_name,
)
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Record, Tx

q = queries(__file__)

# Lines per COPY: enough to be fast, few enough to need little memory.
_LINES_A_COPY = 8_000
_STEPS = ("pending", "confirmed", "shipped", "delivered")
_BY = "import"

_COLUMNS = {
    "orders": (
        "id", "user_id", "status", "total_cents", "captured_cents", "currency", "metadata", "created_at", "updated_at"
    ),
    "order_items": ("id", "order_id", "sku", "quantity", "unit_price_cents", "product_name"),
    "order_history": ("order_id", "at", "from_status", "to_status", "by", "reason"),
    "payments": (
        "id", "order_id", "provider", "provider_ref", "amount_cents", "currency", "status", "processed_at",
        "created_at", "updated_at",
    ),
    "refunds": ("id", "order_id", "at", "amount_cents", "currency", "reason", "by", "source_ref"),
    "refund_items": ("refund_id", "sku", "amount_cents", "quantity"),
    "payment_refunds": (
        "id", "payment_id", "amount_cents", "status", "reason", "provider_ref", "processed_at", "created_at",
        "updated_at",
    ),
    "credits": ("id", "user_id", "at", "amount_cents", "currency", "sku", "qty", "reason", "source_ref"),
}  # fmt: skip
"""In the order in which rows may be sent: what is referred to comes first."""


_as_called = lru_cache(maxsize=16_384)(product_name)


class Books:
    """The shop's books, open in one transaction. `turns` are the months already booked, with the run that booked each;
    `fresh` are those that this run adds."""

    def __init__(self, tx: Tx, source: str, turns: Mapping[str, int], fresh: Sequence[str]) -> None:
        self.turns = turns
        self.fresh = fresh
        self._tx = tx
        self._source = source
        self._turn = max(turns.values(), default=0) + 1
        self._rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in _COLUMNS}
        self._names: dict[str, str] = {}
        self._refund_ids: list[UUID] = []

    @classmethod
    async def open(cls, tx: Tx, source: str, months: Sequence[str]) -> Self | None:
        """Opens the books; None while another import has them open. `source`: the file's digest."""
        if not await tx.fetchval(q.begin):
            return None
        booked = await turns(tx, source)
        return cls(tx, source, booked, [month for month in months if month not in booked])

    def turn_of(self, month: str) -> int:
        """The run that booked a month; this one for a fresh month."""
        return self.turns.get(month, self._turn)

    async def add_customers(self, customers: Mapping[str, Customer]) -> None:
        """Adds users, who can't sign in, for the fresh months' customers. All unknown customers are one user."""
        fresh = set(self.fresh)
        new = [(number, customer) for number, customer in customers.items() if customer.months & fresh]
        await self._tx.execute(
            q.add_customers,
            [id_of("customer", number) for number, _ in new],
            [email_of(number) for number, _ in new],
            [f"Customer {number}" if number else "Unknown customer" for number, _ in new],
            [customer.since for _, customer in new],
        )

    async def add_goods(self, goods: Mapping[str, Goods]) -> None:
        """Adds inventory rows for the SKUs of the fresh months' lines."""
        fresh = set(self.fresh)
        self._names = {sku: product_name(sku, found.name) for sku, found in goods.items()}
        new = [(sku, found) for sku, found in goods.items() if found.months & fresh]
        await self._tx.execute(
            q.add_goods,
            [sku for sku, _ in new],
            [self._names[sku] for sku, _ in new],
            [0 if sku in SERVICES else opening_stock(found.units) for sku, found in new],
            [found.price_cents for _, found in new],
            CURRENCY,
            ["services" if sku in SERVICES else naming.category(found.name) for sku, found in new],
        )

    async def sell(self, order_id: UUID, invoice: Invoice, sold: Sequence[Line]) -> None:
        """Adds an invoice as an order, paid and delivered on its day."""
        at, total = invoice.at, sum(line.cents for line in sold)
        told = {"invoice": invoice.number, "country": invoice.country, "source": "online-retail"}
        user_id, rows = id_of("customer", invoice.customer), self._rows
        rows["orders"].append((order_id, user_id, "delivered", total, total, CURRENCY, told, at, at))
        for line in sold:
            name = _as_called(line.sku, line.description) if line.description else self._names[line.sku]
            item_id = id_of("line", invoice.number, line.number)
            rows["order_items"].append((item_id, order_id, line.sku, line.quantity, line.price_cents, name))
        for before, after in pairwise(_STEPS):
            rows["order_history"].append((order_id, at, before, after, _BY, None))
        rows["payments"].append(
            (_payment_id(order_id), order_id, _BY, f"import:{invoice.number}", total, CURRENCY, "succeeded", at, at, at)
        )
        if len(rows["order_items"]) >= _LINES_A_COPY:
            await self._send()

    def refund(self, order_id: UUID, at: datetime, line: Line) -> None:
        """Adds a cancelled line as a refund of that order, on the cancellation's day."""
        ref = _ref(line)
        refund_id, cents = id_of("refund", ref), -line.cents
        reason = f"invoice {line.invoice}"
        self._refund_ids.append(refund_id)
        self._rows["refunds"].append((refund_id, order_id, at, cents, CURRENCY, reason, _BY, ref))
        self._rows["refund_items"].append((refund_id, line.sku, cents, -line.quantity))
        self._rows["payment_refunds"].append(
            (refund_id, _payment_id(order_id), cents, "succeeded", "asked", ref, at, at, at)
        )

    def credit(self, at: datetime, line: Line) -> None:
        """Adds a cancelled line without a matching sale as a credit."""
        ref = _ref(line)
        user_id, reason = id_of("customer", line.customer), f"invoice {line.invoice}"
        self._rows["credits"].append(
            (id_of("credit", ref), user_id, at, -line.cents, CURRENCY, line.sku, -line.quantity, reason, ref)
        )

    async def close(self) -> None:
        """Writes the remaining rows, and updates orders and payments with their refunds. The caller commits."""
        await self._send()
        for query in (q.take_refunds, q.take_pieces, q.pay_back, q.finish_refunded):
            await self._tx.execute(query, self._refund_ids)
        await self._tx.execute(q.keep_months, self._source, self.fresh, self._turn)
        if self.fresh:
            await self._tx.execute(q.look_again)

    async def _send(self) -> None:
        for table, rows in self._rows.items():
            if rows:
                await self._tx.copy_records(table, _COLUMNS[table], rows)
                rows.clear()


def _payment_id(order_id: UUID) -> UUID:
    return id_of("payment", order_id)


def _ref(line: Line) -> str:
    """The import's reference for a cancelled line."""
    return f"{line.invoice}:{line.number}"


async def turns(read: Read, source: str) -> dict[str, int]:
    """The booked months of a file, each with the run that booked it."""
    return {row["month"]: row["turn"] for row in await read.fetch(q.turns, source)}


async def unshelved(read: Read, source: str) -> set[str]:
    """Booked months whose products are not yet marked as being in the catalog."""
    return {row["month"] for row in await read.fetch(q.unshelved, source)}


async def has_month(read: Read, month: str) -> bool:
    """Whether this month (`2010-12`) of any file was fully imported."""
    found: bool = await read.fetchval(q.has_month, month)
    return found


async def shelve(tx: Tx, source: str, months: Collection[str]) -> None:
    """Marks that the catalog has the products of these months: later runs don't add them again, so that what staff
    delete stays deleted."""
    await tx.execute(q.shelve, source, list(months))


async def booked(read: Read, begin: datetime, end: datetime) -> Record:
    """Lines and pence written by the import for a time span: sold, and refunded or credited."""
    row: Record = await read.fetchrow(q.booked, begin, end)
    return row
