"""PayPal as its documentation says it is, as far as a shop sees it: a server that keeps state, tokens and request ids,
and signs what it tells. https://developer.paypal.com/docs/api"""

import asyncio
import base64
import hashlib
import hmac
import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Json = dict[str, Any]

CLIENT, SECRET, WEBHOOK = "client-of-the-tests", "secret-of-the-tests", "WH-1"
CERTIFICATE = "https://api.paypal.com/v1/notifications/certs/CERT-1"


class Refused(Exception):
    """An error as PayPal words it."""

    def __init__(self, status: int, issue: str) -> None:
        super().__init__(issue)
        self.status = status
        self.body = {"name": "UNPROCESSABLE_ENTITY", "details": [{"issue": issue}], "debug_id": "1"}


@dataclass
class PayPalsPlace:
    """`events` are those not yet delivered. `declining`: the buyer's bank says no; `failing` answers 500 after the work
    is done; `hiding`: orders of which something was taken can't be looked at just now; `tokens_given` counts sign-ins,
    each of which takes `sign_in_seconds`; `slow`: a hold's capture is pending, and the hold counts as captured.
    `taken_back_as` is how reports call refunds; `moved` is what else stands in them, event code and sum: money withheld
    for a dispute (T1110) and released (T1111), what the shop pays others."""

    orders: dict[str, Json] = field(default_factory=dict)
    answers: dict[str, tuple[int, Json]] = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    tokens_given: int = 0
    token_seconds: int = 32400
    latency: float = 0.0
    sign_in_seconds: float = 0.0
    failing: bool = False
    hiding: bool = False
    declining: bool = False
    slow: bool = False
    taken_back_as: str = "T1107"
    moved: list[tuple[str, str]] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: count(1))

    @property
    def app(self) -> Starlette:
        posts = {
            "/v2/checkout/orders": self._create,
            "/v2/checkout/orders/{id}/capture": self._take,
            "/v2/checkout/orders/{id}/authorize": self._hold,
            "/v2/payments/authorizations/{id}/capture": self._capture,
            "/v2/payments/authorizations/{id}/void": self._void,
            "/v2/payments/captures/{id}/refund": self._refund,
            "/v1/notifications/verify-webhook-signature": self._verify,
        }
        gets = {
            "/v2/checkout/orders/{id}": self._get,
            "/v2/payments/captures/{id}": self._get_capture,
            "/v1/reporting/transactions": self._report,
        }
        routes = [Route(path, self._answered(work), methods=["POST"]) for path, work in posts.items()]
        routes += [Route(path, self._answered(work), methods=["GET"]) for path, work in gets.items()]
        return Starlette(routes=[Route("/v1/oauth2/token", self._sign_in, methods=["POST"]), *routes])

    # What a test does to it, or sees of it

    def approve(self, order_id: str) -> None:
        """The buyer agrees on PayPal's page."""
        order = self.orders[order_id]
        assert order["status"] == "PAYER_ACTION_REQUIRED"
        order["status"] = "APPROVED"
        self._tell("CHECKOUT.ORDER.APPROVED", order)

    def take(self, order_id: str, cents: int) -> None:
        """Somebody captures at PayPal's own page less than is held."""
        order = self.orders[order_id]
        self._payments(order)["authorizations"][-1]["status"] = "PARTIALLY_CAPTURED"
        part = self._add(order, "captures", "COMPLETED", "PAYMENT.CAPTURE.COMPLETED")
        part["amount"] = part["amount"] | {"value": f"{cents / 100:.2f}"}

    def decline(self, order_id: str) -> None:
        """The buyer's bank has made up its mind about a capture that was pending, and refuses."""
        taken = self._payments(self.orders[order_id])["captures"][-1]
        taken["status"] = "DECLINED"
        self._tell("PAYMENT.CAPTURE.DECLINED", taken)

    def lapse(self, order_id: str) -> None:
        """A hold is 29 days old."""
        held = self._payments(self.orders[order_id])["authorizations"][-1]
        held["status"] = "EXPIRED"
        self._tell("PAYMENT.AUTHORIZATION.VOIDED", held)

    def refund(self, order_id: str, value: str) -> Json:
        """Somebody gives money back on PayPal's page."""
        order = self.orders[order_id]
        (taken,) = self._payments(order)["captures"]
        taken["status"] = "PARTIALLY_REFUNDED"
        amount = {"currency_code": "GBP", "value": value}
        part = self._add(order, "refunds", "COMPLETED", "", {"amount": amount, "custom_id": None})
        self._tell("PAYMENT.CAPTURE.REFUNDED", part | {"links": [_up(taken)]})
        return part

    def reverse(self, order_id: str) -> None:
        """PayPal takes back what was taken."""
        (taken,) = self._payments(self.orders[order_id])["captures"]
        self._tell("PAYMENT.CAPTURE.REVERSED", {"id": "REV-1", "amount": taken["amount"], "links": [_up(taken)]})

    def dispute(self, order_id: str, kind: str, outcome: str | None = None) -> None:
        """The buyer complains at PayPal; `kind` and outcome as PayPal words them."""
        (taken,) = self._payments(self.orders[order_id])["captures"]
        told = {"dispute_id": "PP-D-1", "dispute_amount": taken["amount"], "status": "RESOLVED" if outcome else "OPEN",
                "disputed_transactions": [{"seller_transaction_id": taken["id"]}]}  # fmt: skip
        if outcome:
            told["dispute_outcome"] = {"outcome_code": outcome}
        self._tell(f"CUSTOMER.DISPUTE.{kind}", told)

    def taken(self) -> int:
        """What it has of everybody's, in cents."""
        cents = 0
        for order in self.orders.values():
            payments = self._payments(order)
            cents += sum(_cents(c["amount"]) for c in payments.get("captures", ()) if c["status"] != "DECLINED")
            cents -= sum(_cents(r["amount"]) for r in payments.get("refunds", ()))
        return cents

    def forget_keys(self) -> None:
        """Weeks have gone by."""
        self.answers.clear()

    def sign(self, body: bytes, at: datetime) -> dict[str, str]:
        """The headers of a webhook with this body."""
        moment = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        number = f"T-{next(self._numbers)}"
        return {
            "PayPal-Auth-Algo": "SHA256withRSA",
            "PayPal-Cert-Url": CERTIFICATE,
            "PayPal-Transmission-Id": number,
            "PayPal-Transmission-Time": moment,
            "PayPal-Transmission-Sig": _mac(number, moment, body),
            "Content-Type": "application/json",
        }

    async def deliver(
        self, shop: httpx.AsyncClient, now: datetime, *, copies: int = 1, dice: random.Random | None = None
    ) -> list[int]:
        """Sends every event to the shop, signed, `copies` times, shuffled by the dice; answers the statuses."""
        letters = [json.dumps(event, indent=1).encode() for event in self.events] * copies
        self.events = []
        if dice is not None:
            dice.shuffle(letters)
        posts = (shop.post("/webhooks/paypal", content=body, headers=self.sign(body, now)) for body in letters)
        return [answer.status_code for answer in await asyncio.gather(*posts)]

    # Its routes

    async def _sign_in(self, request: Request) -> Response:
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {basic}":
            return JSONResponse({"error": "invalid_client"}, 401)
        await asyncio.sleep(self.sign_in_seconds)
        self.tokens_given += 1
        self.tokens.add(f"A21-{self.tokens_given}")
        return JSONResponse({"access_token": f"A21-{self.tokens_given}", "expires_in": self.token_seconds})

    def _answered(self, work: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
                return JSONResponse({"error": "invalid_token"}, 401)
            body = await request.body()
            key = f"{request.url.path} {request.headers.get('paypal-request-id')}"
            if "paypal-request-id" in request.headers and key in self.answers:
                status, said = self.answers[key]
            else:
                try:
                    status, said = work(request, body)
                except Refused as refused:
                    status, said = refused.status, refused.body
                if status < 300:
                    self.answers[key] = (status, json.loads(json.dumps(said)))
            await asyncio.sleep(self.latency)
            if self.failing:
                return JSONResponse({"name": "INTERNAL_SERVER_ERROR"}, 500)
            return Response(status_code=204) if status == 204 else JSONResponse(said, status)

        return endpoint

    def _create(self, request: Request, body: bytes) -> tuple[int, Json]:
        asked = json.loads(body)
        unit = asked["purchase_units"][0]
        context = asked["payment_source"]["paypal"]["experience_context"]
        if not (request.headers.get("paypal-request-id") and unit["amount"]["value"] and context["return_url"]):
            raise Refused(400, "MISSING_REQUIRED_PARAMETER")
        number = f"ORDER-{next(self._numbers)}"
        links = [{"rel": "payer-action", "href": f"https://www.paypal.com/checkoutnow?token={number}", "method": "GET"}]
        order = {"id": number, "intent": asked["intent"], "status": "PAYER_ACTION_REQUIRED",
                 "purchase_units": [{**unit, "payments": {}}], "links": links}  # fmt: skip
        self.orders[number] = order
        return 201, order

    def _get(self, request: Request, _body: bytes) -> tuple[int, Json]:
        order = self._order(request)
        if self.hiding and "captures" in self._payments(order):
            raise Refused(429, "RATE_LIMIT_REACHED")
        return 200, order

    def _get_capture(self, request: Request, _body: bytes) -> tuple[int, Json]:
        return 200, self._part(request, "captures")[1]

    def _take(self, request: Request, _body: bytes) -> tuple[int, Json]:
        order = self._agreed(request, "CAPTURE")
        self._add(order, "captures", "COMPLETED", "PAYMENT.CAPTURE.COMPLETED")
        return 201, order

    def _hold(self, request: Request, _body: bytes) -> tuple[int, Json]:
        order = self._agreed(request, "AUTHORIZE")
        self._add(order, "authorizations", "CREATED", "PAYMENT.AUTHORIZATION.CREATED")
        return 201, order

    def _agreed(self, request: Request, intent: str) -> Json:
        order = self._order(request)
        if order["status"] == "COMPLETED":
            raise Refused(422, "ORDER_ALREADY_CAPTURED")
        if order["status"] != "APPROVED" or order["intent"] != intent:
            raise Refused(422, "ORDER_NOT_APPROVED")
        if self.declining:
            raise Refused(422, "INSTRUMENT_DECLINED")
        order["status"] = "COMPLETED"
        return order

    def _capture(self, request: Request, _body: bytes) -> tuple[int, Json]:
        order, held = self._part(request, "authorizations")
        if held["status"] != "CREATED":
            raise Refused(422, "AUTHORIZATION_ALREADY_CAPTURED")
        if self.declining:
            return 201, self._add(order, "captures", "DECLINED", "PAYMENT.CAPTURE.DECLINED")
        held["status"] = "CAPTURED"
        if self.slow:
            return 201, self._add(order, "captures", "PENDING", "PAYMENT.CAPTURE.PENDING")
        return 201, self._add(order, "captures", "COMPLETED", "PAYMENT.CAPTURE.COMPLETED")

    def _void(self, request: Request, _body: bytes) -> tuple[int, Json]:
        _, held = self._part(request, "authorizations")
        if held["status"] != "CREATED":
            raise Refused(422, "PREVIOUSLY_CAPTURED")
        held["status"] = "VOIDED"
        self._tell("PAYMENT.AUTHORIZATION.VOIDED", held)
        return 204, {}

    def _refund(self, request: Request, body: bytes) -> tuple[int, Json]:
        order, taken = self._part(request, "captures")
        asked = json.loads(body)
        back = sum(_cents(r["amount"]) for r in self._payments(order).get("refunds", ()))
        if _cents(asked["amount"]) + back > _cents(taken["amount"]):
            raise Refused(422, "REFUND_AMOUNT_EXCEEDED")
        is_all = _cents(asked["amount"]) + back == _cents(taken["amount"])
        taken["status"] = "REFUNDED" if is_all else "PARTIALLY_REFUNDED"
        return 201, self._add(order, "refunds", "COMPLETED", "PAYMENT.CAPTURE.REFUNDED", asked)

    def _verify(self, _request: Request, body: bytes) -> tuple[int, Json]:
        asked = json.loads(body)
        raw = body[body.index(b'"webhook_event":') + len(b'"webhook_event":') : -1]
        good = asked["webhook_id"] == WEBHOOK and hmac.compare_digest(
            asked["transmission_sig"], _mac(asked["transmission_id"], asked["transmission_time"], raw)
        )
        return 200, {"verification_status": "SUCCESS" if good else "FAILURE"}

    def _report(self, request: Request, _body: bytes) -> tuple[int, Json]:
        since, until = (datetime.fromisoformat(request.query_params[n]) for n in ("start_date", "end_date"))
        rows = []
        for order in self.orders.values():
            payments = self._payments(order)
            for kind, code, sign in (
                ("captures", "T0006", ""),
                ("refunds", self.taken_back_as, "-"),
                ("authorizations", "T1300", ""),
            ):
                rows += [
                    {
                        # V means that a successful transaction was fully reversed and its funds refunded.
                        "transaction_status": "V" if part["status"] == "REFUNDED" else "S",
                        "transaction_id": part["id"], "transaction_event_code": code,
                        "transaction_initiation_date": part["create_time"], "custom_field": part.get("custom_id"),
                        "paypal_reference_id": part.get("parent"),
                        "transaction_amount": part["amount"] | {"value": sign + part["amount"]["value"]},
                    }
                    for part in payments.get(kind, ())
                ]  # fmt: skip
        rows += [
            {
                "transaction_status": "S", "transaction_id": code, "transaction_event_code": code,
                "transaction_initiation_date": datetime.now(UTC).isoformat(timespec="seconds"),
                "transaction_amount": {"currency_code": "GBP", "value": value},
            }
            for code, value in self.moved
        ]  # fmt: skip
        rows = [
            {"transaction_info": row}
            for row in rows
            if since <= datetime.fromisoformat(row["transaction_initiation_date"]) <= until
        ]
        size, page = int(request.query_params["page_size"]), int(request.query_params["page"])
        shown = rows[(page - 1) * size : page * size]
        return 200, {"transaction_details": shown, "total_pages": max(1, -(-len(rows) // size))}

    # What happens inside

    def _order(self, request: Request) -> Json:
        if request.path_params["id"] not in self.orders:
            raise Refused(404, "INVALID_RESOURCE_ID")
        return self.orders[request.path_params["id"]]

    def _part(self, request: Request, kind: str) -> tuple[Json, Json]:
        for order in self.orders.values():
            for part in self._payments(order).get(kind, ()):
                if part["id"] == request.path_params["id"]:
                    return order, part
        raise Refused(404, "INVALID_RESOURCE_ID")

    def _payments(self, order: Json) -> Json:
        payments: Json = order["purchase_units"][0]["payments"]
        return payments

    def _add(self, order: Json, kind: str, status: str, event: str, asked: Json | None = None) -> Json:
        unit = order["purchase_units"][0]
        part = {"id": f"{kind[:3].upper()}-{next(self._numbers)}", "status": status, "amount": unit["amount"],
                "custom_id": unit["custom_id"], "create_time": datetime.now(UTC).isoformat()}  # fmt: skip
        if asked is not None:
            part |= {"amount": asked["amount"], "custom_id": asked["custom_id"], "parent": order["id"]}
        self._payments(order).setdefault(kind, []).append(part)
        if event:
            self._tell(event, part)
        return part

    def _tell(self, kind: str, resource: Json) -> None:
        event = {"id": f"WH-EV-{next(self._numbers)}", "event_type": kind, "resource": json.loads(json.dumps(resource))}
        self.events.append(event)


def _up(taken: Json) -> Json:
    return {"rel": "up", "href": f"https://api.paypal.com/v2/payments/captures/{taken['id']}"}


def _cents(amount: Json) -> int:
    return round(float(amount["value"]) * 100)


def _mac(number: str, moment: str, body: bytes) -> str:
    """What stands for PayPal's certificate: nobody else can make it."""
    return hmac.new(b"PayPal's own key", f"{number}|{moment}|{WEBHOOK}|".encode() + body, hashlib.sha256).hexdigest()
