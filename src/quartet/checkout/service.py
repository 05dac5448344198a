"""The purchase: order, payment, cancellation, refund. The provider is always called between two transactions: the
first records what is about to happen, the second what did; a crash between them is repaired by `recovery`. The states
of a payment and their transitions are a table in docs/payments.md, *The circle of money*."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from quartet import accounts, cart, catalog, inventory, merchandising, orders, payments
from quartet.checkout import answers
from quartet.kernel.errors import NotFound, Problem, StoreUnavailable, Unauthenticated, invalid
from quartet.payments import (
    Charge,
    Completed,
    GiveBack,
    Hold,
    Moved,
    Outcome,
    Payment,
    PaymentProvider,
    ProviderAway,
    ProviderError,
    ProviderOff,
    Providers,
    ProviderSilent,
    Refund,
    WebhookEvent,
)
from quartet.stores.postgres import Tx
from quartet.web import idempotency, trail
from quartet.web.answers import Answer
from quartet.web.dependencies import Principal, Shop, Visitor
from quartet.web.idempotency import RequestKey

log = structlog.get_logger("quartet.checkout")

# A request times out at the gateway before this; only then may recovery ask the provider about what it left open.
_MARGIN = timedelta(seconds=5)

# A refund that was refused more often than this, over some ten minutes, needs somebody's attention.
_OFTEN = 8

# Providers refuse to charge zero.
_NOTHING_TO_PAY = Outcome(None, "succeeded")

Lines = Sequence[tuple[str, int]]


async def place(
    shop: Shop,
    visitor: Visitor,
    items: Lines | None,
    metadata: Mapping[str, Any],
    key: RequestKey | None,
    *,
    email: str | None,
    expected: int | None,
    found_by: Sequence[tuple[str, UUID]] = (),
) -> Answer:
    """Reserves stock and creates the order: of `items` (SKU, pieces), else of the buyer's cart. A guest has an `email`,
    and gets the order's token; `expected` is the total in cents that the buyer was shown, `found_by` the search that
    led to a SKU.

    Raises InsufficientStock, UnknownSku, MixedCurrencies, PriceChanged, Unauthenticated (a guest without an address),
    Invalid (nothing to order, or an address from a signed-in user), and StoreUnavailable if the cart is ordered and
    Redis is down.
    """
    buyer = _buyer(visitor, email)
    lines = await _to_order(shop, visitor, items)
    if isinstance(lines, Problem):
        return await _refuse(shop, key, lines)
    hold = timedelta(seconds=shop.settings.order_hold_seconds)
    async with idempotency.unclaimed(shop, key, once=key is None and not found_by) as slot:
        asked = (slot.tx, buyer, lines, metadata)
        if key is None:
            order = await orders.place(*asked, hold=hold, expected=expected)
        else:
            placed = await orders.place_under_key(*asked, key=key, hold=hold, expected=expected)
            if isinstance(placed, Answer):
                return placed
            order = placed
        if found_by:
            await merchandising.expect(slot.tx, order.id, found_by)
        token = shop.order_tokens.issue(order.id) if order.email else None
        answer = await slot.keep(answers.of_new_order(order, token))
    await shop.step("order placed")
    return answer


async def _to_order(shop: Shop, visitor: Visitor, items: Lines | None) -> Lines | Problem:
    """The lines to order, or the reason to refuse, if PostgreSQL alone can't know it: the cart can't be read, or the
    catalog does not show a product, which then is not sold. Returned, not raised: it matters only if the key has no
    answer yet."""
    try:
        lines = await _cart_lines(shop, visitor) if items is None else items
    except StoreUnavailable as away:
        return away
    if not lines:
        return invalid("items", "are missing, and the cart is empty" if items is None else "must not be empty")
    skus = [sku for sku, _ in lines]
    hidden = await catalog.hidden_skus(shop, skus)
    if not hidden:
        return lines
    async with shop.stores.pg.read() as read:
        known = await inventory.prices(read, skus)
    return orders.UnknownSku.of([sku for sku in dict.fromkeys(skus) if sku in hidden or sku not in known])


async def _cart_lines(shop: Shop, visitor: Visitor) -> Lines:
    """A user's cart, after merging a guest's cart that is sent along, or a guest's own."""
    token = cart.good_token(visitor.cart_token)
    owner = visitor.user_id or token
    if visitor.user_id is not None:
        await cart.merge(shop, token, visitor.user_id)
    return list((await cart.held(shop, owner)).items()) if owner else []


async def _refuse(shop: Shop, key: RequestKey | None, refusal: Problem) -> Answer:
    """The key's first answer, if there is one: the refusal may not have applied then. Else raises the refusal."""
    if key is None:
        raise refusal
    async with idempotency.transaction(shop, key) as slot:
        if slot.replay is not None:
            return slot.replay
        raise refusal


def _buyer(visitor: Visitor, email: str | None) -> UUID | orders.Guest:
    if visitor.user_id is not None:
        if email is not None:
            raise invalid("email", "must not be given: the order is the account's")
        return visitor.user_id
    if email is None:
        raise Unauthenticated("sign in, or give an email to order without an account")
    token = cart.good_token(visitor.cart_token)
    return orders.Guest(accounts.valid_email(email), token and cart.name_of(token))


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

    Raises NotFound, OrderNotPayable, PaymentInProgress, Invalid (no such provider or method), ProviderError.
    """
    chosen = providers.get(provider)
    if chosen is None:
        raise invalid("provider", f"must be one of {', '.join(providers)}")
    if chosen.methods is not None and method not in chosen.methods:
        raise invalid("paymentMethod", f"must be one of {', '.join(sorted(chosen.methods))}")
    if chosen.is_away and not await _is_free(shop, order_id):
        return await _refuse(shop, key, ProviderAway(provider))
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
    answer, completed = await complete(shop, payment, outcome, request_id=request_id, failure=failure)
    await follow_up(shop, providers, completed)
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
    ask, as_guest = ask_at(shop, now), shop.order_tokens.opens(order_id, visitor.order_token)
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
        left = await payments.leave(tx, payment_id, list(providers), now=now, ask=ask_at(shop, now))
    await shop.step("waiting payment left")
    if left is not None:
        await let_go(shop, providers, left)


async def _charge(
    shop: Shop, provider: PaymentProvider, payment: Payment, method: str
) -> tuple[Outcome, ProviderError | None]:
    """The provider's answer. ProviderError means that nothing was charged; silence means that it is unknown."""
    if payment.amount_cents == 0:
        return _NOTHING_TO_PAY, None
    back = shop.settings.payment_return_url or shop.settings.base_url
    charge = Charge(
        str(payment.id), payment.amount_cents, payment.currency, method,
        capture=shop.settings.payment_capture == "automatic", return_url=f"{back}?payment={payment.id}",
    )  # fmt: skip
    try:
        return await _heard(shop, payment, provider.authorise(charge)) or Outcome(None, "pending"), None
    except ProviderError as failure:
        return Outcome(None, "failed", "provider_error"), failure


async def _heard(shop: Shop, payment: Payment, call: Awaitable[Outcome | None]) -> Outcome | None:
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
        done = await _complete_as_foretold(shop, payment, outcome, now, request_id)
    if done is None:
        async with pg.once() if payment.request_key is None else pg.tx() as tx:
            done = await complete_in(tx, payment, outcome, now, request_id=request_id, failure=failure)
    await shop.step("payment recorded")
    return done


async def _complete_as_foretold(
    shop: Shop, payment: Payment, outcome: Outcome, now: datetime, request_id: str
) -> tuple[Answer, Completed] | None:
    """Nearly every payment ends as its provider says, so its answer is serialised in advance. None, and nothing done,
    if that is not possible or something came first."""
    foretold = payment.after(outcome, now)
    if foretold is None:
        return None
    answer = answers.of_payment(foretold, request_id)
    try:
        async with shop.stores.pg.once() as tx:
            return answer, await payments.complete(tx, payment.id, outcome, now, answer)
    except payments.CameOtherwise:
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
    told = answers.of_payment if payment.due is None else answers.of_capture
    answer = told(completed.payment, request_id)
    await _keep(tx, payment, None if failure is not None else answer)
    return answer, completed


async def _keep(tx: Tx, money: Payment | Refund, answer: Answer | None) -> None:
    """Stores the answer of the request that began it; None: nothing happened, so the same key may try again."""
    if money.request_owner is not None and money.request_key is not None:
        if answer is None:
            await idempotency.release(tx, money.request_owner, money.request_key)
        else:
            await idempotency.finish(tx, money.request_owner, money.request_key, answer)


async def follow_up(shop: Shop, providers: Providers, completed: Completed) -> None:
    """After the commit, best effort: what was bought is removed from the cart, and money that came too late is refunded
    or voided. The outbox and recovery do all of it in any case."""
    payment = completed.payment
    try:
        if payment.status in ("succeeded", "authorized") and completed.whose is not None:
            await cart.take_bought(shop.stores.redis.brief, completed.whose, completed.bought, payment.order_id)
            await shop.step("cart taken")
        elif payment.status == "refunded":
            async with shop.stores.pg.read() as read:
                late = await payments.late_refund(read, payment.id)
            if late is not None:
                await give_back(shop, providers, late)
        elif payment.due == "void":
            await let_go(shop, providers, payment)
    except Exception as error:  # the order is paid: nothing here may make the answer another one
        log.warning("follow-up left to the worker", payment=str(payment.id), error=repr(error))


async def capture(
    shop: Shop, providers: Providers, principal: Principal, payment_id: UUID, key: RequestKey | None
) -> Answer:
    """Captures an authorized payment. Raises NotFound, NothingToCapture, PaymentInProgress, PaymentContested,
    ProviderOff, ProviderError."""
    now = shop.clock.now()
    async with idempotency.transaction(shop, key) as slot:
        if slot.replay is not None:
            return slot.replay
        payment = await payments.start_capture(slot.tx, payment_id, key=key, now=now, ask=ask_at(shop, now))
        _check_answers(providers, payment)
        await trail.record(
            slot.tx, principal.actor, "payment.capture", "payment", payment_id,
            before={"status": "authorized"}, after={"capturing": payment.amount_cents, "orderId": payment.order_id},
        )  # fmt: skip
        await slot.start()
    await shop.step("capture started")
    return await take_hold(shop, providers, payment, give_up=True)


async def take_hold(shop: Shop, providers: Providers, payment: Payment, *, give_up: bool) -> Answer:
    """Captures an authorized payment, as recorded, then records that the money came. `give_up`: a failure is raised
    (ProviderError) and the authorization stands as before; else it is retried later."""
    outcome, failure = None, None
    try:
        outcome = await _heard(shop, payment, providers[payment.provider].capture(hold_of(payment)))
    except ProviderError as refusal:
        failure = refusal
    await shop.step("provider captured")
    if failure is not None:
        if give_up:
            await _drop_capture(shop, payment)
        raise failure
    answer, completed = await complete(shop, payment, outcome or Outcome(None, "pending"))
    await follow_up(shop, providers, completed)
    return answer


async def _drop_capture(shop: Shop, payment: Payment) -> None:
    async with shop.stores.pg.tx() as tx:
        await payments.drop_capture(tx, payment.id, shop.clock.now())
        await _keep(tx, payment, None)
    await shop.step("capture dropped")


async def let_go(shop: Shop, providers: Providers, payment: Payment) -> Payment:
    """Voids a payment that is no longer wanted, or its authorization, as recorded. If it was charged meanwhile, the
    money pays the order if that can still be paid, and is refunded otherwise."""
    outcome, failure = None, None
    try:
        outcome = await _heard(shop, payment, providers[payment.provider].void(hold_of(payment)))
    except ProviderError as refusal:
        failure = refusal
    await shop.step("provider voided")
    if outcome is None:
        log.warning("not let go, to be tried again", payment=str(payment.id), error=str(failure or "silence"))
        return payment
    _, completed = await complete(shop, payment, outcome)
    if completed.payment.status != "voided":
        await follow_up(shop, providers, completed)
    return completed.payment


def hold_of(payment: Payment, outcome: Outcome | None = None) -> Hold:
    """The authorization at the provider; a reference that it has just given takes precedence over the one we know."""
    ref = (outcome and outcome.provider_ref) or payment.provider_ref
    return Hold(str(payment.id), ref, payment.amount_cents, payment.currency)


async def how_it_stands(shop: Shop, provider: PaymentProvider, payment: Payment) -> Outcome | None:
    """The provider's state of a payment; None if it never heard of it. One that is no longer wanted (declined, of a
    cancelled order, or replaced by another) is voided where possible rather than continued. Raises ProviderError,
    ProviderSilent."""
    if payment.amount_cents == 0:
        return _NOTHING_TO_PAY
    unwanted = payment.status in ("failed", "voided")
    if payment.status == "pending":
        async with shop.stores.pg.read() as read:
            unwanted = await payments.is_unwanted(read, payment.id)
    outcome = None
    if payment.named is None or not unwanted:
        outcome = await provider.look_up(str(payment.id), payment.named)
        await shop.step("provider asked")
    if unwanted and (payment.named or (outcome and outcome.status == "pending")):
        outcome = await provider.void(hold_of(payment, outcome))
        await shop.step("unwanted payment voided")
    return outcome


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
            outcome = await _heard(shop, payment, how_it_stands(shop, provider, payment))
        except ProviderError:
            outcome = None
        if outcome is not None:
            _, completed = await complete(shop, beside_its_request(payment, outcome), outcome)
            await follow_up(shop, providers, completed)
            payment = completed.payment
    return answers.of_payment_as_it_stands(payment)


def beside_its_request(payment: Payment, outcome: Outcome) -> Payment:
    """For callers that look a payment up while the request that pays or captures it may still be running: as long as
    nothing is decided, the answer is that request's to give, and its key stays untouched."""
    return replace(payment, request_key=None) if outcome.status in ("pending", payment.status) else payment


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
            outcome = await how_it_stands(shop, provider, payment)
    except ProviderSilent as silence:
        raise ProviderError("the provider does not answer; send the webhook again") from silence
    if outcome is None or payment is None or not payment.fits(outcome):
        log.info("webhook ignored", provider=name, kind=event.kind, event_id=event.id)
        return
    await shop.step("webhook read")
    async with shop.stores.pg.tx() as tx:
        if not await payments.remember_event(tx, name, event, payment.id, now):
            return
        _, completed = await complete_in(tx, beside_its_request(payment, outcome), outcome, now)
    await shop.step("webhook recorded")
    await follow_up(shop, providers, completed)


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
            held = await payments.start_void(slot.tx, order_id, now=now, ask=ask_at(shop, now))
        found, order = order, await orders.cancel(slot.tx, order_id, by=visitor.by, reason="cancelled")
        refund = await payments.start_refund(
            slot.tx, order_id, None, "cancelled", by=visitor.by, key=key, now=now, ask=ask_at(shop, now)
        )
        for money in (held, refund):
            if money is not None:
                _check_is_on(providers, money)
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
    if held is not None:
        await follow_up(shop, providers, Completed(held, visitor.user_id, None, {}))
    return answer if refund is None else await give_back(shop, providers, refund)


async def refund(
    shop: Shop,
    providers: Providers,
    principal: Principal,
    order_id: UUID,
    *,
    cents: int | None,
    items: Lines | None,
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
            key=key, now=now, ask=ask_at(shop, now),
        )  # fmt: skip
        if promised is None:
            raise orders.OverRefund("nothing is left to give back", refundable_cents=0)
        _check_answers(providers, promised)
        await trail.record(
            slot.tx, principal.actor, "order.refund", "order", order_id,
            before={"status": found.status, "refundedCents": found.refunded_cents},
            after={"refund": promised.id, "amountCents": promised.amount_cents, "items": items, "restock": restock},
        )  # fmt: skip
        await slot.start()
    await shop.step("refund promised")
    return await give_back(shop, providers, promised)


async def give_back(shop: Shop, providers: Providers, refund: Refund, *, again: bool = False) -> Answer:
    """Requests a refund that is recorded as promised, then records its outcome; the answer is the request's. Staff get
    a failure (ProviderError); a refund that is owed anyway is retried by recovery. `again`: it may have been requested
    before, so the provider is first asked whether it knows it."""
    status, provider_ref, failure = await _refund(shop, providers, refund, again=again)
    await shop.step("provider refunded")
    async with shop.stores.pg.tx() as tx:
        if status != "pending":
            refund = await payments.complete_refund(tx, refund.id, status, provider_ref, shop.clock.now())
        answer = answers.of_refund(refund)
        if refund.reason == "cancelled":
            answer = answers.of_order(await orders.get(tx, refund.order_id))
        await _keep(tx, refund, None if failure is not None else answer)
    await shop.step("refund recorded")
    if status == "failed" and refund.reason != "asked":
        log.error("money that must go back did not, and will not by itself", refund=str(refund.id))
    if failure is not None:
        raise failure
    return answer


async def _refund(
    shop: Shop, providers: Providers, refund: Refund, *, again: bool
) -> tuple[str, str | None, ProviderError | None]:
    provider = providers.get(refund.provider)
    if provider is None:
        log.error("a refund waits for a provider that is off", provider=refund.provider, refund=str(refund.id))
        return "pending", None, None
    asked = GiveBack(str(refund.id), str(refund.payment_id), refund.charge_ref, refund.amount_cents, refund.currency)
    try:
        async with asyncio.timeout(shop.settings.payment_timeout):
            known = await _known_refund(shop, provider, asked) if again else None
            outcome = known or await provider.refund(asked)
    except ProviderError as failure:
        if refund.reason == "asked" and not (again and isinstance(failure, ProviderAway)):
            return "failed", None, failure
        tell = log.error if refund.asked > _OFTEN else log.warning
        tell("refund failed, to be tried again", refund=str(refund.id), asked=refund.asked, error=str(failure))
        return "pending", None, None
    except (TimeoutError, ProviderSilent) as silence:
        log.warning("provider silent", refund=str(refund.id), error=repr(silence))
        return "pending", None, None
    if outcome.status == "failed" and refund.reason == "asked":
        return "failed", outcome.provider_ref, ProviderError(f"{refund.provider} will not give this money back")
    return outcome.status, outcome.provider_ref, None


async def _known_refund(shop: Shop, provider: PaymentProvider, asked: GiveBack) -> Outcome | None:
    """None if the provider never heard of it. Raises ProviderSilent also if it fails to say: the refund may have been
    made by the first call, and staff who are told that it failed request another."""
    try:
        known = await provider.look_up_refund(asked)
    except ProviderError as failure:
        raise ProviderSilent(str(failure)) from failure
    await shop.step("refund looked up")
    return known


def _check_is_on(providers: Providers, money: Payment | Refund) -> None:
    """Checked before anything is recorded that could never be carried out. Raises ProviderOff."""
    if money.provider not in providers:
        raise ProviderOff(f"the money is with {money.provider}: see to it there", provider=money.provider)


def _check_answers(providers: Providers, money: Payment | Refund) -> None:
    """Checked before anything is started that could only fail. Raises ProviderOff, ProviderAway."""
    _check_is_on(providers, money)
    if providers[money.provider].is_away:
        raise ProviderAway(money.provider)


def ask_at(shop: Shop, now: datetime) -> datetime:
    """The time by which a request that begins now has certainly ended."""
    return now + timedelta(seconds=shop.settings.request_timeout) + _MARGIN
