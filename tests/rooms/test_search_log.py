"""What was searched, found, opened and bought, without who did."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prometheus_client import REGISTRY

from floor import made
from quartet import catalog, inventory, merchandising, sync
from quartet.catalog import Category, Draft
from quartet.kernel.clock import FixedClock
from quartet.kernel.ids import new_id
from quartet.merchandising import service
from quartet.merchandising.model import MOST_ALIKE, Answered, Opened
from quartet.stores.postgres import Postgres, Tx
from quartet.web.dependencies import Shop

Json = dict[str, Any]
NOW = datetime.now(UTC)


@pytest.fixture
async def shelf(shop: Shop) -> Shop:
    """A red mug and a blue one, a hundred of each."""
    await catalog.put_category(shop, Category("mugs", "Mugs", None, {"type": "object"}))
    for sku, name in (("MUG-RED", "Red mug"), ("MUG-BLUE", "Blue mug")):
        draft = Draft(sku, name, "mugs", price_cents=500, published_at=NOW - timedelta(days=1))
        await catalog.create_product(shop, draft, actor="test")
        async with shop.stores.pg.tx() as tx:
            await inventory.put(tx, sku, name, 500, currency="GBP", actor="test", stock=100)
    await sync.catch_up(shop)
    return shop


async def searched(client: httpx.AsyncClient, q: str, **params: Any) -> str:
    """The search's id."""
    answer = await client.get("/search", params={"q": q, **params})
    assert answer.status_code == 200, answer.text
    return answer.headers["X-Search-Id"]


async def opened(client: httpx.AsyncClient, sku: str, search_id: str) -> None:
    await made(client.get(f"/products/{sku}", headers={"X-Search-Id": search_id}))


async def bought(client: httpx.AsyncClient, search_id: str, *lines: tuple[str, int], card: str = "card_ok") -> str:
    body = {
        "items": [{"sku": sku, "qty": qty} for sku, qty in lines],
        "foundBy": [{"sku": sku, "searchId": search_id} for sku, _ in lines],
    }
    order_id = str((await made(client.post("/orders", json=body)))["id"])
    await client.post("/payments", json={"orderId": order_id, "provider": "sandbox", "paymentMethod": card})
    return order_id


async def report(shop: Shop, staff: httpx.AsyncClient, **params: Any) -> Json:
    await merchandising.write_log(shop)
    await sync.catch_up(shop)
    return await made(staff.get("/analytics/search", params=params))


async def test_a_query_is_followed_from_the_search_to_the_till(
    shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    ids = [await searched(shopper, q) for q in ("red mug", "  Réd-  MUG!", "red mug", "zeppelin")]
    assert len(set(ids)) == 4
    for sku in ("MUG-RED", "MUG-RED", "MUG-BLUE"):
        await opened(shopper, sku, ids[0])
    await bought(shopper, ids[0], ("MUG-RED", 2), ("MUG-BLUE", 1))
    await bought(shopper, ids[1], ("MUG-RED", 1))
    found = await report(shelf, staff)
    assert found["items"] == [
        {"query": "red mug", "searches": 3, "withoutResults": 0, "opened": 1, "clickThrough": 0.3333, "units": 4,
         "grossCents": 2000},
        {"query": "zeppelin", "searches": 1, "withoutResults": 1, "opened": 0, "clickThrough": 0.0, "units": 0,
         "grossCents": 0},
    ]  # fmt: skip
    assert (found["totals"]["searches"], found["totals"]["grossCents"], found["currency"]) == (4, 2000, "GBP")
    empty = await report(shelf, staff, sort="withoutResults")
    assert [line["query"] for line in empty["items"]] == ["zeppelin"]
    assert empty["totals"] == found["totals"]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    assert not (await report(shelf, staff, **{"from": tomorrow}))["items"]
    assert (await report(shelf, staff, currency="EUR"))["totals"]["grossCents"] == 0


async def test_what_is_not_paid_sells_for_no_query(
    shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    search_id = await searched(shopper, "mug")
    order_id = await bought(shopper, search_id, ("MUG-RED", 1), card="card_declined")
    assert (await report(shelf, staff))["totals"]["units"] == 0
    await made(shopper.post(f"/orders/{order_id}/cancel"))
    assert (await report(shelf, staff))["totals"]["units"] == 0
    assert await _rows(shelf, "search_lines") == []


async def test_only_the_orders_own_lines_count_and_once(
    shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    search_id, other = await searched(shopper, "mug"), await searched(shopper, "blue")
    found_by = [
        {"sku": "MUG-RED", "searchId": search_id}, {"sku": "MUG-RED", "searchId": other},
        {"sku": "MUG-BLUE", "searchId": search_id}, {"sku": "NOTHING", "searchId": str(uuid4())},
    ]  # fmt: skip
    body = {"items": [{"sku": "MUG-RED", "qty": 1}], "foundBy": found_by}
    for _ in range(2):  # the same order asked for again
        order = await made(shopper.post("/orders", json=body, headers={"Idempotency-Key": "once"}))
    payment = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    await made(shopper.post("/payments", json=payment))
    found = await report(shelf, staff, sort="revenue")
    assert [(line["query"], line["units"]) for line in found["items"]] == [("mug", 1), ("blue", 0)]
    assert await _rows(shelf, "search_lines") == []


async def test_who_pays_before_the_search_is_written_down_has_bought_by_it(
    shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    """Each process gathers searches for a moment; the order is confirmed, and the worker has heard of it, before."""
    async with shelf.stores.pg.tx() as tx:  # nothing is written yet
        await tx.execute("LOCK TABLE searches IN EXCLUSIVE MODE")
        search_id = await searched(shopper, "mug")
        await bought(shopper, search_id, ("MUG-RED", 2))
        await bought(shopper, search_id, ("MUG-BLUE", 1), card="card_declined")
        await bought(shopper, str(uuid4()), ("MUG-RED", 1))  # of a search that is never written
        await sync.catch_up(shelf)
    await merchandising.write_log(shelf)
    for _ in range(2):
        await merchandising.credit_late(shelf)
        assert [line["units"] for line in (await report(shelf, staff))["items"]] == [2]
    left = {(line["sku"], line["search_id"] == UUID(search_id)) for line in await _rows(shelf, "search_lines")}
    assert left == {("MUG-BLUE", True), ("MUG-RED", False)}
    async with shelf.stores.pg.tx() as tx:
        await tx.execute("UPDATE orders SET created_at = created_at - interval '1 hour'")
    await merchandising.credit_late(shelf)
    assert [line["sku"] for line in await _rows(shelf, "search_lines")] == ["MUG-BLUE"]


async def test_further_pages_and_browsing_are_no_searches(
    shelf: Shop, client: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    for params in ("", "?q=%20%20", "?q=mug&page=2"):
        answer = await client.get(f"/search{params}")
        assert "X-Search-Id" not in answer.headers
    assert (await report(shelf, staff))["totals"]["searches"] == 0


async def test_an_id_that_is_none_is_ignored(
    shelf: Shop, client: httpx.AsyncClient, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    for odd in ("", "x", "0" * 32, str(uuid4()), "é" * 40, "{" + str(uuid4()) + "}"):
        answer = await client.get("/products/MUG-RED", headers={b"X-Search-Id": odd.encode()})
        assert answer.status_code == 200
        await bought(shopper, odd, ("MUG-RED", 1))
    found = await report(shelf, staff)
    assert (found["items"], found["totals"]["opened"]) == ([], 0)


async def test_the_log_says_nothing_of_anybody(shelf: Shop, client: httpx.AsyncClient) -> None:
    """Neither before the person is erased nor after: whatever is in the log's tables is none of theirs."""
    person = {"email": "ann.smith@example.com", "password": "correct horse battery"}
    user = await made(client.post("/users", json=person))
    token = (await made(client.post("/sessions", json=person)))["accessToken"]
    client.headers["Authorization"] = f"Bearer {token}"
    pasted = "4929\u00ad7946\u00ad5678\u00ad9012"  # with soft hyphens, which nobody sees
    for typed in ("mug for ann.smith@example.com", "+44 20 7946 0958", "red mug, call 020 7946 0958", pasted, "mug"):
        search_id = await searched(client, typed)
    await opened(client, "MUG-RED", search_id)
    paid = await bought(client, search_id, ("MUG-RED", 1))
    left = await bought(client, search_id, ("MUG-RED", 1), card="card_declined")
    await merchandising.write_log(shelf)
    await sync.catch_up(shelf)
    told = await _all_told(shelf)
    for name in ("ann", "smith", "7946", str(user["id"]), paid, token):
        assert name not in told, name
    assert left in told  # until it is paid or given up
    await made(client.request("DELETE", "/users/me", json={"password": person["password"]}))
    assert left not in await _all_told(shelf)


async def test_what_is_old_is_forgotten(shelf: Shop, client: httpx.AsyncClient) -> None:
    await opened(client, "MUG-RED", await searched(client, "mug"))
    await merchandising.write_log(shelf)
    async with shelf.stores.pg.tx() as tx:
        for table in ("searches", "search_opens"):
            await tx.execute(f"UPDATE {table} SET at = at - interval '91 days'")
    await opened(client, "MUG-BLUE", await searched(client, "blue mug"))
    await merchandising.write_log(shelf)
    await merchandising.sweep(shelf)
    assert [row["query"] for row in await _rows(shelf, "searches")] == ["blue mug"]
    assert len(await _rows(shelf, "search_opens")) == 1


async def test_no_search_waits_for_the_log(shelf: Shop, client: httpx.AsyncClient) -> None:
    """PostgreSQL stands still behind a lock; searches are answered, and written once it goes on."""
    async with shelf.stores.pg.tx() as tx:
        await tx.execute("LOCK TABLE searches IN ACCESS EXCLUSIVE MODE")
        for _ in range(5):
            await asyncio.wait_for(searched(client, "mug"), 10)
        await asyncio.sleep(2 * service.GATHER_SECONDS)  # it has begun to write, and waits
        await asyncio.wait_for(searched(client, "mug"), 10)
    await merchandising.write_log(shelf)
    assert await _searches(shelf) == 6


async def test_searches_are_written_by_themselves(shelf: Shop, client: httpx.AsyncClient) -> None:
    await searched(client, "mug")
    async with asyncio.timeout(30):
        while not await _rows(shelf, "searches"):  # noqa: ASYNC110 — what changes is in PostgreSQL
            await asyncio.sleep(0.05)


async def test_without_postgresql_as_much_is_kept_as_fits_and_the_rest_is_counted() -> None:
    pg = Postgres("postgresql://nobody@127.0.0.1:1/nothing")
    journal = service.Journal(pg)
    dropped = REGISTRY.get_sample_value("quartet_search_log_dropped_total") or 0.0
    for number in range(service.MOST_WAITING + 7):
        journal.note_search(Answered(f"mug {number}", None, 1, True), FixedClock(NOW))
        journal.note_search(Answered("mug 0", None, 1, True), FixedClock(NOW))  # which takes no more room
    await journal.write()
    assert journal.waiting == service.MOST_WAITING
    assert (REGISTRY.get_sample_value("quartet_search_log_dropped_total") or 0.0) - dropped == 7
    await pg.close()


async def test_ten_processes_write_at_once_and_again(shelf: Shop) -> None:
    """What a timeout left unknown is written again; nothing counts twice."""
    unsure = _Unsure(shelf.stores.pg)

    async def write() -> None:
        journal = service.Journal(unsure)  # type: ignore[arg-type]
        for number in range(300):
            search_id = journal.note_search(Answered(f"mug {number % 7}", None, number % 3, True), FixedClock(NOW))
            journal.note_opened(Opened(UUID(search_id), "a mug", NOW))
        while journal.waiting:
            await journal.write()

    await asyncio.gather(*(write() for _ in range(10)))
    assert unsure.lost == 10
    counted = Counter[tuple[str, int]]()
    for row in await _rows(shelf, "searches"):
        counted[row["query"], row["found"]] += row["times"]
    assert counted == Counter((f"mug {number % 7}", number % 3) for number in range(300) for _ in range(10))
    assert len(await _rows(shelf, "search_opens")) == 3000


class _Unsure:
    """A pool whose every second transaction is committed, and its answer lost."""

    def __init__(self, pg: Postgres) -> None:
        self._pg, self.lost, self._is_lost = pg, 0, itertools.cycle((True, False))

    @asynccontextmanager
    async def tx(self) -> AsyncIterator[Tx]:
        async with self._pg.tx() as tx:
            yield tx
        if next(self._is_lost):
            self.lost += 1
            raise TimeoutError


async def test_what_does_not_fit_into_one_batch_is_written_in_several(shelf: Shop) -> None:
    journal, many = service.Journal(shelf.stores.pg), 2 * service.BATCH + 3
    for number in range(many):
        journal.note_search(Answered(f"mug {number}", None, 2, True), shelf.clock)
    await journal.write()
    assert (journal.waiting, await _searches(shelf)) == (0, many)
    async with shelf.stores.pg.read() as read:
        assert await read.fetchval("SELECT count(DISTINCT xmin::text) FROM searches") == 3


async def test_a_crowd_that_searches_for_one_thing_is_few_rows_and_each_search_its_own(
    shelf: Shop, client: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    journal, many = service.Journal(shelf.stores.pg), MOST_ALIKE + 3
    ids = [journal.note_search(Answered("mug", "Müg", 2, True), shelf.clock) for _ in range(many)]
    journal.note_search(Answered("mug", "Müg", 3, True), shelf.clock)
    await journal.write()
    assert len(set(ids)) == many
    assert {UUID(id_).version for id_ in ids} == {7}
    rows = [(row["times"], row["query"], row["spelt"], row["found"]) for row in await _rows(shelf, "searches")]
    assert sorted(rows) == [(1, "mug", "Müg", 3), (3, "mug", "Müg", 2), (MOST_ALIKE, "mug", "Müg", 2)]
    for id_ in (ids[0], ids[0], ids[1], ids[-1]):
        await opened(client, "MUG-RED", id_)
        await opened(client, "MUG-BLUE", id_)
    (line,) = (await report(shelf, staff))["items"]
    assert (line["searches"], line["opened"]) == (many + 1, 3)


async def test_with_made_up_ids_no_more_is_opened_than_was_searched(
    shelf: Shop, client: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    search_id = await searched(client, "mug")
    for number in range(1, 8):
        await opened(client, "MUG-RED", f"{search_id[:-4]}{number:04x}")
    (line,) = (await report(shelf, staff))["items"]
    assert (line["searches"], line["opened"], line["clickThrough"]) == (1, 1, 1.0)


async def test_a_made_up_id_sells_nothing(shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient) -> None:
    search_id = await searched(shopper, "mug")
    for number in (0, 1, 2, MOST_ALIKE):  # the first search is number 1
        await bought(shopper, f"{search_id[:-4]}{number:04x}", ("MUG-RED", 1))
    await merchandising.write_log(shelf)
    await sync.catch_up(shelf)
    await merchandising.credit_late(shelf)
    assert [line["units"] for line in (await report(shelf, staff))["items"]] == [1]


async def test_searches_of_before_count_as_they_did(shelf: Shop, staff: httpx.AsyncClient) -> None:
    """Each had a row of its own, whose id was the whole search's."""
    async with shelf.stores.pg.tx() as tx:
        await tx.execute(
            "WITH before AS (INSERT INTO searches (id, at, query, found) SELECT gen_random_uuid(), now(), 'hat', n "
            "FROM generate_series(0, 3) AS n RETURNING id, found) "
            "INSERT INTO search_opens (search_id, product_id, at) SELECT id, 'a hat', now() FROM before WHERE found > 1"
        )
    (line,) = (await report(shelf, staff))["items"]
    assert (line["searches"], line["withoutResults"], line["opened"]) == (4, 1, 2)


async def test_who_searched_before_an_upgrade_opens_and_buys_after_it(
    shelf: Shop, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    search_id = new_id()
    async with shelf.stores.pg.tx() as tx:
        await tx.execute("INSERT INTO searches (id, at, query, found) VALUES ($1, now(), 'mug', 2)", search_id)
    for sku in ("MUG-RED", "MUG-BLUE"):
        await opened(shopper, sku, str(search_id))
    await bought(shopper, str(search_id), ("MUG-RED", 2))
    (line,) = (await report(shelf, staff))["items"]
    assert (line["searches"], line["opened"], line["units"]) == (1, 1, 2)


async def test_what_is_searched_while_the_same_is_being_written_is_written_too(shelf: Shop) -> None:
    """With its own time, however long PostgreSQL takes."""
    pg, times = shelf.stores.pg, [NOW.replace(microsecond=0) + timedelta(minutes=n) for n in range(3)]
    journal = service.Journal(pg)

    def search(n: int) -> None:
        journal.note_search(Answered("mug", None, 1, True), FixedClock(times[n]))

    async with pg.tx() as tx, asyncio.timeout(20):
        await tx.execute("LOCK TABLE searches IN ACCESS EXCLUSIVE MODE")
        search(0)
        writing = asyncio.create_task(journal.write())
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 'searches'::regclass AND NOT granted"
        while not await tx.fetchval(waits):  # noqa: ASYNC110 — what changes is in PostgreSQL
            await asyncio.sleep(0.01)
        search(1)
        while journal._timer is not None:  # noqa: ASYNC110 — what is gathered is of one moment
            await asyncio.sleep(0.01)
        search(2)
    await writing
    await asyncio.gather(*journal._tasks)
    assert journal.waiting == 0
    rows = [(row["at"], row["times"]) for row in await _rows(shelf, "searches")]
    assert sorted(rows) == [(at, 1) for at in times]


async def _searches(shop: Shop) -> int:
    return sum(row["times"] for row in await _rows(shop, "searches"))


async def _rows(shop: Shop, table: str) -> list[Json]:
    async with shop.stores.pg.read() as read:
        return [dict(row) for row in await read.fetch(f"SELECT * FROM {table}")]


async def _all_told(shop: Shop) -> str:
    tables = ("searches", "search_opens", "search_lines", "search_sales")
    return "\n".join([str(row) for table in tables for row in await _rows(shop, table)])
