"""An order as its page shows it, and what can go wrong with one."""

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
    """Money of a payment that was promised back, as the payments room keeps it, whether or not the provider gave it."""

    id: UUID
    amount_cents: int
    status: str
    reason: str
    created_at: datetime
    processed_at: datetime | None


@dataclass(frozen=True)
class Contest:
    """What somebody else did to a payment's money: a bank (`dispute`), the provider (`reversal`), or a hand at the
    provider's page for which the books have no room (`refund`). `provider_ref` is the provider's name for it."""

    provider_ref: str
    reason: str
    amount_cents: int
    contested_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True)
class OrderPayment:
    """A try at paying, as the payments room keeps it."""

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
    """A change of status; the first has no `from_status`; one that leaves the status as it is says that the order
    found its owner (`claimed`). `by` is a user's id, `guest`, or a part of the shop."""

    at: datetime
    from_status: Status | None
    to_status: Status
    by: str
    reason: str | None


@dataclass(frozen=True)
class RefundPart:
    """What of a refund falls on a SKU: the sum, the pieces that it was given for (0 where it was a sum), and the pieces
    that came back to the shelf."""

    sku: str
    amount_cents: int
    qty: int
    restocked_qty: int


@dataclass(frozen=True)
class GivenBack:
    """A refund as its order's page shows it; `restocked` where any piece came back with it. One that the provider
    could not give after all is followed by another of as much less than nothing."""

    id: UUID
    at: datetime
    amount_cents: int
    items: tuple[RefundPart, ...]
    restocked: bool
    by: str
    reason: str | None


@dataclass(frozen=True)
class Guest:
    """A buyer without an account: an address to write to, and the name of the cart that loses what is bought."""

    email: str
    cart: str | None = None


@dataclass(frozen=True)
class Order:
    """A user's, or a guest's, who is known by `email` alone; both are None once that guest has been forgotten.
    `captured_cents` is what was paid, `refunded_cents` what of it was given back; `expires_at` is until when an
    unpaid order holds its stock, None once that is decided."""

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
    refunds: tuple[GivenBack, ...]
    history: tuple[Step, ...]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class Counted:
    """What is left of the money of a paid order."""

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
        """Of these SKUs."""
        return cls(f"the shop does not sell {', '.join(skus[:5])}", skus=skus)


class MixedCurrencies(Problem):
    """The order's SKUs are priced in several currencies; `currencies` says which has which. Order them apart."""

    slug, status, title = "mixed-currencies", 422, "An order is paid in one currency"


class PriceChanged(Conflict):
    """The order would cost another sum than the one that was expected: `expectedTotalCents` is what was shown,
    `totalCents` what it costs now, and `changes` tells each line's price of now. Nothing was reserved. Show the new
    sum, then order again with it."""

    slug, title = "price-changed", "The price has changed"


class EmailNotVerified(Problem):
    """Orders made as a guest belong to whoever can read the address's mail. Prove the account's address first: ask
    for the e-mail with POST /email-verifications and follow its link."""

    slug, status, title = "email-not-verified", 403, "The address has not been proved"


class InvalidTransition(Conflict):
    """The order's status does not allow this step; `from` is what it is, `to` what it can't become."""

    slug, title = "invalid-transition", "The order's status does not allow this"


class OverRefund(Conflict):
    """More was to be given back than is left of what was paid for the order: `refundableCents` is what is left; or for
    more pieces than are left: `pieces` lists each such `sku`, how many were `requested` and how many `refundable`."""

    slug, title = "over-refund", "That is more than was paid"


class PaymentNotCaptured(Conflict):
    """The order's money is only held, not taken. Capture its payment (POST /payments/{id}/capture), then ship."""

    slug, title = "payment-not-captured", "The payment has not been captured"


class PaymentContested(Conflict):
    """Somebody else has moved the money of this order's payment, `paymentId`, or claims it: `reason` is a `dispute` at
    the buyer's bank, a `reversal` by the provider, or a `refund` made at the provider's page. Look there what became of
    it; then POST /payments/{id}/settle, and go on with what is left. Until then nothing is sent, taken or given back,
    lest the money go back twice."""

    slug, title = "payment-contested", "The payment is contested"
