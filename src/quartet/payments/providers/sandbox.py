"""The built-in provider: it moves no money and otherwise behaves like a real one. It keeps its own records in the
schema `sandbox`, in transactions of its own, as an outside company would.

| method | outcome |
|---|---|
| `card_ok` | succeeded |
| `card_declined`, `card_insufficient_funds` | declined with `card_declined`, `insufficient_funds` |
| `card_async` | pending, then succeeded, reported by a signed webhook |
| `card_slow` | takes its time (QUARTET_SANDBOX_SLOW_SECONDS), then succeeded |
| `card_error` | the provider fails, nothing is charged |

With manual capture a charge is `authorized` instead of succeeded, until it is captured, voided or has lapsed.

A webhook is a POST to `/webhooks/sandbox` of `{"id", "type", "createdAt", "data": {"reference", "chargeId", "status",
"declineCode"}}`, type `charge.authorized`, `charge.succeeded`, `charge.failed` or `charge.voided`, with the header
`Sandbox-Signature: t=<unix seconds>,v1=<hex>`, HMAC-SHA256 of `<t>.<body>`: the scheme of Stripe's webhooks. It never
reports money returned without us, but tests can send such events: types `refund.succeeded`, `refund.failed`,
`dispute.opened` and `dispute.lifted`, data `{"id", "charge", "reference", "amountCents", "currency"}`, where `charge`
is our payment's id or the sandbox's, and `reference` our refund's id, "" if the refund is not ours.

`Faults` makes it fail in every way that a provider can.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import orjson
import structlog

from quartet.kernel.errors import BadRequest, StoreUnavailable
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
from quartet.payments.providers.port import storable
from quartet.stores.files import queries
from quartet.stores.postgres import Postgres

q = queries(__file__)
log = structlog.get_logger("quartet.payments.sandbox")

SIGNATURE = "sandbox-signature"
_PAGE = 100
_DECLINES = {"card_declined": "card_declined", "card_insufficient_funds": "insufficient_funds"}
_METHODS = frozenset({"card_ok", "card_async", "card_slow", "card_error", *_DECLINES})
_KINDS = {f"charge.{status}": status for status in ("authorized", "succeeded", "failed", "voided")}

_MOVED = {"refund.succeeded", "refund.failed", "dispute.opened", "dispute.lifted"}


@dataclass
class Faults:
    """Injected faults, drawn from `dice`; may be changed at runtime. `latency`: seconds that each call takes. Shares of
    the calls, 0 to 1: `error` fails before anything happens; `silent_before` and `silent_after` give no answer, without
    or with the call's effect. Each webhook is sent `copies` times, each up to `late` seconds late."""

    dice: random.Random
    latency: float = 0.0
    error: float = 0.0
    silent_before: float = 0.0
    silent_after: float = 0.0
    copies: int = 1
    late: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "Faults":
        """The faults that the settings ask for."""
        return cls(
            random.Random(settings.sandbox_seed),
            settings.sandbox_latency_seconds,
            settings.sandbox_error_share,
            settings.sandbox_silent_before_share,
            settings.sandbox_silent_after_share,
            settings.sandbox_webhook_copies,
            settings.sandbox_webhook_late_seconds,
        )

    async def before(self) -> None:
        """Before the call's effect. Raises ProviderError, ProviderSilent."""
        if self.latency:
            await asyncio.sleep(self.latency)
        if self._drawn(self.error):
            raise ProviderError("the sandbox was told to fail; nothing happened")
        if self._drawn(self.silent_before):
            raise ProviderSilent("the sandbox was told to be silent, and did nothing")

    def after(self) -> None:
        """After the call's effect. Raises ProviderSilent."""
        if self._drawn(self.silent_after):
            raise ProviderSilent("the sandbox was told to be silent, and did what it was asked")

    def _drawn(self, share: float) -> bool:
        return share > 0 and self.dice.random() < share


class Sandbox:
    """The provider `sandbox`."""

    def __init__(self, settings: Settings, pg: Postgres, faults: Faults | None = None) -> None:
        self._settings = settings
        self._pg = pg
        self.faults = faults or Faults.of(settings)
        self._sending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        pass  # it has nothing of its own open

    @property
    def methods(self) -> Collection[str]:
        return _METHODS

    @property
    def is_away(self) -> bool:
        return False  # its records are in PostgreSQL, which has a circuit breaker already

    async def authorise(self, charge: Charge) -> Outcome:
        if charge.method == "card_error":
            raise ProviderError("the sandbox was asked to fail; nothing was charged")
        waits = {"card_async": self._settings.sandbox_async_seconds, "card_slow": self._settings.sandbox_slow_seconds}
        row = await self._call(
            q.sandbox_charge, charge.reference, f"sb_{uuid4().hex}", charge.method, charge.amount_cents,
            charge.currency, _DECLINES.get(charge.method), waits.get(charge.method, 0.0), charge.capture,
            self._settings.sandbox_hold_seconds,
        )  # fmt: skip
        done = replace(_outcome(row), status="succeeded" if charge.capture else "authorized")
        if charge.method == "card_slow":
            await asyncio.sleep(max(0.0, row["seconds_left"]))
            return done
        if charge.method == "card_async" and row["seconds_left"] > 0:
            self._send_later(charge.reference, done, row["seconds_left"])
        return _outcome(row)

    async def capture(self, hold: Hold) -> Outcome:
        return await self._settled(hold, capture=True)

    async def void(self, hold: Hold) -> Outcome:
        return await self._settled(hold, capture=False)

    async def refund(self, refund: RefundRequest) -> Outcome:
        row = await self._call(
            q.sandbox_refund, refund.reference, f"sbr_{uuid4().hex}", refund.charge, refund.amount_cents
        )
        if row["refund"] is None:
            raise ProviderError("the sandbox knows no such charge, or less is left of it")
        return Outcome(row["refund"], "succeeded")

    async def look_up(self, reference: str, provider_ref: str | None = None) -> Outcome | None:  # noqa: ARG002 — by ours
        row = await self._call(q.sandbox_look_up, reference)
        return None if row is None else _outcome(row)

    async def look_up_refund(self, refund: RefundRequest) -> Outcome | None:
        row = await self._call(q.sandbox_look_up_refund, refund.reference)
        return None if row is None else Outcome(row["id"], "succeeded")

    async def entries(self, since: datetime, until: datetime) -> AsyncIterator[Entry]:
        after = (since, "")
        while True:
            async with self._pg.read() as read:
                page = await read.fetch(q.sandbox_entries, since, until, *after, _PAGE)
            for row in page:
                yield Entry(
                    row["kind"], row["id"], row["reference"], row["status"], row["amount_cents"],
                    row["captured_cents"], row["currency"], row["created_at"], row["charge_ref"],
                )  # fmt: skip
            if len(page) < _PAGE:
                return
            after = (page[-1]["created_at"], page[-1]["reference"])

    async def parse_webhook(self, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookEvent:
        signatures.check(headers.get(SIGNATURE, ""), body, [self._secret], now)
        try:
            event = orjson.loads(body)
            outcome = None
            if event["type"] in _KINDS:
                data = event["data"]
                decline = data.get("declineCode")
                status = _KINDS[event["type"]]
                outcome = Outcome(storable(data["chargeId"]), status, None if decline is None else storable(decline))  # type: ignore[arg-type]
            reference = storable((event.get("data") or {}).get("reference", ""))
            moved = _moved(event["type"], event["data"], reference) if event["type"] in _MOVED else None
            return WebhookEvent(storable(event["id"]), storable(event["type"]), reference, outcome, moved=moved)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise BadRequest("the event is not one that the sandbox writes") from None

    def sign(self, body: bytes, now: datetime) -> str:
        """The signature header's value for these bytes at this time."""
        return signatures.sign(body, self._secret, now)

    def event(self, reference: str, outcome: Outcome) -> bytes:
        """The webhook's body; the same charge gives the same event id."""
        data = {"reference": reference, "chargeId": outcome.provider_ref, "status": outcome.status}
        if outcome.decline_code:
            data["declineCode"] = outcome.decline_code
        kind = f"charge.{outcome.status}"
        event_id = f"evt_{hashlib.sha256(f'{kind}:{outcome.provider_ref}'.encode()).hexdigest()[:24]}"
        return orjson.dumps({"id": event_id, "type": kind, "createdAt": datetime.now(UTC), "data": data})

    async def _settled(self, hold: Hold, *, capture: bool) -> Outcome:
        await self._call(q.sandbox_settle, hold.reference, capture)
        async with self._pg.read() as read:
            row = await read.fetchrow(q.sandbox_look_up, hold.reference)
        if row is None:
            raise ProviderError("the sandbox knows no such charge")
        return _outcome(row)

    @property
    def _secret(self) -> str:
        own = self._settings.sandbox_webhook_secret.get_secret_value()
        return own or "sandbox webhooks:" + self._settings.secret.get_secret_value()

    def _send_later(self, reference: str, outcome: Outcome, seconds: float) -> None:
        for _ in range(self.faults.copies):
            task = asyncio.create_task(
                self._send(reference, outcome, seconds + self.faults.dice.random() * self.faults.late)
            )
            self._sending.add(task)  # the event loop keeps only weak references to tasks
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
            # A real provider would retry; here the recovery sweep asks, which is exercised this way.
            log.warning("webhook lost", url=url, reference=reference, error=repr(error))

    async def _call(self, sql: str, *args: Any) -> Any:
        await self.faults.before()
        try:
            async with self._pg.once() as connection:
                row = await connection.fetchrow(sql, *args)
        except StoreUnavailable as error:
            raise ProviderSilent("the sandbox does not answer") from error
        self.faults.after()
        return row


def _moved(kind: str, data: Any, reference: str) -> Moved:
    cents, currency = data["amountCents"], storable(data["currency"])
    if not isinstance(cents, int):
        raise TypeError
    what: Any = kind.partition(".")[0]
    undone = kind in ("refund.failed", "dispute.lifted")
    return Moved(what, storable(data["id"]), storable(data["charge"]), reference, cents, currency, undone=undone)


def _outcome(row: Any) -> Outcome:
    return Outcome(row["id"], row["status"], row["decline_code"], cents=row["amount_cents"], currency=row["currency"])
