"""GET /search and GET /search/suggest."""

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, Field, StringConstraints

from quartet import merchandising
from quartet.kernel.errors import Forbidden, Invalid, StoreUnavailable, TooManyRequests, Unauthenticated, invalid
from quartet.kernel.texts import composed
from quartet.search import service, words
from quartet.search.attributes import attr_filter, combined
from quartet.search.cache import SearchAnswer
from quartet.search.model import (
    DEEPEST,
    AttrFilter,
    Bucket,
    Facets,
    Found,
    Kind,
    NumberBand,
    Sort,
    Tier,
    Wanted,
)
from quartet.web.answers import AtHand, as_json, problems
from quartet.web.dependencies import Anyone, Shop, ShopDep, client_of, signed, staff
from quartet.web.shapes import Shape

router = APIRouter(tags=["search"])

_REPEATED = {"category", "brand"}
_KNOWN = {
    "q",
    "category",
    "brand",
    "minPrice",
    "maxPrice",
    "inStock",
    "minRating",
    "facets",
    "sort",
    "page",
    "size",
    "cursor",
    "explain",
}
_MOST_ATTRS = 20
_SEARCH_ID = merchandising.SEARCH_ID.lower().encode()


class HighlightShape(Shape):
    """HTML: the text escaped, matches in `<em>`; null if nothing matched."""

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


class ExplainedHitShape(HitShape):
    """With `why`, for staff: pins and boosts by sales first, then the matches, highest score first."""

    why: list["WhyShape"]


class BucketShape(Shape):
    """A facet value, and how many of all found products have it."""

    key: str | int | float | bool
    count: int


class NumberBandShape(Shape):
    """A band of a numeric attribute, `from` inclusive, `to` exclusive: `attrs.x.in=<from>..<to>` filters by it."""

    key: str
    from_: float = Field(alias="from")
    to: float
    count: int


class WhyShape(Shape):
    """`text` is the whole reason in words. `pinned`: staff pinned it there; `sells`: its score is multiplied by
    `factor`, because it sells well for this query; `matches`: `word`, as indexed, added `score` before the boost by
    sales, and `factor` is the weight of the `field` it is in: name, exact (the name as typed), brand, more,
    description, all of these together, sku or category. `field` is null where the engine does not report it."""

    kind: Kind
    text: str
    field: str | None
    word: str | None
    factor: float | None
    score: float | None


class BandShape(Shape):
    """A price band in minor units, `from` inclusive, `to` exclusive."""

    key: str
    from_cents: int | None
    to_cents: int | None
    count: int


class RangeShape(Shape):
    """Lowest and highest price in minor units; null if nothing was found."""

    min_cents: int | None
    max_cents: int | None


class FacetsShape(Shape):
    """Counted over everything found, not the page; a facet's own filter does not narrow its counts. `attrs` holds
    attributes by name: if the search is for a single category, that category's, numbers in bands; else the most
    frequent ones."""

    category: list[BucketShape]
    brand: list[BucketShape]
    price: list[BandShape]
    price_range: RangeShape
    attrs: dict[str, list[BucketShape] | list[NumberBandShape]]


class FoundShape(Shape):
    """`nextCursor` leads to the next page, without duplicates; null on the last page. `tier` only with `explain`: how
    the words were matched. `facets` is null on later pages unless requested. `didYouMean` holds other spellings, best
    first. `partial`: the engine hit its time limit and returned what it had. `degraded`: the engine is down and the
    catalog listed this instead; then `total` is a lower bound and there are no facets."""

    total: int
    page: int
    size: int
    items: list[ExplainedHitShape] | list[HitShape]
    next_cursor: str | None
    tier: Tier | None = Field(default=None, exclude_if=lambda tier: tier is None)
    facets: FacetsShape | None
    did_you_mean: list[str]
    partial: bool
    degraded: bool = False
    took_ms: int


class SuggestionShape(Shape):
    """A product's name and the slug of its page; or a category's."""

    text: str
    slug: str


class SuggestionsShape(Shape):
    """Best first: products (`items`), categories, and frequent past queries that matched as typed; `degraded` as in
    GET /search."""

    items: list[SuggestionShape]
    categories: list[SuggestionShape]
    queries: list[str]
    degraded: bool = False


Text = Annotated[str, Query(max_length=200, description="Words; misspelt ones are found too. Text, not a syntax.")]
Term = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(composed)]
Terms = Annotated[list[Term] | None, Query(max_length=20)]


@router.get(
    "/search",
    response_model=FoundShape,
    responses=problems(Invalid, Unauthenticated, Forbidden, StoreUnavailable, TooManyRequests),
    description="Published products by text, filters and `attrs.<name>=value`, `attrs.<name>.gte=number` "
    "(also lte, gt, lt) and `attrs.<name>.in=<from>..<to>`, with facets over all that was found. Without `q` "
    "everything, best rated first. A first page with `q` has an `X-Search-Id`, which a product's page and an "
    "order may carry.",
)
async def search(
    shop: ShopDep,
    request: Request,
    principal: Anyone,
    *,
    q: Text = "",
    category: Terms = None,
    brand: Terms = None,
    min_price: Annotated[int | None, Query(alias="minPrice", ge=0, le=100_000_000_000)] = None,
    max_price: Annotated[int | None, Query(alias="maxPrice", ge=0, le=100_000_000_000)] = None,
    in_stock: Annotated[bool | None, Query(alias="inStock")] = None,
    min_rating: Annotated[float | None, Query(alias="minRating", ge=0, le=5)] = None,
    facets: Annotated[bool | None, Query(description="Whether to count; else on the first page only.")] = None,
    sort: Sort = "relevance",
    page: Annotated[int, Query(ge=1, le=DEEPEST)] = 1,
    size: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=512, description="`nextCursor` of the page before.")] = None,
    explain: Annotated[bool, Query(description="For staff: why each stands where it stands.")] = False,
) -> Response:
    if cursor is not None and page > 1:
        raise invalid("cursor", "goes without page")
    if explain:
        await staff(await signed(principal))
    if min_price is not None and max_price is not None and min_price > max_price:
        raise invalid("minPrice", "must not be above maxPrice")
    if page * size > DEEPEST:
        raise invalid("page", f"page × size must not pass {DEEPEST}: narrow the search instead")
    wanted = Wanted(
        q, tuple(category or ()), tuple(brand or ()), min_price, max_price, in_stock, min_rating,
        _attr_filters(request), False if cursor is not None and facets is None else facets, sort, page, size, explain,
    )  # fmt: skip
    ruling = await merchandising.ruling(shop, q)  # before `_typed_by`: the answer is cached with the rules' stamp
    answer = await service.answer(
        shop, wanted, _written, typed=_typed_by(shop, request), client=client_of(request), cursor=cursor, ruling=ruling
    )
    return _given(shop, answer).response()


@router.get(
    "/search/suggest",
    response_model=SuggestionsShape,
    responses=problems(Invalid, StoreUnavailable, TooManyRequests),
)
async def suggest(
    shop: ShopDep, request: Request, q: Text = "", size: Annotated[int, Query(ge=1, le=100)] = 10
) -> Response:
    """Typeahead: names of published products, categories, and past queries that were searched for several times and
    matched as typed. From the first letter on; from the fourth on with one typo."""
    _refuse_unclear(request, {"q", "size"})
    beside, ruling = await merchandising.offers(shop, q, size), await merchandising.ruling(shop, q)
    answer = await service.suggestions(
        shop, q, size, beside, _offered, typed=_typed_by(shop, request), client=client_of(request), hidden=ruling.hidden
    )
    return _given(shop, answer).response()


def at_hand(shop: Shop, path: str, query: str) -> AtHand | None:
    """The cached answer for exactly this URL, before any parsing: parsing the parameters alone costs more than all the
    rest of a cache hit."""
    typed = _typed(shop, path, query)
    answer = service.search_state(shop).answers.at_hand(typed) if typed is not None else None
    return None if answer is None else _given(shop, answer)


AT_HAND = {"/search": at_hand, "/search/suggest": at_hand}


def _typed(shop: Shop, path: str, query: str) -> str | None:
    """The cache key of the URL as it came, with the stamp of the staff's query rules; None when these are due for a
    check."""
    stamp = merchandising.recent_stamp(shop)
    return None if stamp is None else f"{stamp} {path}?{query}"


def _typed_by(shop: Shop, request: Request) -> str:
    return _typed(shop, request.scope["path"], request.scope["query_string"].decode("latin-1")) or ""


def _given(shop: Shop, answer: SearchAnswer) -> AtHand:
    """The response of an answer, recorded in the search log."""
    if not answer.logged_query:
        return AtHand(answer.body)
    search_id = merchandising.note_search(shop, answer.logged_query, answer.total, exact=answer.exact)
    return AtHand(answer.body, ((_SEARCH_ID, search_id.encode()),))


def _attr_filters(request: Request) -> tuple[AttrFilter, ...]:
    """Every `attrs.…` parameter, including repeated ones."""
    asked = [(name, value) for name, value in request.query_params.multi_items() if name.startswith("attrs.")]
    _refuse_unclear(request, _KNOWN | {name for name, _ in asked})
    asked = [(name, composed(value)) for name, value in asked]
    if len(asked) > _MOST_ATTRS:
        raise invalid("attrs", f"at most {_MOST_ATTRS} conditions")
    return combined(attr_filter(name, value) for name, value in asked)


def _refuse_unclear(request: Request, known: set[str]) -> None:
    """Raises Invalid: an unknown parameter is most likely a misspelt one, and of two values one would count; neither
    must be ignored silently."""
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            raise invalid(name[:100], "is not a parameter of this call")
        if times > 1 and name not in _REPEATED and not name.startswith("attrs."):
            raise invalid(name, "is given twice")


def _offered(items: list[dict[str, Any]], beside: service.Beside, degraded: bool) -> bytes:
    categories, queries = beside
    return as_json(
        SuggestionsShape(
            items=[SuggestionShape(**item) for item in items],
            categories=[SuggestionShape(text=name, slug=slug) for name, slug in categories],
            queries=queries,
            degraded=degraded,
        )
    )


def _written(wanted: Wanted, found: Found, further: str | None) -> bytes:
    text = words.normalised_query(wanted.q)
    marker = words.Marker(text, loosely=found.tier is not Tier.EXACT) if text else None
    return as_json(
        FoundShape(
            total=found.total,
            page=wanted.page,
            size=wanted.size,
            items=[_hit(hit, marker) for hit in found.hits],
            next_cursor=further,
            tier=found.tier if wanted.explain else None,
            facets=_facets(found.facets) if found.facets else None,
            did_you_mean=found.did_you_mean,
            partial=found.partial,
            degraded=found.degraded,
            took_ms=found.took_ms,
        )
    )


def _facets(found: Facets) -> FacetsShape:
    prices = RangeShape(min_cents=found.min_price, max_cents=found.max_price)
    attrs = {name: [_counted(one) for one in values] for name, values in found.attrs.items()}
    return FacetsShape.model_validate({**vars(found), "attrs": attrs, "price_range": prices})


def _counted(one: Bucket | NumberBand) -> BucketShape | NumberBandShape:
    if isinstance(one, Bucket):
        return BucketShape(key=one.key, count=one.count)
    return NumberBandShape(key=f"{one.low}–{one.high}", from_=one.low, to=one.high, count=one.count)


def _hit(hit: dict[str, Any], marker: words.Marker | None) -> HitShape:
    """A hit, with the query's words highlighted."""
    held = hit["_source"]
    highlight = HighlightShape()
    if marker is not None:
        highlight = HighlightShape(name=marker.whole(held["name"]), description=marker.part(held.pop("description")))
    if "_why" in hit:
        why = [WhyShape.model_validate(reason) for reason in hit["_why"]]
        return ExplainedHitShape(**held, highlight=highlight, score=hit.get("_score"), why=why)
    return HitShape(**held, highlight=highlight, score=hit.get("_score"))
