"""What every answer tells browsers, whatever went well or wrong."""

import re
from dataclasses import replace

import httpx
import pytest
from fastapi import Response

from conftest import api_of, client_of
from floor import Floor, made
from quartet.kernel.errors import Problem
from quartet.stores import open_stores
from quartet.web.dependencies import Shop

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def _guarded(answer: httpx.Response) -> None:
    where = (answer.request.method, str(answer.request.url), answer.status_code)
    for name, value in ALWAYS.items():
        assert answer.headers.get_list(name) == [value], (where, name)
    (policy,) = answer.headers.get_list("Content-Security-Policy")
    for part in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"):
        assert part in policy, where
    (features,) = answer.headers.get_list("Permissions-Policy")
    assert "camera=()" in features
    assert answer.headers["Cross-Origin-Resource-Policy"] in ("same-origin", "cross-origin"), where
    assert answer.headers["X-Request-Id"], where
    assert answer.headers["Cache-Control"], where
    assert "server" not in answer.headers, where
    assert "access-control-allow-origin" not in answer.headers, where
    assert "strict-transport-security" not in answer.headers  # reached by http here


async def test_every_answer_is_guarded(floor: Floor) -> None:
    sku = await floor.product()
    signed, json = {"Authorization": floor.shopper.headers["Authorization"]}, {"Content-Type": "application/json"}
    cases: list[tuple[int, str, str, dict[str, str], bytes]] = [
        (200, "GET", "/health/live", {}, b""), (200, "HEAD", "/health/live", {}, b""),
        (204, "OPTIONS", "/orders", {}, b""), (200, "GET", "/openapi.json", {}, b""),
        (200, "GET", "/docs", {}, b""), (200, "GET", "/docs", {}, b""),  # each time the same
        (200, "GET", "/metrics", {}, b""), (200, "GET", "/problems/not-found", {}, b""),
        (404, "GET", "/problems/none", {}, b""), (404, "GET", "/docs/none", {}, b""), (404, "GET", "/redoc", {}, b""),
        (200, "GET", "/images/upright.svg", {}, b""), (404, "GET", "/images/none.svg", {}, b""),
        (200, "GET", f"/products/{sku}", {}, b""), (200, "GET", "/search", {}, b""), (200, "GET", "/cart", {}, b""),
        (200, "GET", "/users/me", signed, b""), (404, "GET", "/nowhere", {}, b""), (404, "HEAD", "/nowhere", {}, b""),
        (405, "PUT", "/health/live", {}, b""), (401, "GET", "/users/me", {}, b""),
        (403, "GET", "/inventory", signed, b""),
        (401, "GET", "/products", {"Authorization": "Bearer x"}, b""), (422, "GET", "/products?brand=%00", {}, b""),
        (400, "POST", "/sessions", json, b"{"), (413, "POST", "/sessions", json, b'"' + b"x" * 70_000 + b'"'),
        (415, "POST", "/sessions", {"Content-Type": "text/plain"}, b"x"), (422, "POST", "/sessions", json, b"{}"),
        (400, "POST", "/webhooks/sandbox", json, b"{}"),
    ]  # fmt: skip
    for status, method, path, headers, body in cases:
        answer = await floor.guest.request(method, path, headers=headers, content=body)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text[:100])
        _guarded(answer)
    page = await floor.guest.get(f"/products/{sku}")
    unchanged = await floor.guest.get(f"/products/{sku}", headers={"If-None-Match": page.headers["ETag"]})
    assert unchanged.status_code == 304
    _guarded(unchanged)


async def test_a_fault_of_ours_is_guarded_too(floor: Floor) -> None:
    app = api_of(floor.shop)

    @app.get("/fails/{status}")
    async def fails(status: int) -> Response:
        kinds = {kind.status: kind for kind in Problem.kinds()}
        if status == 500:
            raise RuntimeError("the whole inside")
        if status == 503:
            raise kinds[status]("whoever is away")
        raise kinds[status]()

    async with client_of(app) as client:
        for status in sorted({kind.status for kind in Problem.kinds()} | {500}):
            answer = await client.get(f"/fails/{status}")
            assert answer.status_code == status
            assert "inside" not in answer.text
            _guarded(answer)
    slow = replace(floor.shop, settings=floor.shop.settings.model_copy(update={"request_timeout": 1e-9}))
    app.state.shop = slow
    async with client_of(app) as client:
        late = await client.get("/products")
        assert late.status_code == 504
        _guarded(late)
    few = replace(floor.shop, settings=floor.shop.settings.model_copy(update={"limit_browse": 1}))
    app.state.shop = few
    async with client_of(app) as client:
        for _ in range(3):
            _guarded(held := await client.get("/categories"))
        assert held.status_code == 429


async def test_by_https_alone_browsers_are_told_to_stay_there(shop: Shop) -> None:
    secure = shop.settings.model_copy(update={"base_url": "https://shop.example"})
    async with client_of(api_of(replace(shop, settings=secure))) as client:
        for path in ("/health/live", "/docs", "/images/upright.svg", "/nowhere"):
            assert (await client.get(path)).headers.get_list("Strict-Transport-Security") == ["max-age=31536000"]


async def test_what_is_somebodys_own_is_kept_by_no_cache(floor: Floor) -> None:
    order_id = await floor.order()
    for client, path in (
        (floor.shopper, "/users/me"), (floor.shopper, "/cart"), (floor.shopper, "/orders"), (floor.guest, "/cart"),
        (floor.shopper, f"/orders/{order_id}"), (floor.staff, "/inventory"), (floor.admin, "/audit-log"),
        (floor.guest, "/orders"), (floor.shopper, "/users/me/sessions"),
    ):  # fmt: skip
        assert (await client.get(path)).headers["Cache-Control"] == "no-store", path
    draft = {"sku": "DRAFT", "name": "Draft", "category": await floor.category(), "priceCents": 1, "publishedAt": None}
    await made(floor.staff.post("/products", json=draft))
    assert "no-store" in (await floor.staff.get("/products/DRAFT")).headers["Cache-Control"]


async def test_the_pages_run_no_script_but_their_own(client: httpx.AsyncClient) -> None:
    docs = await client.get("/docs")
    policy = docs.headers["Content-Security-Policy"]
    scripts = re.search(r"script-src ([^;]*)", policy)
    assert scripts is not None
    assert "unsafe" not in scripts[1]
    assert len(re.findall(r"<script[^>]*>[^<]", docs.text)) == 1  # the one whose digest is let in
    for source in re.findall(r'(?:src|href)="(https?://[^/"]+)', docs.text):
        assert source in policy
    explained = await client.get("/problems/not-found")
    assert "script-src" not in explained.headers["Content-Security-Policy"]
    assert "<script" not in explained.text
    assert "style=" not in explained.text


@pytest.mark.parametrize("store", ["redis_url", "postgres_url", "search_url"])
async def test_with_a_store_away_answers_are_guarded_as_ever(shop: Shop, store: str) -> None:
    gone = {"redis_url": "redis://127.0.0.1:1/0", "postgres_url": "postgresql://x@127.0.0.1:1/x"}
    away = shop.settings.model_copy(update={store: gone.get(store, "http://127.0.0.1:1")})
    async with open_stores(away) as stores, client_of(api_of(Shop(away, stores))) as client:
        for path in ("/cart", "/search?q=x", "/health/ready", "/orders"):
            _guarded(await client.get(path))
