"""Routes for the legal rights of people: to have their data erased, and to get a copy of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.responses import StreamingResponse

from quartet.access import LastAdmin
from quartet.accounts import Busy, Device, TooManyAttempts, UserShape
from quartet.kernel.errors import Invalid, StoreUnavailable, Unauthenticated
from quartet.orders import OrderShape
from quartet.privacy import service
from quartet.privacy.model import OrdersOpen
from quartet.web.answers import JSON, nothing, problems
from quartet.web.dependencies import ShopDep, Signed
from quartet.web.shapes import Body, Shape, text

router = APIRouter(prefix="/users/me", tags=["privacy"])


class Goodbye(Body):
    """An account without a password is deleted without one, but only within 15 minutes of signing in."""

    password: Annotated[str, text(1024)] | None = None


class HeldOrder(OrderShape):
    """An order with the metadata that it was placed with."""

    metadata: dict[str, Any]


class Held(Shape):
    """All your personal data. `points` are today's and this week's."""

    profile: UserShape
    sessions: list[dict[str, Any]]
    addresses: list[dict[str, Any]]
    cart: list[dict[str, Any]]
    points: dict[str, int]
    orders: list[HeldOrder]
    reviews: Annotated[list[dict[str, Any]], Field(description="With the id of the product of each.")]


@router.delete(
    "",
    status_code=204,
    responses=problems(Unauthenticated, Invalid, OrdersOpen, LastAdmin, TooManyAttempts, Busy, StoreUnavailable),
)
async def delete_me(request: Request, shop: ShopDep, principal: Signed, body: Goodbye | None = None) -> Response:
    """Erases your data, in every store and for good. Your orders are kept, as the law demands, without a link to you;
    your reviews stay, unsigned."""
    device = Device(None, request.scope["address"])
    await service.erase(shop, principal, body.password if body else None, device)
    return nothing()


@router.get("/export", response_model=Held, responses=problems(Unauthenticated, StoreUnavailable))
async def export_me(shop: ShopDep, principal: Signed) -> Response:
    """All your personal data, as one document."""
    pieces = service.export(shop, principal)
    first = await anext(pieces)  # errors are raised before the response starts

    async def all_pieces() -> Any:
        yield first
        async for piece in pieces:
            yield piece

    headers = {"Content-Disposition": 'attachment; filename="quartet-export.json"', "Cache-Control": "no-store"}
    return StreamingResponse(all_pieces(), headers=headers, media_type=JSON)
