"""Stripe by its official SDK: PaymentIntents, refunds, signed webhooks. docs/payments.md says how to go live.

Every charge is one request: a PaymentIntent that is created and confirmed at once, with our payment's id as its
idempotency key and in its metadata. The SDK never retries (`max_network_retries=0`), so a connection that could not be
made is known to have charged nothing. After any other network failure the outcome is unknown, and the intent is looked
up by our reference.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

import orjson
import stripe

from quartet.kernel.errors import BadRequest
from quartet.kernel.settings import Settings
from quartet.payments.model import (
    Charge,
    Entry,
    Hold,
    Moved,
    Outcome,
    ProviderError,
    ProviderSilent,
    RefundRequest,
    WebhookEvent,
)
from quartet.payments.providers import signatures
from quartet.payments.providers.port import UNSENT, guard_of, limits, provider_call, storable

SIGNATURE = "stripe-signature"
_PAGE = 100
# An intent is searched for among those created this long before and after our payment's id was generated: first where
# nearly all are, then where clock differences and a delayed request may have put it. A busy hour has thousands in the
# latter.
_AROUND = (
    (timedelta(seconds=5), timedelta(seconds=30)),
    (timedelta(minutes=5), timedelta(minutes=15)),
)
_STATUSES = {
    "succeeded": "succeeded",
    "requires_capture": "authorized",
    "processing": "pending",
    "requires_action": "pending",
    "requires_confirmation": "pending",
    "requires_payment_method": "failed",
    "canceled": "voided",
}
_REFUND_STATUSES = {"pending": "pending", "requires_action": "pending", "succeeded": "succeeded"}
# Disputes whose money the bank has, for now or for good.
_DISPUTED = {"needs_response", "under_review", "lost"}
_EVENTS = {
    f"payment_intent.{kind}"
    for kind in (
        "succeeded", "payment_failed", "canceled", "processing", "requires_action", "amount_capturable_updated",
    )
}  # fmt: skip
_REFUND_EVENTS = {"refund.created", "refund.updated", "refund.failed", "charge.refund.updated"}
_DISPUTE_EVENT = "charge.dispute."
# Disputes whose money is ours after all. A mere inquiry of the bank (`warning_…`) is no dispute yet.
_LIFTED = {"won", "warning_closed", "prevented"}
# Stripe can't be reached, or has an internal error.
_AWAY = (stripe.APIConnectionError, stripe.APIError)
# Where Stripe's smallest unit is not ISO 4217's: how many of Stripe's are one of ours. In currencies with three
# decimals the last has to be 0 (https://docs.stripe.com/currencies).
_UNITS = {"ISK": Fraction(100), "UGX": Fraction(100), "MGA": Fraction(1, 100)}
_ENDS_IN_ZERO = {"BHD", "JOD", "KWD", "OMR", "TND"}


class Stripe:
    """The provider `stripe`. `methods` are Stripe's ids of payment methods (`pm_…`)."""

    def __init__(self, settings: Settings) -> None:
        self._secrets = [secret.get_secret_value() for secret in settings.stripe_webhook_secrets]
        stripe.enable_telemetry = False
        # Probes have a connection of their own: all others may be taken by calls that wait in vain.
        self._http, self._probing = [stripe.HTTPXClient(timeout=limits(settings.payment_timeout)) for _ in range(2)]
        self._api, self._probed = _api(settings, self._http), _api(settings, self._probing)
        self.guard = guard_of("stripe", self._probe, _AWAY, settings.payment_timeout)

    async def close(self) -> None:
        self.guard.close()
        for http in (self._http, self._probing):
            await http.close_async()  # type: ignore[no-untyped-call]

    @property
    def is_away(self) -> bool:
        return self.guard.is_open

    async def _probe(self) -> None:
        try:
            await self._probed.refunds.list_async({"limit": 1})
        except stripe.StripeError as error:
            if isinstance(error, _AWAY):  # any other error is an answer
                raise

    @property
    def methods(self) -> Collection[str] | None:
        return None

    async def authorise(self, charge: Charge) -> Outcome:
        try:
            return _outcome(
                await self._call(
                    self._api.payment_intents.create_async,
                    {
                        "amount": _theirs(charge.amount_cents, charge.currency),
                        "currency": charge.currency.lower(),
                        "payment_method": charge.method,
                        "automatic_payment_methods": {"enabled": True},
                        "capture_method": "automatic" if charge.capture else "manual",
                        "confirm": True,
                        "return_url": charge.return_url,
                        "metadata": {"reference": charge.reference},
                    },
                    {"idempotency_key": charge.reference},
                )
            )
        except ProviderError as refused:
            if isinstance(refused.__cause__, stripe.CardError):
                return _declined(refused.__cause__)
            raise

    async def capture(self, hold: Hold) -> Outcome:
        return await self._decide(hold, self._api.payment_intents.capture_async)

    async def void(self, hold: Hold) -> Outcome:
        return await self._decide(hold, self._api.payment_intents.cancel_async)

    async def refund(self, refund: RefundRequest) -> Outcome:
        return _refund_outcome(
            await self._call(
                self._api.refunds.create_async,
                {
                    "payment_intent": refund.provider_ref,
                    "amount": _theirs(refund.amount_cents, refund.currency),
                    "metadata": {"reference": refund.reference},
                },
                {"idempotency_key": refund.reference},
            )
        )

    async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
        if provider_ref is not None:
            return _outcome(await self._call(self._api.payment_intents.retrieve_async, provider_ref))
        drawn = _drawn_at(reference)
        for earlier, later in _AROUND:
            around = {"gte": _seconds(drawn - earlier), "lte": _seconds(drawn + later)}
            # Listed, not searched for: Stripe's search is eventually consistent and misses recent intents.
            async for intent in self._pages(self._api.payment_intents.list_async, {"created": around}):
                if _reference(intent) == reference:
                    return _outcome(intent)
        return None

    async def look_up_refund(self, refund: RefundRequest) -> Outcome | None:
        async for found in self._pages(self._api.refunds.list_async, {"payment_intent": refund.provider_ref}):
            if _reference(found) == refund.reference:
                return _refund_outcome(found)
        return None

    async def entries(self, since: datetime, until: datetime) -> AsyncIterator[Entry]:
        made = {"gte": _seconds(since), "lt": _seconds(until)}
        async for intent in self._pages(self._api.payment_intents.list_async, {"created": made}):
            yield _entry("charge", intent, _STATUSES[intent["status"]], intent["amount_received"])
        async for refund in self._pages(self._api.refunds.list_async, {"created": made}):
            status = _refund_outcome(refund).status
            back = refund["amount"] if status == "succeeded" else 0
            yield _entry("refund", refund, status, back, refund.get("payment_intent") or "")
        # Money that a bank takes back is reported as a refund; nobody here requested it, so it shows as a difference.
        async for dispute in self._pages(self._api.disputes.list_async, {"created": made}):
            if dispute["status"] in _DISPUTED:
                yield _entry("refund", dispute, "succeeded", dispute["amount"], dispute.get("payment_intent") or "")

    async def parse_webhook(self, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookEvent:
        signatures.check(headers.get(SIGNATURE, ""), body, self._secrets, now)
        try:
            event = orjson.loads(body)
            outcome, reference, moved = None, "", None
            if event["type"] in _EVENTS:
                intent = event["data"]["object"]
                outcome, reference = _outcome(intent), _reference(intent)
            elif event["type"] in _REFUND_EVENTS:
                moved = _refund_moved(event["data"]["object"])
            elif event["type"].startswith(_DISPUTE_EVENT):
                moved = _disputed(event["data"]["object"])
            found = WebhookEvent(
                storable(event["id"]), storable(event["type"]), storable(reference), outcome, moved=moved
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise BadRequest("the event is not one that Stripe writes") from None
        return found if moved is None or moved.reference else replace(found, moved=await self._charged(moved))

    async def _charged(self, moved: Moved) -> Moved:
        """With our own id of the payment: Stripe's may not have reached us yet."""
        try:
            intent = await self._call(self._api.payment_intents.retrieve_async, moved.charge)
        except ProviderError as refused:
            if not isinstance(refused.__cause__, stripe.InvalidRequestError):
                raise  # Stripe may know the intent: raise, so that it sends the webhook again
            return moved
        return replace(moved, charge=_reference(intent) or moved.charge)

    async def _decide(self, hold: Hold, step: Any) -> Outcome:
        """Captures or cancels the intent, once; if something else was decided before, returns the current state."""
        ref = hold.provider_ref
        if ref == hold.reference:
            found = await self.look_up(hold.reference)
            if found is None or found.provider_ref is None:
                raise ProviderError("Stripe knows no such charge")
            ref = found.provider_ref
        try:
            return _outcome(await self._call(step, ref))
        except ProviderError:
            stands = _outcome(await self._call(self._api.payment_intents.retrieve_async, ref))
            if stands.status == "authorized":
                raise
            return stands

    async def _pages(self, listed: Any, params: dict[str, Any]) -> AsyncIterator[Any]:
        after: dict[str, str] = {}
        while True:
            page = await self._call(listed, {**params, **after, "limit": _PAGE})
            for found in page["data"]:
                yield found
            if not page["has_more"]:
                return
            after = {"starting_after": page["data"][-1]["id"]}

    async def _call(self, ask: Callable[..., Awaitable[Any]], *what: Any) -> Any:
        """Stripe's answer as plain JSON. Raises ProviderError if Stripe or the card's bank said that nothing was done,
        or if Stripe was never reached; ProviderSilent if the outcome is unknown."""
        try:
            with provider_call(self.guard):
                return (await ask(*what)).to_dict()
        except stripe.APIConnectionError as error:
            if isinstance(error.__cause__, UNSENT):
                raise ProviderError("Stripe can't be reached; nothing was asked") from error
            raise ProviderSilent(repr(error)) from error
        except (
            stripe.CardError, stripe.InvalidRequestError, stripe.AuthenticationError, stripe.PermissionError,
            stripe.RateLimitError,
        ) as error:  # fmt: skip
            raise ProviderError(f"Stripe refuses: {error.user_message}") from error
        except stripe.StripeError as error:  # the first request with this key still runs, an internal error, no JSON
            raise ProviderSilent(repr(error)) from error


def _api(settings: Settings, http: stripe.HTTPXClient) -> Any:
    addresses: Any = {"api": settings.stripe_api_url} if settings.stripe_api_url else None
    key = settings.stripe_secret_key.get_secret_value()
    return stripe.StripeClient(key, base_addresses=addresses, max_network_retries=0, http_client=http).v1


def _theirs(cents: int, currency: str) -> int:
    """An amount in Stripe's units. Raises ProviderError for one that Stripe can't take."""
    sum_ = cents * _UNITS.get(currency, Fraction(1))
    if sum_.denominator != 1 or (currency in _ENDS_IN_ZERO and cents % 10):
        raise ProviderError(f"Stripe takes no such sum of {currency}: round the prices")
    return int(sum_)


def _ours(amount: int, currency: str) -> int:
    return int(amount / _UNITS.get(currency, Fraction(1)))


def _outcome(intent: Any) -> Outcome:
    """Raises KeyError or TypeError if it is no intent."""
    currency = intent["currency"].upper()
    error = intent.get("last_payment_error") or {}
    action = intent.get("next_action") or {}
    status = _STATUSES[intent["status"]]
    return Outcome(
        storable(intent["id"]),
        status,  # type: ignore[arg-type]
        storable(error.get("decline_code") or error.get("code") or "declined") if status == "failed" else None,
        (action.get("redirect_to_url") or {}).get("url") if status == "pending" else None,
        # What was captured: by hand, at Stripe, that may be less than what was authorized.
        _ours(intent["amount_received" if status == "succeeded" else "amount"], currency),
        currency,
    )


def _declined(error: stripe.CardError) -> Outcome:
    said = error.error.to_dict() if error.error else {}
    intent = said.get("payment_intent")
    return Outcome(intent and intent["id"], "failed", said.get("decline_code") or error.code or "declined")


def _refund_outcome(refund: Any) -> Outcome:
    return Outcome(refund["id"], _REFUND_STATUSES.get(refund["status"], "failed"))  # type: ignore[arg-type]


def _refund_moved(refund: Any) -> Moved | None:
    """None while it is in progress. Raises KeyError or TypeError if it is no refund."""
    status = _refund_outcome(refund).status
    return None if status == "pending" else _moved("refund", refund, undone=status == "failed")


def _disputed(dispute: Any) -> Moved | None:
    """None while it is only an inquiry. Raises KeyError or TypeError if it is no dispute."""
    if dispute["status"] not in _DISPUTED | _LIFTED:
        return None
    return _moved("dispute", dispute, undone=dispute["status"] in _LIFTED)


def _moved(kind: Any, found: Any, *, undone: bool) -> Moved:
    currency = found["currency"].upper()
    charge, reference = storable(found.get("payment_intent") or ""), storable(_reference(found))
    return Moved(
        kind, storable(found["id"]), charge, reference, _ours(found["amount"], currency), currency, undone=undone
    )


def _entry(kind: Any, found: Any, status: str, moved: int, charge_ref: str = "") -> Entry:
    currency = found["currency"].upper()
    made = datetime.fromtimestamp(found["created"], UTC)
    whole, part = _ours(found["amount"], currency), _ours(moved, currency)
    return Entry(kind, found["id"], _reference(found), status, whole, part, currency, made, charge_ref)


def _reference(found: Any) -> str:
    return str((found.get("metadata") or {}).get("reference") or "")


def _drawn_at(reference: str) -> datetime:
    """When our id was generated: a UUID of version 7 begins with the milliseconds."""
    return datetime.fromtimestamp((UUID(reference).int >> 80) / 1000, UTC)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
