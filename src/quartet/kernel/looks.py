"""Periodic checks for changes to what a process caches in its memory.

A caller for whom a check is due waits for it briefly, so with a healthy store everybody gets current data; a check that
takes longer delays nobody, since data a second old is better than waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import structlog

log = structlog.get_logger("quartet.kernel")

# How long callers wait for a check, from its start: some ten times what one takes with a healthy store.
PATIENCE_SECONDS = 0.05
# The same while nothing is cached yet.
FIRST_PATIENCE_SECONDS = 0.5
# The share of the interval after which the next check is started in advance, for callers that would not wait for it.
AHEAD = 0.75


class PeriodicCheck:
    """The checks of one thing (`what`, for the log): every `seconds`, and `rest` seconds later after a failed one.
    While the cached data is less than `bearable` seconds old, no caller waits for a check."""

    def __init__(self, what: str, seconds: float, rest: float, *, bearable: float = 0.0) -> None:
        self._what, self._seconds, self._rest, self._bearable = what, seconds, rest, bearable
        self._checked_at = self._known_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._waited_for_until = 0.0

    @property
    def is_due(self) -> bool:
        """Whether a check is due."""
        return monotonic() - self._checked_at >= self._seconds

    def is_recent(self, renew: Callable[[], Awaitable[None]]) -> bool:
        """Whether no check is due. Starts one shortly before it is due, so that no caller has to wait."""
        age = monotonic() - self._checked_at
        if age >= self._seconds * AHEAD and (self._task is None or self._task.done()):
            self._begin(renew)
        return age < self._seconds

    async def check(self, renew: Callable[[], Awaitable[None]]) -> None:
        """Runs `renew` if a check is due, once for all concurrent callers, and waits for it briefly."""
        if not self.is_due:
            return
        task = self._begin(renew) if self._task is None or self._task.done() else self._task
        now = monotonic()
        if (left := self._waited_for_until - now) > 0 and now - self._known_at >= self._bearable:
            await asyncio.wait([task], timeout=left)

    def _begin(self, renew: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
        patience = FIRST_PATIENCE_SECONDS if self._checked_at == float("-inf") else PATIENCE_SECONDS
        self._task, self._waited_for_until = asyncio.create_task(self._check(renew)), monotonic() + patience
        return self._task

    async def _check(self, renew: Callable[[], Awaitable[None]]) -> None:
        began = monotonic()
        try:
            await renew()
            self._checked_at = self._known_at = began
        except Exception as error:
            log.warning("not looked up", what=self._what, error=repr(error))
            self._checked_at = monotonic() + self._rest
