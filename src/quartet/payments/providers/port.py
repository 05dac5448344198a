"""The interface of a payment provider."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

import httpx

from quartet.kernel.errors import StoreUnavailable
from quartet.payments.model import Charge, Entry, Hold, Outcome, ProviderAway, RefundRequest, WebhookEvent
from quartet.stores.breakers import register
from quartet.stores.guard import Guard

# The connection was never made, so nothing was sent.
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# Concurrent calls of a process: those on the client's hundred connections, and those that wait for one.
_MOST_CALLS = 300
# Between two probes of a provider that is down, which may count them towards its rate limit.
REST_SECONDS = 0.5


class PaymentProvider(Protocol):
    """Called outside transactions only, each time with a reference of our own.

    Every call may raise ProviderError (known not to have happened; ProviderAway if the provider is not being called at
    the moment) or ProviderSilent (unknown).
    """

    @property
    def methods(self) -> Collection[str] | None:
        """The payment methods it accepts, or None if only the provider can tell."""
        ...

    @property
    def is_away(self) -> bool:
        """Whether its circuit breaker is open: it does not answer and is not called."""
        ...

    async def authorise(self, charge: Charge) -> Outcome:
        """Charges, or only authorizes if `charge.capture` is false; the same reference again returns the first
        outcome."""
        ...

    async def capture(self, hold: Hold) -> Outcome:
        """Captures an authorization, once; returns the charge's state, `voided` if the authorization had ended
        before."""
        ...

    async def void(self, hold: Hold) -> Outcome:
        """Voids an authorization, or a charge that the buyer never finished; returns the charge's state, `succeeded` if
        a capture was faster and `pending` if it can't be voided now."""
        ...

    async def refund(self, refund: RefundRequest) -> Outcome:
        """Refunds; the same reference again returns the first outcome."""
        ...

    async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
        """The state of the charge with our reference; None if the provider never heard of it. Never charges what the
        buyer has not agreed to. `provider_ref` is the provider's id of it, if we know it."""
        ...

    async def look_up_refund(self, refund: RefundRequest) -> Outcome | None:
        """The state of the refund with our reference; None if the provider never heard of it."""
        ...

    def entries(self, since: datetime, until: datetime) -> AsyncIterator[Entry]:
        """Every charge and every refund made from `since` and before `until`, page by page, in the provider's order."""
        ...

    async def close(self) -> None:
        """Closes its connections; it is not called any more."""
        ...

    async def parse_webhook(self, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookEvent:
        """A verified webhook's event. Raises BadSignature, BadRequest. Header names are in lower case; the body is the
        raw bytes."""
        ...


def connect_timeout(seconds: float) -> float:
    """The timeout for connecting or signing in, given that of a whole call: a third of it. Such a failure is then
    known, and that nothing was sent, before the caller's own timeout would leave the outcome unknown."""
    return seconds / 3


def limits(seconds: float) -> httpx.Timeout:
    """The timeouts of a provider's HTTP client."""
    before = connect_timeout(seconds)
    return httpx.Timeout(seconds, connect=before, pool=before)


def guard_of(
    provider: str, probe: Callable[[], Awaitable[object]], away: tuple[type[BaseException], ...], seconds: float
) -> Guard:
    """The circuit breaker for a provider whose calls take at most so many seconds: it opens before the first waiting
    caller times out in vain. It never aborts a request that was sent."""
    doubt, patience = seconds / 3, seconds * 0.65
    return register(Guard(provider, probe, away, doubt=doubt, patience=patience, places=_MOST_CALLS, rest=REST_SECONDS))


@contextmanager
def provider_call(guard: Guard) -> Iterator[None]:
    """Around each call. While the provider is away, raises ProviderAway instead of calling it."""
    try:
        with guard.call():
            yield
    except StoreUnavailable as refused:
        raise ProviderAway(guard.store) from refused


def storable(value: Any) -> str:
    """The provider's text, if it fits into a text column; otherwise raises TypeError."""
    if not isinstance(value, str) or "\0" in value or len(value) > 255:
        raise TypeError
    return value
