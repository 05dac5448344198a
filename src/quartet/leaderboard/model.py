"""Boards, places and points."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from quartet.kernel.money import minor_digits

Period = Literal["daily", "weekly"]


@dataclass(frozen=True)
class Place:
    """Equal points share a rank; the ranks after them are left out (1, 2, 2, 4)."""

    rank: int
    user_id: UUID
    xp: int


@dataclass(frozen=True)
class PointsEntry:
    """What a source (an order, or points given by staff) is worth now, and when it began to count: `at` decides on
    which boards."""

    source: str
    user_id: UUID
    points: int
    at: datetime


def points(cents: int, currency: str) -> int:
    """One point per whole unit of the currency."""
    unit: int = 10 ** minor_digits(currency)
    return max(cents, 0) // unit


def board(period: Period, at: datetime) -> str:
    """The board's name: the UTC date (`2026-11-23`), or the ISO 8601 week (`2026-W48`)."""
    if period == "daily":
        return at.date().isoformat()
    year, week, _ = at.isocalendar()
    return f"{year}-W{week:02d}"


def start_of(period: Period, at: datetime) -> datetime:
    """When the board for that time begins."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if period == "daily" else day - timedelta(days=day.weekday())


def end_of(period: Period, at: datetime) -> datetime:
    """When the board for that time ends."""
    return start_of(period, at) + timedelta(days=1 if period == "daily" else 7)
