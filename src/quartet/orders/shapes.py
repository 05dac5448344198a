"""An order on the wire."""

from datetime import datetime
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


class OrderPaymentShape(Shape):
    """A try at paying."""

    id: UUID
    order_id: UUID
    provider: str
    provider_ref: str
    amount_cents: int
    status: str
    processed_at: datetime | None


class StepShape(Shape):
    """A change of status; `from` is null where the order was placed. `by` is a user's id or a part of the shop."""

    at: datetime
    from_status: Status | None = Field(serialization_alias="from")
    to_status: Status = Field(serialization_alias="to")
    by: str
    reason: str | None


class OrderShape(Shape):
    """`expiresAt` is until when an unpaid order holds its stock."""

    id: UUID
    number: str
    status: Status
    items: list[OrderItemShape]
    total_cents: int
    refunded_cents: int
    currency: str
    payments: list[OrderPaymentShape]
    history: list[StepShape]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
