"""Payments and refunds as values, and what can go wrong with them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from quartet.kernel.errors import Conflict, Problem

Status = Literal["pending", "succeeded", "failed", "refunded"]
RefundReason = Literal["asked", "cancelled", "late"]


@dataclass(frozen=True)
class Payment:
    """One try at paying an order. Cents are minor units of `currency`; `provider_ref` is the provider's own name for
    it, ours until it has one; `refunded_cents` is what the provider has given back so far."""

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
    processed_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class Completed:
    """A payment as it stands, whose it is, and what it bought: pieces by SKU."""

    payment: Payment
    user_id: UUID
    bought: dict[str, int]


@dataclass(frozen=True)
class Refund:
    """Money on its way back, or arrived; `reason`: staff asked, the order was cancelled, or the money came too late.
    `charge_ref` is the provider's name for the payment."""

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
    by_user: UUID | None
    request_owner: str | None
    request_key: str | None
    processed_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class Charge:
    """What a provider is asked for. `reference` is our payment's id: the same reference is charged at most once."""

    reference: str
    amount_cents: int
    currency: str
    method: str


@dataclass(frozen=True)
class GiveBack:
    """What a provider is asked to refund. `reference` is our refund's id, refunded at most once; `charge` and
    `provider_ref` name the payment, in our words and in theirs."""

    reference: str
    charge: str
    provider_ref: str
    amount_cents: int
    currency: str


@dataclass(frozen=True)
class Outcome:
    """How a charge or refund stands at the provider. `provider_ref` is None while it has not named it; `decline_code`
    goes with `failed` only."""

    provider_ref: str | None
    status: Literal["pending", "succeeded", "failed"]
    decline_code: str | None = None


@dataclass(frozen=True)
class WebhookEvent:
    """A provider's message whose signature was good. `reference` is our payment's id; `outcome` is None for kinds of
    event that we don't act on."""

    id: str
    kind: str
    reference: str
    outcome: Outcome | None


class PaymentDeclined(Problem):
    """The card was declined; `declineCode` says why and `paymentId` names the failed payment. Nothing was charged and
    the order can still be paid: try another card."""

    slug, status, title = "payment-declined", 402, "The card was declined"


class PaymentInProgress(Conflict):
    """Another payment of this order is under way. Wait for its outcome: GET /payments/{id} of `paymentId`."""

    slug, title = "payment-in-progress", "Another payment of this order is under way"


class OrderNotPayable(Conflict):
    """Only a pending order whose time is not over can be paid; `orderStatus` says how it stands. Whatever was charged
    meanwhile is given back."""

    slug, title = "order-not-payable", "This order can't be paid"


class ProviderError(Problem):
    """The payment provider failed. Nothing was charged or given back; try again."""

    slug, status, title = "provider-error", 502, "The payment provider failed"


class ProviderOff(Conflict):
    """The payment was taken through a `provider` that this shop is not connected to, such as orders brought along from
    another shop. Give the money back there, or turn the provider on."""

    slug, title = "provider-off", "The payment's provider is not connected"


class ProviderSilent(Exception):
    """The provider gave no answer: whether it did what it was asked is unknown."""


class BadSignature(Problem):
    """The webhook's signature is missing, wrong or older than five minutes. It must be made with the secret that the
    shop and the provider share, over the exact bytes of the body."""

    slug, status, title = "bad-signature", 400, "The signature is not good"
