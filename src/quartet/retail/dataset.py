"""Reads the retailer's file as a stream: line by line, whatever its size, compressed or not."""

import csv
import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, NamedTuple

from quartet.retail.model import (
    UNKNOWN_CUSTOMER,
    Goods,
    Invoice,
    Line,
    mills_of,
    refusal,
)

if TYPE_CHECKING:
    from lzma import LZMAFile

SHIPPED = Path(__file__).parent / "data" / "online-retail.csv.xz"
COLUMNS = ["invoice", "sku", "description", "quantity", "at", "unit_price", "customer", "country"]

_TEXT_LIMIT = 200  # characters per field; the shipped file's longest has 35


class NotTheRetailersFile(ValueError):
    """The file is not CSV in UTF-8 (plain or .xz) with the header and columns of the retailer's: invoice, sku,
    description, quantity, at, unit_price, customer, country."""


class Unread(NamedTuple):
    """A row that can't be parsed: kept unchanged for the report."""

    number: int
    row: list[str]

    @property
    def mills(self) -> int:
        """Its amount in thousandths of a pound; 0 if not even that can be parsed."""
        try:
            return int(self.row[3]) * mills_of(self.row[5].strip())
        except (ValueError, IndexError):
            return 0


@dataclass(slots=True)
class Customer:
    """When and where a customer first appears, and the months of their invoices."""

    since: datetime
    country: str
    months: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Extent:
    """An invoice's number of lines, and its month, which is its first line's."""

    month: str
    lines: int = 0


@dataclass
class Survey:
    """What one pass over the whole file yields, in memory that grows with SKUs, customers and invoice numbers but not
    with lines. Always of the whole file, so that one month's import finds the same names, prices and matches as the
    whole year's."""

    lines: int = 0
    mills: int = 0
    goods: dict[str, Goods] = field(default_factory=dict)
    customers: dict[str, Customer] = field(default_factory=dict)
    invoices: dict[str, Extent] = field(default_factory=dict)
    cancelled: set[tuple[str, str]] = field(default_factory=set)

    @property
    def months(self) -> list[str]:
        """The months (`2010-12`) with invoices, in order."""
        return sorted({invoice.month for invoice in self.invoices.values()})


@contextmanager
def _unpacked(raw: BinaryIO) -> Iterator["LZMAFile"]:
    try:
        import lzma
    except ImportError:  # a Python compiled where liblzma's headers were missing
        raise ValueError("this Python can't read .xz files; unpack the file (`xz -dk`) and name the CSV") from None
    try:
        with lzma.open(raw) as plain:
            yield plain
    except (lzma.LZMAError, EOFError) as error:
        raise NotTheRetailersFile(f"the .xz file is broken: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[str], Callable[[], int]]]:
    """The file as text, and a function that returns how many of its bytes on disk have been read. Raises
    NotTheRetailersFile as soon as it can't be decoded."""
    with path.open("rb") as raw, _unpacked(raw) if path.suffix == ".xz" else nullcontext(raw) as plain:
        try:
            yield io.TextIOWrapper(plain, encoding="utf-8", newline=""), raw.tell
        except (csv.Error, UnicodeDecodeError) as error:
            raise NotTheRetailersFile(f"the file is no CSV in UTF-8: {error}") from error


def digest(path: Path) -> str:
    """The file's SHA-256, which identifies it whatever its path."""
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def read(text: IO[str]) -> Iterator[Line | Unread]:
    """Every line of the file in order. Raises NotTheRetailersFile if the header is not the expected one."""
    rows = csv.reader(text)
    header = next(rows, [])
    if header != COLUMNS:
        raise NotTheRetailersFile(f"the first line must be {','.join(COLUMNS)}, not {','.join(header)[:200]!r}")
    for number, row in enumerate(rows, start=2):
        try:
            yield _line(number, row)
        except ValueError:
            yield Unread(number, row)


_mills = lru_cache(maxsize=4096)(mills_of)


@lru_cache(maxsize=64)  # lines of one invoice follow one another
def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _line(number: int, row: list[str]) -> Line:
    invoice, sku, description, quantity, at, price, customer, country = map(str.strip, row)
    if not invoice or not sku or len(max(row, key=len)) > _TEXT_LIMIT or "\0" in "".join(row):
        raise ValueError("a word is missing, too long or not text")
    count = int(quantity)
    if abs(count) >= 2**31:
        raise ValueError("no such quantity")
    return Line(
        number, invoice, sku.upper(), description, count, _moment(at), _mills(price), customer, country
    )  # fmt: skip


def survey(lines: Iterable[Line | Unread]) -> Survey:
    """The first pass: counts, names, prices, customers, and the (customer, SKU) pairs of cancellations."""
    found = Survey()
    for line in lines:
        found.lines += 1
        found.mills += line.mills
        if isinstance(line, Unread):
            continue
        invoice = found.invoices.get(line.invoice)
        if invoice is None:
            invoice = found.invoices[line.invoice] = Extent(f"{line.at:%Y-%m}")
        invoice.lines += 1
        if refusal(line) is None:
            _take_in(found, line, invoice.month)
    return found


def _take_in(found: Survey, line: Line, month: str) -> None:
    goods = found.goods.get(line.sku)
    if goods is None:
        goods = found.goods[line.sku] = Goods(first_sold=line.at)
    goods.add(line, month)
    customer = found.customers.get(line.customer)
    if customer is None:
        customer = found.customers[line.customer] = Customer(line.at, line.country)
    customer.months.add(month)
    if line.is_cancellation and line.customer != UNKNOWN_CUSTOMER:
        found.cancelled.add((line.customer, line.sku))


def invoices(lines: Iterable[Line], extents: Mapping[str, Extent], months: Collection[str]) -> Iterator[Invoice]:
    """The second pass: whole invoices of these months, each once its last line is read (in one of them the lines are
    interrupted by another invoice's). Stops reading after the last of them."""
    missing = sum(extent.lines for extent in extents.values() if extent.month in months)
    waiting: dict[str, Invoice] = {}
    for line in lines if missing else ():
        extent = extents[line.invoice]
        if extent.month not in months:
            continue
        invoice = waiting.get(line.invoice)
        if invoice is None:
            invoice = Invoice(line.invoice, extent.month, line.at, line.customer, line.country)
            waiting[line.invoice] = invoice
        invoice.lines.append(line)
        missing -= 1
        if len(invoice.lines) == extent.lines:
            yield waiting.pop(line.invoice)
        if not missing:
            return
