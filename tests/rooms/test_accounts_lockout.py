"""Guessing passwords gets slower and slower, for an account and from an address, and never keeps others out."""

import asyncio
from uuid import uuid4

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI

from quartet import accounts
from quartet.accounts import lockout, passwords
from quartet.accounts.lockout import Buckets
from quartet.accounts.model import TooManyAttempts
from quartet.stores import Stores, open_stores
from quartet.web.dependencies import Shop

ADA = {"email": "ada@example.com", "password": "analytical engine"}
START = 1_800_000_000_000


@pytest.fixture
def buckets() -> Buckets:
    """An account's ten, an address's hundred."""
    name = uuid4().hex
    return Buckets((f"test:{{x}}:{name}:account", f"test:{{x}}:{name}:address"), (10, 100))


async def _refused(stores: Stores, buckets: Buckets, now: int) -> int:
    """Seconds to wait; 0 when a try would be counted."""
    try:
        await lockout.check(stores, buckets, now_ms=now)
    except TooManyAttempts as refused:
        assert refused.retry_after is not None
        return refused.retry_after
    return 0


async def test_each_further_wrong_password_doubles_the_wait_up_to_a_quarter_of_an_hour(
    shop: Shop, buckets: Buckets
) -> None:
    stores, now = shop.stores, START
    for _ in range(10):
        assert await _refused(stores, buckets, now) == 0
        await lockout.count_try(stores, buckets, now_ms=now)
    waits = []
    for _ in range(8):
        waits.append(await _refused(stores, buckets, now))
        with pytest.raises(TooManyAttempts):  # a try while it is closed is not counted and does not make it longer
            await lockout.count_try(stores, buckets, now_ms=now + 1000)
        now += waits[-1] * 1000
        await lockout.count_try(stores, buckets, now_ms=now)
    assert waits == [60, 120, 240, 480, 900, 900, 900, 900]
    assert 0 < await stores.redis.call("PTTL", buckets.keys[0]) <= 12 * 3600 * 1000


async def test_a_server_whose_clock_is_behind_keeps_nobody_out_for_longer_than_a_quarter_of_an_hour(
    shop: Shop, buckets: Buckets
) -> None:
    """As after a failover."""
    stores = shop.stores
    for _ in range(10):
        await lockout.count_try(stores, buckets, now_ms=START)
    assert await _refused(stores, buckets, START - 840_000) == 900
    hour_behind = START - 3_600_000
    assert await _refused(stores, buckets, hour_behind) == 0
    await lockout.count_try(stores, buckets, now_ms=hour_behind)  # the wrong passwords are not forgotten
    assert await _refused(stores, buckets, hour_behind) == 120


async def test_time_forgets_wrong_passwords_little_by_little(shop: Shop, buckets: Buckets) -> None:
    stores = shop.stores
    for _ in range(10):
        await lockout.count_try(stores, buckets, now_ms=START)
    later = START + 3 * 3600 * 1000  # half of them are forgotten
    for _ in range(5):
        await lockout.count_try(stores, buckets, now_ms=later)
    assert await _refused(stores, buckets, later) == 60
    for _ in range(9):
        await lockout.count_try(stores, buckets, now_ms=later + 7 * 3600 * 1000)
    assert await _refused(stores, buckets, later + 7 * 3600 * 1000) == 0


async def test_the_right_password_empties_the_accounts_bucket_and_takes_its_own_try_off_the_addresss(
    shop: Shop, buckets: Buckets
) -> None:
    stores, now = shop.stores, START
    account, address = buckets.keys
    for n in range(100):  # somebody in the office goes through a hundred accounts
        await lockout.count_try(stores, Buckets((f"{account}{n}", address), (10, 100)), now_ms=now)
    assert await _refused(stores, buckets, now) == 60
    now += 60_000
    tried = await lockout.count_try(stores, buckets, now_ms=now)
    assert await _refused(stores, buckets, now) == 120
    await lockout.record_success(stores, tried, now_ms=now)
    assert await _refused(stores, buckets, now) == 0  # the next colleague need not wait
    assert await stores.redis.call("EXISTS", account) == 0
    await lockout.count_try(stores, buckets, now_ms=now)
    assert await _refused(stores, buckets, now) == 120  # but a wrong one is one too many still


async def test_no_number_of_tries_at_once_gets_past_the_limit(shop: Shop, buckets: Buckets) -> None:
    tries = [lockout.count_try(shop.stores, buckets) for _ in range(200)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, lockout.CountedTry) for one in done) == 10


# Two customers, and the first of them once more, who has all of an IPv6 /64.
V4 = ("192.0.2.7", "192.0.2.8", "192.0.2.7")
V6 = ("2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:1:2:ffff::9")


@pytest.mark.parametrize(("form", "addresses"), [("{}", V4), ("{}:{port}", V4), ("{}", V6), ("[{}]:{port}", V6)])
async def test_wrong_passwords_from_one_address_close_it_but_not_for_the_neighbours(
    app: FastAPI, client: httpx.AsyncClient, shop: Shop, form: str, addresses: tuple[str, ...]
) -> None:
    """However a proxy writes it, with the port of each connection too."""
    settings = shop.settings.model_copy(update={"limit_address_failures": 3, "trust_proxy": True})
    app.state.shop = Shop(settings, shop.stores, mail=shop.mail)
    assert (await client.post("/users", json=ADA)).status_code == 201
    here, there, again = (
        {"X-Forwarded-For": f"203.0.113.9, {form.format(address, port=40_000 + n)}"}
        for n, address in enumerate(addresses)
    )
    for n in range(3):
        wrong = {"email": f"nobody{n}@example.com", "password": "a guess or two"}
        assert (await client.post("/sessions", json=wrong, headers=here)).status_code == 401
    for headers in (here, again):
        refused = await client.post("/sessions", json=ADA, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-attempts")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert (await client.post("/sessions", json=ADA, headers=there)).status_code == 201


async def test_an_account_that_has_to_wait_costs_no_hash_and_looks_like_one_that_is_not_there(
    client: httpx.AsyncClient, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await client.post("/users", json=ADA)).status_code == 201
    for email in ("ada@example.com", "nobody@example.com"):
        for n in range(10):
            assert (await client.post("/sessions", json={"email": email, "password": f"guess {n}"})).status_code == 401

    def never(*_: object) -> bool:
        raise AssertionError("hashed")

    monkeypatch.setattr(passwords, "_ask", never)
    told = []
    for email in ("ada@example.com", "nobody@example.com"):
        refused = await client.post("/sessions", json={**ADA, "email": email})
        assert refused.status_code == 429
        told.append({**refused.json(), "instance": ""})
    assert told[0] == told[1]
    async with shop.stores.pg.read() as read:
        assert await read.fetchval("SELECT count(*) FROM sessions") == 0
    keys = await shop.stores.redis.call("KEYS", "*")
    assert not [key for key in keys if "ada" in key or "example" in key]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users/me/password", {"currentPassword": "a guess or two", "newPassword": "difference engine"}),
        ("POST", "/users/me/email", {"email": "byron@example.com", "password": "a guess or two"}),
        ("DELETE", "/users/me", {"password": "a guess or two"}),
    ],
)
async def test_what_asks_for_the_password_is_no_way_to_guess_it(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, str]
) -> None:
    assert (await client.post("/users", json=ADA)).status_code == 201
    token = (await client.post("/sessions", json=ADA)).json()["accessToken"]
    headers = {"Authorization": f"Bearer {token}"}
    tries = [client.request(method, path, json=body, headers=headers) for _ in range(13)]
    assert sorted(answer.status_code for answer in await asyncio.gather(*tries)) == [422] * 10 + [429] * 3


async def test_while_redis_is_away_this_process_counts_for_itself_and_more_strictly(
    app: FastAPI, client: httpx.AsyncClient, shop: Shop
) -> None:
    settings = shop.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    assert (await client.post("/users", json=ADA)).status_code == 201
    async with open_stores(settings) as stores:
        app.state.shop = Shop(settings, stores, mail=shop.mail)
        for _ in range(8):
            assert (await client.post("/sessions", json=ADA)).status_code == 201
        tries = [client.post("/sessions", json={**ADA, "password": f"guess {n}"}) for n in range(8)]
        answers = await asyncio.gather(*tries)
        assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 3
        refused = await client.post("/sessions", json=ADA)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 901
    app.state.shop = shop
    assert (await client.post("/sessions", json=ADA)).status_code == 201


OLD = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1)


async def _with_an_old_hash(shop: Shop) -> None:
    async with shop.stores.pg.tx() as tx:
        await accounts.create_user(tx, ADA["email"], OLD.hash(ADA["password"]))


async def _hash(shop: Shop) -> str:
    async with shop.stores.pg.read() as read:
        return str(await read.fetchval("SELECT password_hash FROM users"))


async def test_a_hash_of_another_cost_is_made_anew_at_the_next_sign_in(client: httpx.AsyncClient, shop: Shop) -> None:
    await _with_an_old_hash(shop)
    old = await _hash(shop)
    assert (await client.post("/sessions", json={**ADA, "password": "a guess or two"})).status_code == 401
    assert await _hash(shop) == old
    answers = await asyncio.gather(*(client.post("/sessions", json=ADA) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {201}
    renewed = await _hash(shop)
    assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await client.post("/sessions", json=ADA)).status_code == 201
    assert await _hash(shop) == renewed


async def test_a_password_changed_meanwhile_is_not_put_back(
    app: FastAPI, client: httpx.AsyncClient, shop: Shop
) -> None:
    """The old hash is right and about to be renewed when the password is changed elsewhere."""
    await _with_an_old_hash(shop)
    fresh = await accounts.hash_password(shop, "difference engine")

    async def change(name: str) -> None:
        if name == "password checked":
            async with shop.stores.pg.tx() as tx:
                await tx.execute("UPDATE users SET password_hash = $1", fresh)

    app.state.shop = Shop(shop.settings, shop.stores, mail=shop.mail, step=change)
    assert (await client.post("/sessions", json=ADA)).status_code == 401
    assert await _hash(shop) == fresh


async def test_a_turn_that_does_not_come_is_not_waited_for(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "LONGEST_WAIT", 0.05)
    people = [{"email": f"p{n}@example.com", "password": "a good password"} for n in range(20)]
    answers = await asyncio.gather(*(client.post("/users", json=person) for person in people))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {201, 429}
    busy = next(answer for answer in answers if answer.status_code == 429)
    assert (busy.json()["type"], busy.headers["Retry-After"]) == ("/problems/busy", "3")


async def test_a_crowd_at_the_door_is_sent_away_before_any_store_is_asked(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop
) -> None:
    """Two hundred sign in at once: as many as may wait get in, the others are told to come again, and the shop's other
    requests are served meanwhile."""
    settings = shop.settings.model_copy(update={"password_queue": 8, "server_timing": True})
    app.state.shop = Shop(settings, shop.stores, mail=shop.mail)
    assert (await client.post("/users", json=ADA)).status_code == 201
    crowd = asyncio.gather(*(client.post("/sessions", json=ADA) for _ in range(200)))
    served = 0
    while not crowd.done():
        assert (await client.get("/products?limit=1")).status_code == 200
        served += 1
    answers = await crowd
    assert sorted(answer.status_code for answer in answers) == [201] * 9 + [429] * 191
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {(answer.json()["type"], answer.headers["Retry-After"]) for answer in refused} == {("/problems/busy", "3")}
    assert not any("Server-Timing" in answer.headers for answer in refused)
    assert served >= 3
