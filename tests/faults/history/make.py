"""Histories by hand: `shop(A=2).did("place", 0, 1, order="x", lines=(("A", 2),))…verdict()`."""

from typing import Any

from history.checker import NEVER, Verdict, check
from history.model import Call, World, independent

CENTS = 500


class shop:  # noqa: N801 — reads as a sentence
    """A shop with so much on its shelves; everything costs the same."""

    def __init__(self, **stock: int) -> None:
        self._stock, self._calls = stock, list[Call]()

    def did(self, name: str, begin: float, end: float, said: str = "yes", **more: Any) -> "shop":
        """Somebody did something, and was told."""
        self._calls.append(Call(name, begin, end, said, **more))
        return self

    def may_have(self, name: str, begin: float, **more: Any) -> "shop":
        """Somebody did something, and never heard of it."""
        self._calls.append(Call(name, begin, NEVER, None, **more))
        return self

    def placed(self, order: str, begin: float, end: float, **lines: int) -> "shop":
        """An order was placed."""
        return self.did("place", begin, end, order=order, lines=tuple(lines.items()))

    def verdict(self) -> Verdict:
        """The first part that is impossible, or what was looked at in all."""
        return judged(self._calls, self._stock, CENTS)


def judged(calls: list[Call], stock: dict[str, int], cents: int) -> Verdict:
    """The first independent part of the history that is impossible, else that all of it is possible."""
    looked_at = 0
    for part in independent(calls):
        lines = {call.order: call.lines for call in part if call.name == "place"}
        skus = {sku for order in lines.values() for sku, _ in order} | {call.sku for call in part if call.sku}
        world = World({sku: stock[sku] for sku in skus}, cents, lines)
        verdict = check(world.operations(part), world.start)
        looked_at += verdict.looked_at
        if not verdict.possible:
            return verdict
    return Verdict(True, looked_at)
