"""Query clauses that filters and facets share: what may be shown, and the filters a shopper has ticked."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from quartet.search.attributes import readings, token
from quartet.search.model import AttrFilter, CategoryTree, Wanted

Json = dict[str, Any]


def any_of(ways: Sequence[Json]) -> Json:
    """At least one of these."""
    return {"bool": {"should": list(ways), "minimum_should_match": 1}}


def all_of(clauses: Iterable[Json]) -> Json:
    """Each of these, without an effect on the score."""
    return {"bool": {"filter": list(clauses)}}


def time_limit(seconds: float) -> str:
    """So many seconds as an engine reads them."""
    return f"{seconds * 1000:.0f}ms"


def published(now: datetime) -> Json:
    """Products that are published by now."""
    return {"range": {"publishedAt": {"lte": now.isoformat()}}}


def by_facet(wanted: Wanted, category_tree: CategoryTree) -> Iterator[tuple[str, Json]]:
    """The ticked filters: facet and clause."""
    if wanted.category:
        yield "category", {"terms": {"category": list(category_tree.below(wanted.category))}}
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
        yield f"attrs.{one.name}", all_of(_of_attribute(one, wanted.attrs_field))


def _of_attribute(asked: AttrFilter, field: str) -> Iterator[Json]:
    if asked.values:
        yield {"terms": {field: tokens_asked(asked)}}
    if asked.bands:
        yield {"bool": {"should": [in_band(field, asked.name, *band) for band in asked.bands]}}
    if asked.bounds:
        yield {"range": {field: _between(asked)}}


def tokens_asked(asked: AttrFilter) -> list[str]:
    """All tokens that the ticked values may be in the index: `16` may be a number or a text there."""
    return [text for value in asked.values for text in readings(asked.name, value)]


def in_band(field: str, name: str, low: float, high: float) -> Json:
    """An attribute's number from `low` to below `high`."""
    return {"range": {field: {"gte": token(name, low), "lt": token(name, high)}}}


def _between(asked: AttrFilter) -> Json:
    """All bounds as one range: the narrowest on each side."""
    # Hex digits end at f: `n:g` sorts after all numbers of this attribute, and a token with `g` appended just after
    # itself.
    lows, highs = [f"{asked.name}=n:"], [f"{asked.name}=n:g"]
    for comparison, number in asked.bounds:
        edge = token(asked.name, number)
        side = lows if comparison in ("gte", "gt") else highs
        side.append(edge if comparison in ("gte", "lt") else f"{edge}g")
    return {"gte": max(lows), "lt": min(highs)}
