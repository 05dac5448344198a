"""Payments, refunds and webhook events in PostgreSQL; schema/payment_steps.sql describes each step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import orjson

from quartet.kernel.errors import NotFound, RequestInProgress, Unauthenticated
from quartet.kernel.ids import new_id
from quartet.orders import OverRefund, PaymentContested
from quartet.payments.model import (
    Bought,
    Completed,
    Moved,
    NothingToCapture,
    NotYetPaid,
    OrderNotPayable,
    Outcome,
    Payment,
    PaymentInProgress,
    PredictionFailed,
    Refund,
    RefundReason,
    WaitsForBuyer,
    WebhookEvent,
)
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx, Violation
from quartet.web.answers import Answer
from quartet.web.idempotency import RequestKey, first_answer, to_keep

q = queries(__file__)
T = TypeVar("T", Payment, Refund)

# How soon the provider is asked about a pending payment, should no webhook come.
SOON = timedelta(seconds=2)
# Stripe and PayPal retry an event for three days.
EVENTS_KEPT = timedelta(days=30)
PORTION = 1000


async def start(
    tx: Tx,
    order_id: UUID,
    user_id: UUID | None,
    provider: str,
    *,
    as_guest: bool = False,
    now: datetime,
    ask: datetime,
) -> Payment:
    """Starts a pending payment of the whole order, the user's or, with `as_guest`, a guest's (the caller holds the
    order's token); `ask` is when recovery may ask the provider about it.

    Raises Unauthenticated (the account is gone), NotFound, OrderNotPayable, PaymentInProgress, WaitsForBuyer.
    """
    with _refusals():
        row = await tx.fetchrow(q.start, new_id(), order_id, user_id, as_guest, provider, now, ask)
    return _read(Payment, row)


async def start_under_key(
    tx: Tx,
    order_id: UUID,
    user_id: UUID | None,
    provider: str,
    *,
    as_guest: bool = False,
    key: RequestKey,
    now: datetime,
    ask: datetime,
) -> Payment | Answer:
    """The same under an idempotency key, for `idempotency.unclaimed`: one statement claims the key, starts the payment
    and marks the key as running. Returns the key's first answer if it has one.

    Raises IdempotencyKeyReused and RequestInProgress as well.
    """
    args = (new_id(), order_id, user_id, as_guest, provider, key.owner, key.key, now, ask, key.fingerprint)
    with _refusals():
        row = await tx.fetchrow(q.start_under_key, *args)
    return first_answer(key, row) or _read(Payment, row)


async def complete(
    tx: Tx, payment_id: UUID, outcome: Outcome, now: datetime, answer: Answer | None = None
) -> Completed:
    """The only step that applies what a provider says: payment, order and stock in one statement. Idempotent; returns
    the payment's current state. `answer` is stored under the key of the request that started the payment, if the
    payment ends as `Payment.predicted` says; otherwise PredictionFailed is raised and nothing changes.
    """
    kept = (None, None, None) if answer is None else to_keep(answer)
    with _refusals():
        row = await tx.fetchrow(
            q.complete, payment_id, outcome.status, outcome.provider_ref, outcome.decline_code, now, now + SOON,
            outcome.redirect_url, *kept,
        )  # fmt: skip
    return Completed(_read(Payment, row), row["user_id"], row["guest_cart"], row["bought"] or {})


async def with_buyer(read: Read, payment_id: UUID) -> Bought | None:
    """A payment and its order's buyer."""
    row = await read.fetchrow(q.with_buyer, payment_id)
    return None if row is None else Bought(_read(Payment, row), row["user_id"], row["email"])


async def claim_unsettled(tx: Tx, now: datetime, most: int, away: Sequence[str] = ()) -> list[Payment]:
    """Open payments to ask the provider about now, except those of the providers in `away`. Each is leased: no other
    worker gets it for a while."""
    return [_read(Payment, row) for row in await tx.fetch(q.claim_unsettled, now, most, away)]


async def is_unwanted(read: Read, payment_id: UUID) -> bool:
    """Whether it should not be completed any more: its order was cancelled, it was declined or voided, or is to be
    voided."""
    return bool(await read.fetchval(q.is_unwanted, payment_id))


async def start_capture(tx: Tx, payment_id: UUID, *, key: RequestKey | None, now: datetime, ask: datetime) -> Payment:
    """Records that an authorization is to be captured. Raises NotFound, PaymentInProgress (a capture is in progress),
    NothingToCapture, PaymentContested."""
    with _refusals():
        return _read(Payment, await tx.fetchrow(q.start_capture, payment_id, *_parts(key), now, ask))


async def drop_capture(tx: Tx, payment_id: UUID, now: datetime) -> None:
    """Records that the provider refused to capture for now; the authorization stands."""
    await tx.execute(q.drop_capture, payment_id, now)


async def start_void(tx: Tx, order_id: UUID, *, now: datetime, ask: datetime) -> Payment | None:
    """Records that a cancelled order's authorization is to be voided; None if there is none."""
    row = await tx.fetchrow(q.start_void, order_id, now, ask)
    return None if row is None else _read(Payment, row)


async def leave(tx: Tx, payment_id: UUID, providers: Sequence[str], *, now: datetime, ask: datetime) -> Payment | None:
    """Records that a payment that waits for its buyer is to be voided, since the buyer pays another way; None if it no
    longer waits, or belongs to none of these providers."""
    row = await tx.fetchrow(q.leave, payment_id, providers, now, ask)
    return None if row is None else _read(Payment, row)


async def start_refund(
    tx: Tx,
    order_id: UUID,
    cents: int | None,
    reason: RefundReason,
    *,
    by: str | None,
    now: datetime,
    ask: datetime,
    items: Sequence[tuple[str, int]] | None = None,
    restock: bool = False,
    note: str | None = None,
    key: RequestKey | None = None,
) -> Refund | None:
    """Records a refund as promised: of the price of `items` (SKU, pieces), of `cents`, or by default of all that is
    left; None if nothing is left. `note` says why. Raises OverRefund, PaymentContested."""
    owner, name = _parts(key)
    lines = None if items is None else [{"sku": sku, "qty": qty} for sku, qty in items]
    with _refusals():
        row = await tx.fetchrow(
            q.start_refund, order_id, cents, reason, restock, by, owner, name, now, ask, lines, note
        )
    return None if row is None else _read(Refund, row)


async def complete_refund(tx: Tx, refund_id: UUID, status: str, provider_ref: str | None, now: datetime) -> Refund:
    """The only step in which a refund succeeds or fails: refund, payment and order in one statement."""
    return _read(Refund, await tx.fetchrow(q.complete_refund, refund_id, status, provider_ref, now))


async def moved(read: Read, provider: str, moved: Moved) -> tuple[UUID, UUID | None] | None:
    """The payment that a provider's event is about, and the refund if it is one of ours; None if neither is known, or
    if the refund's amount or currency differs."""
    row = await read.fetchrow(
        q.moved, provider, as_uuid(moved.reference), moved.provider_ref, as_uuid(moved.charge), moved.charge
    )
    if row is None or (row["refund_id"] and (row["amount_cents"], row["currency"]) != (moved.cents, moved.currency)):
        return None
    return row["payment_id"], row["refund_id"]


async def note_moved(tx: Tx, payment_id: UUID, moved: Moved, now: datetime) -> None:
    """Records money that was returned without us, or was not after all. Idempotent, and independent of the order of
    events. Raises NotYetPaid."""
    args = (moved.kind, moved.provider_ref, moved.cents, moved.currency, moved.undone)
    with _refusals():
        await tx.execute(q.note_moved, payment_id, *args, now)


async def settle(tx: Tx, payment_id: UUID, refs: list[str], *, gone: bool, now: datetime) -> list[dict[str, Any]]:
    """Settles what others did to the payment's money, given by the provider's ids: the order continues. `gone`: what a
    bank or the provider took does not come back. Returns what was settled. Raises PaymentContested if a contest is open
    that `refs` does not name."""
    with _refusals():
        return [dict(row) for row in await tx.fetch(q.settle, payment_id, refs, gone, now)]


async def is_unresolved(read: Read, refund_id: UUID) -> bool:
    """Whether more of its payment could be refunded than is refunded or promised, and nobody has requested it again."""
    return bool(await read.fetchval(q.is_unresolved, refund_id))


async def refund_came_back(tx: Tx, refund_id: UUID, now: datetime) -> None:
    """Records that a refund failed for good. Idempotent; it also prevails over a success that is recorded later."""
    await tx.execute(q.refund_came_back, refund_id, now)


async def late_refund(read: Read, payment_id: UUID) -> Refund | None:
    """The refund of a payment that came too late, while it is pending."""
    row = await read.fetchrow(q.late_refund, payment_id)
    return None if row is None else _read(Refund, row)


async def claim_unsettled_refunds(
    tx: Tx, now: datetime, most: int, lease: timedelta, away: Sequence[str]
) -> list[Refund]:
    """Pending refunds to process now, likewise leased: no other worker gets them before the lease expires."""
    rows = await tx.fetch(q.claim_unsettled_refunds, now, most, lease.total_seconds(), away)
    return [_read(Refund, row) for row in rows]


async def remember_event(tx: Tx, provider: str, event: WebhookEvent, payment_id: UUID, now: datetime) -> bool:
    """Records the event; whether it is new. Belongs in the transaction of its effect."""
    return bool(await tx.fetchval(q.remember_event, provider, event.id, event.kind, payment_id, now))


async def sweep_events(tx: Tx, now: datetime) -> None:
    """Deletes events that no provider retries any more, at most `PORTION` of them."""
    await tx.execute(q.sweep_events, now - EVENTS_KEPT, PORTION)


# Where a page begins: after this time, and among rows of that same time after this id.
After = tuple[datetime, UUID]


async def payments_between(read: Read, provider: str, until: datetime, after: After, most: int) -> list[Payment]:
    """A provider's payments in order of creation, before `until`."""
    return [_read(Payment, row) for row in await read.fetch(q.payments_between, provider, until, *after, most)]


async def refunds_between(read: Read, provider: str, until: datetime, after: After, most: int) -> list[Refund]:
    """The same for refunds."""
    return [_read(Refund, row) for row in await read.fetch(q.refunds_between, provider, until, *after, most)]


async def first_payment_at(read: Read, provider: str) -> datetime | None:
    """When the provider's first payment was made."""
    first: datetime | None = await read.fetchval(q.first_payment_at, provider)
    return first


async def known(read: Read, provider: str, refs: list[str]) -> dict[tuple[str, str], Payment | Refund]:
    """Our payments (`charge`) and refunds (`refund`) among these references, ours and the provider's, by kind and
    reference. A refund made by hand at the provider has only the provider's."""
    ids = [id_ for ref in refs if (id_ := as_uuid(ref))]
    found: dict[tuple[str, str], Payment | Refund] = {}
    for row in await read.fetch(q.known_payments, provider, ids):
        found["charge", str(row["id"])] = _read(Payment, row)
    for row in await read.fetch(q.known_refunds, provider, ids, refs):
        ref = row["provider_ref"] if row["reason"] == "elsewhere" else str(row["id"])
        found["refund", ref] = _read(Refund, row)
    return found


def as_uuid(reference: str) -> UUID | None:
    """The UUID in a provider's text; None if it is none."""
    try:
        return UUID(reference)
    except ValueError:
        return None


def _parts(key: RequestKey | None) -> tuple[str | None, str | None]:
    return (key.owner, key.key) if key else (None, None)


def _read(kind: type[T], row: Any) -> T:
    return kind(**{field.name: row[field.name] for field in fields(kind)})


@contextmanager
def _refusals() -> Iterator[None]:
    """Translates the refusals of the SQL functions into the shop's errors."""
    try:
        yield
    except Violation as refused:
        raise _refusal(refused) from refused


def _refusal(refused: Violation) -> Exception:
    match refused.sqlstate:
        case "QT005":
            return OverRefund(refused.message, **orjson.loads(refused.detail))
        case "QT008":
            return NotFound(refused.message)
        case "QT020":
            status = "pending" if refused.detail == "expired" else refused.detail  # not swept yet
            return OrderNotPayable(f"the order is {refused.detail}", order_status=status)
        case "QT021" if refused.constraint:
            return WaitsForBuyer(UUID(refused.detail))
        case "QT021":
            return PaymentInProgress(payment_id=refused.detail)
        case "QT025":
            return NothingToCapture(f"the payment is {refused.detail}", payment_status=refused.detail)
        case "QT026":
            return RequestInProgress()
        case "QT028":
            return PaymentContested(**orjson.loads(refused.detail))
        case "QT029":
            return NotYetPaid(refused.message)
        case "QT027":
            return PredictionFailed(refused.message)
        case "QT030":  # an access token outlives its account by some minutes
            return Unauthenticated(refused.message)
    return refused


async def any_open(read: Read, order_ids: Sequence[UUID]) -> bool:
    """Whether a payment or refund of these orders is in progress, or money is authorized for one."""
    return bool(await read.fetchval(q.any_open, order_ids))


async def forget(tx: Tx, order_ids: Sequence[UUID]) -> None:
    """Keeps the payments, and removes whose requests they were."""
    await tx.execute(q.forget, order_ids)
    await tx.execute(q.forget_refunds, order_ids)
