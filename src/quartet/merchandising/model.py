"""What is remembered of searches and said about queries, and in which words."""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Literal, NamedTuple
from uuid import UUID

from quartet.kernel.texts import fold, measured, seen

# The header that an answer of search carries, and that a product's page may be asked for with.
SEARCH_ID = "X-Search-Id"
LONGEST_QUERY = 100
MASK = "…"
# An address of e-mail, or a long number; article numbers are as long.
_OWN = re.compile(r"\S*@\S*|\+?\d(?:[ ./()-]*\d){6,}")

ReportOrder = Literal["searches", "withoutResults", "opened", "revenue"]


class Searched(NamedTuple):
    """A search as it is kept. `spelt`: how the query was typed, where that is another text; `exact`: what was found has
    all of its words as they are."""

    id: UUID
    at: datetime
    query: str
    spelt: str | None
    found: int
    exact: bool


class Opened(NamedTuple):
    """A product's page that was opened from a search."""

    search_id: UUID
    product_id: str
    at: datetime


@dataclass(frozen=True)
class QueryLine:
    """What became of a query, or of all (`query` None). `opened` counts searches after which a product's page was
    opened; units and cents are of one currency, as sold, whatever was given back later."""

    query: str | None
    searches: int
    without_results: int
    opened: int
    units: int
    gross_cents: int

    @property
    def click_through(self) -> float | None:
        """Opened ÷ searches, to four digits; None where nobody searched."""
        return round(self.opened / self.searches, 4) if self.searches else None


@dataclass(frozen=True)
class SearchReport:
    """`totals` is over all queries, also those that `items` has no room for."""

    items: tuple[QueryLine, ...]
    totals: QueryLine


@dataclass(frozen=True)
class Synonyms:
    """Other words for words. Without `means` each of `words` stands for every other; with it they also find what it
    says, and not the other way round. Texts are normalised."""

    id: UUID
    words: tuple[str, ...]
    means: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True)
class Rule:
    """What stands first for a query and what is kept out of it: SKUs as given, ids of the products they name; whether
    the query may be offered to others."""

    id: UUID
    query: str
    pinned: tuple[str, ...]
    hidden: tuple[str, ...]
    pinned_ids: tuple[str, ...]
    hidden_ids: tuple[str, ...]
    offered: bool
    updated_at: datetime


def products_of(skus: Iterable[str], ids: Mapping[str, str]) -> tuple[str, ...]:
    """The products that these SKUs name, each once."""
    return tuple(dict.fromkeys(ids[sku] for sku in skus if sku in ids))


@dataclass(frozen=True)
class Ranking:
    """How far what sells for a query rises: its score by a share of up to `most_boost`, once it has sold `least_units`
    within so many days."""

    most_boost: float
    least_units: int
    days: int


@dataclass(frozen=True)
class Ruling:
    """What is said about one query; ids are products'. `boosts` multiply a product's score."""

    alternatives: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    boosts: Mapping[str, float] = field(default_factory=dict)


_MARKS = re.escape("".join(set(string.punctuation) - set("_.,'"))) + "¡§«·»¿\u2000-\u206f\u3000-\u303f"
# What is within a word, or a number, is a part of it.
_PARTING = re.compile(rf"[{_MARKS}]|(?<!\d)[.,]|[.,](?!\d)|(?<!\w)'|'(?!\w)")


@lru_cache(10_000)  # as many as are offered, which each process reads again and again
def normalised(text: str) -> str:
    """A query in the words by which it is known, as a search reads it: case, spaces, accents, punctuation and the
    spelling of measures make no other.

    >>> normalised("  Red   MUG! "), normalised("Piqué-Polo"), normalised('14" laptop, (32 GB)')
    ('red mug', 'pique polo', '14inch laptop 32gb')
    """
    return _tidy(fold(text))


def _tidy(text: str) -> str:
    # What punctuation parted may be a measure too.
    return measured(" ".join(_PARTING.sub(" ", measured(text)).split()))[:LONGEST_QUERY].rstrip(" .,'")


def phrase(words: Sequence[str]) -> tuple[str, ...]:
    """Words by which what staff say is looked up: a plural's last letter makes no other.

    >>> phrase(["glass", "sofas", "men's"])
    ('glass', 'sofa', 'men')
    """
    return tuple(
        w[:-1].removesuffix("'") if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words
    )


@lru_cache(1_000)
def told(text: str, exact: bool) -> tuple[str, str | None]:
    """A query as the log keeps it, and as it was typed where that is another text: an address of e-mail, or a long
    number, may be somebody's own. Not one that found something by itself: of a query with other words nobody can tell
    which of them did.

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
    """A search's id as a header has it; None for what is none, since a log is no reason to refuse anybody."""
    if text is None or len(text) > 36:
        return None
    try:
        return UUID(text)
    except ValueError:
        return None
