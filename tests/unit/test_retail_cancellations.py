"""Cancellations find the sale they take back, and never take back more than was bought."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from quartet.retail.model import Line, Sales, id_of

START = datetime(2010, 12, 1, 8, 26, tzinfo=UTC)
FIRST, SECOND = (id_of("order", number) for number in range(2))


def line(quantity: int, price_cents: int = 255, *, customer: str = "17850", sku: str = "85123A", day: int = 0) -> Line:
    invoice = "C536379" if quantity < 0 else "536365"
    at = START + timedelta(days=day)
    return Line(2, invoice, sku, "WHITE HANGING HEART", quantity, at, price_cents * 10, customer, "France")


def sales() -> Sales:
    return Sales({("17850", "85123A"), ("13047", "85123A")})


def test_the_latest_earlier_sale_with_enough_left_is_taken_back() -> None:
    book = sales()
    book.sold(line(12), FIRST, 1)
    book.sold(line(6), SECOND, 1)
    assert book.take_back(line(-4), 1) == SECOND
    assert book.take_back(line(-4), 1) == FIRST, "only two pieces are left of the second"
    assert book.take_back(line(-2), 1) == SECOND
    assert book.take_back(line(-9), 1) is None, "nobody can return nine of eight"
    assert book.take_back(line(-8), 1) == FIRST


def test_another_customers_or_products_sale_does_not_match() -> None:
    book = sales()
    book.sold(line(12, customer="13047"), FIRST, 1)
    assert book.take_back(line(-1), 1) is None
    assert book.take_back(line(-1, sku="71053"), 1) is None
    assert book.take_back(line(-1, customer="13047"), 1) == FIRST


def test_unknown_customers_are_nobody_in_particular() -> None:
    book = Sales({("", "85123A")})
    book.sold(line(12, customer=""), FIRST, 1)
    assert book.take_back(line(-1, customer=""), 1) is None


def test_no_more_money_comes_back_than_was_paid() -> None:
    book = sales()
    book.sold(line(10, 200), FIRST, 1)
    assert book.take_back(line(-10, 201), 1) is None
    assert book.take_back(line(-5, 400), 1) == FIRST
    assert book.take_back(line(-1, 1), 1) is None, "all that was paid is back already"


def test_a_month_imported_later_stays_unseen_by_what_was_decided_before() -> None:
    book = sales()
    book.sold(line(6), FIRST, 2)
    book.sold(line(6), SECOND, 1)
    assert book.take_back(line(-6), 1) == SECOND
    assert book.take_back(line(-6), 1) is None, "the first sale came with a later import"
    assert book.take_back(line(-6), 2) == FIRST


class Step(NamedTuple):
    customer: str
    sku: str
    quantity: int
    cents: int


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["17850", "13047"]),
        st.sampled_from(["A", "B"]),
        st.integers(-5, 5).filter(bool),
        st.integers(1, 3),
    ),
    max_size=60,
)


@given(steps)
def test_over_any_history_refunds_stay_within_their_sales(history: list[Step]) -> None:
    watched = {(step.customer, step.sku) for step in history if step.quantity < 0}
    book = Sales(watched)
    pieces: defaultdict[tuple[UUID, str, str], int] = defaultdict(int)
    money: defaultdict[tuple[UUID, str, str], int] = defaultdict(int)
    for number, step in enumerate(history):
        moved = line(step.quantity, step.cents, customer=step.customer, sku=step.sku, day=number)
        order = id_of("order", number)
        if step.quantity > 0:
            book.sold(moved, order, 1)
            taken: UUID | None = order
        else:
            able = [
                key
                for key in pieces
                if key[1:] == (step.customer, step.sku) and pieces[key] >= -step.quantity and money[key] >= -moved.cents
            ]
            taken = book.take_back(moved, 1)
            assert taken == (able[-1][0] if able else None)
        if taken:
            pieces[taken, step.customer, step.sku] += step.quantity
            money[taken, step.customer, step.sku] += moved.cents
    assert all(left >= 0 for left in (*pieces.values(), *money.values()))
