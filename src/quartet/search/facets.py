"""Facets: the aggregations of a search, and how their results are read. They are expensive, and by default computed for
the first page only."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from quartet.search.attributes import as_typed, read_token, readings, token
from quartet.search.clauses import all_of, in_band, published, time_limit, tokens_asked
from quartet.search.model import (
    Band,
    Bucket,
    CategoryTree,
    CategoryView,
    Facets,
    NumberBand,
    Wanted,
)
from quartet.stores.files import json_file

Json = dict[str, Any]

AGGS: Json = json_file(__file__, "facets.json")
NONE: Json = {"buckets": []}
# Of all attributes of the category in view, in one terms aggregation.
MOST_VALUES = 5_000
# Engines refuse longer regular expressions.
LONGEST_EXPRESSION = 1_000
_MOST_BANDS = 5
# So many attributes where no category is in view, and of each so many values.
_FACET_NAMES = 20
_FACET_VALUES = 20


def aggregations(wanted: Wanted, filters: Mapping[str, Json], view: CategoryView | None) -> Json:
    """The aggregations, each under all filters but its own: other brands than the ticked one can still be chosen."""
    field = wanted.attrs_field
    lowest, highest = {"min": {"field": "priceCents"}}, {"max": {"field": "priceCents"}}
    groups = {
        "category": {"category": AGGS["category"]},
        "brand": {"brand": AGGS["brand"], **_ticked("brand", wanted.brand)},
        "price": {"price": AGGS["price"], "min": lowest, "max": highest},
        "attrs": {"attrs": _values_of(field, **_but_in_bands(view))},
        # An attribute with a filter has an aggregation of its own, without that filter.
        **{
            f"attrs.{one.name}": {
                "attrs": _values_of(field, **_of_one(view, one.name)),
                **_ticked(field, tokens_asked(one)),
            }
            for one in wanted.attrs
        },
    }
    for name, edges in (view.edges if view else {}).items():
        bands = {str(n): in_band(field, name, low, high) for n, (low, high) in enumerate(pairwise(edges))}
        groups[f"bands.{name}"] = {"bands": {"filters": {"filters": bands}}}
    return {key: agg for name, held in groups.items() for key, agg in _under(filters, name, held).items()}


def _values_of(field: str, **which: Any) -> Json:
    return {"terms": {**AGGS["attrs"]["terms"], "field": field, **which}}


def _but_in_bands(view: CategoryView | None) -> Json:
    """For a category in view: room for all its attributes, without those counted in bands, whose many values could
    crowd out the others."""
    if view is None:
        return {}
    banded = f"({'|'.join(map(_literally, view.edges))})=.*"
    return {"size": MOST_VALUES, **({"exclude": banded} if view.edges and len(banded) <= LONGEST_EXPRESSION else {})}


def _of_one(view: CategoryView | None, name: str) -> Json:
    """Restricts the aggregation to this attribute if the category in view has it; any other name may be made up by the
    client."""
    return {"include": f"{_literally(name)}=.*"} if view and name in view.other_attrs else {}


def _literally(name: str) -> str:
    return re.sub(r"\W", r"\\\g<0>", name)


def _ticked(field: str, values: Sequence[str]) -> Json:
    """Counts the ticked values as well, however few products have them."""
    if not values:
        return {}
    return {"ticked": {"terms": {"field": field, "include": list(values), "size": len(values)}}}


def _under(filters: Mapping[str, Json], name: str, counted: Json) -> Json:
    """The aggregations of one facet, under the filters of all others. Without such filters they are not wrapped: a
    filter aggregation that excludes nothing would still be evaluated for each product."""
    own = name.replace("bands.", "attrs.")
    others = [clause for other, clause in filters.items() if other != own]
    if others:
        return {f"all of {name}": {"filter": all_of(others), "aggs": counted}}
    return {f"{part} of {name}": agg for part, agg in counted.items()}


def _by_facet(aggregations: Mapping[str, Any]) -> dict[str, Json]:
    """The results by facet and then by part: the inverse of `_under`."""
    found: dict[str, Json] = {}
    for key, counted in aggregations.items():
        part, _, name = key.partition(" of ")
        if name:
            found.setdefault(name, {}).update(counted if part == "all" else {part: counted})
    return found


def read(
    aggregations: Mapping[str, Any], wanted: Wanted, category_tree: CategoryTree, view: CategoryView | None
) -> Facets:
    """The facets of an answer; with a category in view only its attributes. A ticked value is in its facet even if no
    product has it, so that it can be unticked."""
    by_name = _by_facet(aggregations)
    price = by_name["price"]
    shown = view.other_attrs if view else None
    attrs: dict[str, list[Bucket] | list[NumberBand]] = {**_attrs(by_name["attrs"]["attrs"], shown)}
    for name, found in by_name.items():
        own = name.removeprefix("attrs.")
        if own != name and (shown is None or own in shown) and (values := _values(found, own, wanted)):
            attrs[own] = values
    if view is not None:
        attrs |= {name: bands for name, edges in view.edges.items() if (bands := _bands(by_name, name, edges, wanted))}
    return Facets(
        category=category_tree.with_parents(_buckets(by_name["category"]["category"])),
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
    """The bands that have any product, or are ticked."""
    counted = by_name[f"bands.{name}"]["bands"]["buckets"]
    ticked = [band for one in wanted.attrs if one.name == name for band in one.bands]
    bands = [NumberBand(low, high, counted[str(n)]["doc_count"]) for n, (low, high) in enumerate(pairwise(edges))]
    return [band for band in bands if band.count or (band.low, band.high) in ticked]


def numbers(slugs: Sequence[str], now: datetime, seconds: float) -> Json:
    """A query for all attributes' values in these categories, from which the bands are computed. `seconds`: the
    engine's time limit."""
    here = all_of([published(now), {"terms": {"category": list(slugs)}}])
    counted = {"attrs": _values_of("attrs", size=MOST_VALUES)}
    return {"size": 0, "timeout": time_limit(seconds), "query": here, "aggs": counted}


def edges(aggregations: Mapping[str, Any], names: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """The bands' edges of these attributes, from the response to `numbers`; none for one that is counted value by
    value."""
    values: dict[str, dict[float, int]] = {name: {} for name in names}
    for bucket in aggregations["attrs"]["buckets"]:
        name, value = read_token(bucket["key"])
        if name in values and isinstance(value, int | float) and not isinstance(value, bool):
            values[name][value] = bucket["doc_count"]
    return {name: found for name, counted in sorted(values.items()) if (found := _edges_of(counted))}


def _edges_of(values: Mapping[float, int]) -> tuple[float, ...]:
    """Edges of at most five bands that hold about the same number of products each; none for at most five different
    numbers, which are counted one by one. The last edge is past the greatest number."""
    if len(values) <= _MOST_BANDS:
        return ()
    ordered, total, before = sorted(values), sum(values.values()), 0
    edges = [ordered[0]]
    for value in ordered:
        if before >= total * len(edges) / _MOST_BANDS and value > edges[-1]:
            edges.append(value)
        before += values[value]
    last = ordered[-1]
    return (*edges, last + 1 if last == int(last) else round(last + 0.001, 6))


def _attrs(aggregated: Json, names: Collection[str] | None) -> dict[str, list[Bucket]]:
    """Attributes and their values, most frequent first. All attributes in `names` and no others; if None, the most
    frequent ones. A text that reads as a number or boolean is merged with that value, since a filter for one finds
    both."""
    found: dict[str, dict[str, Bucket]] = {}
    for bucket in aggregated["buckets"]:
        name, value = read_token(bucket["key"])
        count = bucket["doc_count"]
        if name in names if names is not None else name in found or len(found) < _FACET_NAMES:
            values, typed = found.setdefault(name, {}), as_typed(value)
            if held := values.get(typed):
                values[typed] = Bucket(held.key, held.count + count)
            elif len(values) < _FACET_VALUES:
                values[typed] = Bucket(value, count)
    return {name: sorted(values.values(), key=lambda one: -one.count) for name, values in found.items()}


def _brands(found: Json, wanted: Wanted) -> list[Bucket]:
    counted = dict.fromkeys(_buckets(found["brand"]) + _buckets(found.get("ticked", NONE)))
    named = {bucket.key for bucket in counted}
    return [*counted, *(Bucket(brand, 0) for brand in dict.fromkeys(wanted.brand) if brand not in named)]


def _values(found: Json, name: str, wanted: Wanted) -> list[Bucket]:
    """The values of an attribute with a filter: those counted, the ticked ones, and with 0 those no product has."""
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
