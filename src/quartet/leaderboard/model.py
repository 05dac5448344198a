"""Boards and places."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

Period = Literal["daily", "weekly"]


@dataclass(frozen=True)
class Place:
    """Equal points share a rank; the ranks after them are left out (1, 2, 2, 4)."""

    rank: int
    user_id: UUID
    xp: int


def board(period: Period, at: datetime) -> str:
    """The board's name: the UTC date (`2026-11-23`), or the ISO 8601 week (`2026-W48`)."""
    if period == "daily":
        return at.date().isoformat()
    year, week, _ = at.isocalendar()
    return f"{year}-W{week:02d}"
