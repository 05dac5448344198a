"""Whoever types a product's name, even badly, finds it: the relevance bench's smaller form.

Here over our own catalog and some hundred of the retailer's names, searches on osmem, suggestions on every engine; the
proofs ask all names of OpenSearch.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping

import pytest
from bench.relevance import (
    GOALS,
    KINDS,
    SUGGESTED,
    Drawing,
    Json,
    Query,
    Rule,
    briefs,
    measured,
    ours,
    products,
    score,
    suggestions,
)

from quartet.stores.search import SearchEngine

MISSPELT_SO_FAR = {kind for kind in SUGGESTED if kind.startswith("begun, ")}


@pytest.mark.parametrize("engine_url", ["osmem"], indirect=True)
async def test_what_is_typed_is_found_and_nothing_worse_than_by_the_briefs_query(engine: SearchEngine) -> None:
    shelf, queries = few(KINDS)
    mine = await measured(await ours(engine, shelf), queries)
    theirs = await measured(await briefs(engine, shelf), queries)
    assert set(mine) == set(KINDS)
    for kind, found in mine.items():
        assert found.ten >= GOALS[kind], (kind, found)
        assert found.ten >= theirs[kind].ten, (kind, found, theirs[kind])


async def test_what_is_begun_is_offered(engine: SearchEngine) -> None:
    shelf, queries = few(SUGGESTED)
    offered = await measured(await suggestions(engine, shelf), queries)
    assert set(offered) == set(SUGGESTED)
    for kind, found in offered.items():
        assert found.ten >= GOALS[kind], (kind, found)


def few(kinds: Mapping[str, Rule]) -> tuple[list[Json], list[Query]]:
    """Some products, and of each kind some queries of the half that nothing was tuned on."""
    shelf = products(lines=4000)
    shelf = shelf[:100] + random.Random(1).sample(shelf[100:], 300)
    by_kind: Counter[str] = Counter()
    queries = []
    for query in random.Random(2).sample(drawn := Drawing(shelf).queries(kinds=kinds), len(drawn)):
        if query.half == "report" and by_kind[query.kind] < 40:
            by_kind[query.kind] += 1
            queries.append(query)
    return shelf, queries


def test_a_score_is_what_it_says() -> None:
    found = score([1, 2, None, 4])
    assert (found.queries, found.first, found.ten) == (4, 0.25, 0.75)
    assert found.mrr == (1 + 1 / 2 + 1 / 4) / 4


def test_queries_are_drawn_by_their_rules() -> None:
    shelf = products(lines=2000)
    kinds = KINDS | SUGGESTED
    drawn = Drawing(shelf, seed=7).queries(kinds=kinds)
    assert drawn == Drawing(shelf, seed=7).queries(kinds=kinds)
    names = {product["sku"]: product["name"].lower() for product in shelf}
    for query in drawn:
        assert 1 <= len(query.right) <= 10
        if query.kind == "word order turned":
            assert all(word in names[sku] or "'" in word for sku in query.right for word in query.text.split())
        if query.kind == "one letter doubled":
            assert not any(query.text in names[sku] for sku in query.right)
        if query.kind in MISSPELT_SO_FAR:
            assert len(query.text.split()[-1]) >= 4


def test_a_beginning_fits_all_that_have_its_words_and_one_that_begins_so() -> None:
    shelf = products(lines=1000)
    held = {one["sku"]: set(re.findall(r"[\w']+", f"{one['brand'] or ''} {one['name']}".lower())) for one in shelf}
    begun = SUGGESTED.keys() - MISSPELT_SO_FAR
    for query in Drawing(shelf, seed=7).queries(kinds={kind: SUGGESTED[kind] for kind in begun}):
        *whole, last = query.text.split()
        have = {sku for sku, found in held.items() if found.issuperset(whole)}
        assert query.right == {sku for sku in have if any(word.startswith(last) for word in held[sku])}
