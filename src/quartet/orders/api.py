"""Routes that look at orders and send them on their way; what touches money or the cart is at the checkout."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from quartet.kernel.errors import (
    Forbidden,
    Invalid,
    NotFound,
    StoreUnavailable,
    Unauthenticated,
)
from quartet.orders import store
from quartet.orders.model import InvalidTransition, Order, Status
from quartet.orders.shapes import OrderShape
from quartet.web.answers import answer, problems
from quartet.web.dependencies import PathId, ShopDep, Signed, Staff
from quartet.web.paging import Page, Paging

router = APIRouter(prefix="/orders", tags=["orders"])

_ALWAYS = (Unauthenticated, Invalid, StoreUnavailable)


@router.get("", response_model=Page[OrderShape], responses=problems(*_ALWAYS))
async def list_orders(
    shop: ShopDep,
    principal: Signed,
    paging: Paging,
    status: Annotated[Status | None, Query(description="Only orders of this status.")] = None,
    user_id: Annotated[UUID | None, Query(alias="userId", description="Only this user's orders (staff).")] = None,
) -> Response:
    """Newest first: one's own, everybody's for staff."""
    if not principal.is_staff:
        if user_id not in (None, principal.user_id):
            return answer(Page[OrderShape](items=[]))
        user_id = principal.user_id
    scope = f"orders:{user_id}:{status}"
    before = store.NEWEST
    if paging.cursor is not None:
        created_at, order_id = shop.cursors.decode(paging.cursor, scope)
        before = store.Before(datetime.fromisoformat(created_at), UUID(order_id))
    async with shop.stores.pg.read() as read:
        found = await store.page(read, limit=paging.limit + 1, before=before, user_id=user_id, status=status)
    shown = found[: paging.limit]
    more = None
    if len(found) > paging.limit:
        more = shop.cursors.encode([shown[-1].created_at.isoformat(), str(shown[-1].id)], scope)
    return answer(Page[OrderShape](items=[OrderShape.model_validate(order) for order in shown], next_cursor=more))


@router.get("/{id}", response_model=OrderShape, responses=problems(NotFound, *_ALWAYS))
async def get_order(shop: ShopDep, principal: Signed, order_id: PathId) -> Response:
    """One's own order, any for staff."""
    async with shop.stores.pg.read() as read:
        order = await store.get(read, order_id)
    if not principal.is_staff and order.user_id != principal.user_id:
        raise NotFound(f"there is no order {order_id}")
    return _answer(order)


@router.post(
    "/{id}/ship", response_model=OrderShape, responses=problems(NotFound, InvalidTransition, Forbidden, *_ALWAYS)
)
async def ship_order(shop: ShopDep, principal: Staff, order_id: PathId) -> Response:
    """A confirmed order is on its way."""
    async with shop.stores.pg.tx() as tx:
        return _answer(await store.ship(tx, order_id, by=str(principal.user_id)))


@router.post(
    "/{id}/deliver",
    response_model=OrderShape,
    responses=problems(NotFound, InvalidTransition, Forbidden, *_ALWAYS),
)
async def deliver_order(shop: ShopDep, principal: Staff, order_id: PathId) -> Response:
    """A shipped order has arrived."""
    async with shop.stores.pg.tx() as tx:
        return _answer(await store.deliver(tx, order_id, by=str(principal.user_id)))


def _answer(order: Order) -> Response:
    return answer(OrderShape.model_validate(order))
