"""API keys: shown once, good within their scopes, gone at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from conftest import api_of, client_of
from floor import Floor, Json, Route, made, routes
from quartet.access.model import OPEN, PERSONAL, ROOMS, SCOPES, needed_scope
from quartet.gateway import auth
from quartet.kernel.clock import FixedClock
from quartet.kernel.errors import Forbidden
from quartet.stores import open_stores
from quartet.web.dependencies import Shop

ALL = sorted(SCOPES)


async def _new_key(floor: Floor, *scopes: str, **more: Any) -> Json:
    body = {"name": "till", "scopes": list(scopes) or ALL} | more
    return await made(floor.admin.post("/api-keys", json=body))


def _bearer(key: Json) -> dict[str, str]:
    return {"Authorization": f"Bearer {key['key']}"}


async def test_a_key_is_shown_once_and_kept_as_a_hash(floor: Floor) -> None:
    key = await _new_key(floor, "orders:read")
    assert key["key"].startswith(key["prefix"])
    (listed,) = (await made(floor.admin.get("/api-keys")))["items"]
    assert listed == {name: value for name, value in key.items() if name != "key"}
    assert listed["createdBy"] == str(floor.admin.user_id)  # type: ignore[attr-defined]
    async with floor.shop.stores.pg.read() as read:
        everything = await read.fetchval(
            "SELECT string_agg(k::text, '') || (SELECT string_agg(a::text, '') FROM audit_log a) FROM api_keys k"
        )
    assert key["key"] not in everything


def test_every_route_has_its_place_among_the_scopes(app: FastAPI) -> None:
    """A new room's first word goes into one of the three; else every key is kept out of it."""
    words = {path.split("/")[1] for (_, path), _ in routes(app)} | {"docs", "openapi.json"}
    assert words == ROOMS.keys() | OPEN | PERSONAL
    assert not (ROOMS.keys() & OPEN) | (ROOMS.keys() & PERSONAL) | (OPEN & PERSONAL)


def test_an_address_that_nobody_knows_is_for_no_key() -> None:
    for path in ("", "/", "nowhere", "/attic", "/ORDERS", "//orders", "/%6frders", "/cart", "/users/me/../x"):
        with pytest.raises(Forbidden):
            needed_scope("GET", path)


OPENED: list[tuple[Route, str]] = [
    (("GET", "/orders"), "orders:read"),
    (("GET", "/inventory"), "inventory:read"),
    (("POST", "/inventory/NO-SUCH/movements"), "inventory:write"),
    (("PUT", "/categories/new"), "catalog:write"),
    (("GET", "/sync"), "sync:read"),
    (("GET", "/users"), "users:read"),
    (("GET", "/analytics/inventory"), "analytics:read"),
]


async def test_a_key_opens_what_its_scope_says_and_nothing_else(floor: Floor) -> None:
    bodies = {"POST": {"delta": 1, "reason": "x"}, "PUT": {"name": "New"}}
    for route, scope in OPENED:
        body = bodies.get(route[0])
        without = await _new_key(floor, *(other for other in ALL if other != scope))
        refused = await floor.guest.request(*route, headers=_bearer(without), json=body)
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/forbidden")
        assert refused.json()["scope"] == scope
        assert scope in refused.json()["detail"]
        allowed = await floor.guest.request(*route, headers=_bearer(await _new_key(floor, scope)), json=body)
        assert allowed.status_code in (200, 201, 404), allowed.text


async def test_a_key_is_no_shopper_and_no_admin(floor: Floor) -> None:
    headers, sku = _bearer(await _new_key(floor)), await floor.sku()
    order = {"items": [{"sku": sku, "qty": 1}]}
    payment = {"orderId": await floor.order(), "provider": "sandbox", "paymentMethod": "card_ok"}
    for method, path, body in (
        ("GET", "/cart", None), ("POST", "/cart/items", {"sku": sku, "qty": 1}), ("DELETE", "/cart", None),
        ("GET", "/users/me", None), ("PATCH", "/users/me", {"displayName": "Robot"}), ("POST", "/orders", order),
        ("POST", "/payments", payment),  ("DELETE", "/sessions/current", None), ("GET", "/leaderboard/me", None),
        ("GET", "/api-keys", None), ("POST", "/api-keys", {"name": "more", "scopes": ["orders:read"]}),
        ("GET", "/audit-log", None), ("POST", "/sync/reindex", None), ("GET", "/users/me/sessions", None),
        ("PATCH", f"/users/{floor.shopper.user_id}/roles", {"roles": ["admin"]}),  # type: ignore[attr-defined]
        ("POST", f"/products/{sku}/reviews", {"rating": 5, "title": "Mine", "body": "Buy it."}),
        ("HEAD", "/cart", None), ("POST", "/orders/claim", {}),
    ):  # fmt: skip
        answer = await floor.guest.request(method, path, headers=headers, json=body)
        assert answer.status_code == 403, (method, path, answer.text)


async def test_what_a_key_does_is_written_down_under_its_name(floor: Floor) -> None:
    key = await _new_key(floor, "inventory:write")
    sku = await floor.sku()
    body = {"delta": 1, "reason": "received"}
    moved = await made(floor.guest.post(f"/inventory/{sku}/movements", json=body, headers=_bearer(key)))
    assert moved["by"] == f"key:{key['id']}"
    found = await made(floor.admin.get("/audit-log", params={"actor": f"key:{key['id']}"}))
    assert [entry["action"] for entry in found["items"]] == ["inventory.move"]


async def test_a_revoked_key_is_refused_at_once_in_every_process(floor: Floor) -> None:
    headers = _bearer(key := await _new_key(floor, "orders:read"))
    async with _process(floor.shop) as other:
        for client in (floor.guest, other):
            assert (await client.get("/orders", headers=headers)).status_code == 200
        for _ in range(2):
            assert (await floor.admin.delete(f"/api-keys/{key['id']}")).status_code == 204
        for client in (floor.guest, other):
            answer = await client.get("/orders", headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthenticated")
    (listed,) = (await made(floor.admin.get("/api-keys")))["items"]
    assert listed["revokedAt"]
    found = await made(floor.admin.get("/audit-log", params={"action": "api-key.revoke"}))
    assert len(found["items"]) == 1
    assert (await floor.admin.delete(f"/api-keys/{floor.admin.user_id}")).status_code == 404  # type: ignore[attr-defined]


async def test_without_redis_a_revoked_key_lives_on_for_seconds_only(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "CACHE_SECONDS", 0.3)
    away = floor.shop.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    headers = _bearer(key := await _new_key(floor, "orders:read"))
    async with open_stores(away) as stores, _process(Shop(away, stores)) as other:
        assert (await other.get("/orders", headers=headers)).status_code == 200
        assert (await floor.admin.delete(f"/api-keys/{key['id']}")).status_code == 204
        await asyncio.sleep(0.35)
        assert (await other.get("/orders", headers=headers)).status_code == 401


async def test_a_key_ends_when_it_says(floor: Floor) -> None:
    clock = FixedClock(datetime.now(UTC))
    floor.app.state.shop = replace(floor.shop, clock=clock)
    headers = _bearer(await _new_key(floor, "orders:read", expiresAt=(clock.now() + timedelta(seconds=60)).isoformat()))
    assert (await floor.guest.get("/orders", headers=headers)).status_code == 200
    clock.advance(60)
    assert (await floor.guest.get("/orders", headers=headers)).status_code == 401


async def test_what_a_key_gives_back_is_said_to_be_its_deed(floor: Floor) -> None:
    key = await _new_key(floor, "orders:write")
    paid = await floor.payment()
    back = floor.guest.post(f"/orders/{paid['orderId']}/refunds", json={"restock": True}, headers=_bearer(key))
    await made(back)
    seen = await made(floor.shopper.get(f"/orders/{paid['orderId']}"))
    ledger = await made(floor.staff.get(f"/inventory/{seen['items'][0]['sku']}/movements?limit=1"))
    deeds = (seen["history"][-1], seen["refunds"][0], ledger["items"][0])
    assert [deed["by"] for deed in deeds] == [f"key:{key['id']}"] * 3


async def test_the_last_use_is_noted_once_a_minute_and_by_itself(floor: Floor) -> None:
    clock = FixedClock(datetime.now(UTC))
    floor.app.state.shop = replace(floor.shop, clock=clock)
    headers = _bearer(await _new_key(floor, "orders:read"))
    noted = []
    for seconds in (0, 30, 31):
        clock.advance(seconds)
        async with _process(floor.app.state.shop) as process:  # which remembers nothing
            assert (await process.get("/orders", headers=headers)).status_code == 200
        with suppress(TimeoutError):
            await asyncio.wait_for(_noted(floor, clock.now()), 0.5 if seconds == 30 else 10)
        (key,) = (await made(floor.admin.get("/api-keys")))["items"]
        noted.append(datetime.fromisoformat(key["lastUsedAt"]))
    assert noted[0] == noted[1] == clock.now() - timedelta(seconds=61)
    assert noted[2] == clock.now()


async def _noted(floor: Floor, at: datetime) -> None:
    while True:
        (key,) = (await made(floor.admin.get("/api-keys")))["items"]
        if key["lastUsedAt"] and datetime.fromisoformat(key["lastUsedAt"]) == at:
            return
        await asyncio.sleep(0.02)


async def test_who_guesses_keys_is_held_up(floor: Floor) -> None:
    few = floor.shop.settings.model_copy(update={"limit_auth": 5})
    async with _process(replace(floor.shop, settings=few)) as client:
        answers = [
            (await client.get("/orders", headers={"Authorization": f"Bearer qk_{n}"})).status_code for n in range(8)
        ]
    assert answers == [401] * 5 + [429] * 3


async def test_a_key_has_limits_of_its_own(floor: Floor) -> None:
    few = floor.shop.settings.model_copy(update={"limit_browse": 3})
    async with _process(replace(floor.shop, settings=few)) as client:
        first, second = _bearer(await _new_key(floor)), _bearer(await _new_key(floor))
        for headers in (first, second):
            answers = [(await client.get("/orders", headers=headers)).status_code for _ in range(4)]
            assert answers == [200] * 3 + [429]


SENSELESS: list[tuple[Json, str]] = [
    ({"name": "x", "scopes": ["orders:eat"]}, "scopes"),
    ({"name": "x", "scopes": ["admin"]}, "scopes"),
    ({"name": "x", "scopes": []}, "scopes"),
    ({"name": "", "scopes": ["orders:read"]}, "name"),
    ({"name": "x", "scopes": ["orders:read"], "expiresAt": "2001-01-01T00:00:00Z"}, "expiresAt"),
    ({"name": "x", "scopes": ["orders:read"], "expiresAt": 4102444800}, "expiresAt"),
    ({"name": "x", "scopes": ["orders:read"], "expiresAt": "9999-12-31T23:59:59-01:00"}, "expiresAt"),
    ({"name": "x", "scopes": ["orders:read"], "keyHash": "00"}, "keyHash"),
]


async def test_a_key_that_makes_no_sense_is_not_made(floor: Floor) -> None:
    for body, field in SENSELESS:
        answer = await floor.admin.post("/api-keys", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


@asynccontextmanager
async def _process(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    """Another process of the same shop: it remembers nothing of what this one does."""
    async with client_of(api_of(shop)) as client:
        yield client
