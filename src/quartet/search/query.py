"""The request bodies for the engine. No text of a user ever becomes syntax or a regular expression: it is only ever put
where the engine expects words.

Expensive parts are requested only where they are needed: facets on the first page; fuzzy and prefix matching
(`Tier.LOOSE`) only if the words as typed find too little; highlighting and spelling suggestions not at all, since
`words` makes both from the hits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from quartet.kernel.settings import Settings
from quartet.kernel.texts import fold
from quartet.merchandising import FEWEST_LETTERS, MOST_ALTERNATIVES, Ruling
from quartet.search import facets, words
from quartet.search.clauses import all_of, any_of, by_facet, published, time_limit
from quartet.search.documents import choices_of, tokens_of
from quartet.search.model import CategoryTree, CategoryView, Tier, Wanted
from quartet.stores.files import json_file

Json = dict[str, Any]

QUERY: Json = json_file(__file__, "query.json")
IN_A_LANGUAGE = ("name", "more", "description")
WEIGHED = ("name", "exact", "brand", "more", "description")
# The most dictionary terms that an engine may try for one fuzzy or prefix word (`max_expansions`).
MOST_SPELLINGS = 30
MOST_CLAUSES = 800
# How many of several words have to match: both of two, 75 % of more.
MOST = {"minimum_should_match": "2<75%"}
# Allowed typos: one in words of 3 to 7 letters, two in longer ones.
FUZZINESS = "AUTO:3,8"
# In names, one typo whatever the length: they only affect the score here. A word with two typos is matched in the field
# of all texts anyway, and matching it in names too costs a search a tenth more. Measured on 1,377 such queries, the
# product is among the first ten as often, and first in 91 % instead of 92 %.
WRONG_IN_NAMES = f"AUTO:3,{words.LONGEST_WORD + 1}"
# Allowed typos in stems: stricter, since stems are shorter and more words are similar to them.
STEMS_WRONG = {"fuzziness": "AUTO:5,8", "prefix_length": 1}
# Words of a query and its synonyms together.
MOST_WORDS_IN_ALL = 48
ONE_WRONG = f"AUTO:{FEWEST_LETTERS},{words.LONGEST_WORD + 1}"
# Attribute values compared in the search for similar products.
MOST_SHARED = 50


@dataclass(frozen=True)
class TextSettings:
    """The shop's text settings: the language (analyzer) of each field and its weight; `seconds`: a search's time
    limit."""

    languages: Mapping[str, str]
    weights: Mapping[str, float]
    seconds: float

    @classmethod
    def of(cls, settings: Settings) -> "TextSettings":
        """From the settings; defaults fill the gaps."""
        languages: dict[str, str] = dict.fromkeys(IN_A_LANGUAGE, settings.search_language)
        languages.update({str(name): language for name, language in settings.search_languages.items()})
        weights = dict.fromkeys(WEIGHED, 1.0)
        weights.update({str(name): weight for name, weight in settings.search_weights.items()})
        return cls(languages, weights, settings.search_seconds)

    @property
    def everywhere(self) -> list[str]:
        """The fields that hold all texts of a product, one per language."""
        return [f"all.{language}" for language in sorted(set(self.languages.values()))]

    @property
    def weighed(self) -> list[str]:
        """Fields with their weights in the engine's syntax; those with weight 0 are left out."""
        paths = {"exact": "words.name.plain"}
        return [f"{paths.get(name, f'words.{name}')}^{weight:g}" for name, weight in self.weights.items() if weight]


@dataclass(frozen=True)
class QueryContext:
    """What a search depends on beside the request: the query's rules by staff and sales, the shop's categories, the one
    in view, and the ids of the products on the earlier pages (if any, the page is the best of the rest, and the page
    number is ignored)."""

    ruling: Ruling = field(default_factory=Ruling)
    category_tree: CategoryTree = field(default_factory=CategoryTree)
    view: CategoryView | None = None
    seen: tuple[str, ...] = ()


def body(wanted: Wanted, tier: Tier, now: datetime, text_settings: TextSettings, context: QueryContext) -> Json:
    """The request for one page, matching by one tier."""
    text = words.normalised_query(wanted.q)
    either, should = _texts(text, words.article_number(wanted.q), tier, text_settings, context) if text else ([], [])
    filters = dict(by_facet(wanted, context.category_tree))
    # With text the filters are a post filter, so that the words alone decide the tier, and filters don't change it.
    after = bool(filters) and (wanted.counts or bool(text))
    asked: Json = {
        "from": 0 if context.seen else (wanted.page - 1) * wanted.size,
        "size": wanted.size,
        "stored_fields": [*QUERY["card"], "description"] if text else QUERY["card"],
        "track_total_hits": True,
        "timeout": time_limit(text_settings.seconds),
        "query": _query(text, either, should, context.ruling, [published(now), *([] if after else filters.values())]),
        # Without text there is no relevance: by rating instead.
        "sort": QUERY["sorts"]["-rating" if not text and wanted.sort == "relevance" else wanted.sort],
        "aggs": facets.aggregations(wanted, filters, context.view) if wanted.counts else {},
    }
    if after or context.seen:
        unseen = [{"bool": {"must_not": [{"terms": {"id": list(context.seen)}}]}}] if context.seen else []
        asked["post_filter"] = all_of([*(filters.values() if after else ()), *unseen])
    if text and (context.ruling.pinned or "post_filter" in asked):
        # A pinned product was not necessarily matched by the words.
        asked["aggs"]["matched"] = {"filter": any_of(either) if context.ruling.pinned else {"match_all": {}}}
    if wanted.explain:
        asked["explain"] = True
    return asked


def matched(found: Json) -> int:
    """How many products the words matched, from the response to a `body`. Where that may differ from the total, an
    aggregation counts it; only there, since it costs time."""
    counted = found.get("aggregations", {}).get("matched")
    return int(counted["doc_count"] if counted else found["hits"]["total"]["value"])


def _query(text: str, either: list[Json], should: list[Json], ruling: Ruling, filters: list[Json]) -> Json:
    """`either`: at least one of these has to match; `should` only affects the score."""
    whole: Json = {"filter": filters}
    if text:
        ways = [*either, {"terms": {"id": list(ruling.pinned)}}] if ruling.pinned else either
        whole |= {"must": [any_of(ways)], "should": should}
    query: Json = {"bool": whole | _without(ruling.hidden)}
    if ruling.boosts and text:
        functions = [{"filter": {"term": {"id": id_}}, "weight": factor} for id_, factor in ruling.boosts.items()]
        query = {"function_score": {"query": query, "functions": functions, "boost_mode": "multiply"}}
    if ruling.pinned and text:
        query = {
            "bool": {"must": [query], "should": [_only(id_, 10.0**9 / (n + 1)) for n, id_ in enumerate(ruling.pinned)]}
        }
    return query


def _texts(
    text: str, article: str, tier: Tier, text_settings: TextSettings, context: QueryContext
) -> tuple[list[Json], list[Json]]:
    """The clauses of which one has to match, and those that only affect the score. `article`: the text as an article
    number."""
    asked = _within_bounds(text, context.ruling.alternatives)
    loosely = _loosely(sum(map(words.count, asked)), text_settings)
    either: list[Json] = [{"term": {"skus": {"value": text, "boost": 100}}}]
    if article:
        either.append({"term": {"skus": {"value": article, "boost": 100}}})
    if slugs := context.category_tree.below(context.category_tree.by_name.get(words.name_of(text), ())):
        either.append({"terms": {"category": list(slugs), "boost": 100}})
    if tier is not Tier.EXACT:
        either += _like_a_sku(article or text)
    should: list[Json] = []
    for one in asked:
        either += list(_matching(one, tier, text_settings, loosely))
        should.append(_weighing(one, tier, text_settings, loosely))
    return either, should


def _within_bounds(text: str, alternatives: Sequence[str]) -> list[str]:
    """The text and as many of its synonyms as the limit on words leaves room for."""
    asked, number = [text], words.count(text)
    for other in map(words.normalised_query, alternatives[:MOST_ALTERNATIVES]):
        number += words.count(other)
        if number > MOST_WORDS_IN_ALL:
            break
        asked.append(other)
    return asked


def _matching(text: str, tier: Tier, text_settings: TextSettings, loosely: Json) -> Iterator[Json]:
    if tier is Tier.EXACT:
        # `dis_max`: the best of these counts, not their sum, so that a match as typed gains nothing by a joined pair.
        ways = [_all_of(one, text_settings) for one in (text, *words.with_pairs(text))]
        yield {"dis_max": {"queries": ways}} if len(ways) > 1 else ways[0]
        return
    if tier is Tier.LOOSE:
        yield {"bool": {"should": list(_each(text, loosely, "all")), **MOST}}
    else:
        # The last tier: fuzzy on stems.
        yield from _each(text, {**loosely, **STEMS_WRONG}, *text_settings.everywhere)
    yield {"match_bool_prefix": {"all": {"query": text, "operator": "and", "max_expansions": MOST_SPELLINGS}}}


def _all_of(text: str, text_settings: TextSettings) -> Json:
    return {"multi_match": {"query": text, "fields": text_settings.everywhere, "operator": "and"}}


def _each(text: str, loosely: Json, *fields: str) -> Iterator[Json]:
    """A clause per word; fuzzy for words in which typos are allowed."""
    for word in words.split_words(text):
        how = loosely if words.typos_allowed(word) else {}
        yield {"multi_match": {"query": word, "fields": fields, **MOST, **how}}


def _like_a_sku(text: str) -> Iterator[Json]:
    if " " not in text and any(letter.isdigit() for letter in text) and len(text) >= 4:
        yield {"fuzzy": {"skus": {"value": text, "fuzziness": 1, "max_expansions": MOST_SPELLINGS, "boost": 20}}}


def _weighing(text: str, tier: Tier, text_settings: TextSettings, loosely: Json) -> Json:
    """The score of a match: the sum over the fields."""
    if tier is Tier.EXACT:
        return {"multi_match": {"query": text, "type": "most_fields", "fields": text_settings.weighed}}
    name = f"words.name.plain^{text_settings.weights['name']:g}"
    return {"bool": {"should": list(_each(text, {**loosely, "fuzziness": WRONG_IN_NAMES}, name))}}


def _loosely(number: int, text_settings: TextSettings) -> Json:
    """The fuzzy parameters for a query of `number` words. Each word expands in the names and in each field of all
    texts; an engine refuses more than 1,024 clauses in all."""
    places = 1 + len(text_settings.everywhere)
    return {"fuzziness": FUZZINESS, "max_expansions": min(MOST_SPELLINGS, MOST_CLAUSES // (places * number or 1))}


def _without(hidden: Sequence[str]) -> Json:
    return {"must_not": [{"terms": {"id": list(hidden)}}]} if hidden else {}


def _only(id_: str, boost: float) -> Json:
    return {"constant_score": {"filter": {"term": {"id": id_}}, "boost": boost}}


# --- Similar products -----------------------------------------------------------------------------------------------


def alike(product: Mapping[str, Any], limit: int, now: datetime, seconds: float) -> Json:
    """Products of the same category by what they share: rare common traits count most. `seconds`: the engine's time
    limit."""
    held = tokens_of(choices_of(product))
    shared: list[Json] = [{"term": {"attrs": text}} for text in held[:MOST_SHARED]]
    shared += [{"term": {"brand": product["brand"]}}] if product["brand"] else []
    shared += [{"match": {"all": words.normalised_query(" ".join((product["name"], *product["tags"])))}}]
    return {
        "size": limit,
        "_source": False,
        "track_total_hits": False,
        "timeout": time_limit(seconds),
        "query": {
            "bool": {
                "filter": [published(now), {"term": {"category": product["category"]}}],
                "must_not": [{"term": {"id": product["_id"]}}],
                "should": shared,
            }
        },
        "sort": QUERY["sorts"]["relevance"],
    }


# --- Typeahead ------------------------------------------------------------------------------------------------------


def typeahead(
    q: str, size: int, now: datetime, seconds: float, *, misspelt: bool = False, hidden: Sequence[str] = ()
) -> Json | None:
    """The typeahead request: names that contain the words as typed, the last one as a prefix; and names with the words
    in the singular. `seconds`: the engine's time limit; `misspelt`: one typo is allowed in words of four letters and
    more; `hidden`: products to leave out. None if nothing was typed, or with `misspelt` a single word too short for it.

    A query rather than the engines' completion suggester, which can't leave out what is not published yet.
    """
    text = words.normalised_query(q)
    whole, last = words.split_last_word(text)
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
        "timeout": time_limit(seconds),
        "query": {"bool": {"must": [{"bool": {"should": ways}}], "filter": [published(now)], **_without(hidden)}},
        "sort": QUERY["sorts"]["relevance"],
    }


def respelt(
    wanted: Wanted, asked: Sequence[str], now: datetime, text_settings: TextSettings, context: QueryContext
) -> Json:
    """A request that counts the products that match the whole text exactly, pass the filters and are not hidden from
    it, and those that have each of the words `asked`."""
    ways, _ = _texts(words.normalised_query(wanted.q), "", Tier.EXACT, text_settings, context)
    each = {word: _all_of(word, text_settings) for word in asked}
    whole = [any_of(ways), *dict(by_facet(wanted, context.category_tree)).values()]
    return {
        "size": 0,
        "track_total_hits": False,
        "timeout": time_limit(text_settings.seconds),
        "query": {"bool": {"filter": [published(now), any_of([*ways, *each.values()])]}},
        "aggs": {
            "whole": {"filter": {"bool": {"filter": whole, **_without(context.ruling.hidden)}}},
            "words": {"filters": {"filters": each}},
        },
    }


def shown(hits: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts of the hits, in which other spellings are looked up."""
    return [fold(" ".join(_spelt(hit["_source"]))) for hit in hits]


def _spelt(source: Mapping[str, Any]) -> tuple[str, str, str]:
    return source["name"], source["brand"] or "", words.cut_at_word(source["description"], words.SPELT_BY)
