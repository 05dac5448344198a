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
from quartet.sync.products import carry, may_be_ours, tell, without_ours
from quartet.sync.reindex import reindex
from quartet.sync.store import Lease
from quartet.sync.tasks import end, together
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.sync")

PIPELINE = "changes"
# Our own writes come back in numbers, and nothing has to be done about them.
ECHO_SECONDS = 0.2
# How often an idle stream is asked where the server itself does not wait (nx-27017 answers at once).
IDLE_SECONDS = 0.05
# What changes within this moment is told to the cache together.
TELL_SECONDS = 0.03
# Saved so often though nothing changes: the position of a quiet catalog would fall out of the history otherwise.
SAVE_SECONDS = 1.0


@dataclass
class Gathered:
    """Changes that the stream has reported and no batch has taken. `ids` come in the order of their first change, each
    with the position before it; `token` is that of the last change; `untold` are those that the cache was not told of;
    `carried` counts what was processed since a position was saved, which was at `saved_at`."""

    clock: Clock
    ids: dict[str, Any] = field(default_factory=dict)
    token: Any = None
    drained_at: datetime | None = None
    untold: dict[str, None] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    carried: int = 0
    saved_at: float = 0.0

    def add(self, id_: str | None, token: Any) -> None:
        """One change, or None when there is none for now: then all there was has been told."""
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
        """So many of those that have waited longest; the position up to which nothing is left then, and since when
        nothing was. Of all at once what changes meanwhile would wait for two rounds through all of them."""
        found = set(islice(self.ids, most))
        for id_ in found:
            del self.ids[id_]
        self.taken.set()
        if self.ids:
            return found, next(iter(self.ids.values())), None
        self.news.clear()
        return found, self.token, self.drained_at

    def put_back(self, ids: set[str]) -> None:
        """They are the first to be taken again. No position is before them that could be saved."""
        self.ids = dict.fromkeys(ids) | self.ids
        self.news.set()

    def take_untold(self, most: int) -> set[str]:
        """What the cache is to be told of; so many of those that have waited longest."""
        found = set(islice(self.untold, most))
        for id_ in found:
            del self.untold[id_]
        if not self.untold:
            self.heard.clear()
        return found


async def follow(shop: Shop, lease: Lease = store.NOBODYS) -> None:
    """Processes changes as they come, from the saved position on; runs until it is cancelled.

    Without a position (the first start, or the history is gone) the index is rebuilt once the stream is open: changes
    meanwhile are processed as ever, but no position is saved before that is done. Raises what goes wrong, and Overtaken
    when the stream belongs to another worker by now; begin again then.
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
            await store.lose(tx, PIPELINE, lease)


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
    """Invalidates cached pages as soon as changes are reported. Their batch does it too, and does not go on before it
    is done; but it may have to wait for the previous batch, and that for search."""
    while True:
        await gathered.heard.wait()
        with suppress(Exception):  # whatever is wrong the batch meets as well, and knows what to do
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
    """The live index is updated all the while, since a rebuild may take long; but not while a store is down for it: the
    rebuild may not need that one, and changes that were not processed wait for its end."""
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
    """Until there is a batch: all changes reported within a moment of the first."""
    try:
        async with asyncio.timeout(SAVE_SECONDS):
            await gathered.news.wait()
        if len(gathered.ids) < shop.settings.sync_batch:
            ours = may_be_ours(shop, gathered.ids.keys())
            await asyncio.sleep(ECHO_SECONDS if ours else shop.settings.sync_gather_seconds)
    except TimeoutError:
        pass  # nothing new: the position is saved all the same, since an old one is lost sooner


async def carry_batch(shop: Shop, gathered: Gathered, lease: Lease = store.NOBODYS, *, saves: bool = True) -> None:
    """Processes what has waited longest, then `saves` the position after it. Raises Overtaken, StoreUnavailable."""
    ids, token, drained_at = gathered.take(shop.settings.sync_batch)
    await shop.step("gathered")
    try:
        foreign = await without_ours(shop, ids)
        await carry(shop, foreign)
    except StoreUnavailable:
        gathered.put_back(ids)
        raise
    await shop.step("carried")
    gathered.carried += len(foreign)
    if saves and token is not None and (foreign or monotonic() - gathered.saved_at >= SAVE_SECONDS):
        async with shop.stores.pg.once() as tx:
            await store.save(tx, PIPELINE, token, caught_up_at=drained_at, items=gathered.carried, lease=lease)
        gathered.carried, gathered.saved_at = 0, monotonic()
        await shop.step("saved")
