"""The outbox relay: events from PostgreSQL are delivered to cart, leaderboard, catalog, pages, mailboxes.

Each event is delivered at least once, and events of one key in order; consumers recognise a repeated event by its id.
What is stored in PostgreSQL itself (`KEEPERS`) is written once, in the transaction that records the event's first try.
"""

import asyncio
import random
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import structlog

from quartet import catalog
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import letters, outbox
from quartet.stores.outbox import Event
from quartet.sync import store
from quartet.sync.consumers import CONSUMERS, KEEPERS, TOPICS
from quartet.sync.products import sync_copies
from quartet.sync.store import Lease
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.sync")

PIPELINE = "outbox"
ATTEMPTS = 8
AT_ONCE = 16
AWAY_SECONDS = 1.0
LONGEST_SECONDS = 300.0
_OF_STOCK = ("stock.changed", "order.placed", "canary.sung")


PIECES = tuple(f"{PIPELINE} {part}" for part in range(outbox.PARTS))


async def relay(shop: Shop, lease: Lease = store.NO_LEASE) -> int:
    """Delivers one batch of events of the leased parts; returns how many it took. No transaction is open during calls
    to other stores.

    Raises StoreUnavailable only for PostgreSQL; an outage of another store postpones the events that need it. Raises
    LeaseLost if the parts belong to another worker by now, which delivers the same events again.
    """
    parts = [part for part, piece in enumerate(PIECES) if not lease.tokens or piece in lease.tokens]
    async with shop.stores.pg.read() as read:
        # All waiting events of a product's price and stock: it is written once per batch, however often it changed. But
        # limited in the number of products: after a burst, new changes would wait for up to two very large batches.
        batch, most = shop.settings.sync_batch, shop.settings.sync_waiting
        events = await outbox.due(read, batch, parts, topics=TOPICS, slow=CONSUMERS.keys(), most=max(batch, most))
    if not events:
        return 0
    await shop.step("claimed")
    stock = [event for event in events if event.topic in _OF_STOCK]
    others = sorted((e for e in events if e.topic not in _OF_STOCK), key=lambda e: (e.key, e.id))
    gate = asyncio.Semaphore(AT_ONCE)
    jobs = [_deliver_stock(shop, stock)] if stock else []
    jobs += [_deliver_key(shop, list(same), gate) for _, same in groupby(others, key=lambda e: e.key)]
    outcomes = [outcome for part in await asyncio.gather(*jobs) for outcome in part]
    await shop.step("delivered")
    await _record_outcomes(shop, outcomes, lease)
    await shop.step("forgotten")
    return len(events)


Outcome = tuple[Event, Exception | None]


async def _deliver_stock(shop: Shop, events: Sequence[Event]) -> list[Outcome]:
    """Updates price and stock of SKUs: each product once, however many events. Search follows by the change stream. An
    event that can't be parsed blocks no other."""
    skus: set[str] = set()
    outcomes: list[Outcome] = []
    legible: list[Event] = []
    for event in events:
        try:
            skus.update(_skus(event))
            legible.append(event)
        except Exception as error:
            outcomes.append((event, error))
    failure: Exception | None = None
    try:
        ids = await catalog.product_ids_of_skus(shop.stores.mongo, skus)
        await sync_copies(shop, set(ids.values()))
    except Exception as error:
        failure = error
    return outcomes + [(event, failure) for event in legible]


def _skus(event: Event) -> list[str]:
    """An order placed is one event for all its lines; every other change of stock is one event per SKU."""
    return [line["sku"] for line in event.payload.get("items", ())] if event.topic == "order.placed" else [event.key]


async def _deliver_key(shop: Shop, events: Sequence[Event], gate: asyncio.Semaphore) -> list[Outcome]:
    """Delivers one key's events in order; after a failure the rest of them wait."""
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
    """Calls the event's consumers. An event without any is just deleted from the outbox."""
    for consumer in CONSUMERS.get(event.topic, ()):
        await consumer(shop, event)
        await shop.step("consumer told")


async def _record_outcomes(shop: Shop, outcomes: Sequence[Outcome], lease: Lease) -> None:
    delivered = [event.id for event, error in outcomes if error is None]
    away = [event.id for event, error in outcomes if isinstance(error, StoreUnavailable)]
    failed = [(e, error) for e, error in outcomes if error is not None and not isinstance(error, StoreUnavailable)]
    dead = [(event, error) for event, error in failed if event.attempts + 1 >= ATTEMPTS]
    fresh = [event for event, _ in outcomes if event.attempts == 0]
    async with shop.stores.pg.tx() as tx:
        # Stored at the first try, even if that fails: an e-mail does not wait until Redis is back.
        for keep in KEEPERS:
            await keep(tx, fresh)
        payloads = await outbox.payloads(tx, [event.id for event, _ in dead])
        await outbox.delete(tx, delivered + [event.id for event, _ in dead])
        if away:
            await outbox.postpone(tx, away, AWAY_SECONDS * random.uniform(0.5, 1))
            await store.count_retry(tx, PIPELINE)
        # Events processed together fail with the same error: logged once.
        for event, error in {id(error): (event, error) for event, error in reversed(failed)}.values():
            log.warning(
                "event not carried", topic=event.topic, key=event.key, attempt=event.attempts + 1, error=repr(error)
            )
        await outbox.fail(tx, {event.id: min(2.0**event.attempts, LONGEST_SECONDS) for event, _ in failed})
        for event, error in dead:
            log.error("event given up", topic=event.topic, key=event.key, exc_info=error)
        await letters.add_dead_letters(
            tx, PIPELINE, [_letter(event, payloads.get(event.id, {}), error) for event, error in dead]
        )
        await store.save_position(tx, PIPELINE, None, caught_up_at=shop.clock.now(), items=len(delivered), lease=lease)


def _letter(event: Event, payload: dict[str, Any], error: Exception) -> tuple[str, dict[str, Any], str]:
    held = {"topic": event.topic, "key": event.key, "payload": payload, "at": event.created_at.isoformat()}
    return str(event.event_id), held, f"{type(error).__name__}: {error}"
