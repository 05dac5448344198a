"""Roles: given and taken at once, and somebody always left to give them."""

import asyncio
import sys
from typing import Any

import httpx
import pytest

from conftest import SignIn
from floor import Floor, made, walked
from quartet import access, cli
from quartet.stores import open_stores
from quartet.web import limits
from quartet.web.dependencies import Shop

PERSON = {"email": "ada@example.com", "password": "correct horse battery"}


async def _person(floor: Floor, *roles: str) -> tuple[str, dict[str, Any]]:
    """An account that has signed in by itself: its id and tokens."""
    user = await made(floor.guest.post("/users", json=PERSON))
    if roles:
        await made(floor.admin.patch(f"/users/{user['id']}/roles", json={"roles": list(roles)}))
    return user["id"], await made(floor.guest.post("/sessions", json=PERSON))


def _bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['accessToken']}"}


async def test_a_role_is_taken_at_once_and_a_renewed_token_is_right(floor: Floor) -> None:
    user_id, tokens = await _person(floor, "staff")
    assert (await floor.guest.get("/inventory", headers=_bearer(tokens))).status_code == 200
    changed = await made(floor.admin.patch(f"/users/{user_id}/roles", json={"roles": []}))
    assert changed["roles"] == []
    refused = await floor.guest.get("/inventory", headers=_bearer(tokens))
    assert refused.status_code == 401
    assert "renew" in refused.json()["detail"]
    tokens = await made(floor.guest.post("/sessions/refresh", json={"refreshToken": tokens["refreshToken"]}))
    assert (await floor.guest.get("/inventory", headers=_bearer(tokens))).status_code == 403
    assert (await floor.guest.get("/users/me", headers=_bearer(tokens))).status_code == 200


async def test_a_role_is_given_at_once(floor: Floor) -> None:
    user_id, tokens = await _person(floor)
    await made(floor.admin.patch(f"/users/{user_id}/roles", json={"roles": ["admin", "staff"]}))
    assert (await floor.guest.get("/users/me", headers=_bearer(tokens))).status_code == 401
    tokens = await made(floor.guest.post("/sessions/refresh", json={"refreshToken": tokens["refreshToken"]}))
    assert (await floor.guest.get("/audit-log", headers=_bearer(tokens))).status_code == 200


async def test_two_changes_told_in_the_wrong_order_do_no_harm(floor: Floor) -> None:
    user_id, tokens = await _person(floor, "staff")
    await floor.shop.stores.redis.call("SET", f"roles:{{{user_id}}}", "", "EX", 900)  # an older word that came later
    for _ in range(2):
        assert (await floor.guest.get("/inventory", headers=_bearer(tokens))).status_code == 200
    assert await floor.shop.stores.redis.call("GET", f"roles:{{{user_id}}}") == limits.joined_roles(["staff"])


async def test_without_redis_staff_are_asked_after_in_postgresql(floor: Floor) -> None:
    user_id, tokens = await _person(floor, "staff")
    away = floor.shop.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    async with open_stores(away) as stores:
        floor.app.state.shop = Shop(away, stores)
        assert (await floor.guest.get("/inventory", headers=_bearer(tokens))).status_code == 200
        assert (await floor.admin.patch(f"/users/{user_id}/roles", json={"roles": []})).status_code == 200
        assert (await floor.guest.get("/inventory", headers=_bearer(tokens))).status_code == 401
    floor.app.state.shop = floor.shop
    await access.republish_revocations(floor.shop)
    refused = await floor.guest.get("/inventory", headers=_bearer(tokens))
    assert (refused.status_code, "renew" in refused.json()["detail"]) == (401, True)


async def test_without_redis_and_postgresql_shoppers_look_on_and_staff_do_not(floor: Floor) -> None:
    nowhere = {"redis_url": "redis://127.0.0.1:1/0", "postgres_url": "postgresql://nobody@127.0.0.1:1/x"}
    away = floor.shop.settings.model_copy(update=nowhere)
    async with open_stores(away) as stores:
        floor.app.state.shop = Shop(away, stores)
        for _ in range(3):  # also once it is known that PostgreSQL is away
            assert (await floor.shopper.get("/products")).status_code == 200
            assert (await floor.staff.get("/products")).status_code == 503


async def test_the_last_admin_stays(floor: Floor) -> None:
    me = floor.admin.user_id  # type: ignore[attr-defined]
    refused = await floor.admin.patch(f"/users/{me}/roles", json={"roles": ["staff"]})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/last-admin")
    assert (await floor.admin.get("/audit-log")).status_code == 200
    other = floor.staff.user_id  # type: ignore[attr-defined]
    await made(floor.admin.patch(f"/users/{other}/roles", json={"roles": ["admin"]}))
    await made(floor.admin.patch(f"/users/{me}/roles", json={"roles": []}))
    async with floor.shop.stores.pg.tx() as tx:
        with pytest.raises(Exception, match="the last admin stays"):
            await tx.execute("DELETE FROM users WHERE id = $1", other)


async def test_two_admins_who_depose_each_other_leave_one(floor: Floor, sign_in: SignIn) -> None:
    for _ in range(10):
        rival = await sign_in("admin")
        pair: list[httpx.AsyncClient] = [floor.admin, rival]
        answers = await asyncio.gather(
            *(
                one.patch(f"/users/{other.user_id}/roles", json={"roles": []})  # type: ignore[attr-defined]
                for one, other in (pair, pair[::-1])
            )
        )
        async with floor.shop.stores.pg.read() as read:
            left = await read.fetchval("SELECT count(*) FROM users WHERE 'admin' = ANY (roles)")
        assert left >= 1, [answer.text for answer in answers]
        async with floor.shop.stores.pg.tx() as tx:
            await tx.execute("UPDATE users SET roles = '{admin}' WHERE id = $1", floor.admin.user_id)  # type: ignore[attr-defined]
            await tx.execute("UPDATE users SET roles = '{}' WHERE id = $1", rival.user_id)  # type: ignore[attr-defined]
        await floor.shop.stores.redis.call("FLUSHDB")


async def test_people_are_found_by_how_their_address_begins(floor: Floor) -> None:
    for name in ("bob", "bobby", "bo_b", "b%", "zoe"):
        await made(floor.guest.post("/users", json=PERSON | {"email": f"{name}@example.org"}))
    found = await made(floor.staff.get("/users", params={"email": "BOB"}))
    assert [person["email"] for person in found["items"]] == ["bob@example.org", "bobby@example.org"]
    assert "password" not in str(found).lower()
    pages = [person["email"] for person in await walked(floor.staff, "/users", 2)]
    assert pages == sorted(pages)
    assert len(pages) == 5 + 3
    assert (await floor.shopper.get("/users")).status_code == 403


async def test_roles_are_only_those_there_are(floor: Floor) -> None:
    user_id = floor.shopper.user_id  # type: ignore[attr-defined]
    for roles in (["owner"], ["staff", "staff", "staff"], "admin", None, [None]):
        assert (await floor.admin.patch(f"/users/{user_id}/roles", json={"roles": roles})).status_code == 422
    nobody = "0197a0a0-0000-7000-8000-000000000000"
    assert (await floor.admin.patch(f"/users/{nobody}/roles", json={"roles": []})).status_code == 404


def _command(shop: Shop, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    for name in ("postgres_url", "mongodb_url", "redis_url", "search_url", "data_dir"):
        monkeypatch.setenv(f"QUARTET_{name.upper()}", str(getattr(shop.settings, name)))
    monkeypatch.setattr(sys, "argv", ["quartet", "roles", *words])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


async def test_the_command_line_makes_the_first_admin(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user_id, tokens = await _person(floor)

    async def command(*words: str) -> tuple[int, str]:
        capsys.readouterr()  # what was said before
        status = await asyncio.to_thread(_command, floor.shop, monkeypatch, *words)
        said = capsys.readouterr()
        return status, said.out + said.err

    assert await command("Ada@Example.com") == (0, "ada@example.com: no role\n")
    assert await command("ada@example.com", "staff", "admin") == (0, "ada@example.com: admin, staff\n")
    assert (await floor.guest.get("/users/me", headers=_bearer(tokens))).status_code == 401, "it is told at once"
    tokens = await made(floor.guest.post("/sessions", json=PERSON))
    log = (await floor.guest.get("/audit-log", params={"subject": f"user:{user_id}"}, headers=_bearer(tokens))).json()
    assert log["items"][0]["actor"] == "command line"
    assert log["items"][0]["after"] == {"roles": ["admin", "staff"]}
    assert await command("ada@example.com", "none") == (0, "ada@example.com: no role\n")
    status, said = await command("ada@example.co", "admin")
    assert status == 1
    assert "nobody has an account by ada@example.co" in said
    assert (await command("ada@example.com", "none", "staff"))[0] == 1
