"""Periodic checks for changes of what a process caches in its memory.

A caller for whom a check is due waits for it a moment, so with a healthy store everybody gets current data; a check
that takes longer delays nobody, since data of a second ago is better than waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import structlog

log = structlog.get_logger("quartet.kernel")

# From when a look began. Some ten times of what one takes at a store that is well.
PATIENCE_SECONDS = 0.05
# While nothing is known yet.
FIRST_PATIENCE_SECONDS = 0.5
# The part of the time between two looks after which the next is begun for those who would not wait for it.
AHEAD = 0.75


class Looks:
    """At one thing (`what`, for the log): every so many `seconds`, after one that failed not for `rest` more. While
    what is known is less than `bearable` seconds old, nobody waits for a look."""

    def __init__(self, what: str, seconds: float, rest: float, *, bearable: float = 0.0) -> None:
        self._what, self._seconds, self._rest, self._bearable = what, seconds, rest, bearable
        self._looked_at = self._known_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._waited_for_until = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to look again."""
        return monotonic() - self._looked_at >= self._seconds

    def are_recent(self, renew: Callable[[], Awaitable[None]]) -> bool:
        """Whether it is not time to look again. Shortly before it is, it is begun, so that nobody has to wait."""
        age = monotonic() - self._looked_at
        if age >= self._seconds * AHEAD and (self._task is None or self._task.done()):
            self._begin(renew)
        return age < self._seconds

    async def look(self, renew: Callable[[], Awaitable[None]]) -> None:
        """Has it renewed where it is time to, once for all who ask meanwhile, and waits for that a moment."""
        if not self.is_due:
            return
        task = self._begin(renew) if self._task is None or self._task.done() else self._task
        now = monotonic()
        if (left := self._waited_for_until - now) > 0 and now - self._known_at >= self._bearable:
            await asyncio.wait([task], timeout=left)

    def _begin(self, renew: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
        patience = FIRST_PATIENCE_SECONDS if self._looked_at == float("-inf") else PATIENCE_SECONDS
        self._task, self._waited_for_until = asyncio.create_task(self._look(renew)), monotonic() + patience
        return self._task

    async def _look(self, renew: Callable[[], Awaitable[None]]) -> None:
        began = monotonic()
        try:
            await renew()
            self._looked_at = self._known_at = began
        except Exception as error:
            log.warning("not looked up", what=self._what, error=repr(error))
            self._looked_at = monotonic() + self._rest
