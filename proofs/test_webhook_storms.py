"""Two hundred storms of webhooks of each kind: a payment is carried out once."""

import os

import pytest
from races.arena import Arena
from races.attacks import Attack
from races.storms import STORMS
from test_races import first_fault, forge, helm, never_piled, place, wrong_books
from test_storms import MODES

ROUNDS = int(os.environ.get("QUARTET_PROOF_RACE_ROUNDS", "200"))
SEED = os.environ.get("QUARTET_PROOF_RACE_SEED", "1")

__all__ = ["forge", "helm", "place"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("storm", STORMS, ids=lambda storm: storm.name)
async def test_two_hundred_storms_change_nothing(place: Arena, storm: Attack) -> None:
    fault = await first_fault(place, storm, SEED, ROUNDS, MODES)
    assert not fault, fault


async def test_after_the_storms_the_books_of_the_whole_shop_agree(place: Arena) -> None:
    assert not await wrong_books(place)
    assert not never_piled(place)
