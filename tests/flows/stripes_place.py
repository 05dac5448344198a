"""Stripe as its documentation says it is, as far as a shop sees it: a server that keeps state, remembers idempotency
keys and writes signed events. https://docs.stripe.com/api"""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from quartet.payments.providers import signatures

Json = dict[str, Any]

KEY = "sk_test_of_the_tests"
SECRETS = ("whsec_old", "whsec_new")
DECLINES = {
    "pm_card_chargeDeclined": "generic_decline",
    "pm_card_chargeDeclinedInsufficientFunds": "insufficient_funds",
}
# The buyer has to show who he is; the bank takes days.
REDIRECTED, SLOW = "pm_card_authenticationRequired", "pm_usBankAccount_success"
KNOWN = {"pm_card_visa", REDIRECTED, SLOW, *DECLINES}


class Refused(Exception):
    """An error as Stripe words it."""

    def __init__(self, status: int, kind: str, code: str | None = None, **more: Any) -> None:
        super().__init__(code or kind)
        self.status = status
        self.body = {"error": {"type": kind, "code": code, "message": code or kind, **more}}


@dataclass
class StripesPlace:
    """`events` are those not yet delivered. `failing` answers 500 after the work is done, `busy` 429 before it; with
    `declining` the card's bank refuses to capture and to take money back; with `keeping` a cancellation is answered
    429, as past the limit on writes, while reads are served. `listed` counts the pages of intents that were asked for,
    `to_cancel` the cancellations."""

    intents: dict[str, Json] = field(default_factory=dict)
    refunds: dict[str, Json] = field(default_factory=dict)
    disputes: list[Json] = field(default_factory=list)
    answers: dict[str, tuple[str, int, Json | None]] = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    latency: float = 0.0
    failing: bool = False
    busy: bool = False
    async_refunds: bool = False
    declining: bool = False
    keeping: bool = False
    listed: int = 0
    to_cancel: int = 0
    _numbers: Any = field(default_factory=lambda: count(1))

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/payment_intents", self._answered(self._create), methods=["POST"]),
                Route("/v1/payment_intents", self._answered(self._list_intents), methods=["GET"]),
                Route("/v1/payment_intents/{id}", self._answered(self._retrieve), methods=["GET"]),
                Route("/v1/payment_intents/{id}/capture", self._answered(self._capture), methods=["POST"]),
                Route("/v1/payment_intents/{id}/cancel", self._answered(self._cancel), methods=["POST"]),
                Route("/v1/refunds", self._answered(self._refund), methods=["POST"]),
                Route("/v1/refunds", self._answered(self._list_refunds), methods=["GET"]),
                Route("/v1/disputes", self._answered(self._list_disputes), methods=["GET"]),
            ]
        )

    # What a test does to it, or sees of it

    def taken(self) -> int:
        """What it has of everybody's, in cents."""
        back = sum(r["amount"] for r in self.refunds.values() if r["status"] in ("succeeded", "pending"))
        left: int = sum(i["amount_received"] for i in self.intents.values()) - back
        return left

    def settle(self, intent: Json, *, well: bool = True) -> None:
        """The buyer has shown who he is, or the bank has made up its mind."""
        intent["next_action"] = None
        if well:
            self._charge(intent)
        else:
            self._decline(intent, "authentication_failed")

    def take(self, intent: Json, cents: int) -> None:
        """Somebody captures by hand, perhaps less than is held; the rest is let go."""
        intent |= {"status": "succeeded", "amount_received": cents, "amount_capturable": 0}
        self._tell("payment_intent.succeeded", intent)

    def give_back(self, intent: Json, cents: int) -> Json:
        """Somebody gives money back in the dashboard."""
        refund = self._refunded(intent, cents, {})
        self._tell("refund.updated", refund)
        return refund

    def dispute(self, intent: Json, status: str) -> Json:
        """The card's owner says at the bank that it was not he, and the bank believes it or asks about it."""
        dispute = {
            "id": f"du_{next(self._numbers)}", "object": "dispute", "amount": intent["amount"], "status": status,
            "currency": intent["currency"], "payment_intent": intent["id"], "metadata": {}, "created": int(time.time()),
        }  # fmt: skip
        self.disputes.append(dispute)
        self._tell("charge.dispute.created", dispute)
        return dispute

    def decide(self, dispute: Json, status: str) -> None:
        """The bank has made up its mind."""
        dispute["status"] = status
        self._tell("charge.dispute.closed", dispute)

    def fail(self, refund: Json) -> None:
        """The buyer's bank sends back what it was given: the card is no more."""
        refund |= {"status": "failed", "failure_reason": "lost_or_stolen_card"}
        for kind in ("refund.failed", "refund.updated", "charge.refund.updated"):
            self._tell(kind, refund)

    def crowd(self, many: int, after: int) -> None:
        """Others pay through the same account, so many, so many seconds from now."""
        for number in (next(self._numbers) for _ in range(many)):
            self.intents[f"pi_{number}"] = {
                "id": f"pi_{number}", "object": "payment_intent", "amount": 0, "amount_received": 0, "currency": "gbp",
                "created": int(time.time()) + after, "metadata": {}, "status": "succeeded",
            }  # fmt: skip

    def lapse(self, intent: Json) -> None:
        """Seven days have gone by without a capture."""
        intent |= {"status": "canceled", "amount_capturable": 0, "cancellation_reason": "automatic"}
        self._tell("payment_intent.canceled", intent)

    def forget_keys(self) -> None:
        """A day has gone by."""
        self.answers.clear()

    async def deliver(
        self, shop: httpx.AsyncClient, now: datetime, *, copies: int = 1, dice: random.Random | None = None
    ) -> list[int]:
        """Sends every event to the shop, signed, `copies` times, shuffled by the dice; answers the statuses."""
        letters = self.events * copies
        self.events = []
        if dice is not None:
            dice.shuffle(letters)
        posts = []
        for event in letters:
            body = json.dumps(event, indent=2).encode()
            headers = {"Stripe-Signature": signatures.sign(body, SECRETS[1], now), "Content-Type": "application/json"}
            posts.append(shop.post("/webhooks/stripe", content=body, headers=headers))
        return [answer.status_code for answer in await asyncio.gather(*posts)]

    # Its routes

    def _answered(self, work: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {KEY}":
                return JSONResponse(Refused(401, "invalid_request_error", "invalid_api_key").body, 401)
            if self.busy:
                return JSONResponse(Refused(429, "invalid_request_error", "rate_limit").body, 429)
            params = _nested(parse_qsl((await request.body()).decode()))
            key = request.headers.get("idempotency-key") if request.method == "POST" else None
            status, body = await self._once(key, f"{request.url.path} {params}", work, request, params)
            await asyncio.sleep(self.latency)
            if self.failing:
                return JSONResponse(Refused(500, "api_error").body, 500)
            return JSONResponse(body, status)

        return endpoint

    async def _once(self, key: str | None, asked: str, work: Any, request: Request, params: Json) -> tuple[int, Json]:
        """The first answer under an idempotency key is every answer, an error's too; what was not valid is none."""
        if key in self.answers:
            before, status, body = self.answers[key]
            if before != asked:
                return 400, Refused(400, "idempotency_error").body
            if body is None:
                return 409, Refused(409, "idempotency_error", "idempotency_key_in_use").body
            return status, body
        if key is not None:
            self.answers[key] = (asked, 0, None)
        try:
            status, body = 200, work(request, params)
        except Refused as refused:
            status, body = refused.status, refused.body
        if key is not None:
            del self.answers[key]
            if status != 400:
                self.answers[key] = (asked, status, json.loads(json.dumps(body)))
        return status, body

    def _create(self, _request: Request, params: Json) -> Json:
        for name in ("amount", "currency", "payment_method", "confirm", "capture_method", "metadata"):
            if name not in params:
                raise Refused(400, "invalid_request_error", "parameter_missing", param=name)
        if params["payment_method"] not in KNOWN:
            raise Refused(400, "invalid_request_error", "resource_missing", param="payment_method")
        intent = {
            "id": f"pi_{next(self._numbers)}", "object": "payment_intent", "amount": int(params["amount"]),
            "amount_received": 0, "amount_capturable": 0, "currency": params["currency"], "created": int(time.time()),
            "capture_method": params["capture_method"], "metadata": params["metadata"],
            "status": "requires_confirmation", "payment_method": params["payment_method"], "next_action": None,
            "last_payment_error": None,
        }  # fmt: skip
        self.intents[intent["id"]] = intent
        method = params["payment_method"]
        if method in DECLINES:
            self._decline(intent, DECLINES[method])
            raise Refused(
                402, "card_error", "card_declined", decline_code=DECLINES[method], payment_intent=dict(intent)
            )
        if method == REDIRECTED:
            url = f"https://hooks.stripe.com/3d_secure_2/{intent['id']}"
            action = {"type": "redirect_to_url", "redirect_to_url": {"url": url, "return_url": params["return_url"]}}
            intent |= {"status": "requires_action", "next_action": action}
            self._tell("payment_intent.requires_action", intent)
        elif method == SLOW:
            intent["status"] = "processing"
            self._tell("payment_intent.processing", intent)
        else:
            self._charge(intent)
        return dict(intent)

    def _retrieve(self, request: Request, _params: Json) -> Json:
        return dict(self._intent(request))

    def _capture(self, request: Request, _params: Json) -> Json:
        intent = self._intent(request)
        if intent["status"] != "requires_capture":
            raise Refused(400, "invalid_request_error", "payment_intent_unexpected_state", payment_intent=dict(intent))
        self._ask_bank()
        self._succeed(intent)
        return dict(intent)

    def _cancel(self, request: Request, _params: Json) -> Json:
        intent = self._intent(request)
        self.to_cancel += 1
        if self.keeping:
            raise Refused(429, "invalid_request_error", "rate_limit")
        if intent["status"] in ("succeeded", "canceled", "processing"):
            raise Refused(400, "invalid_request_error", "payment_intent_unexpected_state", payment_intent=dict(intent))
        intent |= {"status": "canceled", "amount_capturable": 0, "next_action": None}
        self._tell("payment_intent.canceled", intent)
        return dict(intent)

    def _refund(self, _request: Request, params: Json) -> Json:
        intent = self.intents.get(params["payment_intent"])
        if intent is None:
            raise Refused(404, "invalid_request_error", "resource_missing")
        here = [r for r in self.refunds.values() if r["payment_intent"] == intent["id"]]
        back = sum(r["amount"] for r in here if r["status"] != "failed")
        if int(params["amount"]) > intent["amount_received"] - back:
            raise Refused(400, "invalid_request_error", "charge_already_refunded")
        self._ask_bank()
        return dict(self._refunded(intent, int(params["amount"]), params.get("metadata", {})))

    def _list_intents(self, request: Request, _params: Json) -> Json:
        self.listed += 1
        return _page(request, list(self.intents.values()))

    def _list_refunds(self, request: Request, _params: Json) -> Json:
        of = request.query_params.get("payment_intent")
        return _page(request, [r for r in self.refunds.values() if of in (None, r["payment_intent"])])

    def _list_disputes(self, request: Request, _params: Json) -> Json:
        return _page(request, list(self.disputes))

    # What happens inside

    def _intent(self, request: Request) -> Json:
        found = self.intents.get(request.path_params["id"])
        if found is None:
            raise Refused(404, "invalid_request_error", "resource_missing")
        return found

    def _ask_bank(self) -> None:
        if self.declining:
            raise Refused(402, "card_error", "card_declined", decline_code="generic_decline")

    def _charge(self, intent: Json) -> None:
        if intent["capture_method"] == "manual":
            intent |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
            self._tell("payment_intent.amount_capturable_updated", intent)
        else:
            self._succeed(intent)

    def _refunded(self, intent: Json, cents: int, metadata: Json) -> Json:
        refund = {
            "id": f"re_{next(self._numbers)}", "object": "refund", "amount": cents, "currency": intent["currency"],
            "payment_intent": intent["id"], "metadata": metadata, "created": int(time.time()),
            "status": "pending" if self.async_refunds else "succeeded",
        }  # fmt: skip
        self.refunds[refund["id"]] = refund
        self._tell("refund.created", refund)
        return refund

    def _succeed(self, intent: Json) -> None:
        self.take(intent, intent["amount"])

    def _decline(self, intent: Json, code: str) -> None:
        error = {"type": "card_error", "code": "card_declined", "decline_code": code}
        intent |= {"status": "requires_payment_method", "last_payment_error": error}
        self._tell("payment_intent.payment_failed", intent)

    def _tell(self, kind: str, intent: Json) -> None:
        event = {
            "id": f"evt_{next(self._numbers)}", "object": "event", "type": kind, "created": int(time.time()),
            "api_version": "2026-01-28.test", "livemode": False, "data": {"object": json.loads(json.dumps(intent))},
        }  # fmt: skip
        self.events.append(event)


def _page(request: Request, found: list[Json]) -> Json:
    """The newest first, a page at a time."""
    query = request.query_params
    compare = {"gte": int.__ge__, "gt": int.__gt__, "lt": int.__lt__, "lte": int.__le__}
    for name, holds in compare.items():
        if bound := query.get(f"created[{name}]"):
            found = [f for f in found if holds(f["created"], int(bound))]
    found.reverse()
    if after := query.get("starting_after"):
        found = found[[f["id"] for f in found].index(after) + 1 :]
    limit = int(query.get("limit", 10))
    return {"object": "list", "url": request.url.path, "data": found[:limit], "has_more": len(found) > limit}


def _nested(pairs: list[tuple[str, str]]) -> Json:
    """`a[b]=c` as `{"a": {"b": "c"}}`."""
    params: Json = {}
    for name, value in pairs:
        first, *rest = name.replace("]", "").split("[")
        inner = params
        for key in rest:
            inner = inner.setdefault(first, {})
            first = key
        inner[first] = value
    return params
