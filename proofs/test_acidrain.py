"""Every attack two hundred times: none succeeds. `tests/faults/test_races.py` shows that each can."""

import os

import pytest
from races.arena import Arena
from races.attacks import ATTACKS, Attack
from test_races import first_fault, forge, helm, never_piled, place, wrong_books

ROUNDS = int(os.environ.get("QUARTET_PROOF_RACE_ROUNDS", "200"))
SEED = os.environ.get("QUARTET_PROOF_RACE_SEED", "1")

__all__ = ["forge", "helm", "place"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_the_shop_withstands_two_hundred_times(place: Arena, attack: Attack) -> None:
    fault = await first_fault(place, attack, SEED, ROUNDS)
    assert not fault, fault


async def test_afterwards_the_books_of_the_whole_shop_agree(place: Arena) -> None:
    assert not await wrong_books(place)
    assert not never_piled(place)
