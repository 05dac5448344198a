"""An order with its items, payments, refunds and history, and the errors of orders."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from quartet.kernel.errors import Conflict, Problem

Status = Literal["pending", "confirmed", "shipped", "delivered", "cancelled", "refunded"]


@dataclass(frozen=True)
class OrderItem:
    """A line: name and price as they were when the order was placed. Cents are minor units of the order's currency."""

    sku: str
    name: str
    qty: int
    unit_price_cents: int
    line_total_cents: int


@dataclass(frozen=True)
class PaymentRefund:
    """A refund as `payments` records it: requested, and perhaps not paid out by the provider."""

    id: UUID
    amount_cents: int
    status: str
    reason: str
    created_at: datetime
    processed_at: datetime | None


@dataclass(frozen=True)
class Contest:
    """What somebody else did to a payment's money: a bank (`dispute`), the provider (`reversal`), or somebody at the
    provider's page, by a refund that exceeds what is left (`refund`). `provider_ref` is the provider's id of it."""

    provider_ref: str
    reason: str
    amount_cents: int
    contested_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True)
class OrderPayment:
    """An attempt to pay, as `payments` records it."""

    id: UUID
    order_id: UUID
    provider: str
    provider_ref: str
    amount_cents: int
    status: str
    processed_at: datetime | None
    refunds: tuple[PaymentRefund, ...]
    contests: tuple[Contest, ...]


@dataclass(frozen=True)
class Step:
    """A change of status. The first has no `from_status`; one that leaves the status as it is records that an account
    claimed the order (`claimed`). `by` is a user's id, `guest`, or a part of the shop."""

    at: datetime
    from_status: Status | None
    to_status: Status
    by: str
    reason: str | None


@dataclass(frozen=True)
class RefundPart:
    """The part of a refund that falls on a SKU: the amount, the pieces it was for (0 if it was for an amount), and the
    pieces put back into stock."""

    sku: str
    amount_cents: int
    qty: int
    restocked_qty: int


@dataclass(frozen=True)
class OrderRefund:
    """A refund as shown with its order; `restocked` if any piece was put back into stock. If the provider could not pay
    it out after all, an entry with the negative amount follows."""

    id: UUID
    at: datetime
    amount_cents: int
    items: tuple[RefundPart, ...]
    restocked: bool
    by: str
    reason: str | None


@dataclass(frozen=True)
class Guest:
    """A buyer without an account: the e-mail address, and the name of the cart from which what is bought is removed."""

    email: str
    cart: str | None = None


@dataclass(frozen=True)
class Order:
    """A user's order, or a guest's, identified by `email` alone; both are None once that guest was erased.
    `captured_cents` is what was paid, `refunded_cents` what of it was refunded; `expires_at` is until when an unpaid
    order's stock is reserved, None once the order is paid or cancelled."""

    id: UUID
    number: str
    user_id: UUID | None
    email: str | None
    status: Status
    items: tuple[OrderItem, ...]
    total_cents: int
    captured_cents: int
    refunded_cents: int
    currency: str
    metadata: dict[str, Any]
    payments: tuple[OrderPayment, ...]
    refunds: tuple[OrderRefund, ...]
    history: tuple[Step, ...]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class Counted:
    """What is left, after refunds, of the money paid for an order."""

    order_id: UUID
    user_id: UUID
    left_cents: int
    currency: str
    confirmed_at: datetime


class InsufficientStock(Conflict):
    """There are fewer pieces than the order asks for. `shortages` lists every SKU that is short, with what was
    requested and what is available; nothing was reserved. Order less, or wait."""

    slug, title = "insufficient-stock", "There is not enough in stock"


class UnknownSku(Problem):
    """The order names SKUs that the shop does not sell, or not yet, or not any more; `skus` lists them. Take them out
    and order again."""

    slug, status, title = "unknown-sku", 422, "The shop does not sell that"

    @classmethod
    def of(cls, skus: list[str]) -> "UnknownSku":
        """The problem for these SKUs."""
        return cls(f"the shop does not sell {', '.join(skus[:5])}", skus=skus)


class MixedCurrencies(Problem):
    """The order's SKUs are priced in several currencies; `currencies` lists them. Place one order per currency."""

    slug, status, title = "mixed-currencies", 422, "An order is paid in one currency"


class PriceChanged(Conflict):
    """The order's total differs from the expected one: `expectedTotalCents` is what was shown, `totalCents` the current
    total, and `changes` lists each line's current price. Nothing was reserved. Show the buyer the new total, then order
    again with it."""

    slug, title = "price-changed", "The price has changed"


class EmailNotVerified(Problem):
    """Guest orders belong to the owner of their e-mail address. Verify the account's address first: request the e-mail
    with POST /email-verifications and follow its link."""

    slug, status, title = "email-not-verified", 403, "The address has not been proved"


class InvalidTransition(Conflict):
    """The order's status does not allow this step; `from` is what it is, `to` what it can't become."""

    slug, title = "invalid-transition", "The order's status does not allow this"


class OverRefund(Conflict):
    """The refund exceeds what is left of the captured amount, `refundableCents`; or it is for more pieces than are
    left: `pieces` lists each such `sku`, how many were `requested` and how many are `refundable`."""

    slug, title = "over-refund", "That is more than was paid"


class PaymentNotCaptured(Conflict):
    """The order's payment is only authorized, not captured. Capture it (POST /payments/{id}/capture), then ship."""

    slug, title = "payment-not-captured", "The payment has not been captured"


class PaymentContested(Conflict):
    """Somebody else has moved the money of this order's payment, `paymentId`, or claims it: `reason` is a `dispute` at
    the buyer's bank, a `reversal` by the provider, or a `refund` made at the provider's page. Find out at the provider
    what became of it; then POST /payments/{id}/settle, and continue with what is left. Until then the order can't be
    shipped, captured, refunded or cancelled, so that nothing is refunded twice."""

    slug, title = "payment-contested", "The payment is contested"
