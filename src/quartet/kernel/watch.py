"""Progress reports of long operations."""

from collections.abc import Callable

Watch = Callable[[str, int, int], None]
"""Told a stage, how much of it is done, and of how much, in the stage's own unit."""


def unwatched(_stage: str, _done: int, _total: int, /) -> None:
    """Ignores the progress."""
