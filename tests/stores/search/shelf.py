"""A few products to search among."""

from datetime import UTC, datetime
from typing import Any

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def product(sku: str, name: str, **more: Any) -> dict[str, Any]:
    """A catalog document, published and in stock."""
    return {
        "_id": f"id-{sku}",
        "version": 1,
        "sku": sku,
        "name": name,
        "slug": sku.lower(),
        "category": "laptops",
        "brand": None,
        "description": "",
        "images": [],
        "attrs": {},
        "variants": [],
        "tags": [],
        "priceCents": 1000,
        "available": 3,
        "ratings": {"avg": 0.0, "count": 0},
        "publishedAt": datetime(2026, 1, 1, tzinfo=UTC),
        **more,
    }


THINKPAD = product(
    "LAPTOP-001",
    "ThinkPad X1 Carbon Gen 12",
    brand="Lenovo",
    description="Ultra-light business laptop with 12th Gen Intel Core i7.",
    tags=["laptop", "business", "ultralight", "lenovo"],
    attrs={"ram_gb": 32, "screen_inch": 14, "weight_kg": 1.12, "os": "Windows 11 Pro", "touch": True},
    priceCents=149_900,
    ratings={"avg": 4.7, "count": 284},
)
SHELF = [
    THINKPAD,
    product(
        "LAPTOP-002",
        "Field 16 Workstation",
        brand="Fieldfare",
        description="A laptop for drawings.",
        attrs={"ram_gb": 64, "screen_inch": 16, "weight_kg": 2.4, "touch": False},
        priceCents=299_900,
        ratings={"avg": 4.1, "count": 12},
        publishedAt=datetime(2026, 3, 1, tzinfo=UTC),
    ),
    product(
        "HEAD-1",
        "Wireless Headphones",
        category="headphones",
        brand="Sony",
        description="Quiet <b>cans</b> & clear sound.",
        tags=["audio"],
        attrs={"color": "black"},
        priceCents=4_900,
        ratings={"avg": 4.4, "count": 40},
        available=0,
    ),
    product(
        "TEE",
        "Everyday Tee",
        category="shirts",
        brand="Juniper",
        variants=[
            {"sku": "TEE-B-L", "attrs": {"color": "black", "size": "L"}, "priceCents": 0, "available": 1},
            {"sku": "TEE-R-42", "attrs": {"color": "red", "size": 42}, "priceCents": 1500, "available": 0},
        ],
        priceCents=0,
        available=1,
        ratings={"avg": 4.4, "count": 9},
        images=[
            {"url": "/images/back.svg", "alt": "", "isPrimary": False},
            {"url": "/images/tee.svg", "alt": "", "isPrimary": True},
        ],
    ),
    product("DRAFT", "ThinkPad Draft", publishedAt=None),
    product("SOON", "ThinkPad Tomorrow", publishedAt=datetime(2026, 6, 2, tzinfo=UTC)),
]
