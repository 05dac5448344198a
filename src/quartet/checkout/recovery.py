"""What a crash, a lost webhook or an unpaid order left open, brought to its end. The worker calls `recover` every
second or so; several at once share the work, since whatever one takes up is out of the others' sight for a while."""

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, fields
from datetime import timedelta

import structlog

from quartet import accounts, orders, payments
from quartet.checkout import service
from quartet.kernel.errors import StoreUnavailable
from quartet.payments import Outcome, Payment, ProviderError, Providers, ProviderSilent, Refund
from quartet.web import idempotency
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.recovery")

_BATCH = 20
# A charge that the provider has not heard of this long after the request was given up was never sent.
_NEVER_SENT = timedelta(minutes=2)


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


async def recover(shop: Shop, providers: Providers | None = None) -> Report:
    """One sweep: asks the providers about open payments, expires unpaid orders, finishes refunds, forgets old keys
    and dead sessions.

    Raises StoreUnavailable when PostgreSQL is away.
    """
    if providers is None:
        providers = payments.open_providers(shop.settings, shop.stores.pg)
    report = Report()
    async with shop.stores.pg.once() as tx:
        open_payments = await payments.take_to_ask(tx, shop.clock.now(), _BATCH)
    await _all((_settle(shop, providers, payment, report) for payment in open_payments), report)
    await _expire(shop, report)  # only now: what was paid in time and not noticed is confirmed, not given back
    async with shop.stores.pg.once() as tx:
        open_refunds = await payments.take_refunds_to_ask(tx, shop.clock.now(), _BATCH)
    await _all((_give_back(shop, providers, refund, report) for refund in open_refunds), report)
    async with shop.stores.pg.once() as tx:
        await idempotency.sweep(tx)
    async with shop.stores.pg.tx() as tx:
        await accounts.sweep(tx, shop.clock.now())
    return report


async def _expire(shop: Shop, report: Report) -> None:
    while True:
        async with shop.stores.pg.tx() as tx:
            expired = await orders.expire_due(tx, _BATCH, shop.clock.now())
        report.expired += len(expired)
        if len(expired) < _BATCH:
            return


async def _all(work: Iterable[Awaitable[None]], report: Report) -> None:
    for found in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(found, StoreUnavailable):
            raise found
        if isinstance(found, BaseException):  # one that can't be settled must not hold up the others
            report.failed += 1
            log.error("not recovered", error=repr(found))


async def _settle(shop: Shop, providers: Providers, payment: Payment, report: Report) -> None:
    """Asks how an open payment stands."""
    report.asked += 1
    provider = providers.get(payment.provider)
    if provider is None:
        raise LookupError(f"payment {payment.id} waits for the provider {payment.provider}, which is off")
    try:
        async with asyncio.timeout(shop.settings.payment_timeout):
            outcome = await provider.look_up(str(payment.id))
    except (TimeoutError, ProviderError, ProviderSilent) as silence:
        log.warning("provider silent", payment=str(payment.id), error=repr(silence))
        report.failed += 1
        return
    failure = None
    if outcome is None:
        if shop.clock.now() - payment.created_at < timedelta(seconds=shop.settings.request_timeout) + _NEVER_SENT:
            return
        outcome, failure = Outcome(None, "failed", "never_sent"), ProviderError("the charge was never sent")
    _, completed = await service.complete(shop, payment, outcome, failure=failure)
    report.settled += completed.payment.status != "pending"
    await service.follow_up(shop, providers, completed)


async def _give_back(shop: Shop, providers: Providers, refund: Refund, report: Report) -> None:
    report.refunds += 1
    await service.give_back(shop, providers, refund)
