"""The search index: its definition, its aliases, queries and writes."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from quartet.kernel.errors import Conflict, StoreUnavailable
from quartet.kernel.ids import new_id
from quartet.kernel.settings import Settings
from quartet.merchandising import Ruling
from quartet.search import facets, query, why, words
from quartet.search.model import DEEPEST, CategoryTree, CategoryView, Found, Tier, Wanted
from quartet.search.query import QueryContext, TextSettings
from quartet.stores.files import json_file
from quartet.stores.search import BulkResult, SearchEngine, SearchRefused, is_partial

Json = dict[str, Any]

INDEX: Json = json_file(__file__, "index.json")
NO_CONTEXT = QueryContext()
Rulings = Callable[[str], Awaitable[Ruling]]
# With fewer matches than this, the search is repeated by the next, looser tier.
ENOUGH_HITS = 1


def definition(settings: Settings) -> Json:
    """Settings and mappings of a new index; `_meta.definition` is their hash, by which an index of an older definition
    is recognised."""
    made = deepcopy(INDEX)
    made["settings"]["index"]["number_of_replicas"] = settings.search_replicas
    made["mappings"] = _mappings(settings)
    made["mappings"]["_meta"] = {"definition": _kind(settings)}
    return made


def _mappings(settings: Settings) -> Json:
    """Each text with its language's analyzer; all texts together once for each language in use."""
    made: Json = deepcopy(INDEX["mappings"])
    languages = TextSettings.of(settings).languages
    for name, language in languages.items():
        made["properties"]["words"]["properties"][name]["analyzer"] = language
    fields = {language: {"type": "text", "analyzer": language} for language in sorted(set(languages.values()))}
    made["properties"]["all"]["fields"] = fields
    return made


def _kind(settings: Settings) -> str:
    read = [INDEX["settings"], _mappings(settings), words.READING]
    return hashlib.sha256(orjson.dumps(read)).hexdigest()[:16]


async def prepare(search: SearchEngine, settings: Settings) -> None:
    """Creates an index behind the alias if there is none. Idempotent, also for two processes at once: the first index
    has a fixed name and is created together with its aliases in one call, so only one of them succeeds."""
    alias = settings.search_alias
    if await search.alias_target(alias) is None:
        try:
            await search.create_index(f"{alias}-first", definition(settings), aliases=[alias, _family(settings)])
        except SearchRefused:
            if await search.alias_target(alias) is None:
                raise


async def is_current(search: SearchEngine, settings: Settings) -> bool:
    """Whether the live index has the current definition; False as well if there is none."""
    return _are_current(await search.mappings(settings.search_alias), settings)


def _are_current(mappings: Json, settings: Settings) -> bool:
    return bool(mappings.get("_meta", {}).get("definition") == _kind(settings))


async def add_new_fields(search: SearchEngine, settings: Settings, alias: str) -> bool:
    """Adds the fields that documents have now to an index of an earlier definition, so that it is kept up to date until
    a rebuild replaces it; it still counts as of the earlier definition. False if it has the current one."""
    held = await search.mappings(alias)
    if not held or _are_current(held, settings):
        return False
    if lacking := _missing_fields(held["properties"], _mappings(settings)["properties"]):
        await search.add_fields(alias, lacking)
    return True


def _missing_fields(held: Json, wanted: Json) -> Json:
    found: Json = {name: field for name, field in wanted.items() if name not in held}
    for name, field in wanted.items():
        parts = held.get(name, {}).get("properties")
        if parts and "properties" in field and (lacking := _missing_fields(parts, field["properties"])):
            found[name] = {"properties": lacking}
    return found


def next_alias(settings: Settings) -> str:
    """The alias of the index that is being built beside the live one."""
    return f"{settings.search_alias}-next"


def former_alias(settings: Settings) -> str:
    """The alias of the previously live index, kept for a rollback."""
    return f"{settings.search_alias}-former"


def _family(settings: Settings) -> str:
    """The alias of all our indexes, the live one and any left by a crash; by name alone they could be somebody
    else's."""
    return f"{settings.search_alias}-all"


async def build_next(search: SearchEngine, settings: Settings) -> str:
    """Creates an empty index behind the next alias, instead of one left by an earlier build; returns its name. Until
    `make_ready` it has no replicas and is not refreshed, which makes filling it cheaper."""
    await abandon_next(search, settings)
    name = f"{settings.search_alias}-{new_id().hex}"
    made = definition(settings)
    made["settings"]["index"] |= {"number_of_replicas": 0, "refresh_interval": "-1"}
    aliases = [next_alias(settings), _family(settings)]
    await _set_alias(search, next_alias(settings), lambda: search.create_index(name, made, aliases=aliases))
    return name


async def prepare_rollback(search: SearchEngine, settings: Settings) -> str:
    """For a rollback: points the next alias at the previously live index; returns its name. Raises Conflict if there is
    none, or if it could not be kept up to date: it is red, or has another definition than the current one."""
    await abandon_next(search, settings)
    former = await search.alias_target(former_alias(settings))
    if former is None:
        raise Conflict("no former index is kept")
    if not _are_current(await search.mappings(former), settings):
        raise Conflict("the former index was made by another version of the shop: go back with that version")
    if await search.is_red(former):
        raise Conflict("a part of the former index is on no node")
    # An operator may have closed it to writes.
    await search.change_settings(former, {"blocks": {"write": None, "read_only": None}})
    body = {"actions": [{"add": {"index": former, "alias": next_alias(settings)}}]}
    await _set_alias(search, next_alias(settings), lambda: search.request("POST", "/_aliases", body=body))
    return former


async def next_index(search: SearchEngine, settings: Settings) -> str | None:
    """The index behind the next alias, if it has the current definition, and is not red: until `make_ready` it has no
    replicas, so a part of it is gone with its node."""
    index = await search.alias_target(next_alias(settings))
    if index is None or not _are_current(await search.mappings(index), settings):
        return None
    return None if await search.is_red(index) else index


async def _set_alias(search: SearchEngine, alias: str, put: Callable[[], Awaitable[object]]) -> None:
    """Calls `put`, which sets the alias; retries if an index of the alias' name was created in between."""
    for tries_left in reversed(range(5)):
        await _delete_index_in_the_way(search, alias)
        try:
            await put()
            return
        except SearchRefused as refusal:
            if not tries_left or refusal.status != 400:
                raise


async def _delete_index_in_the_way(search: SearchEngine, alias: str) -> None:
    """Deletes an empty index that has the alias' name: engines create one for a late delete of a document if the alias
    was removed just before."""
    try:
        if not await search.alias_targets(alias) and await search.count(alias) == 0:
            await search.delete_index(alias)
    except SearchRefused as refusal:
        if refusal.status != 404:
            raise


async def make_ready(search: SearchEngine, settings: Settings) -> None:
    """Once the index behind the next alias is filled: gives it the live one's replicas and refresh interval."""
    wanted = definition(settings)["settings"]["index"]
    names = ("number_of_replicas", "refresh_interval")
    await search.change_settings(next_alias(settings), {name: wanted[name] for name in names})
    await search.refresh(next_alias(settings))


async def go_live(search: SearchEngine, settings: Settings, index: str) -> None:
    """Points the alias at the index, atomically for searches; the previously live index is kept, older ones are
    deleted."""
    await search.swap_alias(settings.search_alias, index, leave=next_alias(settings), keep=former_alias(settings))
    await sweep(search, settings)


async def abandon_next(search: SearchEngine, settings: Settings) -> None:
    """Ends a build or rollback: a new index is deleted, the former one is kept."""
    for index in await search.alias_targets(next_alias(settings)):
        action = {"remove": {"index": index, "alias": next_alias(settings)}}
        await search.request("POST", "/_aliases", body={"actions": [action]})
    await sweep(search, settings)


async def sweep(search: SearchEngine, settings: Settings) -> None:
    """Deletes every index of ours but the live, the former and the next one."""
    kept = {settings.search_alias, former_alias(settings), next_alias(settings)}
    for index in await search.alias_targets(_family(settings)):
        # Asked anew, after the list, and in one call: a worker that stood still here may find that another has begun to
        # build meanwhile, or gone live.
        if kept.isdisjoint(await search.aliases_of(index)):
            await search.delete_index(index)


async def put(
    search: SearchEngine, alias: str, version: int, documents: Mapping[str, Json | bytes | None]
) -> list[BulkResult]:
    """Writes whole documents by id, and deletes those that are None; only over a lower or the same version. A document
    may be given as its JSON bytes.

    The index keeps the versions of deleted documents for an hour (`gc_deletes`; the default is 60 s): longer than any
    batch may still be on its way, so that none brings back what was deleted."""
    actions: list[tuple[Json, Json | bytes | None]] = []
    for id_, held in documents.items():
        about = {"_id": id_, "version": version, "version_type": "external_gte"}
        actions.append(({"delete" if held is None else "index": about}, held))
    return await search.bulk(alias, actions)


async def stored(search: SearchEngine, alias: str, after: str, upto: str | None, limit: int) -> dict[str, Json]:
    """The index's documents by id, in order of ids: those past `after` and not past `upto`. Raises StoreUnavailable
    rather than return a partial answer, as do all functions that the comparison uses."""
    bounds = {"gt": after} | ({"lte": upto} if upto is not None else {})
    body = {"size": limit, "query": {"range": {"id": bounds}}, "sort": [{"id": "asc"}], "track_total_hits": False}
    found = await search.search_all(alias, body)
    return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}


async def found_by_ids(search: SearchEngine, alias: str, ids: Sequence[str]) -> dict[str, Json]:
    """Those of these documents that searches find, by id."""
    found = await search.search_all(alias, {"size": len(ids), "query": {"terms": {"id": list(ids)}}})
    return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}


async def alike(
    search: SearchEngine, settings: Settings, product: Mapping[str, Any], limit: int, now: datetime
) -> list[str]:
    """Ids of the most similar published products of the same category, best first; from a part of the index if the
    engine ran out of time. Raises StoreUnavailable."""
    asked = query.alike(product, limit, now, settings.search_seconds)
    found = await search.search(settings.search_alias, asked)
    return [hit["_id"] for hit in found["hits"]["hits"]]


async def fingerprints(search: SearchEngine, alias: str, low: int, high: int) -> dict[str, int]:
    """The fingerprint of each document in the buckets from `low` to below `high`, by id; 0 for one that has none.
    Documents without a bucket count in the first. Ten thousand at most."""
    found = await search.search_all(
        alias,
        {
            "size": DEEPEST,
            "query": _within(low, high),
            "_source": False,
            "docvalue_fields": ["fingerprint"],
            "track_total_hits": False,
        },
    )
    return {hit["_id"]: int(hit.get("fields", {}).get("fingerprint", [0])[0]) for hit in found["hits"]["hits"]}


async def sums(
    search: SearchEngine, alias: str, low: int, high: int, *, each: bool = False
) -> dict[int, tuple[int, int]]:
    """Number of documents and sum of fingerprints: for `each` bucket that has any, or for all together under `low`.
    The engine reads two doc-value columns for it, and no document."""
    total = {"sum": {"sum": {"field": "fingerprint"}}}
    by_bucket = {"buckets": {"terms": {"field": "bucket", "size": high - low}, "aggs": total}}
    body = {"size": 0, "track_total_hits": True, "query": _within(low, high), "aggs": by_bucket if each else total}
    found = await search.search_all(alias, body)
    number = int(found["hits"]["total"]["value"])
    if not each:
        return {low: (number, int(found["aggregations"]["sum"]["value"]))}
    rows = found["aggregations"]["buckets"]["buckets"]
    totals = {int(row["key"]): (int(row["doc_count"]), int(row["sum"]["value"])) for row in rows}
    if lost := number - sum(n for n, _ in totals.values()):
        n, sum_ = totals.get(low, (0, 0))
        totals[low] = n + lost, sum_
    return totals


def _within(low: int, high: int) -> Json:
    here: Json = {"range": {"bucket": {"gte": low, "lt": high}}}
    if low > 0:
        return here
    nowhere = {"bool": {"must_not": [{"exists": {"field": "bucket"}}]}}
    return {"bool": {"should": [here, nowhere], "minimum_should_match": 1}}


async def _nothing(_: str) -> Ruling:
    return NO_CONTEXT.ruling


async def find(
    search: SearchEngine,
    settings: Settings,
    wanted: Wanted,
    now: datetime,
    context: QueryContext = NO_CONTEXT,
    *,
    ruling_of: Rulings = _nothing,
) -> Found:
    """One page of products, by the first tier that finds enough. `ruling_of`: gives the rules for another spelling that
    may be offered. Raises StoreUnavailable."""
    text_settings, took = TextSettings.of(settings), 0
    for tier in Tier:
        found = await _shown(search, settings.search_alias, query.body(wanted, tier, now, text_settings, context))
        took += found["took"]
        if not words.normalised_query(wanted.q) or query.matched(found) >= ENOUGH_HITS:
            break
    hits = found["hits"]["hits"]
    if wanted.explain:
        for hit in hits:
            hit["_why"] = why.reasons(hit["_explanation"], hit["_id"], tier, text_settings, context.ruling)
    total = found["hits"]["total"]["value"] + len(context.seen)
    offered = None
    if tier is not Tier.EXACT:
        offered = await _respelt(
            search, settings, wanted, now, hits=hits, category_tree=context.category_tree, ruling_of=ruling_of
        )
    return Found(
        total=total,
        hits=hits,
        facets=facets.read(found["aggregations"], wanted, context.category_tree, context.view)
        if wanted.counts
        else None,
        did_you_mean=[offered] if offered else [],
        tier=tier,
        partial=is_partial(found) or bool(context.view and context.view.partial),
        took_ms=took,
    )


async def _shown(search: SearchEngine, alias: str, body: Json) -> Json:
    """A response whose hits have their stored fields as `_source`. Asked for parts of `_source`, the engine would read
    the whole document, an eighth of a search's cost."""
    found, names = await search.search(alias, body), body["stored_fields"]
    hits = found["hits"]["hits"]
    if hits and "fields" not in hits[0]:
        # An index of an earlier version, live until the next rebuild, has no stored fields.
        whole = {part: asked for part, asked in body.items() if part != "stored_fields"}
        return await search.search(alias, {**whole, "_source": names})
    for hit in hits:
        stored = hit.pop("fields")
        hit["_source"] = {name: stored[name][0] if name in stored else None for name in names}
    return found


async def _respelt(
    search: SearchEngine,
    settings: Settings,
    wanted: Wanted,
    now: datetime,
    *,
    hits: Sequence[Json],
    category_tree: CategoryTree,
    ruling_of: Rulings,
) -> str | None:
    """A spelling suggestion: the words that no product has are replaced by similar words from the hits. None unless the
    engine then finds a product with all words that passes the filters."""
    text, text_settings = words.normalised_query(wanted.q), TextSettings.of(settings)
    spellings = words.respellings(text, query.shown(hits))
    while spellings:
        offered = words.respelt(text, spellings)
        context = QueryContext(await ruling_of(offered), category_tree)
        body = query.respelt(replace(wanted, q=offered), list(spellings), now, text_settings, context)
        try:
            counted = (await search.search_all(settings.search_alias, body))["aggregations"]
        except StoreUnavailable:  # down or out of time only now: the search itself has its answer
            return None
        there = {word for word, bucket in counted["words"]["buckets"].items() if bucket["doc_count"]}
        if not there:
            # The words may come from different products, one may still be misspelt, or filters leave nothing.
            return offered if counted["whole"]["doc_count"] else None
        spellings = {word: other for word, other in spellings.items() if word not in there}
    return None


async def view(
    search: SearchEngine, settings: Settings, category_tree: CategoryTree, slug: str, now: datetime
) -> CategoryView:
    """How the attributes of a category and its descendants are counted. Raises StoreUnavailable."""
    slugs = category_tree.below([slug])
    other_attrs = frozenset[str]().union(*(category_tree.other_attrs.get(one, ()) for one in slugs))
    numbers = frozenset[str]().union(*(category_tree.numeric_attrs.get(one, ()) for one in slugs)) - other_attrs
    found = await search.search(settings.search_alias, facets.numbers(slugs, now, settings.search_seconds))
    edges = facets.edges(found["aggregations"], numbers)
    return CategoryView(other_attrs | numbers - edges.keys(), edges, is_partial(found))


async def suggest(
    search: SearchEngine,
    settings: Settings,
    q: str,
    size: int,
    now: datetime,
    *,
    hidden: Sequence[str] = (),
    strictly: bool = False,
) -> tuple[list[Json], bool]:
    """Typeahead: names that match as typed, `{text, slug}`; if there are none, and not `strictly`, those with a typo.
    `hidden`: products to leave out. And False if the engine ran out of time, so that the answer is partial."""
    for misspelt in (False,) if strictly else (False, True):  # a fuzzy word costs several times as much as an exact one
        if asked := query.typeahead(q, size, now, settings.search_seconds, misspelt=misspelt, hidden=hidden):
            found = await _shown(search, settings.search_alias, asked)
            hits, whole = found["hits"]["hits"], not is_partial(found)
            if hits or not whole:
                return [{"text": hit["_source"]["name"], "slug": hit["_source"]["slug"]} for hit in hits], whole
    return [], True
