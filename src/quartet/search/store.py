"""The search index: its definition, its alias, what is asked of it and what goes into it."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any

import orjson

from quartet.kernel.ids import new_id
from quartet.kernel.settings import Settings
from quartet.search.model import Band, Bucket, Found, Wanted, attr_facets, count_words, first_words
from quartet.stores.files import json_file
from quartet.stores.search import BulkResult, SearchEngine, SearchRefused

Json = dict[str, Any]

INDEX: Json = json_file(__file__, "index.json")
QUERY: Json = json_file(__file__, "query.json")
MOST_SPELLINGS = 50
MOST_CLAUSES = 800
DEFINITION = hashlib.sha256(orjson.dumps(INDEX)).hexdigest()[:16]


def definition(search: SearchEngine, settings: Settings) -> Json:
    """Settings and mappings as created; `_meta.definition` tells later whether an index is of this very kind."""
    made = deepcopy(INDEX)
    made["settings"]["index"]["number_of_replicas"] = settings.search_replicas
    if search.engine == "elasticsearch":
        # Its way of marking whole phrases makes highlighting nine times dearer; OpenSearch knows no such setting.
        made["settings"]["index"]["highlight.weight_matches_mode.enabled"] = False
    made["mappings"]["_meta"] = {"definition": DEFINITION}
    return made


async def prepare(search: SearchEngine, settings: Settings) -> None:
    """An index behind the alias where there is none. Idempotent, also for two processes at once: the first index has a
    fixed name and is made together with its aliases in one call, so one of them makes it and the other is refused."""
    alias = settings.search_alias
    if await search.alias_target(alias) is None:
        try:
            await search.create_index(
                f"{alias}-first", definition(search, settings), aliases=[alias, _family(settings)]
            )
        except SearchRefused:
            if await search.alias_target(alias) is None:
                raise


async def is_current(search: SearchEngine, settings: Settings) -> bool:
    """Whether the live index was made from the present definition; False as well when there is none."""
    found = await search.mappings(settings.search_alias)
    return bool(found.get("_meta", {}).get("definition") == DEFINITION)


def next_alias(settings: Settings) -> str:
    """The alias of an index that is being built beside the live one."""
    return f"{settings.search_alias}-next"


def _family(settings: Settings) -> str:
    """The alias of all our indexes, the live one and what a crash may have left; names alone could be another's."""
    return f"{settings.search_alias}-all"


async def build_next(search: SearchEngine, settings: Settings) -> str:
    """A new, empty index behind the next alias, instead of one that an earlier build left; answers its name."""
    await sweep(search, settings)
    await _clear_the_way(search, next_alias(settings))
    name = f"{settings.search_alias}-{new_id().hex}"
    await search.create_index(name, definition(search, settings), aliases=[next_alias(settings), _family(settings)])
    return name


async def _clear_the_way(search: SearchEngine, alias: str) -> None:
    """Deletes an empty index that has the alias' name: osmem makes one for a delete when the alias went just before."""
    try:
        if not await search.alias_targets(alias) and await search.count(alias) == 0:
            await search.delete_index(alias)
    except SearchRefused as refusal:
        if refusal.status != 404:
            raise


async def go_live(search: SearchEngine, settings: Settings, index: str) -> None:
    """Points the alias at the index, in one step for whoever searches, and deletes the others."""
    await search.swap_alias(settings.search_alias, index, leave=next_alias(settings))
    await sweep(search, settings)


async def sweep(search: SearchEngine, settings: Settings) -> None:
    """Deletes every index of ours but the live one."""
    live = await search.alias_target(settings.search_alias)
    for index in await search.alias_targets(_family(settings)):
        if index != live:
            await search.delete_index(index)


async def put(search: SearchEngine, alias: str, version: int, documents: Mapping[str, Json | None]) -> list[BulkResult]:
    """Writes documents by id, whole, and deletes those that are None; only over what has a lower or the same version.

    The versions of deletes are remembered for an hour (`gc_deletes`; 60 s by default): longer than any batch could
    still be on its way, so that none brings back what was deleted."""
    actions: list[tuple[Json, Json | None]] = []
    for id_, held in documents.items():
        about = {"_id": id_, "version": version, "version_type": "external_gte"}
        actions.append(({"delete" if held is None else "index": about}, held))
    return await search.bulk(alias, actions)


async def stored(search: SearchEngine, alias: str, after: str, upto: str | None, limit: int) -> dict[str, Json]:
    """What the index holds, by id, in order of ids: those past `after` and not past `upto`."""
    bounds = {"gt": after} | ({"lte": upto} if upto is not None else {})
    body = {"size": limit, "query": {"range": {"id": bounds}}, "sort": [{"id": "asc"}], "track_total_hits": False}
    found = await search.search(alias, body)
    return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}


async def found_by_ids(search: SearchEngine, alias: str, ids: Sequence[str]) -> dict[str, Json]:
    """What searches find of these, by id."""
    found = await search.search(alias, {"size": len(ids), "query": {"terms": {"id": list(ids)}}})
    return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}


def query(wanted: Wanted, now: datetime) -> Json:
    """The whole search as the engine takes it; what costs (highlight, suggestions) only where there is text."""
    text = first_words(wanted.q)
    body: Json = {
        "from": (wanted.page - 1) * wanted.size,
        "size": wanted.size,
        "_source": QUERY["source"],
        "track_total_hits": True,
        "query": {"bool": {"must": _matching(text), "filter": _filters(wanted, now)}},
        # By relevance there is nothing to sort without text: then by rating.
        "sort": QUERY["sorts"]["-rating" if not text and wanted.sort == "relevance" else wanted.sort],
        "aggs": QUERY["aggs"],
    }
    if text:
        body["highlight"] = QUERY["highlight"]
        body["suggest"] = {"did_you_mean": {"text": text, "phrase": QUERY["did_you_mean"]}}
    return body


def _matching(text: str) -> list[Json]:
    if not text:
        return []
    # Each word may match this many spellings in each field, and an engine refuses more than 1,024 clauses in all.
    spellings = min(MOST_SPELLINGS, MOST_CLAUSES // (len(QUERY["fields"]) * count_words(text) or 1))
    words = {"query": text, "fields": QUERY["fields"], "fuzziness": "AUTO", "max_expansions": spellings}
    either = [
        {"multi_match": words},
        {"term": {"skus": {"value": text.lower(), "boost": 100}}},
    ]
    return [{"bool": {"should": either, "minimum_should_match": 1}}]


def _published(now: datetime) -> Json:
    return {"range": {"publishedAt": {"lte": now.isoformat()}}}


def _filters(wanted: Wanted, now: datetime) -> list[Json]:
    filters = [_published(now)]
    if wanted.category:
        filters.append({"terms": {"category": wanted.category}})
    if wanted.brand:
        filters.append({"terms": {"brand": wanted.brand}})
    if wanted.in_stock is not None:
        filters.append({"term": {"inStock": wanted.in_stock}})
    prices = {"gte": wanted.min_price, "lte": wanted.max_price}
    prices = {side: price for side, price in prices.items() if price is not None}
    if prices:
        filters.append({"range": {"priceCents": prices}})
    return filters + [attr.clause for attr in wanted.attrs]


async def find(search: SearchEngine, alias: str, wanted: Wanted, now: datetime) -> Found:
    """One page of products. Raises StoreUnavailable."""
    found = await search.search(alias, query(wanted, now))
    aggregated = found["aggregations"]
    text = " ".join(wanted.q.lower().split())
    options = [option["text"] for part in _suggested(found) for option in part["options"]]
    return Found(
        total=found["hits"]["total"]["value"],
        hits=found["hits"]["hits"],
        category=_buckets(aggregated["by_category"]),
        brand=_buckets(aggregated["by_brand"]),
        price=[
            Band(b["key"], _cents(b.get("from")), _cents(b.get("to")), b["doc_count"])
            for b in aggregated["price_range"]["buckets"]
        ],
        attrs=attr_facets((b["key"], b["doc_count"]) for b in aggregated["by_attr"]["buckets"]),
        did_you_mean=[option for option in options if option != text],
        took_ms=found["took"],
    )


def _suggested(found: Mapping[str, Any]) -> Sequence[Json]:
    suggested: Sequence[Json] = found.get("suggest", {}).get("did_you_mean", [])
    return suggested


def _buckets(aggregated: Mapping[str, Any]) -> list[Bucket]:
    return [Bucket(bucket["key"], bucket["doc_count"]) for bucket in aggregated["buckets"]]


def _cents(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


async def suggest(search: SearchEngine, alias: str, q: str, size: int, now: datetime) -> list[Json]:
    """Names that begin as typed, `{text, slug}`: every word but the last is whole, if perhaps misspelt.

    A query rather than the engines' completion suggester, which can't leave out what is not published yet.
    """
    text = first_words(q)
    begun = {"match_bool_prefix": {"suggest": {"query": text, "operator": "and", "fuzziness": "AUTO"}}}
    body = {
        "size": size,
        "_source": ["name", "slug"],
        "track_total_hits": False,
        "query": {"bool": {"must": [begun], "filter": [_published(now)]}},
        "sort": QUERY["sorts"]["relevance"],
    }
    found = await search.search(alias, body) if text else {"hits": {"hits": []}}
    sources = [hit["_source"] for hit in found["hits"]["hits"]]
    return [{"text": source["name"], "slug": source["slug"]} for source in sources]
