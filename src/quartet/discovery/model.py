"""What leads from one product to another."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

Json = dict[str, Any]
Period = Literal["day", "week", "month", "year", "all"]
Reason = Literal["bought-together", "alike"]

# So many of a category are kept; more than any page shows, since some may not be public any more.
KEPT = 200


@dataclass(frozen=True)
class Related:
    """A product's document and why it is shown beside another."""

    product: Json
    reason: Reason


def in_turn(lists: Iterable[list[str]]) -> list[str]:
    """The first of each, then the second of each, none twice.

    >>> in_turn([["a", "b"], ["c", "a", "d"]])
    ['a', 'c', 'b', 'd']
    """
    return list(dict.fromkeys(one for place in zip_longest(*lists) for one in place if one is not None))
