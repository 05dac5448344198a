"""Payments: what was asked of a provider, what it said, and what was given back."""

from quartet.payments.api import PaymentShape
from quartet.payments.model import (
    BadSignature,
    Charge,
    Completed,
    GiveBack,
    OrderNotPayable,
    Outcome,
    Payment,
    PaymentDeclined,
    PaymentInProgress,
    ProviderError,
    ProviderOff,
    ProviderSilent,
    Refund,
    RefundReason,
    WebhookEvent,
)
from quartet.payments.providers import Providers, open_providers
from quartet.payments.providers.port import PaymentProvider
from quartet.payments.store import (
    by_id,
    complete,
    complete_refund,
    late_refund,
    remember_event,
    start,
    start_refund,
    take_refunds_to_ask,
    take_to_ask,
)

__all__ = [
    "BadSignature",
    "Charge",
    "Completed",
    "GiveBack",
    "OrderNotPayable",
    "Outcome",
    "Payment",
    "PaymentDeclined",
    "PaymentInProgress",
    "PaymentProvider",
    "PaymentShape",
    "ProviderError",
    "ProviderOff",
    "ProviderSilent",
    "Providers",
    "Refund",
    "RefundReason",
    "WebhookEvent",
    "by_id",
    "complete",
    "complete_refund",
    "late_refund",
    "open_providers",
    "remember_event",
    "start",
    "start_refund",
    "take_refunds_to_ask",
    "take_to_ask",
]
