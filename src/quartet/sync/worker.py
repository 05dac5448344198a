"""The worker: everything that runs in the background, each job in a loop of its own that survives outages."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import structlog
from prometheus_client import Counter

from quartet import access, catalog, checkout, discovery, hooks, merchandising, notify, payments, search
from quartet.kernel.errors import StoreUnavailable
from quartet.stores.migrate import is_newer
from quartet.sync import changes, compare, freshness, metrics, relay, store
from quartet.sync.leases import LeaseRunner, Work
from quartet.sync.reindex import reindex
from quartet.sync.store import Lease, LeaseLost
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.worker")

# The interval between the starts of two batches of events.
RELAY_SECONDS = 0.1
RECOVER_SECONDS = 1.0
REBUILD_SECONDS = 2.0
MAIL_IDLE_SECONDS = 0.5
ACCESS_SECONDS = 5.0
ACCESS_TURNS = 12
STALLED_SECONDS = 5.0
SWEEP_SECONDS = 60.0
COUNT_SECONDS = 60.0
COUNT_TURNS = 60
LONGEST_PAUSE = 5.0
# The longest pause of a loop whose store is down: a recovery goes unnoticed no longer than this.
AWAY_SECONDS = 1.0
UNAUTHORIZED_SECONDS = 60.0
STEADY_SECONDS = 60.0

FAILURES = Counter("quartet_worker_failures", "Times a loop of the worker began anew.", ["loop"])
CARRIED = Counter("quartet_worker_carried", "Events taken from the outbox.")

Loop = Callable[[Shop, Lease], Awaitable[None]]
Sleep = Callable[[float], Awaitable[None]]


async def run_worker(shop: Shop, stop: asyncio.Event) -> None:
    """Works until `stop` is set, through outages of stores. Several workers share the work, and when one ends the
    others take over its part."""
    always = {"worker": _run_leased, "measures": _measures}
    await together(stop.wait(), *(_supervise(name, shop, loop, store.NO_LEASE) for name, loop in always.items()))


async def _run_leased(shop: Shop, _: Lease) -> None:
    works = {name: Work(partial(_supervise, name, shop, loop), PIECES[name]) for name, loop in LOOPS.items()}
    await LeaseRunner(shop, works).run()


async def _supervise(name: str, shop: Shop, loop: Loop, lease: Lease, *, sleep: Sleep = asyncio.sleep) -> None:
    """Runs a loop for ever, restarting it after a failure with an exponential backoff, which is reset once the loop has
    run for a while. If only a store is down the backoff stays shorter, since a try is cheap: the circuit breaker
    refuses at once."""
    clock = asyncio.get_running_loop()
    task = asyncio.current_task()
    pause = 0.1
    # A store error during a cancellation can replace the CancelledError, so check for it here.
    while task is None or not task.cancelling():
        began, longest = clock.time(), LONGEST_PAUSE
        try:
            await loop(shop, lease)
        except StoreUnavailable as away:
            longest = AWAY_SECONDS
            log.warning("a store is away", loop=name, store=away.store, detail=away.detail)
        except LeaseLost:
            log.info("another worker goes on", loop=name)
        except Exception as error:
            log.error("a loop failed", loop=name, exc_info=error)
        FAILURES.labels(name).inc()
        pause = 0.1 if clock.time() - began > STEADY_SECONDS else min(pause * 2, longest)
        await sleep(pause * random.uniform(0.5, 1))


async def _changes(shop: Shop, lease: Lease) -> None:
    try:
        await changes.follow(shop, lease)
    except LeaseLost:
        raise
    except Exception:
        async with shop.stores.pg.once() as tx:
            await store.count_retry(tx, changes.PIPELINE)
        raise


async def _outbox(shop: Shop, lease: Lease) -> None:
    clock = asyncio.get_running_loop()
    while True:
        began = clock.time()
        taken = await relay.relay(shop, lease)
        CARRIED.inc(taken)
        # Polling instead of LISTEN: a commit with a NOTIFY takes a lock over the whole database. And with a pause, so
        # that sales meanwhile form one batch, in which a product sold several times is written once.
        if taken < shop.settings.sync_batch:
            await asyncio.sleep(RELAY_SECONDS - (clock.time() - began))


async def _rebuilds(shop: Shop, _: Lease) -> None:
    while True:
        await rebuild(shop)
        await asyncio.sleep(REBUILD_SECONDS)


async def rebuild(shop: Shop) -> None:
    """Runs a rebuild if one was requested or left by a crash, or if the live index is gone or has another
    definition."""
    async with shop.stores.pg.read() as read:
        opened = await store.open_rebuild(read)
    if opened is not None:
        await reindex(shop, reason=opened.reason)
    elif await _lacks_index(shop):
        await reindex(shop, reason="the index was gone, or of an earlier definition")


async def _lacks_index(shop: Shop) -> bool:
    """Whether the live index is gone or of an earlier definition. A definition that a newer version may have made is
    left alone: old and new workers would otherwise rebuild in turns."""
    engine, settings = shop.stores.search, shop.settings
    if await search.is_current(engine, settings):
        return False
    return await engine.alias_target(settings.search_alias) is None or not await is_newer(shop.stores.pg)


async def _collections(shop: Shop, _: Lease) -> None:
    while True:
        try:
            await make_collections(shop)
        except StoreUnavailable as away:
            if not away.is_unauthorized:
                raise
            # Then `quartet migrate` has to, or the user that this process is to be does not exist yet.
            log.warning("collections can't be made with this login", detail=away.detail)
            await asyncio.sleep(UNAUTHORIZED_SECONDS)
        else:
            await asyncio.Event().wait()


async def make_collections(shop: Shop) -> None:
    """Creates collections with validators and indexes, since MongoDB may have been down during `quartet migrate`. Those
    of a newer version are left alone."""
    if not await is_newer(shop.stores.pg):
        await catalog.prepare(shop.stores.mongo)


async def _recovery(shop: Shop, _: Lease) -> None:
    # Opened once, not per sweep: a provider keeps its connection and access token.
    async with payments.opened_providers(shop.settings, shop.stores.pg) as providers:
        while True:
            await checkout.recover(shop, providers)
            await asyncio.sleep(RECOVER_SECONDS)


async def _access(shop: Shop, _: Lease) -> None:
    for turn in itertools.count():
        await access.republish_revocations(shop, all_of_it=turn % ACCESS_TURNS == 0)
        await asyncio.sleep(ACCESS_SECONDS)


async def _mails(shop: Shop, _: Lease) -> None:
    while True:
        if not await notify.deliver(shop):
            await asyncio.sleep(MAIL_IDLE_SECONDS)


async def _stalled(shop: Shop, _: Lease) -> None:
    """Releases what processes that were stopped keep locked in PostgreSQL, where PostgreSQL itself does not."""
    while True:
        if ended := await shop.stores.pg.end_stalled():
            log.warning("stalled connections ended", connections=ended)
        await asyncio.sleep(STALLED_SECONDS)


async def _sweeps(shop: Shop, _: Lease) -> None:
    """Deletes data that is no longer needed."""
    while True:
        async with shop.stores.pg.tx() as tx:
            await notify.sweep(tx, shop.clock.now())
            await hooks.sweep(tx, shop.clock.now())
            await payments.sweep_events(tx, shop.clock.now())
            await store.sweep_workers(tx)
            await store.sweep_freshness(tx)
        await merchandising.sweep(shop)
        await asyncio.sleep(SWEEP_SECONDS)


async def _queries(shop: Shop, _: Lease) -> None:
    """Counts queries, and credits purchases that were recorded before their search. The pause comes first, so that it
    also follows a failure, whose cause may be that counting took too long. Yesterday gets only late entries, so it is
    counted once every `COUNT_TURNS` turns; not in the first turn, since a timeout there would restart the turns."""
    for turn in itertools.count():
        await asyncio.sleep(COUNT_SECONDS)
        await merchandising.credit_late(shop)
        await merchandising.count_queries(shop, yesterday=turn % COUNT_TURNS == COUNT_TURNS - 1)


async def _measures(shop: Shop, _: Lease) -> None:
    """Keeps this process's /metrics current, also while PostgreSQL is down, and writes this process's freshness samples
    to PostgreSQL for the metrics of all."""
    while True:
        await metrics.measure(shop)
        await freshness.flush(shop)
        await asyncio.sleep(metrics.FRESH_SECONDS)


LOOPS: Mapping[str, Loop] = {
    "changes": _changes,
    "outbox": _outbox,
    "rebuilds": _rebuilds,
    "collections": _collections,
    "comparison": lambda shop, _: compare.run(shop),
    "recovery": _recovery,
    "access": _access,
    "mails": _mails,
    "webhooks": lambda shop, _: hooks.run(shop),
    "stalled": _stalled,
    "sweeps": _sweeps,
    "queries": _queries,
    "discovery": lambda shop, _: discovery.run(shop),
    "canary": lambda shop, _: freshness.run_canary(shop),
}
# The pieces of each loop's work: each loop belongs to one worker as a whole, except the outbox.
PIECES: Mapping[str, Sequence[str]] = {name: [name] for name in LOOPS} | {"outbox": relay.PIECES}
