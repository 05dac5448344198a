"""GET /bestsellers and GET /products/{sku}/related."""

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from quartet import catalog
from quartet.discovery import service
from quartet.discovery.model import Json, Period, Reason
from quartet.kernel.errors import Invalid, NotFound, StoreUnavailable, TooManyRequests
from quartet.web.answers import answer, has_tag, problems
from quartet.web.dependencies import Shop, ShopDep, client_of
from quartet.web.shapes import Shape

router = APIRouter(tags=["catalog"])

# The same as for the product page.
_PUBLIC = "public, max-age=5, must-revalidate"
_PRESENT: dict[int | str, dict[str, Any]] = {304: {"description": "You have the present version."}}

Reference = Annotated[str, Path(alias="sku", max_length=200, description="A SKU, a variant's SKU, or a slug.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many items.")]


class CardShape(Shape):
    """A product's summary; with variants, `priceCents` is their lowest price."""

    id: str
    sku: str
    slug: str
    name: str
    brand: str | None
    category: str
    price_cents: int
    currency: str
    rating: float
    in_stock: bool
    image: str | None


class BestsellerShape(CardShape):
    """`units`: pieces sold in the period."""

    units: int


class RelatedShape(CardShape):
    """`reason`: `bought-together` in other orders, or `alike`, similar to the product."""

    reason: Reason


class BestsellersShape(Shape):
    """The best first, all on one page."""

    items: list[BestsellerShape]
    next_cursor: None = None


class RelatedListShape(Shape):
    """The best first, all on one page."""

    items: list[RelatedShape]
    next_cursor: None = None


@router.get("/bestsellers", response_model=BestsellersShape, responses=problems(Invalid, StoreUnavailable) | _PRESENT)
async def get_bestsellers(
    request: Request,
    shop: ShopDep,
    category: Annotated[
        str | None, Query(min_length=1, max_length=200, description="A category's slug; those below it are included.")
    ] = None,
    period: Annotated[Period, Query(description="The last so long; `day` is yesterday and today (UTC).")] = "month",
    limit: Limit = 20,
) -> Response:
    """Bestsellers, by pieces in paid orders. A sale counts after about a minute."""
    found = await service.bestsellers(shop, period, category, limit)
    items = [BestsellerShape(**_card(shop, product), units=units) for product, units in found]
    return _cacheable(request, BestsellersShape(items=items))


@router.get(
    "/products/{sku}/related",
    response_model=RelatedListShape,
    responses=problems(NotFound, Invalid, StoreUnavailable, TooManyRequests) | _PRESENT,
)
async def get_related(request: Request, shop: ShopDep, ref: Reference, limit: Limit = 12) -> Response:
    """Products often bought together with this one, then similar ones."""
    found = await service.related(shop, ref, limit, client=client_of(request))
    items = [RelatedShape(**_card(shop, each.product), reason=each.reason) for each in found]
    return _cacheable(request, RelatedListShape(items=items))


def _card(shop: Shop, product: Json) -> Json:
    shown = ("sku", "slug", "name", "brand", "category")
    return {
        "id": product["_id"],
        **{name: product[name] for name in shown},
        "price_cents": product["priceCents"],
        "currency": shop.settings.currency,
        "rating": product["ratings"]["avg"],
        "in_stock": product["available"] > 0,
        "image": catalog.primary_image(product),
    }


def _cacheable(request: Request, shape: Shape) -> Response:
    """The response with an ETag, or 304 if the client has the same."""
    whole = answer(shape)
    tag = f'"{hashlib.blake2b(bytes(whole.body), digest_size=12).hexdigest()}"'
    whole.headers["ETag"], whole.headers["Cache-Control"] = tag, _PUBLIC
    if has_tag(request.headers, tag):
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": _PUBLIC})
    return whole
