"""Routes that read, claim, ship and deliver orders; what involves money or the cart is in `checkout`."""

from datetime import datetime
from typing import Annotated, Protocol
from uuid import UUID

from fastapi import APIRouter, Query, Response

from quartet import accounts
from quartet.kernel.errors import (
    Forbidden,
    IdempotencyKeyReused,
    Invalid,
    NotFound,
    RequestInProgress,
    StoreUnavailable,
    Unauthenticated,
    invalid,
)
from quartet.orders import store
from quartet.orders.model import (
    EmailNotVerified,
    InvalidTransition,
    Order,
    PaymentContested,
    PaymentNotCaptured,
    Status,
)
from quartet.orders.shapes import OrderShape
from quartet.stores.postgres import Tx
from quartet.web import idempotency, trail
from quartet.web.answers import answer, problems
from quartet.web.dependencies import Buying, PathId, Principal, Shop, ShopDep, Signed, Staff
from quartet.web.idempotency import IdempotencyKey, RequestKey
from quartet.web.paging import Page, Paging
from quartet.web.shapes import NoBody, Shape

router = APIRouter(prefix="/orders", tags=["orders"])


class Claimed(Shape):
    """How many orders this call assigned to the account."""

    claimed: int


class _Take(Protocol):
    """A function of the store that changes an order's status."""

    async def __call__(self, tx: Tx, order_id: UUID, *, by: str) -> Order: ...


_ALWAYS = (Unauthenticated, Invalid, StoreUnavailable)
_KEYED = (*_ALWAYS, IdempotencyKeyReused, RequestInProgress)


@router.get("", response_model=Page[OrderShape], responses=problems(*_ALWAYS))
async def list_orders(  # noqa: PLR0917
    shop: ShopDep,
    principal: Signed,
    paging: Paging,
    status: Annotated[Status | None, Query(description="Only orders of this status.")] = None,
    user_id: Annotated[UUID | None, Query(alias="userId", description="Only this user's orders (staff).")] = None,
    email: Annotated[
        str | None, Query(max_length=320, description="Only orders of this address, a guest's or an account's (staff).")
    ] = None,
    number: Annotated[
        str | None, Query(pattern="^[Qq]-[0-9]{1,18}$", description="Only the order of this number, as it reads.")
    ] = None,
) -> Response:
    """Orders, newest first: your own, or everybody's for staff."""
    if user_id is not None and email is not None:
        raise invalid("email", "must not be given beside userId")
    if not principal.is_staff:
        if user_id not in (None, principal.user_id) or email is not None:
            return answer(Page[OrderShape](items=[]))
        user_id = principal.user_id
    email = email and accounts.known_email(email)
    scope = f"orders:{user_id}:{email}:{status}:{number}"
    before = shop.cursors.start(
        paging, scope, store.NEWEST, lambda at, id_: store.Before(datetime.fromisoformat(at), UUID(id_))
    )
    async with shop.stores.pg.read() as read:
        found = await store.page(
            read, limit=paging.limit + 1, before=before, user_id=user_id, email=email, status=status,
            number=int(number[2:]) if number else None,
        )  # fmt: skip
    shown, more = shop.cursors.cut(found, paging, scope, lambda last: [last.created_at.isoformat(), last.id])
    return answer(Page[OrderShape](items=[OrderShape.model_validate(order) for order in shown], next_cursor=more))


@router.post("/claim", response_model=Claimed, responses=problems(EmailNotVerified, *_ALWAYS))
async def claim_orders(shop: ShopDep, principal: Signed, _: NoBody = None) -> Response:
    """Assigns to the account all guest orders with its verified address."""
    async with shop.stores.pg.tx() as tx:
        email = await accounts.verified_email(tx, principal.user_id)
        if email is None:
            raise EmailNotVerified()
        return answer(Claimed(claimed=await store.claim(tx, email, principal.user_id)))


@router.get("/{id}", response_model=OrderShape, responses=problems(NotFound, *_ALWAYS))
async def get_order(shop: ShopDep, visitor: Buying, order_id: PathId) -> Response:
    """One of your own orders, a guest's by its token, any for staff."""
    async with shop.stores.pg.read() as read:
        order = await store.get(read, order_id)
    if not visitor.may_see(shop, order.id, order.user_id, order.email):
        raise NotFound(f"there is no order {order_id}")
    return _answer(order)


@router.post(
    "/{id}/ship",
    response_model=OrderShape,
    responses=problems(NotFound, InvalidTransition, PaymentNotCaptured, PaymentContested, Forbidden, *_KEYED),
)
async def ship_order(
    shop: ShopDep, principal: Staff, order_id: PathId, key: IdempotencyKey, _: NoBody = None
) -> Response:
    """Marks a confirmed order, whose payment has been captured, as shipped."""
    return await _step(shop, principal, order_id, key, store.ship, "order.ship")


@router.post(
    "/{id}/deliver",
    response_model=OrderShape,
    responses=problems(NotFound, InvalidTransition, Forbidden, *_KEYED),
)
async def deliver_order(
    shop: ShopDep, principal: Staff, order_id: PathId, key: IdempotencyKey, _: NoBody = None
) -> Response:
    """Marks a shipped order as delivered."""
    return await _step(shop, principal, order_id, key, store.deliver, "order.deliver")


async def _step(  # noqa: PLR0917
    shop: Shop, principal: Principal, order_id: UUID, key: RequestKey | None, take: _Take, action: str
) -> Response:
    async with idempotency.transaction(shop, key) as slot:
        if slot.replay is not None:
            return slot.replay
        order = await take(slot.tx, order_id, by=principal.actor)
        step = order.history[-1]
        await trail.record(
            slot.tx, principal.actor, action, "order", order.id,
            before={"status": step.from_status}, after={"status": step.to_status},
        )  # fmt: skip
        return await slot.keep(_answer(order))


def _answer(order: Order) -> Response:
    return answer(OrderShape.model_validate(order))
