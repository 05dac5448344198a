"""Signing up, in and out, and getting a password back."""

import asyncio
import errno
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from fastapi import FastAPI

from conftest import stuck
from quartet import accounts, notify
from quartet.accounts import passwords, tokens
from quartet.kernel.clock import FixedClock
from quartet.stores import open_stores
from quartet.sync import relay
from quartet.web.dependencies import Principal, Shop

ADA = {"email": "ada@example.com", "password": "analytical engine"}


@pytest.fixture
async def ada(client: httpx.AsyncClient) -> dict[str, Any]:
    """Her account."""
    answer = await client.post("/users", json={**ADA, "displayName": "Ada"})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def _sign_in(client: httpx.AsyncClient, **other: str) -> dict[str, Any]:
    answer = await client.post("/sessions", json={**ADA, **other})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _bearer(signed: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed['accessToken']}"}


def _fields(answer: httpx.Response) -> list[str]:
    return [error["field"] for error in answer.json()["errors"]]


async def test_a_new_account_is_a_shoppers_and_shows_no_password(ada: dict[str, Any]) -> None:
    created = datetime.fromisoformat(ada.pop("createdAt"))
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    assert ada.pop("id")
    assert ada == {
        "email": "ada@example.com",
        "emailVerified": False,
        "pendingEmail": None,
        "displayName": "Ada",
        "plan": "free",
        "roles": [],
    }


async def test_an_address_has_one_account_however_it_is_written(client: httpx.AsyncClient, ada: dict[str, Any]) -> None:
    answer = await client.post("/users", json={**ADA, "email": " ADA@Example.COM"})
    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/email-taken"
    assert await _sign_in(client, email="Ada@EXAMPLE.com")


async def test_of_many_who_take_an_address_at_once_one_gets_it(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post("/users", json=ADA) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


BAD_ADDRESSES = ("", "ada", "ada@", "@example.com", "a b@example.com", "ada@localhost", "ada@example", "a@b@c.de")
WEAK = ("", "short", "1234567", "password", "PASSWORD123", "iloveyou", "aaaaaaaaaaaa", "ada@example.com")


async def test_a_bad_address_is_named(client: httpx.AsyncClient) -> None:
    for email in (*BAD_ADDRESSES, "a" * 400, "a" * 65 + "@example.com"):
        answer = await client.post("/users", json={**ADA, "email": email})
        assert answer.status_code == 422, email
        assert _fields(answer) == ["email"]


async def test_a_good_address_is_taken(client: httpx.AsyncClient) -> None:
    for email in ("shopper@demo.test", "o'hara+shop@example.com", "ünal@exämple.com", "a@b.co.uk"):
        answer = await client.post("/users", json={**ADA, "email": email})
        assert answer.status_code == 201, answer.text
        await _sign_in(client, email=email)


async def test_a_weak_password_is_refused(client: httpx.AsyncClient) -> None:
    for password in (*WEAK, "x" * 129, "xyz" * 43, "x" * 5000):
        answer = await client.post("/users", json={**ADA, "password": password})
        assert answer.status_code == 422, password
        assert _fields(answer) == ["password"]


async def test_a_bad_value_is_named(client: httpx.AsyncClient) -> None:
    values: list[tuple[str, Any]] = [
        ("email", {"$gt": ""}),
        ("email", 1),
        ("email", None),
        ("password", {"$ne": None}),
        ("password", True),
        ("displayName", ["Ada"]),
        ("displayName", ""),
        ("displayName", "  "),
        ("displayName", "x" * 101),
        ("displayName", "A\0da"),
        ("displayName", "Ada\n\nYour order is cancelled"),
        ("displayName", "\u202eadA"),
        ("displayName", "\u200d"),
        ("roles", ["admin"]),
        ("plan", "gold"),
    ]
    for field, value in values:
        answer = await client.post("/users", json={**ADA, field: value})
        assert answer.status_code == 422
        assert field in answer.json()["detail"]


async def test_a_lone_surrogate_gets_nowhere(client: httpx.AsyncClient) -> None:
    body = b'{"email": "ada@example.com", "password": "analytical engine", "displayName": "\\ud800"}'
    answer = await client.post("/users", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "displayName")


async def test_signing_in_gives_tokens_that_say_who_one_is(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    signed = await _sign_in(client)
    assert {**signed, "accessToken": "", "refreshToken": ""} == {
        "accessToken": "",
        "refreshToken": "",
        "tokenType": "Bearer",
        "expiresIn": shop.settings.access_ttl,
    }
    me = await client.get("/users/me", headers=_bearer(signed))
    assert me.json() == ada
    assert me.status_code == 200


async def test_a_wrong_password_and_an_unknown_address_are_answered_alike(
    client: httpx.AsyncClient, ada: dict[str, Any]
) -> None:
    wrong = await client.post("/sessions", json={**ADA, "password": "difference engine"})
    unknown = await client.post("/sessions", json={**ADA, "email": "nobody@example.com"})
    no_address = await client.post("/sessions", json={**ADA, "email": "nobody"})
    for answer in (wrong, unknown, no_address):
        assert answer.status_code == 401
    told = [{**answer.json(), "instance": ""} for answer in (wrong, unknown, no_address)]
    assert told[0] == told[1] == told[2]


async def test_an_unknown_address_costs_a_hash_too(
    client: httpx.AsyncClient, ada: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str | None] = []
    real = passwords.check

    async def seen(queue: passwords.HashingQueue, password: str, known: str | None) -> tuple[bool, str | None]:
        hashed.append(known)
        return await real(queue, password, known)

    monkeypatch.setattr(passwords, "check", seen)
    for email in ("ada@example.com", "nobody@example.com", "nobody"):
        await client.post("/sessions", json={"email": email, "password": "difference engine"})
    assert [known is None for known in hashed] == [False, True, True]


async def test_an_account_without_a_password_is_nobodys_to_sign_in_to(client: httpx.AsyncClient, shop: Shop) -> None:
    async with shop.stores.pg.tx() as tx:
        await accounts.create_user(tx, "imported@example.com", None, "Imported")
    for password in ("", "nobody has this password", "analytical engine"):
        answer = await client.post("/sessions", json={"email": "imported@example.com", "password": password or "x"})
        assert answer.status_code == 401


async def test_a_password_typed_on_another_keyboard_is_the_same(client: httpx.AsyncClient) -> None:
    await client.post("/users", json={**ADA, "password": "Ångström unit"})
    await _sign_in(client, password="A\u030angstro\u0308m unit")


async def test_too_many_wrong_passwords_close_the_address_for_a_while(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    limit = shop.settings.limit_sign_in_failures
    for email in ("ada@example.com", "nobody@example.com"):
        tries = [client.post("/sessions", json={"email": email, "password": f"guess {n}"}) for n in range(limit + 6)]
        answers = await asyncio.gather(*tries)
        assert sorted(answer.status_code for answer in answers) == [401] * limit + [429] * 6
    refused = await client.post("/sessions", json=ADA)
    assert refused.status_code == 429
    assert refused.json()["type"] == "/problems/too-many-attempts"
    assert 1 <= int(refused.headers["Retry-After"]) <= 120
    bob = {"email": "bob@example.com", "password": "another address"}
    assert (await client.post("/users", json=bob)).status_code == 201
    assert (await client.post("/sessions", json=bob)).status_code == 201


async def test_a_link_by_mail_opens_an_account_that_has_to_wait(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    tries = [client.post("/sessions", json={**ADA, "password": f"guess {n}"}) for n in range(12)]
    assert 429 in {answer.status_code for answer in await asyncio.gather(*tries)}
    await client.post("/password-resets", json={"email": "ada@example.com"})
    assert (await client.post(await _link(shop), json={"password": "difference engine"})).status_code == 204
    await _sign_in(client, password="difference engine")


async def test_good_passwords_are_not_counted(client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop) -> None:
    times = shop.settings.limit_sign_in_failures + 5
    answers = await asyncio.gather(*(client.post("/sessions", json=ADA) for _ in range(times)))
    assert {answer.status_code for answer in answers} == {201}


async def test_past_the_queue_of_sign_ins_one_is_told_to_come_back(shop: Shop) -> None:
    shop = replace(shop, settings=shop.settings.model_copy(update={"password_hashers": 1, "password_queue": 2}))
    done = await asyncio.gather(
        *(accounts.hash_password(shop, f"password {n}") for n in range(8)), return_exceptions=True
    )
    busy = [problem for problem in done if isinstance(problem, passwords.Busy)]
    assert len(busy) == 5
    assert busy[0].status == 429
    assert int(busy[0].headers["Retry-After"]) >= 1
    assert await accounts.hash_password(shop, "there is room again")


async def test_the_hash_is_argon2id_of_the_agreed_cost(shop: Shop) -> None:
    hashed = await accounts.hash_password(shop, "analytical engine")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def _hashers(pid: int | None = None) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # one that was killed, and that nobody has asked since
            if any("hasher.py" in word for word in child.cmdline()):
                found.append(child)
    return found


async def test_hashing_gives_way_and_another_takes_the_place_of_a_hasher_that_was_killed(shop: Shop) -> None:
    await accounts.hash_password(shop, "analytical engine")
    for hasher in _hashers():
        assert hasher.nice() >= min(19, psutil.Process().nice() + 1)
        hasher.kill()
    assert (await accounts.hash_password(shop, "difference engine")).startswith("$argon2id$")
    assert _hashers()


async def test_another_takes_the_place_of_a_hasher_that_has_stopped(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.hash_password(shop, "analytical engine")
    monkeypatch.setattr(passwords, "ANSWER_SECONDS", 4.0)
    stopped = _hashers()
    try:
        for hasher in stopped:
            hasher.suspend()
        async with asyncio.timeout(60):
            assert (await accounts.hash_password(shop, "difference engine")).startswith("$argon2id$")
    finally:
        for hasher in stopped:
            with suppress(psutil.NoSuchProcess):
                hasher.kill()


async def test_passwords_are_hashed_again_once_a_process_can_be_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(passwords, "_threads", passwords._threads.__wrapped__)  # threads that have begun none yet
    queue = passwords.HashingQueue(1, 1)
    with monkeypatch.context() as full:
        full.setattr(subprocess, "Popen", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            await queue.ask("make", "analytical engine")
    assert (await queue.ask("make", "analytical engine")).startswith("$argon2id$")


async def test_no_hasher_outlives_a_shop_that_was_killed() -> None:
    hash_for_ever = (
        "import asyncio; from quartet.accounts.passwords import HashingQueue\n"
        "async def main():\n"
        "    while True: print(await HashingQueue(1, 1).ask('make', 'analytical engine'), flush=True)\n"
        "asyncio.run(main())"
    )
    shop = await asyncio.create_subprocess_exec(sys.executable, "-c", hash_for_ever, stdout=asyncio.subprocess.PIPE)
    assert shop.stdout is not None
    assert (await shop.stdout.readline()).startswith(b"$argon2id$")
    hashers = _hashers(shop.pid)
    assert hashers
    shop.kill()
    await shop.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, hashers, timeout=30)
    assert not alive


async def test_a_refresh_token_is_exchanged_once(client: httpx.AsyncClient, ada: dict[str, Any]) -> None:
    first = await _sign_in(client)
    second = await client.post("/sessions/refresh", json={"refreshToken": first["refreshToken"]})
    assert second.status_code == 201
    assert set(second.json()) == {"accessToken", "refreshToken", "tokenType", "expiresIn"}
    assert second.json()["refreshToken"] != first["refreshToken"]
    assert (await client.get("/users/me", headers=_bearer(second.json()))).status_code == 200


async def test_a_spent_refresh_token_ends_the_session_for_thief_and_owner(
    client: httpx.AsyncClient, ada: dict[str, Any]
) -> None:
    first = await _sign_in(client)
    other = await _sign_in(client)
    second = (await client.post("/sessions/refresh", json={"refreshToken": first["refreshToken"]})).json()
    again = await client.post("/sessions/refresh", json={"refreshToken": first["refreshToken"]})
    assert again.status_code == 401
    latest = await client.post("/sessions/refresh", json={"refreshToken": second["refreshToken"]})
    assert latest.status_code == 401
    assert (await client.get("/users/me", headers=_bearer(second))).status_code == 401
    assert (await client.get("/users/me", headers=_bearer(first))).status_code == 401
    assert (await client.get("/users/me", headers=_bearer(other))).status_code == 200


async def test_of_two_refreshes_at_once_one_wins_and_the_session_ends(
    client: httpx.AsyncClient, ada: dict[str, Any]
) -> None:
    signed = await _sign_in(client)
    body = {"refreshToken": signed["refreshToken"]}
    answers = await asyncio.gather(*(client.post("/sessions/refresh", json=body) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201] + [401] * 4
    assert (await client.get("/users/me", headers=_bearer(signed))).status_code == 401


async def test_a_refresh_token_of_nobodys_is_refused(client: httpx.AsyncClient) -> None:
    zero = "A" * 22
    for token in ("", ".", "x", "x.y", f"{zero}.", f"{zero}.x", "é.é", "💥.💥"):
        assert (await client.post("/sessions/refresh", json={"refreshToken": token})).status_code == 401


async def test_refreshing_follows_the_roles_of_now(client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop) -> None:
    signed = await _sign_in(client)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE users SET roles = '{staff}' WHERE email = 'ada@example.com'")
    fresh = (await client.post("/sessions/refresh", json={"refreshToken": signed["refreshToken"]})).json()
    assert tokens.read(shop.settings, fresh["accessToken"], datetime.now(UTC))[0].is_staff


async def test_signing_out_ends_this_session_at_once(client: httpx.AsyncClient, ada: dict[str, Any]) -> None:
    here, there = await _sign_in(client), await _sign_in(client)
    assert (await client.delete("/sessions/current", headers=_bearer(here))).status_code == 204
    assert (await client.get("/users/me", headers=_bearer(here))).status_code == 401
    refused = await client.post("/sessions/refresh", json={"refreshToken": here["refreshToken"]})
    assert refused.status_code == 401
    assert (await client.get("/users/me", headers=_bearer(there))).status_code == 200
    assert (await client.delete("/sessions/current")).status_code == 401


async def test_a_name_can_be_changed_and_taken_away(client: httpx.AsyncClient, ada: dict[str, Any]) -> None:
    headers = _bearer(await _sign_in(client))
    for odd in ("علی\u200cرضا", "👩\u200d🔧"):
        named = await client.patch("/users/me", json={"displayName": odd}, headers=headers)
        assert named.json()["displayName"] == odd
    renamed = await client.patch("/users/me", json={"displayName": "Countess"}, headers=headers)
    assert renamed.json() == {**ada, "displayName": "Countess"}
    assert (await client.patch("/users/me", json={}, headers=headers)).json()["displayName"] == "Countess"
    assert (await client.patch("/users/me", json={"displayName": None}, headers=headers)).json()["displayName"] is None
    for body in ({"email": "x@example.com"}, {"roles": ["admin"]}, {"plan": "gold"}, {"displayName": 1}):
        assert (await client.patch("/users/me", json=body, headers=headers)).status_code == 422
    assert (await client.get("/users/me")).status_code == 401


async def test_a_new_password_ends_every_other_session(client: httpx.AsyncClient, ada: dict[str, Any]) -> None:
    here, there = await _sign_in(client), await _sign_in(client)
    change = {"currentPassword": ADA["password"], "newPassword": "difference engine"}
    wrong = await client.post("/users/me/password", json={**change, "currentPassword": "guess"}, headers=_bearer(here))
    assert wrong.status_code == 422
    assert _fields(wrong) == ["currentPassword"]
    weak = await client.post("/users/me/password", json={**change, "newPassword": "password"}, headers=_bearer(here))
    assert _fields(weak) == ["newPassword"]
    changed = await client.post("/users/me/password", json=change, headers=_bearer(here))
    assert changed.status_code == 204
    assert (await client.get("/users/me", headers=_bearer(here))).status_code == 200
    assert (await client.get("/users/me", headers=_bearer(there))).status_code == 401
    stale = await client.post("/sessions/refresh", json={"refreshToken": there["refreshToken"]})
    assert stale.status_code == 401
    assert (await client.post("/sessions/refresh", json={"refreshToken": here["refreshToken"]})).status_code == 201
    assert (await client.post("/sessions", json=ADA)).status_code == 401
    await _sign_in(client, password="difference engine")


async def test_a_sign_in_with_the_password_of_a_moment_ago_opens_no_session(shop: Shop, ada: dict[str, Any]) -> None:
    """The password is checked, then changed elsewhere, and only then would the session start."""
    async with shop.stores.pg.tx() as tx:
        user_id, old = await tx.fetchval("SELECT id FROM users"), await tx.fetchval("SELECT password_hash FROM users")
        await tx.execute("UPDATE users SET password_hash = 'another'")
    with pytest.raises(accounts.WrongCredentials):
        async with shop.stores.pg.once() as tx:
            await accounts.start_session(tx, user_id, shop.clock.now(), shop.settings, checked_hash=old)


async def test_a_sign_in_with_a_password_that_is_just_being_changed_opens_no_session(
    shop: Shop, ada: dict[str, Any]
) -> None:
    async def opened(checked: str) -> None:
        async with shop.stores.pg.once() as tx:
            await accounts.start_session(tx, UUID(ada["id"]), shop.clock.now(), shop.settings, checked_hash=checked)

    async with shop.stores.pg.tx() as tx:
        old = await tx.fetchval("SELECT password_hash FROM users")
        await tx.execute("UPDATE users SET password_hash = 'another'")
        opening = asyncio.create_task(opened(old))
        await stuck(shop)
    with pytest.raises(accounts.WrongCredentials):
        await opening


async def _resets(shop: Shop) -> list[str]:
    """The links that the worker has sent by now."""
    while await relay.relay(shop):
        pass
    while await notify.deliver(shop):
        pass
    texts = [text for _, _, text in shop.mail.sent]  # type: ignore[attr-defined]
    found = re.findall(rf"{re.escape(shop.settings.base_url)}(/password-resets/\S+)", "\n".join(texts))
    return [str(link) for link in found]


async def _link(shop: Shop) -> str:
    return (await _resets(shop))[-1]


async def test_a_lost_password_is_replaced_by_a_link_good_once(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    signed = await _sign_in(client)
    asked = await client.post("/password-resets", json={"email": "ADA@example.com"})
    assert asked.status_code == 202
    link = await _link(shop)
    assert {to for to, _, _ in shop.mail.sent} == {"ada@example.com"}  # type: ignore[attr-defined]
    async with shop.stores.pg.read() as read:
        assert link.rsplit("/", 1)[1] not in str(await read.fetch("SELECT * FROM mailed_links"))
    weak = await client.post(link, json={"password": "12345678"})
    assert weak.status_code == 422
    new = {"password": "difference engine"}
    answers = await asyncio.gather(*(client.post(link, json=new) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [204, 410, 410]
    assert (await client.get("/users/me", headers=_bearer(signed))).status_code == 401
    stale = await client.post("/sessions/refresh", json={"refreshToken": signed["refreshToken"]})
    assert stale.status_code == 401
    assert (await client.post("/sessions", json=ADA)).status_code == 401
    me = await client.get("/users/me", headers=_bearer(await _sign_in(client, **new)))
    assert me.json()["emailVerified"]  # whoever has the link has the mailbox


async def test_an_unknown_address_is_answered_the_same_and_gets_no_mail(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    known = await client.post("/password-resets", json={"email": "ada@example.com"})
    unknown = await client.post("/password-resets", json={"email": "nobody@example.com"})
    no_address = await client.post("/password-resets", json={"email": "nobody"})
    assert [(answer.status_code, answer.content) for answer in (known, unknown, no_address)] == [(202, b"")] * 3
    assert len(await _resets(shop)) == 1
    assert (await client.post("/password-resets", json={"email": {"$gt": ""}})).status_code == 422


async def test_the_newer_link_still_works_and_using_one_closes_the_others(
    client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop
) -> None:
    links = []
    for _ in range(3):
        await client.post("/password-resets", json={"email": "ada@example.com"})
        links.append(await _link(shop))
    answers = await asyncio.gather(*(client.post(link, json={"password": "difference engine"}) for link in links))
    assert sorted(answer.status_code for answer in answers) == [204, 410, 410]


async def test_nobodys_mailbox_is_filled(client: httpx.AsyncClient, ada: dict[str, Any], shop: Shop) -> None:
    asked = [client.post("/password-resets", json={"email": "ada@example.com"}) for _ in range(15)]
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {202}
    assert len(await _resets(shop)) == 10


async def test_a_link_of_nobodys_is_gone(client: httpx.AsyncClient) -> None:
    for token in ("x", "x" * 43, "%C3%A9"):
        answer = await client.post(f"/password-resets/{token}", json={"password": "difference engine"})
        assert answer.status_code == 410


async def test_links_and_sessions_run_out(
    client: httpx.AsyncClient, ada: dict[str, Any], app: FastAPI, shop: Shop
) -> None:
    clock = FixedClock(datetime.now(UTC))
    app.state.shop = later = Shop(shop.settings, shop.stores, clock, shop.mail)
    signed = await _sign_in(client)
    await client.post("/password-resets", json={"email": "ada@example.com"})
    link = await _link(later)
    clock.advance(shop.settings.access_ttl)
    assert (await client.get("/users/me", headers=_bearer(signed))).status_code == 401
    clock.advance(3600 - shop.settings.access_ttl)
    assert (await client.post(link, json={"password": "difference engine"})).status_code == 410
    fresh = await client.post("/sessions/refresh", json={"refreshToken": signed["refreshToken"]})
    assert fresh.status_code == 201
    clock.advance(shop.settings.refresh_ttl)
    stale = await client.post("/sessions/refresh", json={"refreshToken": fresh.json()["refreshToken"]})
    assert stale.status_code == 401
    async with shop.stores.pg.tx() as tx:
        await accounts.sweep(tx, later.clock.now())
        assert await tx.fetchval("SELECT count(*) FROM sessions") == 0
        assert await tx.fetchval("SELECT count(*) FROM mailed_links") == 0


async def test_a_forged_token_opens_nothing(client: httpx.AsyncClient, ada: dict[str, Any]) -> None:
    good = (await _sign_in(client))["accessToken"]
    forged = good[:-10] + ("A" if good[-10] != "A" else "B") + good[-9:]
    for header in (f"Bearer {forged}", "Bearer", "Bearer ", f"Basic {good}", good):
        answer = await client.get("/users/me", headers={"Authorization": header})
        assert answer.status_code == 401, header
        assert "Bearer" in answer.headers["WWW-Authenticate"]
    for header in (f"Bearer {good}", f"bearer   {good}"):
        assert (await client.get("/users/me", headers={"Authorization": header})).status_code == 200


async def test_signing_in_and_out_goes_on_while_redis_is_away(
    client: httpx.AsyncClient, ada: dict[str, Any], app: FastAPI, shop: Shop
) -> None:
    settings = shop.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    async with open_stores(settings) as stores:
        app.state.shop = Shop(settings, stores, mail=shop.mail)
        signed = await _sign_in(client)
        assert (await client.post("/sessions", json={**ADA, "password": "wrong one"})).status_code == 401
        assert (await client.post("/password-resets", json={"email": "ada@example.com"})).status_code == 202
        assert (await client.delete("/sessions/current", headers=_bearer(signed))).status_code == 204
        stale = await client.post("/sessions/refresh", json={"refreshToken": signed["refreshToken"]})
        assert stale.status_code == 401


async def test_the_other_rooms_learn_names_not_addresses(shop: Shop) -> None:
    async with shop.stores.pg.tx() as tx:
        named = await accounts.create_user(tx, "a@example.com", None, "Ada")
        nameless = await accounts.create_user(tx, "b@example.com", None)
        assert await accounts.names(tx, [named.id, nameless.id]) == {named.id: "Ada"}
        assert await accounts.exists(tx, nameless.id)
        with pytest.raises(accounts.EmailTaken):
            await accounts.create_user(tx, "A@example.com", None)
        assert await accounts.names(tx, []) == {}  # the transaction goes on


async def test_a_session_ends_once_even_when_its_owner_is_gone(shop: Shop, client: httpx.AsyncClient) -> None:
    async with shop.stores.pg.tx() as tx:
        user = await accounts.create_user(tx, "gone@example.com", None)
        session = await accounts.start_session(tx, user.id, shop.clock.now(), shop.settings)
        await tx.execute("DELETE FROM users WHERE id = $1", user.id)
    token = tokens.issue(shop.settings, Principal(user.id, frozenset(), session.id), datetime.now(UTC))
    headers = {"Authorization": f"Bearer {token}"}
    assert (await client.get("/users/me", headers=headers)).status_code == 401
    assert (await client.delete("/sessions/current", headers=headers)).status_code == 204
