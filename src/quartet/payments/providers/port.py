"""What the shop asks of a payment provider."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Protocol

from quartet.payments.model import Charge, GiveBack, Outcome, WebhookEvent


class PaymentProvider(Protocol):
    """Called outside of transactions only, each time with a reference of our own.

    Every call may raise ProviderError (known not to have happened) or ProviderSilent (unknown).
    """

    @property
    def methods(self) -> Collection[str] | None:
        """The payment methods there are, or None when only the provider can tell."""
        ...

    async def charge(self, charge: Charge) -> Outcome:
        """Authorises and captures; the same reference again gives the first outcome."""
        ...

    async def refund(self, refund: GiveBack) -> Outcome:
        """Gives back; the same reference again gives the first outcome."""
        ...

    async def look_up(self, reference: str) -> Outcome | None:
        """How the charge with our reference stands; None when the provider never heard of it."""
        ...

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookEvent:
        """Raises BadSignature, BadRequest. Header names are in lower case."""
        ...
