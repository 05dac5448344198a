"""The orders' routes: who sees what, lists, and the way to the customer."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx

import cashier
from conftest import SignIn
from floor import walked
from quartet import inventory, orders
from quartet.web.dependencies import Shop

Json = dict[str, Any]


async def place(shop: Shop, who: httpx.AsyncClient, *lines: tuple[str, int]) -> orders.Order:
    """An order, and something on the shelf to order."""
    async with shop.stores.pg.tx() as tx:
        for sku, _ in sorted(lines):
            await inventory.put(tx, sku, f"A {sku}", 500, stock=1000, currency="GBP", actor="test")
        return await orders.place(tx, who.user_id, lines)  # type: ignore[attr-defined]


async def step(shop: Shop, order: orders.Order, *deeds: Any) -> None:
    for deed in deeds:
        async with shop.stores.pg.tx() as tx:
            await deed(tx, order.id, by="test")


async def listed(who: httpx.AsyncClient, **query: Any) -> list[str]:
    """Ids, page by page."""
    return [order["id"] for order in await walked(who, "/orders", 3, **query)]


async def test_an_order_has_the_shape_of_the_contract(shop: Shop, shopper: httpx.AsyncClient) -> None:
    placed = await place(shop, shopper, ("MUG", 2), ("CUP", 1))
    found: Json = (await shopper.get(f"/orders/{placed.id}")).json()
    by = str(shopper.user_id)  # type: ignore[attr-defined]
    created = datetime.fromisoformat(found["createdAt"])
    assert datetime.fromisoformat(found.pop("expiresAt")) - created == timedelta(minutes=15)
    assert found.pop("number").startswith("Q-1")
    assert found == {
        "id": str(placed.id),
        "status": "pending",
        "email": None,
        "items": [
            {"sku": "CUP", "name": "A CUP", "qty": 1, "unitPriceCents": 500, "lineTotalCents": 500},
            {"sku": "MUG", "name": "A MUG", "qty": 2, "unitPriceCents": 500, "lineTotalCents": 1000},
        ],
        "totalCents": 1500,
        "refundedCents": 0,
        "currency": "GBP",
        "payments": [],
        "refunds": [],
        "history": [{"at": found["createdAt"], "from": None, "to": "pending", "by": by, "reason": None}],
        "metadata": {},
        "createdAt": found["createdAt"],
        "updatedAt": found["createdAt"],
    }


async def test_an_order_finds_its_way_to_the_customer(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    order = await place(shop, shopper, ("MUG", 1))
    early = await staff.post(f"/orders/{order.id}/ship")
    assert (early.status_code, early.json()["type"]) == (409, "/problems/invalid-transition")
    assert (early.json()["from"], early.json()["to"]) == ("pending", "shipped")
    await step(shop, order, cashier.confirm)
    assert (await staff.post(f"/orders/{order.id}/deliver")).status_code == 409
    assert (await staff.post(f"/orders/{order.id}/ship")).json()["status"] == "shipped"
    assert (await staff.post(f"/orders/{order.id}/ship")).status_code == 409
    done = (await staff.post(f"/orders/{order.id}/deliver")).json()
    assert (done["status"], done["expiresAt"]) == ("delivered", None)
    assert [(each["from"], each["to"]) for each in done["history"]] == [
        (None, "pending"), ("pending", "confirmed"), ("confirmed", "shipped"), ("shipped", "delivered"),
    ]  # fmt: skip
    assert done["history"][-1]["by"] == str(staff.user_id)  # type: ignore[attr-defined]
    assert (await staff.post(f"/orders/{uuid4()}/ship")).status_code == 404


async def test_lists_are_newest_first_one_page_after_the_other(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, sign_in: SignIn
) -> None:
    other = await sign_in()
    mine = [await place(shop, shopper, ("MUG", 1)) for _ in range(7)]
    theirs = [await place(shop, other, ("MUG", 1)) for _ in range(4)]
    async with shop.stores.pg.once() as tx:  # many orders of one moment: the id decides, and none is lost
        await tx.execute("UPDATE orders SET created_at = '2026-01-01' WHERE id = ANY ($1)", [o.id for o in mine[:5]])
    await step(shop, mine[0], cashier.confirm)
    await step(shop, mine[1], cashier.confirm, orders.ship)
    await step(shop, theirs[0], orders.cancel)

    def newest(*found: orders.Order) -> list[str]:
        old = sorted((o.id for o in found if o in mine[:5]), reverse=True)
        new = sorted((o for o in found if o not in mine[:5]), key=lambda o: o.created_at, reverse=True)
        return [str(o.id) for o in new] + [str(order_id) for order_id in old]

    assert await listed(shopper) == newest(*mine)
    assert await listed(shopper, status="confirmed") == newest(mine[0])
    assert await listed(staff) == newest(*mine, *theirs)
    assert await listed(staff, status="pending") == newest(*mine[2:], *theirs[1:])
    assert await listed(staff, status="shipped") == newest(mine[1])
    assert await listed(staff, status="cancelled") == newest(theirs[0])
    assert await listed(staff, userId=theirs[0].user_id) == newest(*theirs)
    assert await listed(staff, userId=theirs[0].user_id, status="pending") == newest(*theirs[1:])
    assert await listed(staff, userId=uuid4()) == []


async def test_an_order_is_found_by_the_number_that_its_buyer_names(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, sign_in: SignIn
) -> None:
    order, _ = [await place(shop, shopper, ("MUG", 1)) for _ in range(2)]
    stranger = await sign_in()
    number, found = order.number, [str(order.id)]
    assert [await listed(who, number=number) for who in (staff, shopper)] == [found, found]
    assert await listed(staff, number=number.lower(), status="pending", userId=order.user_id) == found
    assert await listed(staff, number=number, status="shipped") == []
    assert await listed(staff, number=number, userId=stranger.user_id) == []  # type: ignore[attr-defined]
    assert await listed(staff, number=number, email="nobody@example.com") == []
    assert await listed(stranger, number=number) == await listed(staff, number=f"Q-{'9' * 18}") == []


async def test_a_question_that_is_none_is_refused_by_name(staff: httpx.AsyncClient) -> None:
    wrong = [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("cursor=forged", "cursor"),
        ("cursor=%00", "cursor"),
        ("status=paid", "status"),
        ("userId=somebody", "userId"),
        ("number=100001", "number"),
        ("number=Q-1%00", "number"),
    ]
    for query, field in wrong:
        answer = await staff.get(f"/orders?{query}")
        assert answer.status_code == 422, query
        assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await staff.get("/orders/no-id")).status_code == 422


async def test_a_cursor_opens_only_the_list_that_gave_it(
    shop: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    for _ in range(2):
        await place(shop, shopper, ("MUG", 1))
    cursor = (await shopper.get("/orders?limit=1")).json()["nextCursor"]
    assert (await staff.get(f"/orders?limit=1&cursor={cursor}")).status_code == 422
    assert (await shopper.get(f"/orders?limit=1&cursor={cursor[:-2]}")).status_code == 422
    assert len((await shopper.get(f"/orders?limit=1&cursor={cursor}")).json()["items"]) == 1


async def test_who_has_bought_what(shop: Shop, shopper: httpx.AsyncClient) -> None:
    user_id: UUID = shopper.user_id  # type: ignore[attr-defined]
    order = await place(shop, shopper, ("MUG", 1), ("CUP", 1))

    async def bought(*skus: str) -> bool:
        async with shop.stores.pg.read() as read:
            return await orders.has_bought(read, user_id, skus)

    assert not await bought("MUG")
    await step(shop, order, cashier.confirm)
    assert await bought("MUG") and await bought("NONE", "CUP") and not await bought("NONE") and not await bought()
    async with shop.stores.pg.tx() as tx:
        await cashier.refund(tx, order.id)
    assert not await bought("MUG")
