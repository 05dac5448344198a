"""Sessions of pages: a cookie that scripts cannot read, and no request but our own pages' that changes anything."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest

from floor import Floor, made
from quartet import accounts
from quartet.accounts import cookies, tokens
from quartet.kernel.clock import FixedClock
from quartet.stores import open_stores
from quartet.web.dependencies import Shop

PERSON = {"email": "ada@example.com", "password": "correct horse battery"}
OURS = {"Origin": "http://127.0.0.1:8000"}


async def _page(floor: Floor) -> tuple[httpx.AsyncClient, dict[str, str]]:
    """A browser that has signed in (its cookies are kept by the client), and the headers that its pages send."""
    await floor.guest.post("/users", json=PERSON)
    signed = await made(floor.guest.post("/sessions", json=PERSON | {"cookie": True}))
    assert set(signed) == {"csrfToken", "expiresIn"}
    return floor.guest, OURS | {"X-CSRF-Token": signed["csrfToken"]}


def _set(answer: httpx.Response) -> dict[str, Any]:
    jar: SimpleCookie = SimpleCookie()
    for header in answer.headers.get_list("set-cookie"):
        jar.load(header)
    return dict(jar)


async def test_a_page_signs_in_reads_and_writes_and_signs_out(floor: Floor) -> None:
    browser, page = await _page(floor)
    assert (await made(browser.get("/users/me")))["email"] == PERSON["email"]
    assert (await made(browser.patch("/users/me", json={"displayName": "Ada"}, headers=page)))["displayName"] == "Ada"
    kept = browser.cookies["quartet_session"]
    gone = await browser.delete("/sessions/current", headers=page)
    assert gone.status_code == 204
    assert "quartet_session" not in browser.cookies
    browser.cookies.set("quartet_session", kept)
    after = await browser.get("/users/me")
    assert after.status_code == 401
    assert _set(after)["quartet_session"]["max-age"] == "0"
    browser.cookies.set("quartet_session", kept)
    assert (await browser.get("/products")).status_code == 200  # as a guest


async def test_the_cookie_has_every_guard(floor: Floor, shop: Shop) -> None:
    await made(floor.guest.post("/users", json=PERSON))
    first = _set(await floor.guest.post("/sessions", json=PERSON | {"cookie": True}))
    session = first["quartet_session"]
    assert (session["httponly"], session["samesite"], session["path"], session["secure"]) == (True, "Lax", "/", "")
    assert not session["domain"]
    assert not first["quartet_csrf"]["httponly"]
    secure = shop.settings.model_copy(update={"base_url": "https://shop.example"})
    floor.app.state.shop = replace(shop, settings=secure)
    jar = _set(answer := await floor.guest.post("/sessions", json=PERSON | {"cookie": True}))
    assert set(jar) == {"__Host-quartet_session", "__Host-quartet_csrf"}
    assert all(morsel["secure"] and morsel["path"] == "/" and not morsel["domain"] for morsel in jar.values())
    assert answer.headers["Cache-Control"] == "no-store"


FORGED: list[dict[str, str | None]] = [
    {"X-CSRF-Token": None},
    {"X-CSRF-Token": ""},
    {"X-CSRF-Token": "guessed"},
    {"X-CSRF-Token": "ünguessed"},
    {"Origin": None},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8000.evil.example"},
    {"Origin": "https://127.0.0.1:8000"},
    {"Origin": None, "Sec-Fetch-Site": "cross-site"},
    {"Origin": None, "Sec-Fetch-Site": "same-site"},
    {"Origin": None, "Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
]


async def test_another_page_changes_nothing(floor: Floor) -> None:
    browser, page = await _page(floor)
    sku = await floor.sku()
    for forged in FORGED:
        headers = {name.encode(): value.encode() for name, value in (page | forged).items() if value is not None}
        for method, path, body in (
            ("PATCH", "/users/me", {"displayName": "Mallory"}),
            ("POST", "/cart/items", {"sku": sku, "qty": 1}),
            ("DELETE", "/sessions/current", None),
            ("DELETE", "/nowhere", None),
        ):
            answer = await browser.request(method, path, json=body, headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (403, "/problems/csrf"), (method, path, forged)
    assert (await made(browser.get("/users/me")))["displayName"] is None


async def test_a_page_that_only_says_same_origin_will_do(floor: Floor) -> None:
    browser, page = await _page(floor)
    headers = {"X-CSRF-Token": page["X-CSRF-Token"], "Sec-Fetch-Site": "same-origin"}
    assert (await browser.patch("/users/me", json={}, headers=headers)).status_code == 200


async def test_a_token_of_another_session_is_worth_nothing(floor: Floor) -> None:
    browser, page = await _page(floor)
    again = await made(browser.post("/sessions", json=PERSON | {"cookie": True}))
    other = page | {"X-CSRF-Token": page["X-CSRF-Token"]}
    browser.cookies.set("quartet_csrf", page["X-CSRF-Token"], domain="shop.local", path="/")
    assert (await browser.patch("/users/me", json={}, headers=other)).status_code == 403
    browser.cookies.delete("quartet_csrf")
    browser.cookies.set("quartet_csrf", page["X-CSRF-Token"])  # a cookie planted by another host of the domain
    assert (await browser.patch("/users/me", json={}, headers=other)).status_code == 403
    browser.cookies.delete("quartet_csrf")
    browser.cookies.set("quartet_csrf", again["csrfToken"])
    assert (await browser.patch("/users/me", json={}, headers=OURS | {"X-CSRF-Token": again["csrfToken"]})).is_success


async def test_a_bearer_token_needs_no_page(floor: Floor) -> None:
    assert (await floor.shopper.patch("/users/me", json={}, headers={"Origin": "https://evil.example"})).is_success


async def test_neither_token_opens_what_the_other_does(floor: Floor) -> None:
    browser, _ = await _page(floor)
    cookie = browser.cookies["quartet_session"]
    browser.cookies.clear()
    assert (await browser.get("/users/me", headers={"Authorization": f"Bearer {cookie}"})).status_code == 401
    bearer = floor.shopper.headers["Authorization"].removeprefix("Bearer ")
    browser.cookies.set("quartet_session", bearer)
    assert (await browser.get("/users/me")).status_code == 401
    with pytest.raises(Exception, match="not valid"):
        tokens.read_cookie(floor.shop.settings, bearer, datetime.now(UTC))


async def test_a_session_slides_while_it_is_used_and_ends_when_it_is_not(floor: Floor) -> None:
    clock = FixedClock(datetime.now(UTC))
    floor.app.state.shop = replace(floor.shop, clock=clock)
    browser, page = await _page(floor)
    lives = floor.shop.settings.refresh_ttl
    for _ in range(3):
        clock.advance(lives - 10)
        fresh = await browser.get("/users/me")
        assert fresh.status_code == 200
        assert int(_set(fresh)["quartet_session"]["max-age"]) == lives
        assert (await browser.patch("/users/me", json={}, headers=page)).status_code in (200, 403)
        page = OURS | {"X-CSRF-Token": browser.cookies["quartet_csrf"]}
        assert (await browser.patch("/users/me", json={}, headers=page)).status_code == 200
        clock.advance(1)
        assert not _set(await browser.get("/users/me"))  # believed for a while
    clock.advance(lives + 1)
    assert (await browser.get("/users/me")).status_code == 401


async def test_an_ended_sessions_cookie_counts_as_a_guest(floor: Floor) -> None:
    narrow = floor.shop.settings.model_copy(update={"limit_browse": 3})
    floor.app.state.shop = replace(floor.shop, settings=narrow)
    browser, page = await _page(floor)
    kept = browser.cookies["quartet_session"]
    assert (await browser.delete("/sessions/current", headers=page)).status_code == 204
    statuses = []
    for _ in range(5):
        browser.cookies.set("quartet_session", kept)
        answer = await browser.get("/products")
        assert answer.headers["RateLimit-Limit"] == "3"
        statuses.append(answer.status_code)
    assert statuses == [200, 200, 200, 429, 429]


async def test_an_old_cookie_of_an_ended_session_is_looked_up_once(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FixedClock(datetime.now(UTC))
    floor.app.state.shop = replace(floor.shop, clock=clock)
    browser, page = await _page(floor)
    kept = browser.cookies["quartet_session"]
    assert (await browser.delete("/sessions/current", headers=page)).status_code == 204
    clock.advance(floor.shop.settings.access_ttl + 1)
    asked, extend = [], accounts.extend_session

    async def noted(*args: Any) -> Any:
        asked.append(args)
        return await extend(*args)

    monkeypatch.setattr(accounts, "extend_session", noted)
    for _ in range(3):
        browser.cookies.set("quartet_session", kept)
        assert _set(await browser.get("/products"))["quartet_session"]["max-age"] == "0"
    assert len(asked) == 1


async def test_no_cache_keeps_an_answer_that_carries_a_session(floor: Floor) -> None:
    picture = "/images/aperture-pro.svg"
    clock = FixedClock(datetime.now(UTC))
    floor.app.state.shop = replace(floor.shop, clock=clock)
    browser, _ = await _page(floor)
    first = browser.cookies["quartet_session"]
    public = await browser.get(picture)
    assert (public.headers["Cache-Control"].split(",")[0], _set(public)) == ("public", {})
    clock.advance(floor.shop.settings.access_ttl + 1)
    renewed = await browser.get(picture)
    assert "quartet_session" in _set(renewed)
    assert renewed.headers.get_list("Cache-Control") == ["no-store"]
    # The page's pictures, asked for by the same cookie, do not each renew it.
    browser.cookies.clear()
    browser.cookies.set("quartet_session", first)
    assert not _set(await browser.get(picture))


async def test_a_change_of_password_ends_the_other_pages(floor: Floor) -> None:
    browser, page = await _page(floor)
    mine = await made(floor.guest.post("/sessions", json=PERSON))
    cookie = browser.cookies["quartet_session"]
    change = {"currentPassword": PERSON["password"], "newPassword": "another horse battery"}
    headers = {"Authorization": f"Bearer {mine['accessToken']}"}
    assert (await floor.guest.post("/users/me/password", json=change, headers=headers)).status_code == 204
    browser.cookies.set("quartet_session", cookie)
    assert (await browser.get("/users/me")).status_code == 401
    assert page


async def test_a_page_gets_its_new_roles_at_once(floor: Floor) -> None:
    browser, _ = await _page(floor)
    me = (await made(browser.get("/users/me")))["id"]
    assert (await browser.get("/inventory")).status_code == 403
    await made(floor.admin.patch(f"/users/{me}/roles", json={"roles": ["staff"]}))
    assert (await browser.get("/inventory")).status_code == 200
    await made(floor.admin.patch(f"/users/{me}/roles", json={"roles": []}))
    assert (await browser.get("/inventory")).status_code == 403


@pytest.mark.parametrize(("roles", "looks"), [([], 200), (["staff"], 503)])
async def test_without_postgresql_an_old_page_looks_on_unless_it_is_staffs_and_changes_nothing(
    floor: Floor, roles: list[str], looks: int
) -> None:
    clock = FixedClock(datetime.now(UTC))
    floor.app.state.shop = shop = replace(floor.shop, clock=clock)
    me = (await made(floor.guest.post("/users", json=PERSON)))["id"]
    await made(floor.admin.patch(f"/users/{me}/roles", json={"roles": roles}))
    browser, page = await _page(floor)
    clock.advance(shop.settings.access_ttl + 1)
    away = shop.settings.model_copy(update={"postgres_url": "postgresql://nobody@127.0.0.1:1/x"})
    async with open_stores(away) as stores:
        floor.app.state.shop = replace(shop, settings=away, stores=stores)
        assert (await browser.get("/products")).status_code == looks
        refused = await browser.delete("/cart", headers=page)
        assert (refused.status_code, refused.json()["store"]) == (503, "postgres")


async def test_a_changed_secret_keeps_pages_signed_in(floor: Floor) -> None:
    browser, page = await _page(floor)
    rotated = floor.shop.settings.model_copy(
        update={"secret": type(floor.shop.settings.secret)("x" * 40), "secrets_retired": (floor.shop.settings.secret,)}
    )
    floor.app.state.shop = replace(floor.shop, settings=rotated)
    assert (await browser.patch("/users/me", json={}, headers=page)).status_code == 200


async def test_a_broken_cookie_is_a_guests(client: httpx.AsyncClient) -> None:
    for text in (
        "quartet_session",
        "quartet_session=",
        "quartet_session=x",
        "; ;=;",
        "quartet_session=a.b.c",
        'x="',
        "é",
    ):
        sent = {b"Cookie": text.encode()}
        assert (await client.get("/products", headers=sent)).status_code == 200
        assert (await client.get("/users/me", headers=sent)).status_code == 401


def test_the_clock_of_a_cookie_is_its_issue(shop: Shop) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    from uuid import uuid4

    from quartet.web.dependencies import Principal

    someone = Principal(uuid4(), frozenset(), uuid4())
    token = cookies.opened(shop.settings, someone, now)[0].partition("=")[2].partition(";")[0]
    principal, believed = tokens.read_cookie(shop.settings, token, now)
    assert (principal, believed) == (someone, now + timedelta(seconds=shop.settings.access_ttl))
