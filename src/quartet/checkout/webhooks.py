"""What payment providers report by themselves."""

from collections.abc import Mapping
from datetime import datetime

import structlog

from quartet import payments
from quartet.checkout import completion
from quartet.kernel.errors import NotFound
from quartet.payments import Moved, Payment, ProviderError, Providers, ProviderSilent, WebhookEvent
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.checkout")


async def receive(shop: Shop, providers: Providers, name: str, headers: Mapping[str, str], body: bytes) -> None:
    """A provider's webhook; idempotent. Raises NotFound, BadSignature, BadRequest, and ProviderError if the provider
    must be asked and does not answer: it will send the webhook again."""
    provider = providers.get(name)
    if provider is None:
        raise NotFound(f"there is no payment provider {name}")
    now = shop.clock.now()
    try:
        event = await provider.parse_webhook(headers, body, now)
        if event.moved is not None:
            await _note_moved(shop, name, event, event.moved, now)
            return
        payment = await _payment_of(shop, name, event.reference)
        outcome = event.outcome
        if event.look and payment is not None:
            outcome = await completion.provider_state(shop, provider, payment)
    except ProviderSilent as silence:
        raise ProviderError("the provider does not answer; send the webhook again") from silence
    if outcome is None or payment is None or not payment.fits(outcome):
        log.info("webhook ignored", provider=name, kind=event.kind, event_id=event.id)
        return
    await shop.step("webhook read")
    async with shop.stores.pg.tx() as tx:
        if not await payments.remember_event(tx, name, event, payment.id, now):
            return
        _, completed = await completion.complete_in(
            tx, completion.without_key_while_pending(payment, outcome), outcome, now
        )
    await shop.step("webhook recorded")
    await completion.follow_up(shop, providers, completed)


async def _note_moved(shop: Shop, name: str, event: WebhookEvent, moved: Moved, now: datetime) -> None:
    """Refunds made without us, and refunds that failed later. That a refund of ours succeeded is recorded by the answer
    to whoever requested it. Raises ProviderError if it comes too early: it will be sent again."""
    async with shop.stores.pg.read() as read:
        found = await payments.moved(read, name, moved)
    if found is None or (found[1] is not None and not moved.undone):
        log.info("webhook ignored", provider=name, kind=event.kind, event_id=event.id)
        return
    payment_id, refund_id = found
    await shop.step("webhook read")
    try:
        async with shop.stores.pg.tx() as tx:
            if not await payments.remember_event(tx, name, event, payment_id, now):
                return
            if refund_id is not None:
                await payments.refund_came_back(tx, refund_id, now)
            else:
                await payments.note_moved(tx, payment_id, moved, now)
    except payments.NotYetPaid as early:
        raise ProviderError("the charge is not known yet; send the webhook again") from early
    await shop.step("webhook recorded")
    log.warning("money moved without us", provider=name, payment=str(payment_id), moved=str(moved))


async def _payment_of(shop: Shop, provider: str, reference: str) -> Payment | None:
    """The payment with this reference, if it is this provider's own."""
    payment_id = payments.as_uuid(reference)
    if payment_id is None:
        return None
    async with shop.stores.pg.read() as read:
        found = await payments.with_buyer(read, payment_id)
    return None if found is None or found.payment.provider != provider else found.payment
