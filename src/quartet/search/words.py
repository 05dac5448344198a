"""Text processing: accents, numbers with units, the parts of article numbers; highlighting and other spellings.

The engine's analyzers tokenize and stem. Everything before that happens here, for documents and queries alike: the
character filters that could fold and join are plugins, which not every engine has.
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, reduce
from heapq import merge
from itertools import chain, pairwise, takewhile
from operator import or_
from typing import Any

from quartet.kernel.texts import MEASURES, UNITS, UNSEEN, fold, has_digit, joined, measure

# The version of how words are read. Raise it with every change, together with a migration (docs/extending.md), so that
# the index is rebuilt.
READING = 1
# A query's cost grows with its words, each of which may be fuzzy; people type three.
MOST_WORDS = 16
# Only in queries of at most so many words two neighbours are also tried as one word.
MOST_PARTED = 4
_WORD = re.compile(r"\w+")
# In a text that is shown it may have invisible characters within it.
_SHOWN_WORD = re.compile(rf"\w+(?:[{UNSEEN}]+\w+)*")
# Characters that an engine's analyzer takes for a word each: ideographs, kana, symbols and emoji.
_SIGNS = "\u2190-\u2bff\u2e80-\uabff\uf900-\ufaff\U00010000-\U0010ffff"
_PART = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")
# Where every engine's analyzer splits words; for a dot, an apostrophe, or a comma within a number, that differs.
_BREAK = re.compile(r"(?:[\s\"()\[\]{}<>/\\|+*&@#!?^=%$~`–—•-]|[,;](?!\d)|(?<!\d)[,;])+")
LONGEST_WORD = 64
LONGEST_BEGINNING = 12


def measures_of(whole: str, part: str | None, unit: str) -> Iterator[str]:
    """All the forms under which a measure is found: a search for 15 inches means 15.6 as well."""
    yield (exact := measure(whole, part, unit))
    if unit == "inch" and "." in exact:
        yield measure(whole, None, unit)


def index_text(text: str) -> str:
    """A text for the index: as written, without accents, and its measures appended as one word each."""
    folded = fold(text)
    if not has_digit(folded):  # most texts: searching for measures costs more than all else done for a product
        return folded
    measures = [one for found in MEASURES.finditer(folded) for one in measures_of(found[1], found[2], UNITS[found[3]])]
    if not measures:
        return folded
    words = set(folded.split())
    return " ".join([folded, *(one for one in dict.fromkeys(measures) if one not in words)])


def index_text_cached(text: str) -> str:
    """The same, cached, for texts that many products share: a tag, a category, an attribute's value."""
    return _index_text_short(text) if len(text) <= LONGEST_WORD else index_text(text)


_index_text_short = lru_cache(maxsize=20_000)(index_text)


def normalised_query(text: str) -> str:
    """The normalised query, cut to the words that a search uses: the same for all ways to type the same words."""
    text = joined(text)
    ends = [word.end() for word in _PART.finditer(text)]
    text = text[: ends[MOST_WORDS - 1]] if len(ends) >= MOST_WORDS else text
    return " ".join(word[:LONGEST_WORD] for word in text.split())


def article_number(text: str) -> str:
    """The text as an article number, if `normalised_query` makes something else of it: `TEE-001-M` does not mean 001
    metres. Else ""."""
    number = text.strip().lower()[:LONGEST_WORD]
    plain = number.isascii() and has_digit(number) and " " not in number
    return number if plain and number != normalised_query(text) else ""


def word_prefixes(text: str) -> set[str]:
    """The prefixes of the text's words, 3 to 12 letters long, to match a word with a typo that is still being typed."""
    return set().union(*map(_prefixes, _WORD.findall(text)))


def split_last_word(text: str) -> tuple[str, str]:
    """The completed words, and the last word, which is still being typed; a hyphen separates them as a space does."""
    found = list(_WORD.finditer(text))
    if not found:
        return "", ""
    return (text[: found[-1].start()].strip() if len(found) > 1 else ""), found[-1][0]


@lru_cache(maxsize=10_000)  # a catalog's names share their words
def _prefixes(word: str) -> tuple[str, ...]:
    return tuple(word[:length] for length in range(3, min(len(word), LONGEST_BEGINNING) + 1))


def count(text: str) -> int:
    """The number of words that an engine's analyzer makes: a hyphen separates two, an ideograph is one."""
    return len(_PART.findall(text))


_PLURAL = re.compile(r"(?:(?<=\w\w)ies|(?<=ss|ch|sh)es|(?<=x)es|(?<=\w\w[^\Wsui])s)$")
# Plurals whose singular means something else when alone: a glass is not for reading, short may be a sleeve.
_OWN = frozenset({
    "basics", "blues", "boxers", "briefs", "classics", "essentials", "flats", "glasses", "goods", "greens", "news",
    "reds", "shorts", "specials", "sweats", "tights", "trunks", "whites",
})  # fmt: skip
_IE = re.compile(r"(?<=\w\w)ie$")


def singulars(text: str) -> list[str]:
    """The text with its English plurals in the singular, if it has any. Both forms for `ies`, which may be the plural
    of `y` or `ie`: `accessories`, `hoodies`."""
    forms = (" ".join(_singular(word, ending) for word in text.split()) for ending in ("y", "ie"))
    return [form for form in dict.fromkeys(forms) if form != text]


def _singular(word: str, ies: str = "y") -> str:
    return _PLURAL.sub(lambda ending: ies if ending[0] == "ies" else "", word)


def name_of(text: str) -> str:
    """A normal form of a name: the same for `Bags & Purses` and `bag-purse`, for `Hoodies`, `hoodie` and `hoody`."""
    name = " ".join(_WORD.findall(normalised_query(text)))
    return name if name in _OWN else " ".join(_IE.sub("y", _singular(word)) for word in name.split())


def split_words(text: str) -> list[str]:
    """The single words, a measure being one; a single empty word if there are none."""
    return [word for word in _BREAK.split(text) if _PART.search(word)] or [""]


def pairs(text: str) -> Iterator[str]:
    """Every two neighbouring words joined: a `door mat` is a doormat."""
    return (one + other for one, other in pairwise(split_words(text)) if one.isalpha() and other.isalpha())


def with_pairs(text: str) -> Iterator[str]:
    """For every two neighbouring words, the text with them joined; none for a long text, which is specific enough."""
    parts = split_words(text)
    if len(parts) <= MOST_PARTED:
        for n, (one, other) in enumerate(pairwise(parts)):
            if one.isalpha() and other.isalpha():
                yield " ".join([*parts[:n], one + other, *parts[n + 2 :]])


def of_attrs(attrs: Mapping[str, Any]) -> Iterator[str]:
    """Words for the index from attributes: texts as they are, numbers whose name ends in a unit with the unit and the
    rest of the name (`ram_gb: 32` is `32gb ram`), and for true the attribute's name."""
    for name, held in attrs.items():
        about, _, last = name.rpartition("_")
        unit = UNITS.get(last) if about else None
        for value in held if isinstance(held, list) else [held]:
            if isinstance(value, str):
                yield index_text_cached(value)
            elif value is True:
                yield index_text_cached(name.replace("_", " "))
            elif unit and isinstance(value, (int, float)) and value is not False:
                whole, _, part = f"{value:.3f}".partition(".")
                yield from measures_of(whole, part, unit)
                yield index_text_cached(about.replace("_", " "))


_BORDER = re.compile(r"(?<=[a-z])(?=\d)|(?<=\d)(?=[a-z])|[^a-z0-9]+")


def of_sku(sku: str) -> Iterator[str]:
    """An article number's parts, and all of them joined: `LAPTOP-001` is `laptop 001 laptop001`."""
    parts = [part for part in _BORDER.split(fold(sku)) if part]
    return iter(dict.fromkeys([*parts, "".join(parts)]))


# --- Highlights and spellings ---------------------------------------------------------------------------------------

# In characters: the excerpt shown, and how much of a long text is read, for highlights and for spellings. Each of a
# hundred texts may have thousands of words, and each is compared with up to sixteen words of the query.
SHOWN = 150
MOST_READ = 2_000
SPELT_BY = 500
# Endings cut off to compare words. Only for highlights and spellings; what is found, the engine decides.
_ENDINGS = ("ies", "ing", "ern", "ed", "en", "er", "es", "e", "n", "s", "y")


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    ending = next((end for end in _ENDINGS if len(word) - len(end) >= 3 and word.endswith(end)), "")
    return word.removesuffix(ending)


@lru_cache(maxsize=50_000)
def _letters(word: str) -> int:
    """The set of its letters as bits; some share a bit."""
    return reduce(or_, (1 << ord(letter) % 64 for letter in word), 0)


def _seen_to_differ(one: str, other: str, most: int) -> bool:
    """Whether the edit distance is certainly above `most`: one word is too much longer, or has too many letters that
    the other lacks. That rules out most words, at a tenth of the cost of the distance."""
    if abs(len(one) - len(other)) > most:
        return True
    these, those = _letters(one), _letters(other)
    return (these & ~those).bit_count() > most or (those & ~these).bit_count() > most


def typos_allowed(word: str) -> int:
    """How many typos are allowed in a word: none in a number with its unit, which would be another number."""
    return 0 if len(word) < 3 or word[0].isdigit() else 1 if len(word) < 8 else 2


def distance(one: str, other: str, most: int) -> int:
    """The edit distance (letters added, left out, replaced or swapped with their neighbour), at most `most` + 1."""
    if _seen_to_differ(one, other, most):
        return most + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, last, row = row, before, [i]
        for j, b in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return row[-1]


class Marker:
    """Highlights a query's words in a text."""

    def __init__(self, query: str, *, loosely: bool) -> None:
        """`loosely`: words with typos, and the last one as a prefix, count as well."""
        self._words = _WORD.findall(query)
        self._stems = {_stem(word) for word in self._words}
        self._measures = {word for word in self._words if word[0].isdigit()}
        self._loosely = loosely
        self._allowed = {word: typos_allowed(word) for word in self._words}
        self._compared: dict[str, bool] = {}  # the texts of one answer share many words

    def _hit(self, word: str) -> bool:
        hit = self._compared.get(word)
        if hit is None:
            hit = self._compared[word] = self._compare(word)
        return hit

    def _compare(self, word: str) -> bool:
        folded = fold(word)
        if _stem(folded) in self._stems:
            return True
        if not self._loosely:
            return False
        near = any(distance(one, folded, most) <= most for one, most in self._allowed.items())
        return near or folded.startswith(self._words[-1])

    def whole(self, text: str) -> str | None:
        """The text as safe HTML with `<em>`; None if nothing matches."""
        spans = list(self._spans(text))
        return _marked(text, spans) if spans else None

    def part(self, text: str) -> str | None:
        """The same for an excerpt around the first match; only the beginning of a long text is read, and nothing after
        the excerpt."""
        text = cut_at_word(text, MOST_READ)
        spans = self._spans(text)
        if (first := next(spans, None)) is None:
            return None
        start = 0 if len(text) <= SHOWN else max(0, first[0] - SHOWN // 3)
        start = 0 if start == 0 else text.find(" ", start, first[0]) + 1 or first[0]
        end = min(len(text), start + SHOWN)
        end = end if end == len(text) else max(text.rfind(" ", start, end), first[1])
        shown = takewhile(lambda span: span[1] <= end, chain([first], spans))
        return _marked(text[start:end], [(a - start, b - start) for a, b in shown])

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        if self._measures:
            yield from self._with_measures(text)
        elif self._words:
            yield from (word.span() for word in _SHOWN_WORD.finditer(text) if self._hit(word[0]))

    def _with_measures(self, text: str) -> Iterator[tuple[int, int]]:
        """In the order of the text. A measure may be written as two words, or in another form than in the query."""
        folded = fold(text)
        found = MEASURES.finditer(folded) if len(folded) == len(text) else iter(())
        measures = [m.span() for m in found if not self._measures.isdisjoint(measures_of(m[1], m[2], UNITS[m[3]]))]
        words = (word.span() for word in _SHOWN_WORD.finditer(text) if self._hit(word[0]))
        yield from merge(measures, ((a, b) for a, b in words if not any(c <= a < d for c, d in measures)))


def cut_at_word(text: str, most: int) -> str:
    """The first `most` characters of a text, cut at a space if there is one in the second half."""
    if len(text) <= most:
        return text
    end = max(text.rfind(space, most // 2, most + 1) for space in " \n")
    return text[: end if end > 0 else most]


def _marked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text is escaped piece by piece; only the `<em>` tags are ours."""
    parts, at = [], 0
    for start, end in spans:
        parts += [html.escape(text[at:start]), f"<em>{html.escape(text[start:end])}</em>"]
        at = end
    return "".join([*parts, html.escape(text[at:])])


def respellings(query: str, texts: Iterable[str]) -> dict[str, str]:
    """For each word of the query that is not in the texts, the most similar word of theirs, if any: the hits show how
    it is spelt."""
    there: dict[str, int] = {}
    for text in texts:
        for word in _WORD.findall(text):
            there[word] = there.get(word, 0) + 1
    stems = {_stem(word) for word in there}
    found = {}
    for word in dict.fromkeys(_WORD.findall(query)):
        most = typos_allowed(word)
        if word in there or _stem(word) in stems or most == 0:
            continue
        near = [(distance(word, other, most), -n, other) for other, n in there.items() if not other.isdigit()]
        best = min(near, default=(most + 1, 0, word))
        if best[0] <= most:
            found[word] = best[2]
    return found


def respelt(query: str, spellings: Mapping[str, str]) -> str:
    """The query with the other spellings put in."""
    return " ".join(spellings.get(word, word) for word in _WORD.findall(query))
