"""The front of the house: what every answer carries, what never gets in, and what happens past a limit."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import generate_latest

from conftest import api_of, client_of
from quartet import sync
from quartet.gateway.limits import class_of
from quartet.gateway.server import Server
from quartet.kernel.errors import Problem
from quartet.kernel.settings import Settings
from quartet.stores import letters, open_stores, outbox, tallies
from quartet.web.dependencies import Shop
from quartet.web.limits import address_group


async def test_every_answer_carries_a_request_id(client: httpx.AsyncClient) -> None:
    for path in ("/health/live", "/nowhere", "/cart", "/orders"):
        answer = await client.get(path, headers={"X-Request-Id": "my-id.1"})
        assert answer.headers["X-Request-Id"] == "my-id.1"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    drawn = {(await client.get("/health/live")).headers["X-Request-Id"] for _ in range(3)}
    assert len(drawn) == 3
    odd = await client.get("/health/live", headers={"X-Request-Id": "a b<script>"})
    assert odd.headers["X-Request-Id"] != "a b<script>"


async def test_a_problem_says_what_it_is_and_where_it_is_explained(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nowhere")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/not-found"
    assert problem["status"] == 404
    assert problem["instance"] == answer.headers["X-Request-Id"]
    assert set(problem) == {"type", "title", "status", "detail", "instance"}
    page = await client.get(problem["type"])
    assert page.status_code == 200
    assert problem["title"] in page.text


async def test_every_kind_of_problem_has_its_page(client: httpx.AsyncClient) -> None:
    for kind in Problem.kinds():
        assert (await client.get(f"/problems/{kind.slug}")).status_code == 200
    assert (await client.get("/problems/no-such-thing")).status_code == 404


async def test_another_method_is_told_which_there_are(client: httpx.AsyncClient) -> None:
    answer = await client.put("/health/live")
    assert answer.status_code == 405
    assert answer.json()["type"] == "/problems/method-not-allowed"
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    answer = await client.delete("/products")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    answer = await client.options("/products/P-1")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"
    assert (await client.options("/nowhere")).status_code == 404
    counted = (await client.get("/metrics")).text
    assert 'quartet_http_requests_total{method="PUT",route="/health/live",status="405"}' in counted


@pytest.mark.parametrize("path", ["/orders/claim", "/sync/dead-letters/replay"])
async def test_an_address_of_its_own_is_no_others_id(path: str, client: httpx.AsyncClient) -> None:
    assert (await client.options(path)).headers["Allow"] == "OPTIONS, POST"
    for method in ("GET", "HEAD", "DELETE", "PATCH"):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "OPTIONS, POST"), method
    assert (await client.post(path)).status_code == 401


async def test_head_is_get_without_a_body(client: httpx.AsyncClient) -> None:
    for path in ("/health/live", "/metrics", "/products", "/openapi.json", "/nowhere"):
        whole, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["Content-Type"] == whole.headers["Content-Type"]
    assert head.headers["Content-Length"] == str(len(whole.content))


BAD_BODIES: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"not json", 400),
    (b"\xff\xfe", 400),
    (b'{"email": NaN}', 400),
    (b'{"email": "\\ud800", "password": "x"}', 422),
    (b"[" * 1000 + b"]" * 1000, 400),
    (b'{"a":' * 1000 + b"1" + b"}" * 1000, 400),
    (b'{"email": "a\\u0000b@example.com", "password": "x"}', 422),
    (b'{"a\\u0000": 1}', 422),
    (b"[]", 422),
    (b"null", 422),
    (b'"text"', 422),
    (b'{"email": {"$gt": ""}, "password": {"$gt": ""}}', 422),
    (b'{"email": ' + b'"' + b"a" * 70_000 + b'"}', 413),
]


@pytest.mark.parametrize(("body", "status"), BAD_BODIES)
async def test_a_body_that_is_no_good_is_refused(client: httpx.AsyncClient, body: bytes, status: int) -> None:
    answer = await client.post("/sessions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_body_without_a_length_is_bounded_too(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    answer = await client.post("/sessions", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


async def test_a_form_is_not_json(client: httpx.AsyncClient) -> None:
    answer = await client.post("/sessions", data={"email": "a@example.com"})
    assert answer.status_code == 415


@pytest.mark.parametrize("path", ["/products/a%00b", "/products?brand=%00", "/search?q=a%00"])
async def test_nul_gets_in_nowhere(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] in {"path", "brand", "q"}


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer x", "Basic YTpi", "Bearer " + "a." * 50, "x"])
async def test_a_token_that_is_not_good_is_refused_everywhere(client: httpx.AsyncClient, authorization: str) -> None:
    for path in ("/products", "/users/me", "/sync"):
        answer = await client.get(path, headers={"Authorization": authorization})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_token_that_is_not_good_keeps_nobody_from_a_new_one(client: httpx.AsyncClient) -> None:
    who = {"email": "ada@example.com", "password": "correct horse battery"}
    stale = {"Authorization": "Bearer " + "a." * 50}
    assert (await client.post("/users", json=who, headers=stale)).status_code == 201
    signed = (await client.post("/sessions", json=who, headers=stale)).json()
    renewed = await client.post("/sessions/refresh", json={"refreshToken": signed["refreshToken"]}, headers=stale)
    assert renewed.status_code == 201

    # And one that was good until its session ended.
    ended = {"Authorization": f"Bearer {renewed.json()['accessToken']}"}
    assert (await client.delete("/sessions/current", headers=ended)).status_code == 204
    assert (await client.get("/users/me", headers=ended)).status_code == 401
    assert (await client.post("/sessions", json=who, headers=ended)).status_code == 201
    assert (await client.post("/password-resets", json={"email": who["email"]}, headers=ended)).status_code == 202
    assert (await client.get("/health/live", headers=ended)).status_code == 200


async def test_past_the_limit_one_waits(settings: Settings) -> None:
    async with _shop(settings.model_copy(update={"limit_browse": 5})) as client:
        answers = [await client.get("/products") for _ in range(6)]
    assert [a.status_code for a in answers] == [200] * 5 + [429]
    assert [a.headers["RateLimit-Remaining"] for a in answers[:5]] == ["4", "3", "2", "1", "0"]
    assert answers[0].headers["RateLimit-Limit"] == "5"
    assert 1 <= int(answers[5].headers["Retry-After"]) <= 120
    assert answers[5].json()["type"] == "/problems/too-many-requests"


async def test_who_sends_bad_tokens_waits_as_everybody_does(settings: Settings) -> None:
    async with _shop(settings.model_copy(update={"limit_browse": 2})) as client:
        bad = {"Authorization": "Bearer x"}
        answers = [await client.get("/users/me", headers=bad) for _ in range(3)]
    assert [a.status_code for a in answers] == [401, 401, 429]
    assert [a.headers["RateLimit-Remaining"] for a in answers] == ["1", "0", "0"]
    assert int(answers[2].headers["Retry-After"]) >= 1


async def test_many_at_once_get_no_more_than_the_limit(settings: Settings) -> None:
    async with _shop(settings.model_copy(update={"limit_browse": 20})) as client:
        answers = await asyncio.gather(*(client.get("/products") for _ in range(60)))
    assert sum(a.status_code == 200 for a in answers) == 20


async def test_without_redis_each_process_limits_by_itself_and_strictly_who_signs_in_or_pays(
    settings: Settings,
) -> None:
    limits = {"limit_browse": 3, "limit_auth": 20, "limit_pay": 20}
    away = settings.model_copy(update={**limits, "redis_url": "redis://127.0.0.1:1/0"})
    async with _shop(away) as client:
        answers = [await client.get("/products") for _ in range(4)]
        credentials = {"email": "nobody@example.com", "password": "wrong password"}
        tries = [await client.post("/sessions", json=credentials) for _ in range(3)]
        payments = [await client.post("/payments", json={}) for _ in range(3)]
        ready = await client.get("/health/ready")
        metrics = (await client.get("/metrics")).text
    assert [a.status_code for a in answers] == [200] * 3 + [429]
    assert [a.headers["RateLimit-Remaining"] for a in answers] == ["2", "1", "0", "0"]
    assert [a.status_code for a in tries] == [401, 401, 429], "a tenth of the limit"
    assert tries[0].headers["RateLimit-Limit"] == "2"
    assert [a.status_code for a in payments] == [401, 401, 429]
    assert ready.status_code == 200
    assert ready.json()["status"] == "degraded"
    redis = ready.json()["stores"]["redis"]
    assert redis["status"] == "down"
    assert "products come from MongoDB" in redis["meanwhile"]
    assert 'quartet_store_breaker{state="closed",store="redis"} 0.0' in metrics
    assert 'quartet_store_breaker_openings_total{store="redis"} 1.0' in metrics
    assert 'quartet_store_breaker{state="closed",store="mongodb"} 1.0' in metrics


async def test_a_store_that_is_away_is_said_so(settings: Settings) -> None:
    away = settings.model_copy(
        update={"postgres_url": "postgresql://nobody@127.0.0.1:1/x", "search_url": "http://127.0.0.1:1"}
    )
    async with _shop(away) as client:
        for path, store in (("/search?q=laptop", "search"),):
            answer = await client.get(path)
            assert answer.status_code == 503
            assert answer.json()["store"] == store
            assert int(answer.headers["Retry-After"]) >= 1
        sign_in = await client.post("/sessions", json={"email": "a@example.com", "password": "some password"})
        assert sign_in.status_code == 503
        assert (await client.get("/products")).status_code == 200
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 503


async def test_health_names_each_store(client: httpx.AsyncClient) -> None:
    health = (await client.get("/health/ready")).json()
    assert health["status"] == "ready"
    assert set(health["stores"]) == {"postgres", "mongodb", "redis", "search"}
    for state in health["stores"].values():
        assert state["status"] == "up"
        assert state["version"]
        assert state["latencyMs"] > 0


async def test_metrics_count_by_route_not_by_address(client: httpx.AsyncClient) -> None:
    await client.get("/products/no-such-product-anywhere")
    text = (await client.get("/metrics")).text
    assert 'quartet_http_requests_total{method="GET",route="/products/{sku}",status="404"}' in text
    assert "no-such-product-anywhere" not in text


async def test_a_room_can_be_served_alone(shop: Shop) -> None:
    async with client_of(api_of(shop, ["search"])) as client:
        assert (await client.get("/search")).status_code == 200
        assert (await client.get("/products")).status_code == 404
    with pytest.raises(ValueError, match="no such room: attic"):
        api_of(shop, ["attic"])


async def test_the_document_says_who_must_sign_in_and_who_may(client: httpx.AsyncClient) -> None:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    users: list[dict[str, list[str]]] = [{"bearer": []}, {"cookie": []}]
    assert document["paths"]["/orders"]["get"]["security"] == users
    assert "security" not in document["paths"]["/products"]["get"]
    for method, path in (
        ("get", "/cart"), ("post", "/cart/items"), ("post", "/orders"), ("get", "/orders/{id}"), ("post", "/payments"),
        ("get", "/products/{sku}"), ("get", "/search"),
    ):  # fmt: skip
        assert document["paths"][path][method]["security"] == [{}, *users], path


async def test_the_document_tells_of_headers_by_the_names_that_they_have(client: httpx.AsyncClient) -> None:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()

    def headers(method: str, path: str, *statuses: str) -> tuple[set[str], ...]:
        operation = document["paths"][path][method]
        asked = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}
        return asked, *({*operation["responses"][status].get("headers", ())} for status in statuses)

    assert headers("post", "/orders", "201", "409", "422", "429") == (
        {"Idempotency-Key", "X-Cart-Token", "X-Order-Token"}, {"Location", "Idempotent-Replayed"},
        {"Idempotent-Replayed"}, set(), {"Retry-After"},
    )  # fmt: skip
    assert headers("get", "/products/{sku}", "200", "304") == (
        {"X-Search-Id", "If-None-Match"}, {"ETag", "X-Cache", "Age"}, {"ETag"}
    )  # fmt: skip
    assert headers("patch", "/products/{sku}", "200") == ({"If-Match"}, {"ETag"})
    assert headers("post", "/cart/items", "200") == ({"X-Cart-Token"}, {"X-Cart-Token"})


async def test_the_document_says_what_may_be_asked_for(client: httpx.AsyncClient) -> None:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"order.confirmed", "user.erased", "*"} < {*schemas["NewEndpoint"]["properties"]["events"]["items"]["enum"]}
    assert {"orders:read", "sync:write"} < {*schemas["NewKey"]["properties"]["scopes"]["items"]["enum"]}
    keys = [
        parameter["schema"]
        for operations in document["paths"].values()
        for operation in operations.values()
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "Idempotency-Key"
    ]
    assert keys and {(key["minLength"], key["maxLength"]) for key in keys} == {(1, 255)}


def test_addresses_of_one_customer_count_together() -> None:
    assert address_group("2001:db8:1:2:aaaa::1") == address_group("2001:db8:1:2:bbbb::9")
    assert address_group("2001:db8:1:2::1") != address_group("2001:db8:1:3::1")
    assert address_group("::ffff:192.0.2.7") == "192.0.2.7"
    assert address_group("192.0.2.7") != address_group("192.0.2.8")
    assert address_group("not an address") == "unknown"


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/health/ready", None),
        ("POST", "/webhooks/sandbox", None),
        ("GET", "/search", "search"),
        ("GET", "/products", "browse"),
        ("POST", "/users", "auth"),
        ("POST", "/sessions", "auth"),
        ("DELETE", "/sessions/current", "write"),
        ("POST", "/orders", "pay"),
        ("POST", "/cart/items", "write"),
    ],
)
def test_routes_have_a_class_of_limit(method: str, path: str, kind: str | None) -> None:
    assert class_of(method, path) == kind


@asynccontextmanager
async def _shop(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A guest of a shop with other settings, on the same servers."""
    async with open_stores(settings) as stores:
        shop = Shop(settings, stores)
        if "127.0.0.1:1/" not in (settings.redis_url or ""):
            await stores.redis.call("FLUSHDB")
        async with client_of(api_of(shop)) as client:
            yield client


async def test_names_in_addresses_are_in_camel_case(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    names = {name for path in document["paths"] for name in path.split("/") if "_" in name}
    for operations in document["paths"].values():
        for operation in operations.values():
            names |= {parameter["name"] for parameter in operation.get("parameters", []) if "_" in parameter["name"]}
    assert names == set()


async def test_metrics_tell_of_work_that_waits_and_nothing_old_without_postgres(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop
) -> None:
    async with shop.stores.pg.tx() as tx:
        await outbox.requeue(tx, uuid4(), "order.refunded", "o", {}, created_at=shop.clock.now() - timedelta(hours=2))
        await outbox.emit(tx, "order.refunded", "p", {})
        await tallies.count(tx, "mails.sent", 3)
        await letters.add_dead_letters(tx, "outbox", [("x", {}, "why")])
    said = (await client.get("/metrics")).text
    for line in (
        'quartet_outbox_pending{topic="order.refunded"} 2.0',
        'quartet_sync_pending{pipeline="outbox"} 2.0',
        'quartet_sync_pending{pipeline="mails"} 0.0',
        'quartet_sync_dead_letters{pipeline="outbox"} 1.0',
        'quartet_mails_total{outcome="sent"} 3.0',
        "quartet_measured 1.0",
    ):
        assert f"\n{line}\n" in said, line
    for lag in ('quartet_outbox_lag_seconds{topic="order.refunded"}', 'quartet_sync_lag_seconds{pipeline="outbox"}'):
        assert 7200 <= float(said.partition(f"\n{lag} ")[2].split()[0]) < 7300, lag
    kinds = dict(re.findall(r"^# TYPE (\S+_total) (\S+)$", said, re.MULTILINE))
    assert {"quartet_mails_total", "quartet_store_calls_refused_total"} <= kinds.keys()
    assert set(kinds.values()) == {"counter"}
    away = shop.settings.model_copy(update={"postgres_url": "postgresql://127.0.0.1:1/none"})
    async with open_stores(away) as stores:
        app.state.shop = Shop(away, stores)
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert "quartet_measured 0.0" in answer.text
    assert "quartet_outbox_pending{" not in answer.text
    assert "quartet_mails_total{" not in answer.text


async def test_whom_a_process_that_ends_waits_for_no_longer_is_told_that_nobody_knows(app: FastAPI) -> None:
    begun = asyncio.Event()

    @app.get("/hangs")
    async def hangs() -> None:
        begun.set()
        await asyncio.Event().wait()

    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
    listener = config.bind_socket()
    server = Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        asking = asyncio.create_task(client.get("/hangs"))
        await begun.wait()
        server.should_exit = True
        told = await asking
    await serving
    assert (told.status_code, told.json()["type"]) == (504, "/problems/timed-out")
    assert told.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_worker_tells_of_its_breakers_too(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    async with open_stores(away) as stores:
        stop = asyncio.Event()
        working = asyncio.create_task(sync.run_worker(Shop(away, stores), stop))
        async with asyncio.timeout(30):
            while not stores.redis.guard.openings:  # noqa: ASYNC110 — its breaker tells nobody
                await asyncio.sleep(0.01)
        said = generate_latest().decode()
        stop.set()
        await working
    assert 'quartet_store_breaker{state="closed",store="redis"} 0.0' in said
    assert 'quartet_store_breaker{state="closed",store="postgres"} 1.0' in said
    assert 'quartet_store_breaker_openings_total{store="redis"} 1.0' in said
