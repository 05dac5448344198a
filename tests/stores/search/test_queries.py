"""The shop's own query on every engine."""

import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from shelf import NOW, product

from quartet import search
from quartet.kernel.settings import Settings
from quartet.merchandising import Ruling
from quartet.search import query, store
from quartet.search.attributes import attr_filter, combined
from quartet.search.model import (
    Bucket,
    CategoryTree,
    CategoryView,
    Facets,
    Found,
    NumberBand,
    Reason,
    Tier,
    Wanted,
)
from quartet.search.query import QueryContext, TextSettings
from quartet.stores.search import SearchEngine


class Asker:
    """Asks the shelf."""

    def __init__(self, engine: SearchEngine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings

    async def found(self, **wanted: Any) -> Found:
        return await search.find(self.engine, self.settings, Wanted(**wanted), NOW)

    async def facets(self, **wanted: Any) -> Facets:
        facets = (await self.found(**wanted)).facets
        assert facets is not None
        return facets

    async def skus(self, **wanted: Any) -> list[str]:
        return [hit["_source"]["sku"] for hit in (await self.found(**wanted)).hits]

    async def with_attrs(self, **attrs: str) -> set[str]:
        filters = combined(attr_filter(f"attrs.{name.replace('__', '.')}", value) for name, value in attrs.items())
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


AWKWARD = (
    product("AWK-1", "Awkward", ratings={"avg": 13 / 3, "count": 3}, priceCents=2**40, available=0),
    product("AWK-2", "Awkward", ratings={"avg": 4.0, "count": 1}, brand="", priceCents=0, description="É <b>" * 20_000),
    product(
        "AWK-3", "Awkward", brand="Ma\u00adrque\n", images=[{"url": 'https://x.test/?a=b&c="d"', "isPrimary": True}]
    ),
)


@pytest.mark.parametrize("of_before", [False, True], ids=["of now", "of an earlier version"])
async def test_a_hit_shows_what_the_document_holds(engine: SearchEngine, index: Settings, *, of_before: bool) -> None:
    """An index of an earlier version has nothing stored by itself."""
    alias = index.search_alias
    if of_before:
        before = json.loads(json.dumps(store.definition(index)).replace('"store": true', '"store": false'))
        for name in await engine.alias_targets(alias):
            await engine.delete_index(name)
        await engine.create_index(f"{alias}-before", before, aliases=[alias, f"{alias}-all"])
    documents = {one["_id"]: search.document(one) for one in AWKWARD}
    assert all(result.accepted for result in await search.put(engine, alias, 1, documents))
    await engine.refresh(alias)
    for q, names in (("awkward", [*query.QUERY["card"], "description"]), ("", query.QUERY["card"])):
        hits = (await search.find(engine, index, Wanted(q=q), NOW)).hits
        assert len(hits) == len(AWKWARD)
        for hit in hits:
            document = documents[hit["_id"]]
            assert document is not None
            assert hit["_source"] == {name: document[name] for name in names}
    offered, _ = await search.suggest(engine, index, "awk", 3, NOW)
    assert sorted(one["slug"] for one in offered) == ["awk-1", "awk-2", "awk-3"]


async def test_words_are_found_misspelt_in_name_brand_description_and_tags(ask: Asker) -> None:
    assert (await ask.skus(q="thinkpda"))[0] == "LAPTOP-001"
    assert await ask.skus(q="lenvo") == ["LAPTOP-001"]
    assert await ask.skus(q="drawing") == ["LAPTOP-002"]
    assert (await ask.skus(q="ultralite"))[0] == "LAPTOP-001"
    assert await ask.skus(q="audoi") == ["HEAD-1"]
    assert await ask.skus(q="zzzzzzzz") == []


async def test_a_name_weighs_more_than_a_description(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    more = {"p1": product("P1", "Kettle", description="A teapot, nearly."), "p2": product("P2", "Teapot")}
    await search.put(engine, shelf.search_alias, 8, {id_: search.document(p) for id_, p in more.items()})
    await engine.refresh(shelf.search_alias)
    assert await ask.skus(q="teapot") == ["P2", "P1"]


async def test_what_a_word_weighs_by_where_it_stands_is_a_setting(engine: SearchEngine, shelf: Settings) -> None:
    more = {"p1": product("P1", "Kettle", description="A teapot, nearly."), "p2": product("P2", "Teapot")}
    await search.put(engine, shelf.search_alias, 8, {id_: search.document(p) for id_, p in more.items()})
    await engine.refresh(shelf.search_alias)
    weights = {"name": 0.0, "exact": 0.0, "description": 1000.0}
    ask = Asker(engine, shelf.model_copy(update={"search_weights": weights}))
    assert await ask.skus(q="teapot") == ["P1", "P2"]


async def test_texts_are_read_in_the_language_that_is_set_for_their_field(
    engine: SearchEngine, index: Settings
) -> None:
    alias, asked = index.search_alias, ("lampe", "pony")
    more = {"p1": product("P1", "Zwei Lampen"), "p2": product("P2", "Weide", description="For ponies.")}

    async def are_found(**languages: Any) -> list[bool]:
        """Whether each word is found as it is in an index of those languages."""
        settings = index.model_copy(update=languages)
        for name in await engine.alias_targets(f"{alias}-all"):
            await engine.delete_index(name)
        await search.prepare(engine, settings)
        await search.put(engine, alias, 8, {id_: search.document(p) for id_, p in more.items()})
        await engine.refresh(alias)
        return [(await Asker(engine, settings).found(q=word)).tier is Tier.EXACT for word in asked]

    assert await are_found() == [False, True]
    assert await are_found(search_language="german") == [True, False]
    mixed = {"search_language": "german", "search_languages": {"description": "english"}}
    assert await are_found(**mixed) == [True, True]
    fields = (await engine.mappings(alias))["properties"]["words"]["properties"]
    read = {name: field["analyzer"] for name, field in fields.items()}
    assert read == {"name": "german", "brand": "standard", "more": "german", "description": "english"}


def test_an_engine_is_told_how_long_a_search_may_take() -> None:
    text_settings = TextSettings.of(Settings(_env_file=None, search_seconds=0.25))
    for tier in Tier:
        assert query.body(Wanted("mug"), tier, NOW, text_settings, QueryContext())["timeout"] == "250ms"


async def test_a_sku_finds_its_product_also_a_variants(ask: Asker) -> None:
    assert (await ask.skus(q="laptop-002"))[0] == "LAPTOP-002"
    assert (await ask.skus(q="TEE-R-42"))[0] == "TEE"


async def test_a_sku_is_found_in_parts_and_misspelt(ask: Asker) -> None:
    assert await ask.skus(q="laptop 002") == ["LAPTOP-002"]
    assert await ask.skus(q="laptop002") == ["LAPTOP-002"]
    assert "HEAD-1" in await ask.skus(q="haed-1")
    assert (await ask.skus(q="TEE-R-43"))[0] == "TEE"


async def test_a_sku_of_digits_is_found_misspelt(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    """Of words only those are looked for misspelt that begin with a letter."""
    more = {sku: search.document(product(sku, "Holder")) for sku in ("85123A", "22423")}
    await search.put(engine, shelf.search_alias, 8, more)
    await engine.refresh(shelf.search_alias)
    for q in ("85213A", "85123b", "8513a", "85123AA"):
        assert await ask.skus(q=q) == ["85123A"], q
    assert await ask.skus(q="22432") == ["22423"]
    assert await ask.skus(q="58213A") == []  # two letters wrong


async def test_a_sku_is_found_whole_though_a_part_of_it_could_be_a_measure(
    ask: Asker, engine: SearchEngine, shelf: Settings
) -> None:
    more = {f"s{sku}": product(sku, "Drive") for sku in ("SSD-1000GB", "SSD-2000GB", "TOP-001-M", "TOP-001-L")}
    await search.put(engine, shelf.search_alias, 8, {id_: search.document(p) for id_, p in more.items()})
    await engine.refresh(shelf.search_alias)
    for q in ("SSD-1000GB", "ssd-2000gb", "TOP-001-M", "top-001-L"):
        assert await ask.skus(q=q) == [q.upper()], q
    assert (await ask.skus(q="TOPP-001-M"))[0] == "TOP-001-M"
    for q in ("top 001 m", "001-M"):
        assert await ask.skus(q=q) == ["TOP-001-M"], q


async def test_numbers_are_understood_with_their_units(ask: Asker) -> None:
    for q in ("32gb", "32 GB", "14 inch", '14"', "14-inch 32 gb laptop"):
        assert await ask.skus(q=q) == ["LAPTOP-001"], q
    assert await ask.skus(q="16 inch") == ["LAPTOP-002"]


async def test_a_number_with_its_unit_is_never_taken_for_another_one(ask: Asker) -> None:
    for q in ("31gb", "15 inch", "1.1 kg", "65w"):
        found = await ask.found(q=q)
        assert (found.hits, found.did_you_mean) == ([], []), q
    assert await ask.skus(q="32gb laptpo") == ["LAPTOP-001"]  # what is beside it may be misspelt all the same
    assert (await ask.found(q="31gb laptop")).tier is Tier.ANY


async def test_whole_inches_find_the_fraction_too(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    more = {"p1": product("P1", "Rig", attrs={"screen_inch": 15.6}), "p2": product("P2", 'Sleeve for 15.6" rigs')}
    await search.put(engine, shelf.search_alias, 8, {id_: search.document(p) for id_, p in more.items()})
    await engine.refresh(shelf.search_alias)
    for q in ("15 inch", '15.6"'):
        assert set(await ask.skus(q=q)) == {"P1", "P2"}, q
    assert await ask.skus(q="15.4 inch") == []
    assert (await ask.found(q='rigs 15"')).tier is Tier.EXACT


async def test_what_a_product_can_do_and_its_numbers_are_found_by_name(
    ask: Asker, engine: SearchEngine, shelf: Settings
) -> None:
    buds = {"wireless": True, "noise_cancelling": False, "driver_mm": 8}
    more = {"p1": product("P1", "Pocket Buds", attrs=buds), "p2": product("P2", "Studio", attrs={"wireless": False})}
    await search.put(engine, shelf.search_alias, 8, {id_: search.document(p) for id_, p in more.items()})
    await engine.refresh(shelf.search_alias)
    assert set(await ask.skus(q="wireless")) == {"HEAD-1", "P1"}
    assert await ask.skus(q="8 mm driver") == ["P1"]
    assert (await ask.found(q="noise cancelling")).tier is not Tier.EXACT
    assert await ask.skus(q="32gb ram laptop") == ["LAPTOP-001"]
    assert await ask.skus(q="touch laptop") == ["LAPTOP-001"]


async def test_words_are_found_written_together_and_apart(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    names = ("Doormat Hearts", "Spaceboy Lunch Box", "T-Light Holder", "Tealight Glass", "Metal Door Sign")
    more = {str(n): search.document(product(f"W{n}", name, category="home")) for n, name in enumerate(names)}
    chance = product("W9", "Drip", category="home", description="Tastes of tea, and of light.")
    more["9"] = search.document(chance)
    await search.put(engine, shelf.search_alias, 8, more)
    await engine.refresh(shelf.search_alias)
    for q, sku in (
        ("door mat", "W0"), ("door mat hearts", "W0"), ("hearts door-mat", "W0"), ("lunchbox", "W1"),
        ("lunchboxes", "W1"), ("tlight holder", "W2"), ("think pad", "LAPTOP-001"),
        ("lenovo think pad x1", "LAPTOP-001"),
    ):  # fmt: skip
        found = await ask.found(q=q)
        assert [hit["_source"]["sku"] for hit in found.hits] == [sku], q
        assert found.tier is Tier.EXACT
    assert set(await ask.skus(q="tea light")) == {"W3", "W9"}  # one that has both words by chance ends no search


async def test_accents_count_for_nothing(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    more = {"p1": product("P1", "Crème Brûlée Schälchen", brand="Müßig")}
    await search.put(engine, shelf.search_alias, 8, {id_: search.document(p) for id_, p in more.items()})
    await engine.refresh(shelf.search_alias)
    for q in ("creme brulee", "CRÈME", "schalchen", "mussig", "Müßig"):
        assert await ask.skus(q=q) == ["P1"], q


async def test_what_nobody_sees_in_a_text_counts_for_nothing(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    """Names written for a page have soft hyphens in them, and what is copied from one brings its marks along."""
    more = {"p1": product("P1", "Wasch\u00admaschine", tags=["\u200eTür\u200b"])}
    await search.put(engine, shelf.search_alias, 8, {id_: search.document(p) for id_, p in more.items()})
    await engine.refresh(shelf.search_alias)
    for q in ("waschmaschine", "Wasch\u00admaschine", "\ufeffwasch\u200bmaschine\u202c", "tur"):
        found = await ask.found(q=q)
        assert ([hit["_source"]["sku"] for hit in found.hits], found.tier) == (["P1"], Tier.EXACT), q
    assert await ask.skus(q="waschmas") == ["P1"]


async def test_misspelt_words_are_looked_for_only_where_nothing_has_the_words_as_typed(ask: Asker) -> None:
    assert (await ask.found(q="laptop business")).tier is Tier.EXACT
    assert (await ask.found(q="laptpo business")).tier is Tier.LOOSE
    assert (await ask.found(q="busin")).tier is Tier.LOOSE  # the beginning of a word
    none = await ask.found(q="sony drawings")
    assert (none.tier, none.total) == (Tier.ANY, 2)
    for sign in ",;/|+&!?#@*%=~–":  # whatever parts words, they are the same words
        assert await ask.skus(q=f"sony{sign}drawings") == [hit["_source"]["sku"] for hit in none.hits], sign
    # What filters leave is none of the words' business: a ticked brand does not make words mean others.
    assert (await ask.found(q="laptop", brand=("Sony",))).tier is Tier.EXACT
    assert (await ask.found(q="laptop", brand=("Sony",))).total == 0


async def test_what_staff_say_of_a_query_is_heeded(ask: Asker) -> None:
    async def skus(**said: Any) -> list[str]:
        asked = Wanted(q="notebook")
        found = await search.find(ask.engine, ask.settings, asked, NOW, QueryContext(Ruling(**said)))
        return [hit["_source"]["sku"] for hit in found.hits]

    assert await skus() == []
    assert set(await skus(alternatives=("laptop",))) == {"LAPTOP-001", "LAPTOP-002"}
    first, second = await skus(alternatives=("laptop",))
    assert await skus(alternatives=("laptop",), boosts={f"id-{second}": 50.0}) == [second, first]
    pinned = await skus(alternatives=("laptop",), pinned=("id-TEE", f"id-{second}"))
    assert pinned == ["TEE", second, first]
    assert await skus(alternatives=("laptop",), hidden=("id-LAPTOP-001",)) == ["LAPTOP-002"]
    assert await skus(pinned=("id-SOON", "id-DRAFT")) == []


async def test_a_pin_keeps_nothing_from_being_found(ask: Asker) -> None:
    async def skus(q: str, *pinned: str) -> list[str]:
        context = QueryContext(Ruling(pinned=pinned))
        return [
            hit["_source"]["sku"] for hit in (await search.find(ask.engine, ask.settings, Wanted(q), NOW, context)).hits
        ]

    assert await skus("wireles headphnes") == ["HEAD-1"]
    assert await skus("wireles headphnes", "id-TEE") == ["TEE", "HEAD-1"]
    assert await skus("thinkpad", "id-LAPTOP-001") == ["LAPTOP-001"]  # found by its own words, so by no others


async def why(ask: Asker, q: str, **said: Any) -> dict[str, tuple[float | None, list[Reason]]]:
    """By SKU the score and the reasons."""
    found = await search.find(ask.engine, ask.settings, Wanted(q, explain=True), NOW, QueryContext(Ruling(**said)))
    return {hit["_source"]["sku"]: (hit["_score"], hit["_why"]) for hit in found.hits}


@pytest.mark.parametrize(
    ("q", "said"),
    [
        ("thinkpad laptop", {}),
        ("laptop", {"boosts": {"id-LAPTOP-001": 1.2}}),
        ("laptop", {"alternatives": ("thinkpad", "wireless headphones")}),
        ("think pad", {}),
        ("thinkpd", {"boosts": {"id-LAPTOP-001": 1.2}}),
        ("LAPTOP-001", {}),
        ("lapt", {}),
    ],
)
async def test_what_is_said_to_match_adds_up_to_the_score(ask: Asker, q: str, said: dict[str, Any]) -> None:
    told = await why(ask, q, **said)
    assert told
    for sku, (score, reasons) in told.items():
        raised = said.get("boosts", {}).get(f"id-{sku}", 1.0)
        assert [reason.factor for reason in reasons if reason.kind == "sells"] == ([raised] if raised != 1 else [])
        matching = [reason.score or 0 for reason in reasons if reason.kind == "matches"]
        assert sum(matching) * raised == pytest.approx(score, rel=1e-4), (sku, reasons)
        assert matching == sorted(matching, reverse=True)


async def test_who_types_the_name_of_a_category_finds_what_is_in_it_first(
    ask: Asker, engine: SearchEngine, shelf: Settings
) -> None:
    sleeve = product("P1", "Laptops Sleeve", category="sleeves", description="For laptops.")
    await search.put(engine, shelf.search_alias, 8, {"p1": search.document(sleeve)})
    await engine.refresh(shelf.search_alias)
    category_tree = CategoryTree(
        {"gear": None, "laptops": "gear", "headphones": "gear", "empty": None},
        by_name={"laptop": ["laptops"], "gear": ["gear"], "wireless": ["empty"]},
    )

    async def found(q: str, **wanted: Any) -> Found:
        return await search.find(engine, shelf, Wanted(q=q, **wanted), NOW, QueryContext(category_tree=category_tree))

    laptops = [hit["_source"]["sku"] for hit in (await found("Laptops")).hits]
    assert (set(laptops[:2]), laptops[2:]) == ({"LAPTOP-001", "LAPTOP-002"}, ["P1"])
    # No text has the word: it is the category above theirs.
    gear = await found("gear", explain=True)
    assert (gear.tier, gear.total) == (Tier.EXACT, 3)
    assert gear.facets is not None
    for one in gear.facets.category:
        assert (await found("gear", category=(str(one.key),))).total == one.count
    for hit in gear.hits:
        [reason] = hit["_why"]
        assert (reason.field, reason.score) == ("category", pytest.approx(hit["_score"]))
    assert (await found("wireles")).tier is (await found("wireles", explain=True)).tier is Tier.LOOSE


async def test_what_staff_and_sales_say_is_said_in_words_and_the_engine_is_not_quoted(ask: Asker) -> None:
    said = {"pinned": ("id-TEE", "id-LAPTOP-002"), "boosts": {"id-LAPTOP-001": 1.25, "id-LAPTOP-002": 1.1}}
    told = {
        sku: [reason.text for reason in reasons] for sku, (_, reasons) in (await why(ask, "laptop", **said)).items()
    }
    assert told["TEE"] == ["pinned by staff, in place 1"]
    assert told["LAPTOP-002"][:2] == ["pinned by staff, in place 2", "sells well for this query: ×1.1"]
    assert told["LAPTOP-001"][0] == "sells well for this query: ×1.25"
    assert all(text.startswith("has “laptop” in ") for text in told["LAPTOP-001"][1:])
    assert len(told["LAPTOP-001"]) > 1
    assert await why(ask, "") == {sku: (None, []) for sku in EVERYTHING}


async def test_text_stays_text(ask: Asker) -> None:
    """What would be syntax elsewhere finds what its bare words find, or nothing."""
    for text in ("* OR 1=1", '"', "\\", "a~2 ^9", "{}", "é" * 50, "- -", "+thinkpad -laptop", '"laptop thinkpad"',
                 "(thinkpad* {laptop~"):  # fmt: skip
        bare = " ".join(re.findall(r"\w+", text))
        assert await ask.skus(q=text) == (await ask.skus(q=bare) if bare else []), text
    assert await ask.skus(q="thinkpad laptop") == ["LAPTOP-001"]
    for text in ("name:ThinkPad AND (", "category:shirts"):  # with the colon it is one word
        assert await ask.skus(q=text) == [], text


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
        await search.suggest(engine, shelf, text, 10, NOW)
    for n, others in ((2, 8), (4, 8), (16, 1), (16, 8)):
        said = Ruling(alternatives=tuple(words(n) for _ in range(others)))
        found = await search.find(engine, ask.settings, Wanted(q=words(n)), NOW, QueryContext(said))
        assert found.total > 0
    # Engines part these into words of one sign each.
    ideographs = "".join(map(chr, range(0x4E00, 0x4EC0)))
    pictures = "".join(map(chr, range(0x1F300, 0x1F3C0)))
    for signs in (ideographs, pictures):
        text = " ".join(signs[start : start + 64] for start in range(0, len(signs), 64))
        await ask.found(q=text)
        await search.suggest(engine, shelf, text, 10, NOW)


async def test_filters(ask: Asker) -> None:
    assert await ask.skus(category=("shirts",)) == ["TEE"]
    assert await ask.skus(category=("shirts", "headphones")) == ["HEAD-1", "TEE"]
    assert await ask.skus(brand=("Sony",)) == ["HEAD-1"]
    assert await ask.skus(min_price=0, max_price=0) == ["TEE"]
    assert set(await ask.skus(min_price=0)) == set(EVERYTHING)
    assert set(await ask.skus(min_price=4_900, max_price=149_900)) == {"HEAD-1", "LAPTOP-001"}
    assert await ask.skus(in_stock=False) == ["HEAD-1"]
    assert await ask.skus(min_rating=4.4) == ["LAPTOP-001", "HEAD-1", "TEE"]
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
    # Several values of one attribute are alternatives, several attributes hold together.
    filters = [attr_filter("attrs.color", "black"), attr_filter("attrs.color", "red"), attr_filter("attrs.size", "L")]
    assert set(await ask.skus(attrs=combined(filters[:2]))) == {"HEAD-1", "TEE"}
    assert await ask.skus(attrs=combined(filters)) == ["TEE"]


async def test_in_stock_only_is_a_matter_of_the_variant_that_was_asked_for(ask: Asker) -> None:
    red, black = (combined([attr_filter("attrs.color", color)]) for color in ("red", "black"))
    large = combined([attr_filter("attrs.size.gte", "42")])
    assert await ask.skus(attrs=red) == await ask.skus(attrs=large) == ["TEE"]
    assert await ask.skus(attrs=red, in_stock=True) == await ask.skus(attrs=large, in_stock=True) == []
    assert await ask.skus(attrs=black, in_stock=True) == ["TEE"]
    assert (await ask.facets(in_stock=True)).attrs["color"] == [Bucket("black", 1)]


async def test_what_every_variant_has_of_its_own_the_product_does_not_have(
    ask: Asker, engine: SearchEngine, shelf: Settings
) -> None:
    variants = [
        {"sku": f"CUP-{color}", "attrs": {"color": color}, "priceCents": 1, "available": available}
        for color, available in (("white", 0), ("green", 5))
    ]
    cup = product("CUP", "Cup", attrs={"color": "white", "style": "plain"}, variants=variants)
    vase = product("VASE", "Vase", attrs={"color": "grey"}, variants=variants[1:])
    await search.put(engine, shelf.search_alias, 8, {p["_id"]: search.document(p) for p in (cup, vase)})
    await engine.refresh(shelf.search_alias)
    assert await ask.with_attrs(color="white") == {"CUP"}
    assert await ask.with_attrs(color="grey") == set()
    white, plain = ((attr_filter(f"attrs.{name}", value),) for name, value in (("color", "white"), ("style", "plain")))
    assert await ask.skus(attrs=white, in_stock=True) == []
    assert await ask.skus(attrs=plain, in_stock=True) == ["CUP"]
    assert (await ask.facets(attrs=plain, in_stock=True)).attrs["color"] == [Bucket("green", 1)]


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
    found = await ask.facets(size=1)
    assert found.category == [Bucket("laptops", 2), Bucket("headphones", 1), Bucket("shirts", 1)]
    assert {(b.key, b.count) for b in found.brand} == {("Lenovo", 1), ("Fieldfare", 1), ("Sony", 1), ("Juniper", 1)}
    assert [(band.key, band.from_cents, band.to_cents, band.count) for band in found.price] == [
        ("Under $50", None, 5000, 2),
        ("$50–$200", 5000, 20_000, 0),
        ("$200–$500", 20_000, 50_000, 0),
        ("Over $500", 50_000, None, 2),
    ]
    assert (found.min_price, found.max_price) == (0, 299_900)
    assert found.attrs["color"] == [Bucket("black", 2), Bucket("red", 1)]
    assert set(found.attrs["size"]) == {Bucket("L", 1), Bucket(42, 1)}
    assert set(found.attrs["weight_kg"]) == {Bucket(1.12, 1), Bucket(2.4, 1)}
    assert set(found.attrs["touch"]) == {Bucket(True, 1), Bucket(False, 1)}


async def test_a_facet_is_not_shrunk_by_its_own_filter(ask: Asker) -> None:
    """Else nobody could tick a second brand."""
    found = await ask.facets(category=("shirts",), q="black")
    assert found.category == [Bucket("headphones", 1), Bucket("shirts", 1)]
    assert found.brand == [Bucket("Juniper", 1)]
    red = (attr_filter("attrs.color", "red"),)
    assert (await ask.facets(attrs=red)).attrs["color"] == [Bucket("black", 2), Bucket("red", 1)]
    assert (await ask.facets(attrs=red)).category == [Bucket("shirts", 1)]
    dear = await ask.facets(min_price=50_000)
    assert [band.count for band in dear.price] == [2, 0, 0, 2]
    assert (dear.min_price, dear.max_price) == (0, 299_900)
    assert "color" not in dear.attrs


async def test_what_is_ticked_can_be_unticked_however_few_products_have_it(
    ask: Asker, engine: SearchEngine, shelf: Settings
) -> None:
    many = [
        product(f"{brand}{n}", "Vase", brand=f"Brand {brand:02}", attrs={"style": f"style {brand:02}"})
        for brand in range(25)
        for n in range(1 + brand // 5)
    ]
    documents = {str(n): search.document(one) for n, one in enumerate(many)}
    await search.put(engine, shelf.search_alias, 8, documents)
    await engine.refresh(shelf.search_alias)
    rare = Bucket("Brand 00", 1)
    shown = (await ask.facets(q="vase")).brand
    assert len(shown) == 20
    assert rare not in shown
    assert (await ask.facets(q="vase", brand=("Brand 00", "Brand 24", "none"))).brand == [
        *shown,
        rare,
        Bucket("none", 0),
    ]
    assert Bucket("Brand 00", 0) in (await ask.facets(q="vase", brand=("Brand 00",), in_stock=False)).brand

    shown_styles = (await ask.facets(q="vase")).attrs["style"]
    assert len(shown_styles) == 20
    ticked = combined([attr_filter("attrs.style", "style 00"), attr_filter("attrs.style", "none")])
    none = Bucket("none", 0)
    assert (await ask.facets(q="vase", attrs=ticked)).attrs["style"] == [*shown_styles, Bucket("style 00", 1), none]
    nowhere = (await ask.facets(q="vase", attrs=ticked, in_stock=False)).attrs["style"]
    assert sorted(nowhere, key=str) == [none, Bucket("style 00", 0)]


async def test_a_variant_that_is_ticked_can_be_unticked_when_none_of_it_is_left(ask: Asker) -> None:
    red, large = combined([attr_filter("attrs.color", "red")]), combined([attr_filter("attrs.size", "42")])
    assert (await ask.facets(attrs=red)).attrs["color"] == [Bucket("black", 2), Bucket("red", 1)]
    for shelf in ((), ("shirts",)):
        found = await ask.facets(attrs=red, in_stock=True, category=shelf)
        assert found.attrs["color"] == [Bucket("black", 1), Bucket("red", 0)]
    # What may be a number is there once, and as one.
    assert (await ask.facets(attrs=large, in_stock=True)).attrs["size"] == [Bucket("L", 1), Bucket(42, 0)]
    assert (await ask.facets(attrs=large)).attrs["size"] == [Bucket(42, 1), Bucket("L", 1)]


async def test_facets_come_with_the_first_page_or_when_asked_for(ask: Asker) -> None:
    assert (await ask.found(page=2)).facets is None
    assert (await ask.found(facets=False)).facets is None
    assert (await ask.facets(page=2, facets=True)).category == (await ask.facets()).category


async def test_another_spelling_is_offered(ask: Asker) -> None:
    assert (await ask.found(q="Wireles Headphnes")).did_you_mean[0] == "wireless headphones"
    assert (await ask.found(q="wireless headphones")).did_you_mean == []
    assert (await ask.found()).did_you_mean == []
    # One word is of no product, or each of another one: so spelt nothing would be found.
    for q, sku in (("headphnes qqqqqqqq", "HEAD-1"), ("headphnes laptpo", "LAPTOP-001")):
        found = await ask.found(q=q)
        assert sku in {hit["_source"]["sku"] for hit in found.hits}
        assert found.did_you_mean == []


async def test_a_word_that_some_product_has_is_not_spelt_otherwise(
    ask: Asker, engine: SearchEngine, shelf: Settings
) -> None:
    names = ("Cast Iron Hook", "Book of Tea", "Pencil Case", "Iron Hooks")
    more = {f"c{n}": search.document(product(f"C{n}", name)) for n, name in enumerate(names)}
    await search.put(engine, shelf.search_alias, 8, more)
    await engine.refresh(shelf.search_alias)
    assert (await ask.skus(q="book case"), (await ask.found(q="book case")).did_you_mean) == (["C0"], [])
    assert (await ask.found(q="pencl caze")).did_you_mean == ["pencil case"]


async def test_short_stems_are_not_taken_for_others(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    names = ("Ma Campagne Cabinet", "White Candles")
    more = {f"c{n}": search.document(product(f"C{n}", name)) for n, name in enumerate(names)}
    await search.put(engine, shelf.search_alias, 8, more)
    await engine.refresh(shelf.search_alias)
    assert await ask.skus(q="xmas candels zzzzzzz") == ["C1"]


async def test_another_spelling_is_offered_only_where_the_filters_leave_something_of_it(
    ask: Asker, engine: SearchEngine, shelf: Settings
) -> None:
    names = ("Wireless Headphonez", "Wirelesz Headphones")
    more = {f"j{n}": search.document(product(f"J{n}", name, brand="Juniper")) for n, name in enumerate(names)}
    await search.put(engine, shelf.search_alias, 8, more)
    await engine.refresh(shelf.search_alias)

    async def offered(**filters: Any) -> list[str]:
        return (await ask.found(q="wireles headphnes", **filters)).did_you_mean

    assert await offered() == await offered(brand=("Sony",)) == ["wireless headphones"]
    assert await ask.skus(q="wireles headphnes", brand=("Juniper",)) != []
    assert await offered(brand=("Juniper",)) == []


async def test_drafts_and_what_comes_tomorrow_are_not_found(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    assert await ask.skus(q="thinkpad") == ["LAPTOP-001"]
    tomorrow = NOW + timedelta(days=1)
    found = await search.find(engine, shelf, Wanted(q="thinkpad"), tomorrow)
    assert {hit["_source"]["sku"] for hit in found.hits} == {"LAPTOP-001", "SOON"}


async def test_names_are_offered_as_one_types(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    async def typed(q: str, size: int = 10) -> list[str]:
        return [s["slug"] for s in (await search.suggest(engine, shelf, q, size, NOW))[0]]

    assert await typed("t") == ["laptop-001", "tee"]  # neither the draft nor tomorrow's
    assert await typed("thinkp") == ["laptop-001"]
    assert await typed("lenovo th") == ["laptop-001"]
    assert await typed("wireles hea") == ["head-1"]
    assert await typed("carb x1") == []
    for misspelt in (
        "thnikp",
        "thimkp",
        "thikp",
        "thiinkp",
        "htinkp",
        "rhinkp",
        "hink",
        "lenovo thnikp",
        "lenovo-thnikp",
    ):
        assert await typed(misspelt) == ["laptop-001"], misspelt
    assert await typed("thx") == []  # too few letters to say
    assert await typed("e") == ["tee"]
    assert await typed("  ") == []
    assert len(await typed("f", 1)) == 1


async def test_who_types_a_plural_is_offered_what_is_named_in_the_singular(
    engine: SearchEngine, shelf: Settings
) -> None:
    names = ("Red Mug", "Two Mugs", "Muggle Box", "Drinking Glass", "Zip Hoodie", "Hat Accessory")
    documents = {str(n): search.document(product(f"G{n}", name)) for n, name in enumerate(names)}
    await search.put(engine, shelf.search_alias, 8, documents)
    await engine.refresh(shelf.search_alias)

    async def typed(q: str) -> list[str]:
        """As where a category is called so, too."""
        offered, _ = await search.suggest(engine, shelf, q, 10, NOW, strictly=True)
        return [one["text"] for one in offered]

    assert set(await typed("mugs")) == {"Red Mug", "Two Mugs"}
    assert await typed("red mugs") == ["Red Mug"]
    assert await typed("drinking glasses") == ["Drinking Glass"]
    assert await typed("glas") == ["Drinking Glass"]
    assert await typed("zip hoodies") == await typed("hoodies") == ["Zip Hoodie"]
    assert await typed("accessories") == ["Hat Accessory"]


async def test_pages_of_equals_hold_each_once(ask: Asker, engine: SearchEngine, shelf: Settings) -> None:
    many = {f"m{i}": search.document(product(f"M{i:02}", "Mug", category="mugs")) for i in range(30)}
    await search.put(engine, shelf.search_alias, 8, many)
    await engine.refresh(shelf.search_alias)
    for sort in ("relevance", "price", "-rating", "-newest"):
        wanted = Wanted(q="mug", category=("mugs",), sort=sort, size=7)
        skus = []
        for page in range(1, 6):
            found = await search.find(engine, shelf, replace(wanted, page=page), NOW)
            skus += [hit["_source"]["sku"] for hit in found.hits]
        assert skus == [f"M{i:02}" for i in range(30)]


# --- Facets against clicks ------------------------------------------------------------------------------------------

COLOURS, SIZES, BRANDS, PLACES = (
    ("red", "blue", "green"),
    (1, 2, 3, 4, 5, 6, 7, 8.5),
    ("Lenovo", "Sony"),
    ("up", "down", "other"),
)
CATEGORY_TREE = CategoryTree(
    {"up": None, "down": "up", "other": None},
    {"up": frozenset({"size"}), "down": frozenset({"size"}), "other": frozenset()},
    {"up": frozenset({"color"}), "down": frozenset({"color"}), "other": frozenset({"color", "size", "touch"})},
    {"tea": ("up",)},
)
colours, sizes = st.sampled_from(COLOURS), st.lists(st.sampled_from(SIZES), max_size=3)
attrs = st.fixed_dictionaries({}, optional={"color": colours, "size": sizes, "touch": st.booleans()})
# One category's sizes are texts that may read as numbers, as clothes' are beside those of shoes.
in_texts = st.fixed_dictionaries({}, optional={"color": colours, "size": st.sampled_from(("1", "2", "8.5", "L"))})


def thing(category: str) -> st.SearchStrategy[dict[str, Any]]:
    held = in_texts if category == "other" else attrs
    return st.fixed_dictionaries(
        {
            "category": st.just(category),
            "brand": st.sampled_from((None, *BRANDS)),
            "attrs": held,
            "variants": st.lists(
                st.fixed_dictionaries({"sku": st.just("V"), "attrs": held, "available": st.sampled_from((0, 2))}),
                max_size=2,
            ),
            "priceCents": st.sampled_from((0, 4999, 5000, 19_999, 20_000, 50_000)),
            "ratings": st.sampled_from((0.0, 3.5, 5.0)).map(lambda avg: {"avg": avg, "count": 1}),
            "name": st.sampled_from(("Red box", "Box of tea", "Tea")),
            "publishedAt": st.sampled_from((NOW - timedelta(1), NOW - timedelta(1), NOW + timedelta(1))),
        }
    )


clicked = st.fixed_dictionaries(
    {},
    optional={
        "q": st.sampled_from(("box", "tea", "baxo", "red tea", "v", "zzzz")),
        "category": st.sampled_from((("up",), ("down",), ("other",), ("up", "other"))),
        "brand": st.sampled_from((("Sony",), ("none",), BRANDS)),
        "min_price": st.sampled_from((1, 5000)),
        "max_price": st.just(49_999),
        "min_rating": st.just(3.5),
        "in_stock": st.booleans(),
        "attrs": st.lists(
            st.sampled_from((
                ("attrs.color", "red"), ("attrs.color", "blue"), ("attrs.size.gte", "2"), ("attrs.size.lt", "7"),
                ("attrs.size", "1"), ("attrs.size", "L"), ("attrs.touch", "true"),
            )),
            min_size=1, max_size=4, unique=True,
        ),
    },
)  # fmt: skip
ids = st.lists(st.integers(0, 5).map("t{}".format), max_size=2, unique=True).map(tuple)
rulings = st.builds(
    Ruling,
    alternatives=st.sampled_from(((), ("box",))),
    pinned=ids,
    hidden=ids,
    boosts=st.sampled_from(({}, {"t1": 1.5})),
)


@pytest.mark.parametrize("engine_url", ["osmem"], indirect=True)
@hypothesis.settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shelf=st.lists(st.sampled_from(PLACES).flatmap(thing), min_size=3, max_size=12),
    in_bands=st.booleans(),
    asked=clicked,
    said=rulings,
)
async def test_a_facet_counts_what_a_click_on_it_then_shows(
    engine: SearchEngine,
    index: Settings,
    shelf: list[dict[str, Any]],
    in_bands: bool,
    asked: dict[str, Any],
    said: Ruling,
) -> None:
    if in_bands:  # so many sizes that a category in view has them in bands
        shelf[0] |= {"category": "down", "attrs": {"size": list(SIZES)}, "variants": [], "publishedAt": NOW}
    for each in shelf:
        each["available"] = sum(variant["available"] for variant in each["variants"])
    put = {f"t{n}": search.document(product(f"T{n}", **each, _id=f"t{n}")) for n, each in enumerate(shelf)}
    await search.put(engine, index.search_alias, next(_versions), dict.fromkeys(f"t{n}" for n in range(12)) | put)
    await engine.refresh(index.search_alias)
    pairs = asked.get("attrs", ())
    wanted = Wanted(**{**asked, "attrs": combined(attr_filter(*pair) for pair in pairs)})
    view = None
    if len(wanted.category) == 1:
        view = await store.view(engine, index, CATEGORY_TREE, wanted.category[0], NOW)
    context = QueryContext(said, CATEGORY_TREE, view)
    facets = (await search.find(engine, index, wanted, NOW, context)).facets
    assert facets is not None
    shown = list(_clicks(wanted, pairs, facets))
    # What a facet does not show, a click would not either.
    clicks = [click for click, _ in shown]
    hidden = [(click, 0) for click in _all_clicks(wanted, pairs, view) if click not in clicks]
    for click, count in shown + hidden:
        found = await search.find(engine, index, replace(click, facets=False), NOW, QueryContext(said, CATEGORY_TREE))
        assert found.total == count, (click, facets)
    spanned = replace(wanted, min_price=facets.min_price, max_price=facets.max_price, facets=False)
    whole = replace(wanted, min_price=None, max_price=None, facets=False)
    totals = [(await search.find(engine, index, one, NOW, context)).total for one in (spanned, whole)]
    assert totals[0] == totals[1] == sum(band.count for band in facets.price)


_versions = itertools.count(10)


def _clicks(wanted: Wanted, pairs: Any, facets: Facets) -> Iterator[tuple[Wanted, int]]:
    """What each count is of: the same search with that value and no other of its facet."""
    for bucket in facets.category:
        yield replace(wanted, category=(str(bucket.key),)), bucket.count
    for bucket in facets.brand:
        yield replace(wanted, brand=(str(bucket.key),)), bucket.count
    for band in facets.price:
        top = None if band.to_cents is None else band.to_cents - 1
        yield replace(wanted, min_price=band.from_cents, max_price=top), band.count
    for name, values in facets.attrs.items():
        for one in values:
            click = (f"attrs.{name}", _as_typed(one.key)) if isinstance(one, Bucket) else _tick(name, one)
            yield _with_attr(wanted, pairs, name, [click]), one.count


def _all_clicks(wanted: Wanted, pairs: Any, view: CategoryView | None) -> Iterator[Wanted]:
    """All that could be ticked one by one."""
    for slug in PLACES:
        yield replace(wanted, category=(slug,))
    for brand in BRANDS:
        yield replace(wanted, brand=(brand,))
    values = {"color": COLOURS, "size": ("L", *SIZES), "touch": (True, False)}
    for name in view.other_attrs & values.keys() if view else values:
        for value in values[name]:
            yield _with_attr(wanted, pairs, name, [(f"attrs.{name}", _as_typed(value))])


def _with_attr(wanted: Wanted, pairs: Any, name: str, click: list[tuple[str, str]]) -> Wanted:
    others = [pair for pair in pairs if pair[0].split(".")[1] != name]
    return replace(wanted, attrs=combined(attr_filter(*pair) for pair in (*others, *click)))


def _tick(name: str, band: NumberBand) -> tuple[str, str]:
    return f"attrs.{name}.in", f"{band.low!r}..{band.high!r}"


def _as_typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


async def test_a_category_in_view_shows_its_own_attributes_numbers_in_bands(
    engine: SearchEngine, index: Settings
) -> None:
    shelf = [
        product(f"S{n}", "Shoe", category="down", attrs={"size": n, "color": "red", "secret": "x"})
        for n in range(35, 47)
    ]
    await search.put(engine, index.search_alias, 8, {p["_id"]: search.document(p) for p in shelf})
    await engine.refresh(index.search_alias)
    view = await store.view(engine, index, CATEGORY_TREE, "up", NOW)
    wanted = Wanted(category=("up",))
    facets = (
        await search.find(engine, index, wanted, NOW, QueryContext(category_tree=CATEGORY_TREE, view=view))
    ).facets
    assert facets is not None
    assert facets.category == [Bucket("down", 12), Bucket("up", 12)]
    assert set(facets.attrs) == {"color", "size"}
    bands = [band for band in facets.attrs["size"] if isinstance(band, NumberBand)]
    assert sum(band.count for band in bands) == 12
    assert 3 <= len(bands) <= 5
    assert (bands[0].low, bands[-1].high > 46) == (35, True)
    # Ticked bands leave the others to be ticked, and can be unticked though what else is asked for leaves them nothing.
    ticked = combined(attr_filter(*_tick("size", band)) for band in (bands[0], bands[-1]))
    for brand, there in (((), bands), (("none",), [replace(band, count=0) for band in (bands[0], bands[-1])])):
        asked = replace(wanted, brand=brand, attrs=ticked)
        narrowed = await search.find(engine, index, asked, NOW, QueryContext(category_tree=CATEGORY_TREE, view=view))
        assert narrowed.facets is not None
        both = there[0].count + there[-1].count
        assert (narrowed.total, narrowed.facets.attrs["size"]) == (both, there)
        assert narrowed.facets.attrs.get("color", []) == ([Bucket("red", both)] if both else [])


async def test_a_category_in_view_shows_all_of_its_attributes_however_many(
    engine: SearchEngine, index: Settings
) -> None:
    names = frozenset(f"part {n:02}" for n in range(25))
    category_tree = CategoryTree({"kits": None}, {"kits": frozenset()}, {"kits": names})
    shelf = [
        product(f"K{n}", "Kit", category="kits", attrs={"secret": n, **dict.fromkeys(sorted(names)[n:], "brass")})
        for n in range(25)
    ]
    await search.put(engine, index.search_alias, 8, {p["_id"]: search.document(p) for p in shelf})
    await engine.refresh(index.search_alias)
    view = await store.view(engine, index, category_tree, "kits", NOW)
    facets = (
        await search.find(
            engine, index, Wanted(category=("kits",)), NOW, QueryContext(category_tree=category_tree, view=view)
        )
    ).facets
    assert facets is not None
    assert facets.attrs == {name: [Bucket("brass", n + 1)] for n, name in enumerate(sorted(names))}


@pytest.mark.parametrize("numbers", [1, 40])
async def test_a_category_in_view_shows_what_few_have_though_numbers_are_many(
    engine: SearchEngine, index: Settings, numbers: int
) -> None:
    lengths = [f"length_of_part_number_{n:02}_mm" for n in range(numbers)]  # forty are more than one expression takes
    category_tree = CategoryTree(
        {"kits": None}, {"kits": frozenset(lengths)}, {"kits": frozenset({"panel", "odd (name)", "maker"})}
    )
    shelf = [
        product(
            f"K{n}",
            "Kit",
            category="kits",
            attrs={
                **dict.fromkeys(lengths, n % (300 // numbers)),
                "maker": f"M{n}",
                **({"panel": f"P{n % 3}", "odd (name)": "x"} if n < 3 else {}),
            },
        )
        for n in range(300)
    ]
    await search.put(engine, index.search_alias, 8, {p["_id"]: search.document(p) for p in shelf})
    await engine.refresh(index.search_alias)
    view = await store.view(engine, index, category_tree, "kits", NOW)

    async def attrs(*ticked: tuple[str, str]) -> Mapping[str, Any]:
        wanted = Wanted(category=("kits",), attrs=combined(attr_filter(*pair) for pair in ticked))
        facets = (
            await search.find(engine, index, wanted, NOW, QueryContext(category_tree=category_tree, view=view))
        ).facets
        assert facets is not None
        return facets.attrs

    panels = [Bucket("P0", 1), Bucket("P1", 1), Bucket("P2", 1)]
    assert set(await attrs()) == {*lengths, "panel", "odd (name)", "maker"}
    assert (await attrs())["panel"] == (await attrs(("attrs.panel", "P1")))["panel"] == panels
    assert (await attrs(("attrs.odd (name)", "x")))["odd (name)"] == [Bucket("x", 3)]
