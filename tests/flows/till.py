"""What the purchase's tests share: goods to sell, orders to pay, and the books to look into."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from quartet import inventory
from quartet.accounts import tokens
from quartet.web.dependencies import Principal, Shop

Json = dict[str, Any]


@dataclass(frozen=True)
class Till:
    """The shop as its owner sees it."""

    shop: Shop

    async def stock(self, sku: str, pieces: int, cents: int = 500) -> None:
        """Something to sell."""
        async with self.shop.stores.pg.tx() as tx:
            await inventory.put(tx, sku, f"A {sku}", cents, currency="GBP", actor="test", stock=pieces)

    async def shelf(self, sku: str) -> tuple[int, int]:
        """Stock and reserved."""
        async with self.shop.stores.pg.read() as read:
            item = await inventory.get(read, sku)
        return item.stock, item.reserved

    async def rows(self, sql: str, *args: Any) -> list[Json]:
        """What a query finds."""
        async with self.shop.stores.pg.read() as read:
            return [dict(row) for row in await read.fetch(sql, *args)]

    async def charged(self, order_id: str) -> int:
        """What the provider's own books say was taken for an order, or is just being taken, and not given back."""
        (row,) = await self.rows(
            """SELECT coalesce(sum(
                   CASE b.status WHEN 'pending' THEN b.amount_cents ELSE b.captured_cents END - b.refunded_cents
               ), 0)::bigint AS cents
               FROM sandbox.books b JOIN payments p ON p.id::text = b.reference WHERE p.order_id = $1""",
            order_id,
        )
        cents: int = row["cents"]
        return cents

    async def topics(self, order_id: str) -> list[str]:
        """What the outbox tells of an order, in order."""
        found = await self.rows("SELECT topic FROM outbox WHERE key = $1 ORDER BY id", order_id)
        return [row["topic"] for row in found]


def sign_anew(shop: Shop, shopper: httpx.AsyncClient) -> None:
    """The access token has run out by the shop's clock: a shopper goes on with another."""
    principal = Principal(shopper.user_id, frozenset(), uuid4())  # type: ignore[attr-defined]
    shopper.headers["Authorization"] = f"Bearer {tokens.issue(shop.settings, principal, shop.clock.now())}"


async def order(client: httpx.AsyncClient, *items: tuple[str, int]) -> Json:
    """A new order."""
    answer = await client.post("/orders", json={"items": [{"sku": sku, "qty": qty} for sku, qty in items]})
    assert answer.status_code == 201, answer.text
    placed: Json = answer.json()
    return placed


async def pay(
    client: httpx.AsyncClient, order_id: str, method: str = "card_ok", key: str | None = None
) -> httpx.Response:
    """A try at paying it."""
    headers = {"Idempotency-Key": key} if key else {}
    body = {"orderId": order_id, "provider": "sandbox", "paymentMethod": method}
    return await client.post("/payments", json=body, headers=headers)


async def look(client: httpx.AsyncClient, order_id: str) -> Json:
    """The order as it stands."""
    found: Json = (await client.get(f"/orders/{order_id}")).json()
    return found


async def settle(staff: httpx.AsyncClient, made: Json, note: str, **more: Any) -> httpx.Response:
    """Staff look at what others did to the money of an order, and say of all that is open that they have seen to it."""
    (paid,) = (await look(staff, made["id"]))["payments"]
    seen = [contest["providerRef"] for contest in paid["contests"] if contest["settledAt"] is None]
    body = {"note": note, "contests": seen} | more
    return await staff.post(f"/payments/{paid['id']}/settle", json=body)
