"""The JSON shapes of orders."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from quartet.orders.model import Status
from quartet.web.shapes import Shape


class OrderItemShape(Shape):
    """Name and price as they were when the order was placed."""

    sku: str
    name: str
    qty: int
    unit_price_cents: int
    line_total_cents: int


class PaymentRefundShape(Shape):
    """A refund of a payment: `pending` at the provider, `succeeded`, or `failed`. `reason`: it was `asked` for, the
    order was `cancelled`, the money came too `late`, or it was made `elsewhere`, by hand at the provider's page."""

    id: UUID
    amount_cents: int
    status: str
    reason: str
    created_at: datetime
    processed_at: datetime | None


class ContestShape(Shape):
    """What somebody else did to the payment's money: a `dispute`, a `reversal`, or a `refund` that exceeds what is
    left; `providerRef` is the provider's id of it. Until `settledAt` the order can't be shipped, captured, refunded or
    cancelled."""

    provider_ref: str
    reason: str
    amount_cents: int
    contested_at: datetime
    settled_at: datetime | None


class OrderPaymentShape(Shape):
    """An attempt to pay."""

    id: UUID
    order_id: UUID
    provider: str
    provider_ref: str
    amount_cents: int
    status: str
    processed_at: datetime | None
    refunds: list[PaymentRefundShape]
    contests: list[ContestShape]


class StepShape(Shape):
    """A change of status. `from` is null when the order was placed, and equals `to` when the account of its address
    claimed it. `by` is a user's id, `guest`, or a part of the shop."""

    at: datetime
    from_status: Status | None = Field(serialization_alias="from")
    to_status: Status = Field(serialization_alias="to")
    by: str
    reason: str | None


class RefundPartShape(Shape):
    """The part of a refund that falls on a SKU: the amount, the pieces it was for, and those put back into stock."""

    sku: str
    amount_cents: int
    qty: int
    restocked_qty: int


class GivenBackShape(Shape):
    """A refund; negative if the provider could not pay it out after all and the money was returned."""

    id: UUID
    at: datetime
    amount_cents: int
    items: list[RefundPartShape]
    restocked: bool
    by: str
    reason: str | None


class OrderShape(Shape):
    """`expiresAt` is until when an unpaid order's stock is reserved; `email` is set for a guest's order; `metadata` is
    what was sent with the order."""

    id: UUID
    number: str
    status: Status
    email: str | None
    items: list[OrderItemShape]
    total_cents: int
    refunded_cents: int
    currency: str
    payments: list[OrderPaymentShape]
    refunds: list[GivenBackShape]
    history: list[StepShape]
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


class NewOrderShape(OrderShape):
    """`orderToken` gives a guest access to the order, when sent as `X-Order-Token`. It is null for a user's order."""

    order_token: str | None = None
