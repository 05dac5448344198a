"""Routes of webhook endpoints, for staff."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import AfterValidator, Field

from quartet.hooks import service, store
from quartet.hooks.model import EVENTS, Breaker, Delivery, Endpoint, State
from quartet.kernel.errors import Conflict, Forbidden, Invalid, NotFound, StoreUnavailable, Unauthenticated
from quartet.web.answers import answer, nothing, problems
from quartet.web.dependencies import PathId, ShopDep, Staff
from quartet.web.paging import Page, Paging
from quartet.web.shapes import MAX_BIGINT, Body, Bool, NoBody, Shape, text

router = APIRouter(prefix="/webhook-endpoints", tags=["webhooks"])

_ALWAYS = (Unauthenticated, Forbidden, Invalid, StoreUnavailable)


def _known(name: str) -> str:
    if name not in (*EVENTS, "*"):
        raise ValueError(f"must be one of {', '.join(EVENTS)}, or *")
    return name


Url = Annotated[str, text(2000)]
_Event = Annotated[str, text(40), AfterValidator(_known), Field(json_schema_extra={"enum": [*EVENTS, "*"]})]
Events = Annotated[list[_Event], Field(min_length=1, max_length=20)]
DeliveryId = Annotated[int, Path(alias="deliveryId", ge=1, le=MAX_BIGINT)]


class BreakerShape(Shape):
    """`open`: nothing is sent until `openUntil`; `half-open`: one delivery is tried, to see."""

    state: Breaker
    failures: int
    open_until: datetime | None


class EndpointShape(Shape):
    """`disabledReason` says why it was disabled."""

    id: UUID
    url: str
    events: list[str]
    description: str | None
    enabled: bool
    disabled_reason: str | None
    breaker: BreakerShape
    created_at: datetime
    updated_at: datetime


class EndpointWithSecret(EndpointShape):
    """`secret` verifies signatures (Standard Webhooks); it is shown only here."""

    secret: str


class DeliveryShape(Shape):
    """`status` is that of the last answer, `answer` its beginning, `error` why there was none."""

    id: int
    event_id: UUID
    type: str
    state: State
    attempts: int
    next_try_at: datetime | None
    status: int | None
    answer: str | None
    error: str | None
    happened_at: datetime
    created_at: datetime
    done_at: datetime | None


class NewEndpoint(Body):
    """Which events to send, and to which URL."""

    url: Url
    events: Events
    description: Annotated[str, text(200)] | None = None


class EndpointPatch(Body):
    """What to change; `enabled` true enables it again and resets its breaker, as another `url` does."""

    url: Url | None = None
    events: Events | None = None
    description: Annotated[str, text(200, 0)] | None = None
    enabled: Bool | None = None


def _shape(shop: ShopDep, endpoint: Endpoint) -> EndpointShape:
    state = endpoint.breaker(shop.clock.now())
    until = None if state == "closed" else endpoint.open_until
    breaker = BreakerShape(state=state, failures=endpoint.failures, open_until=until)
    return EndpointShape.model_validate({**vars(endpoint), "breaker": breaker})


def _with_secret(shop: ShopDep, endpoint: Endpoint, secret: str) -> EndpointWithSecret:
    return EndpointWithSecret(**dict(_shape(shop, endpoint)), secret=secret)


def _delivery(delivery: Delivery) -> DeliveryShape:
    again = delivery.not_before if delivery.state == "pending" and delivery.attempts else None
    return DeliveryShape.model_validate({**vars(delivery), "type": delivery.topic, "next_try_at": again})


@router.post("", status_code=201, response_model=EndpointWithSecret, responses=problems(*_ALWAYS))
async def create(shop: ShopDep, principal: Staff, body: NewEndpoint) -> Response:
    """A new endpoint; its secret is shown only here."""
    endpoint, secret = await service.create(shop, principal, body.url, body.events, body.description)
    return answer(_with_secret(shop, endpoint, secret), 201)


@router.get("", response_model=Page[EndpointShape], responses=problems(*_ALWAYS))
async def list_endpoints(shop: ShopDep, _: Staff, paging: Paging) -> Response:
    """All of them, newest first."""
    before = shop.cursors.start(paging, "webhooks", None, UUID)
    async with shop.stores.pg.read() as read:
        found = await store.page(read, before, paging.limit + 1)
    shown, more = shop.cursors.cut(found, paging, "webhooks", lambda last: [last.id])
    return answer(Page[EndpointShape](items=[_shape(shop, endpoint) for endpoint in shown], next_cursor=more))


@router.get("/{id}", response_model=EndpointShape, responses=problems(NotFound, *_ALWAYS))
async def get_endpoint(shop: ShopDep, _: Staff, endpoint_id: PathId) -> Response:
    """One of them, with the state of its breaker."""
    async with shop.stores.pg.read() as read:
        return answer(_shape(shop, await store.get(read, endpoint_id)))


@router.patch("/{id}", response_model=EndpointShape, responses=problems(NotFound, *_ALWAYS))
async def change(shop: ShopDep, principal: Staff, endpoint_id: PathId, body: EndpointPatch) -> Response:
    """Changes it. Pending deliveries go to the new URL."""
    description = body.description
    if description is None and "description" in body.model_fields_set:
        description = ""
    events = tuple(body.events) if body.events is not None else None
    wanted = service.Change(body.url, events, description, body.enabled)
    return answer(_shape(shop, await service.change(shop, principal, endpoint_id, wanted)))


@router.delete("/{id}", status_code=204, responses=problems(NotFound, *_ALWAYS))
async def remove(shop: ShopDep, principal: Staff, endpoint_id: PathId, _: NoBody = None) -> Response:
    """Deletes it and its deliveries."""
    await service.remove(shop, principal, endpoint_id)
    return nothing()


@router.post("/{id}/rotate-secret", response_model=EndpointWithSecret, responses=problems(NotFound, *_ALWAYS))
async def rotate(shop: ShopDep, principal: Staff, endpoint_id: PathId, _: NoBody = None) -> Response:
    """A new secret, shown only here; for 24 hours the previous ones sign as well."""
    endpoint, secret = await service.rotate(shop, principal, endpoint_id)
    return answer(_with_secret(shop, endpoint, secret))


@router.post(
    "/{id}/test", status_code=202, response_model=DeliveryShape, responses=problems(NotFound, Conflict, *_ALWAYS)
)
async def test(shop: ShopDep, principal: Staff, endpoint_id: PathId, _: NoBody = None) -> Response:
    """Sends an event `webhook.test`, to see whether it arrives."""
    return answer(_delivery(await service.test(shop, principal, endpoint_id)), 202)


@router.get("/{id}/deliveries", response_model=Page[DeliveryShape], responses=problems(NotFound, *_ALWAYS))
async def list_deliveries(
    shop: ShopDep,
    _: Staff,
    endpoint_id: PathId,
    paging: Paging,
    state: Annotated[State | None, Query(description="Only those.")] = None,
) -> Response:
    """Its deliveries, sent and pending, newest first."""
    scope = f"deliveries:{endpoint_id}:{state}"
    before = shop.cursors.start(paging, scope, MAX_BIGINT, int)
    async with shop.stores.pg.read() as read:
        await store.get(read, endpoint_id)
        found = await store.deliveries(read, endpoint_id, before=before, state=state, limit=paging.limit + 1)
    shown, more = shop.cursors.cut(found, paging, scope, lambda last: [last.id])
    return answer(Page[DeliveryShape](items=[_delivery(delivery) for delivery in shown], next_cursor=more))


@router.post(
    "/{id}/deliveries/{deliveryId}/redeliver",
    status_code=202,
    response_model=DeliveryShape,
    responses=problems(NotFound, Conflict, *_ALWAYS),
)
async def redeliver(
    shop: ShopDep, principal: Staff, endpoint_id: PathId, delivery_id: DeliveryId, _: NoBody = None
) -> Response:
    """Sends it again under the same id, delivered before or not."""
    return answer(_delivery(await service.redeliver(shop, principal, endpoint_id, delivery_id)), 202)
