"""The shop floor that the proofs of access walk over: things to act on, made anew for each act; and the routes, as the
application itself has them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from quartet import inventory
from quartet.web.dependencies import Shop, admin, buyer, signed, staff

Json = dict[str, Any]
Route = tuple[str, str]  # method, path as the document has it

_numbers = count(1)


@dataclass(frozen=True)
class Floor:
    """Everybody who may come: `shopper` owns what is bought."""

    shop: Shop
    app: FastAPI
    guest: httpx.AsyncClient
    shopper: httpx.AsyncClient
    staff: httpx.AsyncClient
    admin: httpx.AsyncClient

    async def sku(self, pieces: int = 100) -> str:
        """Something to sell."""
        sku = f"THING-{next(_numbers)}"
        async with self.shop.stores.pg.tx() as tx:
            await inventory.put(tx, sku, f"A {sku}", 500, currency="GBP", actor="test", stock=pieces)
        return sku

    async def category(self) -> str:
        """An empty category's slug."""
        slug = f"shelf-{next(_numbers)}"
        await made(self.admin.put(f"/categories/{slug}", json={"name": slug}))
        return slug

    async def product(self) -> str:
        """A product's SKU."""
        sku = f"GOOD-{next(_numbers)}"
        body = {"sku": sku, "name": f"A {sku}", "category": await self.category(), "priceCents": 700}
        await made(self.admin.post("/products", json=body))
        return sku

    async def order(self, buyer: httpx.AsyncClient | None = None) -> str:
        """An order to be paid."""
        lines = {"items": [{"sku": await self.sku(), "qty": 1}]}
        return str((await made((buyer or self.shopper).post("/orders", json=lines)))["id"])

    async def payment(self, buyer: httpx.AsyncClient | None = None) -> Json:
        """A payment that went well; `orderId` is confirmed."""
        buyer = buyer or self.shopper
        body = {"orderId": await self.order(buyer), "provider": "sandbox", "paymentMethod": "card_ok"}
        return await made(buyer.post("/payments", json=body))

    async def held(self) -> str:
        """A payment whose money is held and not taken yet, as in a shop that captures by hand."""
        by_hand = self.shop.settings.model_copy(update={"payment_capture": "manual"})
        self.app.state.shop, self.app.state.providers = replace(self.shop, settings=by_hand), None
        try:
            return str((await self.payment())["id"])
        finally:
            self.app.state.shop, self.app.state.providers = self.shop, None

    async def shipped(self) -> str:
        """An order under way."""
        order_id = (await self.payment())["orderId"]
        await made(self.admin.post(f"/orders/{order_id}/ship"))
        return str(order_id)


async def made(call: Any) -> Json:
    """What a call answers that has to go well."""
    answer: httpx.Response = await call
    assert answer.is_success, (answer.request.method, answer.request.url, answer.text)
    found: Json = answer.json() if answer.content else {}
    return found


async def walked(client: httpx.AsyncClient, path: str, limit: int, **query: Any) -> list[Json]:
    """All of a list, page by page."""
    found: list[Json] = []
    cursor: Json = {}
    while True:
        page = await made(client.get(path, params={"limit": limit, **query, **cursor}))
        found += page["items"]
        if page["nextCursor"] is None:
            return found
        assert len(page["items"]) == limit
        cursor = {"cursor": page["nextCursor"]}


def routes(app: FastAPI) -> Iterator[tuple[Route, str]]:
    """Every route, and who its own dependencies let in: `anyone`, `buyer`, `user`, `staff` or `admin`."""
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        if dependant is not None:
            for method in sorted(set(route.methods or ()) - {"HEAD", "OPTIONS"}):
                yield (method, str(route.path_format)), _who(dependant)


def _who(dependant: Dependant) -> str:
    calls = set(_calls(dependant))
    asks = {"admin": admin, "staff": staff, "user": signed, "buyer": buyer}
    return next((who for who, call in asks.items() if call in calls), "anyone")


def _calls(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for child in dependant.dependencies:
        yield from _calls(child)
