"""The shop as one person would run it: every operation at one moment, or at two where something can come between.

A `Call` is what a client did and was told; `operations` turns a history of them into what the checker takes. Whatever a
call leaves under way (a card whose webhook is still to come, a refund that the provider has not confirmed) is an
operation of its own that may end at any later time, or never.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from history.checker import NEVER, Operation, Part

# Cards that take the money, whatever else they do.
TAKING = ("card_ok", "card_slow", "card_async")


@dataclass(frozen=True)
class Call:
    """`name` and what it was about; `order` is the client's own name for an order. `said`: None when nobody knows, else
    `yes` or the problem's slug; `told` what the answer's body said, as far as the model looks at it."""

    name: str
    begin: float
    end: float
    said: str | None
    order: str = ""
    sku: str = ""
    lines: tuple[tuple[str, int], ...] = ()
    card: str = "card_ok"
    cents: int | None = None
    restock: bool = False
    delta: int = 0
    told: Any = None

    def __str__(self) -> str:
        what = [self.order, self.sku, *(f"{qty} {sku}" for sku, qty in self.lines)]
        if self.name == "pay":
            what.append(self.card)
        if self.name in ("refund", "move_stock"):
            what.append(str(self.delta or self.cents or "all"))
        told = "" if self.told is None else f" {self.told}"
        end = "…" if self.end == NEVER else f"{self.end:.4f}"
        return f"{self.begin:.4f}–{end} {self.name} {' '.join(filter(None, what))}: {self.said or 'unknown'}{told}"


class Order(NamedTuple):
    """`open`: the payment that is under way; `promised`: refunds under way, by name, in cents; `back`: whether a refund
    put the pieces back; `expired`: cancelled by the clock."""

    status: str = "pending"
    open: str = ""
    captured: int = 0
    promised: tuple[tuple[str, int], ...] = ()
    refunded: int = 0
    back: bool = False
    expired: bool = False

    @property
    def left(self) -> int:
        """What can still be given back."""
        return self.captured - self.refunded - sum(cents for _, cents in self.promised)

    def promise(self, name: str, cents: int) -> "Order":
        """With a refund of this name under way."""
        return self._replace(promised=tuple(sorted((*self.promised, (name, cents)))))


class Books(NamedTuple):
    """Stock and reserved by SKU, orders by name; both in the order of the world's names."""

    shelves: tuple[tuple[int, int], ...]
    orders: tuple[Order | None, ...]


class World:
    """SKUs with their stock at the start, one price for all, and the orders that somebody tried to place."""

    def __init__(self, stock: Mapping[str, int], cents: int, lines: Mapping[str, Sequence[tuple[str, int]]]) -> None:
        self._skus = {sku: n for n, sku in enumerate(sorted(stock))}
        self._orders = {name: n for n, name in enumerate(sorted(lines))}
        self._lines = {name: Counter[str]() for name in lines}
        for name, order in lines.items():
            for sku, qty in order:
                self._lines[name][sku] += qty
        self._cents = cents
        self.start = Books(tuple((stock[sku], 0) for sku in self._skus), (None,) * len(self._orders))

    def operations(self, history: Iterable[Call]) -> list[Operation]:
        """Everything that is known to have happened, or may have."""
        return [operation for n, call in enumerate(history) for operation in self._of(call, f"#{n}")]

    def _of(self, call: Call, name: str) -> Iterator[Operation]:
        yes, later = getattr(self, f"_{call.name}")(call, name)
        unknown = call.said is None
        if yes or not unknown:
            yield Operation(str(call), call.begin, NEVER if unknown else call.end, yes)
        if later:
            yield Operation(f"later, of {call}", call.begin, NEVER, later)

    # Each answers the parts within the call's interval, and those that may come at any time after its beginning.

    def _place(self, call: Call, _: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        lines = self._lines[call.order]

        def place(books: Books) -> Iterator[Books]:
            if all(self._free(books, sku) >= qty for sku, qty in lines.items()) and self._get(books, call) is None:
                yield self._put(self._move(books, lines, 0, 1), call, Order())

        def short(books: Books) -> Iterator[Books]:
            found = {sku: self._free(books, sku) for sku, qty in lines.items() if self._free(books, sku) < qty}
            if found and found == call.told:
                yield books

        return ((short,) if call.said == "insufficient-stock" else (place,)), ()

    def _pay(self, call: Call, name: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        def start(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and order.status == "pending" and not order.open:
                yield self._put(books, call, order._replace(open=name))

        def taken(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if not order or order.open != name:
                return
            captured = order._replace(open="", status="confirmed", captured=self._total(call), expired=False)
            lines = self._lines[call.order]
            if order.status == "pending":
                yield self._put(self._move(books, lines, -1, -1), call, captured)
            elif order.expired and all(self._free(books, sku) >= qty for sku, qty in lines.items()):
                yield self._put(self._move(books, lines, -1, 0), call, captured)

        def not_taken(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and order.open == name:
                yield self._put(books, call, order._replace(open=""))

        def too_late(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and order.open == name and order.status != "pending":
                yield self._put(books, call, order._replace(open=""))

        def in_progress(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and order.status == "pending" and order.open:
                yield books

        def perhaps_started(books: Books) -> Iterator[Books]:
            yield books
            yield from start(books)

        def not_payable(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and order.status != "pending":
                yield self._put(books, call, order._replace(open="")) if order.open == name else books

        def either(books: Books) -> Iterator[Books]:
            yield from taken(books) if call.card in TAKING else not_taken(books)
            yield from too_late(books)
            if call.card in TAKING:  # the request may have died before the card was asked
                yield from not_taken(books)

        match call.said:
            case "yes":
                return (start, taken), ()
            case "yes, pending":
                return (start,), (either,)
            case "payment-declined" | "provider-error":
                return (start, not_taken), ()
            case "payment-in-progress":
                return (in_progress,), ()
            case "order-not-payable" if call.told == "too late":
                return (start, too_late), ()
            case "order-not-payable" if call.told == "asked again":
                return (perhaps_started, not_payable), ()
            case "order-not-payable":
                return (not_payable,), ()
        return (start, either), ()

    def _cancel(self, call: Call, name: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        def cancel(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if not order or order.status not in ("pending", "confirmed"):
                return
            stock, reserved = (0, -1) if order.status == "pending" else (0 if order.back else 1, 0)
            books = self._move(books, self._lines[call.order], stock, reserved)
            after = order.promise(name, order.left) if order.left else order
            yield self._put(books, call, after._replace(status="cancelled"))

        def refused(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and order.status not in ("pending", "confirmed"):
                yield books

        if call.said == "invalid-transition":
            return (refused,), ()
        return (cancel,), (self._given_back(call, name),)

    def _refund(self, call: Call, name: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        def promise(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order is None:
                return
            cents = order.left if call.cents is None else call.cents
            if 0 < cents <= order.left and call.told in (None, cents):
                yield self._put(books, call, order.promise(name, cents))

        def refused(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            left = order.left if order else 0
            if left == call.told and (left == 0 or (call.cents or 0) > left):
                yield books

        match call.said:
            case "over-refund":
                return (refused,), ()
            case "yes, pending":
                return (promise,), (self._given_back(call, name),)
        return (promise, self._given_back(call, name)), ()

    def _given_back(self, call: Call, name: str) -> Part:
        """The provider has done what was promised."""

        def done(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            cents = dict(order.promised).get(name) if order else None
            if not order or cents is None:
                return
            cancelled = order.status == "cancelled"
            back = call.restock and not order.back and not cancelled
            whole = order.refunded + cents == order.captured and not cancelled
            after = order._replace(
                refunded=order.refunded + cents, promised=tuple(p for p in order.promised if p[0] != name),
                back=order.back or back, status="refunded" if whole else order.status,
            )  # fmt: skip
            yield self._put(self._move(books, self._lines[call.order], int(back), 0), call, after)

        return done

    def _ship(self, call: Call, _: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        def ship(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and order.status == "confirmed":
                yield self._put(books, call, order._replace(status="shipped"))

        def refused(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and order.status != "confirmed":
                yield books

        return ((refused,) if call.said == "invalid-transition" else (ship,)), ()

    def _expire(self, call: Call, _: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        def expire(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and order.status == "pending":
                expired = order._replace(status="cancelled", expired=True)
                yield self._put(self._move(books, self._lines[call.order], 0, -1), call, expired)

        return (expire,), ()

    def _move_stock(self, call: Call, _: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        def move(books: Books) -> Iterator[Books]:
            stock, reserved = books.shelves[self._skus[call.sku]]
            if stock + call.delta >= reserved:
                yield self._move(books, {call.sku: call.delta}, 1, 0)

        def refused(books: Books) -> Iterator[Books]:
            stock, reserved = books.shelves[self._skus[call.sku]]
            if stock + call.delta < reserved and call.told == (stock, reserved):
                yield books

        return ((refused,) if call.said == "stock-out-of-bounds" else (move,)), ()

    def _look(self, call: Call, _: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        def look(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and call.told == (order.status, order.refunded):
                yield books

        return (look,), ()

    def _shelf(self, call: Call, _: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        def look(books: Books) -> Iterator[Books]:
            if books.shelves[self._skus[call.sku]] == call.told:
                yield books

        return (look,), ()

    def _provider(self, call: Call, _: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """When all is settled: the provider holds what the order cost and has not given back."""

        def look(books: Books) -> Iterator[Books]:
            order = self._get(books, call)
            if order and not order.open and not order.promised and order.captured - order.refunded == call.told:
                yield books

        return (look,), ()

    def _no_order(self, call: Call, _: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """When all is settled: there is no such order."""

        def look(books: Books) -> Iterator[Books]:
            if self._get(books, call) is None:
                yield books

        return (look,), ()

    def _total(self, call: Call) -> int:
        return self._cents * sum(self._lines[call.order].values())

    def _get(self, books: Books, call: Call) -> Order | None:
        return books.orders[self._orders[call.order]]

    def _put(self, books: Books, call: Call, order: Order) -> Books:
        n = self._orders[call.order]
        return books._replace(orders=(*books.orders[:n], order, *books.orders[n + 1 :]))

    def _free(self, books: Books, sku: str) -> int:
        stock, reserved = books.shelves[self._skus[sku]]
        return stock - reserved

    def _move(self, books: Books, lines: Mapping[str, int], stock: int, reserved: int) -> Books:
        """The lines' pieces, so often."""
        shelves = list(books.shelves)
        for sku, qty in lines.items():
            n = self._skus[sku]
            shelves[n] = (shelves[n][0] + stock * qty, shelves[n][1] + reserved * qty)
        return books._replace(shelves=tuple(shelves))


def independent(history: Sequence[Call]) -> list[list[Call]]:
    """The history cut so that no two parts have a SKU in common; each is checked by itself."""
    skus_of = {call.order: {sku for sku, _ in call.lines} for call in history if call.name == "place"}
    groups: list[set[str]] = []
    for skus in [*skus_of.values(), *({call.sku} for call in history if call.sku)]:
        touched = [group for group in groups if group & skus]
        groups = [group for group in groups if not group & skus] + [skus.union(*touched)]
    return [[call for call in history if (skus_of.get(call.order) or {call.sku}) & group] for group in groups]
