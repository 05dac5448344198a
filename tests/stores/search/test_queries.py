"""The shop's own query on every engine."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from shelf import NOW, product

from quartet import search
from quartet.kernel.settings import Settings
from quartet.search.model import Bucket, Found, Wanted, attr_filter
from quartet.stores.search import SearchEngine


class Asker:
    """Asks the shelf."""

    def __init__(self, engine: SearchEngine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings

    async def found(self, **wanted: Any) -> Found:
        return await search.find(self.engine, self.settings.search_alias, Wanted(**wanted), NOW)

    async def skus(self, **wanted: Any) -> list[str]:
        return [hit["_source"]["sku"] for hit in (await self.found(**wanted)).hits]

    async def with_attrs(self, **attrs: str) -> set[str]:
        filters = tuple(attr_filter(f"attrs.{name.replace('__', '.')}", value) for name, value in attrs.items())
        return set(await self.skus(attrs=filters))


@pytest.fixture
async def ask(engine: SearchEngine, shelf: Settings) -> Asker:
    return Asker(engine, shelf)


EVERYTHING = ["LAPTOP-001", "HEAD-1", "TEE", "LAPTOP-002"]


async def test_without_words_everything_published_comes_best_rated_first(ask: Asker) -> None:
    found = await ask.found()
    assert [hit["_source"]["sku"] for hit in found.hits] == EVERYTHING
    assert found.total == 4
    assert all(hit["_score"] is None for hit in found.hits)


async def test_words_are_found_misspelt_in_name_brand_description_and_tags(ask: Asker) -> None:
    assert (await ask.skus(q="thinkpda"))[0] == "LAPTOP-001"
    assert await ask.skus(q="lenvo") == ["LAPTOP-001"]
    assert await ask.skus(q="drawing") == ["LAPTOP-002"]
    assert await ask.skus(q="ultralite") == ["LAPTOP-001"]
    assert await ask.skus(q="audoi") == ["HEAD-1"]
    assert await ask.skus(q="zzzzzzzz") == []


async def test_a_name_weighs_more_than_a_description(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    more = {"p1": product("P1", "Kettle", description="A teapot, nearly."), "p2": product("P2", "Teapot")}
    await search.put(engine, shelf.search_alias, 8, {id_: search.document(p) for id_, p in more.items()})
    await engine.refresh(shelf.search_alias)
    assert await ask.skus(q="teapot") == ["P2", "P1"]


async def test_a_sku_finds_its_product_also_a_variants(ask: Asker) -> None:
    assert (await ask.skus(q="laptop-002"))[0] == "LAPTOP-002"
    assert (await ask.skus(q="TEE-R-42"))[0] == "TEE"


async def test_text_stays_text(ask: Asker) -> None:
    for text in ("name:ThinkPad AND (", "* OR 1=1", "category:shirts", '"', "\\", "a~2 ^9", "{}", "é" * 50, "- -"):
        assert (await ask.found(q=text)).total <= 4


async def test_many_words_with_many_spellings_each_are_no_error(
    ask: Asker, engine: SearchEngine, shelf: Settings
) -> None:
    """Each misspelt word stands for all that are like it, in four fields; engines refuse more than 1,024 in all."""
    letters = random.Random(1)

    def words(n: int) -> str:
        return " ".join("".join(letters.choices("abcd", k=6)) for _ in range(n))

    dense = {
        f"d{i}": search.document(
            product(f"D{i}", words(4), brand=words(1), description=words(20), tags=words(2).split())
        )
        for i in range(600)
    }
    await search.put(engine, shelf.search_alias, 8, dense)
    await engine.refresh(shelf.search_alias)
    for n, joint in ((1, " "), (4, " "), (16, " "), (28, " "), (28, "-")):
        text = words(n).replace(" ", joint)
        assert (await ask.found(q=text)).total > 0
        await search.suggest(engine, shelf.search_alias, text, 10, NOW)
    await ask.found(q="電視遊戲機" * 40)


async def test_filters(ask: Asker) -> None:
    assert await ask.skus(category=("shirts",)) == ["TEE"]
    assert await ask.skus(category=("shirts", "headphones")) == ["HEAD-1", "TEE"]
    assert await ask.skus(brand=("Sony",)) == ["HEAD-1"]
    assert await ask.skus(min_price=0, max_price=0) == ["TEE"]
    assert set(await ask.skus(min_price=0)) == set(EVERYTHING)
    assert set(await ask.skus(min_price=4_900, max_price=149_900)) == {"HEAD-1", "LAPTOP-001"}
    assert await ask.skus(in_stock=False) == ["HEAD-1"]
    assert "HEAD-1" not in await ask.skus(in_stock=True)


async def test_attributes_of_every_type(ask: Asker) -> None:
    assert await ask.with_attrs(ram_gb="32") == {"LAPTOP-001"}
    assert await ask.with_attrs(ram_gb__gte="32") == {"LAPTOP-001", "LAPTOP-002"}
    assert await ask.with_attrs(ram_gb__gt="32") == {"LAPTOP-002"}
    assert await ask.with_attrs(ram_gb__gte="32", ram_gb__lt="64") == {"LAPTOP-001"}
    assert await ask.with_attrs(weight_kg__lte="1.12") == {"LAPTOP-001"}
    assert await ask.with_attrs(weight_kg__gte="-5") == {"LAPTOP-001", "LAPTOP-002"}
    assert await ask.with_attrs(touch="true") == {"LAPTOP-001"}
    assert await ask.with_attrs(os="Windows 11 Pro") == {"LAPTOP-001"}
    assert await ask.with_attrs(color="black") == {"HEAD-1", "TEE"}
    # One category's sizes are letters and another's numbers: both are kept, and found.
    assert await ask.with_attrs(size="L") == {"TEE"}
    assert await ask.with_attrs(size="42") == {"TEE"}
    assert await ask.with_attrs(size__gte="43") == set()
    assert await ask.with_attrs(nonsense="1") == set()


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("relevance", EVERYTHING),
        ("price", ["TEE", "HEAD-1", "LAPTOP-001", "LAPTOP-002"]),
        ("-price", ["LAPTOP-002", "LAPTOP-001", "HEAD-1", "TEE"]),
        ("-rating", EVERYTHING),
        ("-newest", ["LAPTOP-002", "HEAD-1", "LAPTOP-001", "TEE"]),
    ],
)
async def test_sorted(ask: Asker, sort: str, expected: list[str]) -> None:
    assert await ask.skus(sort=sort) == expected
    pages = [await ask.skus(sort=sort, page=page, size=1) for page in (1, 2, 3, 4, 5)]
    assert pages == [[sku] for sku in expected] + [[]]


async def test_facets_count_everything_found(ask: Asker) -> None:
    found = await ask.found(size=1)
    assert found.category == [Bucket("laptops", 2), Bucket("headphones", 1), Bucket("shirts", 1)]
    assert {(b.key, b.count) for b in found.brand} == {("Lenovo", 1), ("Fieldfare", 1), ("Sony", 1), ("Juniper", 1)}
    assert [(band.key, band.from_cents, band.to_cents, band.count) for band in found.price] == [
        ("Under $50", None, 5000, 2),
        ("$50–$200", 5000, 20_000, 0),
        ("$200–$500", 20_000, 50_000, 0),
        ("Over $500", 50_000, None, 2),
    ]
    assert found.attrs["color"] == [Bucket("black", 2), Bucket("red", 1)]
    assert set(found.attrs["size"]) == {Bucket("L", 1), Bucket(42, 1)}
    assert set(found.attrs["weight_kg"]) == {Bucket(1.12, 1), Bucket(2.4, 1)}
    assert set(found.attrs["touch"]) == {Bucket(True, 1), Bucket(False, 1)}
    assert (await ask.found(category=("shirts",))).category == [Bucket("shirts", 1)]


async def test_what_matched_is_marked(ask: Asker) -> None:
    [hit] = (await ask.found(q="headphones cans")).hits
    assert "\ue000Headphones\ue001" in hit["highlight"]["name"][0]
    assert "\ue000cans\ue001" in hit["highlight"]["description"][0]


async def test_another_spelling_is_offered(ask: Asker) -> None:
    assert (await ask.found(q="Wireles Headphnes")).did_you_mean[0] == "wireless headphones"
    assert (await ask.found(q="wireless headphones")).did_you_mean == []
    assert (await ask.found()).did_you_mean == []


async def test_drafts_and_what_comes_tomorrow_are_not_found(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    assert await ask.skus(q="thinkpad") == ["LAPTOP-001"]
    tomorrow = NOW + timedelta(days=1)
    found = await search.find(engine, shelf.search_alias, Wanted(q="thinkpad"), tomorrow)
    assert {hit["_source"]["sku"] for hit in found.hits} == {"LAPTOP-001", "SOON"}


async def test_names_are_offered_as_one_types(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    async def typed(q: str, size: int = 10) -> list[str]:
        return [s["slug"] for s in await search.suggest(engine, shelf.search_alias, q, size, NOW)]

    assert await typed("t") == ["laptop-001", "tee"]  # neither the draft nor tomorrow's
    assert await typed("thinkp") == ["laptop-001"]
    assert await typed("lenovo th") == ["laptop-001"]
    assert await typed("wireles hea") == ["head-1"]
    assert await typed("carb x1") == []
    assert await typed("e") == ["tee"]
    assert await typed("  ") == []
    assert len(await typed("f", 1)) == 1


async def test_pages_of_equals_hold_each_once(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    many = {f"m{i}": search.document(product(f"M{i:02}", "Mug", category="mugs")) for i in range(30)}
    await search.put(engine, shelf.search_alias, 8, many)
    await engine.refresh(shelf.search_alias)
    for sort in ("relevance", "price", "-rating", "-newest"):
        wanted = Wanted(q="mug", category=("mugs",), sort=sort, size=7)  # type: ignore[arg-type]
        skus = []
        for page in range(1, 6):
            found = await search.find(engine, shelf.search_alias, replace(wanted, page=page), NOW)
            skus += [hit["_source"]["sku"] for hit in found.hits]
        assert skus == [f"M{i:02}" for i in range(30)]
