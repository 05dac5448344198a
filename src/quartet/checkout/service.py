"""The purchase: order, payment, cancellation, refund. The provider is always called between two transactions: the
first writes down what is about to happen, the second what did; a crash between them is mended by `recovery`."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from quartet import cart, orders, payments
from quartet.checkout import answers
from quartet.kernel.errors import NotFound, StoreUnavailable, invalid
from quartet.payments import (
    Charge,
    Completed,
    GiveBack,
    Outcome,
    Payment,
    PaymentProvider,
    ProviderError,
    ProviderOff,
    Providers,
    ProviderSilent,
    Refund,
)
from quartet.stores.postgres import Tx
from quartet.web import idempotency
from quartet.web.answers import Answer
from quartet.web.dependencies import Principal, Shop
from quartet.web.idempotency import RequestKey

log = structlog.get_logger("quartet.checkout")

# The gateway gives a request up before this; only then may recovery ask the provider about what it left.
_MARGIN = timedelta(seconds=5)

Lines = Sequence[tuple[str, int]]


async def place(
    shop: Shop, principal: Principal, items: Lines | None, metadata: Mapping[str, Any], key: RequestKey | None
) -> Answer:
    """Reserves stock and writes the order: of `items` (SKU, pieces), else of the user's cart.

    Raises InsufficientStock, UnknownSku, MixedCurrencies, Invalid (nothing to order), and StoreUnavailable where the
    cart is asked for and Redis is away.
    """
    lines = await _cart_lines(shop, principal.user_id) if items is None else items
    hold = timedelta(seconds=shop.settings.order_hold_seconds)
    async with idempotency.transaction(shop.stores.pg, key, statements=1) as slot:
        if slot.replay is not None:
            return slot.replay
        if isinstance(lines, StoreUnavailable):
            raise lines
        if not lines:
            raise invalid("items", "must not be empty" if items is not None else "are missing, and the cart is empty")
        order = await orders.place(slot.tx, principal.user_id, lines, metadata, hold)
        return await slot.keep(answers.of_order(order, 201))


async def _cart_lines(shop: Shop, user_id: UUID) -> Lines | StoreUnavailable:
    """Redis is asked before the transaction; its failure matters only if the key has no answer yet."""
    try:
        return list((await cart.lines(shop.stores.redis, user_id)).items())
    except StoreUnavailable as away:
        return away


async def pay(
    shop: Shop,
    providers: Providers,
    principal: Principal,
    order_id: UUID,
    *,
    provider: str,
    method: str,
    key: RequestKey | None,
    request_id: str,
) -> Answer:
    """Charges the whole order.

    Raises NotFound, OrderNotPayable, PaymentInProgress, Invalid (no such provider or method), ProviderError.
    """
    chosen = providers.get(provider)
    if chosen is None:
        raise invalid("provider", f"must be one of {', '.join(providers)}")
    if chosen.methods is not None and method not in chosen.methods:
        raise invalid("paymentMethod", f"must be one of {', '.join(sorted(chosen.methods))}")
    now = shop.clock.now()
    async with idempotency.transaction(shop.stores.pg, key, statements=1) as slot:
        if slot.replay is not None:
            return slot.replay
        payment = await payments.start(
            slot.tx, order_id, principal.user_id, provider, key=key, now=now, ask=_ask_at(shop, now)
        )
        await slot.start()
    outcome, failure = await _charge(shop, chosen, payment, method)
    answer, completed = await complete(shop, payment, outcome, request_id=request_id, failure=failure)
    await follow_up(shop, providers, completed)
    if failure is not None:
        raise failure
    return answer


async def _charge(
    shop: Shop, provider: PaymentProvider, payment: Payment, method: str
) -> tuple[Outcome, ProviderError | None]:
    """What the provider says. Its failure means that nothing was charged; its silence that nobody knows."""
    try:
        async with asyncio.timeout(shop.settings.payment_timeout):
            charge = Charge(str(payment.id), payment.amount_cents, payment.currency, method)
            return await provider.charge(charge), None
    except ProviderError as failure:
        return Outcome(None, "failed", "provider_error"), failure
    except (TimeoutError, ProviderSilent) as silence:
        log.warning("provider silent", payment=str(payment.id), provider=payment.provider, error=repr(silence))
        return Outcome(None, "pending"), None


async def complete(
    shop: Shop,
    payment: Payment,
    outcome: Outcome,
    *,
    request_id: str = "",
    failure: ProviderError | None = None,
) -> tuple[Answer, Completed]:
    """The second transaction, for the request and for recovery."""
    pg = shop.stores.pg
    async with pg.once() if payment.request_key is None else pg.tx() as tx:
        return await complete_in(tx, payment, outcome, shop.clock.now(), request_id=request_id, failure=failure)


async def complete_in(
    tx: Tx,
    payment: Payment,
    outcome: Outcome,
    now: datetime,
    *,
    request_id: str = "",
    failure: ProviderError | None = None,
) -> tuple[Answer, Completed]:
    """What the provider said becomes true, and the request's answer is kept with it."""
    completed = await payments.complete(tx, payment.id, outcome, now)
    answer = answers.of_payment(completed.payment, request_id)
    if payment.request_owner is not None and payment.request_key is not None:
        if failure is not None:  # nothing happened, so that the same key may try again
            await idempotency.release(tx, payment.request_owner, payment.request_key)
        else:
            await idempotency.finish(tx, payment.request_owner, payment.request_key, answer)
    return answer, completed


async def follow_up(shop: Shop, providers: Providers, completed: Completed) -> None:
    """After the commit, as good as it goes: the cart loses what was bought, and money that came too late goes back. The
    outbox and recovery see to both in any case."""
    payment = completed.payment
    try:
        if payment.status == "succeeded":
            await cart.take_bought(shop.stores.redis, completed.user_id, completed.bought, payment.order_id)
        elif payment.status == "refunded":
            async with shop.stores.pg.read() as read:
                late = await payments.late_refund(read, payment.id)
            if late is not None:
                await give_back(shop, providers, late)
    except Exception as error:  # the order is paid: nothing here may make the answer another one
        log.warning("follow-up left to the worker", payment=str(payment.id), error=repr(error))


async def receive(shop: Shop, providers: Providers, name: str, headers: Mapping[str, str], body: bytes) -> None:
    """A provider's webhook; once or many times the same. Raises NotFound, BadSignature, BadRequest."""
    provider = providers.get(name)
    if provider is None:
        raise NotFound(f"there is no payment provider {name}")
    now = shop.clock.now()
    event = provider.parse_webhook(headers, body, now)
    payment = await _payment_of(shop, event.reference)
    if event.outcome is None or payment is None or payment.provider != name:
        log.info("webhook ignored", provider=name, kind=event.kind, event_id=event.id)
        return
    async with shop.stores.pg.tx() as tx:
        if not await payments.remember_event(tx, name, event, payment.id, now):
            return
        _, completed = await complete_in(tx, payment, event.outcome, now)
    await follow_up(shop, providers, completed)


async def _payment_of(shop: Shop, reference: str) -> Payment | None:
    try:
        payment_id = UUID(reference)
    except ValueError:
        return None
    async with shop.stores.pg.read() as read:
        return await payments.by_id(read, payment_id)


async def cancel(
    shop: Shop, providers: Providers, principal: Principal, order_id: UUID, key: RequestKey | None
) -> Answer:
    """The stock is free again, and what was paid goes back.

    Raises NotFound (also for another's order), InvalidTransition.
    """
    now, by = shop.clock.now(), principal.user_id
    async with idempotency.transaction(shop.stores.pg, key) as slot:
        if slot.replay is not None:
            return slot.replay
        order = await orders.lock(slot.tx, order_id)
        if order.user_id != by and not principal.is_staff:
            raise NotFound(f"there is no order {order_id}")
        order = await orders.cancel(slot.tx, order_id, by=str(by), reason="cancelled")
        refund = await payments.start_refund(
            slot.tx, order_id, None, "cancelled", by=by, key=key, now=now, ask=_ask_at(shop, now)
        )
        if refund is None:
            return await slot.keep(answers.of_order(order))
        await slot.start()
    return await give_back(shop, providers, refund)


async def refund(
    shop: Shop,
    providers: Providers,
    principal: Principal,
    order_id: UUID,
    *,
    cents: int | None,
    restock: bool,
    key: RequestKey | None,
) -> Answer:
    """Gives money back, all that is left by default. Raises NotFound, OverRefund, ProviderOff, ProviderError."""
    now = shop.clock.now()
    async with idempotency.transaction(shop.stores.pg, key) as slot:
        if slot.replay is not None:
            return slot.replay
        await orders.lock(slot.tx, order_id)
        promised = await payments.start_refund(
            slot.tx, order_id, cents, "asked", by=principal.user_id, restock=restock, key=key,
            now=now, ask=_ask_at(shop, now),
        )  # fmt: skip
        if promised is None:
            raise orders.OverRefund("nothing is left to give back", refundable_cents=0)
        if promised.provider not in providers:  # nobody would ever see to it
            raise ProviderOff(
                f"it was paid through {promised.provider}: give the money back there", provider=promised.provider
            )
        await slot.start()
    return await give_back(shop, providers, promised)


async def give_back(shop: Shop, providers: Providers, refund: Refund) -> Answer:
    """Asks the provider for a refund that is written down, then writes down that it came; the answer is the request's.
    Staff are told of a failure (ProviderError); whatever has to go back anyway is tried again by recovery."""
    status, provider_ref, failure = await _refund(shop, providers, refund)
    async with shop.stores.pg.tx() as tx:
        if status != "pending":
            refund = await payments.complete_refund(tx, refund.id, status, provider_ref, shop.clock.now())
        answer = answers.of_refund(refund)
        if refund.reason == "cancelled":
            answer = answers.of_order(await orders.get(tx, refund.order_id))
        if refund.request_owner is not None and refund.request_key is not None:
            if failure is not None:
                await idempotency.release(tx, refund.request_owner, refund.request_key)
            else:
                await idempotency.finish(tx, refund.request_owner, refund.request_key, answer)
    if failure is not None:
        raise failure
    return answer


async def _refund(shop: Shop, providers: Providers, refund: Refund) -> tuple[str, str | None, ProviderError | None]:
    provider = providers.get(refund.provider)
    if provider is None:
        log.error("a refund waits for a provider that is off", provider=refund.provider, refund=str(refund.id))
        return "pending", None, None
    asked = GiveBack(str(refund.id), str(refund.payment_id), refund.charge_ref, refund.amount_cents, refund.currency)
    try:
        async with asyncio.timeout(shop.settings.payment_timeout):
            outcome = await provider.refund(asked)
    except ProviderError as failure:
        if refund.reason == "asked":
            return "failed", None, failure
        log.warning("refund failed, to be tried again", refund=str(refund.id), error=str(failure))
        return "pending", None, None
    except (TimeoutError, ProviderSilent) as silence:
        log.warning("provider silent", refund=str(refund.id), error=repr(silence))
        return "pending", None, None
    return outcome.status, outcome.provider_ref, None


def _ask_at(shop: Shop, now: datetime) -> datetime:
    return now + timedelta(seconds=shop.settings.request_timeout) + _MARGIN
