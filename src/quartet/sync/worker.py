"""The worker: everything that happens behind the API, each in a loop of its own that no outage ends."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter, Gauge

from quartet import checkout, search
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import outbox
from quartet.sync import changes, relay, store
from quartet.sync.products import PIPELINE, Step, carry, compare, unwatched
from quartet.sync.reindex import reindex
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.worker")

# One worker works, others stand by.
ALONE = "quartet worker"
RELAY_IDLE_SECONDS = 0.1
RECOVER_SECONDS = 1.0
SLICE_SECONDS = 1.0
PASS_SECONDS = 30.0
WATCH_SECONDS = 1.0
REBUILD_SECONDS = 2.0
LONGEST_PAUSE = 5.0
STEADY_SECONDS = 60.0

FAILURES = Counter("quartet_worker_failures", "Times a loop of the worker began anew.", ["loop"])
CARRIED = Counter("quartet_worker_carried", "Events taken from the outbox.")
DIFFERING = Counter("quartet_worker_differing", "Products that the full comparison found different.")
LAG = Gauge("quartet_sync_lag_seconds", "How far a pipeline is behind.", ["pipeline"])
DEAD = Gauge("quartet_sync_dead_letters", "What could not be carried.", ["pipeline"])

Loop = Callable[[Shop, Step], Awaitable[None]]


async def run_worker(shop: Shop, stop: asyncio.Event, *, step: Step = unwatched) -> None:
    """Works until `stop` is set. Stores may come and go meanwhile; of several workers one works at a time, and another
    goes on at once when that one ends."""
    await together(_until(stop), _keep("worker", shop, _lead, step))


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _lead(shop: Shop, step: Step) -> None:
    loops: dict[str, Loop] = {
        "changes": _changes,
        "outbox": _outbox,
        "rebuilds": _rebuilds,
        "comparison": _comparison,
        "recovery": _recovery,
        "measures": _measures,
    }
    async with shop.stores.pg.alone(ALONE) as still:
        log.info("worker works")
        await together(_while(still), *(_keep(name, shop, loop, step) for name, loop in loops.items()))


async def _while(still: Callable[[], bool]) -> None:
    while still():  # noqa: ASYNC110 — what changes is a connection's state
        await asyncio.sleep(WATCH_SECONDS)


async def _keep(name: str, shop: Shop, loop: Loop, step: Step) -> None:
    """Runs a loop for ever: when it fails, it begins anew after a pause that grows and starts small again once it has
    run for a while."""
    clock = asyncio.get_running_loop()
    task = asyncio.current_task()
    pause = 0.1
    # A store that fails while the loop is being cancelled hides the cancellation.
    while task is None or not task.cancelling():
        began = clock.time()
        try:
            await loop(shop, step)
        except StoreUnavailable as away:
            log.warning("a store is away", loop=name, store=away.store, detail=away.detail)
        except Exception as error:
            log.error("a loop failed", loop=name, exc_info=error)
        FAILURES.labels(name).inc()
        pause = 0.1 if clock.time() - began > STEADY_SECONDS else min(pause * 2, LONGEST_PAUSE)
        await asyncio.sleep(pause * random.uniform(0.5, 1))


async def _changes(shop: Shop, step: Step) -> None:
    try:
        await changes.follow(shop, step=step)
    except Exception:
        async with shop.stores.pg.once() as tx:
            await store.count_retry(tx, changes.PIPELINE)
        raise


async def _outbox(shop: Shop, step: Step) -> None:
    while True:
        taken = await relay.relay(shop, step=step)
        CARRIED.inc(taken)
        if not taken:
            # Asked rather than notified: NOTIFY takes a lock over the whole database at each commit that sends one.
            await asyncio.sleep(RELAY_IDLE_SECONDS)


async def _rebuilds(shop: Shop, step: Step) -> None:
    """Those asked for, those that a crash left, and one whenever the live index is gone or of another definition."""
    while True:
        async with shop.stores.pg.read() as read:
            opened = await store.open_rebuild(read)
        if opened is not None:
            await reindex(shop, reason=opened.reason, step=step)
        elif not await search.is_current(shop.stores.search, shop.settings):
            await search.prepare(shop.stores.search, shop.settings)
            await reindex(shop, reason="the index was gone, or of an earlier definition", step=step)
        await asyncio.sleep(REBUILD_SECONDS)


async def _comparison(shop: Shop, _step: Step) -> None:
    """Goes round the whole catalog, slice by slice: what no event told of (history that an engine forgot without saying
    so, a write past every room) is found here."""
    after = ""
    while True:
        part = await compare(shop, after)
        if part.differing:
            log.info("comparison found differences", products=len(part.differing))
            DIFFERING.inc(len(part.differing))
            await carry(shop, part.differing)
        after = part.upto or ""
        if not part.differing:
            await asyncio.sleep(SLICE_SECONDS if after else PASS_SECONDS)


async def _recovery(shop: Shop, _step: Step) -> None:
    while True:
        await checkout.recover(shop)
        await asyncio.sleep(RECOVER_SECONDS)


async def _measures(shop: Shop, _step: Step) -> None:
    """For Prometheus; GET /sync reads the same from PostgreSQL."""
    while True:
        async with shop.stores.pg.read() as read:
            positions = await store.positions(read)
            letters = await store.letter_counts(read)
            _, oldest = await outbox.depth(read)
        now = shop.clock.now()
        for position in positions:
            if position.caught_up_at is not None:
                LAG.labels(position.pipeline).set((now - position.caught_up_at).total_seconds())
        LAG.labels("outbox").set((now - oldest).total_seconds() if oldest else 0)
        for pipeline in (PIPELINE, relay.PIPELINE):
            DEAD.labels(pipeline).set(letters.get(pipeline, 0))
        await asyncio.sleep(5)
