"""Each store is killed, or freezes with its connections open: what needs it says 503 soon, everything else works, and
when it is back so is all of the shop, with no process restarted. On servers of this file's own."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from furnished import Json, furnish, new_token
from own_stores import STORES, OwnStores, own_stores, settings_over

from conftest import SECRET
from quartet import sync
from quartet.accounts import create_user
from quartet.cli import open_shop, prepare
from quartet.devstores import free_port
from quartet.gateway import create_app
from quartet.web.dependencies import Shop

# A frozen PostgreSQL is the slowest to be given up: a statement may take ten seconds (an analysis, a bulk load).
PATIENCE = {"postgres": 12.0, "mongodb": 7.0, "redis": 5.0, "search": 7.0}
RECOVERY_SECONDS = 10.0


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnStores]:
    """Servers that only these tests use."""
    async with own_stores(tmp_path_factory.mktemp("own")) as stores:
        yield stores


@dataclass(frozen=True)
class Street:
    """A shop on those servers, and the people in it."""

    shop: Shop
    guest: httpx.AsyncClient
    shopper: httpx.AsyncClient
    staff: httpx.AsyncClient

    async def ask(self, who: str, method: str, path: str, body: Json | None = None) -> httpx.Response:
        client: httpx.AsyncClient = getattr(self, who)
        return await client.request(method, path, json=body)


@pytest.fixture(scope="module")
async def street(stores: OwnStores, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Street]:
    """One shop for all of these tests, that opened before anything failed."""
    settings = settings_over(stores.urls, tmp_path_factory.mktemp("data"), SECRET)
    async with open_shop(settings) as shop:
        await prepare(shop)

        @asynccontextmanager
        async def opened() -> AsyncIterator[Shop]:
            yield shop

        app = create_app(opened)
        app.state.shop = shop
        people = {"guest": {}}
        for name, roles in (("shopper", ()), ("staff", ("staff",))):
            async with shop.stores.pg.tx() as tx:
                user = await create_user(tx, f"{name}@example.com", None, name, roles=roles)
            people[name] = {"Authorization": f"Bearer {await new_token(shop, user.id, *roles)}"}
        clients = {
            name: httpx.AsyncClient(
                transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://shop", headers=headers
            )
            for name, headers in people.items()
        }
        await furnish(clients["staff"], clients["shopper"])
        await sync.catch_up(shop)
        yield Street(shop, **clients)


@pytest.fixture(autouse=True)
async def mended(stores: OwnStores, street: Street) -> AsyncIterator[None]:
    """Every test finds all four at work, the product page cached, something in the cart and the new user known."""
    for request in (
        ("guest", "GET", "/products/MUG", None),
        ("shopper", "PUT", "/cart/items/TEE-red", {"qty": 1}),
        ("guest", "POST", "/users", {"email": "new@example.com", "password": "correct horse battery"}),
    ):
        await street.ask(*request)
    await street.shop.stores.redis.call("DEL", "product:TEE")
    yield
    await stores.mend()
    await _until_well(street)


async def _until_well(street: Street) -> float:
    """Seconds until every kind of request is answered again."""
    began = time.monotonic()
    async with asyncio.timeout(RECOVERY_SECONDS + 20):
        while True:
            answers = [await street.ask(*request) for request in WELL]
            if all(answer.is_success for answer in answers):
                return time.monotonic() - began
            if {answer.status_code for answer in answers} > {200, 503}:
                raise AssertionError([answer.text for answer in answers if not answer.is_success])
            if "is not there yet" in answers[-1].text:  # osmem keeps its indexes in memory: the worker makes it anew
                await prepare(street.shop)
                await sync.catch_up(street.shop)
            await asyncio.sleep(0.1)


ORDER: Json = {"items": [{"sku": "MUG", "qty": 1}]}
ITEM: Json = {"sku": "MUG", "qty": 1}
Request = tuple[str, str, str, Any]
WELL: list[Request] = [
    ("guest", "GET", "/products", None),
    ("shopper", "GET", "/orders", None),
    ("shopper", "GET", "/cart", None),
    ("guest", "GET", "/leaderboard", None),
    ("guest", "GET", "/search?q=mug", None),
]

# Which stores a request can't do without.
NEEDS: list[tuple[Request, set[str]]] = [
    (("guest", "GET", "/health/live", None), set()),
    (("guest", "GET", "/metrics", None), set()),
    (("guest", "GET", "/openapi.json", None), set()),
    (("guest", "GET", "/products/MUG", None), set()),  # cached, or read from MongoDB
    (("guest", "GET", "/products/TEE", None), {"mongodb"}),  # not cached
    (("guest", "GET", "/products", None), {"mongodb"}),
    (("guest", "GET", "/products?category=things&attrs.ram_gb.gte=1", None), {"mongodb"}),
    (("guest", "GET", "/categories", None), {"mongodb"}),
    (("guest", "GET", "/products/MUG/reviews", None), {"mongodb"}),
    (("staff", "PATCH", "/products/MUG", {"brand": "Clay & Co"}), {"mongodb"}),
    (("guest", "GET", "/search?q=mug", None), {"search"}),
    (("guest", "GET", "/search/suggest?q=po", None), {"search"}),
    (("guest", "GET", "/cart", None), {"redis"}),
    (("shopper", "GET", "/cart", None), {"redis", "postgres"}),
    (("shopper", "POST", "/cart/items", ITEM), {"redis", "postgres"}),
    (("shopper", "POST", "/orders", {}), {"redis", "postgres"}),
    (("shopper", "POST", "/orders", ORDER), {"postgres"}),
    (("shopper", "GET", "/orders", None), {"postgres"}),
    (("shopper", "GET", "/users/me", None), {"postgres"}),
    (("guest", "POST", "/users", {"email": "new@example.com", "password": "correct horse battery"}), {"postgres"}),
    (("guest", "POST", "/sessions", {"email": "x@example.com", "password": "correct horse battery"}), {"postgres"}),
    (("guest", "POST", "/password-resets", {"email": "shopper@example.com"}), {"postgres"}),
    (("staff", "GET", "/inventory", None), {"postgres"}),
    (("staff", "PUT", "/inventory/PEN", {"name": "A pen", "unitPriceCents": 100, "stock": 5}), {"postgres"}),
    (("staff", "POST", "/inventory/MUG/movements", {"delta": 1, "reason": "found"}), {"postgres"}),
    (("staff", "GET", "/analytics/revenue", None), {"postgres"}),
    (("staff", "GET", "/sync", None), {"postgres"}),
    (("guest", "GET", "/leaderboard", None), {"redis", "postgres"}),
    (("shopper", "GET", "/leaderboard/me", None), {"redis"}),
]
# What else these requests answer when nothing fails.
USUAL = {"/sessions": 401, "/users": 409, "/password-resets": 202}


def _well(request: Request, answer: httpx.Response) -> bool:
    return answer.is_success or answer.status_code == USUAL.get(request[2])


def _away(answer: httpx.Response, store: str) -> bool:
    said = answer.status_code == 503 and answer.headers["content-type"] == "application/problem+json"
    return said and int(answer.headers["Retry-After"]) > 0 and answer.json()["store"] == store


async def test_all_is_well_when_all_are_up(street: Street) -> None:
    for request, _ in NEEDS:
        answer = await street.ask(*request)
        assert _well(request, answer), (request, answer.text)
    health = await street.guest.get("/health/ready")
    assert health.json()["status"] == "ready"


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("store", STORES)
async def test_without_one_store_only_what_needs_it_stops(
    stores: OwnStores, street: Street, store: str, how: str
) -> None:
    await take_away(stores, store, how)
    faults, slowest = [], 0.0
    answers = await asyncio.gather(*(_timed(street, request) for request, _ in NEEDS))
    for (request, needs), (answer, seconds) in zip(NEEDS, answers, strict=True):
        slowest = max(slowest, seconds)
        right = _away(answer, store) if store in needs else _well(request, answer)
        if not right or seconds > PATIENCE[store]:
            faults.append(f"{request[:3]}: {answer.status_code} after {seconds:.1f} s {answer.text[:200]}")
    print(f"{store} {how}: slowest answer {slowest:.2f} s")
    assert not faults, "\n".join(faults)
    health = (await street.guest.get("/health/ready")).json()
    assert health["stores"][store]["status"] == "down"
    assert health["status"] == ("unavailable" if store in ("postgres", "mongodb") else "degraded")

    await stores.mend()
    seconds = await _until_well(street)
    print(f"{store} {how}: all well {seconds:.2f} s after it was back")
    assert seconds < RECOVERY_SECONDS


async def take_away(stores: OwnStores, store: str, how: str) -> None:
    if how == "killed":
        await stores.kill(store)
    else:
        stores.freeze(store)


async def _timed(street: Street, request: Request) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    return await street.ask(*request), time.monotonic() - began


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_purchase_needs_postgresql_alone(stores: OwnStores, street: Street, how: str) -> None:
    for store in ("mongodb", "redis", "search"):
        await take_away(stores, store, how)
    placed = await street.shopper.post("/orders", json=ORDER, headers={"Idempotency-Key": str(uuid4())})
    assert placed.status_code == 201, placed.text
    began = time.monotonic()
    payment = {"orderId": placed.json()["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    paid = await street.shopper.post("/payments", json=payment, headers={"Idempotency-Key": str(uuid4())})
    assert (paid.status_code, paid.json()["status"]) == (201, "succeeded"), paid.text
    assert time.monotonic() - began < PATIENCE["redis"]
    seen = await street.shopper.get(f"/orders/{placed.json()['id']}")
    assert seen.json()["status"] == "confirmed"


@pytest.mark.parametrize("store", STORES)
async def test_a_store_that_dies_under_load_is_never_a_fault(stores: OwnStores, street: Street, store: str) -> None:
    async def shop_on() -> list[str]:
        said = []
        while time.monotonic() < until:
            for request, _ in NEEDS:
                if time.monotonic() > until:
                    break
                answer = await street.ask(*request)
                # A crowd meets itself (409) and tries one wrong password too often (429); neither is a fault.
                if not (_well(request, answer) or answer.status_code in (409, 429) or _away(answer, store)):
                    said.append(f"{request[:3]}: {answer.status_code} {answer.text[:300]}")
        return said

    until = time.monotonic() + 2.0
    crowd = [asyncio.create_task(shop_on()) for _ in range(6)]
    await asyncio.sleep(0.7)
    await stores.kill(store)
    faults = [fault for said in await asyncio.gather(*crowd) for fault in said]
    assert not faults, f"{len(faults)}:\n" + "\n".join(faults[:10])


async def test_a_shop_that_opens_with_no_store_up_works_once_they_are(stores: OwnStores, street: Street) -> None:
    for store in STORES:
        await stores.kill(store)
    port = free_port()
    settings = street.shop.settings
    environment = {f"QUARTET_{name.upper()}_URL": url for name, url in stores.urls.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "quartet.cli", "serve", "--port", str(port), "--data", str(settings.data_dir),
        env={**environment, "QUARTET_SECRET": SECRET, "PATH": "/usr/bin:/bin", "QUARTET_LOG_LEVEL": "error"},
        cwd=settings.data_dir,
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            async with asyncio.timeout(40):
                while not await _answers(client):  # noqa: ASYNC110 — it comes true elsewhere
                    await asyncio.sleep(0.1)
            for path, store in {"/products": "mongodb", "/search": "search", "/cart": "redis"}.items():
                answer = await client.get(path)
                assert _away(answer, store), answer.text
            token = street.shopper.headers
            assert _away(await client.get("/orders", headers=token), "postgres")
            await stores.mend()
            await _until_well(street)
            for path in ("/products", "/search?q=mug", "/cart", "/orders"):
                answer = await client.get(path, headers=token)
                assert answer.status_code == 200, (path, answer.text)
    finally:
        process.terminate()
        await process.wait()


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health/live")).is_success
    except httpx.TransportError:
        return False
