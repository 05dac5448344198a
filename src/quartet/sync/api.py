"""GET /sync, POST /sync/reindex, and what becomes of dead letters."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response

from quartet.kernel.errors import Forbidden, Invalid, NotFound, StoreUnavailable, Unauthenticated
from quartet.sync import service
from quartet.sync.reindex import ask
from quartet.web.answers import answer, nothing, problems
from quartet.web.dependencies import Admin, ShopDep, Staff
from quartet.web.shapes import MAX_BIGINT, NoBody, Shape

router = APIRouter(tags=["sync"])

_REFUSALS = problems(Unauthenticated, Forbidden, StoreUnavailable)


class PipelineShape(Shape):
    """`changes` follows the catalog's change stream, `outbox` PostgreSQL's events, `mails` are e-mails to be sent.
    `lastToken` is where it would resume after a crash."""

    name: str
    lag_seconds: float | None
    pending: int | None
    last_token: Any
    batches: int
    items: int
    retries: int
    dead_letters: int


class FreshnessShape(Shape):
    """Measured each second by a hidden canary product: how long until a search finds what was written to the `catalog`
    or to price and `stock`, and until the product `cache` was updated with the latter. The seconds are upper bounds of
    the 50th and 99th percentile of the last five minutes' samples; null beyond 30. `ageSeconds`: of the newest one
    found."""

    what: Literal["catalog", "stock", "cache"]
    p50_seconds: float | None
    p99_seconds: float | None
    samples: int
    age_seconds: float | None


class LetterShape(Shape):
    """A dead letter: what could not be processed, and why."""

    id: int
    pipeline: str
    key: str
    payload: dict[str, Any]
    reason: str
    created_at: datetime


class RebuildShape(Shape):
    """A rebuild of the search index; `done` and `total` count products, `rate` is products a second. `error` says why
    it failed or, while it is `building`, why it does not go live yet. `kind` `back`: to the index that was live
    before."""

    id: int
    state: Literal["asked", "building", "done", "failed"]
    kind: Literal["new", "back"]
    reason: str
    total: int
    done: int
    rate: float
    seconds_left: float | None
    error: str | None
    asked_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class StateShape(Shape):
    """`letters` holds the newest twenty."""

    pipelines: list[PipelineShape]
    freshness: list[FreshnessShape]
    reindex: RebuildShape | None
    dead_letters: int
    letters: list[LetterShape]


class ReplayedShape(Shape):
    """How many were retried."""

    replayed: int


@router.get("/sync", response_model=StateShape, responses=_REFUSALS)
async def show(shop: ShopDep, _staff: Staff) -> Response:
    """How far behind search and caches are, and the dead letters."""
    return answer(StateShape.model_validate(await service.state(shop)))


@router.post("/sync/reindex", status_code=202, response_model=RebuildShape, responses=_REFUSALS)
async def rebuild(shop: ShopDep, admin: Admin, _: NoBody = None) -> Response:
    """Asks the worker for a new search index beside the live one; while one is being built, that one is answered."""
    asked = await ask(shop, f"asked for by {admin.actor}", admin.actor)
    return answer(RebuildShape.model_validate(asked), 202)


@router.post("/sync/dead-letters/replay", response_model=ReplayedShape, responses=_REFUSALS)
async def replay(shop: ShopDep, admin: Admin, _: NoBody = None) -> Response:
    """Retries the dead letters."""
    return answer(ReplayedShape(replayed=await service.replay_dead_letters(shop, admin.actor)))


@router.delete(
    "/sync/dead-letters/{id}",
    status_code=204,
    responses=problems(NotFound, Invalid, Unauthenticated, Forbidden, StoreUnavailable),
)
async def drop(
    shop: ShopDep,
    admin: Admin,
    letter_id: Annotated[int, Path(alias="id", ge=1, le=MAX_BIGINT)],
    _: NoBody = None,
) -> Response:
    """Discards a dead letter for good."""
    await service.drop_dead_letter(shop, letter_id, admin.actor)
    return nothing()
