"""The state machine of tests/flows, for longer."""

import asyncio
import os

import hypothesis
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test
from test_shop_machine import World, machine, settings  # noqa: F401 — a fixture

from conftest import SignIn
from quartet.web.dependencies import Shop

EXAMPLES = int(os.environ.get("QUARTET_PROOF_EXAMPLES", "250"))
SEED = int(os.environ.get("QUARTET_TEST_SEED", "20260131"))


@pytest.mark.timeout(900)
async def test_the_shop_and_its_model_agree_for_long(shop: Shop, app: FastAPI, sign_in: SignIn) -> None:
    print(f"seed {SEED}, {EXAMPLES} runs of 50 steps")
    loop = asyncio.get_running_loop()

    def run() -> None:
        run_state_machine_as_test(
            hypothesis.seed(SEED)(machine(World(shop, app, sign_in, loop))),
            settings=hypothesis.settings(
                max_examples=EXAMPLES,
                stateful_step_count=50,
                suppress_health_check=list(HealthCheck),
                database=None,
                print_blob=True,
                phases=[Phase.generate],
            ),
        )

    await asyncio.to_thread(run)
