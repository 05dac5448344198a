"""Payments, refunds and their errors."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from quartet.kernel.errors import Conflict, Problem

Status = Literal["pending", "authorized", "succeeded", "failed", "voided", "refunded"]
RefundReason = Literal["asked", "cancelled", "late", "elsewhere"]


@dataclass(frozen=True)
class Payment:
    """One attempt to pay an order. Amounts are in minor units of `currency`; `provider_ref` is the provider's id of the
    payment, our own until it has one; `refunded_cents` is what the provider has refunded so far. `due` is what the
    provider still has to be told to do; `redirect_url` is the provider's page that the buyer has to visit first."""

    id: UUID
    order_id: UUID
    provider: str
    provider_ref: str
    amount_cents: int
    currency: str
    status: Status
    decline_code: str | None
    refunded_cents: int
    request_owner: str | None
    request_key: str | None
    asked: int
    due: Literal["capture", "void"] | None
    redirect_url: str | None
    processed_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def provider_id(self) -> str | None:
        """The provider's id of the payment; None until it has one."""
        return None if self.provider_ref == str(self.id) else self.provider_ref

    def fits(self, outcome: "Outcome") -> bool:
        """Whether the provider's outcome can belong to this payment: another amount means another charge. True if the
        provider does not state the amount."""
        said = (outcome.cents, outcome.currency)
        return outcome.cents is None or said == (self.amount_cents, self.currency)

    def predicted(self, outcome: "Outcome", now: datetime) -> "Payment | None":
        """A pending payment as it will be once the outcome is recorded, unless something else is recorded first; None
        if that can't be predicted."""
        ref = outcome.provider_ref
        if self.status != "pending" or ref is None or outcome.status not in ("succeeded", "authorized", "failed"):
            return None
        return replace(
            self, status=outcome.status, provider_ref=ref, decline_code=outcome.decline_code, redirect_url=None,
            processed_at=now,
        )  # fmt: skip


@dataclass(frozen=True)
class Completed:
    """The payment's current state, and what it bought: pieces by SKU, from the cart of a user or of a guest
    (`guest_cart` is that cart's name)."""

    payment: Payment
    user_id: UUID | None
    guest_cart: str | None
    bought: dict[str, int]

    @property
    def cart_owner(self) -> UUID | str | None:
        """The owner in the form that `cart.take_bought` takes."""
        return self.user_id or self.guest_cart


@dataclass(frozen=True)
class Bought:
    """A payment and the buyer of its order: a user, or a guest known by e-mail address."""

    payment: Payment
    user_id: UUID | None
    email: str | None


@dataclass(frozen=True)
class Refund:
    """A refund, requested or paid out; `reason`: staff asked for it, the order was cancelled, the money came too late,
    or the refund was made elsewhere, by hand at the provider's page. `actor` is who gave it, in the form that the
    ledgers use; `charge_ref` is the provider's id of the payment; `lines` are the pieces refunded, None if it is for an
    amount."""

    id: UUID
    payment_id: UUID
    order_id: UUID
    provider: str
    charge_ref: str
    amount_cents: int
    currency: str
    status: Literal["pending", "succeeded", "failed"]
    reason: RefundReason
    restock: bool
    actor: str | None
    request_owner: str | None
    request_key: str | None
    asked: int
    processed_at: datetime | None
    created_at: datetime
    lines: list[dict[str, Any]] | None = None

    @property
    def items(self) -> list[dict[str, Any]]:
        """SKU and quantity, each SKU once."""
        qtys: dict[str, int] = {}
        for line in self.lines or ():
            qtys[line["sku"]] = qtys.get(line["sku"], 0) + line["qty"]
        return [{"sku": sku, "qty": qty} for sku, qty in qtys.items()]


@dataclass(frozen=True)
class Charge:
    """The request for a charge. `reference` is our payment's id: the same reference is charged at most once. `capture`:
    take the money at once, or only authorize it. `return_url`: where the provider's page sends the buyer back to."""

    reference: str
    amount_cents: int
    currency: str
    method: str
    capture: bool = True
    return_url: str = ""


@dataclass(frozen=True)
class Hold:
    """An authorization, to be captured or voided: `reference` is our id of the payment, `provider_ref` the
    provider's."""

    reference: str
    provider_ref: str
    amount_cents: int
    currency: str


@dataclass(frozen=True)
class RefundRequest:
    """The request for a refund. `reference` is our refund's id, refunded at most once; `charge` is our id of the
    payment, `provider_ref` the provider's."""

    reference: str
    charge: str
    provider_ref: str
    amount_cents: int
    currency: str


@dataclass(frozen=True)
class Outcome:
    """The state of a charge or refund at the provider. `provider_ref` is None until the provider has given it an id;
    `decline_code` goes with `failed` only, `redirect_url` with `pending`. `cents` and `currency` are the amount at the
    provider, if it states one: another amount than ours means a charge that is not ours."""

    provider_ref: str | None
    status: Literal["pending", "authorized", "succeeded", "failed", "voided"]
    decline_code: str | None = None
    redirect_url: str | None = None
    cents: int | None = None
    currency: str | None = None


@dataclass(frozen=True)
class Entry:
    """A record in the provider's reports: a charge, or a refund of one. `reference` is our id, "" if the charge is not
    ours; `charge_ref` is the provider's id of the charge that a refund belongs to. `captured_cents` is what was
    captured or refunded."""

    kind: Literal["charge", "refund"]
    provider_ref: str
    reference: str
    status: str
    amount_cents: int
    captured_cents: int
    currency: str
    created_at: datetime
    charge_ref: str = ""


@dataclass(frozen=True)
class Moved:
    """Money that was returned, as reported by the provider under its own id: a refund, either ours (`reference` is our
    refund's id) or made by hand at the provider; a dispute by the buyer's bank; a reversal by the provider. `charge` is
    our id or the provider's of the charge. `undone`: it failed or was lifted for good, even if an earlier event
    reported it as done."""

    kind: Literal["refund", "dispute", "reversal"]
    provider_ref: str
    charge: str
    reference: str
    cents: int
    currency: str
    undone: bool


@dataclass(frozen=True)
class WebhookEvent:
    """A provider's webhook event with a verified signature. `reference` is our payment's id. `outcome` is None for
    kinds of event that we don't act on, and if `look` says that the provider has to be asked for the payment's state.
    `moved` goes with neither."""

    id: str
    kind: str
    reference: str
    outcome: Outcome | None
    look: bool = False
    moved: Moved | None = None


class PaymentDeclined(Problem):
    """The card was declined; `declineCode` says why and `paymentId` names the failed payment. Nothing was charged and
    the order can still be paid: try another card."""

    slug, status, title = "payment-declined", 402, "The card was declined"


class PaymentInProgress(Conflict):
    """Another payment of this order is in progress and can't be voided now. Wait for its outcome: GET /payments/{id} of
    `paymentId`."""

    slug, title = "payment-in-progress", "Another payment of this order is under way"


class OrderNotPayable(Conflict):
    """Only a pending order that has not expired can be paid; `orderStatus` is its present status. Whatever was charged
    meanwhile is refunded."""

    slug, title = "order-not-payable", "This order can't be paid"


class NothingToCapture(Conflict):
    """Only an `authorized` payment can be captured; `paymentStatus` says whether it is captured already or voided."""

    slug, title = "nothing-to-capture", "There is nothing to capture"


class ProviderError(Problem):
    """The payment provider failed. Nothing was charged or refunded; try again."""

    slug, status, title = "provider-error", 502, "The payment provider failed"


class ProviderAway(ProviderError):
    """The payment provider does not answer at the moment, and was not called: nothing was charged or refunded. Try
    again after `Retry-After` seconds, or pay through another."""

    slug, status, title = "provider-away", 503, "The payment provider does not answer"
    retry_after = 2

    def __init__(self, provider: str) -> None:
        super().__init__(f"{provider} does not answer right now; nothing was asked", provider=provider)


class ProviderOff(Conflict):
    """The payment was made through a `provider` that is not switched on, as with orders imported from another shop.
    Refund the money there, or switch the provider on."""

    slug, title = "provider-off", "The payment's provider is not connected"


class ProviderSilent(Exception):
    """The provider did not answer: whether it did what was requested is unknown."""


class NotYetPaid(Exception):
    """A refund was reported before the charge that it belongs to."""


class WaitsForBuyer(Exception):
    """The order's open payment waits for its buyer at the provider's page, so it may be voided in favour of another."""

    def __init__(self, payment_id: UUID) -> None:
        super().__init__(payment_id)
        self.payment_id = payment_id


class PredictionFailed(Exception):
    """The payment is not in the predicted state: something else was recorded first."""


class BadSignature(Problem):
    """The webhook's signature is missing, wrong or too old. Stripe and the sandbox sign the exact bytes of the body
    with the secret that they share with the shop; PayPal's signatures are verified by PayPal."""

    slug, status, title = "bad-signature", 400, "The signature is not good"
