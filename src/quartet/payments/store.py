"""Payments, refunds and webhook events in PostgreSQL; what each step does and refuses is in schema/0042."""

from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import orjson

from quartet.kernel.errors import NotFound
from quartet.kernel.ids import new_id
from quartet.orders import OverRefund
from quartet.payments.model import (
    Completed,
    OrderNotPayable,
    Outcome,
    Payment,
    PaymentInProgress,
    Refund,
    RefundReason,
    WebhookEvent,
)
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx, Violation
from quartet.web.idempotency import RequestKey

q = queries(__file__)
T = TypeVar("T", Payment, Refund)

# A pending payment is looked at again this soon, should no webhook come.
SOON = timedelta(seconds=2)


async def start(
    tx: Tx, order_id: UUID, user_id: UUID, provider: str, *, key: RequestKey | None, now: datetime, ask: datetime
) -> Payment:
    """A pending payment of the whole order; `ask` is when recovery may ask the provider about it.

    Raises NotFound, OrderNotPayable, PaymentInProgress.
    """
    owner, name = _parts(key)
    try:
        row = await tx.fetchrow(q.start, new_id(), order_id, user_id, provider, owner, name, now, ask)
    except Violation as refused:
        raise _refusal(refused) from refused
    return _read(Payment, row)


async def complete(tx: Tx, payment_id: UUID, outcome: Outcome, now: datetime) -> Completed:
    """The one step in which what a provider says becomes true: payment, order and stock together. Repeating it changes
    nothing; the payment comes back as it stands."""
    args = (payment_id, outcome.status, outcome.provider_ref, outcome.decline_code, now, now + SOON)
    row = await tx.fetchrow(q.complete, *args)
    return Completed(_read(Payment, row), row["user_id"], row["bought"] or {})


async def by_id(read: Read, payment_id: UUID, user_id: UUID | None = None) -> Payment | None:
    """None when there is no such payment, or it is not this user's."""
    row = await read.fetchrow(q.by_id, payment_id, user_id)
    return None if row is None else _read(Payment, row)


async def take_to_ask(tx: Tx, now: datetime, most: int) -> list[Payment]:
    """Open payments to ask the provider about now; nobody else gets them for a while."""
    return [_read(Payment, row) for row in await tx.fetch(q.take_to_ask, now, most)]


async def start_refund(
    tx: Tx,
    order_id: UUID,
    cents: int | None,
    reason: RefundReason,
    *,
    by: UUID,
    now: datetime,
    ask: datetime,
    restock: bool = False,
    key: RequestKey | None = None,
) -> Refund | None:
    """Money promised back, all that is left when `cents` is None; None when nothing is left. Raises OverRefund."""
    owner, name = _parts(key)
    try:
        row = await tx.fetchrow(q.start_refund, order_id, cents, reason, restock, by, owner, name, now, ask)
    except Violation as refused:
        raise _refusal(refused) from refused
    return None if row is None else _read(Refund, row)


async def complete_refund(tx: Tx, refund_id: UUID, status: str, provider_ref: str | None, now: datetime) -> Refund:
    """The one step in which money is back, or will not come back: refund, payment and order together."""
    return _read(Refund, await tx.fetchrow(q.complete_refund, refund_id, status, provider_ref, now))


async def late_refund(read: Read, payment_id: UUID) -> Refund | None:
    """The refund of a payment that came too late, while it is open."""
    row = await read.fetchrow(q.late_refund, payment_id)
    return None if row is None else _read(Refund, row)


async def take_refunds_to_ask(tx: Tx, now: datetime, most: int) -> list[Refund]:
    """Open refunds to see to now; nobody else gets them for a while."""
    return [_read(Refund, row) for row in await tx.fetch(q.take_refunds_to_ask, now, most)]


async def remember_event(tx: Tx, provider: str, event: WebhookEvent, payment_id: UUID, now: datetime) -> bool:
    """Whether the event is new. Belongs into the transaction of its effect."""
    return bool(await tx.fetchval(q.remember_event, provider, event.id, event.kind, payment_id, now))


def _parts(key: RequestKey | None) -> tuple[str | None, str | None]:
    return (key.owner, key.key) if key else (None, None)


def _read(kind: type[T], row: Any) -> T:
    return kind(**{field.name: row[field.name] for field in fields(kind)})


def _refusal(refused: Violation) -> Exception:
    match refused.sqlstate:
        case "QT005":
            left = orjson.loads(refused.detail)["refundable_cents"]
            return OverRefund(f"at most {left} can be given back", refundable_cents=left)
        case "QT008":
            return NotFound("there is no such order")
        case "QT020":
            return OrderNotPayable(f"the order is {refused.detail}", order_status=refused.detail)
        case "QT021":
            return PaymentInProgress(payment_id=refused.detail)
    return refused
