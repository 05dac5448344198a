"""Who goes is forgotten in every store, wherever the process dies meanwhile; and may take along what is held."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from stops import Killed, dies_at

from conftest import SignIn, stuck
from quartet import accounts, orders, sync
from quartet.privacy.service import FRESH
from quartet.stores.mongo import Collection, Mongo
from quartet.sync import relay
from quartet.web.dependencies import Shop

EMAIL, NAME, PHONE, STREET = "zenobia.planted@example.com", "Zenobia Planted", "+44 20 7946 1234", "77 Palmyra Row"
AGENT, NOTE = "ZenobiaPhone/9.9", "for my aunt Odaenathus"
PASSWORD = "the desert queen"
PLANTED = (EMAIL, "zenobia", NAME, PHONE, STREET, AGENT, NOTE, "Odaenathus")
HOME = {"name": NAME, "line1": STREET, "city": "London", "postalCode": "N1 1AA", "country": "GB", "phone": PHONE}
PAYMENT = {"provider": "sandbox", "paymentMethod": "card_ok"}
STEPS = ("person erased", "tokens refused", "cart forgotten", "points forgotten", "reviews unsigned")


@pytest.fixture
async def stocked(staff: httpx.AsyncClient) -> None:
    """A mug, and many of them."""
    await _made(staff.put("/categories/things", json={"name": "Things", "attrs": {"type": "object"}}))
    mug = {"sku": "MUG", "name": "Potter's Mug", "category": "things", "priceCents": 500, "attrs": {}}
    await _made(staff.post("/products", json=mug))
    await _made(staff.post("/inventory/MUG/movements", json={"delta": 1000, "reason": "received"}))


async def _made(call: Any) -> Any:
    answer: httpx.Response = await call
    assert answer.is_success, (answer.request.method, answer.request.url, answer.text)
    return answer.json() if answer.content else None


async def _sign_in(client: httpx.AsyncClient, email: str = EMAIL) -> dict[str, str]:
    who = {"email": email, "password": PASSWORD}
    signed = await _made(client.post("/sessions", json=who, headers={"User-Agent": AGENT}))
    return {
        "Authorization": f"Bearer {signed['accessToken']}",
        "User-Agent": AGENT,
        "X-Refresh": signed["refreshToken"],
    }


async def _order(client: httpx.AsyncClient, key: str, headers: dict[str, str], **other: Any) -> dict[str, Any]:
    body = {"items": [{"sku": "MUG", "qty": 2}], "metadata": {"note": NOTE, "call": PHONE}} | other
    found: dict[str, Any] = await _made(
        client.post("/orders", json=body, headers=headers | {"Idempotency-Key": f"{NOTE} {key}"})
    )
    return found


async def _pay(client: httpx.AsyncClient, order: dict[str, Any], headers: dict[str, str], **other: Any) -> Any:
    body = PAYMENT | {"orderId": order["id"]} | other
    return await _made(
        client.post("/payments", json=body, headers=headers | {"Idempotency-Key": f"{NOTE} pay {order['id']}"})
    )


async def _refund(staff: httpx.AsyncClient, order_id: object) -> httpx.Response:
    headers = {"Idempotency-Key": "refund"}
    return await staff.post(f"/orders/{order_id}/refunds", json={"amountCents": 100}, headers=headers)


async def _live(client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient) -> tuple[UUID, dict[str, str]]:
    """Somebody who leaves traces everywhere."""
    guest = await client.post("/users", json={"email": EMAIL, "password": PASSWORD, "displayName": NAME})
    user_id = UUID(guest.json()["id"])
    headers = await _sign_in(client)
    await _made(client.post("/users/me/addresses", json=HOME, headers=headers))
    async with shop.stores.pg.tx() as tx:
        minted = await accounts.mint_verification(tx, user_id, EMAIL, shop.clock.now())
    assert minted
    await _made(client.post(f"/email-verifications/{minted[1]}"))
    paid = await _order(client, "paid", headers)
    await _pay(client, paid, headers)
    await _made(staff.post(f"/orders/{paid['id']}/ship", headers={"Idempotency-Key": "ship"}))
    await _made(_refund(staff, paid["id"]))
    await _order(client, "unpaid", headers)
    hook = {"url": "https://93.184.216.34/hook", "events": ["*"]}  # never asked: no worker runs here
    await _made(staff.post("/webhook-endpoints", json=hook))
    as_guest = await _order(client, "guest", {"X-Cart-Token": "x" * 43}, email=EMAIL)
    await _made(staff.post(f"/orders/{as_guest['id']}/cancel", headers={"Idempotency-Key": "cancel"}))
    review = {"rating": 5, "title": "Good", "body": "Holds tea."}
    await _made(client.post("/products/MUG/reviews", json=review, headers=headers))
    await _made(client.post("/cart/items", json={"sku": "MUG", "qty": 3}, headers=headers))
    await client.post("/sessions", json={"email": EMAIL, "password": "a guess or two"})
    await _made(client.post("/password-resets", json={"email": EMAIL}))
    await _made(client.post("/users/me/email", json={"email": "x." + EMAIL, "password": PASSWORD}, headers=headers))
    await sync.catch_up(shop)
    async with shop.stores.pg.tx() as tx:  # what could not be carried, and said why
        await tx.execute(
            "INSERT INTO dead_letters (pipeline, key, payload, reason) VALUES ('mails', 'x', $1, $2)",
            {"user_id": str(user_id)}, f"MailRefused: no mailbox {EMAIL}",
        )  # fmt: skip
    return user_id, headers


async def _traces(shop: Shop, needles: tuple[str, ...] = PLANTED) -> set[str]:
    """Where any of these can be read, in any store."""
    found: set[str] = set()

    def look(where: str, text: str) -> None:
        for needle in needles:
            if needle.lower() in text.lower() or needle.encode().hex() in text.lower():
                found.add(f"{where}: {needle}")

    async with shop.stores.pg.read() as read:
        tables = await read.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        assert len(tables) > 20
        for table in tables:
            for row in await read.fetch(f"SELECT t::text AS text FROM {table['name']} t"):
                look(f"postgres {table['name']}", row["text"])
    redis = shop.stores.redis
    for key in await redis.call("KEYS", "*"):
        kind = await redis.call("TYPE", key)
        look(f"redis {key}", f"{key} {await redis.call(*_READ[kind](key))}")
    for name in ("products", "categories", "reviews", "product_references", "withdrawn_skus"):
        async for documents in shop.stores.mongo.collection(name).scan({}):
            for document in documents:
                look(f"mongodb {name}", str(document))
    await shop.stores.search.refresh(shop.settings.search_alias)
    hits = await shop.stores.search.search(shop.settings.search_alias, {"query": {"match_all": {}}, "size": 1000})
    for hit in hits["hits"]["hits"]:
        look("search", str(hit))
    return found


_READ: dict[str, Any] = {
    "string": lambda key: ("GET", key),
    "hash": lambda key: ("HGETALL", key),
    "zset": lambda key: ("ZRANGE", key, 0, -1),
    "set": lambda key: ("SMEMBERS", key),
    "list": lambda key: ("LRANGE", key, 0, -1),
}


async def _delete(client: httpx.AsyncClient, headers: dict[str, str], **body: str) -> httpx.Response:
    return await client.request("DELETE", "/users/me", json=body, headers=headers)


async def _books(shop: Shop) -> list[Any]:
    async with shop.stores.pg.read() as read:
        return [
            *await read.fetch("SELECT id, status, total_cents, captured_cents, refunded_cents FROM orders ORDER BY id"),
            *await read.fetch("SELECT id, order_id, provider_ref, amount_cents, status FROM payments ORDER BY id"),
            *await read.fetch("SELECT * FROM refunds ORDER BY id"),
            *await read.fetch("SELECT * FROM inventory_movements ORDER BY id"),
            *await read.fetch("SELECT sku, stock, reserved FROM inventory ORDER BY sku"),
        ]


async def test_whoever_goes_is_forgotten_in_every_store_and_the_books_stay(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    user_id, headers = await _live(client, shop, staff)
    other = await _sign_in(client)
    before = await _traces(shop)
    for store in ("postgres public.users", "postgres public.sessions", "postgres public.addresses",
                  "postgres public.orders", "postgres public.idempotency_keys", "postgres public.dead_letters",
                  "postgres public.payments", "postgres public.webhook_deliveries", "mongodb reviews"):  # fmt: skip
        assert any(trace.startswith(store) for trace in before), store  # the search does find what is there
    books = await _books(shop)
    assert (await _delete(client, headers, password="a guess or two")).status_code == 422
    assert (await _delete(client, headers)).status_code == 422
    assert (await _delete(client, headers, password=PASSWORD)).status_code == 204
    for signed in (headers, other):
        for path in ("/users/me", "/orders"):
            assert (await client.get(path, headers=signed)).status_code == 401
        refreshed = await client.post("/sessions/refresh", json={"refreshToken": signed["X-Refresh"]})
        assert refreshed.status_code == 401
    await sync.catch_up(shop)
    assert await _traces(shop) == set()
    async with shop.stores.pg.read() as read:
        again = await _refund(staff, await read.fetchval("SELECT order_id FROM refunds"))
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert await _books(shop) == books
    assert await shop.stores.redis.call("EXISTS", f"cart:{{{user_id}}}") == 0
    assert (await client.get("/leaderboard")).json()["items"] == []
    reviews = (await client.get("/products/MUG/reviews")).json()["items"]
    assert [(review["author"], review["rating"]) for review in reviews] == [(None, 5)]
    assert (await client.post("/sessions", json={"email": EMAIL, "password": PASSWORD})).status_code == 401
    anew = await client.post("/users", json={"email": EMAIL, "password": PASSWORD})
    assert anew.status_code == 201
    assert anew.json()["id"] != str(user_id)


async def test_every_table_that_refers_to_people_is_known_to_the_erasure(shop: Shop) -> None:
    """A new one belongs into `privacy.erase`, unless it only keeps the id, and into `privacy.export`."""
    emptied = {"addresses", "api_keys", "mailed_links", "sessions"}
    kept = {"credits", "orders", "xp_grants"}  # refer to the emptied row of `users`, or no longer to any
    async with shop.stores.pg.read() as read:
        rows = await read.fetch(
            "SELECT DISTINCT conrelid::regclass::text AS name FROM pg_constraint "
            "WHERE contype = 'f' AND confrelid = 'users'::regclass"
        )
    assert {row["name"] for row in rows} == emptied | kept


async def test_an_address_that_the_account_had_before_is_forgotten_too(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    await _made(staff.post("/webhook-endpoints", json={"url": "https://93.184.216.34/hook", "events": ["*"]}))
    bought = {"items": [{"sku": "MUG", "qty": 1}], "email": EMAIL}
    for relayed in (True, False):  # one is told by now, one waits to be carried
        made = await _made(client.post("/orders", json=bought, headers={"Idempotency-Key": f"{relayed}"}))
        await _made(staff.post(f"/orders/{made['id']}/cancel"))
        if relayed:
            await sync.catch_up(shop)
            event = {"key": made["id"], "payload": {"order_id": made["id"], "email": EMAIL}}
            async with shop.stores.pg.tx() as tx:
                sql = "INSERT INTO dead_letters (pipeline, key, payload, reason) VALUES ('outbox', 'x', $1, 'broken')"
                await tx.execute(sql, event)
    now = "palmyra@example.com"
    user_id = UUID((await _made(client.post("/users", json={"email": EMAIL, "password": PASSWORD})))["id"])
    headers = await _sign_in(client)
    for address in (EMAIL, now):
        if address == now:
            body = {"email": now, "password": PASSWORD}
            await _made(client.post("/users/me/email", json=body, headers=headers))
        async with shop.stores.pg.tx() as tx:
            minted = await accounts.mint_verification(tx, user_id, address, shop.clock.now())
        assert minted
        await _made(client.post(f"/email-verifications/{minted[1]}"))
    where = {trace.partition(":")[0] for trace in await _traces(shop, (EMAIL,))}
    tables = ("webhook_deliveries", "outbox", "dead_letters")
    assert where >= {f"postgres public.{table}" for table in tables}
    assert (await _delete(client, headers, password=PASSWORD)).status_code == 204
    assert await _traces(shop, (EMAIL, now)) == set()


@pytest.mark.parametrize("theirs", ["e@gmail.com", "joe@gmail.com"])
async def test_an_account_by_an_address_that_nobody_proved_takes_nothing_of_others_along(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None, theirs: str
) -> None:
    """One whose address is the end of another's, and one that somebody made by another's."""
    await _made(staff.post("/webhook-endpoints", json={"url": "https://93.184.216.34/hook", "events": ["*"]}))
    joe = {"items": [{"sku": "MUG", "qty": 1}], "email": "joe@gmail.com"}, {"Idempotency-Key": "of Joe"}
    bought = await _made(client.post("/orders", json=joe[0], headers=joe[1]))
    await _made(staff.post(f"/orders/{bought['id']}/cancel"))
    await sync.catch_up(shop)
    async with shop.stores.pg.tx() as tx:
        sql = "INSERT INTO dead_letters (pipeline, key, payload, reason) VALUES ('outbox', 'x', $1, 'broken')"
        await tx.execute(sql, {"key": bought["id"], "payload": {"email": "joe@gmail.com"}})
    waits = await _made(client.post("/orders", json=joe[0]))
    await _made(staff.post(f"/orders/{waits['id']}/cancel"))
    before = await _traces(shop, ("joe@gmail.com",))
    await _made(client.post("/users", json={"email": theirs, "password": PASSWORD}))
    headers = await _sign_in(client, theirs)
    assert (await _delete(client, headers, password=PASSWORD)).status_code == 204
    assert await _traces(shop, ("joe@gmail.com",)) == before
    again = await client.post("/orders", json=joe[0], headers=joe[1])
    assert (again.json()["id"], again.headers["Idempotent-Replayed"]) == (bought["id"], "true")


async def test_what_is_just_being_ordered_is_forgotten_too(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    user_id, headers = await _live(client, shop, staff)
    async with shop.stores.pg.tx() as tx:
        await orders.place(tx, user_id, [("MUG", 1)], {"note": NOTE})
        leaving = asyncio.create_task(_delete(client, headers, password=PASSWORD))
        await stuck(shop)
    assert (await leaving).status_code == 204
    await sync.catch_up(shop)
    assert await _traces(shop) == set()


async def test_what_waits_for_the_shelf_while_its_buyer_goes_is_forgotten_too(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    """Between the look whether there is such a user and the order that names them."""
    user_id, headers = await _live(client, shop, staff)

    async def buy() -> None:
        async with shop.stores.pg.tx() as tx:
            await orders.place(tx, user_id, [("MUG", 1)], {"note": NOTE})

    async with shop.stores.pg.tx() as shelf:
        await shelf.execute("SELECT FROM inventory WHERE sku = 'MUG' FOR UPDATE")
        buying = asyncio.create_task(buy())
        await stuck(shop)
        leaving = asyncio.create_task(_delete(client, headers, password=PASSWORD))
        await stuck(shop, 2)
    await buying
    assert (await leaving).status_code == 204
    await sync.catch_up(shop)
    assert await _traces(shop) == set()


async def test_who_was_forgotten_orders_and_makes_nothing_by_a_token_that_nobody_refuses(
    shop: Shop, admin: httpx.AsyncClient, sign_in: SignIn, stocked: None
) -> None:
    await sign_in("admin")  # somebody stays
    me = UUID(str((await _made(admin.get("/users/me")))["id"]))
    async with shop.stores.pg.tx() as tx:
        await accounts.erase(tx, me, shop.clock.now())
    for path, body in (
        ("/orders", {"items": [{"sku": "MUG", "qty": 1}]}),
        ("/api-keys", {"name": "mine", "scopes": ["catalog:read"]}),
    ):
        refused = await admin.post(path, json=body, headers={"Idempotency-Key": NOTE})
        assert (refused.status_code, refused.json()["detail"]) == (401, "this account is gone"), refused.text
    assert await _traces(shop) == set()


class _LateReviews(Collection):
    """Reviews that are written once something else has happened."""

    def __init__(self, there: Collection, before: Callable[[], Awaitable[None]]) -> None:
        self.__dict__ = there.__dict__
        self._before = before

    async def insert_one(self, document: dict[str, Any]) -> None:
        await self._before()
        await super().insert_one(document)


class _LateMongo(Mongo):
    def __init__(self, there: Mongo, before: Callable[[], Awaitable[None]]) -> None:
        self.__dict__ = dict(there.__dict__)
        self._before = before

    def collection(self, name: str) -> Collection:
        there = super().collection(name)
        return _LateReviews(there, self._before) if name == "reviews" else there


async def test_a_review_that_is_just_being_written_is_unsigned_too(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    jar = {"sku": "JAR", "name": "Jar", "category": "things", "priceCents": 500, "attrs": {}}
    await _made(staff.post("/products", json=jar))
    await _made(staff.post("/inventory/JAR/movements", json={"delta": 9, "reason": "received"}))
    _, headers = await _live(client, shop, staff)
    await _pay(client, await _order(client, "jar", headers, items=[{"sku": "JAR", "qty": 1}]), headers)

    async def erased() -> None:
        app.state.shop = shop
        assert (await _delete(client, headers, password=PASSWORD)).status_code == 204
        await sync.catch_up(shop)

    app.state.shop = replace(shop, stores=replace(shop.stores, mongo=_LateMongo(shop.stores.mongo, erased)))
    review = {"rating": 4, "title": "Jar", "body": "A jar."}
    written = await _made(client.post("/products/JAR/reviews", json=review, headers=headers))
    (kept,) = (await client.get("/products/JAR/reviews")).json()["items"]
    assert (kept["author"], kept["rating"], written["author"]) == (None, 4, None)


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_on_the_way_still_ends_in_everything_forgotten(
    app: FastAPI, client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None, step: str
) -> None:
    user_id, headers = await _live(client, shop, staff)
    app.state.shop = dying = Shop(shop.settings, shop.stores, mail=shop.mail, step=dies_at(step))
    with pytest.raises(Killed):
        await _delete(client, headers, password=PASSWORD)
        await relay.relay(dying)
    app.state.shop = shop
    await sync.catch_up(shop)
    # A route that asks no store whether there is such a user.
    assert (await client.get("/orders", headers=headers)).status_code == 401
    assert await _traces(shop) == set()
    assert await shop.stores.redis.call("EXISTS", f"cart:{{{user_id}}}") == 0


async def test_what_is_carried_late_brings_nobody_back(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    """As where Redis was away when they bought."""
    _, headers = await _live(client, shop, staff)
    order = await _order(client, "late", headers)
    await _pay(client, order, headers)
    async with shop.stores.pg.tx() as tx:
        sql = "UPDATE outbox SET attempts = 1, not_before = $2 WHERE key = $1"
        await tx.execute(sql, order["id"], datetime.max.replace(tzinfo=UTC))
    assert (await _delete(client, headers, password=PASSWORD)).status_code == 204
    await sync.catch_up(shop)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE outbox SET not_before = '-infinity'")
    await sync.catch_up(shop)
    assert (await client.get("/leaderboard")).json()["items"] == []


async def test_what_shops_own_systems_are_told_late_names_nobody(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    """Nor what they were told, which can be sent again; but for the word that the person is to be forgotten."""
    user_id, headers = await _live(client, shop, staff)
    await sync.catch_up(shop)
    sql = "SELECT DISTINCT topic FROM webhook_deliveries WHERE payload ->> 'user_id' = $1"
    async with shop.stores.pg.read() as read:
        assert {row["topic"] for row in await read.fetch(sql, str(user_id))} > {"order.placed", "order.confirmed"}
    assert (await _delete(client, headers, password=PASSWORD)).status_code == 204
    await sync.catch_up(shop)
    async with shop.stores.pg.read() as read:
        assert [row["topic"] for row in await read.fetch(sql, str(user_id))] == ["user.erased"]


async def test_whoever_goes_takes_their_keys_along(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, sign_in: SignIn, stocked: None
) -> None:
    await sign_in("admin")  # somebody stays
    key = (await _made(admin.post("/api-keys", json={"name": "mine", "scopes": ["catalog:read"]})))["key"]
    keyed = {"Authorization": f"Bearer {key}"}
    assert (await client.get("/products/MUG", headers=keyed)).status_code == 200
    assert (await admin.request("DELETE", "/users/me")).status_code == 204
    assert (await client.get("/products/MUG", headers=keyed)).status_code == 401


async def test_a_mail_that_was_given_up_is_not_taken_up_again_once_its_reader_is_forgotten(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    _, headers = await _live(client, shop, staff)
    async with shop.stores.pg.tx() as tx:
        mail = await tx.fetchval(
            """INSERT INTO mails (event_id, kind, args, state, done_at)
               SELECT gen_random_uuid(), 'order-cancelled', jsonb_build_object('order_id', id), 'dead', now()
               FROM orders WHERE email = $1 RETURNING id""",
            EMAIL,
        )
    assert (await _delete(client, headers, password=PASSWORD)).status_code == 204
    async with shop.stores.pg.read() as read:
        row = await read.fetchrow("SELECT state, args FROM mails WHERE id = $1", mail)
    assert (row["state"], row["args"]) == ("dropped", {})


async def test_nobody_goes_while_money_is_on_its_way(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    _, headers = await _live(client, shop, staff)
    order = await _order(client, "slow", headers)
    await _pay(client, order, headers, paymentMethod="card_async")
    refused = await _delete(client, headers, password=PASSWORD)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/orders-open")
    assert (await client.get("/users/me", headers=headers)).json()["displayName"] == NAME


@pytest.mark.parametrize("is_keyed", [False, True])
async def test_nobody_is_charged_for_a_payment_that_was_still_on_its_way_as_they_went(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None, is_keyed: bool
) -> None:
    _, headers = await _live(client, shop, staff)
    order = await _order(client, "left", headers)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("SELECT FROM orders WHERE id = $1 FOR UPDATE", UUID(order["id"]))
        leaving = asyncio.create_task(_delete(client, headers, password=PASSWORD))
        await stuck(shop)
        key = {"Idempotency-Key": NOTE} if is_keyed else {}
        body = PAYMENT | {"orderId": order["id"]}
        paying = asyncio.create_task(client.post("/payments", json=body, headers=headers | key))
        await stuck(shop, 2)
    assert (await leaving).status_code == 204
    refused = await paying
    assert (refused.status_code, refused.json()["detail"]) == (401, "this account is gone"), refused.text
    async with shop.stores.pg.read() as read:
        assert await read.fetchval("SELECT count(*) FROM payments WHERE order_id = $1", UUID(order["id"])) == 0
    await sync.catch_up(shop)
    assert await _traces(shop) == set()


async def test_of_many_who_say_goodbye_at_once_one_is_heard(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    _, headers = await _live(client, shop, staff)
    add = [client.post("/users/me/addresses", json=HOME, headers=headers) for _ in range(6)]
    answers = await asyncio.gather(*(_delete(client, headers, password=PASSWORD) for _ in range(4)), *add)
    assert [answer.status_code for answer in answers[:4]].count(204) == 1
    assert {answer.status_code for answer in answers[:4]} <= {204, 401}
    assert {answer.status_code for answer in answers[4:]} <= {201, 401}
    await sync.catch_up(shop)
    assert not {trace for trace in await _traces(shop) if "addresses" in trace}
    async with shop.stores.pg.read() as read:
        assert await read.fetchval("SELECT count(*) FROM users WHERE erased_at IS NOT NULL") == 1


async def test_without_a_password_it_takes_a_fresh_sign_in(shopper: httpx.AsyncClient, shop: Shop) -> None:
    async def leave(**session: datetime | None) -> int:
        async with shop.stores.pg.tx() as tx:
            for column, at in session.items():
                await tx.execute(f"UPDATE sessions SET {column} = $2 WHERE user_id = $1", shopper.user_id, at)  # type: ignore[attr-defined]
        return (await shopper.request("DELETE", "/users/me")).status_code

    now = shop.clock.now()
    assert await leave(created_at=now - FRESH) == 401
    assert await leave(created_at=now - FRESH + timedelta(minutes=5), ended_at=now) == 401  # and Redis lost its mark
    assert await leave(ended_at=None) == 204
    assert (await shopper.get("/users/me")).status_code == 401


async def test_the_last_administrator_stays(admin: httpx.AsyncClient) -> None:
    refused = await admin.request("DELETE", "/users/me")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/last-admin")
    assert (await admin.get("/users/me")).status_code == 200


async def test_nobody_is_listed_who_was_forgotten(shopper: httpx.AsyncClient, staff: httpx.AsyncClient) -> None:
    async def listed() -> set[str]:
        return {person["id"] for person in (await staff.get("/users", params={"limit": 100})).json()["items"]}

    them = str(shopper.user_id)  # type: ignore[attr-defined]
    assert them in await listed()
    assert (await shopper.request("DELETE", "/users/me")).status_code == 204
    assert them not in await listed()
    assert (await staff.get("/users", params={"email": "erased-"})).json()["items"] == []


async def test_a_report_by_customer_says_that_one_was_forgotten_and_makes_up_no_address(
    client: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, stocked: None
) -> None:
    _, headers = await _live(client, shop, staff)
    assert (await _delete(client, headers, password=PASSWORD)).status_code == 204
    report = await _made(staff.get("/analytics/revenue?groupBy=customer"))
    assert [(row["label"], row["netCents"]) for row in report["items"]] == [("forgotten customer", 900)]


async def test_what_was_forgotten_can_not_be_put_back(shopper: httpx.AsyncClient, shop: Shop) -> None:
    assert (await shopper.request("DELETE", "/users/me")).status_code == 204
    for change in ("password_hash = 'x'", "display_name = 'x'", "email = 'x@example.com'", "roles = '{staff}'"):
        with pytest.raises(Exception, match="users_erased"):
            async with shop.stores.pg.tx() as tx:
                await tx.execute(f"UPDATE users SET {change} WHERE erased_at IS NOT NULL")


async def test_everything_held_about_one_is_one_document(
    client: httpx.AsyncClient, shop: Shop, staff: httpx.AsyncClient, stocked: None
) -> None:
    _, headers = await _live(client, shop, staff)
    answer = await client.get("/users/me/export", headers=headers)
    assert answer.status_code == 200
    held = answer.json()
    assert list(held) == ["profile", "sessions", "addresses", "cart", "points", "orders", "reviews"]
    assert (held["profile"]["email"], held["profile"]["displayName"]) == (EMAIL, NAME)
    assert held["profile"]["pendingEmail"] == "x." + EMAIL
    assert {session["userAgent"] for session in held["sessions"]} == {AGENT}
    assert [(place["line1"], place["phone"]) for place in held["addresses"]] == [(STREET, PHONE)]
    assert held["cart"] == [{"sku": "MUG", "qty": 3}]
    assert sorted(str(order["email"]) for order in held["orders"]) == ["None", "None", EMAIL]
    assert {order["metadata"]["note"] for order in held["orders"]} == {NOTE}
    assert [payment["status"] for order in held["orders"] for payment in order["payments"]] == ["succeeded"]
    assert [(review["author"], review["rating"]) for review in held["reviews"]] == [(NAME, 5)]
    assert "passwordHash" not in answer.text
    assert (await client.get("/users/me/export")).status_code == 401


async def test_while_mongodb_is_away_nobody_is_given_half_of_what_is_held(
    app: FastAPI, shop: Shop, shopper: httpx.AsyncClient
) -> None:
    app.state.shop = replace(shop, stores=replace(shop.stores, mongo=Mongo("mongodb://127.0.0.1:1", "none")))
    away = await shopper.get("/users/me/export")
    assert (away.status_code, away.json()["type"]) == (503, "/problems/store-unavailable")
    assert "retry-after" in away.headers
    await app.state.shop.stores.mongo.close()


async def test_a_long_history_is_exported_whole(shop: Shop, sign_in: Any, stocked: None) -> None:
    shopper = await sign_in()
    async with shop.stores.pg.tx() as tx:
        for _ in range(230):
            await tx.execute('SELECT place_order($1, \'[{"sku": "MUG", "qty": 1}]\')', shopper.user_id)
    reviews = shop.stores.mongo.collection("reviews")
    written = {"userId": str(shopper.user_id), "productId": "x", "rating": 5, "title": "", "body": "", "author": None}
    for n in range(620):
        await reviews.insert_one({"_id": f"r{n}", "createdAt": datetime.now(UTC), **written})
    held = (await shopper.get("/users/me/export")).json()
    assert len({order["id"] for order in held["orders"]}) == 230
    assert len(held["reviews"]) == 620
