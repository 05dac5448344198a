"""Orders in PostgreSQL; each step is one SQL function (`schema/`) and one round trip.

Every step locks the order's row first, then inventory rows in SKU order. One order per transaction: the SKUs of a
second one would be locked out of that order.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from quartet.kernel.errors import Invalid, NotFound, Problem, Unauthenticated
from quartet.orders.model import (
    Contest,
    Counted,
    Guest,
    InsufficientStock,
    InvalidTransition,
    MixedCurrencies,
    Order,
    OrderItem,
    OrderPayment,
    OrderRefund,
    PaymentContested,
    PaymentNotCaptured,
    PaymentRefund,
    PriceChanged,
    RefundPart,
    Status,
    Step,
    UnknownSku,
)
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx, Violation
from quartet.web.answers import Answer
from quartet.web.idempotency import RequestKey, first_answer

q = queries(__file__)


class Before(NamedTuple):
    """Where a page of orders begins: older than this one."""

    created_at: datetime
    id: UUID


NEWEST = Before(datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))


async def place(
    tx: Tx,
    buyer: UUID | Guest,
    items: Iterable[tuple[str, int]],
    metadata: Mapping[str, Any] | None = None,
    *,
    hold: timedelta = timedelta(minutes=15),
    expected: int | None = None,
) -> Order:
    """Reserves stock and creates the order, all or nothing; lines (SKU, quantity) of the same SKU are added up. `buyer`
    is a user's id or a guest; `expected` is the total in cents that the buyer was shown.

    Raises InsufficientStock, UnknownSku, MixedCurrencies, PriceChanged, Invalid (no lines, or not 1 to 999 pieces per
    SKU).
    """
    with _refusals():
        return _order(await tx.fetchval(q.place, *_asked(buyer, items, metadata, hold, expected)))


async def place_under_key(
    tx: Tx,
    buyer: UUID | Guest,
    items: Iterable[tuple[str, int]],
    metadata: Mapping[str, Any] | None = None,
    *,
    key: RequestKey,
    hold: timedelta,
    expected: int | None = None,
) -> Order | Answer:
    """The same under an idempotency key, claimed first in the same statement: returns the order, whose answer the
    caller stores, or the key's first answer.

    Raises IdempotencyKeyReused and RequestInProgress as well.
    """
    asked = _asked(buyer, items, metadata, hold, expected)
    with _refusals():
        row = await tx.fetchrow(q.place_under_key, key.owner, key.key, *asked)
    return first_answer(key, row) or _order(row["placed"])


def _asked(
    buyer: UUID | Guest,
    items: Iterable[tuple[str, int]],
    metadata: Mapping[str, Any] | None,
    hold: timedelta,
    expected: int | None,
) -> tuple[Any, ...]:
    """The arguments of the SQL function `place_order`."""
    lines = [{"sku": sku, "qty": qty} for sku, qty in items]
    user_id, email, guest_cart = (None, buyer.email, buyer.cart) if isinstance(buyer, Guest) else (buyer, None, None)
    return (user_id, lines, dict(metadata or {}), hold, expected, email, guest_cart)


async def get(read: Read, order_id: UUID) -> Order:
    """Raises NotFound."""
    return _found(await read.fetchval(q.get, order_id), order_id)


async def order_with_recipient(read: Read, order_id: UUID) -> tuple[Order, str | None] | None:
    """The order and its buyer's current e-mail address, None if there is none (any more); None if there is no such
    order."""
    row = await read.fetchrow(q.order_with_recipient, order_id)
    return row and (_order(row["document"]), row["address"])


async def counted_since(read: Read, at: datetime) -> list[Counted]:
    """Users' orders confirmed since then."""
    return [Counted(**row) for row in await read.fetch(q.counted_since, at)]


async def lock(tx: Tx, order_id: UUID) -> Order:
    """The order, with its row locked until the transaction ends. Raises NotFound."""
    return _found(await tx.fetchval(q.lock, order_id), order_id)


async def cancel(tx: Tx, order_id: UUID, *, by: str = "system", reason: str | None = None) -> Order:
    """Releases a pending order's stock, or puts a confirmed one's back into stock; the caller refunds its money. Raises
    InvalidTransition, NotFound."""
    return await _step(tx, q.cancel, order_id, by, reason)


async def ship(tx: Tx, order_id: UUID, *, by: str) -> Order:
    """Raises InvalidTransition, PaymentNotCaptured, PaymentContested, NotFound."""
    return await _step(tx, q.ship, order_id, by)


async def deliver(tx: Tx, order_id: UUID, *, by: str) -> Order:
    """Raises InvalidTransition, NotFound."""
    return await _step(tx, q.deliver, order_id, by)


async def expire_due(tx: Tx, limit: int = 100, now: datetime | None = None, *, paying: bool = True) -> list[UUID]:
    """Cancels unpaid orders whose reservation has expired, the oldest first; returns their ids. `paying`: also those
    with a payment in progress. Needs a transaction of its own, because of the order of locks."""
    return [row[0] for row in await tx.fetch(q.expire, limit, now, paying)]


async def claim(tx: Tx, email: str, user_id: UUID) -> int:
    """Every guest order with this address becomes the order of the user, who has just verified it; returns how many
    did. The guest's order tokens become invalid."""
    count: int = await tx.fetchval(q.claim, email, user_id)
    return count


async def has_bought(read: Read, user_id: UUID, skus: Iterable[str]) -> bool:
    """Whether the user has paid for any of these SKUs, in an order that was not refunded in full."""
    return bool(await read.fetchval(q.has_bought, user_id, list(skus)))


async def page(
    read: Read,
    *,
    limit: int,
    before: Before = NEWEST,
    user_id: UUID | None = None,
    email: str | None = None,
    status: Status | None = None,
    number: int | None = None,
) -> list[Order]:
    """Orders, newest first: a user's, those with an address (of an account or a guest), or everybody's; of one status
    or all; with `number`, only that order, if it is among these."""
    if number is not None:
        rows = await read.fetch(q.of_number, *before, limit, number, user_id, email, status)
    elif email is not None:
        rows = await read.fetch(q.of_address, *before, limit, email, status)
    elif user_id is not None:
        rows = await read.fetch(q.of_user, *before, limit, user_id, status)
    elif status is None:
        rows = await read.fetch(q.newest, *before, limit)
    else:
        query = q.still_open if status in ("pending", "confirmed") else q.done
        rows = await read.fetch(query, *before, limit, status)
    return [_order(row[0]) for row in rows]


async def _step(tx: Tx, query: str, order_id: UUID, by: str, reason: str | None = None) -> Order:
    with _refusals():
        return _order(await tx.fetchval(query, order_id, by, reason))


def _found(document: dict[str, Any] | None, order_id: UUID) -> Order:
    if document is None:
        raise NotFound(f"there is no order {order_id}")
    return _order(document)


def _order(document: dict[str, Any]) -> Order:
    """An order from the document of the SQL function `order_document`."""
    steps = document["history"] or ()
    by_guest = document["user_id"] is None or any(step["from"] == step["to"] for step in steps)
    placed = Step(_at(document["created_at"]), None, "pending", "guest" if by_guest else document["user_id"], None)
    return Order(
        id=UUID(document["id"]),
        number=document["number"],
        user_id=UUID(document["user_id"]) if document["user_id"] else None,
        email=document["email"],
        status=document["status"],
        items=tuple(OrderItem(**item) for item in document["items"] or ()),
        total_cents=document["total_cents"],
        captured_cents=document["captured_cents"],
        refunded_cents=document["refunded_cents"],
        currency=document["currency"],
        metadata=document["metadata"],
        payments=tuple(_payment(payment) for payment in document["payments"] or ()),
        refunds=tuple(_order_refund(each) for each in document["refunds"] or ()),
        history=(placed, *(_history(step) for step in steps)),
        created_at=_at(document["created_at"]),
        updated_at=_at(document["updated_at"]),
        expires_at=_at(document["expires_at"]) if document["expires_at"] else None,
    )


def _payment(payment: dict[str, Any]) -> OrderPayment:
    processed = payment["processed_at"]
    return OrderPayment(
        UUID(payment["id"]), UUID(payment["order_id"]), payment["provider"], payment["provider_ref"],
        payment["amount_cents"], payment["status"], _at(processed) if processed else None,
        tuple(_payment_refund(refund) for refund in payment["refunds"] or ()),
        tuple(_contest(contest) for contest in payment["contests"] or ()),
    )  # fmt: skip


def _contest(contest: dict[str, Any]) -> Contest:
    settled = contest["settled_at"]
    times = {"contested_at": _at(contest["contested_at"]), "settled_at": _at(settled) if settled else None}
    return Contest(**contest | times)


def _payment_refund(refund: dict[str, Any]) -> PaymentRefund:
    processed = refund["processed_at"]
    times = {"created_at": _at(refund["created_at"]), "processed_at": _at(processed) if processed else None}
    return PaymentRefund(**refund | {"id": UUID(refund["id"]), **times})


def _order_refund(refund: dict[str, Any]) -> OrderRefund:
    parts = tuple(RefundPart(**part) for part in refund["items"])
    return OrderRefund(**refund | {"id": UUID(refund["id"]), "at": _at(refund["at"]), "items": parts})


def _history(step: dict[str, Any]) -> Step:
    return Step(_at(step["at"]), step["from"], step["to"], step["by"], step["reason"])


_at = datetime.fromisoformat


@contextmanager
def _refusals() -> Iterator[None]:
    """Translates the refusals of the SQL functions into the shop's errors."""
    try:
        yield
    except Violation as refusal:
        problem = _problem(refusal)
        if problem is None:
            raise
        raise problem from refusal


def _problem(refusal: Violation) -> Problem | None:
    if refusal.constraint == "orders_user_id_fkey":  # an access token outlives its account by some minutes
        return Unauthenticated("this account is gone")
    if not refusal.sqlstate.startswith("QT"):
        return None
    detail: Any = orjson.loads(refusal.detail) if refusal.detail else None
    match refusal.sqlstate:
        case "QT001":
            short = ", ".join(f"{s['sku']} ({s['requested']} asked, {s['available']} there)" for s in detail[:5])
            return InsufficientStock(f"short of {short}", shortages=detail)
        case "QT002":
            return UnknownSku.of(detail)
        case "QT003":
            errors = [{"field": _field(fault), "message": fault["message"]} for fault in detail]
            return Invalid("; ".join(f"{e['field']}: {e['message']}" for e in errors[:5]), errors=errors)
        case "QT004":
            return InvalidTransition(refusal.message, **detail)
        case "QT006":
            return MixedCurrencies(currencies=detail)
        case "QT008":
            return NotFound(refusal.message)
        case "QT009":
            return PriceChanged(refusal.message, **detail)
        case "QT024":
            return PaymentNotCaptured()
        case "QT028":
            return PaymentContested(**detail)
    return None


def _field(fault: dict[str, Any]) -> str:
    return "items" if fault["index"] is None else f"items.{fault['index']}.{fault['field']}"


async def lock_of_person(tx: Tx, user_id: UUID, email: str | None) -> list[UUID]:
    """Locks a user's orders, and guest orders with the address if one is given; returns their ids."""
    return [row["id"] for row in await tx.fetch(q.lock_of_person, user_id, email)]


async def forget(tx: Tx, order_ids: Iterable[UUID], now: datetime) -> None:
    """Removes the buyer's data (metadata, a guest's address and cart); amounts and history stay."""
    await tx.execute(q.forget, list(order_ids), now)
