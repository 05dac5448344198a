"""The judge of histories is judged by histories written by hand."""

import random
from collections.abc import Callable

import pytest
from history.make import shop

X = {"order": "x"}


def sold() -> shop:
    """One of two pieces is ordered, paid and confirmed."""
    return shop(A=2).placed("x", 0, 1, A=1).did("pay", 2, 3, **X)


GOOD: dict[str, Callable[[], shop]] = {
    "one after the other": lambda: (
        sold().did("look", 4, 5, order="x", told=("confirmed", 0)).did("shelf", 4, 5, sku="A", told=(1, 0))
    ),
    "the last piece to one of two at once": lambda: (
        shop(A=1)
        .placed("x", 0, 5, A=1)
        .did("place", 1, 4, "insufficient-stock", order="y", lines=(("A", 1),), told={"A": 0})
    ),
    "refused before another ended, since that one began before": lambda: (
        shop(A=1)
        .placed("x", 0, 9, A=1)
        .did("place", 1, 2, "insufficient-stock", order="y", lines=(("A", 1),), told={"A": 0})
    ),
    "an order without an answer that took the piece": lambda: (
        shop(A=1)
        .may_have("place", 0, order="x", lines=(("A", 1),))
        .did("place", 5, 6, "insufficient-stock", order="y", lines=(("A", 1),), told={"A": 0})
    ),
    "an order without an answer that never was": lambda: (
        shop(A=1).may_have("place", 0, order="x", lines=(("A", 1),)).placed("y", 5, 6, A=1)
    ),
    "a payment without an answer, seen much later": lambda: (
        shop(A=1)
        .placed("x", 0, 1, A=1)
        .may_have("pay", 2, **X)
        .did("look", 5, 6, order="x", told=("pending", 0))
        .did("look", 8, 9, order="x", told=("confirmed", 0))
    ),
    "paid while it was cancelled: the money goes back": lambda: (
        shop(A=1)
        .placed("x", 0, 1, A=1)
        .did("pay", 2, 9, "order-not-payable", told="too late", **X)
        .did("cancel", 3, 4, **X)
        .did("provider", 10, 11, order="x", told=0)
    ),
    "cancelled after it was paid": lambda: sold().did("cancel", 4, 5, **X).did("provider", 10, 11, order="x", told=0),
    "a card that was slow, paid after it expired, where a piece was left": lambda: (
        shop(A=1)
        .placed("x", 0, 1, A=1)
        .did("pay", 2, 9, **X)
        .did("expire", 3, 4, **X)
        .did("look", 5, 6, order="x", told=("cancelled", 0))
        .did("look", 10, 11, order="x", told=("confirmed", 0))
    ),
    "two refunds in part, and a third that is too much": lambda: (
        sold()
        .did("refund", 4, 7, cents=200, told=200, **X)
        .did("refund", 4, 7, cents=300, told=300, **X)
        .did("refund", 5, 6, "over-refund", cents=100, told=0, **X)
        .did("look", 8, 9, order="x", told=("refunded", 500))
    ),
    "shipped between a refund's promise and its end": lambda: (
        sold()
        .did("refund", 4, 9, told=500, **X)
        .did("refund", 5, 6, "over-refund", told=0, **X)
        .did("ship", 7, 8, **X)
        .did("look", 10, 11, order="x", told=("refunded", 500))
    ),
    "pieces put back by a refund, once": lambda: (
        sold()
        .did("refund", 4, 5, cents=100, told=100, restock=True, **X)
        .did("refund", 6, 7, cents=100, told=100, restock=True, **X)
        .did("shelf", 8, 9, sku="A", told=(2, 0))
    ),
    "a declined card and a second one": lambda: (
        shop(A=1)
        .placed("x", 0, 1, A=1)
        .did("pay", 2, 3, "payment-declined", card="card_declined", **X)
        .did("pay", 4, 5, **X)
    ),
    "a card that is told later": lambda: (
        shop(A=1)
        .placed("x", 0, 1, A=1)
        .did("pay", 2, 3, "yes, pending", card="card_async", **X)
        .did("pay", 4, 5, "payment-in-progress", **X)
        .did("look", 6, 7, order="x", told=("confirmed", 0))
    ),
}  # fmt: skip

BAD: dict[str, Callable[[], shop]] = {
    "oversold": lambda: shop(A=1).placed("x", 0, 5, A=1).placed("y", 1, 4, A=1),
    "oversold over two SKUs": lambda: (
        shop(A=1, B=1).placed("x", 0, 5, A=1, B=1).placed("y", 1, 4, B=1)
    ),
    "refused for a piece that nobody had yet": lambda: (
        shop(A=1)
        .did("place", 0, 1, "insufficient-stock", order="y", lines=(("A", 1),), told={"A": 0})
        .placed("x", 2, 3, A=1)
    ),
    "a shortage told with a wrong number": lambda: (
        shop(A=2).did("place", 0, 1, "insufficient-stock", order="y", lines=(("A", 3),), told={"A": 1})
    ),
    "a lost order": lambda: shop(A=1).placed("x", 0, 1, A=1).did("no_order", 2, 3, order="x"),
    "an order that took no stock": lambda: shop(A=2).placed("x", 0, 1, A=1).did("shelf", 2, 3, sku="A", told=(2, 0)),
    "charged twice": lambda: sold().did("provider", 4, 5, order="x", told=1000),
    "paid twice": lambda: shop(A=1).placed("x", 0, 1, A=1).did("pay", 2, 5, **X).did("pay", 3, 4, **X),
    "charged without a yes": lambda: shop(A=1).placed("x", 0, 1, A=1).did("provider", 4, 5, order="x", told=500),
    "a yes that vanished": lambda: sold().did("look", 4, 5, order="x", told=("pending", 0)),
    "a yes that vanished later": lambda: (
        sold()
        .did("look", 4, 5, order="x", told=("confirmed", 0))
        .did("look", 6, 7, order="x", told=("pending", 0))
    ),
    "paid after it was cancelled": lambda: (
        shop(A=1).placed("x", 0, 1, A=1).did("cancel", 2, 3, **X).did("pay", 4, 5, **X)
    ),
    "cancelled twice": lambda: sold().did("cancel", 4, 7, **X).did("cancel", 5, 6, **X),
    "cancelled and shipped": lambda: sold().did("cancel", 4, 7, **X).did("ship", 5, 6, **X),
    "cancelled, and the money kept": lambda: (
        sold().did("cancel", 4, 5, **X).did("provider", 10, 11, order="x", told=500)
    ),
    "paid though it was cancelled while the card was asked": lambda: (
        shop(A=1)
        .placed("x", 0, 1, A=1)
        .did("pay", 2, 9, **X)
        .did("cancel", 3, 4, **X)
        .did("look", 10, 11, order="x", told=("confirmed", 0))
    ),
    "refunded twice": lambda: sold().did("refund", 4, 7, told=500, **X).did("refund", 5, 6, told=500, **X),
    "refunded more than was left": lambda: (
        sold().did("refund", 4, 5, cents=400, told=400, **X).did("refund", 6, 7, cents=200, told=200, **X)
    ),
    "refused a refund that was possible": lambda: sold().did("refund", 4, 5, "over-refund", cents=200, told=100, **X),
    "pieces put back twice": lambda: (
        sold()
        .did("refund", 4, 5, cents=100, told=100, restock=True, **X)
        .did("cancel", 6, 7, **X)
        .did("shelf", 8, 9, sku="A", told=(3, 0))
    ),
    "stock taken from under an order": lambda: (
        shop(A=1).placed("x", 0, 1, A=1).did("move_stock", 2, 3, sku="A", delta=-1)
    ),
    "an unknown order that two saw differently": lambda: (
        shop(A=1)
        .may_have("place", 0, order="x", lines=(("A", 1),))
        .did("place", 2, 3, "insufficient-stock", order="y", lines=(("A", 1),), told={"A": 0})
        .placed("z", 4, 5, A=1)
    ),
    "what happened before it was asked for": lambda: (
        shop(A=1).placed("x", 0, 1, A=1).did("look", 2, 3, order="x", told=("confirmed", 0)).may_have("pay", 4, **X)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_is_possible_passes(name: str) -> None:
    verdict = GOOD[name]().verdict()
    assert verdict.possible, str(verdict)


@pytest.mark.parametrize("name", BAD)
def test_what_is_impossible_is_found(name: str) -> None:
    assert not BAD[name]().verdict().possible


def test_the_order_in_which_a_history_is_written_down_does_not_matter() -> None:
    for name, history in [*GOOD.items(), *BAD.items()]:
        told = history()
        random.Random(name).shuffle(told._calls)
        assert told.verdict().possible is (name in GOOD)


def test_many_at_once_are_decided_in_time() -> None:
    """Ten buyers at once on five pieces, three of whom never heard."""
    crowd = shop(A=5)
    for n in range(4):
        crowd.placed(f"x{n}", n, 20, A=1)
    for n in range(3):
        crowd.may_have("place", n, order=f"u{n}", lines=(("A", 1),))
    for n in range(3):
        crowd.did("place", 5 + n, 21, "insufficient-stock", order=f"y{n}", lines=(("A", 2),), told={"A": 1})
    verdict = crowd.did("shelf", 30, 31, sku="A", told=(5, 5)).verdict()
    assert verdict.possible and verdict.looked_at < 10_000
