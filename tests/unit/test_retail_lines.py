"""What the shop takes of the retailer's file and what it refuses, line by line."""

import csv
import io
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartet.retail.dataset import COLUMNS, NotTheRetailersFile, Unread, invoices, read, survey
from quartet.retail.model import Line, Refusal, id_of, mills_of, opening_stock, refusal

SALE = ["536365", "85123A", "WHITE HANGING HEART", "6", "2010-12-01 08:26:00", "2.55", "17850", "United Kingdom"]


def row(**changes: str) -> list[str]:
    return [changes.get(column, usual) for column, usual in zip(COLUMNS, SALE, strict=True)]


def text(*rows: list[str]) -> io.StringIO:
    file = io.StringIO()
    csv.writer(file).writerows([COLUMNS, *rows])
    file.seek(0)
    return file


def line(**changes: str) -> Line:
    (read_line,) = read(text(row(**changes)))
    assert isinstance(read_line, Line)
    return read_line


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"sku": "POST"}, None),
        ({"invoice": "C536365", "quantity": "-6"}, None),
        ({"invoice": "C536365", "quantity": "-1", "sku": "D"}, None),
        ({"customer": "", "description": ""}, None),
        ({"sku": "AMAZONFEE"}, Refusal.BOOKKEEPING),
        ({"sku": "B", "unit_price": "-11062.06"}, Refusal.BOOKKEEPING),
        ({"sku": "bank charges", "unit_price": "0.001"}, Refusal.BOOKKEEPING),
        ({"unit_price": "0.0"}, Refusal.NO_PRICE),
        ({"unit_price": "0", "quantity": "-9600"}, Refusal.STOCK_ADJUSTMENT),
        ({"unit_price": "-1.5"}, Refusal.NEGATIVE_PRICE),
        ({"sku": "PADS", "unit_price": "0.001"}, Refusal.BELOW_A_PENNY),
        ({"unit_price": "1.005"}, Refusal.BELOW_A_PENNY),
        ({"quantity": "-6"}, Refusal.SIGN),
        ({"invoice": "C536365"}, Refusal.SIGN),
        ({"quantity": "0"}, Refusal.SIGN),
    ],
)
def test_a_line_is_taken_or_refused_for_one_reason(changes: dict[str, str], expected: Refusal | None) -> None:
    assert refusal(line(**changes)) is expected


def test_every_reason_has_its_sentence() -> None:
    assert all(reason.because for reason in Refusal)


@pytest.mark.parametrize(
    "broken",
    [
        row(quantity="six"),
        row(quantity="6.0"),
        row(quantity=str(2**31)),
        row(at="the first of December"),
        row(unit_price="2,55"),
        row(unit_price="1e3"),
        row(unit_price="0.0001"),
        row(sku=" "),
        row(invoice=""),
        row(description="x" * 10_000),
        SALE[:-1],
        [*SALE, "one too many"],
        [],
    ],
)
def test_what_cannot_be_read_is_kept_for_the_report(broken: list[str]) -> None:
    found = list(read(text(row(), broken, row())))
    assert [type(line) for line in found] == [Line, Unread, Line]
    assert isinstance(found[1], Unread)
    assert found[1].number == 3


def test_another_file_is_told_apart_at_once() -> None:
    with pytest.raises(NotTheRetailersFile):
        list(read(io.StringIO("id,name\n1,2\n")))
    with pytest.raises(NotTheRetailersFile):
        list(read(io.StringIO("")))


@given(st.decimals(min_value=-99_999_999, max_value=99_999_999, places=3))
def test_prices_are_read_to_the_last_digit(price: Decimal) -> None:
    assert Decimal(mills_of(f"{price:f}")).scaleb(-3) == price


@given(st.integers(1, 100_000), st.integers(0, 9_999_999))
def test_a_taken_line_comes_to_whole_pence(quantity: int, cents: int) -> None:
    sale = line(quantity=str(quantity), unit_price=f"{Decimal(cents).scaleb(-2):f}")
    assert refusal(sale) is (None if cents else Refusal.NO_PRICE)
    assert sale.cents * 10 == sale.mills == quantity * cents * 10


def test_upper_and_lower_case_are_one_sku() -> None:
    assert line(sku="85123a").sku == line(sku="85123A").sku == "85123A"


def test_an_interrupted_invoice_comes_out_whole() -> None:
    rows = [row(), row(invoice="536366"), row(sku="71053"), row(invoice="536366", sku="71053")]
    lines = [line for line in read(text(*rows)) if isinstance(line, Line)]
    found = list(invoices(lines, survey(lines).invoices, {"2010-12"}))
    assert [(invoice.number, len(invoice.lines)) for invoice in found] == [("536365", 2), ("536366", 2)]
    assert [line.number for line in found[0].lines] == [2, 4]


def test_a_month_is_read_no_further_than_its_last_line() -> None:
    rows = [row(), row(invoice="2", at="2011-01-01 00:00:00"), row(invoice="3"), row(invoice="4")]
    lines = [line for line in read(text(*rows, row(invoice="5", at="2011-01-02 00:00:00"))) if isinstance(line, Line)]
    extents, unread = survey(lines).invoices, iter(lines)
    assert [invoice.number for invoice in invoices(unread, extents, {"2010-12"})] == ["536365", "3", "4"]
    assert [line.invoice for line in unread] == ["5"]
    assert list(invoices(lines, extents, {"1999-01"})) == []


def test_the_survey_takes_the_usual_name_and_the_latest_usual_price() -> None:
    rows = [
        row(unit_price="9.99", at="2010-12-01 08:00:00"),
        row(unit_price="9.99", at="2010-12-02 08:00:00"),
        row(unit_price="2.95", at="2011-01-05 08:00:00", invoice="9"),
        row(unit_price="2.55", at="2011-01-06 08:00:00", invoice="9", description="WHITE HEART"),
        row(unit_price="2.55", at="2011-01-07 08:00:00", invoice="9", description=""),
        row(unit_price="0.0", at="2011-01-08 08:00:00", invoice="9", description="damaged"),
        row(invoice="C1", quantity="-4", unit_price="1.00", at="2011-02-08 08:00:00"),
    ]
    found = survey(read(text(*rows)))
    heart = found.goods["85123A"]
    assert (heart.name, heart.price_cents, heart.units) == ("WHITE HANGING HEART", 255, 30)
    assert (found.lines, found.months) == (7, ["2010-12", "2011-01", "2011-02"])
    assert found.cancelled == {("17850", "85123A")}
    assert found.mills == 2 * 6 * 9990 + 6 * 2950 + 2 * 6 * 2550 - 4 * 1000


def test_goods_only_ever_cancelled_have_a_price_and_a_name() -> None:
    found = survey(read(text(row(invoice="C9", quantity="-1"))))
    assert (found.goods["85123A"].price_cents, found.goods["85123A"].name) == (255, "WHITE HANGING HEART")


@given(st.integers(0, 10_000_000))
def test_opening_stock_is_whole_dozens_within_bounds(units: int) -> None:
    stock = opening_stock(units)
    assert 24 <= stock <= 5_000
    assert stock % 12 == 0 or stock == 5_000


def test_ids_are_the_same_in_every_run() -> None:
    assert id_of("order", "536365") == id_of("order", "536365") != id_of("payment", "536365")
    assert str(id_of("order", "536365")) == "8fb5cf8d-8941-50c7-8717-99a7347a674e"
