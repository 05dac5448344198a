"""Routes for the staff's search settings: synonyms, rules, ranking."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import Field

from quartet.kernel.errors import Forbidden, Invalid, NotFound, StoreUnavailable, Unauthenticated
from quartet.merchandising import service, store
from quartet.merchandising.model import LONGEST_QUERY, Ranking
from quartet.web.answers import answer, nothing, problems
from quartet.web.dependencies import PathId, ShopDep, Staff
from quartet.web.paging import Page, Paging
from quartet.web.shapes import Body, Bool, Int, NoBody, Shape, Sku, text

router = APIRouter(prefix="/search", tags=["search"])

_STAFF = (Unauthenticated, Forbidden, Invalid, StoreUnavailable)
_LAST = UUID(int=2**128 - 1)

Words = Annotated[str, text(LONGEST_QUERY)]
Skus = Annotated[list[Sku], Field(max_length=50)]


class SynonymsBody(Body):
    """Without `means` the `words` are synonyms of one another; with it a search for one of the `words` also finds
    `means`, but not the other way round."""

    words: Annotated[list[Words], Field(min_length=1, max_length=20)]
    means: Annotated[list[Words], Field(max_length=20)] = Field(default_factory=list)


class SynonymsShape(Shape):
    """Normalised as by a search: in lower case, without accents and punctuation, measures in one word."""

    id: UUID
    words: list[str]
    means: list[str]
    created_at: datetime


class RuleBody(Body):
    """`pinned` products come first for the query, in this order, whether they match or not; `hidden` ones are not found
    by it. Given by SKUs of products or of their variants. Unless `offered`, the query is never suggested to others,
    however frequent it is."""

    query: Words
    pinned: Skus = Field(default_factory=list)
    hidden: Skus = Field(default_factory=list)
    offered: Bool = True


class RuleShape(Shape):
    """`query` normalised as by a search: in lower case, without accents and punctuation, measures in one word."""

    id: UUID
    query: str
    pinned: list[str]
    hidden: list[str]
    offered: bool
    updated_at: datetime


class RankingBody(Body):
    """The product that sells best for a query has its score multiplied by 1 + `mostBoost`, others by proportionally
    less; only products that sold at least `leastUnits` pieces after that query within `days`. 0 leaves scores
    unchanged."""

    most_boost: Annotated[float, Field(strict=True, ge=0, le=10)]
    least_units: Annotated[Int, Field(ge=1, le=1_000_000)]
    days: Annotated[Int, Field(ge=1, le=3650)]


class RankingShape(Shape):
    most_boost: float
    least_units: int
    days: int


@router.get("/synonyms", response_model=Page[SynonymsShape], responses=problems(*_STAFF))
async def list_synonyms(shop: ShopDep, _: Staff, paging: Paging) -> Response:
    """Synonyms, newest first."""
    before = shop.cursors.start(paging, "synonyms", _LAST, UUID)
    async with shop.stores.pg.read() as read:
        found = await store.synonyms_page(read, before, paging.limit + 1)
    shown, more = shop.cursors.cut(found, paging, "synonyms", lambda last: [last.id])
    items = [SynonymsShape.model_validate(each) for each in shown]
    return answer(Page[SynonymsShape](items=items, next_cursor=more))


@router.post("/synonyms", status_code=201, response_model=SynonymsShape, responses=problems(*_STAFF))
async def add_synonyms(body: SynonymsBody, shop: ShopDep, principal: Staff) -> Response:
    """Adds synonyms; in effect within a second."""
    added = await service.add_synonyms(shop, body.words, body.means, actor=principal.actor)
    return answer(SynonymsShape.model_validate(added), 201)


@router.delete("/synonyms/{id}", status_code=204, responses=problems(NotFound, *_STAFF))
async def drop_synonyms(synonyms_id: PathId, shop: ShopDep, principal: Staff, _: NoBody = None) -> Response:
    """Deletes synonyms; in effect within a second."""
    await service.drop_synonyms(shop, synonyms_id, actor=principal.actor)
    return nothing()


@router.get("/rules", response_model=Page[RuleShape], responses=problems(*_STAFF))
async def list_rules(shop: ShopDep, _: Staff, paging: Paging) -> Response:
    """Rules, sorted by query."""
    after = shop.cursors.start(paging, "search-rules", "", str)
    async with shop.stores.pg.read() as read:
        found = await store.rules_page(read, after, paging.limit + 1)
    shown, more = shop.cursors.cut(found, paging, "search-rules", lambda last: [last.query])
    return answer(Page[RuleShape](items=[RuleShape.model_validate(each) for each in shown], next_cursor=more))


@router.post("/rules", status_code=201, response_model=RuleShape, responses=problems(*_STAFF))
async def put_rule(body: RuleBody, shop: ShopDep, principal: Staff) -> Response:
    """Sets the rule for a query, replacing an earlier one; in effect within a second."""
    rule = await service.put_rule(
        shop, body.query, body.pinned, body.hidden, offered=body.offered, actor=principal.actor
    )
    return answer(RuleShape.model_validate(rule), 201)


@router.delete("/rules/{id}", status_code=204, responses=problems(NotFound, *_STAFF))
async def drop_rule(rule_id: PathId, shop: ShopDep, principal: Staff, _: NoBody = None) -> Response:
    """Deletes a rule; in effect within a second."""
    await service.drop_rule(shop, rule_id, actor=principal.actor)
    return nothing()


@router.get("/ranking", response_model=RankingShape, responses=problems(*_STAFF))
async def get_ranking(shop: ShopDep, _: Staff) -> Response:
    """How much sales may boost a product's score for a query."""
    async with shop.stores.pg.read() as read:
        return answer(RankingShape.model_validate(await store.ranking(read)))


@router.put("/ranking", response_model=RankingShape, responses=problems(*_STAFF))
async def set_ranking(body: RankingBody, shop: ShopDep, principal: Staff) -> Response:
    """Sets how much sales may boost a product's score for a query; in effect within a second."""
    bounds = Ranking(body.most_boost, body.least_units, body.days)
    await service.set_ranking(shop, bounds, actor=principal.actor)
    return answer(RankingShape.model_validate(bounds))
