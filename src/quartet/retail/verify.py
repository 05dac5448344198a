"""Verifies the books against the file: a separate pass over it, in decimals, compared with SQL and the revenue
report."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from quartet import analytics
from quartet.kernel.errors import Conflict
from quartet.retail import store
from quartet.retail.dataset import COLUMNS, SHIPPED, Unread, digest, opened, read
from quartet.retail.model import CURRENCY, Line, Refusal, refusal
from quartet.web.dependencies import Shop


@dataclass
class Sums:
    """Sums in pounds, and numbers of lines."""

    everything: Decimal = Decimal()
    sold: Decimal = Decimal()
    given_back: Decimal = Decimal()
    refused: Decimal = Decimal()
    lines_sold: int = 0
    lines_given_back: int = 0


@dataclass(frozen=True)
class Verified:
    """The file's sums and the database's over the imported months. `revenue` is the report's net revenue."""

    months: tuple[str, ...]
    file: Sums
    books: Sums
    revenue: Decimal

    def rows(self) -> Iterator[tuple[str, Decimal | int, Decimal | int]]:
        """The comparisons: name, the file's figure, the books' figure."""
        file, books = self.file, self.books
        yield "lines sold", file.lines_sold, books.lines_sold
        yield "sold, GBP", file.sold, books.sold
        yield "lines given back", file.lines_given_back, books.lines_given_back
        yield "given back, GBP", file.given_back, books.given_back
        yield "revenue + refused, GBP", file.everything, self.revenue + file.refused

    @property
    def holds(self) -> bool:
        """Whether all figures are exactly equal."""
        return all(ours == theirs for _, ours, theirs in self.rows())


def sums(file: Path, months: set[str]) -> Sums:
    """The sums from a separate pass, with prices as decimals from the file, not as parsed by the import."""
    found = Sums()
    first_seen: dict[str, str] = {}
    quantity, price = COLUMNS.index("quantity"), COLUMNS.index("unit_price")
    with opened(file) as (text, _), opened(file) as (again, _):
        rows = csv.reader(again)
        next(rows, None)
        for line, row in zip(read(text), rows, strict=True):
            if isinstance(line, Unread) or first_seen.setdefault(line.invoice, f"{line.at:%Y-%m}") not in months:
                continue
            amount = int(row[quantity]) * Decimal(row[price])
            found.everything += amount
            _sort(found, line, refusal(line), amount)
    return found


def _sort(found: Sums, line: Line, reason: Refusal | None, amount: Decimal) -> None:
    if reason is not None:
        found.refused += amount
    elif line.is_cancellation:
        found.given_back -= amount
        found.lines_given_back += 1
    else:
        found.sold += amount
        found.lines_sold += 1


async def verify(shop: Shop, file: Path = SHIPPED) -> Verified:
    """Compares all booked months of the file. Later refunds of imported orders by staff count on their own day, outside
    these months, and don't affect the result.

    Raises Conflict if nothing of the file is booked.
    """
    async with shop.stores.pg.read() as read_books:
        months = sorted(await store.turns(read_books, digest(file)))
        if not months:
            raise Conflict("nothing of this file is imported yet; run `quartet import` first")
        begin, end = _first_moment(months[0]), _first_moment(_next(months[-1]))
        booked = await store.booked(read_books, begin, end)
        revenue = await analytics.revenue(read_books, start=begin, before=end, group="month", currency=CURRENCY)
    books = Sums(
        sold=_pounds(booked["sold_cents"]),
        given_back=_pounds(booked["given_back_cents"]),
        lines_sold=booked["lines_sold"],
        lines_given_back=booked["lines_given_back"],
    )
    return Verified(tuple(months), sums(file, set(months)), books, _pounds(revenue.totals.net_cents))


def _pounds(cents: int) -> Decimal:
    return Decimal(cents).scaleb(-2)


def _first_moment(month: str) -> datetime:
    return datetime.combine(date.fromisoformat(f"{month}-01"), datetime.min.time(), UTC)


def _next(month: str) -> str:
    year, number = map(int, month.split("-"))
    return f"{year + number // 12}-{number % 12 + 1:02}"
