"""Progress reports of long operations."""

from collections.abc import Callable

Watch = Callable[[str, int, int], None]
"""Called with the stage's name, how much of it is done, and the total, in the stage's own unit."""


def unwatched(_stage: str, _done: int, _total: int, /) -> None:
    """Ignores the progress."""
