"""Ids, money and problems: pure rules."""

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartet.kernel.errors import StoreUnavailable, invalid
from quartet.kernel.ids import new_id
from quartet.kernel.money import format_money, minor_digits, to_minor


def test_ids_are_version_7_and_grow_with_time() -> None:
    ids = [new_id() for _ in range(1000)]
    assert [UUID(str(i)) for i in ids] == ids
    assert {i.version for i in ids} == {7}
    assert {i.variant for i in ids} == {"specified in RFC 4122"}
    assert len(set(ids)) == 1000
    stamps = [i.int >> 80 for i in ids]
    assert stamps == sorted(stamps)


@given(st.integers(-(10**15), 10**15), st.sampled_from(["GBP", "JPY", "KWD"]))
def test_money_goes_to_minor_units_and_back(minor: int, currency: str) -> None:
    assert to_minor(Decimal(minor).scaleb(-minor_digits(currency)), currency) == minor


def test_a_tenth_of_a_penny_is_not_money() -> None:
    with pytest.raises(ValueError, match="whole number"):
        to_minor(Decimal("0.001"), "GBP")
    assert to_minor(Decimal("0.001"), "KWD") == 1


def test_money_reads_well() -> None:
    assert format_money(123456, "GBP") == "1,234.56 GBP"
    assert format_money(-5, "GBP") == "-0.05 GBP"
    assert format_money(1500, "JPY") == "1,500 JPY"


def test_a_problem_says_when_to_come_again_or_what_is_wrong() -> None:
    assert StoreUnavailable("redis").headers == {"Retry-After": "2"}
    assert invalid("qty", "must be 1 to 999").members == {"errors": [{"field": "qty", "message": "must be 1 to 999"}]}
