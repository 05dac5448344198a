"""Paying an order, and the buyer's return from the provider's page."""

from contextlib import suppress
from uuid import UUID

from quartet import orders, payments
from quartet.checkout import answers, completion
from quartet.kernel.errors import NotFound, invalid
from quartet.payments import (
    Charge,
    Outcome,
    Payment,
    PaymentProvider,
    ProviderAway,
    ProviderError,
    Providers,
)
from quartet.web import idempotency
from quartet.web.answers import Answer
from quartet.web.dependencies import Shop, Visitor
from quartet.web.idempotency import RequestKey


async def pay(
    shop: Shop,
    providers: Providers,
    visitor: Visitor,
    order_id: UUID,
    *,
    provider: str,
    method: str,
    key: RequestKey | None,
    request_id: str,
) -> Answer:
    """Charges the whole order, or only authorizes it if the shop captures manually. A payment that waits for its buyer
    at a provider's page is voided first. While the provider is away, nothing is started or voided; for a free order it
    is not called.

    Raises Unauthenticated (the account is gone), NotFound, OrderNotPayable, PaymentInProgress, Invalid (no such
    provider or method), ProviderError.
    """
    chosen = providers.get(provider)
    if chosen is None:
        raise invalid("provider", f"must be one of {', '.join(providers)}")
    if chosen.methods is not None and method not in chosen.methods:
        raise invalid("paymentMethod", f"must be one of {', '.join(sorted(chosen.methods))}")
    if chosen.is_away and not await _is_free(shop, order_id):
        return await idempotency.refuse(shop, key, ProviderAway(provider))
    try:
        payment = await _start(shop, visitor, order_id, provider, key)
    except payments.WaitsForBuyer as other:
        await _leave(shop, providers, other.payment_id)
        payment = await _start(shop, visitor, order_id, provider, key, at_last=True)
    if isinstance(payment, Answer):
        return payment
    await shop.step("payment started")
    outcome, failure = await _charge(shop, chosen, payment, method)
    await shop.step("provider charged")
    answer, completed = await completion.complete(shop, payment, outcome, request_id=request_id, failure=failure)
    await completion.follow_up(shop, providers, completed)
    if failure is not None:
        raise failure
    return answer


async def _is_free(shop: Shop, order_id: UUID) -> bool:
    """Whether no provider has to be called. Does not reveal whose order it is, or whether there is one."""
    with suppress(NotFound):
        async with shop.stores.pg.read() as read:
            return (await orders.get(read, order_id)).total_cents == 0
    return False


async def _start(
    shop: Shop, visitor: Visitor, order_id: UUID, provider: str, key: RequestKey | None, *, at_last: bool = False
) -> Payment | Answer:
    """The first transaction: the payment, or the key's first answer. Raises WaitsForBuyer; `at_last` raises
    PaymentInProgress instead, which is stored as the key's answer."""
    now = shop.clock.now()
    ask, as_guest = completion.ask_at(shop, now), shop.order_tokens.opens(order_id, visitor.order_token)
    async with idempotency.unclaimed(shop, key, once=True) as slot:
        asked = (slot.tx, order_id, visitor.user_id, provider)
        try:
            if key is None:
                return await payments.start(*asked, as_guest=as_guest, now=now, ask=ask)
            return await payments.start_under_key(*asked, as_guest=as_guest, key=key, now=now, ask=ask)
        except payments.WaitsForBuyer as other:
            if at_last:
                raise payments.PaymentInProgress(payment_id=other.payment_id) from other
            raise


async def _leave(shop: Shop, providers: Providers, payment_id: UUID) -> None:
    """Voids a payment that waits for its buyer, who pays another way. It stays if its provider is off, can't void it
    any more, or does not answer; then the worker asks again."""
    now = shop.clock.now()
    async with shop.stores.pg.once() as tx:
        left = await payments.leave(tx, payment_id, list(providers), now=now, ask=completion.ask_at(shop, now))
    await shop.step("waiting payment left")
    if left is not None:
        await completion.void_payment(shop, providers, left)


async def _charge(
    shop: Shop, provider: PaymentProvider, payment: Payment, method: str
) -> tuple[Outcome, ProviderError | None]:
    """The provider's answer. ProviderError means that nothing was charged; silence means that it is unknown."""
    if payment.amount_cents == 0:
        return completion.NOTHING_TO_PAY, None
    back = shop.settings.payment_return_url or shop.settings.base_url
    charge = Charge(
        str(payment.id), payment.amount_cents, payment.currency, method,
        capture=shop.settings.payment_capture == "automatic", return_url=f"{back}?payment={payment.id}",
    )  # fmt: skip
    try:
        return await completion.provider_outcome(shop, payment, provider.authorise(charge)) or Outcome(
            None, "pending"
        ), None
    except ProviderError as failure:
        return Outcome(None, "failed", "provider_error"), failure


async def refresh(shop: Shop, providers: Providers, visitor: Visitor, payment_id: UUID) -> Answer:
    """The buyer is back from the provider's page: looks up the payment's state there. Raises NotFound."""
    async with shop.stores.pg.read() as read:
        found = await payments.with_buyer(read, payment_id)
    if found is None or not visitor.may_see(shop, found.payment.order_id, found.user_id, found.email):
        raise NotFound("there is no such payment")
    payment = found.payment
    provider = providers.get(payment.provider)
    if provider is not None and payment.status in ("pending", "authorized"):
        try:
            outcome = await completion.provider_outcome(
                shop, payment, completion.provider_state(shop, provider, payment)
            )
        except ProviderError:
            outcome = None
        if outcome is not None:
            _, completed = await completion.complete(
                shop, completion.without_key_while_pending(payment, outcome), outcome
            )
            await completion.follow_up(shop, providers, completed)
            payment = completed.payment
    return answers.of_payment_as_it_stands(payment)
