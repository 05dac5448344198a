"""What is offered to whoever types, from memory: categories and past queries that begin as typed."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nlargest

from quartet.merchandising.model import normalised

# As with products: from so many letters on one may be wrong, though not the first.
FEWEST_LETTERS = 4
LONGEST_TYPED = 32
# Of what begins with one letter only so many are weighed: the list is short, but the most common letter's part is not.
MOST_WEIGHED = 2_000


@dataclass(frozen=True)
class Offers:
    """Texts with what they weigh, in the order of the alphabet; each leads to a value."""

    keys: tuple[str, ...] = ()
    weights: tuple[int, ...] = ()
    values: tuple[str, ...] = ()
    letters: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, entries: Iterable[tuple[str, int, str]]) -> "Offers":
        """Of (text as it is typed, weight, value)."""
        ordered = sorted(set(entries))
        keys = tuple(key for key, _, _ in ordered)
        return cls(
            keys,
            tuple(w for _, w, _ in ordered),
            tuple(v for _, _, v in ordered),
            frozenset(c for k in keys for c in k),
        )

    def begun(self, typed: str, limit: int) -> list[str]:
        """Values whose text begins as typed, the weightiest first; where there is none, those that nearly do."""
        text = normalised(typed)[:LONGEST_TYPED]
        if not text or not self.keys:
            return []
        places = self._places(text)
        if not places and len(text) >= FEWEST_LETTERS:
            places = {place for near in spellings(text, self.letters) for place in self._places(near)}
        best = nlargest(limit * 2, places, key=lambda place: (self.weights[place], -place))
        return list(dict.fromkeys(self.values[place] for place in best))[:limit]

    def _places(self, text: str) -> set[int]:
        start = bisect_left(self.keys, text)
        end = bisect_left(self.keys, text + "\U0010ffff", start)
        return set(range(start, min(end, start + MOST_WEIGHED)))


def spellings(text: str, letters: Iterable[str]) -> Iterator[str]:
    """All that one letter left out, put in, changed, or swapped with the next makes of it, its first letter apart.

    >>> sorted(spellings("ab", "c"))
    ['a', 'abc', 'ac', 'acb']
    """
    for place in range(1, len(text) + 1):
        before, rest = text[:place], text[place:]
        for letter in letters:
            yield before + letter + rest
            if rest:
                yield before + letter + rest[1:]
        if rest:
            yield before + rest[1:]
        if len(rest) > 1:
            yield before + rest[1] + rest[0] + rest[2:]


def of_categories(names: Mapping[str, str]) -> Offers:
    """Categories by each word of their names on; `names` by slug. Values are slugs."""
    entries = []
    for slug, name in names.items():
        words = normalised(name).split()
        entries += [(" ".join(words[n:]), 2 if n == 0 else 1, slug) for n in range(len(words))]
    return Offers.of(entries)


def of_queries(searches: Iterable[tuple[str, int]]) -> Offers:
    """Past queries, the most frequent first. Values are the queries."""
    return Offers.of((query, count, query) for query, count in searches)
