"""The query parameters `from` and `to`: days in UTC, or points in time."""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from fastapi import Query

from quartet.kernel.errors import invalid

_SHAPED = re.compile(r"\d{4}-\d{2}-\d{2}(T|$)", re.ASCII)  # Python accepts many more formats
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_A_DAY = len("2011-01-31")
_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)

_Moment = Annotated[str | None, Query(max_length=40, examples=["2011-01-31", "2011-01-31T12:00:00Z"])]
From = Annotated[_Moment, Query(alias="from", description="From this day (UTC) or moment on.")]
To = Annotated[_Moment, Query(alias="to", description="To this day, inclusive, or before this moment.")]


def span(start: str | None, end: str | None) -> tuple[datetime, datetime]:
    """A half-open interval: from the first moment to before the second; without `start` or `end`, unlimited on that
    side. A day as `end` is included in full. Raises Invalid naming `from` or `to`."""
    since, before = _moment("from", start, _EARLIEST), _moment("to", end, _LATEST, whole_day=timedelta(days=1))
    # If `to` is the day before `from`, the interval is empty, and a mistake.
    if before < since or (before == since and end is not None and len(end) == _A_DAY):
        raise invalid("to", "must not be before `from`")
    return since, before


def text_only(value: Any) -> Any:
    """A pydantic before-validator for moments in a body: raises ValueError for numbers and digits in text, which
    pydantic would read as Unix seconds."""
    if value is not None and not (isinstance(value, str) and _DATED.match(value)):
        raise ValueError("must be a text such as 2026-01-31T12:00:00Z")
    return value


def in_utc(value: datetime) -> datetime:
    """The same moment in UTC. Raises ValueError if that is outside the years 1 to 9999, though its own zone's date is
    not."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be between the years 1 and 9999 of UTC") from None


def _moment(field: str, text: str | None, otherwise: datetime, whole_day: timedelta = timedelta()) -> datetime:
    """Parses a day, to whose start `whole_day` is added, or an RFC 3339 moment (UTC if without a zone). Raises Invalid
    naming the field."""
    if text is None:
        return otherwise
    try:
        if not _SHAPED.match(text):
            raise ValueError(text)
        if len(text) == _A_DAY:
            return _within(datetime.combine(date.fromisoformat(text), time(), UTC)) + whole_day
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + arrives as a space
        return _within(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise invalid(field, "must be a day such as 2011-01-31 or a moment such as 2011-01-31T12:00:00Z") from None


def _within(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= _LATEST:
        raise ValueError("out of range")
    return moment
