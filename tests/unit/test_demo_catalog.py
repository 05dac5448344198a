"""The demo catalog is a shop that could open: every product fits its category, is found once and has its picture."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator

from quartet.demo.drawing import draw
from quartet.demo.model import IMAGES, load, sellables

CATEGORIES = {category["slug"]: category for category in load().categories}
PRODUCTS = {product["sku"]: product for product in load().products}
FIELDS = ["sku", "name", "slug", "category", "brand", "description", "images", "attrs", "variants"]
FIELDS += ["priceCents", "currency", "tags", "ratings", "publishedAt"]

every_product = pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)


def test_it_is_a_shop_of_about_a_hundred_products_in_many_categories() -> None:
    shelves = Counter(product["category"] for product in PRODUCTS.values())
    assert 90 <= len(PRODUCTS) <= 130
    assert len(shelves) >= 8
    assert min(shelves.values()) >= 7


@pytest.mark.parametrize("category", CATEGORIES.values(), ids=lambda category: category["slug"])
def test_a_category_says_what_its_attributes_mean(category: dict[str, Any]) -> None:
    schema = category["attrs"]
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object" and schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(schema["properties"])
    for name, attribute in schema["properties"].items():
        assert name.islower() and attribute["title"] and attribute["description"].endswith(".")
    assert category["parent"] is None or category["parent"] in CATEGORIES


def test_parents_stand_before_their_children() -> None:
    seen: set[str | None] = {None}
    for category in load().categories:
        assert category["parent"] in seen
        seen.add(category["slug"])


def test_an_attribute_means_the_same_type_in_every_category() -> None:
    """One search index holds them all, and a field there has one type."""
    types: dict[str, set[str]] = {}
    for category in CATEGORIES.values():
        for name, attribute in category["attrs"]["properties"].items():
            types.setdefault(name, set()).add(attribute["type"])
    assert {name: kinds for name, kinds in types.items() if len(kinds) > 1} == {}


@every_product
def test_a_product_fits_its_category(product: dict[str, Any]) -> None:
    schema = CATEGORIES[product["category"]]["attrs"]
    Draft202012Validator(schema).validate(product["attrs"])
    for variant in product["variants"]:
        Draft202012Validator(schema).validate(product["attrs"] | variant["attrs"])


@every_product
def test_a_product_is_complete(product: dict[str, Any]) -> None:
    assert [field for field in product if field != "stock"] == FIELDS
    assert ("stock" in product) == (not product["variants"])
    assert product["currency"] == "GBP"
    assert 40 <= len(product["description"]) <= 600
    assert len(product["tags"]) == len(set(product["tags"])) >= 2
    assert all(item.price_cents > 0 and item.stock >= 0 for item in sellables(product))
    assert product["priceCents"] == min(item.price_cents for item in sellables(product))
    assert sum(image["isPrimary"] for image in product["images"]) == 1
    assert 0 <= product["ratings"]["avg"] <= 5


def test_every_sku_and_every_slug_is_given_once() -> None:
    skus = list(PRODUCTS) + [variant["sku"] for product in PRODUCTS.values() for variant in product["variants"]]
    slugs = [product["slug"] for product in PRODUCTS.values()]
    names = [item.name for product in PRODUCTS.values() for item in sellables(product)]
    for given in (skus, slugs, names, [*slugs, *skus]):
        assert [value for value, times in Counter(given).items() if times > 1] == []


def test_the_laptop_every_example_buys_is_there_to_the_letter() -> None:
    laptop = PRODUCTS["LAPTOP-001"]
    assert laptop["name"] == "ThinkPad X1 Carbon Gen 12"
    assert laptop["slug"] == "thinkpad-x1-carbon-gen-12"
    assert (laptop["category"], laptop["brand"]) == ("laptops", "Lenovo")
    assert laptop["description"] == "Ultra-light business laptop with 12th Gen Intel Core i7."
    assert laptop["images"] == [
        {"url": "/images/thinkpad-x1-front.svg", "alt": "Front view", "isPrimary": True},
        {"url": "/images/thinkpad-x1-side.svg", "alt": "Side view", "isPrimary": False},
    ]
    assert laptop["attrs"] == {
        "ram_gb": 32,
        "storage_gb": 1000,
        "screen_inch": 14,
        "weight_kg": 1.12,
        "cpu": "Intel Core i7-1260P",
        "os": "Windows 11 Pro",
        "battery_wh": 57,
    }
    assert laptop["tags"] == ["laptop", "business", "ultralight", "lenovo"]
    assert laptop["ratings"] == {"avg": 4.7, "count": 284}
    assert {"MOUSE-001", "P001"} <= set(PRODUCTS)


def test_every_price_band_and_the_32_gb_query_have_something_to_show() -> None:
    def band(pence: int) -> str:
        return next(
            name for name, end in (("<50", 5000), ("<200", 20000), ("<500", 50000), (">", 10**9)) if pence < end
        )

    bands = Counter(band(product["priceCents"]) for product in PRODUCTS.values())
    assert len(bands) == 4 and min(bands.values()) >= 8
    assert sum(product["attrs"].get("ram_gb", 0) >= 32 for product in PRODUCTS.values()) >= 5


def test_drafts_are_few_and_everything_else_is_on_sale() -> None:
    now = datetime.now(UTC)
    dates = [product["publishedAt"] and datetime.fromisoformat(product["publishedAt"]) for product in PRODUCTS.values()]
    assert dates.count(None) == 1
    assert sum(date > now for date in dates if date) == 1


@every_product
def test_a_product_has_its_picture_drawn_from_its_own_data(product: dict[str, Any]) -> None:
    for name, svg in draw(product).items():
        file = IMAGES / name
        assert file.read_text("utf-8") == svg, "run `python -m quartet.demo.drawing`"
        assert file.stat().st_size < 3072
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        title = root.find("{http://www.w3.org/2000/svg}title")
        assert title is not None and product["name"] in (title.text or "")


def test_no_picture_is_left_over() -> None:
    named = {image["url"] for product in PRODUCTS.values() for image in product["images"]}
    assert named == {f"/images/{file.name}" for file in IMAGES.iterdir()}
