"""The connection to PostgreSQL is cut at every message in turn: whoever asked is told that nobody knows (503), and the
same key, the provider's next webhook, the next sweep find the one order, the one payment, the one refund."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest
from cut_wire import HOWS, Wire, breakable
from use_cases import USE_CASES, LocalHouse, UseCase, ask, ask_as_the_careful_do, prepared, told, without_delay

from quartet import audit
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.stores.postgres import Postgres
from quartet.web.dependencies import Shop


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return without_delay(settings)


@asynccontextmanager
async def cut_house(shop: Shop, case: UseCase) -> AsyncIterator[tuple[LocalHouse, Wire]]:
    """The shop behind a wire; the provider has another way."""
    manual = {"payment_capture": "manual" if case.manual else "automatic"}
    async with breakable(shop.settings.postgres_url or "") as (wire, url):
        pg = Postgres(url, size=1)
        house = LocalHouse(replace(shop, settings=shop.settings.model_copy(update=manual)), replace(shop.stores, pg=pg))
        yield house, wire
        await house.close()
        await pg.close()


async def cut_everywhere(shop: Shop, name: str, how: str, *, keyed: bool, every: bool) -> tuple[int, int]:
    """How often it was cut, until the act went through untouched; and how often whoever asked was told that the outcome
    is unknown, which is not so where only what follows the act was cut."""
    case, told_unknown, at = USE_CASES[name], 0, 0
    async with cut_house(shop, case) as (house, wire):
        while True:
            with told(f"{name}, cut {how} {'message' if every else 'question'} {at}, {'with' if keyed else 'no'} key"):
                wish = _Wish(house, wire, case, str(uuid4()) if keyed else None)
                told_unknown += await wish.cut(at, how, every=every)
            if wire.broke is None:
                return at, told_unknown
            at += 1


@dataclass(frozen=True)
class _Wish:
    house: LocalHouse
    wire: Wire
    case: UseCase
    key: str | None

    async def cut(self, at: int, how: str, *, every: bool) -> bool:
        """Whether it was told to be unknown. In the end all is as it has to be."""
        corner = await prepared(self.house, self.case)
        self.wire.break_at(at, how, every=every)
        try:
            answer = await ask(self.house, corner, self.case.act, self.key)
            unknown = answer is not None and answer.status_code == 503
        except StoreUnavailable:  # the worker goes on with its next sweep
            answer, unknown = None, True
        self.wire.mend()
        if answer is not None and unknown:
            assert answer.json()["type"] == "/problems/store-unavailable"
            assert answer.json()["store"] == "postgres"
        elif answer is not None:
            assert answer.status_code == self.case.status, answer.text
        await ask_as_the_careful_do(self.house, corner, self.case, self.key)
        return unknown


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("order", True),
        ("pay", True),
        ("order what is short", False),
        ("webhook", False),
        ("cancel paid", False),
        ("refund all", False),
        ("recover a charge not written down", False),
        ("recover a refund not written down", False),
    ],
)
async def test_a_cut_is_unknown_and_asking_again_finds_the_one(shop: Shop, name: str, every: bool) -> None:
    counted = []
    for keyed in USE_CASES[name].keyed:
        for how in HOWS[:2]:
            counted.append(await cut_everywhere(shop, name, how, keyed=keyed, every=every and how == "before"))
    cuts, unknown = (sum(column) for column in zip(*counted, strict=True))
    print(f"{name}: {cuts} cuts, {unknown} told to be unknown")
    assert unknown > cuts / 2
    assert (await audit.check(shop)).violations == ()
