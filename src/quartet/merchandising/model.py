"""The search log and the search settings as values, and the normalisation of queries."""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Literal, NamedTuple
from uuid import UUID

from quartet.kernel.ids import new_id
from quartet.kernel.texts import fold, measured, seen

# The header of a search's response, which a client may send when it requests a product's page.
SEARCH_ID = "X-Search-Id"
LONGEST_QUERY = 100
MASK = "…"
# Possibly personal: an e-mail address or a long number (though article numbers are as long).
_OWN = re.compile(r"\S*@\S*|\+?\d(?:[ ./()-]*\d){6,}")

ReportOrder = Literal["searches", "withoutResults", "opened", "revenue"]


# The last bits of a search's id number the searches of one entry in the log.
MOST_ALIKE = 0xFFFF


class Answered(NamedTuple):
    """What the log keeps of a search. `spelt`: the query as typed, if that differs; `exact`: the hits have all of its
    words as typed."""

    query: str
    spelt: str | None
    found: int
    exact: bool


class Searched:
    """An entry of the log: `times` searches of one moment that differ in nothing but their ids."""

    __slots__ = ("_prefix", "answered", "at", "id", "times")

    def __init__(self, answered: Answered, at: datetime) -> None:
        self.id, self.answered, self.at, self.times = entry_of(new_id()), answered, at, 0
        self._prefix = str(self.id)[:-4]

    def add(self) -> str:
        """Counts one more, at most MOST_ALIKE; returns its id."""
        self.times += 1
        return f"{self._prefix}{self.times:04x}"


def entry_of(search_id: UUID) -> UUID:
    """The id of the entry that counts this search."""
    return UUID(int=search_id.int & ~MOST_ALIKE)


class Opened(NamedTuple):
    """A product's page that was opened from a search."""

    search_id: UUID
    product_id: str
    at: datetime


@dataclass(frozen=True)
class QueryLine:
    """A query's figures, or those of all queries (`query` None). `opened` counts searches after which a product's page
    was opened; units and cents are sales in one currency, refunds not deducted."""

    query: str | None
    searches: int
    without_results: int
    opened: int
    units: int
    gross_cents: int

    @property
    def click_through(self) -> float | None:
        """Opened ÷ searches, to four decimals; None without searches."""
        return round(self.opened / self.searches, 4) if self.searches else None


@dataclass(frozen=True)
class SearchReport:
    """`totals` covers all queries, including those past the limit."""

    items: tuple[QueryLine, ...]
    totals: QueryLine


@dataclass(frozen=True)
class Synonyms:
    """Synonyms. Without `means` the `words` are synonyms of each other; with it each of them also finds `means`, but
    not the other way round. Texts are normalised."""

    id: UUID
    words: tuple[str, ...]
    means: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True)
class Rule:
    """A rule for a query: products pinned to the top and hidden ones, as the SKUs given and as the ids of the products
    that these name; `offered`: whether the query may be suggested to others."""

    id: UUID
    query: str
    pinned: tuple[str, ...]
    hidden: tuple[str, ...]
    pinned_ids: tuple[str, ...]
    hidden_ids: tuple[str, ...]
    offered: bool
    updated_at: datetime


def products_of(skus: Iterable[str], ids: Mapping[str, str]) -> tuple[str, ...]:
    """The distinct products that these SKUs name."""
    return tuple(dict.fromkeys(ids[sku] for sku in skus if sku in ids))


@dataclass(frozen=True)
class Ranking:
    """How sales boost a product for a query: its score is multiplied by up to 1 + `most_boost`, if it has sold
    `least_units` within `days`."""

    most_boost: float
    least_units: int
    days: int


@dataclass(frozen=True)
class Ruling:
    """The settings for one query: `alternatives` by synonyms; pinned and hidden product ids; `boosts` multiply a
    product's score."""

    alternatives: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    boosts: Mapping[str, float] = field(default_factory=dict)


_MARKS = re.escape("".join(set(string.punctuation) - set("_.,'"))) + "¡§«·»¿\u2000-\u206f\u3000-\u303f"
# Punctuation that separates words; within a word (apostrophe) or a number (point, comma) it does not.
_PARTING = re.compile(rf"[{_MARKS}]|(?<!\d)[.,]|[.,](?!\d)|(?<!\w)'|'(?!\w)")


@lru_cache(10_000)  # enough for all suggested queries, which each process normalises again and again
def normalised(text: str) -> str:
    """The normal form of a query, as a search reads it: case, spaces, accents, punctuation and the spelling of measures
    make no difference.

    >>> normalised("  Red   MUG! "), normalised("Piqué-Polo"), normalised('14" laptop, (32 GB)')
    ('red mug', 'pique polo', '14inch laptop 32gb')
    """
    return _tidy(fold(text))


def _tidy(text: str) -> str:
    # Measures again, since one may appear only once punctuation is removed.
    return measured(" ".join(_PARTING.sub(" ", measured(text)).split()))[:LONGEST_QUERY].rstrip(" .,'")


def phrase(words: Sequence[str]) -> tuple[str, ...]:
    """The key under which synonyms and rules are looked up: plurals lose their `s`.

    >>> phrase(["glass", "sofas", "men's"])
    ('glass', 'sofa', 'men')
    """
    return tuple(
        w[:-1].removesuffix("'") if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words
    )


@lru_cache(1_000)
def told(text: str, exact: bool) -> tuple[str, str | None]:
    """A query as logged, and as typed if that differs. E-mail addresses and long numbers are masked, since they may be
    personal; except a query that is a single word or number and had exact hits, such as an article number. With several
    words nobody can tell which of them matched.

    >>> told("Café, for ann@example.com", True), told("4006381333931", True), told("4006381333931", False)
    (('cafe for …', 'café for …'), ('4006381333931', None), ('…', None))
    >>> told("4929\N{SOFT HYPHEN}1234\N{SOFT HYPHEN}5678", False)
    ('…', None)
    """
    text = seen(text)  # else a soft hyphen would part a long number only until it is kept
    parts = [text] if exact and text.strip().isalnum() else _OWN.split(text)
    query, spelt = _masked(map(normalised, parts)), _masked(_tidy(part.casefold()) for part in parts)
    return query, spelt if spelt != query else None


def _masked(parts: Iterable[str]) -> str:
    return f" {MASK} ".join(parts).strip()[:LONGEST_QUERY].rstrip()


def read_id(text: str | None) -> UUID | None:
    """The search id from a header; None if it is malformed: no request is refused for the sake of a log."""
    if text is None or len(text) > 36:
        return None
    try:
        return UUID(text)
    except ValueError:
        return None
