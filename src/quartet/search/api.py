"""GET /search and GET /search/suggest."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import StringConstraints

from quartet.kernel.errors import Invalid, StoreUnavailable, invalid
from quartet.search import store
from quartet.search.model import DEEPEST, AttrFilter, Found, Sort, Wanted, attr_filter, marked
from quartet.web.answers import answer, problems
from quartet.web.dependencies import ShopDep
from quartet.web.shapes import Shape

router = APIRouter(tags=["search"])

_KNOWN = {"q", "category", "brand", "minPrice", "maxPrice", "inStock", "sort", "page", "size"}
_MOST_ATTRS = 20


class HighlightShape(Shape):
    """HTML: the text escaped, what matched in `<em>`; null where nothing did."""

    name: str | None = None
    description: str | None = None


class HitShape(Shape):
    """`score` is null unless the page is sorted by relevance."""

    id: str
    sku: str
    slug: str
    name: str
    brand: str | None
    category: str
    price_cents: int | None
    rating: float
    in_stock: bool
    image: str | None
    highlight: HighlightShape
    score: float | None


class BucketShape(Shape):
    """A value and how many of all found products have it."""

    key: str | int | float | bool
    count: int


class BandShape(Shape):
    """A band of prices in minor units, `from` included, `to` not."""

    key: str
    from_cents: int | None
    to_cents: int | None
    count: int


class FacetsShape(Shape):
    """Counted over everything found, not the page. `attrs` holds the most frequent attributes by name."""

    category: list[BucketShape]
    brand: list[BucketShape]
    price: list[BandShape]
    attrs: dict[str, list[BucketShape]]


class FoundShape(Shape):
    """`didYouMean` holds other spellings, best first."""

    total: int
    page: int
    size: int
    items: list[HitShape]
    facets: FacetsShape
    did_you_mean: list[str]
    took_ms: int


class SuggestionShape(Shape):
    """A product's name and where its page is."""

    text: str
    slug: str


class SuggestionsShape(Shape):
    """Best first."""

    items: list[SuggestionShape]


Text = Annotated[str, Query(max_length=200, description="Words; misspelt ones are found too. Text, not a syntax.")]
Terms = Annotated[list[Annotated[str, StringConstraints(max_length=200)]] | None, Query(max_length=20)]


@router.get(
    "/search",
    response_model=FoundShape,
    responses=problems(Invalid, StoreUnavailable),
    description="Published products by text, filters and `attrs.<name>=value`, `attrs.<name>.gte=number` "
    "(also lte, gt, lt), with facets over all that was found. Without `q` everything, best rated first.",
)
async def search(
    shop: ShopDep,
    request: Request,
    *,
    q: Text = "",
    category: Terms = None,
    brand: Terms = None,
    min_price: Annotated[int | None, Query(alias="minPrice", ge=0, le=100_000_000_000)] = None,
    max_price: Annotated[int | None, Query(alias="maxPrice", ge=0, le=100_000_000_000)] = None,
    in_stock: Annotated[bool | None, Query(alias="inStock")] = None,
    sort: Sort = "relevance",
    page: Annotated[int, Query(ge=1, le=DEEPEST)] = 1,
    size: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    if min_price is not None and max_price is not None and min_price > max_price:
        raise invalid("minPrice", "must not be above maxPrice")
    if page * size > DEEPEST:
        raise invalid("page", f"page × size must not pass {DEEPEST}: narrow the search instead")
    attrs = _attr_filters(request)
    wanted = Wanted(
        q, tuple(category or ()), tuple(brand or ()), min_price, max_price, in_stock, attrs, sort, page, size
    )
    found = await store.find(shop.stores.search, shop.settings.search_alias, wanted, shop.clock.now())
    return answer(_shape(wanted, found))


@router.get("/search/suggest", response_model=SuggestionsShape, responses=problems(Invalid, StoreUnavailable))
async def suggest(
    shop: ShopDep, request: Request, q: Text = "", size: Annotated[int, Query(ge=1, le=100)] = 10
) -> Response:
    """Names of published products, as one types."""
    _refuse_unknown(request, {"q", "size"})
    items = await store.suggest(shop.stores.search, shop.settings.search_alias, q, size, shop.clock.now())
    return answer(SuggestionsShape(items=[SuggestionShape(**item) for item in items]))


def _attr_filters(request: Request) -> tuple[AttrFilter, ...]:
    """Every `attrs.…` parameter, repeated ones all of them."""
    asked = [(name, value) for name, value in request.query_params.multi_items() if name.startswith("attrs.")]
    _refuse_unknown(request, _KNOWN | {name for name, _ in asked})
    if len(asked) > _MOST_ATTRS:
        raise invalid("attrs", f"at most {_MOST_ATTRS} conditions")
    return tuple(attr_filter(name, value) for name, value in asked)


def _refuse_unknown(request: Request, known: set[str]) -> None:
    """A parameter that we would ignore is most likely a misspelt one."""
    for name in request.query_params:
        if name not in known:
            raise invalid(name[:100], "is not a parameter of this call")


def _shape(wanted: Wanted, found: Found) -> FoundShape:
    return FoundShape(
        total=found.total,
        page=wanted.page,
        size=wanted.size,
        items=[_hit(hit) for hit in found.hits],
        facets=FacetsShape.model_validate(found),
        did_you_mean=found.did_you_mean,
        took_ms=found.took_ms,
    )


def _hit(hit: dict[str, Any]) -> HitShape:
    highlight = {name: marked(parts[0]) for name, parts in hit.get("highlight", {}).items()}
    return HitShape(**hit["_source"], highlight=HighlightShape(**highlight), score=hit.get("_score"))
