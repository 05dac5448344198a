"""The account of an import: what was taken, what was refused and why, down to the line."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from quartet.kernel.errors import writing
from quartet.retail.dataset import COLUMNS, Unread
from quartet.retail.model import Line, Refusal, Tally


@dataclass
class Report:
    """Sums are over the months asked for. `written` are the months that this run booked; the others were booked
    before, and were read again only for this account."""

    months: Sequence[str]
    refused_file: Path
    written: Sequence[str] = ()
    orders: int = 0
    products: int = 0
    customers: int = 0
    sales: Tally = field(default_factory=Tally)
    refunds: Tally = field(default_factory=Tally)
    credits: Tally = field(default_factory=Tally)
    refused: dict[Refusal, Tally] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def taken(self) -> Tally:
        """Everything that the books hold of these months."""
        return self.sales + self.refunds + self.credits

    @property
    def everything(self) -> Tally:
        """Taken and refused: the file's own lines and sum."""
        return sum(self.refused.values(), start=self.taken)


class Stage(StrEnum):
    """What takes long enough to be watched."""

    READING = "reading the file"
    BOOKING = "booking invoices"
    SHELVES = "filling the shelves"
    BASKETS = "buying baskets"


def pounds(mills: int) -> Decimal:
    """Thousandths as the file writes them, exact."""
    return Decimal(mills).scaleb(-3)


class Refuser(Protocol):
    """Takes note of a refused line."""

    def __call__(self, line: Line | Unread, reason: Refusal) -> None: ...


@contextmanager
def refusing(report: Report) -> Iterator[Refuser]:
    """Writes every refused line into the report's CSV, in the file's words, and counts it by its reason. The file
    takes its name only when it is whole. Raises ValueError where it can't be written."""
    path = report.refused_file
    draft = path.with_suffix(".part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = draft.open("w", encoding="utf-8", newline="")
    rows = csv.writer(file)
    rows.writerow(["line", *COLUMNS, "amount", "reason"])

    def refuse(line: Line | Unread, reason: Refusal) -> None:
        report.refused.setdefault(reason, Tally()).add(line.mills)
        words = _as_written(line) if isinstance(line, Line) else (line.row + [""] * len(COLUMNS))[: len(COLUMNS)]
        with writing(path):
            rows.writerow([line.number, *words, pounds(line.mills), reason.value])

    try:
        yield refuse
    finally:
        with writing(path):
            file.close()
    draft.replace(path)


def _as_written(line: Line) -> list[object]:
    at = f"{line.at:%Y-%m-%d %H:%M:%S}"
    price = pounds(line.price_mills)
    return [line.invoice, line.sku, line.description, line.quantity, at, price, line.customer, line.country]
