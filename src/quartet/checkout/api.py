"""Routes of the purchase."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as PathParameter
from pydantic import AfterValidator, Field

from quartet.checkout import service
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
)
from quartet.orders import InsufficientStock, InvalidTransition, MixedCurrencies, OrderShape, OverRefund, UnknownSku
from quartet.payments import (
    BadSignature,
    OrderNotPayable,
    PaymentDeclined,
    PaymentInProgress,
    PaymentShape,
    ProviderError,
    ProviderOff,
    Providers,
    open_providers,
)
from quartet.web.answers import problems
from quartet.web.dependencies import PathId, ShopDep, Signed, Staff
from quartet.web.idempotency import IdempotencyKey
from quartet.web.shapes import Body, Bool, Int, JsonObject, Qty, Sku, text

router = APIRouter(tags=["checkout"])

_ALWAYS = (Unauthenticated, Invalid, IdempotencyKeyReused, RequestInProgress, StoreUnavailable)
MOST_METADATA = 50


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) > MOST_METADATA:
        raise ValueError(f"has more than {MOST_METADATA} members")
    return value


class NewLine(Body):
    sku: Sku
    qty: Qty


class NewOrder(Body):
    """Without `items` the cart is ordered. `metadata` is kept with the order."""

    items: Annotated[list[NewLine], Field(min_length=1, max_length=200)] | None = None
    metadata: Annotated[JsonObject, AfterValidator(_small)] | None = None


class NewPayment(Body):
    """`paymentMethod` is the provider's word; the sandbox takes `card_ok`, `card_declined`, `card_insufficient_funds`,
    `card_async`, `card_error`, `card_slow`."""

    order_id: UUID
    provider: Annotated[str, text(40)]
    payment_method: Annotated[str, text(200)]


class NewRefund(Body):
    """Without `amountCents` all that is left goes back. `restock` puts the order's pieces back on the shelf."""

    amount_cents: Annotated[Int, Field(ge=1, le=100_000_000_000_000)] | None = None
    restock: Bool = False


async def _providers(request: Request, shop: ShopDep) -> Providers:
    """Opened at the first payment and kept with the application, which may have been given others."""
    state = request.app.state
    if getattr(state, "providers", None) is None:
        state.providers = open_providers(shop.settings, shop.stores.pg)
    providers: Providers = state.providers
    return providers


ProvidersDep = Annotated[Providers, Depends(_providers)]


@router.post(
    "/orders",
    status_code=201,
    response_model=OrderShape,
    responses=problems(InsufficientStock, UnknownSku, MixedCurrencies, *_ALWAYS),
)
async def post_order(shop: ShopDep, principal: Signed, key: IdempotencyKey, body: NewOrder | None = None) -> Response:
    """Orders the items, else what is in the cart. The stock is reserved until `expiresAt`."""
    body = body or NewOrder()
    lines = None if body.items is None else [(line.sku, line.qty) for line in body.items]
    return await service.place(shop, principal, lines, body.metadata or {}, key)


@router.post(
    "/orders/{id}/cancel",
    response_model=OrderShape,
    responses=problems(NotFound, InvalidTransition, *_ALWAYS),
)
async def cancel_order(
    shop: ShopDep, providers: ProvidersDep, principal: Signed, order_id: PathId, key: IdempotencyKey
) -> Response:
    """Cancels what has not been sent. The stock is free again, and what was paid goes back."""
    return await service.cancel(shop, providers, principal, order_id, key)


@router.post(
    "/orders/{id}/refunds",
    status_code=201,
    response_model=RefundShape,
    responses=problems(NotFound, OverRefund, ProviderOff, ProviderError, Forbidden, *_ALWAYS),
)
async def post_refund(  # noqa: PLR0917
    shop: ShopDep,
    providers: ProvidersDep,
    principal: Staff,
    order_id: PathId,
    key: IdempotencyKey,
    body: NewRefund | None = None,
) -> Response:
    """Gives money back. All of it back makes the order refunded."""
    body = body or NewRefund()
    return await service.refund(
        shop, providers, principal, order_id, cents=body.amount_cents, restock=body.restock, key=key
    )


@router.post(
    "/payments",
    status_code=201,
    response_model=PaymentShape,
    responses=problems(NotFound, PaymentDeclined, OrderNotPayable, PaymentInProgress, ProviderError, *_ALWAYS),
)
async def post_payment(  # noqa: PLR0917
    request: Request, shop: ShopDep, providers: ProvidersDep, principal: Signed, body: NewPayment, key: IdempotencyKey
) -> Response:
    """Pays the whole order. `succeeded`: it is confirmed; `pending`: a webhook will tell."""
    return await service.pay(
        shop, providers, principal, body.order_id, provider=body.provider, method=body.payment_method, key=key,
        request_id=request.scope.get("request_id", ""),
    )  # fmt: skip


@router.post(
    "/webhooks/{provider}",
    responses=problems(NotFound, BadSignature, BadRequest, Invalid, StoreUnavailable),
    response_class=Response,
)
async def post_webhook(
    request: Request,
    shop: ShopDep,
    providers: ProvidersDep,
    provider: Annotated[str, PathParameter(max_length=40)],
) -> Response:
    """What a provider tells, signed by it. Once or many times the same."""
    await service.receive(shop, providers, provider, dict(request.headers), await request.body())
    return Response(status_code=200)
