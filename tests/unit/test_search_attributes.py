"""Attributes as tokens: numbers sort as numbers, and what goes in comes out."""

import json
import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartet.kernel.errors import Invalid
from quartet.search import clauses
from quartet.search.attributes import attr_filter, combined, read_token, readings, sortable, token, tokens

_COMPARED = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}

numbers = st.floats(allow_nan=False) | st.integers(-(10**15), 10**15)
names = st.text(min_size=1, max_size=64).filter(lambda name: "=" not in name)


@given(numbers, numbers)
def test_tokens_sort_as_their_numbers_do(a: float, b: float) -> None:
    assert (sortable(a) < sortable(b)) == (float(a) < float(b))


@given(names, numbers | st.booleans() | st.text(max_size=256))
def test_a_token_reads_back_as_it_was(name: str, value: float | bool | str) -> None:
    assert read_token(token(name, value)) == (name, value)


def test_minus_zero_is_zero() -> None:
    assert sortable(-0.0) == sortable(0.0)
    assert sortable(-math.inf) < sortable(-1.0) < sortable(0.0) < sortable(5e-324) < sortable(math.inf)


def test_lists_give_a_token_an_entry_and_objects_none() -> None:
    held = {"genre": ["crime", "love"], "size": {"w": 1}, "none": None, "a=b": "x", "pages": 312}
    assert list(tokens(held)) == ["genre=s:crime", "genre=s:love", token("pages", 312)]


@given(st.floats(-1e200, 1e200) | st.integers(-(2**63), 2**63))
def test_what_a_facet_shows_can_be_asked_for(value: float) -> None:
    shown = json.dumps(read_token(token("size", value))[1])
    assert token("size", value) in readings("size", shown)
    [(_, bound)] = attr_filter("attrs.size.gte", shown).bounds
    [band] = attr_filter("attrs.size.in", f"{shown}..1e300").bands
    assert (bound, band) == (float(value), (float(value), 1e300))


@given(
    st.lists(st.tuples(st.sampled_from(["gt", "gte", "lt", "lte"]), st.integers(-3, 3)), min_size=1), st.integers(-4, 4)
)
def test_a_number_is_between_bounds_if_it_is_within_each(bounds: list[tuple[str, float]], number: int) -> None:
    [asked] = combined(attr_filter(f"attrs.size.{comparison}", str(bound)) for comparison, bound in bounds)
    between = clauses._between(asked)
    within = between["gte"] <= token("size", number) < between["lt"]
    assert within == all(_COMPARED[comparison](number, bound) for comparison, bound in bounds)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attrs.", "x"),
        ("attrs.ram.gte", "many"),
        ("attrs.ram.gte", "nan"),
        ("attrs.ram.gte", "1e400"),
        ("attrs.ram.gte", ""),
        ("attrs.ram.near", "3"),
        ("attrs.ram.in", "3"),
        ("attrs.ram.in", "3..many"),
        ("attrs.ram.in", "..3"),
        ("attrs.ram.in", "9..5"),
        ("attrs.ram.gte.lte", "3"),
        ("attrs.a=b", "3"),
        ("attrs.a>b", "3"),
        ("attrs.color[]", "red"),
        ("attrs.color", ""),
        ("attrs.color", "x" * 257),
        ("attrs." + "x" * 65, "3"),
    ],
)
def test_bad_conditions_name_their_parameter(name: str, value: str) -> None:
    with pytest.raises(Invalid) as refusal:
        attr_filter(name, value)
    assert refusal.value.members["errors"][0]["field"] == name
