"""The shop and a provider of somebody else's: what the tests of each share. They say what `place` is, the provider's
own, and what the `settings` are that lead there over the `line`."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

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

__all__ = ["by_hand", "clock", "line", "provider", "shop", "till"]


class Place(Protocol):
    """Where a provider keeps its books."""

    app: Any

    def taken(self) -> int:
        """What it took and did not give back, in cents."""


@pytest.fixture
async def line(place: Place) -> AsyncIterator[Line]:
    async with serving(place.app) as line:
        yield line


@pytest.fixture
def provider(app: FastAPI, shop: Shop) -> PaymentProvider:
    """The one that the shop asks."""
    app.state.providers = payments.open_providers(shop.settings, shop.stores.pg)
    (provider,) = app.state.providers.values()
    asked: PaymentProvider = provider
    return asked


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


async def settled(shop: Shop, provider: PaymentProvider, clock: FixedClock) -> None:
    """Recovery, as often as it takes."""
    (name,) = shop.settings.payment_providers
    for seconds in (30, 60, 120, 240):
        clock.advance(seconds)
        await recover(shop, {name: provider})


async def books_balance(shop: Shop, place: Place, till: Till) -> None:
    """Ours with themselves, and with theirs."""
    violations = (await audit.check(shop, patience=0)).violations
    assert violations == (), violations
    (row,) = await till.rows("SELECT coalesce(sum(captured_cents - refunded_cents), 0)::bigint AS kept FROM orders")
    assert row["kept"] == place.taken(), (row["kept"], place.taken())


async def differences(shop: Shop, provider: PaymentProvider) -> list[Difference]:
    """What is named when the books of today are compared; midnight may have passed since the test began."""
    (name,) = shop.settings.payment_providers
    today = datetime.now(UTC).date()
    found = []
    for day in (today - timedelta(days=1), today):
        found += [one async for one in payments.reconcile(shop.stores.pg, name, provider, day, Compared())]
    return found
