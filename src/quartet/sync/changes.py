"""The catalog's change stream: which products changed, gathered for a moment, carried together."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from quartet import catalog
from quartet.kernel.clock import Clock
from quartet.kernel.errors import StoreUnavailable
from quartet.stores.mongo import LostPosition
from quartet.sync import store
from quartet.sync.products import Step, carry, unwatched
from quartet.sync.reindex import reindex
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.sync")

PIPELINE = "changes"
# Long enough that a burst becomes one batch, short beside the engine's own refresh.
GATHER_SECONDS = 0.02
# How often an idle stream is asked where the server itself does not wait (nx-27017 answers at once).
IDLE_SECONDS = 0.05
SAVE_SECONDS = 1.0
MOST_WAITING = 20_000


@dataclass
class Gathered:
    """What the stream has told since the last batch. `token` is that of the last change in `ids`."""

    clock: Clock
    ids: set[str] = field(default_factory=set)
    token: Any = None
    drained_at: datetime | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    taken: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, id_: str | None, token: Any) -> None:
        """One change, or None when there is none for now: then all there was has been told."""
        self.token = token
        self.opened.set()
        if id_ is None:
            self.drained_at = self.clock.now()
        else:
            self.ids.add(id_)
            self.news.set()

    def take(self) -> tuple[set[str], Any, datetime | None]:
        """Everything so far, with the position after it."""
        found = self.ids, self.token, self.drained_at
        self.ids = set()
        self.news.clear()
        self.taken.set()
        return found


async def follow(shop: Shop, *, step: Step = unwatched) -> None:
    """Carries changes as they come, from the saved position on; runs until it is cancelled.

    Without a position (the first start, or the history is gone) the index is rebuilt once the stream is open: what
    changes meanwhile is gathered and carried afterwards. Raises what goes wrong; begin again then.
    """
    async with shop.stores.pg.read() as read:
        position = await store.position(read, PIPELINE)
    gathered = Gathered(shop.clock)
    try:
        await together(_read(shop, gathered, position), _carry(shop, gathered, anew=position is None, step=step))
    except LostPosition:
        log.warning("the change stream's position is lost; the index will be rebuilt")
        async with shop.stores.pg.once() as tx:
            await store.lose(tx, PIPELINE)


async def _read(shop: Shop, gathered: Gathered, position: Any) -> None:
    async with aclosing(catalog.watch(shop.stores.mongo, position)) as stream:
        async for id_, token in stream:
            gathered.add(id_, token)
            if id_ is None:
                await asyncio.sleep(IDLE_SECONDS)
            elif len(gathered.ids) > MOST_WAITING:
                gathered.taken.clear()
                await gathered.taken.wait()
    raise StoreUnavailable("mongodb", "the change stream has ended")


async def _carry(shop: Shop, gathered: Gathered, *, anew: bool, step: Step) -> None:
    if anew:
        await gathered.opened.wait()
        await reindex(shop, reason="the change stream has no position to resume from", step=step)
    while True:
        try:
            await asyncio.wait_for(gathered.news.wait(), SAVE_SECONDS)
            await asyncio.sleep(GATHER_SECONDS)
        except TimeoutError:
            pass  # nothing new: the position is saved all the same, since an old one is lost sooner
        ids, token, drained_at = gathered.take()
        step("gathered")
        await carry(shop, ids, step=step)
        step("carried")
        if token is not None:
            async with shop.stores.pg.once() as tx:
                await store.save(tx, PIPELINE, token, drained_at, len(ids))
            step("saved")
