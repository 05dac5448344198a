"""Capturing an authorized payment, where the shop captures manually."""

from uuid import UUID

from quartet import payments
from quartet.checkout import completion
from quartet.payments import Outcome, Payment, ProviderError, Providers
from quartet.web import idempotency, trail
from quartet.web.answers import Answer
from quartet.web.dependencies import Principal, Shop
from quartet.web.idempotency import RequestKey


async def capture(
    shop: Shop, providers: Providers, principal: Principal, payment_id: UUID, key: RequestKey | None
) -> Answer:
    """Captures an authorized payment. Raises NotFound, NothingToCapture, PaymentInProgress, PaymentContested,
    ProviderOff, ProviderError."""
    now = shop.clock.now()
    async with idempotency.transaction(shop, key) as slot:
        if slot.replay is not None:
            return slot.replay
        payment = await payments.start_capture(slot.tx, payment_id, key=key, now=now, ask=completion.ask_at(shop, now))
        completion.check_answers(providers, payment)
        await trail.record(
            slot.tx, principal.actor, "payment.capture", "payment", payment_id,
            before={"status": "authorized"}, after={"capturing": payment.amount_cents, "orderId": payment.order_id},
        )  # fmt: skip
        await slot.start()
    await shop.step("capture started")
    return await capture_hold(shop, providers, payment, give_up=True)


async def capture_hold(shop: Shop, providers: Providers, payment: Payment, *, give_up: bool) -> Answer:
    """Captures an authorized payment, as recorded, then records that the money came. `give_up`: a failure is raised
    (ProviderError) and the authorization stands as before; else it is retried later."""
    outcome, failure = None, None
    try:
        outcome = await completion.provider_outcome(
            shop, payment, providers[payment.provider].capture(completion.hold_of(payment))
        )
    except ProviderError as refusal:
        failure = refusal
    await shop.step("provider captured")
    if failure is not None:
        if give_up:
            await _drop_capture(shop, payment)
        raise failure
    answer, completed = await completion.complete(shop, payment, outcome or Outcome(None, "pending"))
    await completion.follow_up(shop, providers, completed)
    return answer


async def _drop_capture(shop: Shop, payment: Payment) -> None:
    async with shop.stores.pg.tx() as tx:
        await payments.drop_capture(tx, payment.id, shop.clock.now())
        await completion.store_answer(tx, payment, None)
    await shop.step("capture dropped")
