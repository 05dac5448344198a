"""However changes, kills, outages and repetitions fall, all stores say the same in the end. A handful of the seeds of
`proofs/test_convergence.py`; `QUARTET_TEST_SEED` runs one alone."""

import os

import pytest
from converging import World

from quartet.web.dependencies import Shop

SEEDS = [int(os.environ["QUARTET_TEST_SEED"])] if "QUARTET_TEST_SEED" in os.environ else range(6)


async def test_all_stores_say_the_same_in_the_end(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(shop, monkeypatch)
    await world.prepare()
    for seed in SEEDS:
        wrong = await world.run(seed)
        assert not wrong, "\n".join([*world.log, *wrong, f"QUARTET_TEST_SEED={seed} runs it again"])
