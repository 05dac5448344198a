"""The demo catalog as data."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

CATALOG = Path(__file__).parent / "catalog"
"""One file a category (`category` and its `products`), and `departments.json`, the categories above them."""

IMAGES = Path(__file__).parent / "images"
"""The pictures that the products name as `/images/<file>`."""


class Sellable(NamedTuple):
    """A row of inventory: a variant, or a product without variants. Price in minor units."""

    sku: str
    name: str
    price_cents: int
    stock: int


@dataclass(frozen=True)
class DemoCatalog:
    """The documents of the JSON files; in `categories` parents come before their children.

    A product is a product as in the API, plus `stock` beside each price that can be bought.
    """

    categories: list[dict[str, Any]]
    products: list[dict[str, Any]]


@cache
def load() -> DemoCatalog:
    categories: list[dict[str, Any]] = json.loads((CATALOG / "departments.json").read_text("utf-8"))["categories"]
    products: list[dict[str, Any]] = []
    for file in sorted(CATALOG.glob("*.json")):
        if file.name != "departments.json":
            shelf = json.loads(file.read_text("utf-8"))
            categories.append(shelf["category"])
            products.extend(shelf["products"])
    return DemoCatalog(categories, products)


def sellables(product: dict[str, Any]) -> Iterator[Sellable]:
    """Every SKU of the product that can be bought, named as in an order line: `Everyday Tee, black, M`."""
    if not product["variants"]:
        yield Sellable(product["sku"], product["name"], product["priceCents"], product["stock"])
    for variant in product["variants"]:
        name = ", ".join([product["name"], *map(str, variant["attrs"].values())])
        yield Sellable(variant["sku"], name, variant["priceCents"], variant["stock"])
