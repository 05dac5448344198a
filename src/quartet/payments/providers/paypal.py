"""PayPal over HTTP: Orders v2, Payments v2, its reports. docs/payments.md says how to go live.

An order is created at PayPal with our payment's id, the buyer approves it on PayPal's page, and only then is the money
captured or authorized: by whatever sees the approval first, the buyer's return, the webhook or the sweep, all with the
same `PayPal-Request-Id`. So an order whose id never reached us was never shown to the buyer, and can't have been paid.

A webhook is verified by PayPal itself (`verify-webhook-signature`), over the raw bytes. Verifying the certificate here
would mean fetching a certificate chain from a URL that the message names: more to get wrong than one authenticated call
to a URL of our choice. And a message's content is never trusted by itself: the order is looked up.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from quartet.kernel.errors import BadRequest
from quartet.kernel.money import minor_digits, to_minor
from quartet.kernel.settings import Settings
from quartet.payments.model import (
    BadSignature,
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
from quartet.payments.providers.port import UNSENT, connect_timeout, guard_of, limits, provider_call, storable

Json = dict[str, Any]

LIVE, TESTING = "https://api-m.paypal.com", "https://api-m.sandbox.paypal.com"
# PayPal retries a webhook for three days.
TOLERANCE = timedelta(days=3)
CHECKS_AT_ONCE = 20
_SIGNED = ("auth-algo", "cert-url", "transmission-id", "transmission-sig", "transmission-time")
_EVENTS = re.compile(r"(CHECKOUT\.ORDER|PAYMENT\.(CAPTURE|AUTHORIZATION))\.[A-Z_]+")
_BACK = re.compile(r"PAYMENT\.(CAPTURE\.(REFUNDED|REVERSED)|REFUND\.[A-Z_]+)|CUSTOMER\.DISPUTE\.[A-Z_]+")
# Disputes whose money is certainly ours after all; staff decide on any other outcome.
_LIFTED = {"RESOLVED_SELLER_FAVOUR", "CANCELED_BY_BUYER"}
_PAGE = 100
_CAPTURES = {
    "COMPLETED": "succeeded", "REFUNDED": "succeeded", "PARTIALLY_REFUNDED": "succeeded", "PENDING": "pending",
    "DECLINED": "failed", "FAILED": "failed",
}  # fmt: skip
_HOLDS = {"CREATED": "authorized", "PENDING": "pending", "DENIED": "failed", "VOIDED": "voided", "EXPIRED": "voided"}
_UNAGREED = ("CREATED", "SAVED", "PAYER_ACTION_REQUIRED")
_REFUNDS = {"COMPLETED": "succeeded", "PENDING": "pending"}
_REPORTED = {"S": "succeeded", "P": "pending", "D": "failed", "V": "voided"}
# Currencies that PayPal takes in whole units only, though ISO 4217 has cents.
_WHOLE = {"HUF", "TWD"}
# The buyer's bank declined, or the buyer may not pay; anything else that PayPal refuses is a fault in the request.
_DECLINES = {
    "INSTRUMENT_DECLINED", "TRANSACTION_REFUSED", "PAYER_CANNOT_PAY", "PAYER_ACCOUNT_RESTRICTED",
    "PAYER_ACCOUNT_LOCKED_OR_CLOSED", "COMPLIANCE_VIOLATION", "CARD_EXPIRED", "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED",
}  # fmt: skip


class PayPal:
    """The provider `paypal`. A payment's `provider_ref` is the id of PayPal's order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        at = settings.paypal_api_url or (LIVE if settings.paypal_live else TESTING)
        # Probes have a connection of their own: all others may be taken by calls that wait in vain.
        self._http, self._probing = [
            httpx.AsyncClient(base_url=at, timeout=limits(settings.payment_timeout)) for _ in range(2)
        ]
        self.guard = guard_of("paypal", self._probe, (httpx.HTTPError, ProviderSilent), settings.payment_timeout)
        self._token, self._token_until = "", 0.0
        self._renewing = asyncio.Lock()
        # Anybody can make us verify a webhook at PayPal; the other connections are for payments.
        self._checking = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def close(self) -> None:
        self.guard.close()
        for http in (self._http, self._probing):
            await http.aclose()

    @property
    def is_away(self) -> bool:
        return self.guard.is_open

    async def _probe(self) -> None:
        """Asks for an order that does not exist, with the token while it is valid, else with a new sign-in."""
        with suppress(ProviderError):  # a refusal is an answer
            is_good = asyncio.get_running_loop().time() < self._token_until
            token = self._token if is_good else (await self._sign_in(self._probing))["access_token"]
            _read(await self._probing.get("/v2/checkout/orders/0", headers={"Authorization": f"Bearer {token}"}))

    @property
    def methods(self) -> Collection[str]:
        return {"paypal"}

    async def authorise(self, charge: Charge) -> Outcome:
        return _outcome(await self._ask("POST", "/v2/checkout/orders", _new_order(charge), charge.reference))

    async def capture(self, hold: Hold) -> Outcome:
        return await self._decide(hold, "capture", {"final_capture": True})

    async def void(self, hold: Hold) -> Outcome:
        return await self._decide(hold, "void", None)

    async def refund(self, refund: RefundRequest) -> Outcome:
        taken = _parts(await self._order(refund.provider_ref) or {}, "captures")
        if not taken:
            raise ProviderError("PayPal has taken nothing that could be given back")
        body = {"amount": _amount(refund.amount_cents, refund.currency), "custom_id": refund.reference}
        path = f"/v2/payments/captures/{taken[-1]['id']}/refund"
        return _refund_outcome(await self._ask("POST", path, body, refund.reference))

    async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:
        """Captures or authorizes what the buyer has approved meanwhile."""
        order = None if provider_ref is None else await self._order(provider_ref)
        if order is None:
            return None
        if order["status"] != "APPROVED":
            return _outcome(order)
        step = "capture" if order["intent"] == "CAPTURE" else "authorize"
        try:
            return _outcome(
                await self._ask("POST", f"/v2/checkout/orders/{provider_ref}/{step}", {}, f"{reference}-{step}")
            )
        except ProviderError as refused:
            if _issue(refused) in _DECLINES:
                return Outcome(provider_ref, "failed", _issue(refused).lower())
            stands = await self._order(order["id"])  # another call was faster, unless it is still only approved
            if stands is None or stands["status"] == "APPROVED":
                raise
            return _outcome(stands)

    async def look_up_refund(self, refund: RefundRequest) -> Outcome | None:
        known = _parts(await self._order(refund.provider_ref) or {}, "refunds")
        return next((_refund_outcome(found) for found in known if found.get("custom_id") == refund.reference), None)

    async def entries(self, since: datetime, until: datetime) -> AsyncIterator[Entry]:
        """From PayPal's reports, where a transaction appears some hours after it was made; a mere authorization never
        does."""
        page = 1
        while True:
            found = await self._ask(
                "GET",
                "/v1/reporting/transactions"
                f"?start_date={_moment(since)}&end_date={_moment(until - timedelta(seconds=1))}"
                f"&fields=transaction_info&page_size={_PAGE}&page={page}",
            )
            for row in found.get("transaction_details") or ():
                entry = _entry(row["transaction_info"])
                if entry is not None:
                    yield entry
            if page >= found.get("total_pages", 1):
                return
            page += 1

    async def parse_webhook(self, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookEvent:
        try:
            event = orjson.loads(body)
            event_id, kind, resource = storable(event["id"]), storable(event["event_type"]), event["resource"]
            unit = (resource.get("purchase_units") or [resource])[0]
            reference = storable(unit.get("custom_id") or "")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, IndexError):
            raise BadRequest("the event is not one that PayPal writes") from None
        await self._check(headers, body, now)
        if _BACK.fullmatch(kind):
            return WebhookEvent(event_id, kind, reference, None, moved=await self._moved(kind, resource))
        return WebhookEvent(event_id, kind, reference, None, look=_EVENTS.fullmatch(kind) is not None)

    async def _moved(self, kind: str, resource: Json) -> Moved | None:
        """The money that was returned; None for a refund in progress. Raises BadRequest."""
        try:
            moved, capture = _disputed(resource) if kind.startswith("CUSTOMER") else _back(kind, resource)
        except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, ValueError):
            raise BadRequest("the event is not one that PayPal writes") from None
        if moved is None or moved.charge or not capture:
            return moved
        try:
            taken = await self._ask("GET", f"/v2/payments/captures/{capture}")
        except ProviderError as refused:
            if _issue(refused) in ("RESOURCE_NOT_FOUND", "INVALID_RESOURCE_ID"):
                return moved
            raise
        return replace(moved, charge=taken.get("custom_id") or "")

    async def _check(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        """Raises BadSignature. The body is known to be valid JSON, so it can be part of the verification request byte
        for byte."""
        given = {name.replace("-", "_"): headers.get(f"paypal-{name}", "") for name in _SIGNED}
        if not all(0 < len(value) <= 1000 for value in given.values()):
            raise BadSignature("send the headers " + ", ".join(f"paypal-{name}" for name in _SIGNED))
        certificate = urlsplit(given["cert_url"])
        if certificate.scheme != "https" or not f".{certificate.hostname}".endswith(".paypal.com"):
            raise BadSignature("the certificate is not one of PayPal's")
        try:
            age = now - datetime.fromisoformat(given["transmission_time"])
        except (ValueError, TypeError):
            raise BadSignature("the time of the transmission is none") from None
        if abs(age) > TOLERANCE:
            raise BadSignature("the signature is more than three days old")
        asked = orjson.dumps(given | {"webhook_id": self._settings.paypal_webhook_id})
        asked = asked[:-1] + b',"webhook_event":' + body + b"}"
        try:
            async with self._checking:
                said = await self._ask("POST", "/v1/notifications/verify-webhook-signature", asked)
        except ProviderError as refused:
            if not _issue(refused):
                raise
            raise BadSignature("PayPal can't make sense of the signature") from None
        if said.get("verification_status") != "SUCCESS":
            raise BadSignature("the signature does not belong to this body")

    async def _decide(self, hold: Hold, step: str, body: Json | None) -> Outcome:
        """Captures or voids an authorization, once; if something else was decided before, returns the current state. An
        order that its buyer has not approved can't be voided at PayPal: it is dropped by never being captured, which
        only `look_up` would do. One that the buyer has approved is as good as paid."""
        order = await self._order(hold.provider_ref)
        if order is None and step == "void":  # PayPal drops orders not approved within three days
            return Outcome(hold.provider_ref, "voided")
        if order is None:
            raise ProviderError("PayPal knows no such order")
        held, stands = _parts(order, "authorizations"), _outcome(order)
        if step == "void" and order["status"] in _UNAGREED:
            return replace(stands, status="voided", redirect_url=None)
        if stands.status != "authorized":
            return stands
        failure = None
        try:
            path = f"/v2/payments/authorizations/{held[-1]['id']}/{step}"
            # For 45 days PayPal repeats its first answer to a request id. So after a declined capture another id is
            # needed, and after a lost answer the same one.
            tried = len(_parts(order, "captures"))
            await self._ask("POST", path, body, f"{hold.reference}-{step}-{tried}")
        except ProviderError as refused:
            failure = refused
        try:
            stands = _outcome(await self._order(hold.provider_ref) or order)
        except ProviderError as unseen:  # says nothing about whether it was done
            raise failure or ProviderSilent("PayPal did it, and does not say how it stands") from unseen
        if stands.status == "authorized" and (failure is not None or step == "capture"):
            raise failure or ProviderError("PayPal was declined the capture; the hold stands")
        return stands

    async def _order(self, order_id: str) -> Json | None:
        try:
            return await self._ask("GET", f"/v2/checkout/orders/{order_id}")
        except ProviderError as refused:
            if _issue(refused) in ("RESOURCE_NOT_FOUND", "INVALID_RESOURCE_ID"):
                return None
            raise

    async def _ask(self, method: str, path: str, body: Json | bytes | None = None, request_id: str = "") -> Json:
        """PayPal's answer. Raises ProviderError if it refused or was never reached, ProviderSilent if the outcome is
        unknown."""
        token = await self._signed_in()
        answer = await self._send(method, path, body, request_id, token)
        if answer.status_code == 401:  # rejected before anything was done: the token was revoked early
            answer = await self._send(method, path, body, request_id, await self._signed_in(ended=token))
        return _read(answer)

    async def _send(
        self, method: str, path: str, body: Json | bytes | None, request_id: str, token: str
    ) -> httpx.Response:
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Prefer": "return=representation",
        }
        if request_id:
            headers["PayPal-Request-Id"] = request_id
        content = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        try:
            with provider_call(self.guard):
                answer = await self._http.request(method, path, content=content, headers=headers)
        except UNSENT as error:
            raise ProviderError("PayPal can't be reached; nothing was asked") from error
        except httpx.HTTPError as error:
            raise ProviderSilent(repr(error)) from error
        if answer.is_server_error:
            self.guard.mark_doubtful()
        return answer

    async def _signed_in(self, *, ended: str = "") -> str:
        """An access token valid for at least another minute. If there is none, nothing was sent."""
        clock = asyncio.get_running_loop().time
        try:
            # Waiting for another call's sign-in has the same limit as an own sign-in.
            async with asyncio.timeout(connect_timeout(self._settings.payment_timeout)), self._renewing:
                if self._token == ended or clock() >= self._token_until:
                    with provider_call(self.guard):
                        said = await self._sign_in(self._http)
                    self._token = said["access_token"]
                    self._token_until = clock() + int(said["expires_in"]) - 60
                return self._token
        except (httpx.HTTPError, ProviderSilent, TimeoutError) as error:
            raise ProviderError("PayPal lets nobody in; nothing was asked") from error

    async def _sign_in(self, http: httpx.AsyncClient) -> Json:
        secret = self._settings.paypal_client_secret.get_secret_value()
        answer = await http.post(
            "/v1/oauth2/token",
            data={"grant_type": "client_credentials"},
            auth=(self._settings.paypal_client_id, secret),
        )
        return _read(answer)


def _read(answer: httpx.Response) -> Json:
    try:
        said: Json = orjson.loads(answer.content) if answer.content else {}
    except orjson.JSONDecodeError as error:
        raise ProviderSilent(f"PayPal answers {answer.status_code} without JSON") from error
    if answer.is_success:
        return said
    details = said.get("details") or [{}]
    issue = str(details[0].get("issue") or said.get("name") or said.get("error") or answer.status_code)
    if answer.status_code >= 500 or answer.status_code in (408, 409):
        raise ProviderSilent(f"PayPal answers {answer.status_code}: {issue}")
    raise ProviderError(f"PayPal refuses: {issue}", issue=issue)


def _issue(refused: ProviderError) -> str:
    """PayPal's code for its refusal; "" if it was never reached."""
    return str(refused.members.get("issue", ""))


def _new_order(charge: Charge) -> Json:
    back = charge.return_url
    look = {"return_url": back, "cancel_url": back, "user_action": "PAY_NOW", "shipping_preference": "NO_SHIPPING"}
    return {
        "intent": "CAPTURE" if charge.capture else "AUTHORIZE",
        "purchase_units": [
            {
                "amount": _amount(charge.amount_cents, charge.currency),
                "custom_id": charge.reference,
                "invoice_id": charge.reference,
            }
        ],
        "payment_source": {"paypal": {"experience_context": look}},
    }


def _outcome(order: Json) -> Outcome:
    """The state follows from the captures, else from the authorizations, else from the order. An authorization whose
    capture failed still stands, unless PayPal counts it as captured: then nothing is left to capture."""
    statuses = [_CAPTURES.get(taken["status"], "pending") for taken in _parts(order, "captures")]
    holds = _HOLDS | {"CAPTURED": "voided"} if statuses else _HOLDS
    held = [holds.get(part["status"], "pending") for part in _parts(order, "authorizations")]
    if held and set(statuses) <= {"failed"}:
        statuses = held
    statuses = statuses or ["voided" if order["status"] == "VOIDED" else "pending"]
    status = "succeeded" if "succeeded" in statuses else statuses[-1]
    amount = order["purchase_units"][0].get("amount") if order.get("purchase_units") else None
    taken = [
        _cents(part["amount"]) for part in _parts(order, "captures") if _CAPTURES.get(part["status"]) == "succeeded"
    ]
    cents = sum(taken) if status == "succeeded" else amount and _cents(amount)
    return Outcome(
        order["id"],
        status,  # type: ignore[arg-type]
        "declined" if status == "failed" else None,
        _link(order) if status == "pending" and order["status"] in _UNAGREED else None,
        cents,
        amount["currency_code"] if amount else None,
    )


def _parts(order: Json, kind: str) -> list[Json]:
    units = order.get("purchase_units") or [{}]
    parts: list[Json] = (units[0].get("payments") or {}).get(kind) or []
    return parts


def _link(order: Json) -> str | None:
    links = {link["rel"]: link["href"] for link in order.get("links", ())}
    return links.get("payer-action") or links.get("approve")


def _refund_outcome(refund: Json) -> Outcome:
    return Outcome(refund["id"], _REFUNDS.get(refund["status"], "failed"))  # type: ignore[arg-type]


def _back(kind: str, resource: Json) -> tuple[Moved | None, str]:
    """A refund or a reversal, and the id of its capture, in case it does not name the payment. A refund of ours carries
    our refund's id, one made by hand the capture's or none."""
    named = storable(resource.get("custom_id") or resource.get("invoice_id") or "")
    up = next((link["href"] for link in resource.get("links", ()) if link["rel"] == "up"), "")
    cents, currency = _cents(resource["amount"]), storable(resource["amount"]["currency_code"])
    moved = Moved("refund", storable(resource["id"]), named, named, cents, currency, undone=False)
    if kind == "PAYMENT.CAPTURE.REVERSED":
        moved = replace(moved, kind="reversal")
    elif resource["status"] == "PENDING":
        return None, ""
    else:
        moved = replace(moved, undone=_refund_outcome(resource).status == "failed")
    return moved, _in_path(up.rpartition("/")[2])


def _disputed(dispute: Json) -> tuple[Moved, str]:
    """A dispute, and the id of the capture that it is about, in case it does not name the payment."""
    about = dispute["disputed_transactions"][0]
    named = storable(about.get("custom") or about.get("invoice_number") or "")
    amount = dispute["dispute_amount"]
    undone = (dispute.get("dispute_outcome") or {}).get("outcome_code") in _LIFTED
    cents, currency = _cents(amount), storable(amount["currency_code"])
    moved = Moved("dispute", storable(dispute["dispute_id"]), named, "", cents, currency, undone=undone)
    return moved, _in_path(about.get("seller_transaction_id") or "")


def _in_path(name: str) -> str:
    if not re.fullmatch(r"[\w-]*", name):
        raise ValueError
    return name


def _entry(row: Json) -> Entry | None:
    """A line of PayPal's reports: T00… are payments, T11… money returned, T1201 chargebacks; nothing else is compared.
    The sign tells whose money it is: what we paid to others, or got back after it was withheld, is neither a charge nor
    a refund of ours."""
    code, cents = row["transaction_event_code"], _cents(row["transaction_amount"])
    if not code.startswith(("T00", "T11", "T1201")):
        return None
    is_charge = code.startswith("T00")
    if is_charge is not (cents > 0):
        return None
    cents = abs(cents)
    reported = row["transaction_status"]
    # A charge that was refunded in full has status V from then on; the refund has a line of its own.
    status = "succeeded" if is_charge and reported == "V" else _REPORTED.get(reported, "pending")
    return Entry(
        "charge" if is_charge else "refund",
        row["transaction_id"],
        row.get("custom_field") or row.get("invoice_id") or "",
        status,
        cents,
        cents if status == "succeeded" else 0,
        row["transaction_amount"]["currency_code"],
        datetime.fromisoformat(row["transaction_initiation_date"]),
        row.get("paypal_reference_id") or "",
    )


def _amount(cents: int, currency: str) -> Json:
    """PayPal's decimal amount. Raises ProviderError for part of a unit in a currency that PayPal takes whole only."""
    amount = Decimal(cents).scaleb(-minor_digits(currency))
    if currency in _WHOLE:
        if amount != amount.to_integral_value():
            raise ProviderError(f"PayPal takes {currency} whole only")
        amount = amount.to_integral_value()
    return {"currency_code": currency, "value": f"{amount:f}"}


def _cents(amount: Json) -> int:
    return to_minor(Decimal(amount["value"]), amount["currency_code"])


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
