"""Where one is signed in, and ending that; proving one's address."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from quartet import access, accounts, notify, sync
from quartet.accounts import service, tokens
from quartet.kernel.clock import FixedClock
from quartet.stores import open_stores
from quartet.sync.tasks import together
from quartet.web import limits
from quartet.web.dependencies import Shop
from quartet.web.limits import network_of

ADA = {"email": "ada@example.com", "password": "analytical engine"}


@pytest.fixture
async def ada(client: httpx.AsyncClient) -> dict[str, Any]:
    """Her account."""
    answer = await client.post("/users", json={**ADA, "displayName": "Ada"})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def _sign_in(client: httpx.AsyncClient, agent: str = "Engine/1.0") -> dict[str, Any]:
    answer = await client.post("/sessions", json=ADA, headers={"User-Agent": agent})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _bearer(signed: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed['accessToken']}"}


async def _sessions(client: httpx.AsyncClient, signed: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.get("/users/me/sessions", headers=_bearer(signed))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def test_redis_is_told_again_of_the_sessions_that_have_ended(
    client: httpx.AsyncClient, ada: dict[str, Any], app: FastAPI, shop: Shop
) -> None:
    redis = shop.stores.redis
    lost, unheard, living = [await _sign_in(client) for _ in range(3)]
    assert (await client.delete("/sessions/current", headers=_bearer(lost))).status_code == 204
    await access.republish_revocations(shop)
    away = shop.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    async with open_stores(away) as stores:
        app.state.shop = Shop(away, stores, mail=shop.mail)
        assert (await client.delete("/sessions/current", headers=_bearer(unheard))).status_code == 204
        # PostgreSQL knows, and is asked.
        assert (await client.get("/orders", headers=_bearer(unheard))).status_code == 401
        assert (await client.get("/orders", headers=_bearer(living))).status_code == 200
    app.state.shop = shop
    await access.republish_revocations(shop)
    assert [(await client.get("/cart", headers=_bearer(each))).status_code for each in (lost, unheard, living)] == [
        401, 401, 200,
    ]  # fmt: skip
    await redis.call("FLUSHDB")
    assert (await client.get("/cart", headers=_bearer(lost))).status_code == 200, "else this test tells nothing"

    async def until_refused() -> None:
        while (await client.get("/cart", headers=_bearer(lost))).status_code == 200:  # noqa: ASYNC110 — the worker tells
            await asyncio.sleep(0.05)

    async with asyncio.timeout(60):
        await together(sync.run_worker(shop, asyncio.Event()), until_refused())
    assert [(await client.get("/cart", headers=_bearer(each))).status_code for each in (lost, unheard, living)] == [
        401, 401, 200,
    ]  # fmt: skip


async def test_redis_knows_of_an_end_for_as_long_as_a_token_of_a_clock_that_was_ahead(
    client: httpx.AsyncClient, ada: dict[str, Any], app: FastAPI, shop: Shop
) -> None:
    now = datetime.now(UTC)
    app.state.shop = Shop(shop.settings, shop.stores, FixedClock(now + timedelta(hours=1)), shop.mail)
    signed = await _sign_in(client)
    app.state.shop = shop  # its clock has been set right
    who, ends = tokens.read(shop.settings, signed["accessToken"], now)
    assert (await client.delete("/sessions/current", headers=_bearer(signed))).status_code == 204
    await access.publish_roles(shop, who.user_id, who.roles)
    for key in (limits.session_key(who.user_id, who.session_id), limits.roles_key(who.user_id)):
        left = await shop.stores.redis.call("PTTL", key)
        assert datetime.now(UTC) + timedelta(milliseconds=left) >= ends

    await shop.stores.redis.call("FLUSHDB")
    later = now + timedelta(seconds=shop.settings.access_ttl + 60)
    await access.republish_revocations(Shop(shop.settings, shop.stores, FixedClock(later), shop.mail))
    assert later < ends
    assert await shop.stores.redis.call("EXISTS", limits.session_key(who.user_id, who.session_id)), "it is told again"


async def test_sessions_are_listed_by_what_helps_to_recognise_them(
    client: httpx.AsyncClient, ada: dict[str, Any], app: FastAPI, shop: Shop
) -> None:
    clock = FixedClock(datetime.now(UTC))
    app.state.shop = Shop(shop.settings, shop.stores, clock, shop.mail)
    phone, laptop = await _sign_in(client, "Phone/1.0"), await _sign_in(client, "x" * 500)
    shown = await _sessions(client, laptop)
    assert [session["current"] for session in shown] == [True, False]
    assert [session["userAgent"] for session in shown] == ["x" * 200, "Phone/1.0"]
    assert {session["network"] for session in shown} == {"127.0.0.0/24"}
    began = shown[1]["createdAt"]
    clock.advance(60)
    body = {"refreshToken": phone["refreshToken"]}
    renewed = await client.post("/sessions/refresh", json=body, headers={"User-Agent": "Phone/2.0"})
    again = (await _sessions(client, renewed.json()))[1]
    assert (again["createdAt"], again["current"], again["userAgent"]) == (began, True, "Phone/2.0")
    used = datetime.fromisoformat(again["lastUsedAt"]) - datetime.fromisoformat(began)
    assert used.total_seconds() == 60
    assert (await client.get("/users/me/sessions")).status_code == 401
    for other in (renewed.json()["accessToken"], "x"):
        refused = await client.post("/sessions/refresh", json={"refreshToken": other})
        assert (refused.status_code, refused.json()["type"]) == (401, "/problems/refresh-refused")


def test_a_network_is_a_neighbourhood() -> None:
    assert network_of("203.0.113.77") == "203.0.113.0/24"
    assert network_of("::ffff:203.0.113.77") == "203.0.113.0/24"
    assert network_of("2001:db8:1:2::3") == "2001:db8:1::/48"
    assert network_of("not an address") is None


async def test_many_sessions_come_page_by_page(client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop) -> None:
    async with shop.stores.pg.tx() as tx:
        for _ in range(6):
            await accounts.start_session(tx, UUID(ada["id"]), shop.clock.now(), shop.settings)
    headers = _bearer(await _sign_in(client))
    seen: list[str] = []
    cursor = None
    while True:
        page = (await client.get("/users/me/sessions", params={"limit": 3} | ({"cursor": cursor} if cursor else {}),
                                 headers=headers)).json()  # fmt: skip
        seen += [session["id"] for session in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
        last = cursor
    assert len(seen) == len(set(seen)) == 7
    assert seen == sorted(seen, reverse=True)
    async with shop.stores.pg.tx() as tx:
        bob = await accounts.create_user(tx, "bob@example.com", await accounts.hash_password(shop, "bob's own"))
    theirs = await client.post("/sessions", json={"email": bob.email, "password": "bob's own"})
    other = await client.get("/users/me/sessions", params={"cursor": last}, headers=_bearer(theirs.json()))
    assert other.status_code == 422


async def test_a_session_ended_from_elsewhere_ends_at_once(client: httpx.AsyncClient, ada: dict[str, Any]) -> None:
    here, there = await _sign_in(client), await _sign_in(client)
    other = next(s["id"] for s in await _sessions(client, here) if not s["current"])
    ends = [client.delete(f"/users/me/sessions/{other}", headers=_bearer(here)) for _ in range(3)]
    assert sorted(answer.status_code for answer in await asyncio.gather(*ends)) == [204, 404, 404]
    assert (await client.get("/users/me", headers=_bearer(there))).status_code == 401
    stale = await client.post("/sessions/refresh", json={"refreshToken": there["refreshToken"]})
    assert stale.status_code == 401
    assert len(await _sessions(client, here)) == 1


async def test_signing_out_everywhere_else_leaves_this_session(client: httpx.AsyncClient, ada: dict[str, Any]) -> None:
    here, *others = [await _sign_in(client) for _ in range(4)]
    for _ in range(2):
        assert (await client.delete("/users/me/sessions", headers=_bearer(here))).status_code == 204
    for signed in others:
        assert (await client.get("/users/me", headers=_bearer(signed))).status_code == 401
    assert [session["current"] for session in await _sessions(client, here)] == [True]


async def _mint(shop: Shop, user_id: str, address: str = ADA["email"]) -> tuple[str, str]:
    async with shop.stores.pg.tx() as tx:
        minted = await accounts.mint_verification(tx, UUID(user_id), address, shop.clock.now())
    assert minted
    return minted


async def test_signing_up_asks_for_the_address_to_be_proved(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    async with shop.stores.pg.read() as read:
        assert await read.fetchval("SELECT payload FROM outbox WHERE topic = 'user.verify_asked'") == {
            "user_id": ada["id"],
            "address": accounts.address_digest(UUID(ada["id"]), ADA["email"]),
        }
    name, token = await _mint(shop, ada["id"])
    assert name == ""  # who asks may be a stranger
    async with shop.stores.pg.read() as read:
        assert token not in str(await read.fetch("SELECT * FROM mailed_links"))
    answers = await asyncio.gather(*(client.post(f"/email-verifications/{token}") for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [204, 410, 410, 410]
    assert answers[0].content == b"" or answers[0].json()["type"] == "/problems/verification-gone"
    me = await client.get("/users/me", headers=_bearer(await _sign_in(client)))
    assert me.json() == {**ada, "emailVerified": True}
    async with shop.stores.pg.tx() as tx:
        assert await accounts.mint_verification(tx, UUID(ada["id"]), ADA["email"], shop.clock.now()) is None


async def test_only_the_newest_link_proves_an_address_and_only_for_a_day(
    client: httpx.AsyncClient, ada: dict[str, Any], app: FastAPI, shop: Shop
) -> None:
    clock = FixedClock(datetime.now(UTC))
    app.state.shop = later = Shop(shop.settings, shop.stores, clock, shop.mail)
    first, second = (await _mint(later, ada["id"]))[1], (await _mint(later, ada["id"]))[1]
    assert (await client.post(f"/email-verifications/{first}")).status_code == 410
    clock.advance(24 * 3600)
    assert (await client.post(f"/email-verifications/{second}")).status_code == 410
    third = (await _mint(later, ada["id"]))[1]
    assert (await client.post(f"/password-resets/{third}", json={"password": "a new password"})).status_code == 410
    assert (await client.post(f"/email-verifications/{third}")).status_code == 204


async def test_the_link_is_sent_again_but_no_mailbox_is_filled(client: httpx.AsyncClient, ada: dict[str, Any]) -> None:
    headers = _bearer(await _sign_in(client))
    asked = await asyncio.gather(*(client.post("/email-verifications", headers=headers) for _ in range(12)))
    assert sorted(answer.status_code for answer in asked) == [202] * 10 + [429] * 2
    assert (await client.post("/email-verifications")).status_code == 401


NEW = "countess@example.com"


async def _ask_change(client: httpx.AsyncClient, headers: dict[str, str], email: str, **other: str) -> httpx.Response:
    body = {"email": email, "password": ADA["password"], **other}
    return await client.post("/users/me/email", json=body, headers=headers)


async def test_a_new_address_takes_the_old_ones_place_once_it_is_proved(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    await sync.catch_up(shop)
    await notify.deliver(shop)  # the link of the sign-up
    headers = _bearer(await _sign_in(client))
    asked = await _ask_change(client, headers, " Countess@Example.com ")
    assert asked.status_code == 202
    assert asked.json() == {**ada, "pendingEmail": NEW}
    await sync.catch_up(shop)
    assert [await notify.deliver(shop) for _ in range(3)] == [1, 1, 0]  # the notice before the link
    told = [(to, subject) for to, subject, _ in shop.mail.sent]  # type: ignore[attr-defined]
    assert told == [
        (ADA["email"], "Confirm your e-mail address"),
        (ADA["email"], "Your e-mail address is to change"),
        (NEW, "Confirm your e-mail address"),
    ]
    await _sign_in(client)  # the old address still is the account's
    async with shop.stores.pg.tx() as tx:
        reset = await accounts.mint_reset(tx, UUID(ada["id"]), ADA["email"], shop.clock.now())
    _, token = await _mint(shop, ada["id"], NEW)
    assert (await client.post(f"/email-verifications/{token}")).status_code == 204
    me = (await client.get("/users/me", headers=headers)).json()
    assert me == {**ada, "email": NEW, "emailVerified": True}
    assert (await client.post("/sessions", json=ADA)).status_code == 401
    assert (await client.post("/sessions", json={**ADA, "email": NEW})).status_code == 201
    assert reset  # a link in a mailbox that is the account's no longer
    stale = await client.post(f"/password-resets/{reset[1]}", json={"password": "difference engine"})
    assert stale.status_code == 410


async def test_no_link_to_a_new_address_leaves_before_the_old_one_is_told(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    class Greylist:
        """A mail server that takes nothing for the old address yet."""

        is_away = False

        def __init__(self) -> None:
            self.took: list[str] = []
            self.shut = True

        async def send(self, to: str, *_: str, **more: str) -> None:
            if self.shut and to == ADA["email"]:
                raise OSError("451 try again later")
            self.took.append(to)

    await sync.catch_up(shop)
    await notify.deliver(shop)  # the link of the sign-up
    assert (await _ask_change(client, _bearer(await _sign_in(client)), NEW)).status_code == 202
    await sync.catch_up(shop)
    clock, server = FixedClock(shop.clock.now()), Greylist()
    later = replace(shop, clock=clock, mail=server)
    for _ in range(3):
        while await notify.deliver(later):
            pass
        clock.advance(3600)
    assert server.took == []
    server.shut = False
    while await notify.deliver(later):
        pass
    assert server.took == [ADA["email"], NEW]


async def test_an_address_is_changed_only_by_who_knows_the_password_and_only_to_a_free_one(
    client: httpx.AsyncClient, ada: dict[str, Any]
) -> None:
    await client.post("/users", json={**ADA, "email": "bob@example.com"})
    headers = _bearer(await _sign_in(client))
    wrong = await _ask_change(client, headers, NEW, password="a guess or two")
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "password")
    taken = await _ask_change(client, headers, "BOB@example.com")
    assert (taken.status_code, taken.json()["type"]) == (409, "/problems/email-taken")
    bad = await _ask_change(client, headers, "nobody")
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "email")
    assert (await client.get("/users/me", headers=headers)).json() == ada


async def test_of_two_who_want_an_address_the_first_to_prove_it_gets_it(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    bob = (await client.post("/users", json={**ADA, "email": "bob@example.com"})).json()
    signed = await client.post("/sessions", json={**ADA, "email": "bob@example.com"})
    for headers in (_bearer(await _sign_in(client)), _bearer(signed.json())):
        assert (await _ask_change(client, headers, NEW)).status_code == 202
    hers, his = (await _mint(shop, ada["id"], NEW))[1], (await _mint(shop, bob["id"], NEW))[1]
    answers = await asyncio.gather(*(client.post(f"/email-verifications/{token}") for token in (hers, his)))
    assert sorted(answer.status_code for answer in answers) == [204, 409]


async def test_a_change_under_way_can_be_taken_back(client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop) -> None:
    headers = _bearer(await _sign_in(client))
    await _ask_change(client, headers, NEW)
    _, token = await _mint(shop, ada["id"], NEW)
    assert (await _ask_change(client, headers, ADA["email"])).json() == ada
    assert (await client.post(f"/email-verifications/{token}")).status_code == 410


@pytest.mark.parametrize("way", ["changed", "by link", "by hand"])
async def test_a_new_password_is_told_and_ends_a_change_of_address_that_another_asked_for(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop, way: str
) -> None:
    thief, hers = _bearer(await _sign_in(client)), _bearer(await _sign_in(client))
    assert (await _ask_change(client, thief, "thief@example.com")).status_code == 202
    _, theirs = await _mint(shop, ada["id"], "thief@example.com")
    new = "difference engine"
    if way == "changed":
        body = {"currentPassword": ADA["password"], "newPassword": new}
        assert (await client.post("/users/me/password", json=body, headers=hers)).status_code == 204
    elif way == "by link":
        async with shop.stores.pg.tx() as tx:
            reset = await accounts.mint_reset(tx, UUID(ada["id"]), ADA["email"], shop.clock.now())
        assert reset
        assert (await client.post(f"/password-resets/{reset[1]}", json={"password": new})).status_code == 204
    else:
        assert await accounts.give_password(shop, ADA["email"], new)
    assert (await client.post(f"/email-verifications/{theirs}")).status_code == 410
    signed = await client.post("/sessions", json={**ADA, "password": new})
    me = (await client.get("/users/me", headers=_bearer(signed.json()))).json()
    assert (me["email"], me["pendingEmail"]) == (ADA["email"], None)
    await sync.catch_up(shop)
    while await notify.deliver(shop):
        pass
    told = [to for to, subject, _ in shop.mail.sent if subject == "Your password was changed"]  # type: ignore[attr-defined]
    assert told == [ADA["email"]]


async def test_a_change_of_address_asked_for_with_the_password_of_a_moment_ago_is_refused(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers, held = _bearer(await _sign_in(client)), service._refuse_many_mails

    async def meanwhile(shop: Shop, user_id: UUID) -> None:
        """The password has been checked; now it changes."""
        assert await accounts.give_password(shop, ADA["email"], "difference engine")
        await held(shop, user_id)

    monkeypatch.setattr(service, "_refuse_many_mails", meanwhile)
    refused = await _ask_change(client, headers, "thief@example.com")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "password")
    async with shop.stores.pg.read() as read:
        assert await read.fetchval("SELECT count(*) FROM users WHERE pending_email IS NOT NULL") == 0
