"""What works while which store is away: the table of docs/operations.md, which tests go through cell by cell."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

Json = dict[str, Any]
# Who asks, how, where, with what.
Request = tuple[str, str, str, Json | None]

WORKS, AWAY = "works", "503"
UNCACHED = "product page not in the cache"
# How an answer is known to be one that makes do without the store.
MAKES_DO: dict[str, Callable[[httpx.Response], bool]] = {
    "from MongoDB": lambda answer: answer.headers.get("X-Cache") == "miss",
    "cached, with `Age`": lambda answer: answer.headers.get("X-Cache") == "hit" and int(answer.headers["Age"]) >= 0,
    "`degraded`": lambda answer: answer.json()["degraded"] is True,
}
WAYS = {
    "stopped": "the server is killed, so connections are refused",
    "paused": "the server is stopped with SIGSTOP: it keeps its connections and does not answer",
    "cut": "connections break in the middle of an answer, and new ones are closed at once",
}


@dataclass(frozen=True)
class Group:
    """Requests alike in what they need. `without`: what becomes of them without PostgreSQL, MongoDB, Redis, search."""

    name: str
    requests: tuple[Request, ...]
    without: tuple[str, str, str, str]

    def outcome(self, store: str) -> str:
        return self.without[("postgres", "mongodb", "redis", "search").index(store)]


def _get(path: str, who: str = "guest") -> Request:
    return (who, "GET", path, None)


ORDER: Json = {"items": [{"sku": "MUG", "qty": 1}]}
ITEM: Json = {"sku": "MUG", "qty": 1}
NEW: Json = {"email": "new@example.com", "password": "correct horse battery"}

GROUPS = (
    Group("health, metrics, documents", tuple(map(_get, ("/health/live", "/metrics", "/openapi.json"))),
          (WORKS, WORKS, WORKS, WORKS)),
    Group("product page in the cache", (_get("/products/MUG"),),
          (WORKS, "cached, with `Age`", "from MongoDB", WORKS)),
    Group(UNCACHED, (_get("/products/TEE"),),
          (WORKS, AWAY, "from MongoDB", WORKS)),
    Group("lists, categories, reviews",
          tuple(map(_get, ("/products", "/products?category=things&attrs.ram_gb.gte=1", "/categories",
                           "/products/MUG/reviews"))),
          (WORKS, AWAY, WORKS, WORKS)),
    Group("search without a query, by category, by a name's prefix",
          tuple(map(_get, ("/search", "/search?category=things", "/search?q=potter", "/search/suggest?q=pot"))),
          (WORKS, WORKS, WORKS, "`degraded`")),
    Group("any other search", tuple(map(_get, ("/search?q=mug", "/search?inStock=true", "/search?q=.*mug"))),
          (WORKS, WORKS, WORKS, AWAY)),
    Group("catalog writes", (("staff", "PATCH", "/products/MUG", {"brand": "Clay & Co"}),),
          (AWAY, AWAY, WORKS, WORKS)),
    Group("a guest's empty cart", (_get("/cart"),), (WORKS, WORKS, AWAY, WORKS)),
    Group("a cart of products in the cache", (_get("/cart", "shopper"), ("shopper", "POST", "/cart/items", ITEM)),
          (AWAY, WORKS, AWAY, WORKS)),
    Group("an order of the cart", (("shopper", "POST", "/orders", {}),), (AWAY, WORKS, AWAY, WORKS)),
    Group("an order that names its items, and its payment",
          (("shopper", "POST", "/orders", ORDER), ("shopper", "PAY", "", None)),
          (AWAY, WORKS, WORKS, WORKS)),
    Group("one's orders and account", (_get("/orders", "shopper"), _get("/users/me", "shopper")),
          (AWAY, WORKS, WORKS, WORKS)),
    Group("signing up and in, a new password",
          (("guest", "POST", "/users", NEW), ("guest", "POST", "/sessions", NEW | {"email": "x@example.com"}),
           ("guest", "POST", "/password-resets", {"email": "shopper@example.com"})),
          (AWAY, WORKS, WORKS, WORKS)),
    Group("inventory, analytics, pipelines",
          (_get("/inventory", "staff"),
           ("staff", "PUT", "/inventory/PEN", {"name": "A pen", "unitPriceCents": 100, "stock": 5}),
           ("staff", "POST", "/inventory/MUG/movements", {"delta": 1, "reason": "found"}),
           _get("/analytics/revenue", "staff"), _get("/sync", "staff")),
          (AWAY, WORKS, WORKS, WORKS)),
    Group("leaderboard", (_get("/leaderboard"),), (AWAY, WORKS, AWAY, WORKS)),
    Group("one's own rank", (_get("/leaderboard/me", "shopper"),), (WORKS, WORKS, AWAY, WORKS)),
)  # fmt: skip

# Of these there is always something to list. Who shops may be told that the cart is away, and never that it is empty.
FULL = {
    ("guest", "/products"), ("guest", "/products?category=things&attrs.ram_gb.gte=1"), ("guest", "/categories"),
    ("guest", "/products/MUG/reviews"), ("shopper", "/cart"), ("shopper", "/orders"), ("staff", "/inventory"),
}  # fmt: skip
# What else these answer when nothing fails.
USUAL = {"/sessions": 401, "/users": 409, "/password-resets": 202}


async def pay(client: httpx.AsyncClient) -> httpx.Response:
    """An order of its own, and the payment of it."""
    placed = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": str(uuid4())})
    if placed.status_code != 201:
        return placed
    payment = {"orderId": placed.json()["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    return await client.post("/payments", json=payment, headers={"Idempotency-Key": str(uuid4())})


def well(request: Request, answer: httpx.Response) -> bool:
    """As when nothing fails."""
    if answer.is_success and request[1] == "GET" and (request[0], request[2]) in FULL:
        return bool(answer.json()["items"])
    return answer.is_success or answer.status_code == USUAL.get(request[2])


def away(answer: httpx.Response, store: str) -> bool:
    """Says which store is away, and when to come again."""
    said = answer.status_code == 503 and answer.headers["content-type"] == "application/problem+json"
    return said and int(answer.headers["Retry-After"]) > 0 and answer.json()["store"] == store


def as_told(group: Group, store: str, request: Request, answer: httpx.Response) -> bool:
    """Whether the answer is what the table says."""
    told = group.outcome(store)
    if told == AWAY:
        return away(answer, store)
    return well(request, answer) and (told not in MAKES_DO or MAKES_DO[told](answer))


def table() -> str:
    """As docs/operations.md shows it."""
    rows = [f"| {group.name} | {' | '.join(group.without)} |" for group in GROUPS]
    return "\n".join(
        ["| | PostgreSQL away | MongoDB away | Redis away | search away |", "|---|---|---|---|---|", *rows]
    )
