"""The import: one pass to learn what the file says of its goods and customers, one to book its invoices.

Memory grows with codes, customers, invoice numbers and cancellations, never with lines; the books are written in one
transaction, so that an import is there whole or not at all.
"""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from quartet.kernel.errors import Conflict, invalid
from quartet.retail.dataset import SHIPPED, Survey, Unread, invoices, opened, read, survey
from quartet.retail.model import Invoice, Line, Refusal, Sales, id_of, refusal
from quartet.retail.report import Refuser, Report, refusing
from quartet.retail.store import Books
from quartet.web.dependencies import Shop


class Watch(Protocol):
    """Told how far a stage has come; `total` is in the stage's own unit."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


def _unwatched(_stage: str, _done: int, _total: int, /) -> None: ...


async def import_retail(
    shop: Shop, file: Path = SHIPPED, month: str | None = None, *, watch: Watch = _unwatched
) -> Report:
    """Books the file, or one month of it (`2010-12`). What is booked already stays as it is: running it twice changes
    nothing, and months can come in any order.

    Raises NotTheRetailersFile, Invalid for a month the file does not have, and Conflict while another import runs.
    """
    began = time.monotonic()
    found = _surveyed(file, watch)
    if month is not None and month not in found.months:
        raise invalid("month", f"the file has {', '.join(found.months) or 'no invoices'}, not {month}")
    months = [month] if month else found.months
    async with shop.stores.pg.tx() as tx:
        books = await Books.open(tx, _digest(file), months)
        if books is None:
            raise Conflict("another import is running; wait for it to end")
        report = Report(months, books.fresh, shop.settings.data_dir / f"import-refused-{month or 'all'}.csv")
        await books.add_customers(found.customers)
        await books.add_goods(found.goods)
        with refusing(report) as refuse:
            await _write_invoices(file, found, books, report, refuse=refuse, watch=watch)
        await books.close()
    report.customers = sum(1 for customer in found.customers.values() if customer.months & set(months))
    report.seconds = time.monotonic() - began
    return report


def _surveyed(file: Path, watch: Watch) -> Survey:
    size = file.stat().st_size

    with opened(file) as (text, position):

        def lines() -> Iterator[Line | Unread]:
            for number, line in enumerate(read(text)):
                if number % 5_000 == 0:
                    watch("Reading the file", position(), size)
                yield line
            watch("Reading the file", size, size)

        return survey(lines())


def _digest(file: Path) -> str:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


async def _write_invoices(
    file: Path, found: Survey, books: Books, report: Report, *, refuse: Refuser, watch: Watch
) -> None:
    """Reads the months asked for, and those booked before: their sales may be what a cancellation takes back."""
    months = {*report.months, *books.turns}
    total = sum(extent.lines for extent in found.invoices.values() if extent.month in months)
    done = 0
    entry = _Entry(books, report, refuse, Sales(found.cancelled))
    with opened(file) as (text, _):
        lines = _readable(read(text), refuse, every=report.months == found.months)
        for invoice in invoices(lines, found.invoices, months):
            await entry.book(invoice)
            done += len(invoice.lines)
            watch("Booking invoices", done, total)
        if report.months == found.months:
            for _rest in lines:  # nothing but unreadable rows can follow the last invoice: refuse them too
                pass


def _readable(lines: Iterator[Line | Unread], refuse: Refuser, *, every: bool) -> Iterator[Line]:
    """The lines that can be read. The others belong to no month, so only an import of every month reports them."""
    for line in lines:
        if isinstance(line, Line):
            yield line
        elif every:
            refuse(line, Refusal.UNREADABLE)


class _Entry:
    """Decides invoice by invoice, in the file's order: what was booked before is only followed, never written again."""

    def __init__(self, books: Books, report: Report, refuse: Refuser, sales: Sales) -> None:
        self._books = books
        self._report = report
        self._refuse = refuse
        self._sales = sales

    async def book(self, invoice: Invoice) -> None:
        asked = invoice.month in self._report.months
        fresh = invoice.month in self._books.fresh
        turn = self._books.turn_of(invoice.month)
        order_id = id_of("order", invoice.number)
        sold: list[Line] = []
        for line in invoice.lines:
            reason = refusal(line)
            if reason is not None:
                if asked:
                    self._refuse(line, reason)
            elif line.is_cancellation:
                self._take_back(line, turn, asked=asked, fresh=fresh)
            else:
                self._sales.sold(line, order_id, turn)
                sold.append(line)
        if sold and asked:
            self._report.orders += 1
            for line in sold:
                self._report.sales.add(line.mills)
        if sold and fresh:
            await self._books.sell(order_id, invoice, sold)

    def _take_back(self, line: Line, turn: int, *, asked: bool, fresh: bool) -> None:
        order_id = self._sales.take_back(line, turn)
        if asked:
            (self._report.credits if order_id is None else self._report.refunds).add(line.mills)
        if fresh and order_id is not None:
            self._books.refund(order_id, line)
        elif fresh:
            self._books.credit(line)
