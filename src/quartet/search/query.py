"""A search as the engine takes it, and its answer read. No text of a user ever becomes syntax or a regular expression:
it only ever stands where the engine expects words.

What costs is asked for only where it shows: facets on the first page; misspelt words and beginnings (`Tier.LOOSE`)
only when the words as they were typed find too little; marking and other spellings not at all, since `words` does both
from what was found.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from quartet.kernel.settings import Settings
from quartet.kernel.texts import fold
from quartet.merchandising import FEWEST_LETTERS, MOST_ALTERNATIVES, Ruling
from quartet.search import words
from quartet.search.model import (
    AttrFilter,
    Band,
    Bucket,
    Facets,
    NumberBand,
    Reason,
    Shelves,
    Tier,
    View,
    Wanted,
    as_typed,
    attr_facets,
    choices_of,
    read_token,
    readings,
    token,
    tokens_of,
)
from quartet.stores.files import json_file

Json = dict[str, Any]

QUERY: Json = json_file(__file__, "query.json")
NONE: Json = {"buckets": []}
IN_A_LANGUAGE = ("name", "more", "description")
WEIGHED = ("name", "exact", "brand", "more", "description")
# All that an engine may open of the dictionary for one misspelt or begun word.
MOST_SPELLINGS = 30
MOST_CLAUSES = 800
# Of several words, how many have to be there.
MOST = {"minimum_should_match": "2<75%"}
# Letters that may be wrong in a word of so many.
FUZZINESS = "AUTO:3,8"
# In names, which only weigh then: what has two wrong is found by all its texts, and to look for it twice costs a search
# a tenth. Measured on 1,377 such queries it stays among the first ten as often, and comes first in 91 % instead of 92.
WRONG_IN_NAMES = f"AUTO:3,{words.LONGEST_WORD + 1}"
# The same of stems, which are shorter, so that more words are like them.
STEMS_WRONG = {"fuzziness": "AUTO:5,8", "prefix_length": 1}
# Of a text and the other words for it, together.
MOST_WORDS_IN_ALL = 48
ONE_WRONG = f"AUTO:{FEWEST_LETTERS},{words.LONGEST_WORD + 1}"
# Of attributes in a category in view.
MOST_VALUES = 5_000
# An engine refuses longer ones.
LONGEST_EXPRESSION = 1_000
# Attributes by which products are held to be alike.
MOST_SHARED = 50


@dataclass(frozen=True)
class Reading:
    """How this shop reads texts: the language of each field, and what a word found there weighs."""

    languages: Mapping[str, str]
    weights: Mapping[str, float]
    seconds: float

    @classmethod
    def of(cls, settings: Settings) -> "Reading":
        """As the settings say."""
        languages: dict[str, str] = dict.fromkeys(IN_A_LANGUAGE, settings.search_language)
        languages.update({str(name): language for name, language in settings.search_languages.items()})
        weights = dict.fromkeys(WEIGHED, 1.0)
        weights.update({str(name): weight for name, weight in settings.search_weights.items()})
        return cls(languages, weights, settings.search_seconds)

    @property
    def everywhere(self) -> list[str]:
        """The fields that hold all texts of a product, one a language."""
        return [f"all.{language}" for language in sorted(set(self.languages.values()))]

    @property
    def weighed(self) -> list[str]:
        """Fields with their weights, in the engine's way; those that weigh nothing are left out."""
        paths = {"exact": "words.name.plain"}
        return [f"{paths.get(name, f'words.{name}')}^{weight:g}" for name, weight in self.weights.items() if weight]


@dataclass(frozen=True)
class Told:
    """What the shop knows beside a search: what staff say of it, its categories, the one in view, and the ids of the
    products on the pages before (then a page begins behind those and not by number)."""

    said: Ruling = field(default_factory=Ruling)
    shelves: Shelves = field(default_factory=Shelves)
    view: View | None = None
    seen: tuple[str, ...] = ()


def body(wanted: Wanted, tier: Tier, now: datetime, reading: Reading, told: Told) -> Json:
    """One page by one tier."""
    text = words.asked(wanted.q)
    either, should = _texts(text, words.article(wanted.q), tier, reading, told) if text else ([], [])
    filters = dict(_filters(wanted, told.shelves))
    # With text the filters come after it, so that what the words alone find decides the tier, and all facets with it.
    after = bool(filters) and (wanted.counts or bool(text))
    asked: Json = {
        "from": 0 if told.seen else (wanted.page - 1) * wanted.size,
        "size": wanted.size,
        "stored_fields": [*QUERY["card"], "description"] if text else QUERY["card"],
        "track_total_hits": True,
        "timeout": _time(reading.seconds),
        "query": _query(text, either, should, told.said, [published(now), *([] if after else filters.values())]),
        # By relevance there is nothing to sort without text: then by rating.
        "sort": QUERY["sorts"]["-rating" if not text and wanted.sort == "relevance" else wanted.sort],
        "aggs": facets(wanted, filters, told.view) if wanted.counts else {},
    }
    if after or told.seen:
        unseen = [{"bool": {"must_not": [{"terms": {"id": list(told.seen)}}]}}] if told.seen else []
        asked["post_filter"] = _all([*(filters.values() if after else ()), *unseen])
    if text and (told.said.pinned or "post_filter" in asked):
        # What stands there because it is pinned was not found by its words.
        asked["aggs"]["matched"] = {"filter": _any(either) if told.said.pinned else {"match_all": {}}}
    if wanted.explain:
        asked["explain"] = True
    return asked


def matched(found: Json) -> int:
    """How many products the words found, by the answer to a `body`. Where that may differ from the total it is counted
    beside it, and only there: each search would pay for it."""
    counted = found.get("aggregations", {}).get("matched")
    return int(counted["doc_count"] if counted else found["hits"]["total"]["value"])


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"


def _query(text: str, either: list[Json], should: list[Json], said: Ruling, filters: list[Json]) -> Json:
    """`either`: what has to match, in one way or another; `should` only weighs."""
    whole: Json = {"filter": filters}
    if text:
        ways = [*either, {"terms": {"id": list(said.pinned)}}] if said.pinned else either
        whole |= {"must": [_any(ways)], "should": should}
    query: Json = {"bool": whole | _without(said.hidden)}
    if said.boosts and text:
        functions = [{"filter": {"term": {"id": id_}}, "weight": factor} for id_, factor in said.boosts.items()]
        query = {"function_score": {"query": query, "functions": functions, "boost_mode": "multiply"}}
    if said.pinned and text:
        query = {
            "bool": {"must": [query], "should": [_only(id_, 10.0**9 / (n + 1)) for n, id_ in enumerate(said.pinned)]}
        }
    return query


def _texts(text: str, article: str, tier: Tier, reading: Reading, told: Told) -> tuple[list[Json], list[Json]]:
    """What has to match, one of these ways, and what only weighs. `article`: the text as an article number."""
    asked = _within_bounds(text, told.said.alternatives)
    loosely = _loosely(sum(map(words.count, asked)), reading)
    either: list[Json] = [{"term": {"skus": {"value": text, "boost": 100}}}]
    if article:
        either.append({"term": {"skus": {"value": article, "boost": 100}}})
    if shelf := told.shelves.below(told.shelves.called.get(words.name_of(text), ())):
        either.append({"terms": {"category": list(shelf), "boost": 100}})
    if tier is not Tier.EXACT:
        either += _like_a_sku(article or text)
    should: list[Json] = []
    for one in asked:
        either += list(_matching(one, tier, reading, loosely))
        should.append(_weighing(one, tier, reading, loosely))
    return either, should


def _within_bounds(text: str, alternatives: Sequence[str]) -> list[str]:
    """The text and as many of the other words for it as a query may cost."""
    asked, number = [text], words.count(text)
    for other in map(words.asked, alternatives[:MOST_ALTERNATIVES]):
        number += words.count(other)
        if number > MOST_WORDS_IN_ALL:
            break
        asked.append(other)
    return asked


def _matching(text: str, tier: Tier, reading: Reading, loosely: Json) -> Iterator[Json]:
    if tier is Tier.EXACT:
        # The best of these counts, and not their sum: whoever has the words as typed gains nothing by a pair of them.
        ways = [_all_of(one, reading) for one in (text, *words.with_pairs(text))]
        yield {"dis_max": {"queries": ways}} if len(ways) > 1 else ways[0]
        return
    if tier is Tier.LOOSE:
        yield {"bool": {"should": list(_each(text, loosely, "all")), **MOST}}
    else:
        # The last that is tried: by stems.
        yield from _each(text, {**loosely, **STEMS_WRONG}, *reading.everywhere)
    yield {"match_bool_prefix": {"all": {"query": text, "operator": "and", "max_expansions": MOST_SPELLINGS}}}


def _all_of(text: str, reading: Reading) -> Json:
    return {"multi_match": {"query": text, "fields": reading.everywhere, "operator": "and"}}


def _each(text: str, loosely: Json, *fields: str) -> Iterator[Json]:
    """Each word by itself, those that may be misspelt loosely."""
    for word in words.apart(text):
        how = loosely if words.allowed(word) else {}
        yield {"multi_match": {"query": word, "fields": fields, **MOST, **how}}


def _like_a_sku(text: str) -> Iterator[Json]:
    if " " not in text and any(letter.isdigit() for letter in text) and len(text) >= 4:
        yield {"fuzzy": {"skus": {"value": text, "fuzziness": 1, "max_expansions": MOST_SPELLINGS, "boost": 20}}}


def _weighing(text: str, tier: Tier, reading: Reading, loosely: Json) -> Json:
    """How well it matches: adds up over the fields."""
    if tier is Tier.EXACT:
        return {"multi_match": {"query": text, "type": "most_fields", "fields": reading.weighed}}
    name = f"words.name.plain^{reading.weights['name']:g}"
    return {"bool": {"should": list(_each(text, {**loosely, "fuzziness": WRONG_IN_NAMES}, name))}}


def _loosely(number: int, reading: Reading) -> Json:
    """Each of so many words may match this many spellings, in the names and in each field that holds everything; an
    engine refuses more than 1,024 clauses in all."""
    places = 1 + len(reading.everywhere)
    return {"fuzziness": FUZZINESS, "max_expansions": min(MOST_SPELLINGS, MOST_CLAUSES // (places * number or 1))}


def _any(ways: Sequence[Json]) -> Json:
    return {"bool": {"should": list(ways), "minimum_should_match": 1}}


def _without(hidden: Sequence[str]) -> Json:
    return {"must_not": [{"terms": {"id": list(hidden)}}]} if hidden else {}


def _only(id_: str, boost: float) -> Json:
    return {"constant_score": {"filter": {"term": {"id": id_}}, "boost": boost}}


def published(now: datetime) -> Json:
    """What may be shown."""
    return {"range": {"publishedAt": {"lte": now.isoformat()}}}


def _filters(wanted: Wanted, shelves: Shelves) -> Iterator[tuple[str, Json]]:
    """By facet: each but the attributes' one clause."""
    if wanted.category:
        yield "category", {"terms": {"category": list(shelves.below(wanted.category))}}
    if wanted.brand:
        yield "brand", {"terms": {"brand": list(wanted.brand)}}
    if wanted.in_stock is not None:
        yield "inStock", {"term": {"inStock": wanted.in_stock}}
    if wanted.min_rating is not None:
        yield "rating", {"range": {"rating": {"gte": wanted.min_rating}}}
    prices = {"gte": wanted.min_price, "lte": wanted.max_price}
    prices = {side: price for side, price in prices.items() if price is not None}
    if prices:
        yield "price", {"range": {"priceCents": prices}}
    for one in wanted.attrs:
        yield f"attrs.{one.name}", _all(_of_attribute(one, wanted.attrs_field))


def _of_attribute(asked: AttrFilter, field: str) -> Iterator[Json]:
    if asked.values:
        yield {"terms": {field: _tokens_asked(asked)}}
    if asked.bands:
        yield {"bool": {"should": [_in_band(field, asked.name, *band) for band in asked.bands]}}
    if asked.bounds:
        yield {"range": {field: _between(asked)}}


def _tokens_asked(asked: AttrFilter) -> list[str]:
    return [text for value in asked.values for text in readings(asked.name, value)]


def _in_band(field: str, name: str, low: float, high: float) -> Json:
    return {"range": {field: {"gte": token(name, low), "lt": token(name, high)}}}


def _between(asked: AttrFilter) -> Json:
    """All bounds as one range: on each side the narrowest."""
    # Hex digits end at f: `n:g` is past all numbers of this attribute, and a token with a `g` more past its own alone.
    lows, highs = [f"{asked.name}=n:"], [f"{asked.name}=n:g"]
    for comparison, number in asked.bounds:
        edge = token(asked.name, number)
        side = lows if comparison in ("gte", "gt") else highs
        side.append(edge if comparison in ("gte", "lt") else f"{edge}g")
    return {"gte": max(lows), "lt": min(highs)}


def _all(clauses: Iterable[Json]) -> Json:
    return {"bool": {"filter": list(clauses)}}


# --- Facets ---------------------------------------------------------------------------------------------------------


def facets(wanted: Wanted, filters: Mapping[str, Json], view: View | None) -> Json:
    """Aggregations, each under all filters but its own: a ticked brand leaves the others to be ticked as well."""
    aggs, field = QUERY["aggs"], wanted.attrs_field
    lowest, highest = {"min": {"field": "priceCents"}}, {"max": {"field": "priceCents"}}
    groups = {
        "category": {"category": aggs["category"]},
        "brand": {"brand": aggs["brand"], **_ticked("brand", wanted.brand)},
        "price": {"price": aggs["price"], "min": lowest, "max": highest},
        "attrs": {"attrs": _values_of(field, **_but_in_bands(view))},
        # An attribute that is filtered by is counted by itself, without its own filter.
        **{
            f"attrs.{one.name}": {
                "attrs": _values_of(field, **_of_one(view, one.name)),
                **_ticked(field, _tokens_asked(one)),
            }
            for one in wanted.attrs
        },
    }
    for name, edges in (view.edges if view else {}).items():
        bands = {str(n): _in_band(field, name, low, high) for n, (low, high) in enumerate(pairwise(edges))}
        groups[f"bands.{name}"] = {"bands": {"filters": {"filters": bands}}}
    return {key: agg for name, held in groups.items() for key, agg in _under(filters, name, held).items()}


def _values_of(field: str, **which: Any) -> Json:
    return {"terms": {**QUERY["aggs"]["attrs"]["terms"], "field": field, **which}}


def _but_in_bands(view: View | None) -> Json:
    """All attributes of a category in view; what is counted in bands has so many values that it could leave the others
    no room."""
    if view is None:
        return {}
    banded = f"({'|'.join(map(_literally, view.edges))})=.*"
    return {"size": MOST_VALUES, **({"exclude": banded} if view.edges and len(banded) <= LONGEST_EXPRESSION else {})}


def _of_one(view: View | None, name: str) -> Json:
    """An attribute of a category in view, by itself; of any other a shopper may have made up the name."""
    return {"include": f"{_literally(name)}=.*"} if view and name in view.others else {}


def _literally(name: str) -> str:
    return re.sub(r"\W", r"\\\g<0>", name)


def _ticked(field: str, values: Sequence[str]) -> Json:
    """Counts what is filtered by as well, however few products have it."""
    if not values:
        return {}
    return {"ticked": {"terms": {"field": field, "include": list(values), "size": len(values)}}}


def _under(filters: Mapping[str, Json], name: str, counted: Json) -> Json:
    """What is counted of one facet, under the filters of all others. Where there are none nothing is put around it: an
    aggregation that keeps nothing out would be asked of each product all the same."""
    own = name.replace("bands.", "attrs.")
    others = [clause for other, clause in filters.items() if other != own]
    if others:
        return {f"all of {name}": {"filter": _all(others), "aggs": counted}}
    return {f"{part} of {name}": agg for part, agg in counted.items()}


def _by_facet(aggregations: Mapping[str, Any]) -> dict[str, Json]:
    """What was counted, by facet and then by part, as `_under` asked for it."""
    found: dict[str, Json] = {}
    for key, counted in aggregations.items():
        part, _, name = key.partition(" of ")
        if name:
            found.setdefault(name, {}).update(counted if part == "all" else {part: counted})
    return found


def read_facets(aggregations: Mapping[str, Any], wanted: Wanted, shelves: Shelves, view: View | None) -> Facets:
    """The facets of an answer; with a category in view its attributes and no other. What is ticked is in its facet, so
    that it can be unticked, though no product has it."""
    by_name = _by_facet(aggregations)
    price = by_name["price"]
    shown = view.others if view else None
    attrs: dict[str, list[Bucket] | list[NumberBand]] = {**_attrs(by_name["attrs"]["attrs"], shown)}
    for name, found in by_name.items():
        own = name.removeprefix("attrs.")
        if own != name and (shown is None or own in shown) and (values := _values(found, own, wanted)):
            attrs[own] = values
    if view is not None:
        attrs |= {name: bands for name, edges in view.edges.items() if (bands := _bands(by_name, name, edges, wanted))}
    return Facets(
        category=shelves.with_parents(_buckets(by_name["category"]["category"])),
        brand=_brands(by_name["brand"], wanted),
        price=[
            Band(b["key"], _cents(b.get("from")), _cents(b.get("to")), b["doc_count"])
            for b in price["price"]["buckets"]
        ],
        attrs=attrs,
        min_price=_cents(price["min"]["value"]),
        max_price=_cents(price["max"]["value"]),
    )


def _bands(by_name: Mapping[str, Any], name: str, edges: Sequence[float], wanted: Wanted) -> list[NumberBand]:
    """Those that have any product, or are ticked."""
    counted = by_name[f"bands.{name}"]["bands"]["buckets"]
    ticked = [band for one in wanted.attrs if one.name == name for band in one.bands]
    bands = [NumberBand(low, high, counted[str(n)]["doc_count"]) for n, (low, high) in enumerate(pairwise(edges))]
    return [band for band in bands if band.count or (band.low, band.high) in ticked]


def numbers(shelf: Sequence[str], now: datetime) -> Json:
    """All attributes' values in these categories, to draw bands of."""
    here = _all([published(now), {"terms": {"category": list(shelf)}}])
    return {"size": 0, "query": here, "aggs": {"attrs": _values_of("attrs", size=MOST_VALUES)}}


def _attrs(aggregated: Json, names: Collection[str] | None) -> dict[str, list[Bucket]]:
    return attr_facets(((b["key"], b["doc_count"]) for b in aggregated["buckets"]), names)


def _brands(found: Json, wanted: Wanted) -> list[Bucket]:
    counted = dict.fromkeys(_buckets(found["brand"]) + _buckets(found.get("ticked", NONE)))
    named = {bucket.key for bucket in counted}
    return [*counted, *(Bucket(brand, 0) for brand in dict.fromkeys(wanted.brand) if brand not in named)]


def _values(found: Json, name: str, wanted: Wanted) -> list[Bucket]:
    """Of an attribute that is filtered by."""
    of_all, ticked = (_attrs(part, [name]).get(name, []) for part in (found["attrs"], found.get("ticked", NONE)))
    known = {as_typed(bucket.key) for bucket in of_all}
    counted = of_all + [bucket for bucket in ticked if as_typed(bucket.key) not in known]
    named = {token(name, bucket.key) for bucket in counted}
    asked = dict.fromkeys(text for one in wanted.attrs if one.name == name for text in one.values)
    missed = (readings(name, text) for text in asked)
    return [*counted, *(Bucket(read_token(read[-1])[1], 0) for read in missed if named.isdisjoint(read))]


def _buckets(aggregated: Mapping[str, Any]) -> list[Bucket]:
    return [Bucket(bucket["key"], bucket["doc_count"]) for bucket in aggregated["buckets"]]


def _cents(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


# --- Beside a product -----------------------------------------------------------------------------------------------


def alike(product: Mapping[str, Any], limit: int, now: datetime, seconds: float) -> Json:
    """Products of the same category by what they share: what few others have counts most. `seconds`: how long the
    engine may look."""
    held = tokens_of(choices_of(product))
    shared: list[Json] = [{"term": {"attrs": text}} for text in held[:MOST_SHARED]]
    shared += [{"term": {"brand": product["brand"]}}] if product["brand"] else []
    shared += [{"match": {"all": words.asked(" ".join((product["name"], *product["tags"])))}}]
    return {
        "size": limit,
        "_source": False,
        "track_total_hits": False,
        "timeout": _time(seconds),
        "query": {
            "bool": {
                "filter": [published(now), {"term": {"category": product["category"]}}],
                "must_not": [{"term": {"id": product["_id"]}}],
                "should": shared,
            }
        },
        "sort": QUERY["sorts"]["relevance"],
    }


# --- As one types ---------------------------------------------------------------------------------------------------


def begun(
    q: str, size: int, now: datetime, seconds: float, *, misspelt: bool = False, hidden: Sequence[str] = ()
) -> Json | None:
    """Names that begin as typed: every word but the last is whole; and those that have the words in the singular.
    `seconds`: how long the engine may look; `misspelt`: words of four letters and more may have one wrong; `hidden`:
    products that are left out. None where nothing was typed, or a single word too short for that.

    A query rather than the engines' completion suggester, which can't leave out what is not published yet.
    """
    text = words.asked(q)
    whole, last = words.so_far(text)
    asked: Json = {"query": text, "operator": "and"}
    if not misspelt:
        ways: list[Json] = [{"match_bool_prefix": {"suggest": asked}}] if text else []
        for one in words.singulars(text):
            ways.append({"constant_score": {"filter": {"match": {"suggest": {**asked, "query": one}}}}})
    else:
        asked |= {"fuzziness": ONE_WRONG, "max_expansions": MOST_SPELLINGS}
        ways = [{"match_bool_prefix": {"suggest": asked}}] if whole else []
        if len(last) >= FEWEST_LETTERS:
            spelt = {"value": last[: words.LONGEST_BEGINNING], "fuzziness": 1, "max_expansions": MOST_SPELLINGS}
            before = [{"match": {"suggest": {**asked, "query": whole}}}] if whole else []
            ways.append({"bool": {"must": [{"fuzzy": {"begun": spelt}}, *before]}})
    if not ways:
        return None
    return {
        "size": size,
        "stored_fields": ["name", "slug"],
        "track_total_hits": False,
        "timeout": _time(seconds),
        "query": {"bool": {"must": [{"bool": {"should": ways}}], "filter": [published(now)], **_without(hidden)}},
        "sort": QUERY["sorts"]["relevance"],
    }


def respelt(wanted: Wanted, asked: Sequence[str], now: datetime, reading: Reading, told: Told) -> Json:
    """How many products have the whole text as it is, pass the filters and are not hidden from it, and how many have
    each of these words."""
    ways, _ = _texts(words.asked(wanted.q), "", Tier.EXACT, reading, told)
    each = {word: _all_of(word, reading) for word in asked}
    whole = [_any(ways), *dict(_filters(wanted, told.shelves)).values()]
    return {
        "size": 0,
        "track_total_hits": False,
        "timeout": _time(reading.seconds),
        "query": {"bool": {"filter": [published(now), _any([*ways, *each.values()])]}},
        "aggs": {
            "whole": {"filter": {"bool": {"filter": whole, **_without(told.said.hidden)}}},
            "words": {"filters": {"filters": each}},
        },
    }


def shown(hits: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts of what was found, as words are looked up in them for another spelling."""
    return [fold(" ".join(_spelt(hit["_source"]))) for hit in hits]


def _spelt(source: Mapping[str, Any]) -> tuple[str, str, str]:
    return source["name"], source["brand"] or "", words.beginning(source["description"], words.SPELT_BY)


# --- Why ------------------------------------------------------------------------------------------------------------
#
# What staff and sales say of a product is known here; what its words add the engine explains, in a text of its own, of
# which nothing but field, word and value gets any further.

# As the mapping names them; `all` has a field more for each language.
_NAMES = {
    "words.name.plain": "exact", "words.name": "name", "words.brand": "brand", "words.more": "more",
    "words.description": "description", "all": "all", "skus": "sku", "id": "id",
    "category": "category",
}  # fmt: skip
_TERM = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, _NAMES))})(?:\.[a-z]+)?:\(?([^\s()^]+)")
# What adds up from its parts. Of `max of` the greatest part is all.
_SUMS = re.compile(r"sum of:|max plus .* times others of:")


def reasons(explained: Json, id_: str, tier: Tier, reading: Reading, said: Ruling) -> list[Reason]:
    """Of one product of an answer: first what staff, then what sales say, then what matches, the most first. What
    matches adds up to its score, once sales have raised it; a pinned product has no score to speak of."""
    pinned, raised = id_ in said.pinned, said.boosts.get(id_, 1.0)
    found: list[Reason] = []
    if pinned:
        place = said.pinned.index(id_) + 1
        found.append(Reason("pinned", f"pinned by staff, in place {place}"))
    if raised != 1:
        found.append(Reason("sells", f"sells well for this query: ×{raised:g}", factor=raised))
    matching = [_matches(terms, score, tier, reading) for terms, score in _parts(explained, pinned, raised)]
    return found + sorted(matching, key=lambda reason: -(reason.score or 0))


def _matches(terms: Mapping[str, str], score: float, tier: Tier, reading: Reading) -> Reason:
    found = " ".join(dict.fromkeys(" ".join(terms.values()).split()))
    if len(terms) > 1:  # the engine has not told in which of them
        return Reason("matches", f"has “{found}” in one field or more", None, found, None, score)
    [name] = terms
    factor = reading.weights.get("name" if name == "exact" and tier is not Tier.EXACT else name)
    times = "" if factor is None else f", ×{factor:g}"
    return Reason("matches", f"has “{found}” in {name}{times}", name, found, factor, score)


def _parts(node: Json, pinned: bool, raised: float) -> Iterator[tuple[dict[str, str], float]]:
    """Words by field, and what they added. Whatever adds nothing only had to hold."""
    description, value, inner = node["description"], node["value"], node.get("details") or []
    if value == 0:
        return
    if description.startswith("function score"):
        if inner:  # the query, and then by what it was multiplied, which is known
            yield from _parts(inner[0], pinned, raised)
            return
        value /= raised
    elif inner and _SUMS.search(description):
        for each in inner:
            yield from _parts(each, pinned, raised)
        return
    elif inner and "max of:" in description:
        yield from _parts(max(inner, key=lambda part: part["value"]), pinned, raised)
        return
    terms = _terms(description)
    # A pin's own weight; or, where an engine tells only the whole, perhaps nothing but the pin.
    if not (terms.pop("id", None) and pinned) and terms:
        yield terms, value


def _terms(description: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for path, word in _TERM.findall(description):
        name = _NAMES[path]
        found[name] = f"{found[name]} {word}" if name in found else word
    return found
