"""Realistic queries: drawn from product names, and asked with a Zipf distribution."""

import bisect
import random
import re
from collections.abc import Sequence
from itertools import accumulate

from bench.relevance import SEED, Drawing, Json


def typed(shelf: Sequence[Json], count: int, seed: int = 1) -> list[str]:
    """Distinct queries, most frequent first: 70 % are one or two words of a name, the others are of the relevance
    bench's kinds."""
    draw = random.Random(SEED + seed)
    others = [query.text for query in Drawing(shelf[:4000]).queries()]
    found: dict[str, None] = {}
    while len(found) < count:
        words = [word for word in re.findall(r"[a-z]+", draw.choice(shelf)["name"].lower()) if len(word) > 2]
        if draw.random() < 0.7 and words:
            found[" ".join(draw.sample(words, min(len(words), draw.choice((1, 2, 2)))))] = None
        else:
            # There may be fewer of these than needed: for large counts a word is appended.
            found[f"{draw.choice(others)}{'' if count <= 10_000 else f' {draw.choice(words or others)}'}"] = None
    return list(found)


class Zipf:
    """Draws with a Zipf distribution: the nth query 1/n as often as the first."""

    def __init__(self, queries: Sequence[str], seed: int = SEED) -> None:
        self._queries, self._draw = queries, random.Random(seed)
        self._sums = list(accumulate(1 / rank for rank in range(1, len(queries) + 1)))

    def draw(self) -> str:
        """Draws a query."""
        return self._queries[bisect.bisect(self._sums, self._draw.random() * self._sums[-1])]
