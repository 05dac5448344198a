"""Routes of payments; paying itself is the checkout's."""

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, Response

from quartet.kernel.errors import Invalid, NotFound, StoreUnavailable, Unauthenticated
from quartet.payments import store
from quartet.payments.model import Status
from quartet.web.answers import answer, problems
from quartet.web.dependencies import Buying, PathId, ShopDep
from quartet.web.shapes import Shape

router = APIRouter(prefix="/payments", tags=["payments"])


class PaymentShape(Shape):
    """`providerRef` is the provider's name for it, the payment's own id until it has one; `refundedCents` is what has
    been given back. `redirectUrl` is where the buyer has to go before a pending payment goes on. A payment that came
    too late is `refunded`, its money on its way, or `voided`, what was held let go."""

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


@router.get(
    "/{id}",
    response_model=PaymentShape,
    responses=problems(NotFound, Unauthenticated, Invalid, StoreUnavailable),
)
async def get_payment(shop: ShopDep, visitor: Buying, payment_id: PathId) -> Response:
    """A payment of one's own, of a guest's order by its token; staff see all."""
    async with shop.stores.pg.read() as read:
        found = await store.with_buyer(read, payment_id)
    if found is None or not visitor.may_see(shop, found.payment.order_id, found.user_id, found.email):
        raise NotFound("there is no such payment")
    return answer(PaymentShape.model_validate(found.payment))
