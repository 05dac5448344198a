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
from quartet.sync.products import carry, may_be_ours, tell, tell_all, without_ours
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
TELL_SECONDS = 0.03
# The position is saved this often even without changes: else a quiet catalog's would fall out of the history (oplog).
SAVE_SECONDS = 1.0


@dataclass
class Gathered:
    """Changes that the stream has reported and no batch has taken. `ids` are in the order of their first change, each
    with the position before it; `token` is the last change's resume token; `untold` are those not yet passed to the
    cache; `carried` counts the products processed since a position was last saved, or could not be, at `saved_at`.
    `owed` are processed products whose cached pages could not be invalidated: no position is saved before they are."""

    clock: Clock
    ids: dict[str, Any] = field(default_factory=dict)
    token: Any = None
    drained_at: datetime | None = None
    untold: dict[str, None] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    owed: set[str] = field(default_factory=set)
    carried: int = 0
    saved_at: float = 0.0

    def add(self, id_: str | None, token: Any) -> None:
        """Adds a change; None: the stream has no more for now, so everything so far has been reported."""
        self.opened.set()
        if id_ is None:
            self.drained_at = self.clock.now()
        else:
            self.ids.setdefault(id_, self.token)
            self.untold[id_] = None
            self.news.set()
            self.heard.set()
        self.token = token

    def take(self, most: int) -> tuple[set[str], Any, datetime | None]:
        """At most `most` of the ids that have waited longest; the position up to which nothing is left then; and, if
        none are left, the time when the stream was last idle. Limited, since with all ids in one batch, new changes
        would wait for up to two such batches."""
        found = set(islice(self.ids, most))
        for id_ in found:
            del self.ids[id_]
        self.taken.set()
        if self.ids:
            return found, next(iter(self.ids.values())), None
        self.news.clear()
        return found, self.token, self.drained_at

    def put_back(self, ids: set[str]) -> None:
        """Puts a failed batch back at the front, without a position: none is saved until the batch is processed."""
        self.ids = dict.fromkeys(ids) | self.ids
        self.news.set()

    def take_untold(self, most: int) -> set[str]:
        """At most `most` of the changes not yet passed to the cache that have waited longest."""
        found = set(islice(self.untold, most))
        for id_ in found:
            del self.untold[id_]
        if not self.untold:
            self.heard.clear()
        return found


async def follow(shop: Shop, lease: Lease = store.NO_LEASE) -> None:
    """Processes changes as they come, from the saved position on; runs until it is cancelled.

    Without a position (the first start, or the history is gone) the index is rebuilt once the stream is open: changes
    meanwhile are processed as usual, but no position is saved before the rebuild is done. Raises any failure, and
    LeaseLost if the stream belongs to another worker by now; call it again then.
    """
    async with shop.stores.pg.read() as read:
        position = await store.position(read, PIPELINE)
    gathered = Gathered(shop.clock)
    try:
        await together(
            _read(shop, gathered, position),
            _tell(shop, gathered),
            _carry(shop, gathered, lease, anew=position is None),
        )
    except LostPosition:
        log.warning("the change stream's position is lost; the index will be rebuilt")
        async with shop.stores.pg.once() as tx:
            await store.discard_position(tx, PIPELINE, lease)


async def _read(shop: Shop, gathered: Gathered, position: Any) -> None:
    async with aclosing(catalog.watch(shop.stores.mongo, position)) as stream:
        async for id_, token in stream:
            gathered.add(id_, token)
            if id_ is None:
                await asyncio.sleep(IDLE_SECONDS)
            elif len(gathered.ids) >= shop.settings.sync_waiting:
                gathered.taken.clear()
                await gathered.taken.wait()
    raise StoreUnavailable("mongodb", "the change stream has ended")


async def _tell(shop: Shop, gathered: Gathered) -> None:
    """Invalidates cached pages as soon as changes are reported. The batch does it as well, and does not go on before it
    has succeeded; but the batch may have to wait for the previous one, and that one for search."""
    while True:
        await gathered.heard.wait()
        with suppress(Exception):  # the batch meets the same failure and handles it
            await tell(shop, gathered.take_untold(shop.settings.sync_batch))
        await asyncio.sleep(TELL_SECONDS)


async def _carry(shop: Shop, gathered: Gathered, lease: Lease, *, anew: bool) -> None:
    if anew:
        await gathered.opened.wait()
        await _rebuild(shop, gathered)
    while True:
        await _gather(shop, gathered)
        await carry_batch(shop, gathered, lease)


async def _rebuild(shop: Shop, gathered: Gathered) -> None:
    """Rebuilds the index, and meanwhile keeps the live one updated, since a rebuild may take long. If a store needed
    for these updates is down, they stop until the rebuild, which may not need that store, has ended."""
    rebuild = asyncio.create_task(reindex(shop, reason="the change stream has no position to resume from"))
    try:
        if await shop.stores.search.alias_target(shop.settings.search_alias) is not None:
            with suppress(StoreUnavailable):
                while not rebuild.done():
                    await _gather(shop, gathered)
                    await carry_batch(shop, gathered, saves=False)
        await rebuild
    finally:
        await end([rebuild])


async def _gather(shop: Shop, gathered: Gathered) -> None:
    """Waits for a batch: all changes reported within a short time after the first."""
    try:
        async with asyncio.timeout(SAVE_SECONDS):
            await gathered.news.wait()
        if len(gathered.ids) < shop.settings.sync_batch:
            ours = may_be_ours(shop, gathered.ids.keys())
            await asyncio.sleep(ECHO_SECONDS if ours else shop.settings.sync_gather_seconds)
    except TimeoutError:
        pass  # nothing new: an empty batch, so that a recent position is saved


async def carry_batch(shop: Shop, gathered: Gathered, lease: Lease = store.NO_LEASE, *, saves: bool = True) -> None:
    """Processes the changes that have waited longest, then, with `saves`, saves the position after them. While only the
    cache is down search is kept up to date, up to `sync_waiting` products. Raises LeaseLost, StoreUnavailable."""
    ids, token, drained_at = gathered.take(shop.settings.sync_batch)
    await shop.step("gathered")
    try:
        foreign = await without_ours(shop, ids)
        await carry(shop, foreign, untold=gathered.owed)
        if len(gathered.owed) > shop.settings.sync_waiting:
            raise StoreUnavailable("redis", "too many cached pages wait for it to be back")
    except StoreUnavailable:
        gathered.put_back(ids)
        raise
    await shop.step("carried")
    gathered.carried += len(foreign)
    is_due = monotonic() - gathered.saved_at >= SAVE_SECONDS
    if not is_due and (gathered.owed or not foreign):
        return
    gathered.saved_at = monotonic()
    if await tell_all(shop, gathered.owed) and saves and token is not None:
        async with shop.stores.pg.once() as tx:
            await store.save_position(tx, PIPELINE, token, caught_up_at=drained_at, items=gathered.carried, lease=lease)
        gathered.carried = 0
        await shop.step("saved")
