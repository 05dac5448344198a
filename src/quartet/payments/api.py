"""Routes of payments; paying itself is in `checkout`."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import Field

from quartet.kernel.errors import Forbidden, Invalid, NotFound, StoreUnavailable, Unauthenticated
from quartet.orders import PaymentContested
from quartet.payments import store
from quartet.payments.model import Status
from quartet.web import trail
from quartet.web.answers import answer, problems
from quartet.web.dependencies import Buying, PathId, ShopDep, Staff
from quartet.web.shapes import Body, Bool, Shape, text, words

_STAFF = (NotFound, PaymentContested, Unauthenticated, Forbidden, Invalid, StoreUnavailable)

router = APIRouter(prefix="/payments", tags=["payments"])


class PaymentShape(Shape):
    """`providerRef` is the provider's id of the payment, and the payment's own id until the provider has given one.
    `refundedCents` is what has been refunded so far. `redirectUrl` is the page that the buyer has to visit before a
    pending payment can continue. A payment that came too late for its order is `refunded` (the refund may still be in
    progress), or `voided` if it was only authorized."""

    id: UUID
    order_id: UUID
    provider: str
    provider_ref: str
    amount_cents: int
    currency: str
    status: Status
    decline_code: str | None
    refunded_cents: int
    redirect_url: str | None
    processed_at: datetime | None
    created_at: datetime


class Settlement(Body):
    """`note` says what you found out at the provider; it is stored in the audit log. `contests` lists the `providerRef`
    of every open contest. `moneyGone`: what a bank or the provider took does not come back, and counts as refunded."""

    note: Annotated[str, words(200)]
    contests: Annotated[list[Annotated[str, text(255)]], Field(max_length=100)]
    money_gone: Bool = False


@router.get(
    "/{id}",
    response_model=PaymentShape,
    responses=problems(NotFound, Unauthenticated, Invalid, StoreUnavailable),
)
async def get_payment(shop: ShopDep, visitor: Buying, payment_id: PathId) -> Response:
    """One of your own payments, or of a guest's order by its token; staff see all."""
    async with shop.stores.pg.read() as read:
        found = await store.with_buyer(read, payment_id)
    if found is None or not visitor.may_see(shop, found.payment.order_id, found.user_id, found.email):
        raise NotFound("there is no such payment")
    return answer(PaymentShape.model_validate(found.payment))


@router.post("/{id}/settle", response_model=PaymentShape, responses=problems(*_STAFF))
async def settle_payment(shop: ShopDep, principal: Staff, payment_id: PathId, body: Settlement) -> Response:
    """Settles what others did to a contested payment's money: the order continues with what is left. If the payment is
    not contested, nothing changes. 409 `payment-contested` if a contest is open that `contests` does not name: look at
    the payment again."""
    async with shop.stores.pg.tx() as tx:
        settled = await store.settle(tx, payment_id, body.contests, gone=body.money_gone, now=shop.clock.now())
        found = await store.with_buyer(tx, payment_id)
        if found is None:
            raise NotFound("there is no such payment")
        if settled:
            await trail.record(
                tx, principal.actor, "payment.settle", "payment", payment_id,
                before={"contests": settled},
                after={"note": body.note, "moneyGone": body.money_gone, "orderId": found.payment.order_id},
            )  # fmt: skip
    return answer(PaymentShape.model_validate(found.payment))
