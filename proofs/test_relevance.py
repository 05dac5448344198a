"""Whoever types a product's name, even badly, finds it: all of the retailer's names, on a real OpenSearch node."""

import asyncio
import random

import pytest
from bench.relevance import GOALS, KINDS, SUGGESTED, Drawing, briefs, measured, node_of, ours, products, suggestions


@pytest.mark.timeout(900)
async def test_what_is_typed_is_found_and_nothing_worse_than_by_the_briefs_query() -> None:
    shelf = await asyncio.to_thread(products)
    drawn = [query for query in Drawing(shelf).queries() if query.half == "report"]
    queries = random.Random(3).sample(drawn, 1500)
    async with node_of("opensearch") as (engine, _):
        mine = await measured(await ours(engine, shelf), queries)
        theirs = await measured(await briefs(engine, shelf), queries)
    assert set(mine) == set(KINDS)
    for kind, found in mine.items():
        assert found.ten >= GOALS[kind], (kind, found)
        assert found.ten >= theirs[kind].ten, (kind, found, theirs[kind])


@pytest.mark.timeout(900)
async def test_what_is_begun_is_offered() -> None:
    shelf = await asyncio.to_thread(products)
    drawn = [query for query in Drawing(shelf).queries(kinds=SUGGESTED) if query.half == "report"]
    async with node_of("opensearch") as (engine, _):
        offered = await measured(await suggestions(engine, shelf), random.Random(3).sample(drawn, 1500))
    assert set(offered) == set(SUGGESTED)
    for kind, found in offered.items():
        assert found.ten >= GOALS[kind], (kind, found)
