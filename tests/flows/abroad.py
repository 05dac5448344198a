"""The shop and a provider of somebody else's: what the tests of each share. They say what `place` is, the provider's
own, and what the `settings` are that lead there over the `line`."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

import httpx
import pytest
from fastapi import FastAPI
from line import Line, serving
from stopped_clock import clock, shop
from till import Till

from quartet import audit, payments
from quartet.checkout import recover
from quartet.kernel.clock import FixedClock
from quartet.payments import Compared, Difference, PaymentProvider
from quartet.web.dependencies import Shop

__all__ = ["abroad", "by_hand", "clock", "line", "noticed", "provider", "shop", "till"]


class Place(Protocol):
    """Where a provider keeps its books."""

    app: Any

    def taken(self) -> int:
        """What it took and did not give back, in cents."""

    async def deliver(
        self, shop: httpx.AsyncClient, now: datetime, *, copies: int, dice: random.Random | None
    ) -> list[int]:
        """Sends every event to the shop, signed, `copies` times, shuffled by the dice; answers the statuses."""


@pytest.fixture
async def line(place: Place) -> AsyncIterator[Line]:
    async with serving(place.app) as line:
        yield line


async def noticed(provider: Any) -> None:
    """The shop has noticed that a provider answers again."""
    async with asyncio.timeout(30):
        while provider.guard.state != "closed":  # noqa: ASYNC110 — it comes true in the guard
            await asyncio.sleep(0.01)


async def unprobed(provider: Any) -> None:
    """Nobody asks a provider that is there whether it lives. On a busy machine an answer may take so long that it is
    asked; over a line that is cut just then this would find it away before the test's own request does."""
    async with asyncio.timeout(30):
        while provider.guard.state == "doubtful":  # noqa: ASYNC110 — until it is answered
            await asyncio.sleep(0.01)


@pytest.fixture
async def provider(
    app: FastAPI, shop: Shop, line: Line, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PaymentProvider]:
    """The one that the shop asks."""
    monkeypatch.setattr("quartet.payments.providers.port.REST_SECONDS", 0.02)
    async with payments.opened_providers(shop.settings, shop.stores.pg) as providers:
        app.state.providers = providers
        (provider,) = providers.values()
        line.noticed, line.at_rest = partial(noticed, provider), partial(unprobed, provider)
        yield provider


@pytest.fixture
def by_hand(app: FastAPI, shop: Shop, provider: PaymentProvider) -> None:
    """The shop captures by hand."""
    app.state.shop = replace(shop, settings=shop.settings.model_copy(update={"payment_capture": "manual"}))


@pytest.fixture
async def till(shop: Shop) -> Till:
    """A hundred mugs."""
    till = Till(shop)
    await till.stock("MUG", 100)
    return till


@dataclass(frozen=True)
class Abroad:
    """What the two have to do with each other."""

    shop: Shop
    clock: FixedClock
    client: httpx.AsyncClient
    till: Till
    place: Place
    provider: PaymentProvider

    async def tell(self, copies: int = 1, dice: random.Random | None = None) -> None:
        """The provider tells the shop what has happened, which takes all of it."""
        await noticed(self.provider)
        told = await self.place.deliver(self.client, self.clock.now(), copies=copies, dice=dice)
        assert set(told) == {200}, told

    async def settled(self) -> None:
        """Recovery, as often as it takes."""
        await noticed(self.provider)
        (name,) = self.shop.settings.payment_providers
        for seconds in (30, 60, 120, 240):
            self.clock.advance(seconds)
            await recover(self.shop, {name: self.provider})

    async def books_balance(self) -> None:
        """Ours with themselves, and with theirs."""
        violations = (await audit.check(self.shop, patience=0)).violations
        assert violations == (), violations
        (row,) = await self.till.rows(
            "SELECT coalesce(sum(captured_cents - refunded_cents), 0)::bigint AS kept FROM orders"
        )
        assert row["kept"] == self.place.taken(), (row["kept"], self.place.taken())

    async def differences(self) -> list[Difference]:
        """What is named when the books of today are compared; midnight may have passed since the test began."""
        (name,) = self.shop.settings.payment_providers
        today = datetime.now(UTC).date()
        found = []
        for day in (today - timedelta(days=1), today):
            compared = payments.reconcile(self.shop.stores.pg, name, self.provider, day, Compared())
            found += [one async for one in compared]
        return found


@pytest.fixture
def abroad(
    shop: Shop, clock: FixedClock, client: httpx.AsyncClient, till: Till, place: Place, provider: PaymentProvider
) -> Abroad:
    return Abroad(shop, clock, client, till, place, provider)
