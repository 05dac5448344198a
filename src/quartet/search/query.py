"""A search as the engine takes it. No text of a user ever becomes syntax or a regular expression: it only ever stands
where the engine expects words.

What costs is asked for only where it shows: facets on the first page; misspelt words and beginnings (`Tier.LOOSE`)
only when the words as they were typed find too little; marking and other spellings not at all, since `words` does both
from what was found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from quartet.kernel.settings import Settings
from quartet.kernel.texts import fold
from quartet.merchandising import FEWEST_LETTERS, MOST_ALTERNATIVES, Ruling
from quartet.search import facets, words
from quartet.search.clauses import all_of, any_of, by_facet, published
from quartet.search.model import (
    Shelves,
    Tier,
    View,
    Wanted,
    choices_of,
    tokens_of,
)
from quartet.stores.files import json_file

Json = dict[str, Any]

QUERY: Json = json_file(__file__, "query.json")
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
    filters = dict(by_facet(wanted, told.shelves))
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
        "aggs": facets.aggregations(wanted, filters, told.view) if wanted.counts else {},
    }
    if after or told.seen:
        unseen = [{"bool": {"must_not": [{"terms": {"id": list(told.seen)}}]}}] if told.seen else []
        asked["post_filter"] = all_of([*(filters.values() if after else ()), *unseen])
    if text and (told.said.pinned or "post_filter" in asked):
        # What stands there because it is pinned was not found by its words.
        asked["aggs"]["matched"] = {"filter": any_of(either) if told.said.pinned else {"match_all": {}}}
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
        whole |= {"must": [any_of(ways)], "should": should}
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


def _without(hidden: Sequence[str]) -> Json:
    return {"must_not": [{"terms": {"id": list(hidden)}}]} if hidden else {}


def _only(id_: str, boost: float) -> Json:
    return {"constant_score": {"filter": {"term": {"id": id_}}, "boost": boost}}


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
    whole = [any_of(ways), *dict(by_facet(wanted, told.shelves)).values()]
    return {
        "size": 0,
        "track_total_hits": False,
        "timeout": _time(reading.seconds),
        "query": {"bool": {"filter": [published(now), any_of([*ways, *each.values()])]}},
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
