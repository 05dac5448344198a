"""Search while its engine is away: lists that an index of MongoDB gives, marked as such, and else 503."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import product
from typing import get_args

import httpx
import pytest
from fastapi import FastAPI

from conftest import api_of, client_of
from floor import made
from quartet import catalog
from quartet.catalog import store as catalog_store
from quartet.cli import open_shop
from quartet.search import service
from quartet.search.model import AttrFilter, Sort, Wanted
from quartet.web.dependencies import Shop

SORTS: tuple[Sort, ...] = get_args(Sort)
GOODS = [
    ("MUG", "Potter's Mug", "kitchen", "Clay", 500, 4.5),
    ("POT", "Pottery Pot", "kitchen", "Iron", 2500, 3.0),
    ("PAN", "Pan", "kitchen", "Iron", 3000, 4.0),
    ("TEE", "Everyday Tee", "shirts", "Loom", 1500, 5.0),
]


@pytest.fixture
async def client(shop: Shop, staff: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A guest of a shop with something to sell, whose search engine has gone."""
    for slug, parent in (("home", None), ("kitchen", "home"), ("shirts", None)):
        body = {"name": slug.title(), "parent": parent, "attrs": {"type": "object"}}
        assert (await staff.put(f"/categories/{slug}", json=body)).status_code == 201
    for sku, name, category, brand, price, _ in GOODS:
        made = {"sku": sku, "name": name, "category": category, "brand": brand, "priceCents": price}
        assert (await staff.post("/products", json=made)).status_code == 201
    draft = {"sku": "SOON", "name": "Potter's Wheel", "category": "kitchen", "priceCents": 1, "publishedAt": None}
    assert (await staff.post("/products", json=draft)).status_code == 201
    for sku, *_, rating in GOODS:
        where = {"sku": sku}
        await shop.stores.mongo.collection(catalog.PRODUCTS).update_one(where, {"$set": {"ratings.avg": rating}})
    alone = shop.settings.model_copy(update={"search_url": "http://127.0.0.1:1"})
    async with open_shop(alone) as lonely, client_of(api_of(lonely)) as guest:
        yield guest


@pytest.mark.parametrize(
    ("asked", "skus"),
    [
        ("", "TEE MUG PAN POT"),
        ("?category=kitchen", "MUG PAN POT"),
        ("?category=kitchen&category=shirts&sort=-rating", "TEE MUG PAN POT"),
        ("?category=kitchen&sort=price", "MUG POT PAN"),
        ("?category=home", "MUG PAN POT"),
        ("?sort=-price&minPrice=1500&maxPrice=2500", "POT TEE"),
        ("?category=kitchen&sort=-newest", "PAN POT MUG"),
        ("?brand=Iron", "PAN POT"),
        ("?category=kitchen&size=1&page=2", "PAN"),
        ("?category=nothing", ""),
        ("?q=potter", "MUG POT"),
        ("?q=Potter%27s", "MUG"),
        ("?q=%20everyday%20te", "TEE"),
    ],
)
async def test_what_an_index_gives_is_listed_and_marked(client: httpx.AsyncClient, asked: str, skus: str) -> None:
    answer = await client.get(f"/search{asked}")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["degraded"] is True
    assert [item["sku"] for item in found["items"]] == skus.split()
    assert found["facets"] is None
    assert {item["score"] for item in found["items"]} <= {None}


async def test_the_total_says_whether_there_is_another_page(client: httpx.AsyncClient) -> None:
    pages = [(await client.get(f"/search?category=kitchen&size=2&page={n}")).json() for n in (1, 2)]
    assert [(len(page["items"]), page["total"]) for page in pages] == [(2, 3), (1, 3)]


@pytest.mark.parametrize(
    "asked",
    ["?q=wheel", "?q=.*", "?q=%E6%9D%AF", "?q=mug&category=kitchen", "?inStock=true", "?attrs.color=red",
     "?category=kitchen&brand=Iron", "?minPrice=1", "?brand=Iron&sort=price", "?size=100&page=11"],
)  # fmt: skip
async def test_what_no_index_gives_is_said_to_be_away(client: httpx.AsyncClient, asked: str) -> None:
    answer = await client.get(f"/search{asked}")
    assert (answer.status_code, answer.json()["store"]) == (503, "search")


async def test_names_are_offered_by_how_they_begin(client: httpx.AsyncClient) -> None:
    offered = (await client.get("/search/suggest?q=pott&size=1")).json()
    assert offered == {
        "items": [{"text": "Potter's Mug", "slug": "potter-s-mug"}], "categories": [], "queries": [], "degraded": True,
    }  # fmt: skip
    assert (await client.get("/search/suggest?q=wheel")).status_code == 503


async def test_what_is_hidden_from_a_query_is_not_listed_either(
    client: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    await made(staff.post("/search/rules", json={"query": "pott", "hidden": ["MUG"]}))
    async with asyncio.timeout(20):
        while (await made(client.get("/search?q=pott")))["total"] > 1:  # noqa: ASYNC110 — known in a second
            await asyncio.sleep(0.1)
    page = await made(client.get("/search?q=pott&size=1"))
    assert [item["sku"] for item in page["items"]] == ["POT"]
    assert [one["text"] for one in (await made(client.get("/search/suggest?q=pott")))["items"]] == ["Pottery Pot"]
    assert (await made(client.get("/search?q=potter")))["total"] == 2  # another query


async def test_a_search_that_is_answered_is_not_marked(app: FastAPI) -> None:
    async with client_of(app) as guest:
        assert (await guest.get("/search")).json()["degraded"] is False
        assert (await guest.get("/search/suggest?q=pott")).json()["degraded"] is False


def test_every_list_is_served_by_an_index_and_nothing_of_it_is_a_pattern() -> None:
    """Equalities first, then the order, which a span is of too: so an index gives the list and no more is read."""
    indexes = [[field for field, _ in keys] for keys, _ in catalog_store._PRODUCT_INDEXES]
    now = datetime.now(UTC)
    served = 0
    for q, category, brand, price, stock, attr, sort in product(
        ("", "pott", ".*", "a|b"), ((), ("a",), ("a", "b")), ((), ("x",), ("x", "y")), (None, 5), (None, True),
        ((), (AttrFilter("color", ("red",)),)), SORTS,
    ):  # fmt: skip
        shelf = service.indexed_list_of(Wanted(q, category, brand, price, in_stock=stock, attrs=attr, sort=sort))
        if shelf is None:
            continue
        served += 1
        where, order = shelf.filter(now), [field for field, _ in shelf.order]
        spans = {field for field, held in where.items() if isinstance(held, dict) and "$in" not in held}
        equal = [field for field in where if field not in spans]
        assert [*equal, *order] in indexes, (where, order)
        assert spans <= {"publishedMs", order[0]}  # drafts are few
        assert "$regex" not in repr(where)
    assert served > 20
