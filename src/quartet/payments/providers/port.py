"""What the shop asks of a payment provider."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

import httpx

from quartet.kernel.errors import StoreUnavailable
from quartet.payments.model import Charge, Entry, GiveBack, Hold, Outcome, ProviderAway, WebhookEvent
from quartet.stores.breakers import beside
from quartet.stores.guard import Guard

# The connection was never made, so that nothing was asked.
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# Questions of a process under way: those on a client's hundred connections, and who waits for one.
_PLACES = 300
# Between two questions to one that is away: it is theirs to count them.
REST_SECONDS = 0.5


class PaymentProvider(Protocol):
    """Called outside of transactions only, each time with a reference of our own.

    Every call may raise ProviderError (known not to have happened; ProviderAway where nothing is asked of it at the
    moment) or ProviderSilent (unknown).
    """

    @property
    def methods(self) -> Collection[str] | None:
        """The payment methods there are, or None when only the provider can tell."""
        ...

    @property
    def is_away(self) -> bool:
        """It does not answer, and is asked nothing."""
        ...

    async def authorise(self, charge: Charge) -> Outcome:
        """Charges, or holds the money where `charge.capture` is false; the same reference again gives the first
        outcome."""
        ...

    async def capture(self, hold: Hold) -> Outcome:
        """Takes what is held, once; answers how the charge stands, `voided` when the hold had ended before."""
        ...

    async def void(self, hold: Hold) -> Outcome:
        """Lets go what is held, or a charge that the buyer never finished; answers how the charge stands, `succeeded`
        when a capture was quicker and `pending` when it can't be let go now."""
        ...

    async def refund(self, refund: GiveBack) -> Outcome:
        """Gives back; the same reference again gives the first outcome."""
        ...

    async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
        """How the charge with our reference stands; None when the provider never heard of it. Never charges what the
        buyer has not agreed to. `provider_ref` is the provider's name for it, where we know it."""
        ...

    async def look_up_refund(self, refund: GiveBack) -> Outcome | None:
        """How the refund with our reference stands; None when the provider never heard of it."""
        ...

    def entries(self, since: datetime, until: datetime) -> AsyncIterator[Entry]:
        """Every charge and every refund made from `since` and before `until`, page by page, in the provider's order."""
        ...

    async def close(self) -> None:
        """Nothing is asked of it any more."""
        ...

    async def parse_webhook(self, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookEvent:
        """What the provider tells. Raises BadSignature, BadRequest. Header names are in lower case, the body is as it
        came."""
        ...


def for_what_comes_before(seconds: float) -> float:
    """How much of the seconds for a whole call its connection or its sign-in may take: so much less that it is known to
    have failed, and nothing to have been asked, before whoever waits gives up and nobody knows."""
    return seconds / 3


def limits(seconds: float) -> httpx.Timeout:
    """Of a provider's client."""
    before = for_what_comes_before(seconds)
    return httpx.Timeout(seconds, connect=before, pool=before)


def guard_of(
    provider: str, probe: Callable[[], Awaitable[object]], away: tuple[type[BaseException], ...], seconds: float
) -> Guard:
    """The breaker before a provider whose calls take so many seconds at most: open before the first of those who wait
    in vain gives up. What was sent is never cut short by it."""
    doubt, patience = seconds / 3, seconds * 0.65
    return beside(Guard(provider, probe, away, doubt=doubt, patience=patience, places=_PLACES, rest=REST_SECONDS))


@contextmanager
def asking(guard: Guard) -> Iterator[None]:
    """Around each question. Raises ProviderAway in its place while the provider is away."""
    try:
        with guard.call():
            yield
    except StoreUnavailable as refused:
        raise ProviderAway(guard.store) from refused


def storable(value: Any) -> str:
    """A provider's text that fits into a column of text, or TypeError."""
    if not isinstance(value, str) or "\0" in value or len(value) > 255:
        raise TypeError
    return value
