"""Several workers share the work: each piece is leased to one of them for some seconds (queries.sql, `heartbeat`).

A killed worker's heartbeat stops, and its pieces soon belong to another. A worker that was only stalled resumes its
work: then two do the same for a moment. That does no harm, since products are written by version and consumers
recognise events by their ids; and the stalled worker can't save its position, since its fencing token is old.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import structlog

from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.ids import new_id
from quartet.sync import store
from quartet.sync.store import Lease
from quartet.sync.tasks import end
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.worker")

# Heartbeats per lease time.
HEARTBEATS_PER_LEASE = 6


@dataclass(frozen=True)
class Work:
    """An endless loop, and the pieces into which its work is divided: each worker runs it for the pieces it owns."""

    loop: Callable[[Lease], Coroutine[Any, Any, None]]
    pieces: Sequence[str]


class LeaseRunner:
    """Runs the work that is leased to one worker."""

    def __init__(self, shop: Shop, works: Mapping[str, Work]) -> None:
        self.worker = new_id().hex
        # Beside the pool: long statements in all of its connections must not stop the heartbeat.
        self._pg, self._seconds = shop.stores.pg.beside(), shop.settings.worker_lease_seconds
        self._works = works
        self._running: dict[str, tuple[Lease, asyncio.Task[None]]] = {}
        self._leased: dict[str, int] = {}
        self._until = 0.0

    async def run(self) -> None:
        """Runs this worker's share until it is cancelled; then releases it, so that others can take it at once."""
        try:
            while True:
                await self._heartbeat()
                for name, work in self._works.items():
                    await self._adjust_task(name, work)
                await self._pause()
        finally:
            await end([task for _, task in self._running.values()])
            await self._release([self.worker, *self._leased])
            await self._pg.close()

    async def _heartbeat(self) -> None:
        """The heartbeat. Without PostgreSQL the pieces stay ours until the lease has expired, by our own clock and
        counted from before the last successful call."""
        asked = monotonic()
        pieces = [piece for work in self._works.values() for piece in work.pieces]
        try:
            async with asyncio.timeout(self._seconds / 2), self._pg.once() as tx:
                self._leased = await store.heartbeat(tx, self.worker, pieces, self._seconds)
            self._until = asked + self._seconds
        except (StoreUnavailable, TimeoutError) as away:
            if monotonic() >= self._until and self._leased:
                log.warning("leases ran out", error=repr(away))
                self._leased = {}

    async def _adjust_task(self, name: str, work: Work) -> None:
        """Runs the work for exactly the pieces that are ours."""
        lease = Lease({piece: self._leased[piece] for piece in work.pieces if piece in self._leased})
        before, task = self._running.pop(name, (store.NO_LEASE, None))
        if task is not None and before != lease:
            await end([task])
            await self._release(sorted(before.tokens.keys() - lease.tokens.keys()))
        if lease.tokens:
            if task is None or before != lease:
                log.info("worker works", work=name, pieces=list(lease.tokens))
                task = asyncio.create_task(work.loop(lease))
            self._running[name] = (lease, task)

    async def _release(self, pieces: Sequence[str]) -> None:
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(self._seconds / 2), self._pg.once() as tx:
                await store.release_leases(tx, self.worker, pieces)

    async def _pause(self) -> None:
        await asyncio.sleep(self._seconds / HEARTBEATS_PER_LEASE)
        for _, task in self._running.values():
            if task.done():
                task.result()
