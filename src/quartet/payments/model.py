"""Payments and refunds as values, and what can go wrong with them."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from quartet.kernel.errors import Conflict, Problem

Status = Literal["pending", "authorized", "succeeded", "failed", "voided", "refunded"]
RefundReason = Literal["asked", "cancelled", "late", "elsewhere"]


@dataclass(frozen=True)
class Payment:
    """One try at paying an order. Cents are minor units of `currency`; `provider_ref` is the provider's own name for
    it, ours until it has one; `refunded_cents` is what the provider has given back so far. `due` is what the provider
    still has to be told about it, `redirect_url` where the buyer has to go first."""

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
    def named(self) -> str | None:
        """The provider's name for it, None while it has not given one."""
        return None if self.provider_ref == str(self.id) else self.provider_ref

    def fits(self, outcome: "Outcome") -> bool:
        """Whether what the provider speaks of is this payment, as far as it says: another sum is another charge."""
        said = (outcome.cents, outcome.currency)
        return outcome.cents is None or said == (self.amount_cents, self.currency)

    def after(self, outcome: "Outcome", now: datetime) -> "Payment | None":
        """How a pending one will stand once the outcome is written down, unless something comes before; None where
        that can't be told."""
        ref = outcome.provider_ref
        if self.status != "pending" or ref is None or outcome.status not in ("succeeded", "authorized", "failed"):
            return None
        return replace(
            self, status=outcome.status, provider_ref=ref, decline_code=outcome.decline_code, redirect_url=None,
            processed_at=now,
        )  # fmt: skip


@dataclass(frozen=True)
class Completed:
    """A payment as it stands, and what it bought, pieces by SKU, out of whose cart: a user's, or a guest's by its
    name."""

    payment: Payment
    user_id: UUID | None
    guest_cart: str | None
    bought: dict[str, int]

    @property
    def whose(self) -> UUID | str | None:
        """As `cart.take_bought` takes it."""
        return self.user_id or self.guest_cart


@dataclass(frozen=True)
class Bought:
    """A payment and whose order it pays: a user's, or a guest's who has an address."""

    payment: Payment
    user_id: UUID | None
    email: str | None


@dataclass(frozen=True)
class Refund:
    """Money on its way back, or arrived; `reason`: staff asked, the order was cancelled, the money came too late, or it
    was given elsewhere, by hand at the provider's page.
    `actor` is whoever gave it, as ledgers name them, `charge_ref` the provider's name for the payment, `lines` the
    pieces that it is for, None where it is a sum."""

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
        """SKU and pieces, each SKU once."""
        qtys: dict[str, int] = {}
        for line in self.lines or ():
            qtys[line["sku"]] = qtys.get(line["sku"], 0) + line["qty"]
        return [{"sku": sku, "qty": qty} for sku, qty in qtys.items()]


@dataclass(frozen=True)
class Charge:
    """What a provider is asked for. `reference` is our payment's id: the same reference is charged at most once.
    `capture`: take the money at once, or hold it. `return_url`: where a buyer comes back from the provider's page."""

    reference: str
    amount_cents: int
    currency: str
    method: str
    capture: bool = True
    return_url: str = ""


@dataclass(frozen=True)
class Hold:
    """Money held for us, to be taken or let go: `reference` and `provider_ref` name the payment, in our words and in
    theirs."""

    reference: str
    provider_ref: str
    amount_cents: int
    currency: str


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
    goes with `failed` only, `redirect_url` with `pending`. `cents` and `currency` are what it was asked for, where the
    provider says: another sum than ours is somebody else's charge."""

    provider_ref: str | None
    status: Literal["pending", "authorized", "succeeded", "failed", "voided"]
    decline_code: str | None = None
    redirect_url: str | None = None
    cents: int | None = None
    currency: str | None = None


@dataclass(frozen=True)
class Entry:
    """A line of a provider's own books: a charge, or money given back of one. `reference` is ours, "" where the charge
    was never ours; `charge_ref` is theirs of a refund's charge. `captured_cents` is what was taken, or given back."""

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
    """Money that went back, as its provider tells of it under its own name: a refund, ours by `reference`, our refund's
    id, or made by hand there; a bank's dispute; a reversal by the provider. `charge` is what it was taken by, in our
    words or in theirs. `undone`: it has failed or was lifted for good, though it may have gone before."""

    kind: Literal["refund", "dispute", "reversal"]
    provider_ref: str
    charge: str
    reference: str
    cents: int
    currency: str
    undone: bool


@dataclass(frozen=True)
class WebhookEvent:
    """A provider's message whose signature was good. `reference` is our payment's id; `outcome` is None for kinds of
    event that we don't act on, and where `look` says that the provider has to be asked what became of it. `moved` goes
    with neither."""

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
    """The provider gave no answer: whether it did what it was asked is unknown."""


class NotYetPaid(Exception):
    """A refund was told of before the charge that it is of."""


class WaitsForBuyer(Exception):
    """The order's open payment waits for its buyer at the provider's page, so that it may be let go for another."""

    def __init__(self, payment_id: UUID) -> None:
        super().__init__(payment_id)
        self.payment_id = payment_id


class CameOtherwise(Exception):
    """The payment does not stand as was foretold: something came before."""


class BadSignature(Problem):
    """The webhook's signature is missing, wrong or too old. It must be made with the secret that the
    shop and the provider share, over the exact bytes of the body."""

    slug, status, title = "bad-signature", 400, "The signature is not good"
