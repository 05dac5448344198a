"""The catalog's change stream: changed products, collected for a moment and processed as a batch."""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import Any

import structlog

from quartet import catalog
from quartet.kernel.clock import Clock
from quartet.kernel.errors import StoreUnavailable
from quartet.stores.mongo import LostPosition
from quartet.sync import store
from quartet.sync.products import invalidate_cache, may_be_echoes, retry_invalidation, sync_products, without_echoes
from quartet.sync.reindex import reindex
from quartet.sync.store import Lease
from quartet.sync.tasks import end, together
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.sync")

PIPELINE = "changes"
# Our own writes come back through the stream (echoes) in large numbers and need no processing: collected for longer.
ECHO_SECONDS = 0.2
# The pause between polls of an idle stream: nx-27017 answers at once instead of waiting for a change.
IDLE_SECONDS = 0.05
# Changes within this time are passed to the cache together.
INVALIDATE_SECONDS = 0.03
# The position is saved this often even without changes: else a quiet catalog's would fall out of the history (oplog).
SAVE_SECONDS = 1.0


@dataclass
class ChangeBuffer:
    """Changes that the stream has reported and no batch has taken. `ids` are in the order of their first change, each
    with the position before it; `token` is the last change's resume token; `to_invalidate` are those not yet passed to
    the cache; `processed` counts the products processed since a position was last saved, or could not be, at
    `saved_at`. `failed_invalidations` are processed products whose cached pages could not be invalidated: no position
    is saved before they are."""

    clock: Clock
    ids: dict[str, Any] = field(default_factory=dict)
    token: Any = None
    drained_at: datetime | None = None
    to_invalidate: dict[str, None] = field(default_factory=dict)
    has_changes: asyncio.Event = field(default_factory=asyncio.Event)
    has_invalidations: asyncio.Event = field(default_factory=asyncio.Event)
    stream_opened: asyncio.Event = field(default_factory=asyncio.Event)
    batch_taken: asyncio.Event = field(default_factory=asyncio.Event)
    failed_invalidations: set[str] = field(default_factory=set)
    processed: int = 0
    saved_at: float = 0.0

    def add(self, id_: str | None, token: Any) -> None:
        """Adds a change; None: the stream has no more for now, so everything so far has been reported."""
        self.stream_opened.set()
        if id_ is None:
            self.drained_at = self.clock.now()
        else:
            self.ids.setdefault(id_, self.token)
            self.to_invalidate[id_] = None
            self.has_changes.set()
            self.has_invalidations.set()
        self.token = token

    def take(self, most: int) -> tuple[set[str], Any, datetime | None]:
        """At most `most` of the ids that have waited longest; the position up to which nothing is left then; and, if
        none are left, the time when the stream was last idle. Limited, since with all ids in one batch, new changes
        would wait for up to two such batches."""
        found = set(islice(self.ids, most))
        for id_ in found:
            del self.ids[id_]
        self.batch_taken.set()
        if self.ids:
            return found, next(iter(self.ids.values())), None
        self.has_changes.clear()
        return found, self.token, self.drained_at

    def requeue(self, ids: set[str]) -> None:
        """Puts a failed batch back at the front, without a position: none is saved until the batch is processed."""
        self.ids = dict.fromkeys(ids) | self.ids
        self.has_changes.set()

    def take_to_invalidate(self, most: int) -> set[str]:
        """At most `most` of the changes not yet passed to the cache that have waited longest."""
        found = set(islice(self.to_invalidate, most))
        for id_ in found:
            del self.to_invalidate[id_]
        if not self.to_invalidate:
            self.has_invalidations.clear()
        return found


async def follow(shop: Shop, lease: Lease = store.NO_LEASE) -> None:
    """Processes changes as they come, from the saved position on; runs until it is cancelled.

    Without a position (the first start, or the history is gone) the index is rebuilt once the stream is open: changes
    meanwhile are processed as usual, but no position is saved before the rebuild is done. Raises any failure, and
    LeaseLost if the stream belongs to another worker by now; call it again then.
    """
    async with shop.stores.pg.read() as read:
        position = await store.position(read, PIPELINE)
    buffer = ChangeBuffer(shop.clock)
    try:
        await together(
            _read(shop, buffer, position),
            _invalidate_cache(shop, buffer),
            _process_changes(shop, buffer, lease, anew=position is None),
        )
    except LostPosition:
        log.warning("the change stream's position is lost; the index will be rebuilt")
        async with shop.stores.pg.once() as tx:
            await store.discard_position(tx, PIPELINE, lease)


async def _read(shop: Shop, buffer: ChangeBuffer, position: Any) -> None:
    async with aclosing(catalog.watch(shop.stores.mongo, position)) as stream:
        async for id_, token in stream:
            buffer.add(id_, token)
            if id_ is None:
                await asyncio.sleep(IDLE_SECONDS)
            elif len(buffer.ids) >= shop.settings.sync_waiting:
                buffer.batch_taken.clear()
                await buffer.batch_taken.wait()
    raise StoreUnavailable("mongodb", "the change stream has ended")


async def _invalidate_cache(shop: Shop, buffer: ChangeBuffer) -> None:
    """Invalidates cached pages as soon as changes are reported. The batch does it as well, and does not go on before it
    has succeeded; but the batch may have to wait for the previous one, and that one for search."""
    while True:
        await buffer.has_invalidations.wait()
        with suppress(Exception):  # the batch meets the same failure and handles it
            await invalidate_cache(shop, buffer.take_to_invalidate(shop.settings.sync_batch))
        await asyncio.sleep(INVALIDATE_SECONDS)


async def _process_changes(shop: Shop, buffer: ChangeBuffer, lease: Lease, *, anew: bool) -> None:
    if anew:
        await buffer.stream_opened.wait()
        await _rebuild(shop, buffer)
    while True:
        await _gather(shop, buffer)
        await process_batch(shop, buffer, lease)


async def _rebuild(shop: Shop, buffer: ChangeBuffer) -> None:
    """Rebuilds the index, and meanwhile keeps the live one updated, since a rebuild may take long. If a store needed
    for these updates is down, they stop until the rebuild, which may not need that store, has ended."""
    rebuild = asyncio.create_task(reindex(shop, reason="the change stream has no position to resume from"))
    try:
        if await shop.stores.search.alias_target(shop.settings.search_alias) is not None:
            with suppress(StoreUnavailable):
                while not rebuild.done():
                    await _gather(shop, buffer)
                    await process_batch(shop, buffer, saves=False)
        await rebuild
    finally:
        await end([rebuild])


async def _gather(shop: Shop, buffer: ChangeBuffer) -> None:
    """Waits for a batch: all changes reported within a short time after the first."""
    try:
        async with asyncio.timeout(SAVE_SECONDS):
            await buffer.has_changes.wait()
        if len(buffer.ids) < shop.settings.sync_batch:
            ours = may_be_echoes(shop, buffer.ids.keys())
            await asyncio.sleep(ECHO_SECONDS if ours else shop.settings.sync_gather_seconds)
    except TimeoutError:
        pass  # nothing new: an empty batch, so that a recent position is saved


async def process_batch(shop: Shop, buffer: ChangeBuffer, lease: Lease = store.NO_LEASE, *, saves: bool = True) -> None:
    """Processes the changes that have waited longest, then, with `saves`, saves the position after them. While only the
    cache is down search is kept up to date, up to `sync_waiting` products. Raises LeaseLost, StoreUnavailable."""
    ids, token, drained_at = buffer.take(shop.settings.sync_batch)
    await shop.step("gathered")
    try:
        foreign = await without_echoes(shop, ids)
        await sync_products(shop, foreign, failed_invalidations=buffer.failed_invalidations)
        if len(buffer.failed_invalidations) > shop.settings.sync_waiting:
            raise StoreUnavailable("redis", "too many cached pages wait for it to be back")
    except StoreUnavailable:
        buffer.requeue(ids)
        raise
    await shop.step("carried")
    buffer.processed += len(foreign)
    is_due = monotonic() - buffer.saved_at >= SAVE_SECONDS
    if not is_due and (buffer.failed_invalidations or not foreign):
        return
    buffer.saved_at = monotonic()
    if await retry_invalidation(shop, buffer.failed_invalidations) and saves and token is not None:
        async with shop.stores.pg.once() as tx:
            await store.save_position(tx, PIPELINE, token, caught_up_at=drained_at, items=buffer.processed, lease=lease)
        buffer.processed = 0
        await shop.step("saved")
