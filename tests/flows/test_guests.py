"""Guests buy with an address, come back with the order's token, and find their orders in the account later."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from till import Till

import cashier
from conftest import SignIn
from quartet import accounts, audit, cart, notify, orders, payments
from quartet.cart import new_token
from quartet.cart.store import Carts
from quartet.stores.postgres import Violation
from quartet.sync.relay import relay
from quartet.web.dependencies import Shop

Json = dict[str, Any]
ADA = "ada@example.com"


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


async def order(guest: httpx.AsyncClient, sku: str = "MUG", email: str = ADA, **headers: str) -> tuple[Json, Json]:
    """A guest's new order, and the headers that open it."""
    body = {"items": [{"sku": sku, "qty": 1}], "email": email}
    placed = await guest.post("/orders", json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
    assert placed.status_code == 201, placed.text
    made = placed.json()
    return made, {"X-Order-Token": made.pop("orderToken")}


async def pay(who: httpx.AsyncClient, made: Json, headers: Json, method: str = "card_ok") -> httpx.Response:
    body = {"orderId": made["id"], "provider": "sandbox", "paymentMethod": method}
    return await who.post("/payments", json=body, headers=headers)


async def claim(shop: Shop, email: str, user_id: UUID) -> int:
    async with shop.stores.pg.tx() as tx:
        return await orders.claim(tx, email, user_id)


async def test_a_guest_buys_the_cart_and_comes_back_with_the_token(
    client: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 5)
    await till.stock("TEA", 5)
    token = new_token()
    held = f"cart:{{guest:{cart.name_of(token)}}}"
    await shop.stores.redis.call("HSET", held, "MUG", 2, "TEA", 1)

    placed = await client.post("/orders", json={"email": " Ada@Example.com "}, headers={"X-Cart-Token": token})
    assert placed.status_code == 201, placed.text
    made = placed.json()
    opened = {"X-Order-Token": made.pop("orderToken")}
    assert (made["email"], made["totalCents"], made["history"][0]["by"]) == (ADA, 1500, "guest")
    assert (await client.get(f"/orders/{made['id']}", headers=opened)).json() == made

    await shop.stores.redis.call("HINCRBY", held, "MUG", 1)
    paid = await pay(client, made, opened)
    assert paid.status_code == 201, paid.text
    assert (await client.get(f"/payments/{paid.json()['id']}", headers=opened)).json() == paid.json()
    assert await shop.stores.redis.call("HGETALL", held) == {"MUG": "1"}
    while await relay(shop):
        pass
    assert await shop.stores.redis.call("HGETALL", held) == {"MUG": "1"}
    assert (await client.get("/leaderboard")).json()["items"] == []

    gone = (await client.post(f"/orders/{made['id']}/cancel", headers=opened)).json()
    assert (gone["status"], gone["refundedCents"]) == ("cancelled", 1500)
    assert [step["by"] for step in gone["history"]] == ["guest", "payments", "guest"]
    assert await till.charged(made["id"]) == 0
    assert await till.shelf("MUG") == (5, 0)
    rows = await till.rows("SELECT * FROM orders")
    assert token not in str(rows) + str(await till.rows("SELECT * FROM outbox"))


async def test_what_a_guest_ordered_leaves_the_cart_that_has_it_by_then(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    """The guest orders, signs in, which brings the cart along, and then pays."""
    await till.stock("MUG", 9)
    token = new_token()
    carts = Carts(shop.stores.redis, 30)
    await carts.add(token, "MUG", 2)
    await carts.add(shopper.user_id, "MUG", 1)  # type: ignore[attr-defined]
    sent = {"X-Cart-Token": token}
    body = {"email": ADA}
    first, second = [(await client.post("/orders", json=body, headers=sent)).json() for _ in range(2)]
    assert (await shopper.get("/cart", headers=sent)).status_code == 200
    assert await carts.lines(shopper.user_id) == {"MUG": 3}  # type: ignore[attr-defined]
    assert (await pay(client, first, {"X-Order-Token": first["orderToken"]})).status_code == 201
    assert await carts.lines(shopper.user_id) == {"MUG": 1}  # type: ignore[attr-defined]

    await carts.add(token, "MUG", 3)  # somebody at the same browser who did not sign in
    assert (await pay(client, second, {"X-Order-Token": second["orderToken"]})).status_code == 201
    assert await carts.lines(token) == {"MUG": 1}
    assert (await shopper.get("/cart", headers=sent)).status_code == 200
    while await relay(shop):
        pass
    assert await carts.lines(shopper.user_id) == {"MUG": 2}, "and nothing leaves twice"  # type: ignore[attr-defined]


async def test_what_left_the_users_cart_is_not_taken_from_what_a_guest_puts_in_afterwards(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    """Signed out again before the worker tells what the payment itself had told."""
    await till.stock("MUG", 9)
    token, carts = new_token(), Carts(shop.stores.redis, 30)
    await carts.add(token, "MUG", 2)
    sent = {"X-Cart-Token": token}
    made = (await client.post("/orders", json={"email": ADA}, headers=sent)).json()
    assert (await shopper.get("/cart", headers=sent)).status_code == 200
    assert (await pay(client, made, {"X-Order-Token": made["orderToken"]})).status_code == 201
    assert await carts.lines(shopper.user_id) == {}  # type: ignore[attr-defined]
    await carts.add(token, "MUG", 2)
    while await relay(shop):
        pass
    assert await carts.lines(token) == {"MUG": 2}


async def test_the_worker_empties_a_guests_cart_when_the_request_did_not_live_to(
    client: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 5)
    token = new_token()
    held = f"cart:{{guest:{cart.name_of(token)}}}"
    await shop.stores.redis.call("HSET", held, "MUG", 1)
    made, _ = await order(client, X_Cart_Token=token)
    async with shop.stores.pg.tx() as tx:
        await cashier.confirm(tx, UUID(made["id"]))
    while await relay(shop):
        pass
    assert await shop.stores.redis.call("HGETALL", held) == {}


async def test_an_order_opens_to_its_own_token_and_to_no_other(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 9)
    made, opened = await order(client)
    other, others = await order(client)
    paid = (await pay(client, made, opened)).json()

    wrong = [{}, others, {"X-Order-Token": opened["X-Order-Token"][:-1]}, {"X-Order-Token": "é".encode().hex()}]
    for who in (client, shopper):
        for headers in wrong:
            status = 401 if who is client and not headers else 404
            assert (await who.get(f"/orders/{made['id']}", headers=headers)).status_code == status
            assert (await who.post(f"/orders/{made['id']}/cancel", headers=headers)).status_code == status
            assert (await pay(who, made, headers)).status_code == status
            assert (await who.get(f"/payments/{paid['id']}", headers=headers)).status_code == status
            assert (await who.post(f"/payments/{paid['id']}/refresh", headers=headers)).status_code == status
    # Somebody who signs in halfway still holds the token.
    assert (await shopper.get(f"/orders/{other['id']}", headers=others)).status_code == 200
    assert (await pay(shopper, other, others)).status_code == 201
    assert (await staff.get(f"/orders/{made['id']}")).json()["email"] == ADA
    # A user's own order opens to no token, whoever made it.
    own = (await shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": 1}]})).json()
    assert "orderToken" not in own
    forged = {"X-Order-Token": client_token(till.shop, own["id"])}
    assert (await client.get(f"/orders/{own['id']}", headers=forged)).status_code == 404
    assert (await pay(client, own, forged)).status_code == 404


def client_token(shop: Shop, order_id: str) -> str:
    return shop.order_tokens.issue(UUID(order_id))


async def test_an_order_opens_to_its_token_after_the_shops_secret_was_changed(
    app: FastAPI, client: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 9)
    made, opened = await order(client)
    changed = {"secret": SecretStr("x" * 40), "secrets_retired": (shop.settings.secret,)}
    app.state.shop = replace(shop, settings=shop.settings.model_copy(update=changed))
    assert (await client.get(f"/orders/{made['id']}", headers=opened)).status_code == 200
    assert (await pay(client, made, opened)).status_code == 201
    app.state.shop = replace(shop, settings=shop.settings.model_copy(update=changed | {"secrets_retired": ()}))
    assert (await client.get(f"/orders/{made['id']}", headers=opened)).status_code == 404


async def test_a_guest_gives_an_address_and_a_user_none(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 5)
    lines = {"items": [{"sku": "MUG", "qty": 1}]}
    for who, body in (
        (client, lines | {"email": "nobody"}),
        (client, lines | {"email": ""}),
        (shopper, lines | {"email": ADA}),
    ):
        told = await who.post("/orders", json=body)
        assert (told.status_code, told.json()["errors"][0]["field"]) == (422, "email"), told.text
    for unsigned in (lines, lines | {"email": None}, {}):
        told = await client.post("/orders", json=unsigned)
        assert (told.status_code, told.json()["type"]) == (401, "/problems/unauthenticated"), told.text
    assert (await shopper.post("/orders", json=lines | {"email": None})).status_code == 201
    for token in (None, "x", new_token()):
        empty = await client.post("/orders", json={"email": ADA}, headers={"X-Cart-Token": token} if token else {})
        assert (empty.status_code, empty.json()["errors"][0]["field"]) == (422, "items")
    assert await till.shelf("MUG") == (5, 1)


async def test_guests_with_one_key_never_get_one_anothers_answer(app: FastAPI, till: Till) -> None:
    await till.stock("MUG", 99)
    mine, theirs = (new_token() for _ in range(2))
    machines = [
        httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://shop")
        for address in ("10.0.0.1", "10.0.0.2")
    ]
    guests: list[tuple[httpx.AsyncClient, str, dict[str, str]]] = [
        (machines[0], ADA, {}),
        (machines[0], "bob@example.com", {}),
        (machines[1], ADA, {}),
        (machines[0], ADA, {"X-Cart-Token": mine}),
        (machines[0], ADA, {"X-Cart-Token": theirs}),
        (machines[0], "eve@example.com", {"X-Cart-Token": "x"}),
        (machines[0], "mal@example.com", {"X-Cart-Token": "x"}),
    ]

    async def buy(guest: tuple[httpx.AsyncClient, str, dict[str, str]], qty: int = 1) -> httpx.Response:
        who, email, headers = guest
        body = {"items": [{"sku": "MUG", "qty": qty}], "email": email}
        return await who.post("/orders", json=body, headers=headers | {"Idempotency-Key": "1"})

    first = [await buy(guest) for guest in guests]
    assert [answer.status_code for answer in first] == [201] * len(guests)
    assert len({answer.json()["orderToken"] for answer in first}) == len(guests)
    again = [await buy(guest) for guest in guests]
    assert [a.content for a in again] == [a.content for a in first]
    assert all(a.headers["idempotent-replayed"] == "true" for a in again)
    assert {(await buy(guest, 2)).status_code for guest in guests} == {422}
    assert len(await till.rows("SELECT id FROM orders")) == len(guests)
    for machine in machines:
        await machine.aclose()


async def test_a_guests_payment_with_a_key_is_made_once(client: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 5)
    made, opened = await order(client)
    paid = await asyncio.gather(*(pay(client, made, opened | {"Idempotency-Key": "pay"}) for _ in range(10)))
    assert {answer.status_code for answer in paid} <= {201, 409}
    again = await pay(client, made, opened | {"Idempotency-Key": "pay"})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert await till.charged(made["id"]) == made["totalCents"]


async def test_whoever_proves_the_address_finds_the_orders_and_the_token_is_spent(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 9)
    made, opened = await order(client)
    paid, paid_opened = await order(client)
    await pay(client, paid, paid_opened)
    await order(client, email="other@example.com")
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]

    assert await claim(shop, ADA, user_id) == 2
    assert await claim(shop, ADA, user_id) == 0
    listed = (await shopper.get("/orders")).json()["items"]
    assert [o["id"] for o in listed] == [paid["id"], made["id"]]
    assert [(s["from"], s["to"], s["by"], s["reason"]) for s in listed[0]["history"]] == [
        (None, "pending", "guest", None),
        ("pending", "confirmed", "payments", "paid"),
        ("confirmed", "confirmed", str(user_id), "claimed"),
    ]
    assert listed[0]["email"] is None
    assert (await client.get(f"/orders/{made['id']}", headers=opened)).status_code == 404
    assert (await client.post(f"/orders/{made['id']}/cancel", headers=opened)).status_code == 404
    assert (await pay(client, made, opened)).status_code == 404
    assert (await pay(shopper, made, opened)).status_code == 201
    assert (await shopper.post(f"/orders/{paid['id']}/cancel")).json()["status"] == "cancelled"
    assert (await audit.check(shop, patience=0)).violations == ()


async def test_proving_the_address_brings_the_orders_along(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, sign_in: SignIn, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 9)
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    (row,) = await till.rows("SELECT email FROM users WHERE id = $1", user_id)
    made, opened = await order(client, email=row["email"])
    told = await shopper.post("/orders/claim")
    assert (told.status_code, told.json()["type"]) == (403, "/problems/email-not-verified")

    async with shop.stores.pg.tx() as tx:
        minted = await accounts.mint_verification(tx, user_id, row["email"], shop.clock.now())
    assert minted is not None
    link = f"/email-verifications/{minted[1]}"
    assert (await client.post(link)).status_code == 204
    assert [o["id"] for o in (await shopper.get("/orders")).json()["items"]] == [made["id"]]
    assert (await client.get(f"/orders/{made['id']}", headers=opened)).status_code == 404

    later, _ = await order(client, email=row["email"])
    assert (await (await sign_in()).post("/orders/claim")).status_code == 403
    assert (await client.post("/orders/claim")).status_code == 401
    assert (await shopper.post("/orders/claim")).json() == {"claimed": 1}
    assert (await shopper.post("/orders/claim")).json() == {"claimed": 0}
    assert (await shopper.get(f"/orders/{later['id']}")).status_code == 200


async def test_a_new_password_by_a_link_proves_the_address_too(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 9)
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    (row,) = await till.rows("SELECT email FROM users WHERE id = $1", user_id)
    made, _ = await order(client, email=row["email"])
    async with shop.stores.pg.tx() as tx:
        minted = await accounts.mint_reset(tx, user_id, row["email"], shop.clock.now())
    assert minted is not None
    new = {"password": "a horse of another colour"}
    assert (await client.post(f"/password-resets/{minted[1]}", json=new)).status_code == 204
    (order_,) = await till.rows("SELECT user_id, email FROM orders WHERE id = $1", UUID(made["id"]))
    assert (order_["user_id"], order_["email"]) == (user_id, None)


async def test_a_claim_beside_payments_and_cancellations_loses_nothing(
    client: httpx.AsyncClient, sign_in: SignIn, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 1000)
    for n in range(30):
        email = f"buyer{n}@example.com"
        owner = await sign_in()
        made = [await order(client, email=email) for _ in range(3)]
        answers = await asyncio.gather(
            pay(client, *made[0]),
            client.post(f"/orders/{made[1][0]['id']}/cancel", headers=made[1][1]),
            pay(client, *made[2]),
            client.post(f"/orders/{made[2][0]['id']}/cancel", headers=made[2][1]),
            claim(shop, email, owner.user_id),  # type: ignore[attr-defined]
        )
        assert answers[4] == 3
        assert {a.status_code for a in answers[:4]} <= {200, 201, 404, 409}
        mine = {o["id"]: o for o in (await owner.get("/orders")).json()["items"]}
        assert set(mine) == {m["id"] for m, _ in made}
        assert mine[made[0][0]["id"]]["status"] == {201: "confirmed", 404: "pending"}[answers[0].status_code]
        assert mine[made[1][0]["id"]]["status"] == {200: "cancelled", 404: "pending"}[answers[1].status_code]
        for o in mine.values():
            due = o["totalCents"] if o["status"] == "confirmed" else 0
            assert await till.charged(o["id"]) == due, o
    assert (await audit.check(shop, patience=0)).violations == ()


async def test_an_order_belongs_to_exactly_one(shop: Shop, client: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 5)
    made, _ = await order(client)
    for change in ("email = NULL", "user_id = (SELECT id FROM users LIMIT 1), email = NULL", "erased_at = now()"):
        with pytest.raises(Violation, match="orders_belong"):
            async with shop.stores.pg.once() as tx:
                await tx.execute(f"UPDATE orders SET {change} WHERE id = $1", UUID(made["id"]))


async def test_staff_find_the_orders_of_an_address_and_of_no_account(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 9)
    (row,) = await till.rows("SELECT email FROM users WHERE id = $1", shopper.user_id)  # type: ignore[attr-defined]
    own = (await shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": 1}]})).json()
    before, _ = await order(client, email=row["email"])
    paid, opened = await order(client)
    await pay(client, paid, opened)

    async def found(query: str, who: httpx.AsyncClient = staff) -> list[str]:
        answer = await who.get(f"/orders?{query}")
        assert answer.status_code == 200, answer.text
        return [o["id"] for o in answer.json()["items"]]

    assert await found(f"email={row['email'].upper()}") == [before["id"], own["id"]]
    assert await found("email=ADA@example.com&status=confirmed") == [paid["id"]]
    assert await found("email=ada@example.com&status=pending") == []
    assert await found("email=ada@example.com", shopper) == []
    assert await found("") == [paid["id"], before["id"], own["id"]]
    assert (await staff.get(f"/orders?email={ADA}&userId={uuid4()}")).status_code == 422
    abroad, _ = await order(client, email="ada@bücher.example")
    assert await found("email=Ada@xn--bcher-kva.example") == [abroad["id"]]

    revenue = (await staff.get("/analytics/revenue?from=2020-01-01&to=2030-01-01&groupBy=customer")).json()
    assert [(row["key"], row["label"], row["grossCents"]) for row in revenue["items"]] == [(ADA, ADA, 500)]
    assert revenue["totals"]["orders"] == 1


async def test_an_order_that_expired_comes_back_when_it_is_paid_though_it_was_claimed_meanwhile(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 5)
    made, opened = await order(client)
    assert (await pay(client, made, opened, "card_async")).json()["status"] == "pending"
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    async with shop.stores.pg.once() as tx:
        await tx.execute("UPDATE orders SET expires_at = now() - interval '1 minute'")
    async with shop.stores.pg.tx() as tx:
        assert len(await orders.expire_due(tx)) == 1
    assert await claim(shop, ADA, user_id) == 1
    await shop.stores.redis.call("HSET", f"cart:{{{user_id}}}", "MUG", 3)
    (open_payment,) = await till.rows("SELECT id FROM payments")
    async with shop.stores.pg.tx() as tx:
        outcome = payments.Outcome("sb_1", "succeeded")
        done = await payments.complete(tx, open_payment["id"], outcome, shop.clock.now())
    assert (done.payment.status, done.cart_owner) == ("succeeded", user_id)
    found = (await shopper.get(f"/orders/{made['id']}")).json()
    assert [(step["to"], step["reason"]) for step in found["history"]] == [
        ("pending", None),
        ("cancelled", "expired"),
        ("cancelled", "claimed"),
        ("pending", "paid after it expired"),
        ("confirmed", "paid"),
    ]
    while await relay(shop):
        pass
    assert await cart.lines(shop.stores.redis, user_id) == {"MUG": 2}


async def test_a_guest_is_written_to_at_the_address(client: httpx.AsyncClient, shop: Shop, till: Till) -> None:
    await till.stock("MUG", 5)
    made, opened = await order(client)
    assert (await pay(client, made, opened)).status_code == 201
    assert (await client.post(f"/orders/{made['id']}/cancel", headers=opened)).status_code == 200
    while await relay(shop):
        pass
    while await notify.deliver(shop):
        pass
    assert [(sent[0], made["number"] in sent[1]) for sent in shop.mail.sent] == [(ADA, True)] * 3  # type: ignore[attr-defined]
