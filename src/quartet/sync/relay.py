"""The outbox relay: what PostgreSQL said had happened reaches cart, leaderboard, catalog and search."""

import asyncio
import random
from collections.abc import Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

import structlog

from quartet import cart, catalog, leaderboard
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.money import minor_digits
from quartet.stores import outbox
from quartet.stores.outbox import Event
from quartet.sync import store
from quartet.sync.products import Step, carry, unwatched
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.sync")

PIPELINE = "outbox"
BATCH = 500
ATTEMPTS = 8
AT_ONCE = 16
AWAY_SECONDS = 1.0
LONGEST_SECONDS = 300.0
_OF_STOCK = ("stock.changed", "order.placed")


async def relay(shop: Shop, *, step: Step = unwatched) -> int:
    """Carries one batch of events; answers how many it took. No transaction is open while other stores are spoken to.

    Raises StoreUnavailable only for PostgreSQL; another store's absence postpones the events that need it."""
    async with shop.stores.pg.read() as read:
        events = await outbox.due(read, BATCH)
    if not events:
        return 0
    step("claimed")
    stock = [event for event in events if event.topic in _OF_STOCK]
    others = sorted((e for e in events if e.topic not in _OF_STOCK), key=lambda e: (e.key, e.id))
    gate = asyncio.Semaphore(AT_ONCE)
    jobs = [_carry_stock(shop, stock, step)] if stock else []
    jobs += [_carry_key(shop, list(same), gate) for _, same in groupby(others, key=lambda e: e.key)]
    outcomes = [outcome for part in await asyncio.gather(*jobs) for outcome in part]
    step("delivered")
    await _write_down(shop, outcomes)
    step("forgotten")
    return len(events)


Outcome = tuple[Event, Exception | None]


async def _carry_stock(shop: Shop, events: Sequence[Event], step: Step) -> list[Outcome]:
    """Price and stock of SKUs: one product each, however many events."""
    failure: Exception | None = None
    try:
        ids = await catalog.product_ids_of_skus(shop.stores.mongo, {sku for event in events for sku in _skus(event)})
        await carry(shop, set(ids.values()), step=step)
    except Exception as error:
        failure = error
    return [(event, failure) for event in events]


def _skus(event: Event) -> list[str]:
    """Placing an order is one event for all its lines; everything else that moves stock is one a SKU."""
    return [event.key] if event.topic == "stock.changed" else [line["sku"] for line in event.payload.get("items", ())]


async def _carry_key(shop: Shop, events: Sequence[Event], gate: asyncio.Semaphore) -> list[Outcome]:
    """One key's events in order; after one that fails the others of its key wait."""
    outcomes: list[Outcome] = []
    async with gate:
        for event in events:
            try:
                await _deliver(shop, event)
            except Exception as error:
                outcomes.append((event, error))
                break
            outcomes.append((event, None))
    return outcomes


async def _deliver(shop: Shop, event: Event) -> None:
    """What an event means to the others. What nobody waits for is simply forgotten."""
    if event.topic != "order.confirmed":
        return
    user_id = UUID(event.payload["user_id"])
    bought = {line["sku"]: 0 for line in event.payload["items"]}
    for line in event.payload["items"]:
        bought[line["sku"]] += line["qty"]
    order_id = event.payload["order_id"]
    await cart.take_bought(shop.stores.redis, user_id, bought, order_id)
    points = event.payload["total_cents"] // 10 ** minor_digits(event.payload["currency"])
    await leaderboard.award(shop.stores.redis, shop.clock, user_id, points, event.event_id)


async def _write_down(shop: Shop, outcomes: Sequence[Outcome]) -> None:
    carried = [event.id for event, error in outcomes if error is None]
    away = [event.id for event, error in outcomes if isinstance(error, StoreUnavailable)]
    failed = [(e, error) for e, error in outcomes if error is not None and not isinstance(error, StoreUnavailable)]
    buried = [(event, error) for event, error in failed if event.attempts + 1 >= ATTEMPTS]
    async with shop.stores.pg.tx() as tx:
        await outbox.forget(tx, carried + [event.id for event, _ in buried])
        if away:
            await outbox.postpone(tx, away, AWAY_SECONDS * random.uniform(0.5, 1.5))
            await store.count_retry(tx, PIPELINE)
        for event, error in failed:
            log.warning(
                "event not carried", topic=event.topic, key=event.key, attempt=event.attempts + 1, error=repr(error)
            )
            await outbox.fail(tx, event, min(2.0**event.attempts, LONGEST_SECONDS))
        for event, error in buried:
            log.error("event given up", topic=event.topic, key=event.key, exc_info=error)
        await store.bury(tx, PIPELINE, [_letter(event, error) for event, error in buried])
        await store.save(tx, PIPELINE, None, shop.clock.now(), len(carried))


def _letter(event: Event, error: Exception) -> tuple[str, dict[str, Any], str]:
    held: dict[str, Any] = {"topic": event.topic, "key": event.key, "payload": event.payload}
    return str(event.event_id), held, f"{type(error).__name__}: {error}"
