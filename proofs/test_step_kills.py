"""The process is killed at every step of every use case of a purchase, with a key and without one; and again and again
at every step while a crowd shops."""

import asyncio
import os
import random
from pathlib import Path

import pytest
from crowd import Crowd, MortalApi, crowded, lives
from own_stores import own_stores
from test_step_kill import kill_and_mend, mortal_houses
from use_cases import SEND_AWAY, USE_CASES, told, without_delay

from conftest import SECRET
from quartet import audit
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Shop

TIMES = int(os.environ.get("QUARTET_PROOF_STEP_KILLS", "1"))
SEEDS = [int(seed) for seed in os.environ.get("QUARTET_PROOF_STEP_SEEDS", "1,2").split(",")]
# Some steps nobody comes to but after a fault: a payment that nobody told of, a capture that the provider refused. On a
# slow machine that is one in ten seconds, and a third one may be waited for: in a minute it does not come once in ten.
PATIENCE_SECONDS = 300.0
FAULTS = {"sandbox_error_share": 0.03, "sandbox_silent_before_share": 0.02, "sandbox_silent_after_share": 0.02}
# What a crowd hardly ever comes to: the buyer cancels while the provider still waits for him, and the sweep sees that.
RARE = {"unwanted payment voided"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return without_delay(settings)


@pytest.mark.timeout(900)
async def test_a_process_killed_at_every_step_of_every_use_case_leaves_nothing_undone_or_done_twice(shop: Shop) -> None:
    kills = 0
    async with mortal_houses(shop) as houses:
        for name, case in USE_CASES.items():
            for keyed in case.keyed:
                for at, step in enumerate(case.passes(keyed=keyed)):
                    with told(f"{name}, killed at {step!r}, {'with' if keyed else 'without'} a key"):
                        await kill_and_mend(houses[case.manual], case, at, keyed=keyed)
                    kills += 1
    print(f"{len(USE_CASES)} use cases, {kills} kills")
    assert (await audit.check(shop)).violations == ()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("capture", ["automatic", "manual"])
async def test_a_crowd_whose_shop_dies_at_every_step_is_told_nothing_but_the_truth(
    tmp_path: Path, seed: int, capture: str
) -> None:
    dice = random.Random(seed)
    steps = sorted(_steps(manual=capture == "manual") - RARE) * TIMES
    dice.shuffle(steps)
    print(f"seed {seed}, capture {capture}, killed at: {', '.join(steps)}")
    async with (
        own_stores(tmp_path / "stores") as stores,
        crowded(stores, tmp_path, SECRET, seed, payment_capture=capture, **FAULTS) as (crowd, api),
    ):
        shopping = asyncio.create_task(crowd.run())
        killing = asyncio.create_task(_killed_at_each(api, steps, dice))
        try:
            await asyncio.wait((shopping, killing), return_when=asyncio.FIRST_COMPLETED)
            assert not shopping.done(), f"the crowd went home: {shopping.exception()!r}"
            await killing
            crowd.stop()
            async with asyncio.timeout(60):
                await shopping
        finally:
            shopping.cancel()
            killing.cancel()
            await asyncio.gather(shopping, killing, return_exceptions=True)
        if not lives(api.pid):  # it came to the last step as another died there
            await api.start()
        await _verified(crowd)


def _steps(*, manual: bool) -> set[str]:
    """In a shop that captures by hand, those of that alone: the others are the same. The sandbox sends nobody of the
    crowd to a page of its own."""
    cases = [case for case in USE_CASES.values() if SEND_AWAY not in case.before]
    by_hand = {step for case in cases if case.manual for step in case.steps}
    at_once = {step for case in cases if not case.manual for step in case.steps}
    return by_hand - at_once if manual else at_once


async def _killed_at_each(api: MortalApi, steps: list[str], dice: random.Random) -> None:
    """Whichever comes to the step first dies, the API, the worker's sweeps or what carries the outbox; then there is
    another one."""
    sweeper, carrier = await api.sweeper(0), await api.carrier(0)

    async def replace_the_dead() -> None:
        nonlocal sweeper, carrier
        if not lives(sweeper):
            sweeper = await api.sweeper(0)
        if not lives(carrier):
            carrier = await api.carrier(0)
        if not lives(api.pid):
            await api.start()

    for step in steps:
        await asyncio.sleep(dice.uniform(0, 0.4))
        await replace_the_dead()  # a second may have come to the last step before nobody was doomed any more
        api.doom(step, dice.randint(1, 3))
        dead = await api.first_to_die((api.pid, sweeper, carrier), PATIENCE_SECONDS)
        assert dead is not None, f"nobody came to {step!r}"
        await replace_the_dead()


async def _verified(crowd: Crowd) -> None:
    await crowd.settle()
    faults = await crowd.verify()
    print(f"{len(crowd.memory.said)} answers: {dict(crowd.memory.counted)}")
    assert not faults, f"{len(faults)}:\n" + "\n".join(faults[:10])
