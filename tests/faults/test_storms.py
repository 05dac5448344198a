"""Storms of webhooks: whatever comes, how often, and in whatever order, a payment is carried out once. `proofs/` does
the same two hundred times."""

import pytest
from races.arena import Arena, Processes
from races.attacks import Attack
from races.steering import Helm, Variant
from races.storms import STORMS
from test_races import ROUNDS, SEED, falls, first_fault, forge, helm, never_piled, place, variants, wrong_books

from quartet.kernel.settings import Settings

__all__ = ["forge", "helm", "place"]

MODES = ("free", "free", "piled")


@pytest.mark.parametrize("storm", STORMS, ids=lambda storm: storm.name)
async def test_a_storm_changes_nothing(place: Arena, storm: Attack) -> None:
    fault = await first_fault(place, storm, SEED, ROUNDS, MODES)
    assert not fault, fault


async def test_after_the_storms_the_books_of_the_whole_shop_agree(place: Arena) -> None:
    assert not await wrong_books(place)
    assert not never_piled(place)


@pytest.mark.parametrize(("storm", "variant"), variants(STORMS))
async def test_a_storm_breaks_a_broken_shop(
    settings: Settings, helm: Helm, forge: Processes, storm: Attack, variant: Variant
) -> None:
    await falls(settings, helm, forge, storm, variant, SEED, MODES)
