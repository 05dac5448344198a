"""The report of an import: what was taken, and each refused line with its reason."""

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
    """Sums are over the requested months. `written` are the months booked by this run; the others were booked before,
    and were read again only for this report."""

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
        """Everything booked for these months."""
        return self.sales + self.refunds + self.credits

    @property
    def everything(self) -> Tally:
        """Taken and refused: the lines and sum of the file."""
        return sum(self.refused.values(), start=self.taken)


class Stage(StrEnum):
    """The stages with a progress bar."""

    READING = "reading the file"
    BOOKING = "booking invoices"
    SHELVES = "filling the shelves"
    BASKETS = "buying baskets"


def pounds(mills: int) -> Decimal:
    """Thousandths of a pound as an exact decimal in pounds."""
    return Decimal(mills).scaleb(-3)


class Refuser(Protocol):
    """Records a refused line."""

    def __call__(self, line: Line | Unread, reason: Refusal) -> None: ...


@contextmanager
def refusing(report: Report) -> Iterator[Refuser]:
    """Writes every refused line to the report's CSV, as in the file, and counts it by reason. The CSV gets its final
    name only once it is complete. Raises ValueError if it can't be written."""
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
