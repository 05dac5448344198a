"""Routes of synchronisation: its state, rebuilds of the search index, dead letters."""

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
    """The pipeline `changes` follows the catalog's change stream, `outbox` delivers PostgreSQL's events, `mails` sends
    e-mails. `lastToken` is the position from which it would resume after a crash."""

    name: str
    lag_seconds: float | None
    pending: int | None
    last_token: Any
    batches: int
    items: int
    retries: int
    dead_letters: int


class FreshnessShape(Shape):
    """Measured each second by changing a hidden canary product: the time until a search finds a write to the `catalog`,
    or to price and `stock`, and until the product `cache` has the latter. The seconds are upper bounds of the 50th and
    99th percentile of the last five minutes' samples; null beyond 30. `ageSeconds`: the age of the newest write that a
    search finds."""

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
    """A rebuild of the search index; `done` and `total` count products, `rate` is in products per second. `error` says
    why it failed or, while it is `building`, why it can't go live yet. `kind` `back`: a rollback to the previously live
    index."""

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
    """The number of dead letters retried."""

    replayed: int


@router.get("/sync", response_model=StateShape, responses=_REFUSALS)
async def show(shop: ShopDep, _staff: Staff) -> Response:
    """The lag of search and caches, and the dead letters."""
    return answer(StateShape.model_validate(await service.state(shop)))


@router.post("/sync/reindex", status_code=202, response_model=RebuildShape, responses=_REFUSALS)
async def rebuild(shop: ShopDep, admin: Admin, _: NoBody = None) -> Response:
    """Requests a rebuild of the search index beside the live one, done by the worker; if one is already requested or
    running, that one is returned."""
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
