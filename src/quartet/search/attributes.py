"""Attributes in the index, and the filters on them.

Categories disagree about their attributes: one has sizes "S" and "L", the next 42. As fields of the index they would
clash (the second type is refused) and grow without bound. So all of them live in one keyword field as tokens,
`name=s:black`, `name=b:true`, `name=n:<16 hex digits>`; the digits sort as the numbers do, so that a range of numbers
is a range of tokens.
"""

import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from quartet.kernel.errors import invalid
from quartet.search.model import AttrFilter, AttrValue

_LONGEST_VALUE = 256
_COMPARISONS = ("gte", "lte", "gt", "lt", "in")
# Not allowed in an attribute's name: `=` ends the name in a token, and engines refuse the others in an aggregation's.
_NO_NAME = frozenset("=[]>")
# As JSON writes numbers, so that every value that a facet shows can be used as a filter.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def sortable(number: float) -> str:
    """16 hex digits that sort as the numbers do: IEEE 754 bits with the sign bit flipped, all bits if negative."""
    bits: int = struct.unpack(">Q", struct.pack(">d", number + 0.0))[0]  # + 0.0 makes -0.0 the 0.0 it equals
    return f"{bits ^ (0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 1 << 63):016x}"


def _number(digits: str) -> float:
    bits = int(digits, 16)
    bits ^= 1 << 63 if bits >> 63 else 0xFFFF_FFFF_FFFF_FFFF
    number: float = struct.unpack(">d", struct.pack(">Q", bits))[0]
    return number


def token(name: str, value: AttrValue) -> str:
    """One attribute's value as a token."""
    if isinstance(value, bool):
        return f"{name}=b:{str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"{name}=n:{sortable(value)}"
    return f"{name}=s:{value[:_LONGEST_VALUE]}"


def read_token(text: str) -> tuple[str, AttrValue]:
    """The attribute and its value; whole numbers come back as int."""
    name, _, rest = text.partition("=")
    kind, _, value = rest.partition(":")
    if kind == "n":
        number = _number(value)
        return name, int(number) if number.is_integer() else number
    return name, value == "true" if kind == "b" else value


# Products share many values; `typed`, since 1, 1.0 and True are equal keys.
_token_of_many = lru_cache(maxsize=20_000, typed=True)(token)


def tokens(attrs: Mapping[str, Any]) -> Iterator[str]:
    """Every value that can be searched for: a list gives one token per entry; objects and null give none, nor does a
    name with `=` in it, which no filter can name."""
    for name, held in attrs.items():
        if "=" not in name:
            for value in held if isinstance(held, list) else [held]:
                if isinstance(value, (str, int, float)):
                    yield _token_of_many(name, value)


def readings(name: str, value: str) -> list[str]:
    """All tokens that a filter's text may mean; its reading as JSON last."""
    candidates: list[AttrValue] = [value]
    candidates += [float(value)] if _is_number(value) else []
    candidates += [value == "true"] if value in ("true", "false") else []
    return [token(name, candidate) for candidate in candidates]


def as_typed(value: AttrValue) -> str:
    """The text by which a filter names the value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def attr_filter(parameter: str, value: str) -> AttrFilter:
    """`attrs.color` = `black`, `attrs.ram_gb.gte` = `32` or `attrs.ram_gb.in` = `16..64` as a filter. Raises Invalid
    naming the parameter."""
    name = parameter.removeprefix("attrs.")
    name, dot, comparison = name.partition(".")
    if not 1 <= len(name) <= 64 or not _NO_NAME.isdisjoint(name) or (dot and comparison not in _COMPARISONS):
        raise invalid(parameter, f"must read attrs.<name>, or attrs.<name>.<{'|'.join(_COMPARISONS)}>")
    if not 1 <= len(value) <= _LONGEST_VALUE:
        raise invalid(parameter, f"must have 1 to {_LONGEST_VALUE} characters")
    if not comparison:
        return AttrFilter(name, values=(value,))
    if comparison == "in":
        low, dots, high = value.partition("..")
        if not (dots and _is_number(low) and _is_number(high)):
            raise invalid(parameter, "must be two numbers, <from>..<to>")
        if float(low) > float(high):
            raise invalid(parameter, "must not begin above its end")
        return AttrFilter(name, bands=((float(low), float(high)),))
    if not _is_number(value):
        raise invalid(parameter, "must be a number")
    return AttrFilter(name, bounds=((comparison, float(value)),))


def combined(filters: Iterable[AttrFilter]) -> tuple[AttrFilter, ...]:
    """One filter per attribute: several values, or bands, are alternatives; several bounds are one range, in which one
    value has to be."""
    merged: dict[str, AttrFilter] = {}
    for one in filters:
        held = merged.get(one.name, AttrFilter(one.name))
        values, bands, bounds = held.values + one.values, held.bands + one.bands, held.bounds + one.bounds
        merged[one.name] = AttrFilter(one.name, values, bands, bounds)
    return tuple(merged.values())
