"""Which stores a request called, and for how long: shown in the `Server-Timing` header if that is switched on."""

from contextvars import ContextVar
from time import perf_counter

_asked: ContextVar[dict[str, list[float]] | None] = ContextVar("asked", default=None)


def begin() -> dict[str, list[float]]:
    """Starts measuring for this request; the dict that is returned collects the seconds of each call, by store."""
    asked: dict[str, list[float]] = {}
    _asked.set(asked)
    return asked


class Timed:
    """`with Timed("redis"):` around one call to a store."""

    __slots__ = ("_began", "_store")

    def __init__(self, store: str) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        asked = _asked.get()
        if asked is not None:
            asked.setdefault(self._store, []).append(perf_counter() - self._began)


def header(asked: dict[str, list[float]]) -> str:
    """`postgres;dur=1.2;desc="2 calls", …` (W3C Server Timing; milliseconds)."""
    return ", ".join(
        f'{store};dur={sum(calls) * 1000:.2f};desc="{len(calls)} call{"s" if len(calls) > 1 else ""}"'
        for store, calls in asked.items()
    )
