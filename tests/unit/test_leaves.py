"""What is kept for who leafs through a search."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from quartet.kernel.ids import new_id
from quartet.search.cache import pack, unpack

IDS = st.lists(st.one_of(st.uuids().map(str), st.sampled_from(["p1", str(UUID(int=10)).upper(), "uuids", "ö"])))


@given(IDS)
def test_what_was_shown_is_known_again(ids: list[str]) -> None:
    assert unpack(pack(ids)) == tuple(ids)


def test_a_thousand_products_are_kept_in_two_thirds_of_their_text() -> None:
    assert len(pack([str(new_id()) for _ in range(1000)])) < 21_400
