"""The inventory's routes, as staff use them."""

import asyncio
from typing import Any
from unicodedata import normalize

import httpx

import cashier
from floor import walked
from quartet import inventory, orders
from quartet.web.dependencies import Shop

Json = dict[str, Any]


async def put(staff: httpx.AsyncClient, sku: str, **body: Any) -> httpx.Response:
    return await staff.put(f"/inventory/{sku}", json={"name": f"A {sku}", "unitPriceCents": 500} | body)


async def ledger(staff: httpx.AsyncClient, sku: str) -> list[Json]:
    """All of it, page by page."""
    return await walked(staff, f"/inventory/{sku}/movements", 2)


def fields(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return [error["field"] for error in answer.json()["errors"]]


async def test_an_item_is_made_changed_and_seen(staff: httpx.AsyncClient) -> None:
    made = await put(staff, "MUG", stock=7)
    assert made.status_code == 201
    assert made.json() | {"updatedAt": ""} == {
        "sku": "MUG", "name": "A MUG", "stock": 7, "reserved": 0, "available": 7, "unitPriceCents": 500,
        "currency": "GBP", "updatedAt": "",
    }  # fmt: skip
    changed = await put(staff, "MUG", name="A better mug", unitPriceCents=650)
    assert (changed.status_code, changed.json()["stock"], changed.json()["unitPriceCents"]) == (200, 7, 650)
    assert (await staff.get("/inventory/MUG")).json() == changed.json()
    assert (await put(staff, "NEW")).json()["stock"] == 0
    missing = await staff.get("/inventory/NONE")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/not-found")


async def test_the_ledger_tells_every_change_and_its_sums_equal_the_row(
    staff: httpx.AsyncClient, shopper: httpx.AsyncClient, shop: Shop
) -> None:
    await put(staff, "MUG", stock=5)
    moved = await staff.post("/inventory/MUG/movements", json={"delta": 10, "reason": "received", "note": "van 3"})
    assert moved.status_code == 201
    assert moved.json() | {"id": 0, "createdAt": ""} == {
        "id": 0, "sku": "MUG", "delta": 10, "reservedDelta": 0, "reason": "received", "note": "van 3", "orderId": None,
        "by": str(staff.user_id), "createdAt": "",  # type: ignore[attr-defined]
    }  # fmt: skip
    async with shop.stores.pg.tx() as tx:
        order = await orders.place(tx, shopper.user_id, [("MUG", 3)])  # type: ignore[attr-defined]
        await cashier.confirm(tx, order.id)
    await put(staff, "MUG", stock=20)
    entries = await ledger(staff, "MUG")
    assert [(e["reason"], e["delta"], e["reservedDelta"]) for e in entries] == [
        ("adjusted", 8, 0), ("sold", -3, -3), ("reserved", 0, 3), ("received", 10, 0), ("received", 5, 0),
    ]  # fmt: skip
    assert entries[1]["orderId"] == str(order.id)
    item = (await staff.get("/inventory/MUG")).json()
    assert (sum(e["delta"] for e in entries), sum(e["reservedDelta"] for e in entries)) == (20, 0)
    assert (item["stock"], item["reserved"]) == (20, 0)
    assert (await staff.get("/inventory/NONE/movements")).status_code == 404


async def test_stock_never_falls_below_what_is_reserved(
    staff: httpx.AsyncClient, shopper: httpx.AsyncClient, shop: Shop
) -> None:
    await put(staff, "MUG", stock=5)
    async with shop.stores.pg.tx() as tx:
        await orders.place(tx, shopper.user_id, [("MUG", 3)])  # type: ignore[attr-defined]
    for answer in (
        await staff.post("/inventory/MUG/movements", json={"delta": -3, "reason": "damaged"}),
        await staff.post("/inventory/MUG/movements", json={"delta": 1_000_000_000, "reason": "received"}),
        await put(staff, "MUG", stock=2),
    ):
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/stock-out-of-bounds")
        assert (answer.json()["stock"], answer.json()["reserved"]) == (5, 3)
        assert "3 pieces are reserved, and 1000000000 are the most" in answer.json()["detail"]
    taken = await staff.post("/inventory/MUG/movements", json={"delta": -2, "reason": "damaged"})
    assert taken.status_code == 201
    assert (await staff.get("/inventory/MUG")).json()["available"] == 0
    assert (await staff.post("/inventory/NONE/movements", json={"delta": 1, "reason": "x"})).status_code == 404


async def test_a_movement_with_a_key_happens_once(staff: httpx.AsyncClient) -> None:
    await put(staff, "MUG", stock=5)

    async def receive(delta: int = 4) -> httpx.Response:
        return await staff.post(
            "/inventory/MUG/movements",
            json={"delta": delta, "reason": "received"},
            headers={"Idempotency-Key": "delivery-17"},
        )

    answers = await asyncio.gather(*(receive() for _ in range(6)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    again = await receive()
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert (await receive(5)).json()["type"] == "/problems/idempotency-key-reused"
    assert (await staff.get("/inventory/MUG")).json()["stock"] == 9


async def test_a_list_is_paged_and_searched(staff: httpx.AsyncClient) -> None:
    for number, sku in enumerate(["b-2", "B-1", "a_1", "C.3", "D 4"]):
        await put(staff, sku, name=f"Thing {sku} 100%", stock=number)
    seen = [item["sku"] for item in await walked(staff, "/inventory", 2)]
    assert seen == sorted(seen) and len(seen) == 5

    async def found(query: str) -> list[str]:
        answer = await staff.get(f"/inventory?{query}")
        assert answer.status_code == 200, answer.text
        return [item["sku"] for item in answer.json()["items"]]

    assert await found("belowAvailable=2") == ["B-1", "b-2"]
    assert await found("q=c.3") == ["C.3"]
    assert await found("q=100%25") == seen  # a percent sign is only a percent sign
    assert await found("q=_1") == ["a_1"]
    assert await found("q=thing b-") == ["B-1", "b-2"]
    assert await found("q=nothing") == []


async def test_letters_with_marks_are_found_in_either_spelling(staff: httpx.AsyncClient) -> None:
    spellings = [normalize(form, "Crème brûlée") for form in ("NFC", "NFD")]
    made = [(await put(staff, f"CREAM-{number}", name=name)).json() for number, name in enumerate(spellings)]
    assert [item["name"] for item in made] == [spellings[0]] * 2
    for spelling in spellings:
        found = (await staff.get("/inventory", params={"q": spelling.upper()})).json()["items"]
        assert [item["sku"] for item in found] == ["CREAM-0", "CREAM-1"]


async def test_an_item_that_is_none_is_refused_by_name(staff: httpx.AsyncClient) -> None:
    wrong: list[tuple[Json, str]] = [
        ({"name": ""}, "name"),
        ({"name": 7}, "name"),
        ({"name": "x" * 301}, "name"),
        ({"name": None}, "name"),
        ({"unitPriceCents": -1}, "unitPriceCents"),
        ({"unitPriceCents": 1.5}, "unitPriceCents"),
        ({"unitPriceCents": "500"}, "unitPriceCents"),
        ({"unitPriceCents": True}, "unitPriceCents"),
        ({"unitPriceCents": 10**30}, "unitPriceCents"),
        ({"unitPriceCents": {"$gt": ""}}, "unitPriceCents"),
        ({"stock": -1}, "stock"),
        ({"stock": 2**31}, "stock"),
        ({"stock": "7"}, "stock"),
        ({"reserved": 3}, "reserved"),
    ]
    for body, field in wrong:
        assert fields(await put(staff, "MUG", **body)) == [field], body


async def test_a_movement_that_is_none_is_refused_by_name(staff: httpx.AsyncClient) -> None:
    wrong: list[tuple[Json, str]] = [
        ({"delta": 0}, "delta"),
        ({"delta": 1.5}, "delta"),
        ({"delta": "1"}, "delta"),
        ({"delta": True}, "delta"),
        ({"delta": 10**9 + 1}, "delta"),
        ({"delta": -(10**30)}, "delta"),
        ({"reason": ""}, "reason"),
        ({"reason": ["received"]}, "reason"),
        ({"note": "x" * 1001}, "note"),
        ({"note": "a\0b"}, "note"),
        ({"sku": "OTHER"}, "sku"),
    ]
    for body, field in wrong:
        answer = await staff.post("/inventory/MUG/movements", json={"delta": 1, "reason": "received"} | body)
        assert fields(answer) == [field], body


async def test_a_question_that_is_none_is_refused_by_name(staff: httpx.AsyncClient) -> None:
    wrong = [
        ("/inventory?limit=0", "limit"),
        ("/inventory?limit=101", "limit"),
        ("/inventory?cursor=forged", "cursor"),
        ("/inventory?belowAvailable=-1", "belowAvailable"),
        ("/inventory?belowAvailable=99999999999999999999", "belowAvailable"),
        ("/inventory?belowAvailable=many", "belowAvailable"),
        ("/inventory?q=%00", "q"),
        (f"/inventory?q={'x' * 101}", "q"),
        (f"/inventory/{'x' * 65}", "sku"),
        ("/inventory/%24%7Bx%7D", "sku"),
        ("/inventory/MUG%20", "sku"),
    ]
    for path, field in wrong:
        assert fields(await staff.get(path)) == [field], path


async def test_a_cursor_opens_only_the_list_that_gave_it(staff: httpx.AsyncClient) -> None:
    for sku in ("A", "B"):
        await put(staff, sku, stock=1)
        await put(staff, sku, stock=2)
    cursor = (await staff.get("/inventory/A/movements?limit=1")).json()["nextCursor"]
    assert fields(await staff.get(f"/inventory/B/movements?cursor={cursor}")) == ["cursor"]
    assert fields(await staff.get(f"/inventory?cursor={cursor}")) == ["cursor"]
    cursor = (await staff.get("/inventory?limit=1")).json()["nextCursor"]
    assert fields(await staff.get(f"/inventory?q=B&cursor={cursor}")) == ["cursor"]


async def test_a_new_price_is_told_with_the_old_one_and_a_new_name_is_not(shop: Shop) -> None:
    async def put(cents: int, currency: str = "GBP", name: str = "Mug") -> None:
        async with shop.stores.pg.tx() as tx:
            await inventory.put(tx, "MUG", name, cents, currency=currency, actor="test")

    await put(500)
    await put(500, name="Cup")
    await put(600)
    await put(600, "EUR")
    await asyncio.gather(*(put(cents, "EUR") for cents in (1, 2, 3, 4, 5, 6)))
    async with shop.stores.pg.read() as read:
        rows = await read.fetch("SELECT payload FROM outbox WHERE topic = 'price.changed' ORDER BY id")
    told = [row["payload"] for row in rows]
    assert told[0] == {
        "sku": "MUG",
        "old_price_cents": 500,
        "old_currency": "GBP",
        "price_cents": 600,
        "currency": "GBP",
    }
    assert (told[1]["old_currency"], told[1]["currency"]) == ("GBP", "EUR")
    # Each change of several at once tells of the price that it found: they make one chain.
    chain = {change["old_price_cents"]: change["price_cents"] for change in told[2:]}
    at, seen = 600, []
    while at in chain:
        at = chain[at]
        seen.append(at)
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]
