"""What is kept for who leafs through a search."""

from collections import Counter
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from quartet.kernel.ids import new_id
from quartet.search import cache
from quartet.search.cache import SeenIds, pack, unpack
from quartet.stores.redis import RedisStore

IDS = st.lists(st.one_of(st.uuids().map(str), st.sampled_from(["p1", str(UUID(int=10)).upper(), "uuids", "ö"])))


@given(IDS)
def test_what_was_shown_is_known_again(ids: list[str]) -> None:
    assert unpack(pack(ids)) == tuple(ids)


def test_a_thousand_products_are_kept_in_two_thirds_of_their_text() -> None:
    assert len(pack([str(new_id()) for _ in range(1000)])) < 21_400


class Kept:
    """What Redis was told to keep."""

    def __init__(self) -> None:
        self.pages: dict[str, int] = {}

    @property
    def brief(self) -> "Kept":
        return self

    async def call(self, *command: Any) -> None:
        assert command[0] == "SET"
        self.pages[command[1]] = len(command[2]) + 200


async def test_all_who_leaf_leave_redis_room_for_carts_and_their_answers_are_kept_as_ever() -> None:
    kept, pages = Kept(), [str(new_id()) for _ in range(1000)]
    seen_ids = SeenIds(cast(RedisStore, kept), "shop")
    for number in range(5000):
        await seen_ids.save([*pages[1:], str(number)], f"client {number % 50}")
    assert 30_000_000 < sum(kept.pages.values()) <= 32_000_000
    full = len(kept.pages)
    _, is_everybodys = await seen_ids.save(["a first page"], "somebody else")
    assert is_everybodys, "the engine need not be asked again by each"
    assert len(kept.pages) == full


async def test_one_who_leafs_has_a_share_and_nobody_else_gets_his_answers_beyond_it() -> None:
    kept, pages = Kept(), [str(new_id()) for _ in range(1000)]
    seen_ids = SeenIds(cast(RedisStore, kept), "shop")
    said = [(await seen_ids.save([*pages[1:], str(number)], "a client"))[1] for number in range(500)]
    assert said == [True] * len(kept.pages) + [False] * (500 - len(kept.pages))
    assert 3_900_000 < sum(kept.pages.values()) <= 4_000_000


async def test_a_first_page_that_many_ask_for_takes_its_room_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES_IN_ALL", 1000)
    kept = Kept()
    seen_ids = SeenIds(cast(RedisStore, kept), "shop")
    for number in range(20):
        await seen_ids.save(["mug"], f"client {number}")
    await seen_ids.save(["kettle"], "client 1")
    assert len(kept.pages) == 2


async def test_pages_lie_on_all_servers_of_a_cluster() -> None:
    kept = Kept()
    seen_ids = SeenIds(cast(RedisStore, kept), "shop")
    for number in range(300):
        await seen_ids.save([str(number)], f"client {number}")
    thirds = Counter(key_slot(key.encode()) * 3 // 16384 for key in kept.pages)
    assert min(thirds[third] for third in range(3)) > 50
