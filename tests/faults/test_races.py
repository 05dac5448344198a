"""Attacks by requests at the same time: none succeeds, and each succeeds in a shop that is broken for it. `proofs/`
does the same two hundred times."""

import os
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from races.arena import Arena, Processes, arena, processes
from races.attacks import ATTACKS, Attack
from races.steering import Helm, Variant, at_the_helm

from conftest import settings_of_ones_own
from quartet import audit, sync
from quartet.kernel.settings import Settings

SEED = os.environ.get("QUARTET_TEST_SEED", "7")
ROUNDS = 10
# Within so many rounds a broken shop has shown it: most do in the first five, hardly one needs more than ten.
ENOUGH = 500
MODES = ("steered", "piled", "steered", "free")


@pytest.fixture(scope="session")
async def helm() -> AsyncIterator[Helm]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        async with at_the_helm(Path(folder)) as helm:
            yield helm


@pytest.fixture(scope="session")
async def forge(helm: Helm) -> AsyncIterator[Processes]:
    async with processes(helm) as forge:
        yield forge


async def first_fault(place: Arena, attack: Attack, seed: str, rounds: int, modes: Sequence[str] = MODES) -> str:
    """Where the attack succeeded first, told so that it can be looked into; empty when it never did."""
    for n in range(rounds):
        dice = random.Random(f"{seed}:{attack.name}:{n}")
        mode = modes[n % len(modes)]
        faults, story = await place.play(await attack.prepare(place, dice), mode, dice, f"{attack.name}-{n}")
        if faults:
            return f"{attack.name}, seed {seed}, round {n}, {mode}:\n" + "\n".join(faults) + f"\n{story}"
    return ""


def variants(attacks: Sequence[Attack]) -> list[object]:
    """Every attack with every shop that is broken for it."""
    return [
        pytest.param(attack, variant, id=f"{attack.name}: {name}")
        for attack in attacks
        for name, variant in attack.broken.items()
    ]


async def wrong_books(place: Arena) -> Sequence[object]:
    """What the audit finds in the whole shop."""
    await sync.catch_up(place.shop)
    return (await audit.check(place.shop)).violations


def never_piled(place: Arena) -> list[str]:
    """Attacks of which nobody stood behind the lock that all of them need; all of them, if hardly anybody did. Some
    refuse all but the first before they come to it."""
    stood = {name: (sum(n for n, _ in rounds), sum(m for _, m in rounds)) for name, rounds in place.piles.items()}
    print(", ".join(f"{name}: {behind} of {most} piled up" for name, (behind, most) in stood.items()))
    few = 3 * sum(behind for behind, _ in stood.values()) < sum(most for _, most in stood.values())
    return [name for name, (behind, _) in stood.items() if few or not behind]


async def falls(
    settings: Settings, helm: Helm, forge: Processes, attack: Attack, variant: Variant, seed: str,
    modes: Sequence[str] = MODES,
) -> None:  # fmt: skip
    """The attack finds what is broken."""
    async with arena(settings, helm, forge, variant) as place:
        fault = await first_fault(place, attack, seed, ENOUGH, modes)
        print(fault)
        assert fault, f"{attack.name} found nothing in {ENOUGH} rounds of a broken shop"


@pytest.fixture(scope="session")
async def place(
    servers: dict[str, str], template: str, helm: Helm, forge: Processes, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Arena]:
    """A sound shop, for all attacks."""
    folder = tmp_path_factory.mktemp("arena")
    async with settings_of_ones_own(servers, template, folder) as settings, arena(settings, helm, forge) as place:
        yield place


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_the_shop_withstands(place: Arena, attack: Attack) -> None:
    fault = await first_fault(place, attack, SEED, ROUNDS)
    assert not fault, fault


async def test_afterwards_the_books_of_the_whole_shop_agree(place: Arena) -> None:
    assert not await wrong_books(place)
    assert not never_piled(place)


@pytest.mark.parametrize(("attack", "variant"), variants(ATTACKS))
async def test_a_broken_shop_falls(
    settings: Settings, helm: Helm, forge: Processes, attack: Attack, variant: Variant
) -> None:
    await falls(settings, helm, forge, attack, variant, SEED)
