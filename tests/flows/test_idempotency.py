"""`Idempotency-Key` on every POST that moves money, stock or an order: the first answer again, and one effect."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response
from till import Till, order, pay

from quartet.checkout import recover
from quartet.kernel.errors import Conflict, RequestInProgress
from quartet.kernel.settings import Settings
from quartet.payments import open_providers
from quartet.web import idempotency
from quartet.web.dependencies import Shop

Json = dict[str, Any]

# Why a POST needs no key: repeated, it does what it did before, or nothing.
WITHOUT = {
    "/api-keys": "a key too many can be taken back",
    "/email-verifications": "a new link replaces the old one",
    "/email-verifications/{token}": "the link is spent",
    "/leaderboard/rebuild": "of the same orders the same board",
    "/leaderboard/xp": "the body names the event that counts once",
    "/orders/claim": "nothing is left to claim",
    "/password-resets": "a new link replaces the old one",
    "/password-resets/{token}": "the link is spent",
    "/payments/{id}/refresh": "only asks the provider",
    "/payments/{id}/settle": "what is settled stays so",
    "/products": "the SKU is taken",
    "/products/{sku}/reviews": "one review a product",
    "/search/rules": "a new rule for a query replaces the old one",
    "/search/synonyms": "words too many can be taken away",
    "/sessions": "a session too many ends by itself",
    "/sessions/refresh": "the token is spent",
    "/sync/dead-letters/replay": "events are carried at least once anyway",
    "/sync/reindex": "one rebuild is asked for",
    "/users": "the address is taken",
    "/users/me/addresses": "an address too many can be taken away",
    "/users/me/email": "a new link replaces the old one",
    "/users/me/password": "the current password is another",
    "/webhooks/{provider}": "the event's own id counts once",
    "/webhook-endpoints": "an endpoint too many can be taken away",
    "/webhook-endpoints/{id}/deliveries/{deliveryId}/redeliver": "receivers know an event by its id",
    "/webhook-endpoints/{id}/rotate-secret": "a new secret replaces the old one",
    "/webhook-endpoints/{id}/test": "a trial, and says so",
    "/cart/items": "a cart is neither money nor stock",
}


def posts(app: FastAPI) -> dict[str, bool]:
    """Every POST of the OpenAPI document, and whether it takes a key."""
    return {
        path: any(p["name"].lower() == "idempotency-key" for p in operations["post"].get("parameters", ()))
        for path, operations in app.openapi()["paths"].items()
        if "post" in operations
    }


def test_every_post_takes_a_key_or_says_why_it_needs_none(app: FastAPI) -> None:
    found = posts(app)
    assert {path for path, keyed in found.items() if keyed} == set(CASES)
    assert {path for path, keyed in found.items() if not keyed} <= set(WITHOUT)
    assert not set(CASES) & set(WITHOUT)


@dataclass(frozen=True)
class Desk:
    """People and goods."""

    shopper: httpx.AsyncClient
    staff: httpx.AsyncClient
    till: Till


@dataclass(frozen=True)
class Ready:
    """A request that may be sent: by whom, where, with what, and how often it has had its effect."""

    who: httpx.AsyncClient
    path: str
    body: Json
    effects: str
    about: tuple[Any, ...] = ()


Prepare = Callable[[Desk], Awaitable[Ready]]


async def _movement(at: Desk) -> Ready:
    return Ready(
        at.staff, "/inventory/MUG/movements", {"delta": 5, "reason": "received"},
        "SELECT count(*) FROM inventory_movements WHERE reason = 'received'",
    )  # fmt: skip


async def _order(at: Desk) -> Ready:
    body = {"items": [{"sku": "MUG", "qty": 1}], "metadata": {"b": 1, "a": 2}}
    return Ready(at.shopper, "/orders", body, "SELECT count(*) FROM orders WHERE metadata <> '{}'")


HISTORY = "SELECT count(*) FROM order_history WHERE order_id = $1 AND to_status = $2"


async def _cancel(at: Desk) -> Ready:
    made = await _paid(at)
    return Ready(at.shopper, f"/orders/{made['id']}/cancel", {}, HISTORY, (made["id"], "cancelled"))


async def _ship(at: Desk) -> Ready:
    made = await _paid(at)
    return Ready(at.staff, f"/orders/{made['id']}/ship", {}, HISTORY, (made["id"], "shipped"))


async def _deliver(at: Desk) -> Ready:
    made = await _paid(at)
    assert (await at.staff.post(f"/orders/{made['id']}/ship")).status_code == 200
    return Ready(at.staff, f"/orders/{made['id']}/deliver", {}, HISTORY, (made["id"], "delivered"))


async def _refund(at: Desk) -> Ready:
    made = await _paid(at)
    return Ready(
        at.staff, f"/orders/{made['id']}/refunds", {"amountCents": 7, "reason": "scratched"},
        """SELECT count(*) FROM sandbox.refunds r JOIN payments p ON p.id::text = r.charge WHERE p.order_id = $1""",
        (made["id"],),
    )  # fmt: skip


async def _payment(at: Desk) -> Ready:
    made = await order(at.shopper, ("MUG", 1))
    body = {"orderId": made["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    return Ready(
        at.shopper, "/payments", body,
        "SELECT count(*) FROM sandbox.charges c JOIN payments p ON p.id::text = c.reference WHERE p.order_id = $1",
        (made["id"],),
    )  # fmt: skip


async def _capture(at: Desk) -> Ready:
    made = await order(at.shopper, ("MUG", 1))
    paid = (await pay(at.shopper, made["id"])).json()
    assert paid["status"] == "authorized"
    return Ready(
        at.staff, f"/payments/{paid['id']}/capture", {},
        "SELECT count(*) FROM orders WHERE id = $1 AND captured_cents = total_cents", (made["id"],),
    )  # fmt: skip


async def _paid(at: Desk) -> Json:
    made = await order(at.shopper, ("MUG", 1))
    assert (await pay(at.shopper, made["id"])).status_code == 201
    return made


CASES: dict[str, Prepare] = {
    "/inventory/{sku}/movements": _movement,
    "/orders": _order,
    "/orders/{id}/cancel": _cancel,
    "/orders/{id}/deliver": _deliver,
    "/orders/{id}/refunds": _refund,
    "/orders/{id}/ship": _ship,
    "/payments": _payment,
    "/payments/{id}/capture": _capture,
}


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Money is only held where it is to be captured."""
    held = "capture" in request.node.name
    return settings.model_copy(update={"payment_capture": "manual"} if held else {})


@pytest.fixture
async def desk(shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient) -> Desk:
    till = Till(shop)
    await till.stock("MUG", 1000)
    return Desk(shopper, staff, till)


async def send(ready: Ready, key: str, **more: Any) -> httpx.Response:
    return await ready.who.post(ready.path, json=ready.body | more, headers={"Idempotency-Key": key})


async def effects(desk: Desk, ready: Ready) -> int:
    ((count,),) = [tuple(row.values()) for row in await desk.till.rows(ready.effects, *ready.about)]
    return int(count)


@pytest.mark.parametrize("route", CASES)
async def test_the_first_answer_comes_again_byte_for_byte(desk: Desk, route: str) -> None:
    ready = await CASES[route](desk)
    before = await effects(desk, ready)
    first = await send(ready, "key")
    assert first.is_success, first.text
    assert "idempotent-replayed" not in first.headers
    backwards = dict(reversed(ready.body.items()))
    for body in (ready.body, backwards):
        again = await ready.who.post(ready.path, json=body, headers={"Idempotency-Key": "key"})
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        for header in ("location", "content-type"):
            assert again.headers.get(header) == first.headers.get(header)
    assert await effects(desk, ready) == before + 1


@pytest.mark.parametrize("route", CASES)
async def test_the_same_key_for_something_else_is_refused(desk: Desk, route: str) -> None:
    ready, other = await CASES[route](desk), await CASES[route](desk)
    assert (await send(ready, "key")).is_success
    if other.path == ready.path and other.body == ready.body:
        other = Ready(ready.who, ready.path, ready.body | {"note": "x"} if "delta" in ready.body else {}, ready.effects)
    before = await effects(desk, other)
    told = await send(other, "key")
    assert (told.status_code, told.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert await effects(desk, other) == before


@pytest.mark.parametrize("route", CASES)
async def test_twenty_at_once_have_one_effect(desk: Desk, route: str) -> None:
    for n in range(3):
        ready = await CASES[route](desk)
        before = await effects(desk, ready)
        answers = await asyncio.gather(*(send(ready, f"key {n}") for _ in range(20)))
        good = [answer for answer in answers if answer.is_success]
        assert len({answer.content for answer in good}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in good) == 1
        assert {a.json()["type"] for a in answers if not a.is_success} <= {"/problems/request-in-progress"}
        assert await effects(desk, ready) == before + 1


@pytest.mark.parametrize("route", CASES)
async def test_while_the_first_is_at_work_whoever_repeats_it_is_told_so_and_does_not_wait(
    desk: Desk, shop: Shop, route: str
) -> None:
    ready = await CASES[route](desk)
    before = await effects(desk, ready)
    key = idempotency.RequestKey(f"user:{ready.who.user_id}", "key", b"")  # type: ignore[attr-defined]
    async with idempotency.transaction(shop, key):
        told = await send(ready, "key")
        assert (told.status_code, told.json()["type"]) == (409, "/problems/request-in-progress")
        assert await effects(desk, ready) == before
    assert (await send(ready, "key")).is_success
    assert await effects(desk, ready) == before + 1


async def test_two_keys_of_one_request_are_refused(desk: Desk) -> None:
    async def place(*keys: str) -> httpx.Response:
        lines = [("Idempotency-Key", key) for key in keys]
        return await desk.shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": 1}]}, headers=lines)

    two = await place("one", "two")
    assert (two.status_code, two.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    assert (await place("one", "one")).json()["id"] == (await place("one")).json()["id"]


async def test_a_refusal_does_not_take_the_place_of_an_answer_that_came_meanwhile(shop: Shop) -> None:
    key = idempotency.RequestKey("user:somebody", "key", b"what was asked")
    with pytest.raises(RequestInProgress):
        async with idempotency.unclaimed(shop, key, once=True):
            async with idempotency.transaction(shop, key) as slot:
                await slot.keep(Response(b"paid", 201))
            raise Conflict("it is paid already")
    async with idempotency.transaction(shop, key) as slot:
        assert slot.replay is not None
        assert (slot.replay.status_code, slot.replay.body) == (201, b"paid")


@pytest.mark.parametrize("route", CASES)
async def test_a_key_is_swept_after_a_day_and_not_before(desk: Desk, shop: Shop, route: str) -> None:
    ready = await CASES[route](desk)
    assert (await send(ready, "key")).is_success
    age = "UPDATE idempotency_keys SET created_at = now() - $1::interval RETURNING key"
    await desk.till.rows(age, timedelta(hours=23, minutes=59))
    providers = open_providers(shop.settings, shop.stores.pg)
    await recover(shop, providers)
    assert len(await desk.till.rows("SELECT FROM idempotency_keys WHERE key = 'key'")) == 1
    await desk.till.rows(age, timedelta(hours=24, seconds=1))
    await recover(shop, providers)
    assert await desk.till.rows("SELECT FROM idempotency_keys WHERE key = 'key'") == []
