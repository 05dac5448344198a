"""What is asked of search and what it answers; how a product becomes a search document."""

import html
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from quartet.kernel.errors import invalid

Json = dict[str, Any]
Sort = Literal["relevance", "price", "-price", "-rating", "-newest"]
AttrValue = str | float | bool

# Past this many hits an engine has to keep and sort every one before them: refine the search instead.
DEEPEST = 10_000
# A query's cost grows with its words, each of which may be misspelt in four fields; people type three.
MOST_WORDS = 16
_WORD = re.compile(r"\w+")
_LONGEST_VALUE = 256
_COMPARISONS = ("gte", "lte", "gt", "lt")
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,12})?")
_FACET_NAMES = 20
_FACET_VALUES = 20


@dataclass(frozen=True)
class Wanted:
    """A search as a shopper asks it; prices in minor units, `q` is text and nothing but text."""

    q: str = ""
    category: tuple[str, ...] = ()
    brand: tuple[str, ...] = ()
    min_price: int | None = None
    max_price: int | None = None
    in_stock: bool | None = None
    attrs: tuple["AttrFilter", ...] = ()
    sort: Sort = "relevance"
    page: int = 1
    size: int = 20


@dataclass(frozen=True)
class AttrFilter:
    """One attribute's condition as a filter clause of the engine."""

    clause: Json


@dataclass(frozen=True)
class Bucket:
    """A value of a facet and how many of the found products have it."""

    key: AttrValue
    count: int


@dataclass(frozen=True)
class Band:
    """A band of prices in minor units, `from` included, `to` not; None is open."""

    key: str
    from_cents: int | None
    to_cents: int | None
    count: int


@dataclass(frozen=True)
class Found:
    """One page of what was found."""

    total: int
    hits: list[Json]
    category: list[Bucket] = field(default_factory=list)
    brand: list[Bucket] = field(default_factory=list)
    price: list[Band] = field(default_factory=list)
    attrs: dict[str, list[Bucket]] = field(default_factory=dict)
    did_you_mean: list[str] = field(default_factory=list)
    took_ms: int = 0


def first_words(text: str) -> str:
    """As much of the text as a search heeds."""
    ends = [word.end() for word in _WORD.finditer(text)]
    return " ".join(text[: ends[MOST_WORDS - 1]].split()) if len(ends) >= MOST_WORDS else " ".join(text.split())


def count_words(text: str) -> int:
    """Words as an engine's analyzer parts them: a hyphen parts two."""
    return len(_WORD.findall(text))


# --- Attributes -----------------------------------------------------------------------------------------------------
#
# Categories disagree about their attributes: one has sizes "S" and "L", the next 42. As fields of the index they would
# clash (the second type is refused) and grow without bound. So all of them live in one keyword field as tokens,
# `name=s:black`, `name=b:true`, `name=n:<16 hex digits>`; the digits sort as the numbers do, so that a range of numbers
# is a range of tokens.


def sortable(number: float) -> str:
    """16 hex digits in the numbers' own order: IEEE 754 bits, the sign flipped, all of them where negative."""
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
    if isinstance(value, int | float):
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


def tokens(attrs: Mapping[str, Any]) -> Iterator[str]:
    """Every value that can be searched for: lists give one token an entry; objects and null none, nor does a name with
    `=` in it, which no query string could ask for."""
    for name, held in attrs.items():
        if "=" not in name:
            for value in held if isinstance(held, list) else [held]:
                if isinstance(value, str | int | float):
                    yield token(name, value)


def attr_filter(parameter: str, value: str) -> AttrFilter:
    """`attrs.color` = `black` or `attrs.ram_gb.gte` = `32` as a filter. Raises Invalid naming the parameter."""
    name = parameter.removeprefix("attrs.")
    name, dot, comparison = name.partition(".")
    if not 1 <= len(name) <= 64 or "=" in name or (dot and comparison not in _COMPARISONS):
        raise invalid(parameter, f"must read attrs.<name>, or attrs.<name>.<{'|'.join(_COMPARISONS)}>")
    if not 1 <= len(value) <= _LONGEST_VALUE:
        raise invalid(parameter, f"must have 1 to {_LONGEST_VALUE} characters")
    is_number = _NUMBER.fullmatch(value) is not None
    if not comparison:
        candidates: list[AttrValue] = [value]
        candidates += [float(value)] if is_number else []
        candidates += [value == "true"] if value in ("true", "false") else []
        return AttrFilter({"terms": {"attrs": [token(name, candidate) for candidate in candidates]}})
    if not is_number:
        raise invalid(parameter, "must be a number")
    # `n:g` is past every number of this attribute, since hex digits end at f.
    bounds = {"gte" if comparison.startswith("l") else "lt": f"{name}=n:" + ("" if comparison.startswith("l") else "g")}
    return AttrFilter({"range": {"attrs": {**bounds, comparison: token(name, float(value))}}})


def attr_facets(counted: Iterable[tuple[str, int]]) -> dict[str, list[Bucket]]:
    """Tokens with their counts, most frequent first, as facets: attributes and values in that order."""
    facets: dict[str, list[Bucket]] = {}
    for text, count in counted:
        name, value = read_token(text)
        if name in facets or len(facets) < _FACET_NAMES:
            values = facets.setdefault(name, [])
            if len(values) < _FACET_VALUES:
                values.append(Bucket(value, count))
    return facets


# --- Documents ------------------------------------------------------------------------------------------------------


def document(product: Mapping[str, Any]) -> Json | None:
    """The catalog's document as search keeps it, whole; None for a draft, which nobody may find.

    A product whose day of publication is still to come is kept: queries compare it with their own now.
    """
    published: datetime | None = product["publishedAt"]
    if published is None:
        return None
    name, brand = product["name"], product["brand"] or ""
    choices = (product, *product["variants"])
    return {
        "id": product["_id"],
        "version": product["version"],
        "sku": product["sku"],
        "skus": sorted({choice["sku"].lower() for choice in choices}),
        "name": name,
        "suggest": name if name.lower().startswith(brand.lower()) else f"{brand} {name}",
        "slug": product["slug"],
        "category": product["category"],
        "brand": product["brand"],
        "description": product["description"],
        "tags": product["tags"],
        "priceCents": product["priceCents"],
        "rating": product["ratings"]["avg"],
        "attrs": sorted({text for choice in choices for text in tokens(choice["attrs"])}),
        "image": _image(product["images"]),
        "inStock": product["available"] > 0,
        "available": product["available"],
        "publishedAt": published.isoformat(),
    }


def _image(images: Sequence[Mapping[str, Any]]) -> str | None:
    return next((image["url"] for image in images if image["isPrimary"]), images[0]["url"] if images else None)


def marked(fragment: str) -> str:
    """A highlighted fragment as safe HTML. The engine marks with two private-use characters instead of tags, so that
    what is markup and what is the product's own text can be told apart."""
    return html.escape(fragment).replace("\ue000", "<em>").replace("\ue001", "</em>")
