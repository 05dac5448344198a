"""Routes of the leaderboard."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field

from quartet.kernel.errors import Forbidden, Invalid, StoreUnavailable, Unauthenticated
from quartet.leaderboard import service
from quartet.leaderboard.model import Period
from quartet.web.answers import answer, problems
from quartet.web.dependencies import Admin, ShopDep, Signed, Staff
from quartet.web.shapes import Body, Int, NoBody, Shape, text

router = APIRouter(prefix="/leaderboard", tags=["leaderboard"])

PeriodQuery = Annotated[Period, Query(description="Today (UTC), or this ISO week.")]


class PlaceShape(Shape):
    """Equal points share a rank."""

    rank: int
    display_name: str
    xp: int


class Board(Shape):
    """Best first."""

    items: list[PlaceShape]


class MyPlace(Shape):
    """`rank` is null for a user without points."""

    rank: int | None
    xp: int


class Points(Body):
    """`eventId` identifies what the points are for; each event counts once."""

    user_id: UUID
    xp: Annotated[Int, Field(ge=1, le=1_000_000_000)]
    event_id: Annotated[str, text(200)]


class Given(Shape):
    """`counted` is false if the event was counted before."""

    user_id: UUID
    xp: int
    event_id: str
    counted: bool


@router.get("", response_model=Board, responses=problems(Invalid, StoreUnavailable))
async def get_board(
    shop: ShopDep,
    period: PeriodQuery = "daily",
    limit: Annotated[int, Query(ge=1, le=100, description="How many places.")] = 20,
) -> Response:
    """Today's or this week's ranking."""
    rows = await service.top(shop, period, limit)
    return answer(Board(items=[PlaceShape.model_validate(row) for row in rows]))


@router.get("/me", response_model=MyPlace, responses=problems(Unauthenticated, Invalid, StoreUnavailable))
async def get_mine(shop: ShopDep, principal: Signed, period: PeriodQuery = "daily") -> Response:
    """Your own rank."""
    place = await service.place_of(shop, period, principal.user_id)
    return answer(MyPlace(rank=place.rank, xp=place.xp) if place else MyPlace(rank=None, xp=0))


class Rebuilt(Shape):
    """How many orders and grants of points went into each board."""

    daily: int
    weekly: int


@router.post("/rebuild", response_model=Rebuilt, responses=problems(Unauthenticated, Forbidden, StoreUnavailable))
async def rebuild(shop: ShopDep, principal: Admin, _: NoBody = None) -> Response:
    """Rebuilds today's and this week's board from orders and points given by staff, while both stay in use."""
    return answer(Rebuilt.model_validate(await service.rebuild(shop, actor=principal.actor)))


@router.post(
    "/xp",
    status_code=201,
    response_model=Given,
    responses=problems(Unauthenticated, Forbidden, Invalid, StoreUnavailable),
)
async def give(shop: ShopDep, principal: Staff, body: Points) -> Response:
    """Gives a user points, on today's and this week's board."""
    counted = await service.give(shop, body.user_id, body.xp, body.event_id, actor=principal.actor)
    return answer(Given(user_id=body.user_id, xp=body.xp, event_id=body.event_id, counted=counted), 201)
