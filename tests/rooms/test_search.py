"""GET /search and GET /search/suggest."""

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from unicodedata import normalize

import httpx
import pytest

from quartet import catalog, search
from quartet.catalog import Category, Draft, Ratings, Variant
from quartet.search import cache, service
from quartet.stores.search import SearchEngine
from quartet.sync import catch_up
from quartet.web.dependencies import Shop

LAST_YEAR = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
async def shelf(shop: Shop) -> Shop:
    """Four products and a draft, in catalog and search."""
    await catalog.put_category(shop, Category("laptops", "Laptops", None, {"type": "object"}))
    await catalog.put_category(shop, Category("shirts", "Shirts", None, {"type": "object"}))
    for draft in (
        Draft(
            "LAPTOP-001",
            "ThinkPad X1 Carbon Gen 12",
            "laptops",
            brand="Lenovo",
            description="Ultra-light business laptop with <b>12th</b> Gen Intel Core i7.",
            attrs={"ram_gb": 32, "color": "black"},
            price_cents=149_900,
            published_at=LAST_YEAR,
            ratings=Ratings(4.7, 284),
        ),
        Draft("LAPTOP-002", "Field 16", "laptops", brand="Fieldfare", attrs={"ram_gb": 64}, price_cents=99_900,
              published_at=LAST_YEAR, ratings=Ratings(4.0, 3)),
        Draft("TEE", "Everyday Tee", "shirts", brand="Juniper", variants=[Variant("TEE-S", {"color": "black"}, 0)],
              published_at=LAST_YEAR, ratings=Ratings(3.0, 1)),
        Draft("SOON", "Laptop of tomorrow", "laptops", price_cents=1, published_at=datetime.now(UTC) + timedelta(1)),
        Draft("DRAFT", "Laptop never shown", "laptops", price_cents=1),
    ):  # fmt: skip
        await catalog.create_product(shop, draft, actor="test")
    await catch_up(shop)
    return shop


async def found(client: httpx.AsyncClient, **params: Any) -> dict[str, Any]:
    answer = await client.get("/search", params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_search_answers_as_promised(shelf: Shop, client: httpx.AsyncClient) -> None:
    body = await found(client, q="thinkpda busines")
    assert set(body) == {"total", "page", "size", "items", "nextCursor", "facets", "didYouMean", "partial",
                         "degraded", "tookMs"}  # fmt: skip
    item = body["items"][0]
    assert item["score"] > 0
    assert item["highlight"]["name"] == "<em>ThinkPad</em> X1 Carbon Gen 12"
    assert "&lt;b&gt;12th&lt;/b&gt;" in item["highlight"]["description"]
    assert "<em>business</em>" in item["highlight"]["description"]
    del item["score"], item["highlight"]
    product = (await catalog.find(shelf.stores.mongo, "LAPTOP-001")) or {}
    assert item == {
        "id": product["_id"], "sku": "LAPTOP-001", "slug": "thinkpad-x1-carbon-gen-12", "image": None,
        "name": "ThinkPad X1 Carbon Gen 12", "brand": "Lenovo", "category": "laptops", "priceCents": 149_900,
        "rating": 4.7, "inStock": False,
    }  # fmt: skip
    assert "thinkpad" in body["didYouMean"][0]
    assert body["facets"]["category"] == [{"key": "laptops", "count": 1}]
    assert body["facets"]["attrs"]["ram_gb"] == [{"key": 32, "count": 1}]
    assert body["facets"]["price"][3] == {"key": "Over $500", "fromCents": 50_000, "toCents": None, "count": 1}


async def test_without_words_everything_by_rating(shelf: Shop, client: httpx.AsyncClient) -> None:
    body = await found(client)
    assert [(item["sku"], item["score"]) for item in body["items"]] == [
        ("LAPTOP-001", None), ("LAPTOP-002", None), ("TEE", None)
    ]  # fmt: skip
    assert (body["total"], body["page"], body["size"]) == (3, 1, 20)
    assert (await found(client, q="  "))["items"] == body["items"]


async def test_filters_and_pages(shelf: Shop, client: httpx.AsyncClient) -> None:
    async def skus(**params: Any) -> list[str]:
        return [item["sku"] for item in (await found(client, **params))["items"]]

    assert await skus(minPrice=0, maxPrice=0) == ["TEE"]
    assert await skus(**{"attrs.ram_gb.gte": 32}) == ["LAPTOP-001", "LAPTOP-002"]
    assert await skus(**{"attrs.color": "black"}) == ["LAPTOP-001", "TEE"]
    assert await skus(**{"attrs.color": "black"}, category="shirts") == ["TEE"]
    assert await skus(category=["shirts", "laptops"], sort="price") == ["TEE", "LAPTOP-002", "LAPTOP-001"]
    assert await skus(inStock="true") == []
    assert await skus(page=2, size=2) == ["TEE"]
    assert await skus(page=100, size=100) == []


async def test_letters_with_marks_filter_in_either_spelling(shelf: Shop, client: httpx.AsyncClient) -> None:
    draft = Draft("CUP", "Cup", "shirts", brand="Café", attrs={"size": "é"}, price_cents=1, published_at=LAST_YEAR)
    await catalog.create_product(shelf, draft, actor="test")
    await catch_up(shelf)
    for asked in ({"brand": "Café"}, {"attrs.size": "é"}):
        for form in ("NFC", "NFD"):
            spelt = {name: normalize(form, text) for name, text in asked.items()}
            assert [item["sku"] for item in (await found(client, **spelt))["items"]] == ["CUP"], spelt


BAD: list[tuple[dict[str, Any], str]] = [
    ({"size": 0}, "size"),
    ({"size": 101}, "size"),
    ({"size": "ten"}, "size"),
    ({"page": 0}, "page"),
    ({"page": 101, "size": 100}, "page"),
    ({"page": 10**30}, "page"),
    ({"sort": "name"}, "sort"),
    ({"sort": "-relevance"}, "sort"),
    ({"minPrice": -1}, "minPrice"),
    ({"minPrice": "1.5"}, "minPrice"),
    ({"maxPrice": 10**30}, "maxPrice"),
    ({"minPrice": 5, "maxPrice": 4}, "minPrice"),
    ({"minRating": 6}, "minRating"),
    ({"cursor": "made up"}, "cursor"),
    ({"cursor": "x", "page": 2}, "cursor"),
    ({"inStock": "perhaps"}, "inStock"),
    ({"q": "x" * 201}, "q"),
    ({"colour": "black"}, "colour"),
    ({"min_price": 5}, "min_price"),
    ({"": 5}, "(no name)"),
    ({"attrs.ram_gb.gte": "lots"}, "attrs.ram_gb.gte"),
    ({"attrs.ram_gb.about": 3}, "attrs.ram_gb.about"),
    ({"category": ""}, "category.0"),
    ({"brand": ["Lenovo", ""]}, "brand.1"),
    ({"q": ["red", "blue"]}, "q"),
    ({"sort": ["price", "-price"]}, "sort"),
    ({"maxPrice": [5000, 9000]}, "maxPrice"),
]


async def test_bad_values_are_named(client: httpx.AsyncClient) -> None:
    for params, field in BAD:
        answer = await client.get("/search", params=params)
        assert answer.status_code == 422, params
        assert answer.json()["errors"][0]["field"] == field
    assert (await client.get("/search/suggest?q=red&q=blue")).status_code == 422


async def _leaf(client: httpx.AsyncClient, cursor: str | None, **asked: Any) -> tuple[list[str], str | None]:
    body = await found(client, **asked, **({"cursor": cursor} if cursor else {}))
    return [item["sku"] for item in body["items"]], body["nextCursor"]


async def test_nothing_comes_twice_while_products_change(shop: Shop, client: httpx.AsyncClient) -> None:
    await catalog.put_category(shop, Category("mugs", "Mugs", None, {"type": "object"}))

    async def put(number: int, **changes: Any) -> None:
        draft = Draft(f"M{number:02}", f"Mug {number}", "mugs", price_cents=100, published_at=LAST_YEAR, **changes)
        await catalog.create_product(shop, draft, actor="test")

    for number in range(12):
        await put(number, ratings=Ratings(number % 5, 3))
    await catch_up(shop)
    seen, cursor = await _leaf(client, None, q="mug", sort="-rating", size=5)
    # The best comes anew and moves all others by two places; one of those to come goes.
    await put(90, ratings=Ratings(5.0, 9))
    await put(91, ratings=Ratings(4.9, 9))
    await catalog.delete_product(shop, "M05", actor="test", if_match=None)
    await catch_up(shop)
    twice = await _leaf(client, cursor, q="mug", sort="-rating", size=5)
    assert twice == await _leaf(client, cursor, q="mug", sort="-rating", size=5)
    while cursor:
        skus, cursor = await _leaf(client, cursor, q="mug", sort="-rating", size=5)
        seen += skus
    assert len(seen) == len(set(seen))
    assert set(seen) == {f"M{n:02}" for n in (*range(12), 90, 91)} - {"M05"}
    # A cursor is its search's own.
    _, other = await _leaf(client, None, q="mug", sort="price", size=5)
    answer = await client.get("/search", params={"q": "mug", "sort": "-rating", "size": 5, "cursor": other})
    assert answer.status_code == 422


async def test_without_what_was_seen_pages_go_by_number(shelf: Shop, client: httpx.AsyncClient) -> None:
    first, cursor = await _leaf(client, None, size=2)
    await shelf.stores.redis.call("FLUSHDB")
    assert (first, await _leaf(client, cursor, size=2)) == (["LAPTOP-001", "LAPTOP-002"], (["TEE"], None))


async def test_where_there_is_no_room_for_what_was_seen_everything_is_shown_all_the_same(
    shelf: Shop, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES_IN_ALL", 0)
    seen, cursor = await _leaf(client, None, size=1)
    while cursor:
        skus, cursor = await _leaf(client, cursor, size=1)
        seen += skus
    assert seen == ["LAPTOP-001", "LAPTOP-002", "TEE"]


async def test_nobody_fills_redis_by_leafing(
    shelf: Shop, client: httpx.AsyncClient, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES_PER_CLIENT", 500)
    for sort in ("price", "-price", "-newest", "-rating", "relevance"):
        _, cursor = await _leaf(client, None, size=1, sort=sort)
        await _leaf(client, cursor, size=1, sort=sort)
    redis = shelf.stores.redis
    kept = [cache.unpack(await redis.call("GET", key)) for key in await redis.call("KEYS", "search:*:seen:*")]
    assert sorted(map(len, kept)) == [1, 2], "his share, first pages with all others"
    # What he asks first serves all others, who leaf on from it by number.
    _, cursor = await _leaf(client, None, q="laptop", size=1, sort="-price")
    assert (await _leaf(shopper, cursor, q="laptop", size=1, sort="-price"))[0] == ["LAPTOP-002"]


async def test_a_category_is_those_below_it_too(shelf: Shop, client: httpx.AsyncClient) -> None:
    number = {"type": "integer"}
    await catalog.put_category(shelf, Category("computers", "Computers", None, {"type": "object"}))
    below = Category("laptops", "Laptops", "computers", {"type": "object", "properties": {"ram_gb": number}})
    await catalog.put_category(shelf, below)
    async with asyncio.timeout(20):
        while not (body := await found(client, category="computers"))["items"]:  # noqa: ASYNC110 — known in a second
            await asyncio.sleep(0.1)
    assert [item["sku"] for item in body["items"]] == ["LAPTOP-001", "LAPTOP-002"]
    assert {"key": "computers", "count": 2} in body["facets"]["category"]
    assert {"key": "shirts", "count": 1} in body["facets"]["category"]
    assert body["facets"]["attrs"] == {"ram_gb": [{"key": 32, "count": 1}, {"key": 64, "count": 1}]}
    for called in ("Computers", "computer", "LAPTOP"):
        assert (await found(client, q=called))["total"] == 2, called
    assert (await found(client, q="!!"))["total"] == 0


async def test_a_band_of_great_numbers_is_called_by_all_of_their_digits(shop: Shop, client: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"pixels": {"type": "integer"}}}
    await catalog.put_category(shop, Category("cameras", "Cameras", None, schema))
    for n in range(6):
        draft = Draft(f"C{n}", f"Camera {n}", "cameras", attrs={"pixels": 12_000_000 + n}, price_cents=1,
                      published_at=LAST_YEAR)  # fmt: skip
        await catalog.create_product(shop, draft, actor="test")
    await catch_up(shop)
    bands = (await found(client, category="cameras"))["facets"]["attrs"]["pixels"]
    assert bands[0] == {"key": "12000000–12000002", "from": 12_000_000, "to": 12_000_002, "count": 2}
    assert len({band["key"] for band in bands}) == len(bands)


async def test_bands_of_a_part_of_a_category_are_said_to_be_that_and_soon_counted_again(
    shelf: Shop, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ram = {"type": "object", "properties": {"ram_gb": {"type": "integer"}}}
    await catalog.put_category(shelf, Category("tablets", "Tablets", None, ram))
    for n in range(6):
        draft = Draft(f"T{n}", f"Tablet {n}", "tablets", attrs={"ram_gb": n}, price_cents=1, published_at=LAST_YEAR)
        await catalog.create_product(shelf, draft, actor="test")
    await catch_up(shelf)
    ask = SearchEngine.search

    async def out_of_time(engine: SearchEngine, alias: str, body: dict[str, Any]) -> Any:
        found = await ask(engine, alias, body)
        return {**found, "timed_out": True} if body["size"] == 0 else found

    async def counted() -> tuple[bool, bool]:
        """Whether a part only, and whether in bands."""
        body = await found(client, category="tablets")
        return body["partial"], "from" in body["facets"]["attrs"]["ram_gb"][0]

    with monkeypatch.context() as slow:
        slow.setattr(SearchEngine, "search", out_of_time)
        assert await counted() == (True, True)
    with monkeypatch.context() as later:
        later.setattr(service, "monotonic", lambda: monotonic() + service.PARTIAL_SECONDS)
        assert await counted() == (False, True)
    with monkeypatch.context() as slow:  # those that are known go on
        slow.setattr(SearchEngine, "search", out_of_time)
        slow.setattr(service, "monotonic", lambda: monotonic() + service.PARTIAL_SECONDS + service.VIEW_SECONDS)
        assert await counted() == (False, True)


async def test_what_only_sounds_like_a_category_is_no_name_of_it(shop: Shop, client: httpx.AsyncClient) -> None:
    for slug, name in (("optics", "Glasses"), ("kitchen", "Kitchen"), ("phones", "Phones")):
        await catalog.put_category(shop, Category(slug, name, None, {"type": "object"}))
    for sku, name, category in (
        ("READ", "Reading Glasses", "optics"), ("FRAME", "Aviator Frames", "optics"), ("WINE", "Wine Glass", "kitchen"),
        ("PIXEL", "Pixel", "phones"), ("CASE", "Phone Case", "kitchen"),
    ):  # fmt: skip
        await catalog.create_product(
            shop, Draft(sku, name, category, price_cents=1, published_at=LAST_YEAR), actor="test"
        )
    await catch_up(shop)

    async def skus(q: str) -> list[str]:
        return [item["sku"] for item in (await found(client, q=q))["items"]]

    assert (await skus("glass"))[0] == "WINE"
    assert "FRAME" not in await skus("glass")
    assert set((await skus("glasses"))[:2]) == {"READ", "FRAME"}
    assert await skus("phone") == await skus("Phones") == ["PIXEL", "CASE"]


async def test_staff_are_told_why_a_product_stands_where_it_stands(
    shelf: Shop, client: httpx.AsyncClient, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    body = await found(staff, q="thinkpad laptop", explain="true")
    why = body["items"][0]["why"]
    assert body["tier"] == "exact"
    assert {reason["kind"] for reason in why} == {"matches"}
    assert all(set(reason) == {"kind", "text", "field", "word", "factor", "score"} for reason in why)
    assert any("thinkpad" in reason["word"] for reason in why)
    assert why == sorted(why, key=lambda reason: -reason["score"])
    assert (await found(staff, explain="true"))["items"][0]["why"] == []
    assert (await client.get("/search?q=x&explain=true")).status_code == 401
    assert (await shopper.get("/search?q=x&explain=true")).status_code == 403


async def test_text_is_text(shelf: Shop, client: httpx.AsyncClient) -> None:
    for text in ('"(', "name:x AND *", "%ED%A0%80", "🦊" * 100):
        for path in ("/search", "/search/suggest"):
            answer = await client.get(f"{path}?q={text}")
            assert answer.status_code == 200, answer.text


async def test_suggestions(shelf: Shop, client: httpx.AsyncClient) -> None:
    answer = await client.get("/search/suggest", params={"q": "lenovo thi", "size": 5})
    offered = [{"text": "ThinkPad X1 Carbon Gen 12", "slug": "thinkpad-x1-carbon-gen-12"}]
    assert answer.json() == {"items": offered, "categories": [], "queries": [], "degraded": False}
    drafts = await client.get("/search/suggest", params={"q": "laptop"})
    assert drafts.json()["items"] == []
    assert (await client.get("/search/suggest")).json()["items"] == []
    assert (await client.get("/search/suggest", params={"q": "a", "size": 101})).status_code == 422
    assert (await client.get("/search/suggest", params={"q": "a", "page": 1})).status_code == 422


async def test_nothing_misspelt_is_offered_beside_a_category_that_begins_as_typed(
    shelf: Shop, client: httpx.AsyncClient
) -> None:
    lattice = Draft("LATTICE", "Lattice Cushion", "shirts", price_cents=1, published_at=LAST_YEAR)
    await catalog.create_product(shelf, lattice, actor="test")
    await catch_up(shelf)

    async def offered(q: str) -> tuple[list[str], list[str]]:
        body = (await client.get("/search/suggest", params={"q": q})).json()
        return [one["text"] for one in body["items"]], [one["text"] for one in body["categories"]]

    assert await offered("lapt") == ([], ["Laptops"])
    assert await offered("latp") == (["Lattice Cushion"], ["Laptops"])  # both are one letter away


async def test_without_an_index_search_is_away_and_says_when_to_come_back(
    shelf: Shop, client: httpx.AsyncClient
) -> None:
    engine, alias = shelf.stores.search, shelf.settings.search_alias
    for name in await engine.alias_targets(alias):
        await engine.delete_index(name)
    for path in ("/search?q=x", "/search/suggest?q=x"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["store"]) == (503, "search")
        assert int(answer.headers["retry-after"]) > 0
    await asyncio.gather(*(search.prepare(engine, shelf.settings) for _ in range(3)))
    assert (await found(client))["total"] == 0
