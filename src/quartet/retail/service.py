"""The import: one pass to learn the file's products and customers, one to book its invoices.

Memory grows with SKUs, customers, invoice numbers and cancellations, never with lines. All rows in PostgreSQL are
written in one transaction, so the bookings are complete or absent; the catalog is filled afterwards, and a run that was
interrupted there is completed by the next.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from quartet import sync
from quartet.kernel.errors import Conflict, StoreUnavailable, invalid
from quartet.kernel.watch import Watch, unwatched
from quartet.retail import shelves, store
from quartet.retail.dataset import SHIPPED, Survey, Unread, digest, invoices, opened, read, survey
from quartet.retail.model import Invoice, Line, Refusal, Sales, id_of, refusal
from quartet.retail.report import Refuser, Report, Stage, refusing
from quartet.retail.store import Books
from quartet.stores.postgres import Violation
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.retail")

# Primary keys derived from invoice numbers: they collide if another file with the same invoices was imported.
_TAKEN = frozenset({"orders_pkey", "refunds_pkey", "credits_pkey"})


async def import_retail(
    shop: Shop, file: Path = SHIPPED, month: str | None = None, *, watch: Watch = unwatched
) -> Report:
    """Imports the file, or one month of it (`2010-12`). Idempotent: months already booked are left unchanged; months
    can be imported in any order.

    Raises NotTheRetailersFile, Invalid for a month the file does not have, and Conflict while another import runs.
    """
    began = time.monotonic()
    found = _surveyed(file, watch)
    if month is not None and month not in found.months:
        raise invalid("month", f"the file has {', '.join(found.months) or 'no invoices'}, not {month}")
    report = Report([month] if month else found.months, shop.settings.data_dir / f"import-refused-{month or 'all'}.csv")
    try:
        await _book(shop, file, found, report, watch)
    except Violation as error:
        if error.constraint in _TAKEN:
            raise Conflict("invoices of this file were imported from another file before") from error
        raise
    report.products = await _shelve(shop, found, digest(file), watch)
    report.customers = sum(1 for customer in found.customers.values() if customer.months & set(report.months))
    report.seconds = time.monotonic() - began
    return report


async def _book(shop: Shop, file: Path, found: Survey, report: Report, watch: Watch) -> None:
    async with shop.stores.pg.tx() as tx:
        books = await Books.open(tx, digest(file), report.months)
        if books is None:
            raise Conflict("another import is running; wait for it to end")
        report.written = books.fresh
        await books.add_customers(found.customers)
        await books.add_goods(found.goods)
        with refusing(report) as refuse:
            await _write_invoices(file, found, books, report, refuse=refuse, watch=watch)
        await books.close()


async def _shelve(shop: Shop, found: Survey, source: str, watch: Watch) -> int:
    """Adds the products of booked months to the catalog, then to search, unless that is down; also those of an earlier
    run that died before it got this far."""
    async with shop.stores.pg.read() as read_books:
        months = await store.unshelved(read_books, source)
    if not months:
        return 0
    new = await shelves.fill(shop, {sku: goods for sku, goods in found.goods.items() if goods.months & months}, watch)
    try:
        await sync.catch_up(shop)
    except StoreUnavailable as outage:
        if outage.store != "search":
            raise
        log.warning("search is brought up to date by a worker", error=str(outage))
    async with shop.stores.pg.tx() as tx:
        await store.shelve(tx, source, months)
    return new


def _surveyed(file: Path, watch: Watch) -> Survey:
    size = file.stat().st_size

    with opened(file) as (text, position):

        def lines() -> Iterator[Line | Unread]:
            for number, line in enumerate(read(text)):
                if number % 5_000 == 0:
                    watch(Stage.READING, position(), size)
                yield line
            watch(Stage.READING, size, size)

        return survey(lines())


async def _write_invoices(
    file: Path, found: Survey, books: Books, report: Report, *, refuse: Refuser, watch: Watch
) -> None:
    """Reads the requested months, and those booked before, since a cancellation may refund one of their sales."""
    months = {*report.months, *books.turns}
    total = sum(extent.lines for extent in found.invoices.values() if extent.month in months)
    done = 0
    entry = _Entry(books, report, refuse, Sales(found.cancelled))
    with opened(file) as (text, _):
        lines = _readable(read(text), refuse, every=report.months == found.months)
        for invoice in invoices(lines, found.invoices, months):
            await entry.book(invoice)
            done += len(invoice.lines)
            watch(Stage.BOOKING, done, total)
        if report.months == found.months:
            for _rest in lines:  # only unreadable rows can follow the last invoice: report them as well
                pass


def _readable(lines: Iterator[Line | Unread], refuse: Refuser, *, every: bool) -> Iterator[Line]:
    """The readable lines. The others have no month, so only an import of all months (`every`) reports them."""
    for line in lines:
        if isinstance(line, Line):
            yield line
        elif every:
            refuse(line, Refusal.UNREADABLE)


class _Entry:
    """Books invoice by invoice, in the file's order. Months booked before are only tracked for later cancellations, not
    written again."""

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
                self._take_back(invoice, line, turn)
            else:
                self._sales.sold(line, order_id, turn)
                sold.append(line)
        if sold and asked:
            self._report.orders += 1
            for line in sold:
                self._report.sales.add(line.mills)
        if sold and fresh:
            await self._books.sell(order_id, invoice, sold)

    def _take_back(self, invoice: Invoice, line: Line, turn: int) -> None:
        order_id = self._sales.take_back(line, turn)
        if invoice.month in self._report.months:
            (self._report.credits if order_id is None else self._report.refunds).add(line.mills)
        if invoice.month in self._books.fresh:
            if order_id is None:
                self._books.credit(invoice.at, line)
            else:
                self._books.refund(order_id, invoice.at, line)
