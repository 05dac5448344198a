"""Who may do what, by every route there is: a new one fails here until somebody says who may use it."""

import re
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from conftest import SignIn, client_of
from floor import Floor, Json, Route, made, routes
from quartet.kernel.settings import Settings

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# The column "who" of docs/api.md.
WHO: dict[str, str] = {
    "anyone": """
        GET /cart | DELETE /cart | POST /cart/items | PUT /cart/items/{sku} | DELETE /cart/items/{sku}
        GET /categories | GET /categories/{slug} | GET /products | GET /products/{sku} | GET /products/{sku}/reviews
        GET /bestsellers | GET /products/{sku}/related | GET /search | GET /search/suggest
        GET /leaderboard | POST /orders
        POST /users | POST /sessions | POST /sessions/refresh | POST /password-resets | POST /password-resets/{token}
        POST /email-verifications/{token} | POST /webhooks/{provider}
        GET /docs | GET /health/live | GET /health/ready | GET /images/{name} | GET /metrics | GET /problems/{slug}
    """,
    "buyer": """
        GET /orders/{id} | POST /orders/{id}/cancel
        POST /payments | GET /payments/{id} | POST /payments/{id}/refresh
    """,
    "user": """
        GET /users/me | PATCH /users/me | DELETE /users/me | GET /users/me/export
        POST /users/me/password | POST /users/me/email
        GET /users/me/sessions | DELETE /users/me/sessions | DELETE /users/me/sessions/{id} | DELETE /sessions/current
        GET /users/me/addresses | POST /users/me/addresses
        GET /users/me/addresses/{id} | PATCH /users/me/addresses/{id} | DELETE /users/me/addresses/{id}
        POST /email-verifications | GET /orders | POST /orders/claim | POST /products/{sku}/reviews
        GET /leaderboard/me
    """,
    "staff": """
        GET /analytics/inventory | GET /analytics/revenue | GET /analytics/search
        GET /inventory | GET /inventory/{sku} | PUT /inventory/{sku}
        POST /inventory/{sku}/movements | GET /inventory/{sku}/movements | POST /orders/{id}/ship
        POST /orders/{id}/deliver | POST /orders/{id}/refunds | POST /payments/{id}/capture
        POST /payments/{id}/settle | POST /leaderboard/xp
        POST /products | PUT /products/{sku} | PATCH /products/{sku} | DELETE /products/{sku}
        PUT /categories/{slug} | DELETE /categories/{slug} | GET /sync | GET /users
        GET /search/synonyms | POST /search/synonyms | DELETE /search/synonyms/{id} | GET /search/rules
        POST /search/rules | DELETE /search/rules/{id} | GET /search/ranking | PUT /search/ranking
        GET /webhook-endpoints | POST /webhook-endpoints | GET /webhook-endpoints/{id} | PATCH /webhook-endpoints/{id}
        DELETE /webhook-endpoints/{id} | POST /webhook-endpoints/{id}/rotate-secret | POST /webhook-endpoints/{id}/test
        GET /webhook-endpoints/{id}/deliveries | POST /webhook-endpoints/{id}/deliveries/{deliveryId}/redeliver
    """,
    "admin": """
        POST /sync/reindex | POST /sync/dead-letters/replay | DELETE /sync/dead-letters/{id} | POST /leaderboard/rebuild
        POST /api-keys | GET /api-keys | DELETE /api-keys/{id} | GET /audit-log | PATCH /users/{id}/roles
    """,
}
# Open to every API key, whatever its scopes.
FOR_EVERY_KEY = {"/docs", "/health/live", "/health/ready", "/images/{name}", "/metrics", "/problems/{slug}"}
FOR_EVERY_KEY |= {"/webhooks/{provider}"}
RANKS = ["guest", "user", "staff", "admin"]
# A buyer is a user, or a guest with the order's token, whom tests/flows/test_guests.py knows.
LEAST = {"anyone": "guest", "buyer": "user"}
# What a guest has to say of himself.
SAID = {("POST", "/orders"): {"email": "guest@example.com"}}


def _listed() -> dict[Route, str]:
    found: dict[Route, str] = {}
    for who, text in WHO.items():
        for line in re.split(r"[|\n]", text):
            if line.strip():
                method, path = line.split()
                found[method, path] = who
    return found


@pytest.fixture
def settings(settings: Settings) -> Settings:
    unlimited = {f"limit_{kind}": 10**9 for kind in ("browse", "search", "write", "auth", "pay")}
    return settings.model_copy(update=unlimited)


def test_every_route_says_who_may(app: FastAPI) -> None:
    """And means it: what its own dependencies ask for is what is written down."""
    assert dict(routes(app)) == _listed()


async def test_roles_open_what_they_should_and_nothing_else(floor: Floor, sign_in: SignIn) -> None:
    key = (await made(floor.admin.post("/api-keys", json={"name": "narrow", "scopes": ["sync:read"]})))["key"]
    documented, faults = floor.app.openapi()["paths"], []
    for (method, path), who in _listed().items():
        address = re.sub(r"\{\w+\}", lambda name: _nothing(name[0]), path)
        for rank, role in enumerate(RANKS):
            client = floor.guest if role == "guest" else await sign_in(*([role] if role != "user" else []))
            body = SAID.get((method, path), {}) if method in ("POST", "PUT", "PATCH") else None
            answer = await client.request(method, address, json=body)
            refused = _refused(answer)
            needed = RANKS.index(LEAST.get(who, who))
            expected = None if rank >= needed else 401 if role == "guest" else 403
            if refused != expected:
                faults.append(f"{method} {path} as {role}: {answer.status_code} {answer.text[:100]}")
        answer = await floor.guest.request(
            method, address, json={} if method in ("POST", "PUT", "PATCH") else None,
            headers={"Authorization": f"Bearer {key}"},
        )  # fmt: skip
        fits = path in FOR_EVERY_KEY or (method, path) == ("GET", "/sync")
        if _refused(answer) != (None if fits else 403):
            faults.append(f"{method} {path} by a key without the scope: {answer.status_code} {answer.text[:100]}")
        said = documented.get(path, {}).get(method.lower(), {"responses": {}})["responses"]
        if ("403" in said) != (path not in FOR_EVERY_KEY or method != "GET"):
            faults.append(f"{method} {path}: the OpenAPI document tells wrongly whether it may be forbidden")
    assert not faults, "\n".join(faults)


def _nothing(parameter: str) -> str:
    """An address of nothing, good to look at."""
    return {
        "{id}": str(uuid4()), "{name}": "none.svg", "{sku}": "NO-SUCH-SKU", "{slug}": "no-such-slug",
        "{provider}": "nobody", "{token}": "spent", "{deliveryId}": "1",
    }[parameter]  # fmt: skip


def _refused(answer: httpx.Response) -> int | None:
    """401 or 403 where it is for who asks, not for what is asked."""
    if answer.status_code not in (401, 403) or "problem" not in answer.headers["content-type"]:
        return None
    kinds = {"/problems/unauthenticated", "/problems/forbidden"}
    return answer.status_code if answer.json()["type"] in kinds else None


# Two users: what is one's is nothing to the other


async def _order(floor: Floor, a: httpx.AsyncClient) -> str:
    return await floor.order(a)


async def _payment(floor: Floor, a: httpx.AsyncClient) -> str:
    return str((await floor.payment(a))["id"])


async def _session(_floor: Floor, a: httpx.AsyncClient) -> str:
    """Not the one that is used here."""
    found = (await made(a.get("/users/me/sessions")))["items"]
    return str(next(session["id"] for session in found if not session["current"]))


async def _address(_floor: Floor, a: httpx.AsyncClient) -> str:
    body = {"name": "A", "line1": "1 Street", "city": "London", "postalCode": "N1 1AA", "country": "GB"}
    return str((await made(a.post("/users/me/addresses", json=body)))["id"])


Make = Callable[[Floor, httpx.AsyncClient], Awaitable[str]]
OWN: dict[Route, Make] = {
    ("GET", "/orders/{id}"): _order,
    ("POST", "/orders/{id}/cancel"): _order,
    ("GET", "/payments/{id}"): _payment,
    ("POST", "/payments/{id}/refresh"): _payment,
    ("DELETE", "/users/me/sessions/{id}"): _session,
    ("GET", "/users/me/addresses/{id}"): _address,
    ("PATCH", "/users/me/addresses/{id}"): _address,
    ("DELETE", "/users/me/addresses/{id}"): _address,
}
# Everybody's: goods, pictures, explanations; links whose last part is the permission itself; the caller's own cart.
NOBODYS = {
    "/cart/items/{sku}", "/categories/{slug}", "/email-verifications/{token}", "/images/{name}",
    "/password-resets/{token}", "/problems/{slug}", "/products/{sku}", "/products/{sku}/related",
    "/products/{sku}/reviews",
    "/webhooks/{provider}",
}  # fmt: skip


def test_every_route_with_an_id_says_whose_it_is(app: FastAPI) -> None:
    for (method, path), who in routes(app):
        if "{" in path and who in ("anyone", "buyer", "user"):
            assert ((method, path) in OWN) != (path in NOBODYS), (method, path)
    assert {path for _, path in OWN} | NOBODYS <= {path for (_, path), _ in routes(app)}


async def test_what_is_one_users_is_nothing_to_another(floor: Floor, sign_in: SignIn) -> None:
    b, known = await sign_in(), dict(routes(floor.app))
    faults: list[str] = []
    for path in dict.fromkeys(path for _, path in OWN):
        make = next(maker for (_, p), maker in OWN.items() if p == path)
        a, mine = await _somebody(floor)
        await made(floor.guest.post("/sessions", json=mine))  # another session, to be ended
        thing = await make(floor, a)
        for method in METHODS:
            body: Json | None = {} if method in ("POST", "PUT", "PATCH") else None
            own = (method, path) in OWN
            beneath = known.get((method, path))
            for who, client in (("another user", b), ("a guest", floor.guest)):
                answer = await client.request(method, path.replace("{id}", thing), json=body)
                nothing = await client.request(method, path.replace("{id}", unknown := str(uuid4())), json=body)
                may_not = (404 if own else 403) if who == "another user" else 401
                expected = may_not if own or beneath else 405
                if answer.status_code != expected:
                    faults.append(f"{method} {path} as {who}: {answer.status_code}, not {expected}: {answer.text[:90]}")
                if own and _told(answer, thing) != _told(nothing, unknown):
                    faults.append(f"{method} {path} as {who} tells what there is: {answer.text} {nothing.text}")
        for method in (m for m, p in OWN if p == path):
            answer = await a.request(method, path.replace("{id}", thing), json={} if method == "PATCH" else None)
            if not answer.is_success:
                faults.append(f"{method} {path} as its owner: {answer.status_code} {answer.text[:90]}")
        await a.aclose()
    assert not faults, "\n".join(faults)


async def test_nobody_pays_another_users_order(floor: Floor, sign_in: SignIn) -> None:
    """The one id of somebody's that travels in a body."""
    b, body = await sign_in(), {"provider": "sandbox", "paymentMethod": "card_ok"}
    order_id = await floor.order()
    for client, status in ((b, 404), (floor.guest, 401)):
        answer = await client.post("/payments", json=body | {"orderId": order_id})
        nothing = await client.post("/payments", json=body | {"orderId": (unknown := str(uuid4()))})
        assert answer.status_code == status
        assert _told(answer, order_id) == _told(nothing, unknown)
    listed = await made(b.get("/orders", params={"userId": str(floor.shopper.user_id)}))  # type: ignore[attr-defined]
    assert listed["items"] == []
    assert (await made(floor.shopper.get(f"/orders/{order_id}")))["status"] == "pending"


def _told(answer: httpx.Response, thing: str) -> Any:
    problem = answer.json()
    return {**problem, "instance": "", "detail": problem["detail"].replace(thing, "…")}


async def _somebody(floor: Floor) -> tuple[httpx.AsyncClient, Json]:
    """A shopper with a password: the client, and what signs in."""
    person = {"email": f"{uuid4().hex[:8]}@example.com", "password": "correct horse battery"}
    await made(floor.guest.post("/users", json=person))
    token = (await made(floor.guest.post("/sessions", json=person)))["accessToken"]
    return client_of(floor.app, {"Authorization": f"Bearer {token}"}), person
