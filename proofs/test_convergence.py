"""However changes, kills, outages and repetitions fall, catalog, copies, search and cache say the same in the end: two
hundred orders of events, each drawn by a seed. And the proof can fail: workers that are wrong are found out by it."""

import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from converging import BROKEN, World

from conftest import settings_of_ones_own
from quartet.cli import prepare
from quartet.stores import open_stores
from quartet.web.dependencies import Shop

SEEDS = int(os.environ.get("QUARTET_PROOF_CONVERGENCE_SEEDS", "200"))
PORTION = 25
# As many seeds as a worker that is wrong may get away with.
LUCKY = 40


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(100, 100 + SEEDS, PORTION))
async def test_all_stores_say_the_same_in_the_end(shop: Shop, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    world = World(shop, monkeypatch)
    await world.prepare()
    for seed in range(first, min(first + PORTION, 100 + SEEDS)):
        wrong = await world.run(seed)
        assert not wrong, "\n".join([*world.log, *wrong, f"QUARTET_TEST_SEED={seed} tests/faults/test_convergence.py"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("how", "module", "name", "wrong"), BROKEN, ids=[broken[0] for broken in BROKEN])
async def test_a_worker_that_is_wrong_is_found_out(
    shop: Shop, another_shop: Shop, monkeypatch: pytest.MonkeyPatch, *, how: str, module: Any, name: str, wrong: Any
) -> None:
    """And the seed that found it goes the same way in another shop."""
    with monkeypatch.context() as patch:
        patch.setattr(module, name, wrong)
        seed, found, log = await _first_wrong(World(shop, patch), range(LUCKY))
    print(f"{how}: found out by seed {seed}: {found[:1]}")
    assert found, f"{how} was not noticed in {LUCKY} seeds"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, wrong)
        assert await _first_wrong(World(another_shop, patch), [seed]) == (seed, found, log)


async def _first_wrong(world: World, seeds: Iterable[int]) -> tuple[int, list[str], list[str]]:
    """The first of the seeds that ends wrong, what is wrong then, and how it came to that."""
    await world.prepare()
    for seed in seeds:
        if found := await world.run(seed):
            break
    return seed, found, world.log


@pytest.fixture
async def another_shop(servers: dict[str, str], template: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """On the same servers, and with nothing in common."""
    async with settings_of_ones_own(servers, template, tmp_path) as settings, open_stores(settings) as stores:
        shop = Shop(settings, stores)
        await prepare(shop)
        yield shop
        await stores.mongo.drop_database()
