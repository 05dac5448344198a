"""Queries as a shop is asked them: drawn from names, and asked by Zipf's law."""

import bisect
import random
import re
from collections.abc import Sequence
from itertools import accumulate

from bench.relevance import SEED, Drawing, Json


def typed(shelf: Sequence[Json], count: int, seed: int = 1) -> list[str]:
    """Distinct queries in order of how often they are asked: one or two words of a name seven times of ten, and the
    relevance bench's other kinds."""
    draw = random.Random(SEED + seed)
    others = [query.text for query in Drawing(shelf[:4000]).queries()]
    found: dict[str, None] = {}
    while len(found) < count:
        words = [word for word in re.findall(r"[a-z]+", draw.choice(shelf)["name"].lower()) if len(word) > 2]
        if draw.random() < 0.7 and words:
            found[" ".join(draw.sample(words, min(len(words), draw.choice((1, 2, 2)))))] = None
        else:
            # There are fewer of these than may be asked for.
            found[f"{draw.choice(others)}{'' if count <= 10_000 else f' {draw.choice(words or others)}'}"] = None
    return list(found)


class Zipf:
    """Draws by Zipf's law: the second half as often as the first."""

    def __init__(self, queries: Sequence[str], seed: int = SEED) -> None:
        self._queries, self._draw = queries, random.Random(seed)
        self._sums = list(accumulate(1 / rank for rank in range(1, len(queries) + 1)))

    def draw(self) -> str:
        """One query."""
        return self._queries[bisect.bisect(self._sums, self._draw.random() * self._sums[-1])]
