"""A small shop window for the catalog's tests: laptops as in the brief, and shirts with variants."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from quartet import catalog
from quartet.kernel.clock import FixedClock
from quartet.web.dependencies import Shop

Json = dict[str, Any]

LAPTOPS: Json = {
    "name": "Laptops",
    "parent": None,
    "attrs": {
        "type": "object",
        "properties": {
            "ram_gb": {"type": "integer", "minimum": 1},
            "weight_kg": {"type": "number"},
            "cpu": {"type": "string", "maxLength": 40},
            "touch": {"type": "boolean"},
            "ports": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["ram_gb"],
        "additionalProperties": False,
    },
}
SHIRTS: Json = {
    "name": "Shirts",
    "parent": None,
    "attrs": {
        "type": "object",
        "properties": {
            "material": {"type": "string"},
            "color": {"type": "string"},
            "size": {"type": "string", "enum": ["S", "M", "L"]},
        },
        "required": ["material", "color", "size"],
        "additionalProperties": False,
    },
}


def thinkpad(**changes: Any) -> Json:
    """The brief's laptop as staff would send it."""
    return {
        "sku": "LAPTOP-001",
        "name": "ThinkPad X1 Carbon Gen 12",
        "category": "laptops",
        "brand": "Lenovo",
        "description": "Ultra-light business laptop with 12th Gen Intel Core i7.",
        "images": [
            {"url": "/images/thinkpad-x1-side.jpg", "alt": "Side view", "isPrimary": False},
            {"url": "/images/thinkpad-x1-front.jpg", "alt": "Front view", "isPrimary": True},
        ],
        "attrs": {"ram_gb": 32, "weight_kg": 1.12, "cpu": "Intel Core i7-1260P"},
        "priceCents": 164900,
        "tags": ["laptop", "business", "ultralight", "lenovo"],
        **changes,
    }


def tee(**changes: Any) -> Json:
    """A shirt in black and red; black only in L."""
    return {
        "sku": "TEE",
        "name": "Everyday Tee",
        "category": "shirts",
        "attrs": {"material": "cotton"},
        "variants": [
            {"sku": "TEE-BLACK-L", "attrs": {"color": "black", "size": "L"}, "priceCents": 1900},
            {"sku": "TEE-RED-M", "attrs": {"color": "red", "size": "M"}, "priceCents": 1700},
        ],
        "tags": ["shirt"],
        **changes,
    }


async def make_categories(shop: Shop) -> None:
    """Laptops and shirts."""
    for slug, body in (("laptops", LAPTOPS), ("shirts", SHIRTS)):
        await catalog.put_category(shop, catalog.Category(slug=slug, **body))


async def put(staff: httpx.AsyncClient, *products: Json) -> list[Json]:
    """Creates them all."""
    made = [await staff.post("/products", json=product) for product in products]
    assert [answer.status_code for answer in made] == [201] * len(products), [answer.text for answer in made]
    return [answer.json() for answer in made]


async def load(shop: Shop, *drafts: catalog.Draft, price: int = 100) -> None:
    """Puts drafts in as a loader does; every one costs `price`, ten of each are there."""
    skus = [sku for draft in drafts for sku in ([v.sku for v in draft.variants] or [draft.sku])]
    await catalog.load_products(shop, drafts, {sku: catalog.Level(price, 10) for sku in skus})


def laptop(sku: str, **changes: Any) -> catalog.Draft:
    """A laptop that has been on sale for a year."""
    fields: Json = {
        "name": f"Laptop {sku}",
        "category": "laptops",
        "attrs": {"ram_gb": 16},
        "published_at": datetime(2025, 1, 1, tzinfo=UTC),
    }
    return catalog.Draft(sku=sku, **(fields | changes))


def at(shop: Shop, moment: datetime) -> tuple[Shop, FixedClock]:
    """The same shop on a clock of its own."""
    clock = FixedClock(moment)
    return replace(shop, clock=clock), clock


def hours(n: float) -> timedelta:
    return timedelta(hours=n)


async def skus(client: httpx.AsyncClient, query: str) -> list[str]:
    """What a list shows."""
    answer = await client.get(f"/products?{query}")
    assert answer.status_code == 200, answer.text
    return [item["sku"] for item in answer.json()["items"]]


def fields(answer: httpx.Response) -> list[str]:
    """The fields that a problem names."""
    return [error["field"] for error in answer.json()["errors"]]
