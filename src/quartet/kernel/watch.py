"""How far something has come that takes long, for who looks on."""

from typing import Protocol


class Watch(Protocol):
    """Told how far a stage has come; `total` is in the stage's own unit."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


def unwatched(_stage: str, _done: int, _total: int, /) -> None:
    """For who does not look."""
