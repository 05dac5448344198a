"""Completes what a crash, a lost webhook or an unpaid order left open. The worker calls `recover` every second or so;
several at once share the work, since a row that one takes up is invisible to the others for a while (a lease)."""

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

import structlog

from quartet import accounts, orders, payments
from quartet.checkout import captures, completion
from quartet.kernel.errors import StoreUnavailable
from quartet.payments import Outcome, Payment, ProviderError, Providers, ProviderSilent, Refund
from quartet.web import idempotency
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.recovery")

_BATCH = 20
_EXPIRED_AT_ONCE = 500
_PATIENCE = 1.0
# A charge that the provider does not know this long after the request's timeout was never sent.
_NEVER_SENT = timedelta(minutes=2)
# A payment without a provider's id is searched for page by page, among all payments of its minutes. Each page has the
# timeout of one call, and the whole search this one: what comes due meanwhile waits for the next sweep.
_SEARCH = 60.0
# A refund call has ended, with or without an answer, this long before another worker may make one.
_LEASE_MARGIN = timedelta(seconds=5)


@dataclass
class Report:
    """What one sweep did. `failed`: what could not be settled this time and is tried again later."""

    expired: int = 0
    asked: int = 0
    settled: int = 0
    refunds: int = 0
    failed: int = 0

    def __bool__(self) -> bool:
        """Whether there was anything to do."""
        return any(getattr(self, field.name) for field in fields(self))


async def recover(shop: Shop, providers: Providers) -> Report:
    """One sweep: expires unpaid orders, asks the providers about open payments, finishes refunds, deletes old
    idempotency keys and expired sessions. An order with a payment in progress expires only after the provider was
    asked, or while it is slow to answer: a payment that went unnoticed is confirmed, not refunded.

    Raises StoreUnavailable when PostgreSQL is down.
    """
    report = Report()
    await _expire(shop, report, paying=False)
    async with shop.stores.pg.once() as tx:
        open_payments = await payments.claim_unsettled(tx, shop.clock.now(), _BATCH, _away(providers))
    await shop.step("payments taken up")
    await _beside_expiry(shop, (_settle(shop, providers, payment, report) for payment in open_payments), report)
    await _expire(shop, report)
    async with shop.stores.pg.once() as tx:
        lease = timedelta(seconds=shop.settings.payment_timeout) + _LEASE_MARGIN
        open_refunds = await payments.claim_unsettled_refunds(tx, shop.clock.now(), _BATCH, lease, _away(providers))
    await shop.step("refunds taken up")
    await _beside_expiry(shop, (_execute_refund(shop, providers, refund, report) for refund in open_refunds), report)
    async with shop.stores.pg.once() as tx:
        await idempotency.sweep(tx)
    await shop.step("keys swept")
    async with shop.stores.pg.tx() as tx:
        await accounts.sweep(tx, shop.clock.now())
    await shop.step("sessions swept")
    return report


def _away(providers: Providers) -> list[str]:
    return [name for name, provider in providers.items() if provider.is_away]


async def _expire(shop: Shop, report: Report, *, paying: bool = True) -> None:
    while True:
        async with shop.stores.pg.once() as tx:
            expired = await orders.expire_due(tx, _EXPIRED_AT_ONCE, shop.clock.now(), paying=paying)
        await shop.step("orders expired")
        report.expired += len(expired)
        if len(expired) < _EXPIRED_AT_ONCE:
            return


async def _beside_expiry(shop: Shop, work: Iterable[Coroutine[Any, Any, None]], report: Report) -> None:
    """Does the work concurrently, and goes on expiring orders meanwhile: a slow provider does not keep stock
    reserved."""
    tasks = left = {asyncio.create_task(part) for part in work}
    try:
        while left:
            _, left = await asyncio.wait(left, timeout=_PATIENCE)
            if left:
                await _expire(shop, report)
        _note_failures(tasks, report)
    finally:
        for task in left:
            task.cancel()


def _note_failures(tasks: Iterable["asyncio.Task[None]"], report: Report) -> None:
    for task in tasks:
        found = task.exception()
        if isinstance(found, StoreUnavailable):
            raise found
        if found is not None:  # one that can't be settled must not hold up the others
            report.failed += 1
            log.error("not recovered", error=repr(found))


async def _settle(shop: Shop, providers: Providers, payment: Payment, report: Report) -> None:
    """Looks up an open payment at the provider, and carries out the capture or void that is due."""
    report.asked += 1
    provider = providers.get(payment.provider)
    if provider is None:
        raise LookupError(f"payment {payment.id} waits for the provider {payment.provider}, which is off")
    if payment.due == "void":
        report.settled += (await completion.void_payment(shop, providers, payment)).due is None
        return
    patience = shop.settings.payment_timeout if payment.provider_id else _SEARCH
    try:
        async with asyncio.timeout(patience):
            outcome = await completion.provider_state(shop, provider, payment)
    except (TimeoutError, ProviderError, ProviderSilent) as silence:
        log.warning("provider silent", payment=str(payment.id), error=repr(silence))
        report.failed += 1
        return
    if outcome is not None and not payment.fits(outcome):
        raise ValueError(f"payment {payment.id} is of another sum at {payment.provider}: {outcome}")
    if outcome is not None and outcome.status == "authorized" and payment.due == "capture":
        await captures.capture_hold(shop, providers, payment, give_up=False)
        return
    failure = None
    if outcome is None:
        still_young = timedelta(seconds=shop.settings.request_timeout) + _NEVER_SENT
        if payment.status != "pending" or shop.clock.now() - payment.created_at < still_young:
            return
        outcome, failure = Outcome(None, "failed", "never_sent"), ProviderError("the charge was never sent")
    if shop.clock.now() < completion.ask_at(shop, payment.created_at):  # due early, through a webhook or the buyer
        payment = completion.without_key_while_pending(payment, outcome)
    _, completed = await completion.complete(shop, payment, outcome, failure=failure)
    report.settled += completed.payment.status != payment.status
    await completion.follow_up(shop, providers, completed)


async def _execute_refund(shop: Shop, providers: Providers, refund: Refund, report: Report) -> None:
    report.refunds += 1
    await completion.execute_refund(shop, providers, refund, again=True)
