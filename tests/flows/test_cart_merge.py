"""A guest's cart comes along when the guest signs in: whole, once, whatever breaks, and in nobody's way."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from stops import Held, Killed, dies_at
from till import Till

from quartet import cart, sync
from quartet.cart import store
from quartet.cart.store import Carts
from quartet.kernel.settings import Settings
from quartet.stores import open_stores
from quartet.web.dependencies import Shop

Leave = Callable[[Shop, httpx.AsyncClient, dict[str, str]], Awaitable[None]]

STEPS = ("merge noted", "merge received", "merge settled")
WHO = {"email": "ada@example.com", "password": "analytical engine"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Nobody waits for a hasher here."""
    return settings.model_copy(update={"password_hashers": 2, "password_queue": 1000})


@pytest.fixture
def carts(shop: Shop) -> Carts:
    return Carts(shop.stores.redis, 30)


async def guest(carts: Carts, **pieces: int) -> tuple[str, dict[str, str]]:
    """A guest's cart: its token, and the header that names it."""
    token = cart.new_token()
    for sku, qty in pieces.items():
        await carts.add(token, sku, qty)
    return token, {"X-Cart-Token": token}


async def account(client: httpx.AsyncClient, carts: Carts, email: str = WHO["email"], /, **pieces: int) -> UUID:
    made = await client.post("/users", json=WHO | {"email": email})
    assert made.status_code == 201, made.text
    user_id = UUID(made.json()["id"])
    for sku, qty in pieces.items():
        await carts.add(user_id, sku, qty)
    return user_id


async def together(carts: Carts, people: list[UUID]) -> Counter[str]:
    """What all of them hold."""
    held = Counter[str]()
    for one in people:
        held.update(await carts.lines(one))
    return held


@pytest.mark.parametrize("mortal", STEPS)
async def test_killed_between_any_two_scripts_the_next_sign_in_finishes_it(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop, carts: Carts, mortal: str
) -> None:
    user_id = await account(client, carts, MUG=1)
    token, sent = await guest(carts, MUG=2, TEA=1)
    app.state.shop = replace(shop, step=dies_at(mortal))
    with pytest.raises(Killed):
        await client.post("/sessions", json=WHO, headers=sent)
    held = Counter(await carts.lines(user_id)) | Counter(await carts.lines(token))
    assert held >= Counter(MUG=2, TEA=1), "no moment at which a line is nowhere"

    await carts.add(token, "LATE", 4)
    assert (await client.post("/sessions", json=WHO, headers=sent)).status_code == 201
    assert await carts.lines(user_id) == {"MUG": 3, "TEA": 1, "LATE": 4}
    assert await carts.lines(token) == {}


@pytest.mark.parametrize("mortal", STEPS)
async def test_killed_between_any_two_scripts_another_account_takes_only_what_is_left(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop, carts: Carts, mortal: str
) -> None:
    first, second = await account(client, carts), await account(client, carts, "bob@example.com")
    token, sent = await guest(carts, MUG=2, TEA=1)
    app.state.shop = replace(shop, step=dies_at(mortal))
    with pytest.raises(Killed):
        await client.post("/sessions", json=WHO, headers=sent)
    await carts.add(token, "LATE", 4)
    assert (await client.post("/sessions", json=WHO | {"email": "bob@example.com"}, headers=sent)).status_code == 201
    received = {} if mortal == "merge noted" else {"MUG": 2, "TEA": 1}
    assert await carts.lines(first) == received
    assert Counter(await carts.lines(second)) == Counter(MUG=2, TEA=1, LATE=4) - Counter(received)
    assert await carts.lines(token) == {}


async def clear(_shop: Shop, client: httpx.AsyncClient, sent: dict[str, str]) -> None:
    assert (await client.delete("/cart", headers=sent)).status_code == 204


async def remove(_shop: Shop, client: httpx.AsyncClient, sent: dict[str, str]) -> None:
    assert (await client.put("/cart/items/MUG", headers=sent, json={"qty": 0})).json()["items"] == []


async def hear_that_it_is_paid(shop: Shop, _client: httpx.AsyncClient, sent: dict[str, str]) -> None:
    name = cart.name_of(sent["X-Cart-Token"])
    assert await cart.take_bought(shop.stores.redis, name, {"MUG": 2}, "order")


LEAVING = [clear, remove, hear_that_it_is_paid]


@pytest.mark.parametrize("leave", LEAVING)
async def test_what_left_the_guests_cart_after_a_sign_in_that_died_does_not_come_back(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop, carts: Carts, leave: Leave
) -> None:
    user_id = await account(client, carts, MUG=1)
    _, sent = await guest(carts, MUG=2)
    app.state.shop = replace(shop, step=dies_at("merge noted"))
    with pytest.raises(Killed):
        await client.post("/sessions", json=WHO, headers=sent)
    app.state.shop = shop
    await leave(shop, client, sent)
    assert (await client.post("/sessions", json=WHO, headers=sent)).status_code == 201
    assert await carts.lines(user_id) == {"MUG": 1}


@pytest.mark.parametrize("leave", LEAVING)
async def test_what_leaves_the_guests_cart_while_a_sign_in_stands_still_does_not_come_back(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop, carts: Carts, leave: Leave
) -> None:
    user_id = await account(client, carts, MUG=1)
    token, sent = await guest(carts, MUG=2)
    slow = Held("merge noted")
    app.state.shop = replace(shop, step=slow.step)
    signing_in = asyncio.create_task(client.post("/sessions", json=WHO, headers=sent))
    await slow.reached.wait()
    app.state.shop = shop
    await leave(shop, client, sent)
    slow.go_on.set()
    assert (await signing_in).status_code == 201
    assert await carts.lines(user_id) == {"MUG": 1}
    assert await carts.lines(token) == {}


async def test_what_a_sign_in_that_died_has_brought_along_is_the_users_when_it_is_paid_or_the_guest_goes_on(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop, carts: Carts
) -> None:
    user_id = await account(client, carts, MUG=1)
    token, sent = await guest(carts, MUG=2)
    app.state.shop = replace(shop, step=dies_at("merge received"))
    with pytest.raises(Killed):
        await client.post("/sessions", json=WHO, headers=sent)
    app.state.shop = shop
    await hear_that_it_is_paid(shop, client, sent)
    assert await carts.lines(user_id) == {"MUG": 1}
    await carts.put(token, "MUG", 5)
    assert (await client.get("/cart", headers=sent)).json()["itemCount"] == 5
    assert (await client.post("/sessions", json=WHO, headers=sent)).status_code == 201
    assert await carts.lines(user_id) == {"MUG": 6}


@pytest.mark.parametrize("stops", ["dies", "stands still"])
async def test_somebody_who_is_gone_gets_no_cart_again_and_takes_nobodys(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop, carts: Carts, stops: str
) -> None:
    ada, bob = await account(client, carts, TEA=1), await account(client, carts, "bob@example.com")
    signed = (await client.post("/sessions", json=WHO)).json()
    token, sent = await guest(carts, MUG=2)
    slow = Held("merge noted")
    app.state.shop = replace(shop, step=slow.step)
    merging = asyncio.create_task(client.post("/sessions", json=WHO, headers=sent))
    await slow.reached.wait()
    app.state.shop = shop
    if stops == "dies":
        merging.cancel()
        await asyncio.wait([merging])
    bearer = {"Authorization": f"Bearer {signed['accessToken']}"}
    body = {"password": WHO["password"]}
    gone = await client.request("DELETE", "/users/me", headers=bearer, json=body)
    assert gone.status_code == 204, gone.text
    await sync.catch_up(shop)
    if stops == "stands still":
        slow.go_on.set()
        assert (await merging).status_code == 201
        assert await carts.lines(token) == {"MUG": 2}
    assert (await client.post("/sessions", json=WHO | {"email": "bob@example.com"}, headers=sent)).status_code == 201
    await carts.add(ada, "LATE", 1)  # by a request that was let in before
    assert [await carts.lines(who) for who in (ada, bob, token)] == [{}, {"MUG": 2}, {}]


async def test_a_cart_of_very_many_lines_takes_in_no_other_until_it_has_room(
    client: httpx.AsyncClient, shop: Shop, carts: Carts
) -> None:
    user_id = await account(client, carts)
    most = store.MOST_LINES_TO_MERGE
    await shop.stores.redis.call("HSET", store.key(user_id), *(part for n in range(most) for part in (f"S-{n}", 1)))
    for sku, left in ("MUG", {}), ("TEA", {"TEA": 1}):
        token, sent = await guest(carts, **{sku: 1})
        signed = await client.post("/sessions", json=WHO, headers=sent)
        assert signed.status_code == 201
        assert await carts.lines(token) == left
        assert len(await carts.lines(user_id)) == most + 1

    bearer = {"Authorization": f"Bearer {signed.json()['accessToken']}"} | sent
    assert (await client.delete("/cart/items/S-0", headers=bearer)).status_code == 200
    assert await carts.lines(token) == {"TEA": 1}, "the merge is tried before the line goes"
    assert (await client.get("/cart", headers=bearer)).status_code == 200
    assert await carts.lines(token) == {}
    assert "TEA" in await carts.lines(user_id)


async def test_sign_ins_at_once_with_one_guests_cart_bring_it_along_once(
    client: httpx.AsyncClient, carts: Carts
) -> None:
    people = [await account(client, carts, f"p{n}@example.com") for n in range(2)]
    for _ in range(5):
        token, sent = await guest(carts, MUG=2, TEA=3)
        before = await together(carts, people)
        answers = await asyncio.gather(
            *(client.post("/sessions", json=WHO | {"email": f"p{n % 2}@example.com"}, headers=sent) for n in range(8)),
            *(carts.add(token, "MORE", 1) for _ in range(8)),
        )
        assert {a.status_code for a in answers if isinstance(a, httpx.Response)} == {201}
        await carts.merge(token, people[0])
        after = await together(carts, people)
        assert after - before == Counter(MUG=2, TEA=3, MORE=8)
        assert await carts.lines(token) == {}


async def test_a_full_cart_takes_every_line_and_no_line_holds_more_than_it_may(
    client: httpx.AsyncClient, carts: Carts
) -> None:
    user_id = await account(client, carts, **{f"MINE-{n}": 999 for n in range(cart.MOST_LINES)})
    token, sent = await guest(carts, **{f"MINE-{n}": 999 for n in range(100)}, **{f"THEIRS-{n}": 1 for n in range(100)})
    assert (await client.post("/sessions", json=WHO, headers=sent)).status_code == 201
    held = await carts.lines(user_id)
    assert held == {f"MINE-{n}": 999 for n in range(200)} | {f"THEIRS-{n}": 1 for n in range(100)}
    assert await carts.lines(token) == {}


async def test_a_cart_that_grew_past_its_bound_by_a_merge_is_ordered_whole(
    client: httpx.AsyncClient, carts: Carts, till: Till
) -> None:
    mine, theirs = ({f"{whose}-{n}": 1 for n in range(cart.MOST_LINES)} for whose in ("MINE", "THEIRS"))
    for sku in mine | theirs:
        await till.stock(sku, 1)
    await account(client, carts, **mine)
    _, sent = await guest(carts, **theirs)
    token = (await client.post("/sessions", json=WHO, headers=sent)).json()["accessToken"]
    bearer = {"Authorization": f"Bearer {token}"}
    named = [{"sku": sku, "qty": qty} for sku, qty in (mine | theirs).items()]
    assert (await client.post("/orders", json={"items": named}, headers=bearer)).status_code == 422
    made = await client.post("/orders", headers=bearer)
    assert made.status_code == 201, made.text
    assert {line["sku"]: line["qty"] for line in made.json()["items"]} == mine | theirs


async def test_with_redis_away_signing_in_succeeds_and_the_next_look_or_order_takes_the_cart_along(
    client: httpx.AsyncClient, app: FastAPI, shop: Shop, till: Till, carts: Carts
) -> None:
    await till.stock("MUG", 9)
    user_id = await account(client, carts)
    for takes in ("look", "order"):
        token, sent = await guest(carts, MUG=2)
        away = shop.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
        async with open_stores(away) as stores:
            app.state.shop = replace(shop, stores=stores)
            signed = await client.post("/sessions", json=WHO, headers=sent)
        app.state.shop = shop
        assert signed.status_code == 201
        assert await carts.lines(token) == {"MUG": 2}
        bearer = {"Authorization": f"Bearer {signed.json()['accessToken']}"} | sent
        if takes == "look":
            assert (await client.get("/cart", headers=bearer)).status_code == 200
        else:
            placed = await client.post("/orders", headers=bearer)
            assert [(line["sku"], line["qty"]) for line in placed.json()["items"]] == [("MUG", 4)]
        assert await carts.lines(token) == {}
    assert await carts.lines(user_id) == {"MUG": 4}


async def test_whatever_is_wrong_with_a_guests_cart_keeps_nobody_out(
    client: httpx.AsyncClient, shop: Shop, carts: Carts
) -> None:
    await account(client, carts)
    token, sent = await guest(carts)
    await shop.stores.redis.call("SET", store.key(token), "no cart at all")
    assert (await client.post("/sessions", json=WHO, headers=sent)).status_code == 201


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)
