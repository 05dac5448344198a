"""Routes of the catalog."""

from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, ValidationError, model_validator

from quartet import merchandising
from quartet.catalog import pages, service, store
from quartet.catalog.model import (
    LONGEST_SLUG,
    READ_ONLY,
    AlreadyReviewed,
    Category,
    CategoryInUse,
    Document,
    Draft,
    Image,
    NotBought,
    SkuTaken,
    SlugTaken,
    Variant,
    etag,
    merge_patch,
    present_levels,
    wire,
)
from quartet.kernel.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
    Unauthenticated,
    invalid,
)
from quartet.kernel.texts import composed
from quartet.web.answers import JSON, answer, has_tag, nothing, problems, with_headers
from quartet.web.dependencies import Anyone, Shop, ShopDep, Signed, Staff
from quartet.web.moments import text_only
from quartet.web.paging import Page, Paging
from quartet.web.shapes import (
    Body,
    Bool,
    Cents,
    Currency,
    Int,
    JsonObject,
    NoBody,
    Shape,
    Sku,
    Str,
    text,
    trimmed,
    words,
)

router = APIRouter(tags=["catalog"])

# Browsers and proxies may cache a page this long; any longer, and a price could change unseen between page and payment.
_PUBLIC = "public, max-age=5, must-revalidate"
_PRIVATE = "private, no-store"
_LONGEST_REFERENCE = 200


# Shapes


def _address(value: str) -> str:
    if not value.startswith(("https://", "http://", "/")) or value.startswith("//"):
        raise ValueError("must be http(s)://… or a path of this shop")
    return value


def _within_reason(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9000:
        raise ValueError("must be between 1970 and 9000")
    return value


Slug = Annotated[
    Str, Field(min_length=1, max_length=LONGEST_SLUG, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", examples=["field-14"])
]
Moment = Annotated[AwareDatetime, BeforeValidator(text_only), AfterValidator(_within_reason)]
Reference = Annotated[
    str, Path(alias="sku", max_length=_LONGEST_REFERENCE, description="A SKU, a variant's SKU, or a slug.")
]
AnySlug = Annotated[str, Path(max_length=_LONGEST_REFERENCE, description="A category's slug.")]
SkuPath = Annotated[str, Path(max_length=_LONGEST_REFERENCE, description="The product's own SKU.")]
SearchId = Annotated[
    str | None,
    Header(alias=merchandising.SEARCH_ID, description="The search that led here, as its answer's header named it."),
]


def _if_match(
    request: Request,
    if_match: Annotated[
        str | None,
        Header(alias="If-Match", max_length=1000, description="The `ETag` that you have seen; 412 if it is old."),
    ] = None,
) -> str | None:
    """Several `If-Match` headers are one list."""
    return None if if_match is None else ",".join(request.headers.getlist("If-Match"))


IfMatch = Annotated[str | None, Depends(_if_match)]


class _Written(Body):
    """Texts from staff, normalised to composed Unicode, so that they equal what a shopper types."""

    @model_validator(mode="before")
    @classmethod
    def _spell_one_way(cls, value: Any) -> Any:
        return composed(value)


class ImageShape(Body):
    """An image: an http(s) URL or a path of this shop."""

    url: Annotated[str, text(2000), AfterValidator(_address)]
    alt: Annotated[str, text(300, 0)] = ""
    is_primary: Bool = False


class RatingsShape(Shape):
    """The average, 0 to 5, of `count` votes."""

    avg: float
    count: int


class VariantShape(Shape):
    """One variant to choose; `available` pieces can be bought now."""

    sku: str
    attrs: dict[str, Any]
    price_cents: int
    available: int


class ProductShape(Shape):
    """A product. With variants, `priceCents` is their lowest price and `available` their sum."""

    id: str
    sku: str
    name: str
    slug: str
    category: str
    brand: str | None
    description: str
    images: list[ImageShape]
    attrs: dict[str, Any]
    variants: list[VariantShape]
    price_cents: int
    currency: str
    tags: list[str]
    ratings: RatingsShape
    available: int
    published_at: datetime | None
    updated_at: datetime


class VariantBody(Body):
    """Without `priceCents` it has the product's price, else inventory's; in a patch it keeps its current price."""

    sku: Sku
    attrs: JsonObject = Field(default_factory=dict)
    price_cents: Cents | None = None
    available: Annotated[Int | None, Field(description="Read-only: inventory's.")] = None


class RatingsBody(Body):
    avg: Annotated[float, Field(strict=True, ge=0, le=5)]
    count: Annotated[Int, Field(ge=0)]


class ProductBody(_Written):
    """The members of a product. `id`, `ratings`, `available` and `updatedAt` are read-only: they may be sent back as
    read, and are ignored; `currency` must be the shop's."""

    name: Annotated[str, trimmed(200)]
    category: Slug
    slug: Annotated[Slug | None, Field(description="Left out: made from the name, and later kept.")] = None
    brand: Annotated[str, trimmed(100)] | None = None
    description: Annotated[str, text(20_000, 0)] = ""
    images: Annotated[list[ImageShape], Field(max_length=50)] = Field(default_factory=list)
    attrs: JsonObject = Field(default_factory=dict)
    variants: Annotated[list[VariantBody], Field(max_length=200)] = Field(default_factory=list)
    price_cents: Annotated[Cents | None, Field(description="Goes to inventory. Left out: what inventory says.")] = None
    tags: Annotated[list[Annotated[str, trimmed(50)]], Field(max_length=50)] = Field(default_factory=list)
    published_at: Annotated[
        Moment | None,
        Field(description="Null: a draft. In the future: not shown until then. Left out: now, or as it is."),
    ] = None
    currency: Currency | None = None
    id: Str | None = None
    ratings: RatingsBody | None = None
    available: Int | None = None
    updated_at: Moment | None = None


class NewProduct(ProductBody):
    sku: Sku


class ChangedProduct(ProductBody):
    sku: Annotated[Sku | None, Field(description="As in the path; a SKU can't be changed.")] = None


class CategoryBody(_Written):
    """`attrs`: JSON Schema (2020-12, unless `$schema` names 2019-09 or draft-07) of an object whose properties are
    texts, numbers, booleans or lists of these; `type` may be omitted."""

    name: Annotated[str, words(100)]
    parent: Slug | None = None
    attrs: JsonObject = Field(default_factory=lambda: {"type": "object", "properties": {}})
    slug: Annotated[Slug | None, Field(description="As in the path.")] = None


class CategoryShape(Shape):
    slug: str
    name: str
    parent: str | None
    attrs: dict[str, Any]


class ReviewBody(Body):
    rating: Annotated[Int, Field(ge=1, le=5)]
    title: Annotated[str, words(120)]
    body: Annotated[str, words(5000)]


class ReviewShape(Shape):
    """`author` is the display name at the time, if there was one."""

    id: str
    rating: int
    title: str
    body: str
    author: str | None
    created_at: datetime


# Products

_WRITES = (Unauthenticated, Forbidden, Invalid, StoreUnavailable)


class _BareRoute(APIRoute):
    """The product page gets more requests than all other routes together, and most of FastAPI's cost per request is
    resolving the arguments: here they are passed directly. The OpenAPI document still comes from the signature."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            return await get_product(
                request.path_params["sku"],
                request,
                request.app.state.shop,
                request.scope.get("principal"),
                request.headers.get(merchandising.SEARCH_ID),
            )

        return handle


async def get_product(
    ref: Reference, request: Request, shop: ShopDep, principal: Anyone, x_search_id: SearchId = None
) -> Response:
    """By SKU, a variant's SKU or slug. `X-Cache` says whether it was a cache hit, and `Age` how old the hit may be,
    given only while MongoDB is down. Staff also see unpublished products."""
    page = await pages.product_page(shop, ref) if len(ref) <= _LONGEST_REFERENCE else None
    if page is None or not (page.published or (principal is not None and principal.is_staff)):
        raise NotFound(f"there is no product {ref[:_LONGEST_REFERENCE]}")
    if x_search_id is not None and (search_id := merchandising.read_id(x_search_id)) is not None:
        merchandising.note_opened(shop, search_id, page.product_id)
    headers = {
        "ETag": page.etag,
        "Cache-Control": _PUBLIC if page.published else _PRIVATE,
        "X-Cache": "hit" if page.hit else "miss",
    }
    if page.age is not None:
        headers["Age"] = str(page.age)
    if has_tag(request.headers, page.etag):
        return Response(status_code=304, headers=headers)
    return Response(page.body, headers=headers, media_type=JSON)


router.add_api_route(
    "/products/{sku}",
    get_product,
    methods=["GET"],
    response_model=ProductShape,
    responses={
        200: with_headers({"X-Cache": "`hit` or `miss`: whether Redis had it.", "Age": "Its seconds without MongoDB."}),
        304: {"description": "You have the present version."},
        **problems(NotFound, StoreUnavailable),
    },
    route_class_override=_BareRoute,
)


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


@router.get(
    "/products",
    response_model=Page[ProductShape],
    responses=problems(Invalid, StoreUnavailable),
    # Declared by hand and read from the raw query, since the attributes' names depend on the categories.
    openapi_extra={
        "parameters": [
            _parameter("category", "A category's slug; those below it are included.", minLength=1, maxLength=200),
            _parameter("brand", "The brand's name.", minLength=1, maxLength=200),
            _parameter("tag", "One tag.", minLength=1, maxLength=200),
            _parameter("sort", "A dash turns the order round.", enum=list(pages.SORTS), default=pages.DEFAULT_SORT),
        ]
    },
)
async def list_products(request: Request, shop: ShopDep, paging: Paging) -> Response:
    """Published products. Any attribute of the category is a filter too: `attrs.color=black`, `attrs.ram_gb.gte=32`
    (also `lte`, `gt`, `lt`); several must match the same variant. An attribute that the category does not have is
    refused."""
    found, following = await pages.list_products(shop, request.query_params.multi_items(), paging)
    items = [wire(product, shop.settings.currency) for product in found]
    return _json({"items": items, "nextCursor": following})


@router.post(
    "/products",
    status_code=201,
    response_model=ProductShape,
    responses={
        201: with_headers({"Location": "Where it is.", "ETag": "Its version."}),
        **problems(*_WRITES, SlugTaken, SkuTaken),
    },
)
async def create_product(body: NewProduct, shop: ShopDep, principal: Staff) -> Response:
    """Creates a product. Its price is stored in inventory, where its stock starts at 0. Without `publishedAt` it is
    published at once."""
    _check_currency(shop, body)
    published = body.published_at if "published_at" in body.model_fields_set else shop.clock.now()
    draft = _draft(body, body.sku, body.slug, published)
    product = await service.create_product(shop, draft, actor=principal.actor)
    return _product(shop, product, 201, {"Location": f"/products/{quote(product['sku'])}"})


@router.put(
    "/products/{sku}",
    response_model=ProductShape,
    responses=problems(*_WRITES, NotFound, PreconditionFailed, SlugTaken, SkuTaken, Conflict),
)
async def replace_product(
    sku: SkuPath, body: ChangedProduct, shop: ShopDep, principal: Staff, if_match: IfMatch
) -> Response:
    """Replaces the writable members. `slug`, `publishedAt` and prices are kept if omitted. A price that differs from
    the current one is set in inventory."""

    def edit(found: Document) -> Draft:
        return _edited(shop, body, found, published=found["publishedAt"])

    product = await service.change_product(shop, sku, edit, if_match=if_match, actor=principal.actor)
    return _product(shop, product)


@router.patch(
    "/products/{sku}",
    response_model=ProductShape,
    responses=problems(*_WRITES, NotFound, PreconditionFailed, SlugTaken, SkuTaken, Conflict),
)
async def patch_product(
    sku: SkuPath, patch: dict[str, Any], shop: ShopDep, principal: Staff, if_match: IfMatch
) -> Response:
    """JSON Merge Patch (RFC 7396) on the product as GET returns it: given members are replaced, null removes, lists are
    replaced as a whole. Concurrent patches all take effect, one after the other."""

    def edit(found: Document) -> Draft:
        present = orjson.loads(orjson.dumps(wire(found, shop.settings.currency), option=orjson.OPT_UTC_Z))
        merged = merge_patch(present, composed(patch))
        _refuse_read_only(present, merged, patch)
        try:
            body = ChangedProduct.model_validate(merged)
        except ValidationError as error:
            raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from None
        if "priceCents" not in patch:
            _keep_prices(body, found)
        return _edited(shop, body, found, published=body.published_at)

    product = await service.change_product(shop, sku, edit, if_match=if_match, actor=principal.actor)
    return _product(shop, product)


@router.delete("/products/{sku}", status_code=204, responses=problems(*_WRITES, NotFound, PreconditionFailed, Conflict))
async def delete_product(
    sku: SkuPath, shop: ShopDep, principal: Staff, if_match: IfMatch, _: NoBody = None
) -> Response:
    """Deletes the product from the catalog, with its reviews. Inventory and orders keep their data."""
    await service.delete_product(shop, sku, if_match=if_match, actor=principal.actor)
    return nothing()


def _edited(shop: Shop, body: ChangedProduct, found: Document, *, published: datetime | None) -> Draft:
    _check_currency(shop, body)
    if body.sku not in (None, found["sku"]):
        raise invalid("sku", f"can't be changed: inventory and orders know the product as {found['sku']}")
    if body.id not in (None, found["_id"]):
        raise invalid("id", "is another product's")
    if "published_at" in body.model_fields_set:
        published = body.published_at
    return _draft(body, found["sku"], body.slug or found["slug"], published)


def _draft(body: ProductBody, sku: str, slug: str | None, published: datetime | None) -> Draft:
    return Draft(
        sku=sku,
        name=body.name,
        category=body.category,
        slug=slug,
        brand=body.brand,
        description=body.description,
        images=[Image(i.url, i.alt, i.is_primary) for i in body.images],
        attrs=body.attrs,
        variants=[Variant(v.sku, v.attrs, v.price_cents) for v in body.variants],
        price_cents=body.price_cents,
        tags=body.tags,
        published_at=published,
    )


def _check_currency(shop: Shop, body: ProductBody) -> None:
    if body.currency not in (None, shop.settings.currency):
        raise invalid("currency", f"prices of this shop are in {shop.settings.currency}")


def _refuse_read_only(present: Document, merged: Any, patch: Document) -> None:
    """A patch names what it is to change, so a read-only member with another value is a mistake: raises Invalid."""
    for name in READ_ONLY:
        if name in patch and merged.get(name) != present[name]:
            raise invalid(name, "is read-only")
    if present["variants"] and "variants" not in patch and merged.get("priceCents") != present["priceCents"]:
        raise invalid("priceCents", "is the lowest of the variants' prices: change those")


def _keep_prices(body: ChangedProduct, found: Document) -> None:
    """A variant given without a price keeps its own: the default, the product's price, is only the lowest of them."""
    levels = present_levels(found)
    for variant in body.variants:
        if variant.price_cents is None and variant.sku in levels:
            variant.price_cents = levels[variant.sku].price_cents


def _product(shop: Shop, product: Document, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(pages.body_of(shop, product), status, {"ETag": etag(product), **(headers or {})}, JSON)


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_UTC_Z), status, media_type=JSON)


# Categories

CategoryPath = Annotated[Slug, Path(description="A category's slug.")]


@router.get("/categories", response_model=Page[CategoryShape], responses=problems(Invalid, StoreUnavailable))
async def list_categories(
    shop: ShopDep,
    limit: Annotated[int | None, Query(ge=1, le=100, description="How many items; all without it.")] = None,
    cursor: Annotated[str | None, Query(max_length=512, description="`nextCursor` of the page before.")] = None,
) -> Response:
    """All categories, sorted by slug, each with the JSON Schema of its products' attributes."""
    found = await store.categories(shop.stores.mongo)
    if cursor is not None:
        (last,) = shop.cursors.decode(cursor, "categories")
        found = [category for category in found if category.slug > last]
    shown = found[:limit]
    following = shop.cursors.encode([shown[-1].slug], "categories") if len(shown) < len(found) else None
    return _json({"items": _categories(shown), "nextCursor": following})


@router.get("/categories/{slug}", response_model=CategoryShape, responses=problems(NotFound, StoreUnavailable))
async def get_category(slug: AnySlug, shop: ShopDep) -> Response:
    """One category."""
    found = await store.category(shop.stores.mongo, slug)
    if found is None:
        raise NotFound(f"there is no category {slug}")
    return _json(_categories([found])[0])


@router.put(
    "/categories/{slug}",
    response_model=CategoryShape,
    responses=problems(*_WRITES) | {201: {"model": CategoryShape, "description": "The category is new."}},
)
async def put_category(slug: CategoryPath, body: CategoryBody, shop: ShopDep, principal: Staff) -> Response:
    """Creates or replaces a category. Its products are validated against a changed schema when their attributes,
    variants or category change."""
    if body.slug not in (None, slug):
        raise invalid("slug", "is not the one in the path")
    category = Category(slug, body.name, body.parent, {"type": "object", **body.attrs})
    created = await service.put_category(shop, category, actor=principal.actor)
    return _json(_categories([category])[0], 201 if created else 200)


@router.delete("/categories/{slug}", status_code=204, responses=problems(*_WRITES, NotFound, CategoryInUse))
async def delete_category(slug: CategoryPath, shop: ShopDep, principal: Staff, _: NoBody = None) -> Response:
    """Deletes a category without products and subcategories."""
    await service.delete_category(shop, slug, actor=principal.actor)
    return nothing()


def _categories(found: Iterable[Category]) -> list[Document]:
    return [{"slug": c.slug, "name": c.name, "parent": c.parent, "attrs": c.attrs} for c in found]


# Reviews


@router.get(
    "/products/{sku}/reviews",
    response_model=Page[ReviewShape],
    responses=problems(NotFound, Invalid, StoreUnavailable),
)
async def list_reviews(ref: Reference, shop: ShopDep, paging: Paging) -> Response:
    """Reviews by buyers, newest first."""
    found, following = await service.list_reviews(shop, ref, paging)
    return answer(Page[ReviewShape](items=[_review(review) for review in found], next_cursor=following))


@router.post(
    "/products/{sku}/reviews",
    status_code=201,
    response_model=ReviewShape,
    responses=problems(NotFound, Invalid, Unauthenticated, NotBought, AlreadyReviewed, StoreUnavailable),
)
async def add_review(ref: Reference, body: ReviewBody, shop: ShopDep, principal: Signed) -> Response:
    """Adds a review: one per customer and product, only by buyers. The product's `ratings` are updated."""
    review = await service.add_review(
        shop, principal.user_id, ref, rating=body.rating, title=body.title, body=body.body
    )
    return answer(_review(review), 201)


def _review(review: Document) -> ReviewShape:
    return ReviewShape(
        id=review["publicId"],
        rating=review["rating"],
        title=review["title"],
        body=review["body"],
        author=review["author"],
        created_at=review["createdAt"],
    )
