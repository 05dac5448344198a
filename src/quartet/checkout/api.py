"""Routes of the purchase."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as PathParameter
from pydantic import AfterValidator, Field

from quartet import merchandising
from quartet.checkout import captures, paying, placing, refunds, webhooks
from quartet.checkout.answers import RefundShape
from quartet.kernel.errors import (
    BadRequest,
    Forbidden,
    IdempotencyKeyReused,
    Invalid,
    NotFound,
    RequestInProgress,
    StoreUnavailable,
    Unauthenticated,
    invalid,
)
from quartet.orders import (
    InsufficientStock,
    InvalidTransition,
    MixedCurrencies,
    NewOrderShape,
    OrderShape,
    OverRefund,
    PaymentContested,
    PriceChanged,
    UnknownSku,
)
from quartet.payments import (
    BadSignature,
    NothingToCapture,
    OrderNotPayable,
    PaymentDeclined,
    PaymentInProgress,
    PaymentShape,
    ProviderAway,
    ProviderError,
    ProviderOff,
    Providers,
    open_providers,
)
from quartet.web.answers import problems, with_headers
from quartet.web.dependencies import Buying, PathId, ShopDep, Staff, Visiting, get_shop
from quartet.web.idempotency import IdempotencyKey
from quartet.web.shapes import AnySku, Body, Bool, Int, JsonObject, NoBody, Qty, Str, text, words

router = APIRouter(tags=["checkout"])

_PLACED = with_headers({"Location": "Where it is."})
# The errors of routes that call a provider.
_ASKING = (ProviderError, ProviderAway)
_ALWAYS = (Unauthenticated, Invalid, IdempotencyKeyReused, RequestInProgress, StoreUnavailable)
MOST_METADATA = 50
MOST_CENTS = 100_000_000_000_000


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) > MOST_METADATA:
        raise ValueError(f"has more than {MOST_METADATA} members")
    return value


class NewLine(Body):
    sku: AnySku
    qty: Qty


class FoundBy(Body):
    """The search that led to a line of the order; an id that we did not issue is ignored."""

    sku: AnySku
    search_id: Annotated[Str, Field(max_length=200, json_schema_extra={"format": "uuid"})]


class NewOrder(Body):
    """Without `items` the cart is ordered. `metadata` is stored with the order. `expectedTotalCents` is what the buyer
    was shown; if the total differs now, nothing is ordered. A guest, and only a guest, gives an `email`. `foundBy` says
    which searches (`X-Search-Id` of their answers) led to the items; once the order is paid, nothing links it to
    them."""

    items: Annotated[list[NewLine], Field(min_length=1, max_length=200)] | None = None
    metadata: Annotated[JsonObject, AfterValidator(_small)] | None = None
    email: Annotated[str, text(320), Field(json_schema_extra={"format": "email"})] | None = None
    expected_total_cents: Annotated[Int, Field(ge=0, le=MOST_CENTS)] | None = None
    found_by: Annotated[list[FoundBy], Field(max_length=200)] = Field(default_factory=list)


class NewPayment(Body):
    """`paymentMethod` is the provider's own name of the method; the sandbox takes `card_ok`, `card_declined`,
    `card_insufficient_funds`, `card_async`, `card_error`, `card_slow`."""

    order_id: UUID
    provider: Annotated[str, text(40)]
    payment_method: Annotated[str, text(200)]


class NewRefund(Body):
    """An amount, or the price of some pieces, or without both all that is left. `restock` puts those pieces back into
    stock, without `items` all that are left of the order. `reason` is stored with the refund."""

    amount_cents: Annotated[Int, Field(ge=1, le=MOST_CENTS)] | None = None
    items: Annotated[list[NewLine], Field(min_length=1, max_length=200)] | None = None
    restock: Bool = False
    reason: Annotated[str, words(200)] | None = None


async def _providers(request: Request) -> Providers:
    """The providers, opened at first use and kept in the application's state, unless it was given others."""
    state = request.app.state
    if getattr(state, "providers", None) is None:
        shop = await get_shop(request)
        state.providers = open_providers(shop.settings, shop.stores.pg)
    providers: Providers = state.providers
    return providers


ProvidersDep = Annotated[Providers, Depends(_providers)]


@router.post(
    "/orders",
    status_code=201,
    response_model=NewOrderShape,
    responses={201: _PLACED, **problems(InsufficientStock, UnknownSku, MixedCurrencies, PriceChanged, *_ALWAYS)},
)
async def post_order(
    request: Request, visitor: Visiting, key: IdempotencyKey, body: NewOrder | None = None
) -> Response:
    """Orders the items, else the cart. The stock is reserved until `expiresAt`. A guest has access to the order by its
    `orderToken`."""
    body = body or NewOrder()
    lines = None if body.items is None else [(line.sku, line.qty) for line in body.items]
    return await placing.place(
        await get_shop(request), visitor, lines, body.metadata or {}, key, email=body.email,
        expected=body.expected_total_cents,
        found_by=[(line.sku, id_) for line in body.found_by if (id_ := merchandising.read_id(line.search_id))],
    )  # fmt: skip


@router.post(
    "/orders/{id}/cancel",
    response_model=OrderShape,
    responses=problems(NotFound, InvalidTransition, PaymentContested, ProviderOff, *_ALWAYS),
)
async def cancel_order(
    shop: ShopDep, providers: ProvidersDep, visitor: Buying, order_id: PathId, key: IdempotencyKey, _: NoBody = None
) -> Response:
    """Cancels an order that was not shipped. The stock is released, and what was paid is refunded."""
    return await refunds.cancel(shop, providers, visitor, order_id, key)


@router.post(
    "/orders/{id}/refunds",
    status_code=201,
    response_model=RefundShape,
    responses=problems(NotFound, OverRefund, PaymentContested, ProviderOff, *_ASKING, Forbidden, *_ALWAYS),
)
async def post_refund(  # noqa: PLR0917
    shop: ShopDep,
    providers: ProvidersDep,
    principal: Staff,
    order_id: PathId,
    key: IdempotencyKey,
    body: NewRefund | None = None,
) -> Response:
    """Refunds money. An order refunded in full becomes `refunded`."""
    body = body or NewRefund()
    if body.items is not None and body.amount_cents is not None:
        raise invalid("items", "must not be given beside amountCents")
    items = None if body.items is None else [(line.sku, line.qty) for line in body.items]
    return await refunds.refund(
        shop, providers, principal, order_id, cents=body.amount_cents, items=items, restock=body.restock,
        note=body.reason, key=key,
    )  # fmt: skip


@router.post(
    "/payments",
    status_code=201,
    response_model=PaymentShape,
    responses={
        201: _PLACED,
        **problems(NotFound, PaymentDeclined, OrderNotPayable, PaymentInProgress, *_ASKING, *_ALWAYS),
    },
)
async def post_payment(request: Request, visitor: Buying, body: NewPayment, key: IdempotencyKey) -> Response:
    """Pays the whole order. `succeeded`, or `authorized` if the shop captures later: the order is confirmed. `pending`:
    a webhook will report the outcome, or the buyer has to go to `redirectUrl` first."""
    return await paying.pay(
        await get_shop(request), await _providers(request), visitor, body.order_id, provider=body.provider,
        method=body.payment_method, key=key, request_id=request.scope.get("request_id", ""),
    )  # fmt: skip


@router.post(
    "/payments/{id}/capture",
    response_model=PaymentShape,
    responses=problems(
        NotFound, NothingToCapture, PaymentInProgress, PaymentContested, ProviderOff, *_ASKING, Forbidden, *_ALWAYS
    ),
)
async def capture_payment(
    shop: ShopDep, providers: ProvidersDep, principal: Staff, payment_id: PathId, key: IdempotencyKey, _: NoBody = None
) -> Response:
    """Captures an authorized payment: the order can then be shipped. Still `authorized` while the provider has not
    confirmed it."""
    return await captures.capture(shop, providers, principal, payment_id, key)


@router.post(
    "/payments/{id}/refresh",
    response_model=PaymentShape,
    responses=problems(NotFound, Unauthenticated, Invalid, StoreUnavailable),
)
async def refresh_payment(
    shop: ShopDep, providers: ProvidersDep, visitor: Buying, payment_id: PathId, _: NoBody = None
) -> Response:
    """Asks the provider for the state of an open payment: for a buyer who is back from its page."""
    return await paying.refresh(shop, providers, visitor, payment_id)


@router.post(
    "/webhooks/{provider}",
    responses=problems(NotFound, BadSignature, BadRequest, *_ASKING, Invalid, StoreUnavailable),
    response_class=Response,
)
async def post_webhook(
    request: Request,
    shop: ShopDep,
    providers: ProvidersDep,
    provider: Annotated[str, PathParameter(max_length=40)],
) -> Response:
    """A signed webhook of a provider. Idempotent."""
    await webhooks.receive(shop, providers, provider, dict(request.headers), await request.body())
    return Response(status_code=200)
