"""The API, or PostgreSQL under it, is killed while people order and pay: every yes stays true, and every unfinished
thing is finished. `proofs/` does the same at length."""

import asyncio
import os
import random
from pathlib import Path

import pytest
from crowd import Crowd, MortalApi, crowded, recover_now_and_then
from own_stores import OwnStores, own_stores

from conftest import SECRET

SEED = int(os.environ.get("QUARTET_TEST_SEED", "7"))


async def killed_again_and_again(
    crowd: Crowd, api: MortalApi, stores: OwnStores, *, victim: str, kills: int, seed: int
) -> None:
    """`victim`: `api`, or `postgres`. Returns when all is settled and verified."""
    dice = random.Random(seed)
    shopping = asyncio.create_task(crowd.run())
    recovering = asyncio.create_task(recover_now_and_then(crowd.shop))
    try:
        for _ in range(kills):
            await asyncio.sleep(dice.uniform(0.1, 1.2))
            if victim == "api":
                api.kill()
                await api.start()
            else:
                await stores.kill("postgres")
                await asyncio.sleep(dice.uniform(0, 0.3))
                await stores.start("postgres")
        await asyncio.sleep(0.5)
        crowd.stop()
        async with asyncio.timeout(60):
            await shopping
    finally:
        shopping.cancel()
        recovering.cancel()
        await asyncio.gather(shopping, recovering, return_exceptions=True)
    await crowd.settle()
    faults = await crowd.verify()
    print(f"seed {seed}: {victim} killed {kills} times, {len(crowd.memory.said)} answers: {dict(crowd.memory.counted)}")
    assert crowd.memory.counted["201"] > kills
    assert not faults, f"{len(faults)}:\n" + "\n".join(faults[:10])


@pytest.mark.parametrize(("victim", "kills"), [("api", 3), ("postgres", 2)])
async def test_what_was_promised_before_a_kill_is_true_after_it(tmp_path: Path, victim: str, kills: int) -> None:
    async with (
        own_stores(tmp_path / "stores") as stores,
        crowded(stores, tmp_path, SECRET, SEED) as (crowd, api),
    ):
        await killed_again_and_again(crowd, api, stores, victim=victim, kills=kills, seed=SEED)
