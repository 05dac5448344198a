"""A new search index beside the live one, filled from the catalog, then the alias moved in one step.

While it is being built every batch of the worker writes to both, under its own number, and the build's batches are
numbered like any other: what is newer wins in the new index as it does in the live one. Nobody sees the new one until
it has been compared with the catalog and found equal.
"""

from collections.abc import Callable

from quartet import catalog, search
from quartet.kernel.errors import StoreUnavailable
from quartet.sync import store
from quartet.sync.products import BATCH, Step, carry, compare, compare_these, unwatched
from quartet.sync.store import Rebuild
from quartet.web.dependencies import Shop

Progress = Callable[[int, int], None]

# One at a time over all processes.
ALONE = "quartet reindex"
TRIES = 30


def silent(done: int, total: int) -> None:
    """For who does not watch."""


async def ask(shop: Shop, reason: str) -> Rebuild:
    """Asks the worker for a rebuild; while one is open already, that one."""
    async with shop.stores.pg.tx() as tx:
        return await store.ask_rebuild(tx, reason)


async def reindex(
    shop: Shop, progress: Progress = silent, *, reason: str = "asked for", step: Step = unwatched
) -> Rebuild:
    """Asks for a rebuild and does it here; `progress(done, total)` counts products. One that crashed is begun anew.

    Raises StoreUnavailable (the rebuild then stays open, for the worker) and whatever else made it fail.
    """
    asked = await ask(shop, reason)
    async with shop.stores.pg.alone(ALONE):
        async with shop.stores.pg.read() as read:
            opened = await store.open_rebuild(read)
            if opened is None or opened.id != asked.id:
                return await store.get_rebuild(read, asked.id)  # another did it while we waited for our turn
        return await _rebuild(shop, opened, progress, step)


async def _rebuild(shop: Shop, rebuild: Rebuild, progress: Progress, step: Step) -> Rebuild:
    stores, settings = shop.stores, shop.settings
    index = await search.build_next(stores.search, settings)
    step("made")
    total = await stores.mongo.collection(catalog.PRODUCTS).count({})
    async with stores.pg.once() as tx:
        await store.begin_rebuild(tx, rebuild, total)
    try:
        refused = await _fill(shop, rebuild, total, progress, step)
        await _settle(shop, refused)
        step("filled")
        await search.go_live(stores.search, settings, index)
        step("live")
    except StoreUnavailable:
        raise
    except Exception as error:
        async with stores.pg.once() as tx:
            await store.end_rebuild(tx, rebuild, f"{type(error).__name__}: {error}")
        await search.sweep(stores.search, settings)
        raise
    async with stores.pg.once() as tx:
        await store.end_rebuild(tx, rebuild, None)
    async with stores.pg.read() as read:
        return await store.get_rebuild(read, rebuild.id)


async def _fill(shop: Shop, rebuild: Rebuild, total: int, progress: Progress, step: Step) -> set[str]:
    """Everything, in order of ids; answers what the engine refuses."""
    refused: set[str] = set()
    done, after = 0, ""
    while ids := await catalog.ids_after(shop.stores.mongo, after, BATCH):
        refused |= await carry(shop, ids, only_next=True)
        step("batch")
        done, after = done + len(ids), ids[-1]
        total = max(total, done)
        progress(done, total)
        async with shop.stores.pg.once() as tx:
            await store.advance_rebuild(tx, rebuild, done, total)
    return refused


async def _settle(shop: Shop, refused: set[str]) -> None:
    """Compares the whole of the new index with the catalog, and carries what differs until it does not; what is refused
    can't be the same. What changes after that comparison is the worker's, who writes to both."""
    alias = search.next_alias(shop.settings)
    differing: set[str] = set()
    after: str | None = ""
    await shop.stores.search.refresh(alias)
    while after is not None:
        part = await compare(shop, after, alias=alias)
        differing |= part.differing
        after = part.upto
    for _ in range(TRIES):
        differing -= refused
        if not differing:
            return
        refused |= await carry(shop, differing, only_next=True)
        await shop.stores.search.refresh(alias)
        # Looked at at once, so that even a product that is always changing is seen unchanged one time.
        differing = await compare_these(shop, differing, alias=alias)
    raise RuntimeError(
        f"{len(differing)} products differ from the new index, whatever is tried: {sorted(differing)[:5]}"
    )
