"""Compares a provider's records with ours and reports every difference.

Both are read an hour at a time, so memory holds one hour of the provider's and one page of ours, however long the
period is. A record of ours that is not in the same hour of the provider's is looked up individually.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeVar
from uuid import UUID

from quartet.payments import store
from quartet.payments.model import (
    Entry,
    Outcome,
    Payment,
    ProviderAway,
    ProviderError,
    ProviderSilent,
    Refund,
    RefundRequest,
)
from quartet.payments.providers.port import PaymentProvider
from quartet.stores.postgres import Postgres, Read

_SLICE = timedelta(hours=1)
# Clocks differ, and a charge is recorded here a moment before it is made there.
_MARGIN = timedelta(minutes=10)
_PAGE = 500
# A capture or void that is due reaches the provider within seconds; after this long it is stuck.
_OVERDUE = timedelta(days=1)
# Statuses at the provider that match each of ours; if money was moved, or is to be, the provider must have a record.
_MATCHING_STATUSES = {
    "pending": ("pending", "failed", "voided"),
    "authorized": ("authorized",),
    "succeeded": ("succeeded",),
    "refunded": ("succeeded",),
    "failed": ("failed", "voided"),
    "voided": ("voided", "failed"),
}
_MONEY = ("authorized", "succeeded", "refunded")
# Statuses that are reported for records unknown here. Pending refunds count: once they succeed, their day has been
# compared already.
_REPORTED_STATUSES = {"charge": _MONEY, "refund": (*_MONEY, "pending")}

# How many days later a day is compared again: both sides file a charge or refund under the day it began, whatever
# becomes of it. A refund can fail after days, an authorization is captured within a month, a dispute is lost after two
# or three months.
_REPEATED_AFTER_DAYS = (3, 7, 14, 30, 60, 120)

Theirs = Mapping[tuple[str, str], Entry]
T = TypeVar("T", Payment, Refund)
Listed = Callable[[Read, str, datetime, tuple[datetime, UUID], int], Awaitable[list[T]]]


@dataclass(frozen=True)
class Difference:
    """`kind` is charge or refund; `reference` is our id, "" if there is none; `provider_ref` is the provider's id of
    the charge, or of a record unknown here."""

    kind: str
    reference: str
    provider_ref: str
    finding: str


@dataclass
class Compared:
    """How many records were compared, the provider's and ours."""

    theirs: int = 0
    ours: int = 0


async def days_due(pg: Postgres, name: str, today: date) -> list[date]:
    """The days to compare today: yesterday, and earlier ones again, but of those none before the provider's first
    payment here: its account may be older than the shop."""
    async with pg.read() as read:
        first = await store.first_payment_at(read, name)
    again = [today - timedelta(days=back) for back in _REPEATED_AFTER_DAYS]
    return [
        today - timedelta(days=1),
        *(day for day in again if first is not None and day >= first.astimezone(UTC).date()),
    ]


async def reconcile(
    pg: Postgres, name: str, provider: PaymentProvider, day: date, compared: Compared
) -> AsyncIterator[Difference]:
    """The differences of a day (UTC). Raises ValueError when the provider fails or does not answer."""
    start = datetime.combine(day, time.min, UTC)
    try:
        for hour in range(24):
            async for difference in _hour(pg, name, provider, start + hour * _SLICE, compared):
                yield difference
    except (ProviderError, ProviderSilent) as error:
        raise ValueError(f"the provider {name} does not answer: {error}") from error


async def _hour(
    pg: Postgres, name: str, provider: PaymentProvider, since: datetime, compared: Compared
) -> AsyncIterator[Difference]:
    until = since + _SLICE
    theirs: dict[tuple[str, str], Entry] = {}
    async for entry in provider.entries(since - _MARGIN, until + _MARGIN):
        is_now = since <= entry.created_at < until
        compared.theirs += is_now
        # A record that we did not create may lack our reference; the provider's id serves as the key then.
        key = (entry.kind, entry.reference or entry.provider_ref)
        first = theirs.get(key)
        if first is None or first.status not in _MONEY:
            theirs[key] = entry
        elif is_now and entry.status in _MONEY and entry.provider_ref != first.provider_ref:
            finding = f"{entry.amount_cents} {entry.currency} {entry.status} there beside {first.provider_ref}: twice"
            yield Difference(entry.kind, entry.reference, entry.provider_ref, finding)

    async for payment in _each(pg, store.payments_between, name, since, until):
        compared.ours += 1
        for finding in await _compare(payment, _provider_charge(provider, payment, theirs)) or _overdue(payment):
            yield Difference("charge", str(payment.id), payment.provider_id or "", finding)
    async for refund in _each(pg, store.refunds_between, name, since, until):
        compared.ours += 1
        for finding in await _compare(refund, _provider_refund(provider, refund, theirs)):
            yield Difference("refund", str(refund.id), refund.charge_ref, finding)
        # The requester was told of a refund that failed at once, but not of a failure that the worker found later.
        if (
            refund.status == "failed"
            and (refund.reason != "asked" or refund.asked > 0)
            and await _is_unresolved(pg, refund)
        ):
            finding = (
                f"{refund.amount_cents} {refund.currency} must go back, and the provider can't: give them otherwise"
            )
            yield Difference("refund", str(refund.id), refund.charge_ref, finding)

    made = [(ref, entry) for (_, ref), entry in theirs.items() if since <= entry.created_at < until]
    for some in range(0, len(made), _PAGE):
        page = made[some : some + _PAGE]
        async with pg.read() as read:
            known = await store.known(read, name, [each for ref, entry in page for each in (ref, entry.provider_ref)])
        for ref, entry in page:
            ours = known.get((entry.kind, ref)) or known.get((entry.kind, entry.provider_ref))
            for finding in _differences_of_other_hours(ours, entry):
                yield Difference(entry.kind, entry.reference, entry.provider_ref, finding)


def _differences_of_other_hours(ours: Payment | Refund | None, entry: Entry) -> Iterator[str]:
    """What differs between a provider's record and ours, unless ours was already compared in its own hour. A charge or
    refund unknown here that came to nothing is no difference."""
    if ours is None:
        if entry.status in _REPORTED_STATUSES[entry.kind]:
            yield f"{entry.amount_cents} {entry.currency} {entry.status} there, unknown here"
        return
    hour = ours.created_at.replace(minute=0, second=0, microsecond=0)
    if entry.status in _MONEY and not hour - _MARGIN <= entry.created_at < hour + _SLICE + _MARGIN:
        yield from _differences(ours, entry)


def _overdue(payment: Payment) -> Iterator[str]:
    if payment.due is not None and datetime.now(UTC) - payment.updated_at > _OVERDUE:
        yield f"is {payment.status} here, and its {payment.due} does not come about"


async def _compare(ours: Payment | Refund, counterpart: Awaitable[Entry | None]) -> list[str]:
    """What differs. A provider that refuses to report this record is a difference too, and does not keep the others
    from being compared."""
    try:
        return list(_differences(ours, await counterpart))
    except ProviderAway:  # says nothing about this record
        raise
    except ProviderError as refused:
        return [f"{ours.amount_cents} {ours.currency} {ours.status} here, can't be looked up there: {refused}"]


def _differences(ours: Payment | Refund, theirs: Entry | None) -> Iterator[str]:
    """What differs between a record of ours and the provider's."""
    status = ours.status
    if theirs is None:
        # A payment of zero never reaches the provider. A pending refund is requested until the provider has it.
        if (status in _MONEY or _is_owed(ours)) and ours.amount_cents > 0:
            yield f"{ours.amount_cents} {ours.currency} {status} here, unknown there"
        return
    if theirs.currency != ours.currency:
        yield f"is in {ours.currency} here, in {theirs.currency} there"
    elif theirs.amount_cents != ours.amount_cents:
        yield f"is {ours.amount_cents} {ours.currency} here, {theirs.amount_cents} there"
    if theirs.status not in _MATCHING_STATUSES[status]:
        yield f"is {status} here, {theirs.status} there"
    elif theirs.status == "succeeded" and theirs.captured_cents != theirs.amount_cents:
        yield f"{theirs.captured_cents} of {theirs.amount_cents} {theirs.currency} were moved there"


async def _provider_charge(provider: PaymentProvider, payment: Payment, theirs: Theirs) -> Entry | None:
    found = theirs.get(("charge", str(payment.id)))
    if found is not None or payment.status not in _MONEY:
        return found
    return _entry(payment, await provider.look_up(str(payment.id), payment.provider_id))


async def _provider_refund(provider: PaymentProvider, refund: Refund, theirs: Theirs) -> Entry | None:
    found = theirs.get(("refund", str(refund.id)))
    if found is not None or not (refund.status in _MONEY or _is_owed(refund)):
        return found
    asked = RefundRequest(
        str(refund.id), str(refund.payment_id), refund.charge_ref, refund.amount_cents, refund.currency
    )
    return _entry(refund, await provider.look_up_refund(asked))


async def _is_unresolved(pg: Postgres, refund: Refund) -> bool:
    """False if all of its payment was refunded otherwise or is about to be, or if the refund was requested again."""
    async with pg.read() as read:
        return await store.is_unresolved(read, refund.id)


def _is_owed(ours: Payment | Refund) -> bool:
    return ours.status == "pending" and isinstance(ours, Refund)


def _entry(ours: Payment | Refund, outcome: Outcome | None) -> Entry | None:
    """A look-up's result as an `Entry`; what it does not state is taken to match ours."""
    if outcome is None:
        return None
    cents = ours.amount_cents if outcome.cents is None else outcome.cents
    moved = cents if outcome.status == "succeeded" else 0
    currency = outcome.currency or ours.currency
    ref = outcome.provider_ref or ""
    return Entry("charge", ref, str(ours.id), outcome.status, cents, moved, currency, ours.created_at)


async def _each(pg: Postgres, listed: Listed[T], name: str, since: datetime, until: datetime) -> AsyncIterator[T]:
    """Everything created in that period, read page by page."""
    after: tuple[datetime, UUID] = (since, UUID(int=0))
    while True:
        async with pg.read() as read:
            page = await listed(read, name, until, after, _PAGE)
        for one in page:
            yield one
        if len(page) < _PAGE:
            return
        after = (page[-1].created_at, page[-1].id)
