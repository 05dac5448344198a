"""The process is killed at every step of a purchase: once it stands again, the request asked again and the worker's
sweeps bring everything to the end that it would have had, and nothing twice. `proofs/` does the same at length."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from crowd import MortalApi, mortal_api
from use_cases import (
    STEPS,
    USE_CASES,
    Corner,
    UseCase,
    ask,
    ask_as_the_careful_do,
    carry,
    prepared,
    told,
    without_delay,
)

from quartet import audit, checkout, payments
from quartet.devstores import free_port
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Shop


class Died(Exception):
    """The process did not live to answer."""


class MortalHouse:
    """The shop in a process of its own."""

    def __init__(self, shop: Shop, api: MortalApi) -> None:
        self.shop, self.api = shop, api
        self._client = httpx.AsyncClient(base_url=api.url, timeout=20)
        self._doomed = False

    async def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        try:
            return await self._client.post(
                path, content=content, headers={"Content-Type": "application/json", **headers}
            )
        except httpx.TransportError as cut:
            raise Died from cut

    async def sweep(self, corner: Corner) -> None:
        if not self._doomed:
            providers = payments.open_providers(self.shop.settings, self.shop.stores.pg)
            await checkout.recover(replace(self.shop, clock=corner.later), providers)
            return
        if await self.api.first_to_die([await self.api.sweeper(self._ahead(corner))]):
            raise Died

    async def carry(self, corner: Corner) -> None:
        if not self._doomed:
            await carry(replace(self.shop, clock=corner.later))
        elif await self.api.first_to_die([await self.api.carrier(self._ahead(corner))]):
            raise Died

    def _ahead(self, corner: Corner) -> float:
        return (corner.later.now() - self.shop.clock.now()).total_seconds()

    async def killed_at(self, step: str, nth: int, doing: Any) -> None:
        self.api.doom(step, nth)
        self._doomed = True
        with pytest.raises(Died) as died:
            await doing
        self._doomed = False
        if died.value.__cause__ is not None:
            assert await self.api.first_to_die([self.api.pid])
            await self.api.start()

    async def close(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def mortal_houses(shop: Shop) -> AsyncIterator[Mapping[bool, MortalHouse]]:
    """One that captures by hand and one that does not; each serves until it is killed, and again."""
    async with AsyncExitStack() as stack:
        houses = {}
        for manual in (False, True):
            changed: dict[str, Any] = {"port": free_port(), "payment_capture": "manual" if manual else "automatic"}
            its = replace(shop, settings=shop.settings.model_copy(update=changed))
            houses[manual] = MortalHouse(its, await stack.enter_async_context(mortal_api(its.settings)))
            stack.push_async_callback(houses[manual].close)
        yield houses


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return without_delay(settings)


async def kill_and_mend(house: MortalHouse, case: UseCase, at: int, *, keyed: bool) -> None:
    """Kills the process at the step of this index, then does what a careful client, the provider and the worker do."""
    steps = case.passes(keyed=keyed)
    nth = steps[: at + 1].count(steps[at])
    corner = await prepared(house, case)
    key = str(uuid4()) if keyed else None
    await house.killed_at(steps[at], nth, ask(house, corner, case.act, key))
    await ask_as_the_careful_do(house, corner, case, key)


def _each_step_once() -> list[tuple[str, int]]:
    """For each step a use case that comes to it, and where: one that takes a key if there is any, and the longest."""
    found: dict[str, tuple[str, int]] = {}
    for name, case in sorted(
        USE_CASES.items(), key=lambda item: (len(item[1].keyed), len(item[1].steps)), reverse=True
    ):
        for at, step in enumerate(case.steps):
            found.setdefault(step, (name, at))
    assert found.keys() == STEPS
    return list(found.values())


@pytest.mark.timeout(600)
async def test_a_process_killed_at_any_step_leaves_nothing_undone_or_done_twice(shop: Shop) -> None:
    async with mortal_houses(shop) as houses:
        for name, at in _each_step_once():
            case = USE_CASES[name]
            with told(f"{name}, killed at {case.steps[at]!r}"):
                await kill_and_mend(houses[case.manual], case, at, keyed=case.keyed[0])
    assert (await audit.check(shop)).violations == ()
