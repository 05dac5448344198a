"""A tour of a running shop in three parts: checkout, search, administration.

Each step shows the response's status, its latency in milliseconds, and the stores used (from `Server-Timing`).
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from rich.console import Console

from quartet.kernel.money import format_money

LAPTOP, MOUSE = "LAPTOP-001", "MOUSE-001"
FOUND_SECONDS = 10.0


class NotAsPromised(Exception):
    """A step's response differs from what the shop promises."""


@dataclass
class Tour:
    """A run of the tour: a shopper's and a staff member's client, and the console."""

    console: Console
    shopper: httpx.AsyncClient
    staff: httpx.AsyncClient
    steps: int = 0

    async def step(
        self,
        who: httpx.AsyncClient,
        method: str,
        path: str,
        body: Any = None,
        *,
        expect: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Makes and shows one request; raises NotAsPromised if its status is not the expected one."""
        self.steps += 1
        began = time.perf_counter()
        try:
            answer = await who.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise NotAsPromised(
                f"{method} {path}: the shop does not answer ({error or type(error).__name__})"
            ) from None
        milliseconds = (time.perf_counter() - began) * 1000
        self.console.print(
            f"[bold]{self.steps:>2}[/] {method} {path} [dim]→[/] {answer.status_code} "
            f"[cyan]{milliseconds:.1f} ms[/]  [dim]{_asked(answer)}[/]",
            highlight=False,
        )
        if answer.status_code != expect:
            raise NotAsPromised(f"{method} {path}: expected {expect}, got {answer.status_code}: {answer.text[:300]}")
        return answer

    def say(self, text: str) -> None:
        """Prints what the response means."""
        self.console.print(f"     {text}", highlight=False, markup=False)

    def promise(self, holds: bool, text: str) -> None:
        """Prints the text if the condition holds, else ends the tour."""
        if not holds:
            raise NotAsPromised(f"not so: {text}")
        self.say(text)


async def tour(url: str, logins: Mapping[str, str], console: Console) -> bool:
    """Runs the tour on the shop at `url` with the demo logins; True if every step was as promised."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as shopper,
        httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as staff,
    ):
        walk = Tour(console, shopper, staff)
        try:
            for client, address in ((shopper, "shopper@demo.test"), (staff, "staff@demo.test")):
                await _sign_in(walk, client, address, logins)
            await _checkout(walk)
            await _search(walk)
            await _administration(walk)
        except NotAsPromised as failure:
            console.print(f"[bold red]{failure}[/]", highlight=False)
            return False
    console.print(f"[bold green]All {walk.steps} steps were as promised.[/]")
    return True


async def _sign_in(walk: Tour, client: httpx.AsyncClient, address: str, logins: Mapping[str, str]) -> None:
    login = {"email": address, "password": logins[address]}
    answer = await walk.step(client, "POST", "/sessions", login, expect=201)
    client.headers["Authorization"] = f"Bearer {answer.json()['accessToken']}"
    walk.say(f"{address} is signed in")


async def _checkout(walk: Tour) -> None:
    walk.console.rule("Checkout")
    shopper, staff = walk.shopper, walk.staff
    before = {sku: (await _level(walk, sku))["stock"] for sku in (LAPTOP, MOUSE)}
    await walk.step(shopper, "DELETE", "/cart", expect=204)
    await walk.step(shopper, "POST", "/cart/items", {"sku": LAPTOP, "qty": 1})
    await walk.step(shopper, "POST", "/cart/items", {"sku": MOUSE, "qty": 2})
    cart = (await walk.step(shopper, "GET", "/cart")).json()
    walk.promise(
        cart["itemCount"] == 3, f"the cart holds 3 pieces for {format_money(cart['totalCents'], cart['currency'])}"
    )
    first = await walk.step(shopper, "GET", f"/products/{LAPTOP}")
    again = await walk.step(shopper, "GET", f"/products/{LAPTOP}")
    caches = f"{first.headers['X-Cache']}, then {again.headers['X-Cache']}"
    walk.promise(again.headers["X-Cache"] == "hit", f"{first.json()['name']}: cache {caches}")
    key = {"Idempotency-Key": str(uuid4())}
    order = (await walk.step(shopper, "POST", "/orders", {}, expect=201, headers=key)).json()
    walk.promise(
        order["status"] == "pending" and order["totalCents"] == cart["totalCents"],
        f"order {order['number']}: stock reserved until {order['expiresAt']}",
    )
    paying = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    key = {"Idempotency-Key": str(uuid4())}
    payment = (await walk.step(shopper, "POST", "/payments", paying, expect=201, headers=key)).json()
    walk.promise(payment["status"] == "succeeded", f"paid {format_money(payment['amountCents'], order['currency'])}")
    repeated = await walk.step(shopper, "POST", "/payments", paying, expect=201, headers=key)
    walk.promise(
        repeated.headers.get("Idempotent-Replayed") == "true" and repeated.json()["id"] == payment["id"],
        "the same request again is answered again, not charged again",
    )
    confirmed = (await walk.step(shopper, "GET", f"/orders/{order['id']}")).json()
    walk.promise(confirmed["status"] == "confirmed", "the order is confirmed")
    cart = (await walk.step(shopper, "GET", "/cart")).json()
    walk.promise(cart["itemCount"] == 0, "the cart has lost what was bought")
    for sku, bought in ((LAPTOP, 1), (MOUSE, 2)):
        stock = (await _level(walk, sku))["stock"]
        walk.promise(stock == before[sku] - bought, f"{sku}: stock went from {before[sku]} to {stock}")
        delivery = {"delta": bought, "reason": "received", "note": "the tour puts back what it bought"}
        await walk.step(staff, "POST", f"/inventory/{sku}/movements", delivery, expect=201)


async def _search(walk: Tour) -> None:
    walk.console.rule("Search")
    found = (await walk.step(walk.shopper, "GET", "/search?q=laptop")).json()
    bands = ", ".join(f"{band['key']}: {band['count']}" for band in found["facets"]["price"])
    walk.promise(found["total"] > 0, f"{found['total']} found in {found['tookMs']} ms ({bands})")
    mistyped = (await walk.step(walk.shopper, "GET", "/search?q=thinkpda")).json()
    walk.promise(
        any("ThinkPad" in item["name"] for item in mistyped["items"]),
        f"a slip of the finger finds {mistyped['items'][0]['name'] if mistyped['items'] else 'nothing'}",
    )
    slug = mistyped["items"][0]["slug"]
    product = (await walk.step(walk.shopper, "GET", f"/products/{slug}")).json()
    walk.promise(
        product["slug"] == slug, f"{product['name']}, {format_money(product['priceCents'], product['currency'])}"
    )
    listed = "/products?category=laptops&attrs.ram_gb.gte=32&sort=-rating"
    laptops = (await walk.step(walk.shopper, "GET", listed)).json()["items"]
    walk.promise(
        bool(laptops) and all(laptop["attrs"]["ram_gb"] >= 32 for laptop in laptops),
        f"{len(laptops)} laptops with 32 GB or more, the best rated first",
    )


async def _administration(walk: Tour) -> None:
    walk.console.rule("Administration")
    staff = walk.staff
    revenue = (await walk.step(staff, "GET", "/analytics/revenue?groupBy=day&limit=7")).json()
    totals = revenue["totals"]
    walk.promise(totals["orders"] > 0, f"{totals['orders']} orders, {totals['netCents'] / 100:,.2f} net")
    levels = (await walk.step(staff, "GET", "/inventory?limit=3")).json()["items"]
    walk.promise(bool(levels), f"{levels[0]['sku']}: {levels[0]['stock']} in stock, {levels[0]['reserved']} reserved")
    ledger = (await walk.step(staff, "GET", f"/inventory/{LAPTOP}/movements?limit=3")).json()["items"]
    walk.promise(bool(ledger), f"the last movement of {LAPTOP}: {ledger[0]['reason']}")
    product = (await walk.step(staff, "GET", f"/products/{LAPTOP}")).json()
    word = f"tour{uuid4().hex[:8]}"
    await walk.step(staff, "PATCH", f"/products/{LAPTOP}", {"tags": [*product["tags"], word]})
    seconds = await _until_found(walk, word)
    walk.say(f"the change was found by search {seconds:.2f} s after it was made")
    await walk.step(staff, "PATCH", f"/products/{LAPTOP}", {"tags": product["tags"]})


async def _until_found(walk: Tour, word: str) -> float:
    began = time.perf_counter()
    while time.perf_counter() - began < FOUND_SECONDS:
        answer = await walk.shopper.get("/search", params={"q": word})
        if answer.status_code == 200 and any(item["sku"] == LAPTOP for item in answer.json()["items"]):
            seconds = time.perf_counter() - began
            await walk.step(walk.shopper, "GET", f"/search?q={word}")
            return seconds
        await asyncio.sleep(0.05)
    raise NotAsPromised(f"search did not follow the catalog within {FOUND_SECONDS:.0f} s: is the worker running?")


async def _level(walk: Tour, sku: str) -> dict[str, Any]:
    level: dict[str, Any] = (await walk.step(walk.staff, "GET", f"/inventory/{sku}")).json()
    return level


def _asked(answer: httpx.Response) -> str:
    """`postgres 1.2 ms, redis 0.4 ms`, from the `Server-Timing` header."""
    parts = [part.strip().split(";") for part in answer.headers.get("Server-Timing", "").split(",") if part.strip()]
    return ", ".join(f"{part[0]} {part[1].removeprefix('dur=')} ms" for part in parts) or "no store"
