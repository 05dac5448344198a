"""Search requests and results as values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from quartet.catalog import and_below

Json = dict[str, Any]
Sort = Literal["relevance", "price", "-price", "-rating", "-newest"]
Kind = Literal["pinned", "sells", "matches"]
AttrValue = str | float | bool

# For a page, an engine keeps and sorts all hits before it; past this many the shopper has to refine the search.
DEEPEST = 10_000


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
class CategoryTree:
    """The shop's categories by slug: each one's parent, its numeric attributes, and its other ones; and the slugs by
    normalised name."""

    parents: Mapping[str, str | None] = field(default_factory=dict)
    numeric_attrs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    other_attrs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    by_name: Mapping[str, Sequence[str]] = field(default_factory=dict)

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
class CategoryView:
    """The attribute facets of the category in view: the attributes counted value by value, and for the numeric ones
    counted in bands their edges, each band from one edge to below the next. `partial`: the edges are those of a part of
    the products."""

    other_attrs: frozenset[str]
    edges: Mapping[str, tuple[float, ...]]
    partial: bool = False
