"""The cost of the shop's requests over HTTP: CPU of each process per request, compared with an empty HTTP answer."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from bench.client import Client
from bench.machine import Measured, measure, table
from bench.running import RunningShop, running_shop, settled
from quartet.cart.store import Carts
from quartet.search import Wanted, find
from quartet.stores.redis import RedisStore
from quartet.stores.search import SearchEngine

SEED = 20101201
CALLERS = 8
WRITES = 100


async def http(calls: int) -> str:
    """The tables, as Markdown."""
    async with running_shop("auto") as shop:
        return "\n\n".join(
            [
                await _requests(shop, calls),
                await _redis_part(shop, calls),
                await _search_part(shop, calls // 5),
                await _freshness(shop),
            ]
        )


async def _requests(shop: RunningShop, calls: int) -> str:
    guest, shopper = Client(shop.url), await shop.sign_in("shopper@demo.test")
    products = await _all(guest, "/products?limit=100")
    await settled(shop)
    skus = [product["sku"] for product in products if not product["variants"] and product["available"] > 20]
    draw = random.Random(SEED)
    words = [word for product in products for word in product["name"].split() if len(word) > 3]
    redis = RedisStore(_url(shop, "redis"))

    async def uncached(_: int) -> object:
        sku = draw.choice(skus)
        await redis.call("UNLINK", f"product:{sku}")
        return await guest.request("GET", f"/products/{sku}")

    async def purchase(_: int) -> None:
        await _purchase(shopper, draw.sample(skus, 2))

    cart_line = itertools.cycle(range(1, 4))
    runs: list[tuple[str, Callable[[int], Awaitable[object]], int]] = [
        ("empty answer: GET /health/live", lambda _: guest.request("GET", "/health/live"), calls),
        ("product page from the cache", lambda _: guest.request("GET", f"/products/{draw.choice(skus)}"), calls),
        ("product page from MongoDB", uncached, calls // 4),
        ("list: laptops with 32 GB, by rating", lambda _: guest.request("GET", LAPTOPS), calls // 4),
        (
            "cart: add a line",
            lambda _: shopper.request("PUT", f"/cart/items/{draw.choice(skus[:20])}", {"qty": next(cart_line)}),
            calls // 2,
        ),
        ("cart: read 20 lines", lambda _: shopper.request("GET", "/cart"), calls // 2),
        ("search with facets", lambda _: guest.request("GET", f"/search?q={draw.choice(words)}"), calls // 10),
        ("as you type", lambda _: guest.request("GET", f"/search/suggest?q={draw.choice(words)[:4]}"), calls // 4),
        ("cart of two lines to confirmed payment (4 requests)", purchase, calls // 10),
    ]
    for sku in skus:
        await guest.request("GET", f"/products/{sku}")
    measured = [
        await measure(name, call, calls=count, callers=CALLERS, processes=shop.pids, warm=20)
        for name, call, count in runs
    ]
    await asyncio.gather(guest.close(), shopper.close(), redis.close())
    note = f"{CALLERS} callers; the load's own process is not counted. Without the sign-in. Seed {SEED}."
    return f"### Requests\n\n{note}\n\n{table(measured, measured[0])}"


LAPTOPS = "/products?category=laptops&attrs.ram_gb.gte=32&sort=-rating"


async def _purchase(shopper: Client, skus: list[str]) -> None:
    """Puts two lines into the cart, orders and pays."""
    for sku in skus:
        await shopper.request("POST", "/cart/items", {"sku": sku, "qty": 1})
    items = [{"sku": sku, "qty": 1} for sku in skus]
    order = await shopper.json("POST", "/orders", {"items": items}, want=201, **{"Idempotency-Key": uuid4().hex})
    paying = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    paid = await shopper.json("POST", "/payments", paying, want=201, **{"Idempotency-Key": uuid4().hex})
    if paid["status"] != "succeeded":
        raise RuntimeError(f"not paid: {paid}")


async def _redis_part(shop: RunningShop, calls: int) -> str:
    """Latency of the cart's Redis calls, compared with a bare round trip: goal p99 under 1 ms."""
    redis = RedisStore(_url(shop, "redis"))
    pids = {"redis": shop.pids["redis"]}
    user = uuid4()
    floor = await measure("bare PING", lambda _: redis.call("PING"), calls=calls, callers=1, processes=pids)
    carts = Carts(redis, days=30)
    add = await measure(
        "cart: add", lambda n: carts.put(user, f"SKU-{n % 20}", 2), calls=calls, callers=1, processes=pids
    )
    read = await measure("cart: read 20 lines", lambda _: carts.lines(user), calls=calls, callers=1, processes=pids)
    await redis.close()
    return f"### The cart's Redis part, at the client, one caller\n\n{table([floor, add, read], floor)}"


async def _search_part(shop: RunningShop, calls: int) -> str:
    """The shop's queries directly at the engine: the first page and a later one, which has no facets."""
    engine = SearchEngine(_url(shop, "search"))
    pids = {"search": shop.pids["search"]}
    words = ["laptop", "thinkpda", "cotton shirt", "heart", "christmas", "lunch bag", "headphones"]
    measured = []
    for name, page in (("first page", 1), ("second page", 2)):

        def ask(number: int, page: int = page) -> Awaitable[object]:
            return find(engine, shop.settings, Wanted(q=words[number % len(words)], page=page), datetime.now(UTC))

        measured.append(await measure(name, ask, calls=calls, callers=2, processes=pids))
    await engine.close()
    return f"### The search engine, driven directly, two callers\n\n{table(measured, measured[-1])}"


async def _freshness(shop: RunningShop) -> str:
    """Time from an acknowledged catalog write until a search finds it: goal p99 under 1 s."""
    staff, guest = await shop.sign_in("staff@demo.test"), Client(shop.url)
    product = await staff.json("GET", "/products/LAPTOP-001")
    latencies = []
    for _ in range(WRITES):
        word = f"fresh{uuid4().hex[:12]}"
        await staff.json("PATCH", "/products/LAPTOP-001", {"tags": [*product["tags"], word]})
        began = time.perf_counter()
        while not (await guest.json("GET", f"/search?q={word}"))["total"]:  # noqa: ASYNC110 — seen from outside
            await asyncio.sleep(0.01)
        latencies.append((time.perf_counter() - began) * 1000)
    await staff.json("PATCH", "/products/LAPTOP-001", {"tags": product["tags"]})
    await asyncio.gather(staff.close(), guest.close())
    found = Measured("write acknowledged → found", sum(latencies) / 1000, latencies, {})
    return (
        f"### Freshness\n\n{WRITES} changes one after another: p50 {found.quantile(0.5):.0f} ms, "
        f"p99 {found.quantile(0.99):.0f} ms, longest {max(latencies):.0f} ms."
    )


async def _all(client: Client, path: str) -> list[dict[str, Any]]:
    page = await client.json("GET", path)
    items = page["items"]
    while page["nextCursor"]:
        page = await client.json("GET", f"{path}&cursor={page['nextCursor']}")
        items += page["items"]
    return list(items)


def _url(shop: RunningShop, store: str) -> str:
    return str(getattr(shop.settings, f"{store}_url"))
