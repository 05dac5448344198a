"""The API and PostgreSQL are killed under a crowd of shoppers at random moments, again and again."""

import os
from pathlib import Path

import pytest
from crowd import crowded
from own_stores import own_stores
from test_api_kill import killed_again_and_again

from conftest import SECRET

# A seed. PostgreSQL more often: what recovers is its log, whatever the API was about.
KILLS = {
    "api": int(os.environ.get("QUARTET_PROOF_KILLS", "15")),
    "postgres": int(os.environ.get("QUARTET_PROOF_POSTGRES_KILLS", "30")),
}
SEEDS = [int(seed) for seed in os.environ.get("QUARTET_PROOF_KILL_SEEDS", "1,2").split(",")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("victim", ["api", "postgres"])
async def test_what_was_promised_before_many_kills_is_true_after_them(tmp_path: Path, victim: str, seed: int) -> None:
    print(f"seed {seed}: {victim} is killed {KILLS[victim]} times")
    async with (
        own_stores(tmp_path / "stores") as stores,
        crowded(stores, tmp_path, SECRET, seed) as (crowd, api),
    ):
        await killed_again_and_again(crowd, api, stores, victim=victim, kills=KILLS[victim], seed=seed)
