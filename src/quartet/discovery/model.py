"""Recommendations as values."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

Json = dict[str, Any]
Period = Literal["day", "week", "month", "year", "all"]
Reason = Literal["bought-together", "alike"]

# Bestsellers stored per category; more than a page shows, since some may have been unpublished.
MOST_STORED = 200


@dataclass(frozen=True)
class Related:
    """A product's document, and why it is recommended."""

    product: Json
    reason: Reason


def round_robin(lists: Iterable[list[str]]) -> list[str]:
    """Round robin: the first of each list, then the second of each, without duplicates.

    >>> round_robin([["a", "b"], ["c", "a", "d"]])
    ['a', 'c', 'b', 'd']
    """
    return list(dict.fromkeys(one for place in zip_longest(*lists) for one in place if one is not None))
