"""What leads from one product to another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Period = Literal["day", "week", "month", "year", "all"]
PERIODS: tuple[Period, ...] = ("day", "week", "month", "year", "all")
Reason = Literal["bought-together", "alike"]

# So many of a category are kept; more than any page shows, since some may not be public any more.
KEPT = 200


@dataclass(frozen=True)
class Sums:
    """Units of a SKU by period."""

    sku: str
    category: str
    units: Mapping[Period, int]


@dataclass(frozen=True)
class Bestseller:
    """A product and how many pieces of it, of all its variants, sold in a period."""

    period: Period
    product_id: str
    category: str
    units: int


@dataclass(frozen=True)
class Related:
    """A product's document and why it is shown beside another."""

    product: Json
    reason: Reason


def best(sums: Iterable[Sums], product_ids: Mapping[str, str]) -> list[Bestseller]:
    """The products that sold best of each category and period; SKUs that no product has are left out. A product counts
    in one category, that of its SKU which sold best: one that it had before may still be of another."""
    units: dict[tuple[Period, str], int] = {}
    leading: dict[tuple[Period, str], tuple[int, str]] = {}
    for line in sums:
        product_id = product_ids.get(line.sku)
        for period in PERIODS if product_id is not None else ():
            at, sold = (period, product_id or ""), line.units[period]
            units[at] = units.get(at, 0) + sold
            leading[at] = max(leading.get(at, (0, "")), (sold, line.category))
    ranked: dict[tuple[Period, str], list[Bestseller]] = {}
    for (period, product_id), sold in sorted(units.items(), key=lambda item: (-item[1], item[0])):
        category = leading[period, product_id][1]
        shelf = ranked.setdefault((period, category), [])
        if sold and len(shelf) < KEPT:
            shelf.append(Bestseller(period, product_id, category, sold))
    return [bestseller for shelf in ranked.values() for bestseller in shelf]


def in_turn(lists: Iterable[list[str]]) -> list[str]:
    """The first of each, then the second of each, none twice.

    >>> in_turn([["a", "b"], ["c", "a", "d"]])
    ['a', 'c', 'b', 'd']
    """
    found: dict[str, None] = {}
    held = list(lists)
    for place in range(max(map(len, held), default=0)):
        found |= dict.fromkeys(each[place] for each in held if place < len(each))
    return list(found)
