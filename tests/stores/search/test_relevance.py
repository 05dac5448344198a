"""Whoever types a product's name, even badly, finds it: the relevance bench's smaller form.

Here on osmem, over our own catalog and some hundred of the retailer's names; the proofs ask all names of OpenSearch.
"""

import random

import pytest
from bench.relevance import GOALS, Drawing, briefs, measured, ours, products, score

from quartet.stores.search import SearchEngine


@pytest.mark.parametrize("engine_url", ["osmem"], indirect=True)
async def test_what_is_typed_is_found_and_nothing_worse_than_by_the_briefs_query(engine: SearchEngine) -> None:
    shelf = products(lines=4000)
    shelf = shelf[:100] + random.Random(1).sample(shelf[100:], 300)
    by_kind: dict[str, list[str]] = {}
    queries = []
    for query in random.Random(2).sample(drawn := Drawing(shelf).queries(), len(drawn)):
        if query.half == "report" and len(by_kind.setdefault(query.kind, [])) < 40:
            by_kind[query.kind].append(query.text)
            queries.append(query)
    mine = await measured(await ours(engine, shelf), queries)
    theirs = await measured(await briefs(engine, shelf), queries)
    assert set(mine) == set(GOALS)
    for kind, found in mine.items():
        assert found.ten >= GOALS[kind], (kind, found)
        assert found.ten >= theirs[kind].ten, (kind, found, theirs[kind])


def test_a_score_is_what_it_says() -> None:
    found = score([1, 2, None, 4])
    assert (found.queries, found.first, found.ten) == (4, 0.25, 0.75)
    assert found.mrr == (1 + 1 / 2 + 1 / 4) / 4


def test_queries_are_drawn_by_their_rules() -> None:
    shelf = products(lines=2000)
    drawn = Drawing(shelf, seed=7).queries()
    assert drawn == Drawing(shelf, seed=7).queries()
    names = {product["sku"]: product["name"].lower() for product in shelf}
    for query in drawn:
        assert 1 <= len(query.right) <= 10
        if query.kind == "word order turned":
            assert all(word in names[sku] or "'" in word for sku in query.right for word in query.text.split())
        if query.kind == "one letter doubled":
            assert not any(query.text in names[sku] for sku in query.right)
