"""How each line of the retailer's file is treated: taken as a sale or a cancellation, or refused with a reason.

Pure rules. The file's amounts are in thousandths of a pound ("mills"), because four of its prices are £0.001; the
shop's are whole pence.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID, uuid5

from quartet.retail import naming

CURRENCY = "GBP"
# Every id of the import is a UUID 5 in this namespace, from the file's own identifiers, so that imports are idempotent.
NAMESPACE = UUID("6c1f5b0e-5b0d-5f6e-9f7a-0c24432c5b33")
UNKNOWN_CUSTOMER = ""

# Charges that customers paid: part of an invoice's total, but not products that can be put in a cart.
SERVICES = {
    "POST": "Postage",
    "DOT": "Postage, web shop",
    "C2": "Carriage",
    "M": "Manual charge",
    "D": "Discount",
}
# The retailer's own bookkeeping: fees of marketplaces and banks, donations, samples, bad debts. No customer's purchase.
BOOKKEEPING = frozenset({"AMAZONFEE", "BANK CHARGES", "B", "CRUK", "S"})


class Refusal(StrEnum):
    """Why a line was refused. The value is the code in the report, `because` the explanation."""

    UNREADABLE = "unreadable"
    BOOKKEEPING = "bookkeeping"
    STOCK_ADJUSTMENT = "stock-adjustment"
    NO_PRICE = "no-price"
    NEGATIVE_PRICE = "negative-price"
    BELOW_A_PENNY = "below-a-penny"
    SIGN = "sign"

    @property
    def because(self) -> str:
        return _BECAUSE[self]


_BECAUSE = {
    Refusal.UNREADABLE: "a column is missing, or its number or date cannot be read",
    Refusal.BOOKKEEPING: "the retailer's own books (fees, bad debts, samples), not a customer's purchase",
    Refusal.STOCK_ADJUSTMENT: "no price and a negative quantity: goods written off, not sold",
    Refusal.NO_PRICE: "no price: given away or found, not sold",
    Refusal.NEGATIVE_PRICE: "a negative price",
    Refusal.BELOW_A_PENNY: "a price that is not whole pence",
    Refusal.SIGN: "zero or negative on an invoice, or not negative on a cancellation",
}


class Line(NamedTuple):
    """One line of the file. `price_mills` is in thousandths of a pound."""

    number: int  # of the line in the file; the header is line 1
    invoice: str
    sku: str  # upper case: the file writes 85123a and 85123A for the same thing
    description: str
    quantity: int
    at: datetime
    price_mills: int
    customer: str  # "" if unknown to the retailer
    country: str

    @property
    def is_cancellation(self) -> bool:
        return self.invoice.startswith("C")

    @property
    def mills(self) -> int:
        """Quantity × price in thousandths of a pound, exact."""
        return self.quantity * self.price_mills

    @property
    def cents(self) -> int:
        """The same in pence; only valid for a line that is taken."""
        return self.quantity * self.price_cents

    @property
    def price_cents(self) -> int:
        return self.price_mills // 10


_PRICE = re.compile(r"(-?)(\d{1,9})(?:\.(\d{1,3}))?")


def mills_of(price: str) -> int:
    """A decimal such as `2.55` in thousandths of a pound. Raises ValueError."""
    found = _PRICE.fullmatch(price)
    if not found:
        raise ValueError(f"{price!r} is no price")
    sign, pounds, part = found.groups()
    mills = int(pounds) * 1000 + int((part or "").ljust(3, "0"))
    return -mills if sign else mills


def refusal(line: Line) -> Refusal | None:
    """Why the line is refused; None if it is taken."""
    if line.sku in BOOKKEEPING:
        return Refusal.BOOKKEEPING
    if line.price_mills == 0:
        return Refusal.STOCK_ADJUSTMENT if line.quantity < 0 else Refusal.NO_PRICE
    if line.price_mills < 0:
        return Refusal.NEGATIVE_PRICE
    if line.price_mills % 10:
        return Refusal.BELOW_A_PENNY
    if line.quantity == 0 or line.is_cancellation != (line.quantity < 0):
        return Refusal.SIGN
    return None


def id_of(kind: str, *words: object) -> UUID:
    """The id of an imported row, the same in every run: UUID 5 of its identifier in the file."""
    return uuid5(NAMESPACE, "/".join((kind, *map(str, words))))


def product_name(sku: str, name: str) -> str:
    """The SKU's name in the shop: the charge's name, the product's name in title case, or the SKU itself."""
    return SERVICES.get(sku) or naming.title(name) or sku


def email_of(customer: str) -> str:
    """An imported customer's address. It can't be used: these users have no password, and .example receives no mail."""
    return f"customer-{customer}@retail.example" if customer else "unknown-customer@retail.example"


@dataclass(slots=True)
class Invoice:
    """The lines of one invoice number. Its time is its first line's (some invoices span two minutes)."""

    number: str
    month: str
    at: datetime
    customer: str
    country: str
    lines: list[Line] = field(default_factory=list)


@dataclass(slots=True)
class OpenSale:
    """What remains of a sold line after the cancellations matched with it so far."""

    order_id: UUID
    turn: int
    quantity: int
    cents: int


class Sales:
    """Matches a cancellation with the sale that it refunds: the same customer's latest earlier line of that SKU with
    enough quantity and money not yet refunded. Cancellations of unknown customers match nothing, since these may be
    different people.

    `watched` are the (customer, sku) pairs of all cancellations. Only their sales are kept, so that memory grows with
    the number of cancellations instead of the number of sales.

    Months can be imported in any order. `turn` is the run in which a month was imported, and a cancellation is matched
    only with sales of its own run or earlier ones: so every later run repeats the earlier runs' decisions instead of
    changing what is already booked.
    """

    def __init__(self, watched: Collection[tuple[str, str]]) -> None:
        self._open: dict[tuple[str, str], list[OpenSale]] = {pair: [] for pair in watched}

    def sold(self, line: Line, order_id: UUID, turn: int) -> None:
        """Records a sale."""
        sales = self._open.get((line.customer, line.sku))
        if sales is not None and line.customer != UNKNOWN_CUSTOMER:
            sales.append(OpenSale(order_id, turn, line.quantity, line.cents))

    def take_back(self, line: Line, turn: int) -> UUID | None:
        """The order that a cancellation refunds, or None. Reduces what is left of that sale."""
        quantity, cents = -line.quantity, -line.cents
        for sale in reversed(self._open.get((line.customer, line.sku), ())):
            if sale.turn <= turn and sale.quantity >= quantity and sale.cents >= cents:
                sale.quantity -= quantity
                sale.cents -= cents
                return sale.order_id
        return None


@dataclass(slots=True)
class Goods:
    """The whole file's data about one SKU, from the lines taken."""

    first_sold: datetime
    units: int = 0
    months: set[str] = field(default_factory=set)
    names: Counter[str] = field(default_factory=Counter)
    _price_month: str = ""
    _prices: Counter[int] = field(default_factory=Counter)

    def add(self, line: Line, month: str) -> None:
        """Adds a line of that month; lines come in order of time."""
        self.months.add(month)
        if line.description:
            self.names[line.description] += 1
        if line.quantity > 0:
            self.units += line.quantity
            if month != self._price_month:
                # The latest month with a sale decides the price: forget the months before.
                self._price_month = month
                self._prices.clear()
        # For a SKU with cancellations only, their price is the only one.
        if line.quantity > 0 or not self._price_month:
            self._prices[line.price_cents] += 1

    @property
    def name(self) -> str:
        """The most frequent non-blank name; among equally frequent ones the longest, then the alphabetically first."""
        return min(self.names, key=lambda name: (-self.names[name], -len(name), name), default="")

    @property
    def price_cents(self) -> int:
        """The most frequent price of the latest month with a sale; among equally frequent ones the highest."""
        return max(self._prices, key=lambda cents: (self._prices[cents], cents))


# The file covers 53 weeks; such a retailer typically stocks six weeks' sales, and at least some of everything.
_WEEKS, _COVER, _LEAST, _MOST = 53, 6, 24, 5_000


def opening_stock(units_sold: int) -> int:
    """A plausible opening stock: six average weeks of the file's sales, 24 to 5,000 pieces, in dozens."""
    wanted = -(-units_sold * _COVER // _WEEKS)
    return min(max(-(-wanted // 12) * 12, _LEAST), _MOST)


@dataclass(slots=True)
class Tally:
    """A number of lines and their sum in thousandths of a pound."""

    lines: int = 0
    mills: int = 0

    def add(self, mills: int) -> None:
        self.lines += 1
        self.mills += mills

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.lines + other.lines, self.mills + other.mills)
