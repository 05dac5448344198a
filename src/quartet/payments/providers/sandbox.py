"""The built-in provider: no money moves, everything else is as with a real one. It keeps its own books in the schema
`sandbox`, in calls of their own, as a company elsewhere would.

| method | outcome |
|---|---|
| `card_ok` | succeeded |
| `card_declined`, `card_insufficient_funds` | declined with `card_declined`, `insufficient_funds` |
| `card_async` | pending, then succeeded: a signed webhook tells |
| `card_slow` | takes its time (QUARTET_SANDBOX_SLOW_SECONDS), then succeeded |
| `card_error` | the provider fails, nothing is charged |

A webhook is a POST to `/webhooks/sandbox` of `{"id", "type", "createdAt", "data": {"reference", "chargeId", "status",
"declineCode"}}`, type `charge.succeeded` or `charge.failed`, with the header
`Sandbox-Signature: t=<unix seconds>,v1=<hex>`, HMAC-SHA256 of `<t>.<body>`: the scheme of Stripe's webhooks.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import orjson
import structlog

from quartet.kernel.errors import BadRequest, StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.payments.model import BadSignature, Charge, GiveBack, Outcome, ProviderError, ProviderSilent, WebhookEvent
from quartet.stores.files import queries
from quartet.stores.postgres import Postgres

q = queries(__file__)
log = structlog.get_logger("quartet.payments.sandbox")

SIGNATURE = "sandbox-signature"
TOLERANCE_SECONDS = 300
_LONGEST = 255
_DECLINES = {"card_declined": "card_declined", "card_insufficient_funds": "insufficient_funds"}
_METHODS = frozenset({"card_ok", "card_async", "card_slow", "card_error", *_DECLINES})


class Sandbox:
    """The provider `sandbox`."""

    def __init__(self, settings: Settings, pg: Postgres) -> None:
        self._settings = settings
        self._pg = pg
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def methods(self) -> Collection[str]:
        return _METHODS

    async def charge(self, charge: Charge) -> Outcome:
        if charge.method == "card_error":
            raise ProviderError("the sandbox was asked to fail; nothing was charged")
        waits = {"card_async": self._settings.sandbox_async_seconds, "card_slow": self._settings.sandbox_slow_seconds}
        row = await self._call(
            q.sandbox_charge, charge.reference, f"sb_{uuid4().hex}", charge.method, charge.amount_cents,
            charge.currency, _DECLINES.get(charge.method), waits.get(charge.method, 0.0),
        )  # fmt: skip
        if charge.method == "card_slow":
            await asyncio.sleep(max(0.0, row["seconds_left"]))
            return Outcome(row["id"], "succeeded")
        if charge.method == "card_async" and row["seconds_left"] > 0:
            self._send_later(charge.reference, Outcome(row["id"], "succeeded"), row["seconds_left"])
        return _outcome(row)

    async def refund(self, refund: GiveBack) -> Outcome:
        row = await self._call(
            q.sandbox_refund, refund.reference, f"sbr_{uuid4().hex}", refund.charge, refund.amount_cents
        )
        if row["refund"] is None:
            raise ProviderError("the sandbox knows no such charge, or less is left of it")
        return Outcome(row["refund"], "succeeded")

    async def look_up(self, reference: str) -> Outcome | None:
        row = await self._call(q.sandbox_look_up, reference)
        return None if row is None else _outcome(row)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookEvent:
        self._check(headers.get(SIGNATURE, ""), body, now)
        try:
            event = orjson.loads(body)
            outcome = None
            if event["type"] in ("charge.succeeded", "charge.failed"):
                data = event["data"]
                decline = data.get("declineCode")
                outcome = Outcome(
                    _text(data["chargeId"]),
                    event["type"].removeprefix("charge."),
                    None if decline is None else _text(decline),
                )
            reference = (event.get("data") or {}).get("reference", "")
            return WebhookEvent(_text(event["id"]), _text(event["type"]), _text(reference), outcome)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise BadRequest("the event is not one that the sandbox writes") from None

    def sign(self, body: bytes, now: datetime) -> str:
        """The signature's header value for these bytes at this moment."""
        at = int(now.timestamp())
        return f"t={at},v1={self._mac(at, body)}"

    def event(self, reference: str, outcome: Outcome) -> bytes:
        """The webhook's body; the same charge gives the same event id."""
        data = {"reference": reference, "chargeId": outcome.provider_ref, "status": outcome.status}
        if outcome.decline_code:
            data["declineCode"] = outcome.decline_code
        kind = f"charge.{outcome.status}"
        event_id = f"evt_{hashlib.sha256(f'{kind}:{outcome.provider_ref}'.encode()).hexdigest()[:24]}"
        return orjson.dumps({"id": event_id, "type": kind, "createdAt": datetime.now(UTC), "data": data})

    def _mac(self, at: int, body: bytes) -> str:
        secret = self._settings.sandbox_webhook_secret.get_secret_value()
        if not secret:
            secret = "sandbox webhooks:" + self._settings.secret.get_secret_value()
        return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()

    def _check(self, header: str, body: bytes, now: datetime) -> None:
        parts = dict(part.strip().partition("=")[::2] for part in header.split(","))
        at = parts.get("t", "")
        if not (at.isascii() and at.isdigit() and len(at) <= 12):
            raise BadSignature(f"send the header {SIGNATURE}: t=<unix seconds>,v1=<hex>")
        if not hmac.compare_digest(self._mac(int(at), body).encode(), parts.get("v1", "").encode()):
            raise BadSignature("the signature does not belong to this body")
        if abs(now.timestamp() - int(at)) > TOLERANCE_SECONDS:
            raise BadSignature(f"the signature is more than {TOLERANCE_SECONDS} seconds old")

    def _send_later(self, reference: str, outcome: Outcome, seconds: float) -> None:
        task = asyncio.create_task(self._send(reference, outcome, seconds))
        self._sending.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._sending.discard)

    async def _send(self, reference: str, outcome: Outcome, seconds: float) -> None:
        await asyncio.sleep(seconds)
        body = self.event(reference, outcome)
        headers = {SIGNATURE: self.sign(body, datetime.now(UTC)), "Content-Type": "application/json"}
        url = f"{self._settings.base_url.rstrip('/')}/webhooks/sandbox"
        try:
            async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
                (await http.post(url, content=body, headers=headers)).raise_for_status()
        except httpx.HTTPError as error:
            # A real provider would try again; here the recovery sweep asks, which needs its exercise too.
            log.warning("webhook lost", url=url, reference=reference, error=repr(error))

    async def _call(self, sql: str, *args: Any) -> Any:
        try:
            async with self._pg.once() as connection:
                return await connection.fetchrow(sql, *args)
        except StoreUnavailable as error:
            raise ProviderSilent("the sandbox does not answer") from error


def _text(value: Any) -> str:
    """What fits into a column of text, or TypeError."""
    if not isinstance(value, str) or "\0" in value or len(value) > _LONGEST:
        raise TypeError
    return value


def _outcome(row: Any) -> Outcome:
    if row["seconds_left"] > 0:
        return Outcome(row["id"], "pending")
    return Outcome(row["id"], "failed" if row["decline_code"] else "succeeded", row["decline_code"])
