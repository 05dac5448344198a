"""Cancelling an order, and refunds that staff request."""

from collections.abc import Sequence
from uuid import UUID

from quartet import orders, payments
from quartet.checkout import answers, completion
from quartet.kernel.errors import NotFound
from quartet.payments import Completed, Providers
from quartet.web import idempotency, trail
from quartet.web.answers import Answer
from quartet.web.dependencies import Principal, Shop, Visitor
from quartet.web.idempotency import RequestKey


async def cancel(shop: Shop, providers: Providers, visitor: Visitor, order_id: UUID, key: RequestKey | None) -> Answer:
    """Cancels the order: its stock is released, what was paid is refunded, and an authorization is voided.

    Raises NotFound (also for another's order), InvalidTransition, PaymentContested, ProviderOff.
    """
    now = shop.clock.now()
    async with idempotency.transaction(shop, key) as slot:
        if slot.replay is not None:
            return slot.replay
        order = await orders.lock(slot.tx, order_id)
        if not visitor.may_see(shop, order.id, order.user_id, order.email):
            raise NotFound(f"there is no order {order_id}")
        held = None
        if any(payment.status == "authorized" for payment in order.payments):
            held = await payments.start_void(slot.tx, order_id, now=now, ask=completion.ask_at(shop, now))
        found, order = order, await orders.cancel(slot.tx, order_id, by=visitor.by, reason="cancelled")
        refund = await payments.start_refund(
            slot.tx, order_id, None, "cancelled", by=visitor.by, key=key, now=now, ask=completion.ask_at(shop, now)
        )
        for money in (held, refund):
            if money is not None:
                completion.check_is_on(providers, money)
        if visitor.principal is not None and visitor.principal.is_staff:
            await trail.record(
                slot.tx, visitor.by, "order.cancel", "order", order_id,
                before={"status": found.status, "refundedCents": found.refunded_cents},
                after={"status": order.status, "amountCents": refund.amount_cents if refund else 0},
            )  # fmt: skip
        if refund is None:
            answer = await slot.keep(answers.of_order(order))
        else:
            await slot.start()
    await shop.step("order cancelled")
    if held is not None:  # it bought nothing that could leave the cart, and is only voided
        await completion.follow_up(shop, providers, Completed(held, None, None, {}))
    return answer if refund is None else await completion.execute_refund(shop, providers, refund)


async def refund(
    shop: Shop,
    providers: Providers,
    principal: Principal,
    order_id: UUID,
    *,
    cents: int | None,
    items: Sequence[tuple[str, int]] | None,
    restock: bool,
    note: str | None,
    key: RequestKey | None,
) -> Answer:
    """Refunds `cents`, or the price of `items`, by default all that is left. Raises NotFound, OverRefund,
    PaymentContested, ProviderOff, ProviderError."""
    now = shop.clock.now()
    async with idempotency.transaction(shop, key) as slot:
        if slot.replay is not None:
            return slot.replay
        found = await orders.lock(slot.tx, order_id)
        promised = await payments.start_refund(
            slot.tx, order_id, cents, "asked", by=principal.actor, items=items, restock=restock, note=note,
            key=key, now=now, ask=completion.ask_at(shop, now),
        )  # fmt: skip
        if promised is None:
            raise orders.OverRefund("nothing is left to give back", refundable_cents=0)
        completion.check_answers(providers, promised)
        await trail.record(
            slot.tx, principal.actor, "order.refund", "order", order_id,
            before={"status": found.status, "refundedCents": found.refunded_cents},
            after={"refund": promised.id, "amountCents": promised.amount_cents, "items": items, "restock": restock},
        )  # fmt: skip
        await slot.start()
    await shop.step("refund promised")
    return await completion.execute_refund(shop, providers, promised)
