"""Payments, refunds and webhook events in PostgreSQL; schema/payment_steps.sql tells what each step does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import orjson

from quartet.kernel.errors import NotFound, RequestInProgress
from quartet.kernel.ids import new_id
from quartet.orders import OverRefund, PaymentContested
from quartet.payments.model import (
    Bought,
    CameOtherwise,
    Completed,
    Moved,
    NothingToCapture,
    NotYetPaid,
    OrderNotPayable,
    Outcome,
    Payment,
    PaymentInProgress,
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

# A pending payment is looked at again this soon, should no webhook come.
SOON = timedelta(seconds=2)
# Stripe and PayPal send an event again for three days.
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
    """A pending payment of the whole order, the user's or, `as_guest`, one that is a guest's; `ask` is when recovery
    may ask the provider about it.

    Raises NotFound, OrderNotPayable, PaymentInProgress, WaitsForBuyer.
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
    """The same with the key claimed before and marked as running after it, in one statement: for
    `idempotency.unclaimed`. The key's first answer where it has one.

    Raises IdempotencyKeyReused and RequestInProgress as well.
    """
    args = (new_id(), order_id, user_id, as_guest, provider, key.owner, key.key, now, ask, key.fingerprint)
    with _refusals():
        row = await tx.fetchrow(q.start_under_key, *args)
    return first_answer(key, row) or _read(Payment, row)


async def complete(
    tx: Tx, payment_id: UUID, outcome: Outcome, now: datetime, answer: Answer | None = None
) -> Completed:
    """The one step in which what a provider says becomes true: payment, order and stock together. Repeating it changes
    nothing; the payment comes back as it stands. `answer` is kept under the key of the request that started it, if it
    comes to stand as `Payment.after` foretold; raises CameOtherwise if not, and nothing is done.
    """
    kept = (None, None, None) if answer is None else to_keep(answer)
    with _refusals():
        row = await tx.fetchrow(
            q.complete, payment_id, outcome.status, outcome.provider_ref, outcome.decline_code, now, now + SOON,
            outcome.redirect_url, *kept,
        )  # fmt: skip
    return Completed(_read(Payment, row), row["user_id"], row["guest_cart"], row["bought"] or {})


async def with_buyer(read: Read, payment_id: UUID) -> Bought | None:
    """A payment with whose it is."""
    row = await read.fetchrow(q.with_buyer, payment_id)
    return None if row is None else Bought(_read(Payment, row), row["user_id"], row["email"])


async def take_to_ask(tx: Tx, now: datetime, most: int, away: Sequence[str] = ()) -> list[Payment]:
    """Open payments to ask the provider about now, those that are away excepted; nobody else gets them for a while."""
    return [_read(Payment, row) for row in await tx.fetch(q.take_to_ask, now, most, away)]


async def is_unwanted(read: Read, payment_id: UUID) -> bool:
    """Whether nobody should pay it any more: its order was cancelled, it was declined, or is let go for another."""
    return bool(await read.fetchval(q.is_unwanted, payment_id))


async def start_capture(tx: Tx, payment_id: UUID, *, key: RequestKey | None, now: datetime, ask: datetime) -> Payment:
    """What is held is to be taken. Raises NotFound, PaymentInProgress (a capture is under way), NothingToCapture."""
    with _refusals():
        return _read(Payment, await tx.fetchrow(q.start_capture, payment_id, *_parts(key), now, ask))


async def drop_capture(tx: Tx, payment_id: UUID, now: datetime) -> None:
    """The provider will not capture, for now."""
    await tx.execute(q.drop_capture, payment_id, now)


async def start_void(tx: Tx, order_id: UUID, *, now: datetime, ask: datetime) -> Payment | None:
    """What is held for a cancelled order is to be let go; None when nothing is held."""
    row = await tx.fetchrow(q.start_void, order_id, now, ask)
    return None if row is None else _read(Payment, row)


async def leave(tx: Tx, payment_id: UUID, providers: Sequence[str], *, now: datetime, ask: datetime) -> Payment | None:
    """A payment that waits for its buyer is to be let go, since he pays another way; None when it waits no more, or is
    of none of these providers."""
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
    """Money promised back: the price of `items` (SKU, pieces), or `cents`, or without both all that is left; None when
    nothing is left. `note` says why. Raises OverRefund."""
    owner, name = _parts(key)
    lines = None if items is None else [{"sku": sku, "qty": qty} for sku, qty in items]
    with _refusals():
        row = await tx.fetchrow(
            q.start_refund, order_id, cents, reason, restock, by, owner, name, now, ask, lines, note
        )
    return None if row is None else _read(Refund, row)


async def complete_refund(tx: Tx, refund_id: UUID, status: str, provider_ref: str | None, now: datetime) -> Refund:
    """The one step in which money is back, or will not come back: refund, payment and order together."""
    return _read(Refund, await tx.fetchrow(q.complete_refund, refund_id, status, provider_ref, now))


async def moved(read: Read, provider: str, moved: Moved) -> tuple[UUID, UUID | None] | None:
    """The payment that a provider speaks of, and the refund where it is one of ours; None where neither is known, or
    the refund is of another sum."""
    row = await read.fetchrow(
        q.moved, provider, as_uuid(moved.reference), moved.provider_ref, as_uuid(moved.charge), moved.charge
    )
    if row is None or (row["refund_id"] and (row["amount_cents"], row["currency"]) != (moved.cents, moved.currency)):
        return None
    return row["payment_id"], row["refund_id"]


async def note_moved(tx: Tx, payment_id: UUID, moved: Moved, now: datetime) -> None:
    """What went back without us, or did not after all: once or many times, in whatever order, the same. Raises
    NotYetPaid."""
    args = (moved.kind, moved.provider_ref, moved.cents, moved.currency, moved.undone)
    with _refusals():
        await tx.execute(q.note_moved, payment_id, *args, now)


async def settle(tx: Tx, payment_id: UUID, refs: list[str], *, gone: bool, now: datetime) -> list[dict[str, Any]]:
    """What others did to its money, by the provider's names, is seen to: the order goes on. `gone`: what a bank or the
    provider took is not coming back. Answers what that was. Raises PaymentContested where more is open than named."""
    with _refusals():
        return [dict(row) for row in await tx.fetch(q.settle, payment_id, refs, gone, now)]


async def is_left(read: Read, refund_id: UUID) -> bool:
    """Whether more of its payment could be given back than is, and is promised, and nobody has asked for it again."""
    return bool(await read.fetchval(q.is_left, refund_id))


async def refund_came_back(tx: Tx, refund_id: UUID, now: datetime) -> None:
    """It has failed for good. Repeating it changes nothing, and nothing that was said before it comes after it."""
    await tx.execute(q.refund_came_back, refund_id, now)


async def late_refund(read: Read, payment_id: UUID) -> Refund | None:
    """The refund of a payment that came too late, while it is open."""
    row = await read.fetchrow(q.late_refund, payment_id)
    return None if row is None else _read(Refund, row)


async def take_refunds_to_ask(
    tx: Tx, now: datetime, most: int, lease: timedelta, away: Sequence[str] = ()
) -> list[Refund]:
    """Open refunds to see to now, likewise; nobody else gets them before the lease is over."""
    rows = await tx.fetch(q.take_refunds_to_ask, now, most, lease.total_seconds(), away)
    return [_read(Refund, row) for row in rows]


async def remember_event(tx: Tx, provider: str, event: WebhookEvent, payment_id: UUID, now: datetime) -> bool:
    """Whether the event is new. Belongs into the transaction of its effect."""
    return bool(await tx.fetchval(q.remember_event, provider, event.id, event.kind, payment_id, now))


async def sweep_events(tx: Tx, now: datetime) -> None:
    """Forgets events that nobody sends any more, a portion of them."""
    await tx.execute(q.sweep_events, now - EVENTS_KEPT, PORTION)


# Where a page begins: after this moment, and after this id among those of that moment.
After = tuple[datetime, UUID]


async def made_between(read: Read, provider: str, until: datetime, after: After, most: int) -> list[Payment]:
    """Payments of a provider in the order of time, before `until`."""
    return [_read(Payment, row) for row in await read.fetch(q.made_between, provider, until, *after, most)]


async def given_back_between(read: Read, provider: str, until: datetime, after: After, most: int) -> list[Refund]:
    """The same of refunds."""
    return [_read(Refund, row) for row in await read.fetch(q.given_back_between, provider, until, *after, most)]


async def first_made(read: Read, provider: str) -> datetime | None:
    """When the provider's first payment was made."""
    first: datetime | None = await read.fetchval(q.first_made, provider)
    return first


async def known(read: Read, provider: str, refs: list[str]) -> dict[tuple[str, str], Payment | Refund]:
    """Those of these names, ours and the provider's, that are payments (`charge`) or refunds (`refund`) of ours, by
    what they are. A refund made by hand there has the provider's alone."""
    ids = [id_ for ref in refs if (id_ := as_uuid(ref))]
    found: dict[tuple[str, str], Payment | Refund] = {}
    for row in await read.fetch(q.known_payments, provider, ids):
        found["charge", str(row["id"])] = _read(Payment, row)
    for row in await read.fetch(q.known_refunds, provider, ids, refs):
        ref = row["provider_ref"] if row["reason"] == "elsewhere" else str(row["id"])
        found["refund", ref] = _read(Refund, row)
    return found


def as_uuid(reference: str) -> UUID | None:
    """None where a provider's text is no id of ours."""
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
    """What the database's functions refuse, in the words of the shop."""
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
            status = "pending" if refused.detail == "expired" else refused.detail  # until the sweep comes
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
            return CameOtherwise(refused.message)
    return refused


async def any_open(read: Read, order_ids: Sequence[UUID]) -> bool:
    """Whether a payment or refund of these orders is under way, or money is held for one."""
    return bool(await read.fetchval(q.any_open, order_ids))


async def forget(tx: Tx, order_ids: Sequence[UUID]) -> None:
    """The payments stay; whose requests they were does not."""
    await tx.execute(q.forget, order_ids)
    await tx.execute(q.forget_refunds, order_ids)
