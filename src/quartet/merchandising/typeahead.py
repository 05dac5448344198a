"""Typeahead suggestions from memory: categories and past queries that begin as typed."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import nlargest

from quartet.merchandising.model import normalised

# The least length of a word that may have one typo in typeahead, in products' names too.
FEWEST_LETTERS = 4
LONGEST_TYPED = 32
# The most entries with the typed prefix that are ranked: for a single common letter there may be more.
MOST_WEIGHED = 2_000
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class TypeaheadIndex:
    """Texts in alphabetical order, each with a weight and a value."""

    keys: tuple[str, ...] = ()
    weights: tuple[int, ...] = ()
    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[tuple[str, int, str]]) -> "TypeaheadIndex":
        """From entries (normalised text, weight, value)."""
        ordered = sorted(set(entries))
        return cls(*zip(*ordered, strict=True)) if ordered else cls()

    def starting_with(self, typed: str, limit: int) -> list[str]:
        """Values whose text begins as typed, highest weight first; if there are none, those with one typo."""
        text = normalised(typed)[:LONGEST_TYPED]
        if not text:
            return []
        places = set(self._places(text))
        if not places and len(text) >= FEWEST_LETTERS:
            places = {place for near in self._spellings(text) for place in self._places(near)}
        best = nlargest(limit * 2, places, key=lambda place: (self.weights[place], -place))
        return list(dict.fromkeys(self.values[place] for place in best))[:limit]

    def _places(self, text: str) -> range:
        start = bisect_left(self.keys, text)
        return range(start, self._end(text, start, min(len(self.keys), start + MOST_WEIGHED)))

    def _end(self, text: str, start: int, end: int) -> int:
        """The end of the entries with this prefix, which begin at `start`."""
        return bisect_left(self.keys, text + _LAST, start, end)

    def _spellings(self, text: str) -> Iterator[str]:
        """All spellings with one letter left out, added, changed or swapped with the next. Tried at a position only if
        some text begins with the letters before it, and only with letters that follow there."""
        start, end = 0, len(self.keys)
        for place in range(len(text)):
            before, rest = text[:place], text[place:]
            start = bisect_left(self.keys, before, start, end)
            end = self._end(before, start, end)
            if start == end:
                return
            yield before + rest[1:]
            if len(rest) > 1:
                yield before + rest[1] + rest[0] + rest[2:]
            for letter in self._letters(place, start, end):
                yield before + letter + rest
                yield before + letter + rest[1:]

    def _letters(self, place: int, start: int, end: int) -> Iterator[str]:
        """The letters at `place` in the entries from `start` to `end`, which have the same letters before it."""
        while start < end:
            key = self.keys[start]
            if len(key) > place:
                yield key[place]
            start = self._end(key[: place + 1], start, end) if len(key) > place else start + 1


def of_categories(names: Mapping[str, str]) -> TypeaheadIndex:
    """Categories, found by their name from each of its words on; `names` by slug. Values are slugs."""
    entries = []
    for slug, name in names.items():
        words = normalised(name).split()
        entries += [(" ".join(words[n:]), 2 if n == 0 else 1, slug) for n in range(len(words))]
    return TypeaheadIndex.of(entries)


def of_queries(searches: Iterable[tuple[str, int]]) -> TypeaheadIndex:
    """Past queries, (spelling shown, number) each, most frequent first. Values are the spellings shown."""
    known: dict[str, tuple[int, str]] = {}
    for shown, count in searches:
        before, first = known.get(normalised(shown), (0, shown))
        known[normalised(shown)] = before + count, first
    return TypeaheadIndex.of((query, count, shown) for query, (count, shown) in known.items())
