"""A new search index beside the live one, filled from the catalog; then the alias is moved in one step.

While it is being built every batch of the worker writes to both, under its own number, and the build's batches are
numbered like any other: the newer one wins in the new index as it does in the live one. The progress is stored in
PostgreSQL, so the build is resumed after a crash. The new index goes live only once it has been compared with the
catalog and found equal, and not while a product is a dead letter.

The index that was live before is kept. It is not written to; to go back, it is treated as the one being built: all
differences are written into it, by the same comparison, before the alias moves.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from time import monotonic

import structlog

from quartet import catalog, search
from quartet.kernel.errors import Conflict, StoreUnavailable
from quartet.kernel.fingerprints import BUCKETS
from quartet.sync import compare, store
from quartet.sync.compare import Suspects
from quartet.sync.products import PIPELINE, fill, sync_products
from quartet.sync.store import Rebuild
from quartet.sync.tasks import end
from quartet.web import trail
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.sync")

# The lock's name: one rebuild at a time over all processes.
LOCK_NAME = "quartet reindex"
TRIES = 30
# Products per bulk request, concurrent ones, and how many are under way: the next is read and built while the engine
# works on those before it.
BULK = 1_000
AT_ONCE = 2
UNDER_WAY = 3
# Products whose whole documents are compared before an index goes live, and from how many places they are taken.
SAMPLED = 1_000
SAMPLES = 8


async def ask(shop: Shop, reason: str, actor: str | None = None, *, back: bool = False) -> Rebuild:
    """Requests a rebuild by the worker, or a rollback (`back`) to the former index; returns the open one if there is
    one. `actor`: who requested it, for the audit trail."""
    async with shop.stores.pg.tx() as tx:
        asked = await store.ask_rebuild(tx, reason, back=back)
        if actor is not None:
            await trail.record(tx, actor, "sync.reindex", "rebuild", asked.id, after=asked)
        return asked


async def last(shop: Shop) -> Rebuild | None:
    """The latest rebuild, in whatever state."""
    async with shop.stores.pg.read() as read:
        return await store.last_rebuild(read)


async def reindex(shop: Shop, *, reason: str = "asked for", back: bool = False) -> Rebuild:
    """Requests a rebuild and runs it in this process; an interrupted one is resumed. It is still `building` at the end,
    with the reason in `error`, if dead letters keep it from going live.

    Raises Conflict if there is nothing to go `back` to, or another rebuild is open; StoreUnavailable (the rebuild then
    stays open, for the worker); and whatever else made it fail.
    """
    asked = await ask(shop, reason, back=back)
    if back and asked.kind != "back":
        raise Conflict("a new index is being built just now")
    async with shop.stores.pg.advisory_lock(LOCK_NAME) as holds_lock:
        async with shop.stores.pg.read() as read:
            opened = await store.open_rebuild(read)
            if opened is None or opened.id != asked.id:
                return await store.get_rebuild(read, asked.id)  # another process did it while we waited for the lock
        try:
            await _rebuild(shop, opened, holds_lock)
        except StoreUnavailable:
            raise
        except Exception as error:
            _check_lock(holds_lock)
            async with shop.stores.pg.once() as tx:
                await store.end_rebuild(tx, opened, f"{type(error).__name__}: {error}")
            await search.abandon_next(shop.stores.search, shop.settings)
            raise
    async with shop.stores.pg.read() as read:
        return await store.get_rebuild(read, asked.id)


def _check_lock(holds_lock: Callable[[], bool]) -> None:
    """Raises if the lock was lost with a connection: another process may be at the rebuild by now, and this one must
    neither end it nor put its index live."""
    if not holds_lock():
        raise StoreUnavailable("postgres", "another may be at the rebuild by now")


async def _rebuild(shop: Shop, rebuild: Rebuild, holds_lock: Callable[[], bool]) -> None:
    stores, settings = shop.stores, shop.settings
    # Batches also write to the live index meanwhile, which the engine may have lost: create it if so.
    await search.prepare(stores.search, settings)
    if rebuild.index_name is None or await stores.search.alias_target(settings.search_alias) != rebuild.index_name:
        rebuild = await _with_next_index(shop, rebuild)
        if rebuild.kind == "new":
            await _fill(shop, rebuild)
        else:
            await _catch_up(shop, search.next_alias(settings))
        await shop.step("filled")
        if await _is_blocked(shop, rebuild):
            return
        await search.make_ready(stores.search, settings)
        await _verify(shop, rebuild)
        if await _is_blocked(shop, rebuild):  # by dead letters from `_verify`
            return
        assert rebuild.index_name is not None
        _check_lock(holds_lock)
        await search.go_live(stores.search, settings, rebuild.index_name)
        await shop.step("live")
    else:  # interrupted after going live: without a stream position, changes since then are only found by comparing
        await _catch_up(shop, settings.search_alias)
    await search.invalidate_answers(shop)
    async with stores.pg.once() as tx:
        await store.end_rebuild(tx, rebuild, None)


async def _with_next_index(shop: Shop, rebuild: Rebuild) -> Rebuild:
    """The rebuild with an index behind the next alias: the one it began with, or else a fresh one."""
    stores, settings = shop.stores, shop.settings
    if rebuild.index_name is not None and await search.next_index(stores.search, settings) == rebuild.index_name:
        return rebuild
    make = search.build_next if rebuild.kind == "new" else search.prepare_rollback
    index = await make(stores.search, settings)
    await shop.step("made")
    # From the buckets' index: to count documents they would have to be read.
    total, _ = (await catalog.sums(stores.mongo, 0, BUCKETS)).get(0, (0, 0))
    async with stores.pg.once() as tx:
        await store.begin_rebuild(tx, rebuild, index, total)
        return await store.get_rebuild(tx, rebuild.id)


async def _fill(shop: Shop, rebuild: Rebuild) -> None:
    """Fills the index from the stored progress on, in order of buckets, with `AT_ONCE` concurrent bulks."""
    bulks = asyncio.Semaphore(AT_ONCE)
    began, before, done = monotonic(), rebuild.done, rebuild.done
    width = max(1, BUCKETS * BULK // max(rebuild.total, BULK))
    lows = deque(range(rebuild.upto, BUCKETS, width))
    under_way: deque[tuple[int, asyncio.Task[tuple[int, set[str]]]]] = deque()
    try:
        while lows or under_way:
            while lows and len(under_way) < UNDER_WAY:
                low = lows.popleft()
                high = min(low + width, BUCKETS)
                under_way.append((high, asyncio.create_task(fill(shop, low, high, bulks))))
            upto, task = under_way[0]
            number, _ = await task
            under_way.popleft()
            await shop.step("batch")
            done += number
            rate = (done - before) / max(monotonic() - began, 0.001)
            async with shop.stores.pg.once() as tx:
                await store.advance_rebuild(tx, rebuild, upto, done, rate)
    finally:
        await end(task for _, task in under_way)


async def _catch_up(shop: Shop, alias: str) -> None:
    """Brings a formerly filled index up to date. One comparison, made once every new batch writes to this index too,
    finds everything it lacks: the products of a batch that began earlier and is unfinished differ from their notes."""
    await shop.stores.search.refresh(alias)
    found = await compare.compare_ranges(shop, alias=alias)
    await _repair(shop, found.suspects)


async def _repair(shop: Shop, ids: Collection[str]) -> set[str]:
    """Writes what differs, whether or not the cache is up: that is told of a change by the batch that processes it."""
    return await sync_products(shop, ids, cause="doubt", failed_invalidations=set())


async def _is_blocked(shop: Shop, rebuild: Rebuild) -> bool:
    """Whether dead letters keep the rebuild from going live: rejected products would disappear from search. Not if the
    live index is empty: then there is nothing to lose."""
    async with shop.stores.pg.read() as read:
        letters = await store.count_blocking_letters(read, rebuild, PIPELINE)
    if not letters or not await shop.stores.search.count(shop.settings.search_alias):
        return False
    why = f"{letters} products lie among the dead letters: replay or drop them, and it goes on"
    log.warning("the new index does not go live", why=why)
    async with shop.stores.pg.once() as tx:
        await store.block_rebuild(tx, rebuild, why)
    return True


async def _verify(shop: Shop, rebuild: Rebuild) -> None:
    """Compares the whole new index with the catalog by counts and fingerprints, and a sample of whole documents, and
    processes what differs until nothing does, except rejected products. Changes after that comparison are the worker's,
    which writes to both indices."""
    alias = search.next_alias(shop.settings)
    found = await compare.compare_ranges(shop, alias=alias)
    await _until_equal(shop, rebuild, found.suspects, lambda _: compare.recheck(shop, found, alias=alias))
    ids = await _sample(shop, rebuild, alias)
    suspects = await compare.read_and_compare(shop, ids, alias=alias)
    await _until_equal(shop, rebuild, suspects, lambda left: compare.read_and_compare(shop, left, alias=alias))
    await shop.step("settled")


async def _sample(shop: Shop, rebuild: Rebuild, alias: str) -> set[str]:
    """Ids of a random sample of products, from both the catalog and the index."""
    ids: set[str] = set()
    width = max(1, BUCKETS * SAMPLED // max(rebuild.total, SAMPLED) // SAMPLES)
    for low in random.sample(range(BUCKETS), SAMPLES):
        ids |= (await catalog.fingerprints(shop.stores.mongo, low, low + width)).keys()
        ids |= (await search.fingerprints(shop.stores.search, alias, low, low + width)).keys()
    return ids


async def _until_equal(
    shop: Shop, rebuild: Rebuild, suspects: Suspects, recheck: Callable[[Collection[str]], Awaitable[Suspects]]
) -> None:
    """Processes the suspects until none differs in the same way as before. A product that keeps changing differs in
    another way each time, and so counts as processed."""
    async with shop.stores.pg.read() as read:
        given_up = set((await store.get_rebuild(read, rebuild.id)).without)
    for _ in range(TRIES):
        suspects = {id_: parts for id_, parts in suspects.items() if id_ not in given_up}
        if not suspects:
            return
        given_up |= await _repair(shop, suspects)
        await shop.stores.search.refresh(search.next_alias(shop.settings))
        suspects = compare.persisting(suspects, await recheck(suspects))
    raise RuntimeError(f"{len(suspects)} products differ, whatever is tried: {sorted(suspects)[:5]}")
