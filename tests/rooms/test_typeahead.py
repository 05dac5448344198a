"""GET /search/suggest beside products: categories, and what others searched for with success."""

import random
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from floor import made
from quartet import catalog, merchandising, sync
from quartet.catalog import Category, Draft
from quartet.kernel.clock import FixedClock
from quartet.kernel.errors import StoreUnavailable
from quartet.merchandising import rules, store, typeahead
from quartet.merchandising.model import Answered, Searched, masked_query
from quartet.stores.postgres import Tx
from quartet.web.dependencies import Shop

# The last noon, lest searches some minutes apart be of two days.
NOW = (datetime.now(UTC) - timedelta(hours=12)).replace(hour=12, minute=0, second=0, microsecond=0)
SEED = 77


async def searched(
    shop: Shop, query: str, times: int, found: int = 1, *, exact: bool = True, minutes_apart: int = 1, after: int = 0
) -> None:
    """So many searches, as other processes have logged them, the last of them so many minutes ago. `exact`: what was
    found has all of their words."""
    exact = exact and found > 0
    answered = Answered(*masked_query(query, exact), found, exact)
    entries = [_once(answered, NOW - timedelta(minutes=after + minutes_apart * number)) for number in range(times)]
    async with shop.stores.pg.tx() as tx:
        await store.write(tx, entries, [])
    await merchandising.count_queries(shop)
    shop.stores._singletons.pop(rules.SearchSettingsCache, None)  # as a process that begins now


def _once(answered: Answered, at: datetime) -> Searched:
    entry = Searched(answered, at)
    entry.add()
    return entry


async def offered(client: httpx.AsyncClient, q: str, **params: Any) -> tuple[list[str], list[str]]:
    """Slugs of categories, and queries."""
    body = await made(client.get("/search/suggest", params={"q": q, **params}))
    return [category["slug"] for category in body["categories"]], body["queries"]


async def test_what_others_searched_for_is_offered_from_the_first_letter(shop: Shop, client: httpx.AsyncClient) -> None:
    await catalog.put_category(shop, Category("headphones", "Wireless Headphones", None, {"type": "object"}))
    await searched(shop, "Red  MUG", 7)
    await searched(shop, "red rope", 9)
    await searched(shop, "blue mug", 5)
    assert await offered(client, "r") == ([], ["red rope", "red mug"])
    assert await offered(client, "RED m") == ([], ["red mug"])
    assert await offered(client, "r", size=1) == ([], ["red rope"])
    assert await offered(client, "hea") == (["headphones"], [])
    assert await offered(client, "wireless h") == (["headphones"], [])
    for misspelt in ("bleu", "blu m", "bllue", "blux mug", "blue mg", "lbue", "lue m", "clue mug"):
        assert await offered(client, misspelt) == ([], ["blue mug"]), misspelt
    assert await offered(client, "haed") == (["headphones"], [])
    assert await offered(client, "blx") == ([], [])  # too few letters to say
    assert await offered(client, "") == ([], [])


async def test_what_one_types_is_read_as_a_search_reads_it(shop: Shop, client: httpx.AsyncClient) -> None:
    await catalog.put_category(shop, Category("office", "Möbel & Büro", None, {"type": "object"}))
    await searched(shop, "32 GB laptop", 4)
    await searched(shop, "32gb, Laptop!", 4, after=10)
    for q in ("mo", "möb", "Mob", "möbel b", "bur", "Bü"):
        assert await offered(client, q) == (["office"], []), q
    for q in ("32", "32 gb l", "32GB-Lap"):
        assert await offered(client, q) == ([], ["32gb laptop"]), q
    await searched(shop, "pique polo", 3)
    await searched(shop, "Piqué  Polo!", 4, after=10)
    for q in ("pique", "PIQUÉ-P"):
        assert await offered(client, q) == ([], ["piqué polo"]), q  # as most of them type it


async def test_nothing_that_could_be_somebodys_own_is_offered(shop: Shop, client: httpx.AsyncClient) -> None:
    await searched(shop, "seldom", 4)
    await searched(shop, "nothing there", 50, found=0)
    await searched(shop, "not any more", 5)
    await searched(shop, "not any more", 20, found=0, minutes_apart=30)
    await searched(shop, "mug cheaper at evilshop.example", 50, found=76, exact=False)
    await searched(shop, "headp", 50, exact=False)
    await searched(shop, "ann@example.com", 50)
    await searched(shop, "mug for ann@example.com", 50)
    await searched(shop, "over and over", 50, minutes_apart=0)  # one page, loaded again and again
    for q in ("s", "n", "a", "m", "h", "o", "…"):
        assert await offered(client, q) == ([], []), q


async def test_only_what_has_all_words_as_they_are_was_found_exactly(shop: Shop, client: httpx.AsyncClient) -> None:
    """Each of these finds the mug. Of the last but one only the words are heeded that it has."""
    await catalog.put_category(shop, Category("mugs", "Mugs", None, {"type": "object"}))
    draft = Draft("MUG", "Red mug", "mugs", price_cents=500, published_at=NOW - timedelta(days=1))
    await catalog.create_product(shop, draft, actor="test")
    await sync.catch_up(shop)
    typed = {"red mug": True, "Mugs!": True, "mug cheaper at evilshop.example": False, "mgu": False,
             "mug " * 16 + "evilshop": False, "red zeppelin": False}  # fmt: skip
    for q in typed:
        assert (await made(client.get("/search", params={"q": q})))["total"] == 1, q
    await made(client.get("/search", params={"q": "mug", "brand": "none"}))
    await merchandising.write_log(shop)
    async with shop.stores.pg.read() as read:
        logged = {row["query"]: row["exact"] for row in await read.fetch("SELECT query, exact FROM searches")}
    expected = {masked_query(q, exact=True)[0]: exact for q, exact in typed.items()}
    assert logged == expected | {"mug": False}


async def test_staff_take_a_query_out_of_what_is_offered(
    shop: Shop, client: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    await searched(shop, "mug", 7)
    await searched(shop, "muddy boots", 5)
    assert await offered(client, "mu") == ([], ["mug", "muddy boots"])
    rule = await made(staff.post("/search/rules", json={"query": "Mugs", "offered": False}))
    assert rule["offered"] is False
    shop.stores._singletons.pop(rules.SearchSettingsCache)
    assert await offered(client, "mu") == ([], ["muddy boots"])
    assert (await made(staff.post("/search/rules", json={"query": "mugs"})))["offered"] is True
    shop.stores._singletons.pop(rules.SearchSettingsCache)
    assert await offered(client, "mu") == ([], ["mug", "muddy boots"])


async def test_counting_again_changes_nothing(shop: Shop) -> None:
    await searched(shop, "mug", 6)
    for _ in range(3):
        await merchandising.count_queries(shop)
    async with shop.stores.pg.read() as read:
        assert await read.fetchval("SELECT sum(searches) FROM query_days") == 6


async def test_processes_read_what_the_worker_drew_and_not_a_month_of_queries(
    shop: Shop, client: httpx.AsyncClient
) -> None:
    await searched(shop, "mug", 7)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("DELETE FROM query_days")
        await tx.execute("DELETE FROM searches")
    shop.stores._singletons.pop(rules.SearchSettingsCache, None)
    assert await offered(client, "mu") == ([], ["mug"])
    await merchandising.count_queries(shop)
    shop.stores._singletons.pop(rules.SearchSettingsCache)
    assert await offered(client, "mu") == ([], [])


async def test_without_yesterday_only_today_is_counted(shop: Shop) -> None:
    await searched(shop, "mug", 1)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("DELETE FROM query_days")
        await tx.execute("UPDATE searches SET at = $1", midnight - timedelta(seconds=1))
    for yesterday, days in ((False, 0), (True, 1)):
        await merchandising.count_queries(shop, yesterday=yesterday)
        async with shop.stores.pg.read() as read:
            assert await read.fetchval("SELECT count(*) FROM query_days") == days


async def test_a_yesterday_that_takes_too_long_keeps_nothing_of_today_from_being_offered(
    shop: Shop, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    midnight, count_day = NOW.replace(hour=0), store.count_queries

    async def count(tx: Tx, day: datetime) -> None:
        if day < midnight:
            raise StoreUnavailable("postgres")
        await count_day(tx, day)

    monkeypatch.setattr(store, "count_queries", count)
    async with shop.stores.pg.tx() as tx:
        entries = [_once(Answered("mug", None, 1, True), midnight + timedelta(minutes=n)) for n in range(6)]
        await store.write(tx, entries, [])
    with pytest.raises(StoreUnavailable):
        await merchandising.count_queries(replace(shop, clock=FixedClock(NOW)))
    assert await offered(client, "mu") == ([], ["mug"])


def spellings(text: str, letters: str) -> set[str]:
    """All that one letter left out, put in, changed, or swapped with the next makes of it."""
    parts = [(text[:place], text[place:]) for place in range(len(text) + 1)]
    return {
        *(before + rest[1:] for before, rest in parts),
        *(before + rest[1] + rest[0] + rest[2:] for before, rest in parts if len(rest) > 1),
        *(before + letter + rest[kept:] for before, rest in parts for letter in letters for kept in (0, 1)),
    }


@pytest.mark.parametrize("typed", ["a", "b", "ca", "abcd", "bcda abc", "dabca", "accd b", "ddcba", "zzzz"])
def test_offers_are_those_that_anybody_would_count_out(typed: str) -> None:
    """All texts looked at one by one find the same."""
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    words = ["".join(draw.choices("abcd", k=draw.randint(1, 5))) for _ in range(60)]
    weights = {" ".join(draw.sample(words, draw.randint(1, 3))): draw.randint(1, 99) for _ in range(400)}
    offers = typeahead.of_queries(weights.items())
    exact = [text for text in weights if text.startswith(typed)]
    near = spellings(typed, "abcd ") if len(typed) >= 4 else set()
    expected = exact or [text for text in weights if any(text.startswith(n) for n in near)]
    expected.sort(key=lambda text: (-weights[text], text))
    assert offers.starting_with(typed, 10) == expected[:10]


def test_what_is_offered_costs_little() -> None:
    """Five thousand queries, typed with a letter wrong: well under a millisecond of CPU; the bound is a hundred times
    that, for machines that do other things."""
    draw = random.Random(SEED)
    letters = "abcdefghijklmnopqrstuvwxyz "
    offers = typeahead.of_queries(("".join(draw.choices(letters, k=draw.randint(4, 30))), 1) for _ in range(5000))
    typed = ["".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(300)]
    began = time.process_time()
    for text in typed:
        offers.starting_with(text, 10)
    took = (time.process_time() - began) / len(typed)
    print(f"{took * 1e6:.0f} µs each")
    assert took < 0.1
