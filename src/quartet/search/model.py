"""Search requests and results as values; how a product becomes a search document."""

import math
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal

import orjson

from quartet.catalog import and_below, primary_image
from quartet.kernel.errors import invalid
from quartet.kernel.fingerprints import bucket, fingerprint
from quartet.kernel.texts import fold, has_digit
from quartet.search import words

Json = dict[str, Any]
Sort = Literal["relevance", "price", "-price", "-rating", "-newest"]
Kind = Literal["pinned", "sells", "matches"]
AttrValue = str | float | bool

# For a page, an engine keeps and sorts all hits before it; past this many the shopper has to refine the search.
DEEPEST = 10_000
_LONGEST_VALUE = 256
_COMPARISONS = ("gte", "lte", "gt", "lt", "in")
# Not allowed in an attribute's name: `=` ends the name in a token, and engines refuse the others in an aggregation's.
_NO_NAME = frozenset("=[]>")
# As JSON writes numbers, so that every value that a facet shows can be used as a filter.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_FACET_NAMES = 20
_FACET_VALUES = 20


@dataclass(frozen=True)
class Wanted:
    """A search request; prices in minor units, `q` is plain text without a syntax. `facets` None: on the first page
    only."""

    q: str = ""
    category: tuple[str, ...] = ()
    brand: tuple[str, ...] = ()
    min_price: int | None = None
    max_price: int | None = None
    in_stock: bool | None = None
    min_rating: float | None = None
    attrs: tuple["AttrFilter", ...] = ()
    facets: bool | None = None
    sort: Sort = "relevance"
    page: int = 1
    size: int = 20
    explain: bool = False

    @property
    def attrs_field(self) -> str:
        """The field for attribute filters and facets; with `in_stock`, the one with the attributes of variants that are
        in stock."""
        return "attrsInStock" if self.in_stock else "attrs"

    @property
    def counts(self) -> bool:
        """Whether facets are to be counted."""
        return self.page == 1 if self.facets is None else self.facets


class Tier(StrEnum):
    """How the query's words were matched: all of them, stemmed; most of them, with typos or as prefix; any of them."""

    EXACT = "exact"
    LOOSE = "loose"
    ANY = "any"


@dataclass(frozen=True)
class AttrFilter:
    """The filter on one attribute: one of the values, as typed; a number in one of the bands, from the first to below
    the second; a number within all bounds, such as `gte` 32. Empty members do not filter."""

    name: str
    values: tuple[str, ...] = ()
    bands: tuple[tuple[float, float], ...] = ()
    bounds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Bucket:
    """A value of a facet and how many of the found products have it."""

    key: AttrValue
    count: int


@dataclass(frozen=True)
class NumberBand:
    """Numbers from `low` to below `high`, and how many of the found products have one."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Band:
    """A price band in minor units, `from` inclusive, `to` exclusive; None is open."""

    key: str
    from_cents: int | None
    to_cents: int | None
    count: int


@dataclass(frozen=True)
class Reason:
    """One reason for a product's position. `factor`: the weight of the field, or the boost by sales. `score`: what it
    added to the score before that boost. `field` as the setting of the weights names it, or `all`, `sku` or `category`.
    What does not apply is None."""

    kind: Kind
    text: str
    field: str | None = None
    word: str | None = None
    factor: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Found:
    """One page of results. `partial`: the engine ran out of time, or a part of the index is missing. `degraded`: the
    engine was down, and the catalog listed this. Facets are None if they were not requested."""

    total: int
    hits: list[Json]
    facets: "Facets | None" = None
    did_you_mean: list[str] = field(default_factory=list)
    tier: Tier = Tier.EXACT
    partial: bool = False
    degraded: bool = False
    took_ms: int = 0


@dataclass(frozen=True)
class Facets:
    """Counted over everything found; a facet's own filter does not narrow its counts. Lowest and highest price in minor
    units, None if nothing was found."""

    category: list[Bucket]
    brand: list[Bucket]
    price: list[Band]
    attrs: dict[str, list[Bucket] | list[NumberBand]]
    min_price: int | None
    max_price: int | None


@dataclass(frozen=True)
class Shelves:
    """The shop's categories by slug: each one's parent, its numeric attributes, and its other ones; and the slugs by
    normalised name."""

    parents: Mapping[str, str | None] = field(default_factory=dict)
    numbers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    others: Mapping[str, frozenset[str]] = field(default_factory=dict)
    called: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def below(self, slugs: Iterable[str]) -> tuple[str, ...]:
        """These and all their descendants."""
        return tuple(and_below(self.parents, slugs))

    def with_parents(self, buckets: Iterable[Bucket]) -> list[Bucket]:
        """Counts by category with the parents added, which contain their children's products; highest first."""
        counts: dict[str, int] = {}
        for held in buckets:
            slug: str | None = str(held.key)
            seen: set[str] = set()
            while slug is not None and slug not in seen:
                seen.add(slug)
                counts[slug] = counts.get(slug, 0) + held.count
                slug = self.parents.get(slug)
        return [Bucket(slug, n) for slug, n in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]


@dataclass(frozen=True)
class View:
    """The attribute facets of the category in view: the attributes counted value by value, and for the numeric ones
    counted in bands their edges, each band from one edge to below the next."""

    others: frozenset[str]
    edges: Mapping[str, tuple[float, ...]]


_MOST_BANDS = 5


def edges_of(values: Mapping[float, int]) -> tuple[float, ...]:
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


# --- Attributes -----------------------------------------------------------------------------------------------------
#
# Categories disagree about their attributes: one has sizes "S" and "L", the next 42. As fields of the index they would
# clash (the second type is refused) and grow without bound. So all of them live in one keyword field as tokens,
# `name=s:black`, `name=b:true`, `name=n:<16 hex digits>`; the digits sort as the numbers do, so that a range of numbers
# is a range of tokens.


def sortable(number: float) -> str:
    """16 hex digits that sort as the numbers do: IEEE 754 bits with the sign bit flipped, all bits if negative."""
    bits: int = struct.unpack(">Q", struct.pack(">d", number + 0.0))[0]  # + 0.0 makes -0.0 the 0.0 it equals
    return f"{bits ^ (0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 1 << 63):016x}"


def _number(digits: str) -> float:
    bits = int(digits, 16)
    bits ^= 1 << 63 if bits >> 63 else 0xFFFF_FFFF_FFFF_FFFF
    number: float = struct.unpack(">d", struct.pack(">Q", bits))[0]
    return number


def token(name: str, value: AttrValue) -> str:
    """One attribute's value as a token."""
    if isinstance(value, bool):
        return f"{name}=b:{str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"{name}=n:{sortable(value)}"
    return f"{name}=s:{value[:_LONGEST_VALUE]}"


def read_token(text: str) -> tuple[str, AttrValue]:
    """The attribute and its value; whole numbers come back as int."""
    name, _, rest = text.partition("=")
    kind, _, value = rest.partition(":")
    if kind == "n":
        number = _number(value)
        return name, int(number) if number.is_integer() else number
    return name, value == "true" if kind == "b" else value


# Products share many values; `typed`, since 1, 1.0 and True are equal keys.
_token_of_many = lru_cache(maxsize=20_000, typed=True)(token)


def tokens(attrs: Mapping[str, Any]) -> Iterator[str]:
    """Every value that can be searched for: a list gives one token per entry; objects and null give none, nor does a
    name with `=` in it, which no filter can name."""
    for name, held in attrs.items():
        if "=" not in name:
            for value in held if isinstance(held, list) else (held,):
                if isinstance(value, (str, int, float)):
                    yield _token_of_many(name, value)


def readings(name: str, value: str) -> list[str]:
    """All tokens that a filter's text may mean; its reading as JSON last."""
    candidates: list[AttrValue] = [value]
    candidates += [float(value)] if _is_number(value) else []
    candidates += [value == "true"] if value in ("true", "false") else []
    return [token(name, candidate) for candidate in candidates]


def as_typed(value: AttrValue) -> str:
    """The text by which a filter names the value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def attr_filter(parameter: str, value: str) -> AttrFilter:
    """`attrs.color` = `black`, `attrs.ram_gb.gte` = `32` or `attrs.ram_gb.in` = `16..64` as a filter. Raises Invalid
    naming the parameter."""
    name = parameter.removeprefix("attrs.")
    name, dot, comparison = name.partition(".")
    if not 1 <= len(name) <= 64 or not _NO_NAME.isdisjoint(name) or (dot and comparison not in _COMPARISONS):
        raise invalid(parameter, f"must read attrs.<name>, or attrs.<name>.<{'|'.join(_COMPARISONS)}>")
    if not 1 <= len(value) <= _LONGEST_VALUE:
        raise invalid(parameter, f"must have 1 to {_LONGEST_VALUE} characters")
    if not comparison:
        return AttrFilter(name, values=(value,))
    if comparison == "in":
        low, dots, high = value.partition("..")
        if not (dots and _is_number(low) and _is_number(high)):
            raise invalid(parameter, "must be two numbers, <from>..<to>")
        return AttrFilter(name, bands=((float(low), float(high)),))
    if not _is_number(value):
        raise invalid(parameter, "must be a number")
    return AttrFilter(name, bounds=((comparison, float(value)),))


def any_of(filters: Iterable[AttrFilter]) -> tuple[AttrFilter, ...]:
    """One filter per attribute: several values, or bands, are alternatives; several bounds are one range, in which one
    value has to be."""
    merged: dict[str, AttrFilter] = {}
    for one in filters:
        held = merged.get(one.name, AttrFilter(one.name))
        values, bands, bounds = held.values + one.values, held.bands + one.bands, held.bounds + one.bounds
        merged[one.name] = AttrFilter(one.name, values, bands, bounds)
    return tuple(merged.values())


def attr_facets(counted: Iterable[tuple[str, int]], names: Collection[str] | None) -> dict[str, list[Bucket]]:
    """Facets from tokens with their counts, most frequent first: attributes and values in that order. All attributes in
    `names` and no others; if None, the most frequent ones. A text that reads as a number or boolean is merged with that
    value, since a filter for one finds both."""
    facets: dict[str, dict[str, Bucket]] = {}
    for text, count in counted:
        name, value = read_token(text)
        if name in names if names is not None else name in facets or len(facets) < _FACET_NAMES:
            values, typed = facets.setdefault(name, {}), as_typed(value)
            if held := values.get(typed):
                values[typed] = Bucket(held.key, held.count + count)
            elif len(values) < _FACET_VALUES:
                values[typed] = Bucket(value, count)
    return {name: sorted(values.values(), key=lambda one: -one.count) for name, values in facets.items()}


def choices_of(product: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What can be bought of a product: its variants, each with the product's attributes where it has none of its own;
    or, without variants, the product."""
    attrs, variants = product["attrs"], product["variants"]
    return [{**variant, "attrs": {**attrs, **variant["attrs"]}} for variant in variants] if variants else [product]


def tokens_of(choices: Iterable[Mapping[str, Any]]) -> list[str]:
    """The distinct tokens of all of these, sorted."""
    return sorted({text for choice in choices for text in tokens(choice["attrs"])})


# --- Documents ------------------------------------------------------------------------------------------------------


def document(product: Mapping[str, Any]) -> Json | None:
    """The whole search document of a catalog product; None for a draft, which must not be found. It holds nothing that
    no search queries or returns, since each field means a write to the index whenever it changes; so there is no exact
    stock in it.

    A product to be published in the future is indexed: queries compare the date with the current time.
    """
    published: datetime | None = product["publishedAt"]
    if published is None:
        return None
    name, brand = product["name"], product["brand"] or ""
    choices = choices_of(product)
    in_stock = [choice for choice in choices if choice["available"] > 0]
    attrs = tokens_of(choices)
    everything = (product, *product["variants"])
    named, by = words.kept(name), fold(brand)
    if name.lower().startswith(brand.lower()):
        shown = named
    else:  # a brand without a digit adds no measure
        shown = words.kept(f"{brand} {name}") if has_digit(by) else f"{by} {named}"
    about = (*product["tags"], product["category"].replace("-", " "), *words.pairs(fold(name)))
    more = [*map(words.kept_word, about)]
    for choice in everything:
        more += (*words.of_sku(choice["sku"]), *map(words.kept_word, words.of_attrs(choice["attrs"])))
    kept: Json = {
        "id": product["_id"],
        "sku": product["sku"],
        "skus": sorted({choice["sku"].lower() for choice in everything}),
        "name": name,
        "slug": product["slug"],
        "category": product["category"],
        "brand": product["brand"],
        "description": product["description"],
        "words": {
            "name": named,
            "brand": by,
            "more": " ".join(dict.fromkeys(more)),
            "description": words.kept(product["description"]),
        },
        "suggest": shown,
        "begun": sorted(words.beginnings(shown)),
        "priceCents": product["priceCents"],
        "rating": product["ratings"]["avg"],
        "attrs": attrs,
        "attrsInStock": attrs if len(in_stock) == len(choices) else tokens_of(in_stock),
        "image": primary_image(product),
        "inStock": product["available"] > 0,
        "publishedAt": published.isoformat(),
    }
    # The comparison between index and catalog sums these over many documents at once.
    kept |= {"bucket": bucket(product["_id"]), "fingerprint": fingerprint(orjson.dumps(kept))}
    return kept
