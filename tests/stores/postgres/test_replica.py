"""Reports are read at a streaming replica, which may lag and may be away."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

import cashier
from conftest import SignIn, make_template, settings_of_ones_own, tell_family
from quartet import inventory, orders
from quartet.devstores import Place, Running, postgres
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.stores.postgres import Postgres, Read
from quartet.stores.reports import q, report
from quartet.web.dependencies import Shop

PATIENCE = 60


@dataclass
class Pair:
    """A primary and what follows it; the replica may be killed and come back at its place."""

    primary: Running
    replica: Running
    place: Place

    async def kill(self) -> None:
        os.kill(self.replica.server.pid, signal.SIGKILL)
        await self.replica.child.wait()

    async def restart(self) -> None:
        self.replica = await postgres.follow(self.place, self.primary.server.url)


@pytest.fixture(scope="session")
def major() -> int | None:
    """Of which version; None for the newest there is."""
    return None


@pytest.fixture(scope="session")
async def pair(tmp_path_factory: pytest.TempPathFactory, major: int | None) -> AsyncIterator[Pair]:
    """Two servers for all tests here."""
    places = [Place(tmp_path_factory.mktemp(name), durable=False) for name in ("primary", "replica")]
    primary = await postgres.start(places[0], major, followed=True)
    pair = Pair(primary, await postgres.follow(places[1], primary.server.url), places[1])
    yield pair
    await pair.replica.stop()
    await primary.stop()
    for place in places:
        postgres.discard(place)


@pytest.fixture(scope="session")
async def pair_template(pair: Pair) -> str:
    """A migrated database on them."""
    return await make_template(pair.primary.server.url)


@pytest.fixture
async def settings(servers: dict[str, str], pair: Pair, pair_template: str, tmp_path: Path) -> AsyncIterator[Settings]:
    """A shop that reads its reports at the replica."""
    theirs = {**servers, "postgres": pair.primary.server.url}
    async with settings_of_ones_own(theirs, pair_template, tmp_path) as settings:
        replica = urlsplit(pair.replica.server.url)._replace(path=urlsplit(settings.postgres_url or "").path)
        yield settings.model_copy(update={"postgres_replica_url": replica.geturl()})


class Till:
    """Sells mugs, and asks how many were sold."""

    def __init__(self, shop: Shop, staff: httpx.AsyncClient, buyer: httpx.AsyncClient) -> None:
        self.shop, self.staff, self.buyer = shop, staff, buyer.user_id  # type: ignore[attr-defined]

    async def sell(self) -> datetime:
        """One mug; the server's time just before it was sold."""
        async with self.shop.stores.pg.tx() as tx:
            now: datetime = await tx.fetchval("SELECT clock_timestamp()")
            await cashier.confirm(tx, (await orders.place(tx, self.buyer, [("MUG", 1)])).id)
        return now

    async def report(self) -> tuple[int, datetime]:
        """Mugs sold, and of when that is."""
        answer = await self.staff.get("/analytics/revenue?groupBy=product")
        assert answer.status_code == 200, answer.text
        return answer.json()["totals"]["units"], datetime.fromisoformat(answer.json()["asOf"])

    async def until(self, units: int, since: datetime | None = None) -> datetime:
        """Waits until so many are told of, as of that time or later; of when that is.

        What is told may be newer than the report says: it looks at the time first.
        """
        async with asyncio.timeout(PATIENCE):
            while True:
                told, as_of = await self.report()
                if told == units and (since is None or as_of >= since):
                    return as_of
                await asyncio.sleep(0.05)

    async def is_replica(self) -> bool:
        """Whether a replica answers."""
        found, _ = await self.shop.stores.report(lambda read: read.fetchval("SELECT pg_is_in_recovery()"))
        return bool(found)

    async def until_at_replica(self, units: int = 0) -> None:
        """Waits until the replica is asked, and has heard of so many sold itself."""
        asked = "SELECT pg_is_in_recovery() AND (SELECT count(*) FROM orders WHERE status = 'confirmed') >= $1"
        async with asyncio.timeout(PATIENCE):
            while not (await self.shop.stores.report(lambda read: read.fetchval(asked, units)))[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.fixture
async def till(shop: Shop, sign_in: SignIn) -> Till:
    till = Till(shop, await sign_in("staff"), await sign_in())
    async with shop.stores.pg.tx() as tx:
        await inventory.put(tx, "MUG", "A mug", 500, stock=100, currency="GBP", actor="test")
    await till.sell()
    await till.until_at_replica(1)  # which may have to hear of this shop first: until then the primary tells
    return till


async def test_a_report_is_read_at_the_replica_and_says_of_when_it_is(till: Till) -> None:
    sold_at = await till.sell()
    as_of = await till.until(2, sold_at)
    assert as_of <= datetime.now(UTC) + timedelta(seconds=1)
    for path in ("inventory", "search"):
        assert "asOf" in (await till.staff.get(f"/analytics/{path}")).json()
    assert await till.is_replica()


async def test_a_replica_that_lags_tells_what_it_knows_and_how_old_it_is(till: Till, pair: Pair) -> None:
    async with _lagging(pair):
        sold_at = await till.sell()
        assert await till.until(1) < sold_at  # where the replica is slow to answer, the primary tells instead
    await till.until(2, sold_at)


async def test_what_is_bought_and_seen_by_shoppers_never_comes_from_the_replica(till: Till, pair: Pair) -> None:
    async with _lagging(pair):
        await till.sell()
        found = await till.staff.get("/inventory/MUG")
    assert found.json()["stock"] == 98


async def test_what_the_replica_has_not_heard_of_yet_the_primary_tells(till: Till, pair: Pair) -> None:
    async with _lagging(pair):
        async with till.shop.stores.pg.tx() as tx:
            await tx.execute("CREATE TABLE news AS SELECT 7 AS n")
        found, _ = await till.shop.stores.report(lambda read: read.fetchval("SELECT n FROM news"))
    assert found == 7


async def test_while_the_replica_is_away_the_primary_tells(till: Till, pair: Pair) -> None:
    await pair.kill()
    sold_at = await till.sell()
    for _ in range(3):
        told, as_of = await till.report()
        assert told == 2
        assert as_of > sold_at
    await pair.restart()
    await till.until_at_replica()
    await till.until(2)


async def test_a_replica_that_hangs_holds_no_report_for_long(till: Till, pair: Pair) -> None:
    """All its processes stop, so that neither it nor what it has open answers."""
    tell_family(pair.replica.server.pid, signal.SIGSTOP)
    try:
        await till.sell()
        async with asyncio.timeout(PATIENCE):
            told = await asyncio.gather(*(till.report() for _ in range(20)))
        assert {units for units, _ in told} == {2}
    finally:
        tell_family(pair.replica.server.pid, signal.SIGCONT)
    await till.until_at_replica()


async def test_when_neither_answers_that_is_said() -> None:
    primary, replica = (Postgres("postgresql://nobody@127.0.0.1:1/none", size=1) for _ in range(2))

    async def ask(read: Read) -> None:
        raise AssertionError("nobody is there")

    with pytest.raises(StoreUnavailable):
        await report(primary, replica, ask)
    for each in (primary, replica):
        await each.close()


async def test_the_shops_own_role_may_ask_of_when_it_is(till: Till, settings: Settings) -> None:
    connection = await asyncpg.connect(settings.postgres_replica_url)
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE quartet_app")
        assert await connection.fetchval(q.as_of) is not None
        assert await connection.fetchval("SELECT checkpoint_time FROM pg_control_checkpoint()") is not None
    await connection.close()


@asynccontextmanager
async def _lagging(pair: Pair) -> AsyncIterator[None]:
    """The replica knows what has been until now; from now on it hears of everything and looks at nothing."""
    primary = await asyncpg.connect(pair.primary.server.url)
    now = await primary.fetchval("SELECT pg_current_wal_flush_lsn()::text")
    await primary.close()
    replica = await asyncpg.connect(pair.replica.server.url)
    async with asyncio.timeout(PATIENCE):
        while not await replica.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", now):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await replica.execute("SELECT pg_wal_replay_pause()")
    try:
        async with asyncio.timeout(PATIENCE):
            while await replica.fetchval("SELECT pg_get_wal_replay_pause_state()") != "paused":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield
    finally:
        await replica.execute("SELECT pg_wal_replay_resume()")
        await replica.close()
