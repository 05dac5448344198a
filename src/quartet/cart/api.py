"""Routes of the cart."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as PathParameter
from pydantic import Field

from quartet.cart import service
from quartet.cart.model import MOST_PIECES, Cart, CartFull, Owner, good_token, new_token
from quartet.kernel.errors import Invalid, NotFound, StoreUnavailable, Unauthenticated
from quartet.web.answers import answer, nothing, problems, with_headers
from quartet.web.dependencies import CART_TOKEN, ShopDep, anyone, get_shop, reads
from quartet.web.shapes import AnySku, Body, Int, NoBody, Qty, Shape

router = APIRouter(prefix="/cart", tags=["cart"])

_DESCRIBED = with_headers({CART_TOKEN.name: "A guest's key to this cart."})


class LineShape(Shape):
    """`available` is what can be bought now. A product that is no longer sold has 0, and no slug or picture."""

    sku: str
    qty: int
    name: str
    slug: str | None
    image: str | None
    unit_price_cents: int
    line_total_cents: int
    available: int


class CartShape(Shape):
    """At current prices; `itemCount` counts pieces."""

    items: list[LineShape]
    item_count: int
    total_cents: int
    currency: str


class NewItem(Body):
    sku: AnySku
    qty: Qty


class NewQty(Body):
    """0 removes the line."""

    qty: Annotated[Int, Field(ge=0, le=MOST_PIECES)]


@reads(CART_TOKEN)
async def _owner(request: Request) -> Owner:
    """The user, whose cart takes in a guest's that is sent along; else the guest, who gets a key if there is none (or
    one that is not ours: a browser with a broken cookie must be able to go on)."""
    principal, token = await anyone(request), request.headers.get(CART_TOKEN.name)
    if principal is not None:
        await service.merge(await get_shop(request), token, principal.user_id)
        return principal.user_id
    return good_token(token) or new_token()


CartOf = Annotated[Owner, Depends(_owner)]
SkuPath = Annotated[AnySku, PathParameter(description="As in the cart.")]


def _key(owner: Owner) -> dict[str, str]:
    return {} if isinstance(owner, UUID) else {CART_TOKEN.name: owner}


def _cart(owner: Owner, cart: Cart) -> Response:
    return answer(CartShape.model_validate(cart), headers=_key(owner))


@router.get(
    "",
    response_model=CartShape,
    responses={200: _DESCRIBED, **problems(Unauthenticated, StoreUnavailable)},
)
async def get_cart(shop: ShopDep, owner: CartOf) -> Response:
    """The cart, at current prices."""
    return _cart(owner, await service.show(shop, owner))


@router.post(
    "/items",
    response_model=CartShape,
    responses={200: _DESCRIBED, **problems(Unauthenticated, NotFound, Invalid, CartFull, StoreUnavailable)},
)
async def add_item(request: Request, owner: CartOf, body: NewItem) -> Response:
    """Adds pieces to what is in the cart."""
    return _cart(owner, await service.add(await get_shop(request), owner, body.sku, body.qty))


@router.put(
    "/items/{sku}",
    response_model=CartShape,
    responses={200: _DESCRIBED, **problems(Unauthenticated, NotFound, Invalid, CartFull, StoreUnavailable)},
)
async def put_item(shop: ShopDep, owner: CartOf, sku: SkuPath, body: NewQty) -> Response:
    """Sets the quantity; 0 removes the line."""
    return _cart(owner, await service.put(shop, owner, sku, body.qty))


@router.delete(
    "/items/{sku}",
    response_model=CartShape,
    responses={200: _DESCRIBED, **problems(Unauthenticated, Invalid, StoreUnavailable)},
)
async def remove_item(shop: ShopDep, owner: CartOf, sku: SkuPath, _: NoBody = None) -> Response:
    """Removes the line, if there is one."""
    return _cart(owner, await service.put(shop, owner, sku, 0))


@router.delete("", status_code=204, responses={204: _DESCRIBED, **problems(Unauthenticated, StoreUnavailable)})
async def clear(shop: ShopDep, owner: CartOf, _: NoBody = None) -> Response:
    """Empties the cart."""
    await service.clear(shop, owner)
    response = nothing()
    response.headers.update(_key(owner))
    return response
