"""In front of each store and each external service: a bulkhead (limit of concurrent calls) and a circuit breaker.

The store is *doubtful* after a call has failed, or while none of those in flight is answered for a moment. Then a
health check is made on a separate connection: the *probe*. Only a failed probe opens the breaker, so neither one lost
connection nor one slow query does. While it is open every call is refused at once, and the probe is repeated until it
succeeds, so that no request waits just to find out. A call that was sent is never reported as refused: it ends by its
own timeout or with `StoreUnavailable`, its outcome unknown.

Before it is doubtful the store may be *silent*, after a shorter time without answers: the probe is started, and callers
with an equal fallback use it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Literal

import structlog

from quartet.kernel.errors import StoreUnavailable

log = structlog.get_logger("quartet.stores")

State = Literal["closed", "doubtful", "open", "half-open"]
STATES: tuple[State, ...] = ("closed", "doubtful", "open", "half-open")

# Between two probes of a store that is down.
REST_SECONDS = 0.1


class Guard:
    """The guard of one store: `with guard.call(): …` around each call to it.

    `probe` returns if the store is up; if it raises or takes longer than `patience` seconds, the store is down.
    `doubt`: seconds without any answer until it is doubtful; `silence`: until it is silent, by default the same.
    `places`: the limit of concurrent calls. `away`: exceptions of a call that mean that the store may be down; any
    other counts as an answer. `rest`: seconds between two probes of a store that is down.
    """

    def __init__(
        self,
        store: str,
        probe: Callable[[], Awaitable[object]],
        away: tuple[type[BaseException], ...],
        *,
        doubt: float,
        silence: float | None = None,
        patience: float,
        places: int,
        rest: float = REST_SECONDS,
    ) -> None:
        self.store = store
        self.calls = 0
        self.openings = 0
        self.refused = {"open": 0, "full": 0, "doubtful": 0}
        self._probe, self._away = probe, away
        self._check_interval, self._doubt = (doubt if silence is None else silence) / 2, doubt
        self._patience, self._places, self._rest = patience, places, rest
        self._is_silent = self._is_doubtful = self._is_open = self._is_probing = self._is_closed = False
        self._opened = self._heard = self._answered = self._checked = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._probing: asyncio.Task[None] | None = None
        self.held: set[asyncio.Timeout] = set()
        """Timeouts of calls, and of callers waiting for a connection, that are triggered when the breaker opens."""
        self.briefly_held: set[asyncio.Timeout] = set()
        self.brief: set[asyncio.Future[Any]] = set()
        """Futures of brief calls: they fail as soon as the store is doubtful."""
        self.fail_fast: set[asyncio.Future[Any]] = set()
        """Futures of callers that fail fast: they fail as soon as the store is silent."""

    @property
    def state(self) -> State:
        """`half-open`: open, and the probe is running."""
        if self._is_open:
            return "half-open" if self._is_probing else "open"
        return "doubtful" if self._is_doubtful else "closed"

    @property
    def is_open(self) -> bool:
        """Whether it is down: nothing is sent to it but the probe."""
        return self._is_open

    @property
    def is_doubtful(self) -> bool:
        """Whether it is or may be down."""
        return self._is_doubtful

    @property
    def is_silent(self) -> bool:
        """Whether it has not answered for a moment, or is doubtful."""
        return self._is_silent

    def call(self, limit: asyncio.Timeout | None = None, *, brief: bool = False) -> "_Call":
        """A context manager for one call. With a `limit` it is cancelled when the breaker opens; a `brief` one, for
        callers with a fallback, is cancelled or refused as soon as the store is doubtful. Raises StoreUnavailable."""
        return _Call(self, limit, brief)

    def close(self) -> None:
        """Stops probing."""
        self._is_closed = True
        for running in (self._timer, self._probing):
            if running is not None:
                running.cancel()

    def enter(self, brief: bool) -> None:
        if self._is_open or (brief and self._is_doubtful) or self.calls >= self._places:
            self.refused["open" if self._is_open else "full" if self.calls >= self._places else "doubtful"] += 1
            raise StoreUnavailable(self.store)
        self.calls += 1
        if self.calls == 1 and not self._is_silent:
            self._heard = monotonic()
        if self._timer is None:
            self._schedule_check(self._check_interval)

    def leave(self, error: BaseException | None) -> None:
        self.calls -= 1
        if isinstance(error, self._away):
            self.mark_doubtful()
        elif error is None or isinstance(error, Exception):  # not a cancellation, which says nothing of the store
            self._heard = self._answered = monotonic()
            self._is_silent = self._is_doubtful

    def _schedule_check(self, seconds: float) -> None:
        self._checked = monotonic()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check_answers)

    def _check_answers(self) -> None:
        """Checks for answers, at half the interval after which the store is silent."""
        self._timer = None
        if self.calls == 0 and self._is_silent == self._is_doubtful:
            return
        if self._heard < self._checked:
            # Answers received in this event loop iteration are to be counted first.
            asyncio.get_running_loop().call_soon(self._judge, self._checked, monotonic())
        self._schedule_check(self._check_interval)

    def _judge(self, checked: float, now: float) -> None:
        """Marks the store silent or doubtful if nothing was heard; not if this check came late, since then the process
        had no time to receive answers."""
        if self._heard >= checked:
            return
        if now - checked < 2 * self._check_interval:
            self._mark_silent()
        if now - self._heard > self._doubt - 1.5 * self._check_interval and now - checked < self._doubt:
            self.mark_doubtful()

    def _mark_silent(self) -> None:
        self._is_silent = True
        self._refuse(self.fail_fast)
        if not self._is_closed and (self._probing is None or self._probing.done()):
            self._probing = asyncio.get_running_loop().create_task(self._probe_until_up())

    def mark_doubtful(self) -> None:
        """Marks the store doubtful and starts the probe."""
        self._is_doubtful = True
        self._refuse(self.brief)
        _end(self.briefly_held)
        self._mark_silent()

    def _refuse(self, replies: set[asyncio.Future[Any]]) -> None:
        for reply in replies:
            if not reply.done():
                reply.set_exception(StoreUnavailable(self.store))
                reply.exception()  # retrieved: a caller that awaits several sees one of them, which is enough

    async def _probe_until_up(self) -> None:
        while (error := await self._run_probe()) is not None:
            self._open(error)
            await asyncio.sleep(self._rest)
        if self._is_open:
            log.warning("store is back", store=self.store, seconds=round(monotonic() - self._opened, 1))
        self._is_open = self._is_doubtful = self._is_silent = False
        self._heard = monotonic()

    async def _run_probe(self) -> Exception | None:
        """Runs the probe: None if the store is up, else the error. A timeout is ignored, and the probe repeated, if
        other calls were answered meanwhile or our own process was slow."""
        while True:
            began = monotonic()
            self._is_probing = True
            try:
                async with asyncio.timeout(self._patience):
                    await self._probe()
            except Exception as error:
                seconds = monotonic() - began
                too_long = seconds > self._patience * 0.9
                if not too_long or (self._answered < began and seconds < self._patience * 1.5):
                    return error
            else:
                return None
            finally:
                self._is_probing = False

    def _open(self, error: Exception) -> None:
        if self._is_open:
            return
        self._is_open, self._opened = True, monotonic()
        self.openings += 1
        log.warning("store is away", store=self.store, error=repr(error))
        self.mark_doubtful()
        _end(self.held)


def _end(limits: set[asyncio.Timeout]) -> None:
    for limit in limits:
        if not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time())


class _Call:
    """A plain class, since the overhead of `contextlib.contextmanager` would exceed the work done here."""

    __slots__ = ("_brief", "_guard", "_limit")

    def __init__(self, guard: Guard, limit: asyncio.Timeout | None, brief: bool) -> None:
        self._guard, self._limit, self._brief = guard, limit, brief

    def __enter__(self) -> None:
        self._guard.enter(self._brief)
        if self._limit is not None:
            self._holds().add(self._limit)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._limit is not None:
            self._holds().discard(self._limit)
        self._guard.leave(error)

    def _holds(self) -> set[asyncio.Timeout]:
        return self._guard.briefly_held if self._brief else self._guard.held
