"""Many programs of concurrent clients, with the API and PostgreSQL killed under them: whatever they were answered is
possible."""

import os
from pathlib import Path

import pytest
from test_history import played, scene

PROGRAMS = int(os.environ.get("QUARTET_PROOF_PROGRAMS", "50"))
SEEDS = [int(seed) for seed in os.environ.get("QUARTET_PROOF_HISTORY_SEEDS", "1,2").split(",")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_clients_are_told_is_possible(tmp_path: Path, seed: int) -> None:
    async with scene(tmp_path) as shop:
        fault = await played(shop, PROGRAMS, seed, clients=5, deeds=8)
        assert not fault, fault
