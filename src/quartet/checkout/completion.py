"""What the requests for money share with webhooks and recovery, whichever comes first: the provider is asked about what
was started, its answer is recorded, and what follows from it is done."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from quartet import cart, orders, payments
from quartet.checkout import answers
from quartet.payments import (
    Completed,
    Hold,
    Outcome,
    Payment,
    PaymentProvider,
    ProviderAway,
    ProviderError,
    ProviderOff,
    Providers,
    ProviderSilent,
    Refund,
    RefundRequest,
)
from quartet.stores.postgres import Tx
from quartet.web import idempotency
from quartet.web.answers import Answer
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.checkout")

# A request times out at the gateway before this; only then may recovery ask the provider about what it left open.
_MARGIN = timedelta(seconds=5)

# A refund that was refused more often than this, over some ten minutes, needs somebody's attention.
_ATTENTION_AFTER = 8

# Providers refuse to charge zero.
NOTHING_TO_PAY = Outcome(None, "succeeded")


def ask_at(shop: Shop, now: datetime) -> datetime:
    """The time by which a request that begins now has certainly ended."""
    return now + timedelta(seconds=shop.settings.request_timeout) + _MARGIN


def check_is_on(providers: Providers, money: Payment | Refund) -> None:
    """Checked before anything is recorded that could never be carried out. Raises ProviderOff."""
    if money.provider not in providers:
        raise ProviderOff(f"the money is with {money.provider}: see to it there", provider=money.provider)


def check_answers(providers: Providers, money: Payment | Refund) -> None:
    """Checked before anything is started that could only fail. Raises ProviderOff, ProviderAway."""
    check_is_on(providers, money)
    if providers[money.provider].is_away:
        raise ProviderAway(money.provider)


# --- Asking the provider about a payment ----------------------------------------------------------------------------


async def provider_outcome(shop: Shop, payment: Payment, call: Awaitable[Outcome | None]) -> Outcome | None:
    """A provider's answer about a payment; None for silence, and if its amount is not ours. Raises ProviderError."""
    try:
        async with asyncio.timeout(shop.settings.payment_timeout):
            outcome = await call
    except (TimeoutError, ProviderSilent) as silence:
        log.warning("provider silent", payment=str(payment.id), provider=payment.provider, error=repr(silence))
        return None
    if outcome is not None and not payment.fits(outcome):
        log.error("another sum at the provider", payment=str(payment.id), provider=payment.provider, said=str(outcome))
        return None
    return outcome


async def provider_state(shop: Shop, provider: PaymentProvider, payment: Payment) -> Outcome | None:
    """The provider's state of a payment; None if it never heard of it. One that is no longer wanted (declined, of a
    cancelled order, or replaced by another) is voided where possible rather than continued. Raises ProviderError,
    ProviderSilent."""
    if payment.amount_cents == 0:
        return NOTHING_TO_PAY
    unwanted = payment.status in ("failed", "voided")
    if payment.status == "pending":
        async with shop.stores.pg.read() as read:
            unwanted = await payments.is_unwanted(read, payment.id)
    outcome = None
    if payment.provider_id is None or not unwanted:
        outcome = await provider.look_up(str(payment.id), payment.provider_id)
        await shop.step("provider asked")
    if unwanted and (payment.provider_id or (outcome and outcome.status == "pending")):
        outcome = await provider.void(hold_of(payment, outcome))
        await shop.step("unwanted payment voided")
    return outcome


def hold_of(payment: Payment, outcome: Outcome | None = None) -> Hold:
    """The authorization at the provider; a reference that it has just given takes precedence over the one we know."""
    ref = (outcome and outcome.provider_ref) or payment.provider_ref
    return Hold(str(payment.id), ref, payment.amount_cents, payment.currency)


# --- Recording what it said -----------------------------------------------------------------------------------------


async def complete(
    shop: Shop,
    payment: Payment,
    outcome: Outcome,
    *,
    request_id: str = "",
    failure: ProviderError | None = None,
) -> tuple[Answer, Completed]:
    """The second transaction, for the request and for recovery: one statement if the answer can be predicted."""
    pg, now = shop.stores.pg, shop.clock.now()
    done = None
    if payment.request_key is not None and failure is None:
        done = await _complete_as_predicted(shop, payment, outcome, now, request_id)
    if done is None:
        async with pg.once() if payment.request_key is None else pg.tx() as tx:
            done = await complete_in(tx, payment, outcome, now, request_id=request_id, failure=failure)
    await shop.step("payment recorded")
    return done


async def _complete_as_predicted(
    shop: Shop, payment: Payment, outcome: Outcome, now: datetime, request_id: str
) -> tuple[Answer, Completed] | None:
    """Nearly every payment ends as its provider says, so its answer is serialised in advance. None, and nothing done,
    if that is not possible or something came first."""
    predicted = payment.predicted(outcome, now)
    if predicted is None:
        return None
    answer = answers.of_payment(predicted, request_id)
    try:
        async with shop.stores.pg.once() as tx:
            return answer, await payments.complete(tx, payment.id, outcome, now, answer)
    except payments.PredictionFailed:
        return None


async def complete_in(
    tx: Tx,
    payment: Payment,
    outcome: Outcome,
    now: datetime,
    *,
    request_id: str = "",
    failure: ProviderError | None = None,
) -> tuple[Answer, Completed]:
    """Applies what the provider said, and stores the request's answer with it."""
    completed = await payments.complete(tx, payment.id, outcome, now)
    # A capture or void is carried out long after the payment's own request was answered.
    serialise = answers.of_payment if payment.due is None else answers.of_capture
    answer = serialise(completed.payment, request_id)
    await store_answer(tx, payment, None if failure is not None else answer)
    return answer, completed


async def store_answer(tx: Tx, money: Payment | Refund, answer: Answer | None) -> None:
    """Stores the answer of the request that began it; None: nothing happened, so the same key may try again."""
    if money.request_owner is not None and money.request_key is not None:
        if answer is None:
            await idempotency.release(tx, money.request_owner, money.request_key)
        else:
            await idempotency.finish(tx, money.request_owner, money.request_key, answer)


def without_key_while_pending(payment: Payment, outcome: Outcome) -> Payment:
    """For callers that look a payment up while the request that pays or captures it may still be running: as long as
    nothing is decided, the answer is that request's to give, and its key stays untouched."""
    return replace(payment, request_key=None) if outcome.status in ("pending", payment.status) else payment


# --- What follows ---------------------------------------------------------------------------------------------------


async def follow_up(shop: Shop, providers: Providers, completed: Completed) -> None:
    """After the commit, best effort: what was bought is removed from the cart, and money that came too late is refunded
    or voided. The outbox and recovery do all of it in any case."""
    payment = completed.payment
    try:
        if payment.status in ("succeeded", "authorized") and completed.cart_owner is not None:
            await cart.take_bought(shop.stores.redis.brief, completed.cart_owner, completed.bought, payment.order_id)
            await shop.step("cart taken")
        elif payment.status == "refunded":
            async with shop.stores.pg.read() as read:
                late = await payments.late_refund(read, payment.id)
            if late is not None:
                await execute_refund(shop, providers, late)
        elif payment.due == "void":
            await void_payment(shop, providers, payment)
    except Exception as error:  # the order is paid: nothing here may make the answer another one
        log.warning("follow-up left to the worker", payment=str(payment.id), error=repr(error))


async def void_payment(shop: Shop, providers: Providers, payment: Payment) -> Payment:
    """Voids a payment that is no longer wanted, or its authorization, as recorded. If it was charged meanwhile, the
    money pays the order if that can still be paid, and is refunded otherwise."""
    outcome, failure = None, None
    try:
        outcome = await provider_outcome(shop, payment, providers[payment.provider].void(hold_of(payment)))
    except ProviderError as refusal:
        failure = refusal
    await shop.step("provider voided")
    if outcome is None:
        log.warning("payment not voided, to be tried again", payment=str(payment.id), error=str(failure or "silence"))
        return payment
    _, completed = await complete(shop, payment, outcome)
    if completed.payment.due == "void":  # its provider did not void it, nor end it otherwise
        log.warning("payment not voided, to be tried again", payment=str(payment.id), stands=outcome.status)
    else:
        await follow_up(shop, providers, completed)
    return completed.payment


async def execute_refund(shop: Shop, providers: Providers, refund: Refund, *, again: bool = False) -> Answer:
    """Requests a refund that is recorded as promised, then records its outcome; the answer is the request's. Staff get
    a failure (ProviderError); a refund that is owed anyway is retried by recovery. `again`: it may have been requested
    before, so the provider is first asked whether it knows it."""
    status, provider_ref, failure = await _request_refund(shop, providers, refund, again=again)
    await shop.step("provider refunded")
    async with shop.stores.pg.tx() as tx:
        if status != "pending":
            refund = await payments.complete_refund(tx, refund.id, status, provider_ref, shop.clock.now())
        answer = answers.of_refund(refund)
        if refund.reason == "cancelled":
            answer = answers.of_order(await orders.get(tx, refund.order_id))
        await store_answer(tx, refund, None if failure is not None else answer)
    await shop.step("refund recorded")
    if status == "failed" and refund.reason != "asked":
        log.error("money that must go back did not, and will not by itself", refund=str(refund.id))
    if failure is not None:
        raise failure
    return answer


async def _request_refund(
    shop: Shop, providers: Providers, refund: Refund, *, again: bool
) -> tuple[str, str | None, ProviderError | None]:
    provider = providers.get(refund.provider)
    if provider is None:
        log.error("a refund waits for a provider that is off", provider=refund.provider, refund=str(refund.id))
        return "pending", None, None
    asked = RefundRequest(
        str(refund.id), str(refund.payment_id), refund.charge_ref, refund.amount_cents, refund.currency
    )
    try:
        async with asyncio.timeout(shop.settings.payment_timeout):
            known = await _known_refund(shop, provider, asked) if again else None
            outcome = known or await provider.refund(asked)
    except ProviderError as failure:
        if refund.reason == "asked" and not (again and isinstance(failure, ProviderAway)):
            return "failed", None, failure
        tell = log.error if refund.asked > _ATTENTION_AFTER else log.warning
        tell("refund failed, to be tried again", refund=str(refund.id), asked=refund.asked, error=str(failure))
        return "pending", None, None
    except (TimeoutError, ProviderSilent) as silence:
        log.warning("provider silent", refund=str(refund.id), error=repr(silence))
        return "pending", None, None
    if outcome.status == "failed" and refund.reason == "asked":
        return "failed", outcome.provider_ref, ProviderError(f"{refund.provider} will not give this money back")
    return outcome.status, outcome.provider_ref, None


async def _known_refund(shop: Shop, provider: PaymentProvider, asked: RefundRequest) -> Outcome | None:
    """None if the provider never heard of it. Raises ProviderSilent also if it fails to say: the refund may have been
    made by the first call, and staff who are told that it failed request another."""
    try:
        known = await provider.look_up_refund(asked)
    except ProviderError as failure:
        raise ProviderSilent(str(failure)) from failure
    await shop.step("refund looked up")
    return known
