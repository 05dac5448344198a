"""A small shop with one of everything in it, for tests that go through every route."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from quartet.accounts import start_session, tokens
from quartet.web.dependencies import Principal, Shop

Json = dict[str, Any]


@dataclass(frozen=True)
class Furnished:
    """What there is, by the name of the path parameter that asks for it; ids by the room whose they are."""

    known: dict[str, list[str]]
    pending_order: str

    def known_at(self, path: str, name: str) -> list[str]:
        """What there is for a parameter of this path; nothing where every value is made up."""
        return self.known.get(f"{path.split('/')[1]}.{name}") or self.known.get(name, [])


async def furnish(staff: httpx.AsyncClient, shopper: httpx.AsyncClient) -> Furnished:
    """A category, a plain product, one with variants, stock, an order unpaid and one paid, a review, a full cart."""
    attrs = {"type": "object", "properties": {"color": {"type": "string"}, "ram_gb": {"type": "integer"}}}
    await _made(staff.put("/categories/things", json={"name": "Things", "attrs": attrs}))
    mug: Json = {"sku": "MUG", "name": "Potter's Mug", "category": "things", "priceCents": 500, "tags": ["clay"]}
    tee: Json = {
        "sku": "TEE", "name": "Everyday Tee", "category": "things", "priceCents": 1500,
        "variants": [{"sku": f"TEE-{c}", "attrs": {"color": c}, "priceCents": 1500} for c in ("black", "red")],
    }  # fmt: skip
    for product in (mug, tee):
        await _made(staff.post("/products", json=product | {"attrs": {"ram_gb": 1}}))
    for sku in ("MUG", "TEE-black", "TEE-red"):
        await _made(staff.post(f"/inventory/{sku}/movements", json={"delta": 100_000, "reason": "received"}))
    orders = [
        (await _made(shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": 2}]}))).json()["id"]
        for _ in range(3)
    ]
    payment = {"provider": "sandbox", "paymentMethod": "card_ok"}
    paid = [(await _made(shopper.post("/payments", json=payment | {"orderId": o}))).json()["id"] for o in orders[1:]]
    await _made(shopper.post("/products/MUG/reviews", json={"rating": 5, "title": "Good", "body": "Holds tea."}))
    await _made(shopper.post("/cart/items", json={"sku": "TEE-red", "qty": 1}))
    known = {
        "sku": ["MUG", "TEE", "TEE-black"],
        "ref": ["MUG", "TEE-red", "everyday-tee"],
        "slug": ["things", "invalid"],
        "orders.id": orders,
        "payments.id": paid,
        "provider": ["sandbox"],
        "name": ["upright.svg"],
        "token": ["spent"],
    }
    return Furnished(known, orders[0])


async def _made(call: Any) -> httpx.Response:
    answer: httpx.Response = await call
    assert answer.is_success, (answer.request.method, answer.request.url, answer.text)
    return answer


async def new_token(shop: Shop, user_id: Any, *roles: str) -> str:
    """An access token of a session begun now."""
    async with shop.stores.pg.tx() as tx:
        session = await start_session(tx, user_id, shop.clock.now(), shop.settings)
    return tokens.issue(shop.settings, Principal(user_id, frozenset(roles), session.id), datetime.now(UTC))
