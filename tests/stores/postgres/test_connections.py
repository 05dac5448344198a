"""The connections to PostgreSQL: lent, given back, and never poisoned."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from quartet.kernel.errors import Conflict, StoreUnavailable
from quartet.stores import migrate as migrations
from quartet.stores import postgres
from quartet.stores.migrate import Migration, find, migrate
from quartet.stores.postgres import IDLE_SECONDS, Postgres, Read, Violation


@pytest.fixture
async def pg(servers: dict[str, str]) -> AsyncIterator[Postgres]:
    pg = Postgres(servers["postgres"], size=2)
    yield pg
    await pg.close()


async def _pid(pg: Postgres) -> int:
    async with pg.read() as read:
        pid: int = await read.fetchval("SELECT pg_backend_pid()")
        return pid


async def _relayed(server: str, hold_back: Callable[[bytes], Awaitable[None]]) -> tuple[asyncio.Server, str]:
    """Something between us and the server, and its URL: `hold_back` is awaited before anything is passed on."""
    url = urlsplit(server)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(65536):
            await hold_back(said)
            writer.write(said)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(url.hostname, url.port)
        await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer), return_exceptions=True)

    between = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = between.sockets[0].getsockname()[1]
    return between, url._replace(netloc=f"{url.netloc.rpartition(':')[0]}:{port}").geturl()


async def test_more_callers_than_connections_take_turns(pg: Postgres) -> None:
    async def call() -> int:
        async with pg.read() as read:
            await read.fetchval("SELECT pg_sleep(0.01)")
            pid: int = await read.fetchval("SELECT pg_backend_pid()")
            return pid

    pids = await asyncio.gather(*(call() for _ in range(40)))
    assert len(set(pids)) == 2


async def test_a_refusal_keeps_the_connection(pg: Postgres) -> None:
    before = await _pid(pg)
    with pytest.raises(Conflict):
        async with pg.tx() as tx:
            await tx.execute("SELECT 1")
            raise Conflict()
    with pytest.raises(Violation) as refused:
        async with pg.tx() as tx:
            await tx.execute("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'QT001', DETAIL = 'why'; END $$")
    assert (refused.value.sqlstate, refused.value.detail) == ("QT001", "why")
    assert await _pid(pg) == before


async def test_what_nobody_waits_for_any_more_is_ended_at_the_server(pg: Postgres) -> None:
    async def ask() -> None:
        async with pg.read(600) as read:
            await read.fetchval("SELECT pg_sleep(600) AS given_up")

    async def until(n: int) -> None:
        running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%AS given' || '_up%'"
        async with asyncio.timeout(20), pg.read() as read:
            while await read.fetchval(running) != n:  # noqa: ASYNC110 — the server does it
                await asyncio.sleep(0.05)

    asked = asyncio.create_task(ask())
    await until(1)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await until(0)


async def test_what_nobody_waits_for_may_take_longer_than_a_call(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CALL_SECONDS", 1.0)  # a busy machine still connects within it
    pg = Postgres(servers["postgres"])
    long = "SELECT 1 FROM pg_sleep(1.5)"

    async def patiently(ask: Callable[[Read], Awaitable[Any]]) -> Any:
        async with pg.read(60) as read:
            return await ask(read)

    async def execute() -> str:
        async with pg.once(60) as tx:
            return await tx.execute(long)

    asked = (lambda read: read.fetch(long), lambda read: read.fetchrow(long), lambda read: read.fetchval(long))
    rows, row, value, done = await asyncio.gather(*map(patiently, asked), execute())
    assert ([*map(tuple, rows)], tuple(row), value, done) == ([(1,)], (1,), 1, "SELECT 1")
    with pytest.raises(StoreUnavailable):
        async with pg.read() as read:
            await read.fetch("SELECT pg_sleep(60)")
    await pg.close()


async def test_a_call_cut_short_costs_its_connection_and_no_other(pg: Postgres) -> None:
    before = await _pid(pg)
    for _ in range(5):  # more often than there are connections: none may be lost
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), pg.tx() as tx:
                await tx.execute("SELECT pg_sleep(5)")
    assert await asyncio.gather(*(_pid(pg) for _ in range(4)))
    assert await _pid(pg) != before


async def test_a_connection_that_nobody_waits_for_until_it_is_ready_is_not_left_open(
    pg: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lets us in and then says nothing would have one more each time."""
    let_in: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def hang(connection: "asyncpg.Connection[Any]") -> None:
        let_in.set_result(connection.get_server_pid())
        await asyncio.Event().wait()

    with monkeypatch.context() as silent:
        silent.setattr(postgres, "_prepare_connection", hang)
        asked = asyncio.create_task(_pid(pg))
        pid = await let_in
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    async with asyncio.timeout(20), pg.read() as read:
        while await read.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_connection_that_lay_idle_for_long_is_not_trusted(
    pg: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was between may have forgotten it."""
    before = await _pid(pg)
    assert await _pid(pg) == before
    monkeypatch.setattr(postgres, "monotonic", lambda: monotonic() + IDLE_SECONDS)
    assert await _pid(pg) != before
    async with asyncio.timeout(20), pg.read() as read:
        while await read.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", before):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_whoever_gives_up_waiting_passes_the_turn_on(pg: Postgres) -> None:
    let_go = asyncio.Event()

    async def hold() -> None:
        async with pg.read():
            await let_go.wait()

    async def hurried() -> None:
        async with asyncio.timeout(0.1):
            await _pid(pg)

    holders = [asyncio.create_task(hold()) for _ in range(2)]
    await asyncio.sleep(0)
    gave_up = await asyncio.gather(*(hurried() for _ in range(5)), return_exceptions=True)
    assert all(isinstance(e, TimeoutError | StoreUnavailable) for e in gave_up)
    let_go.set()
    await asyncio.gather(*holders)
    assert await asyncio.gather(*(_pid(pg) for _ in range(10)))


async def test_a_server_that_ended_our_connections_is_met_again(pg: Postgres, servers: dict[str, str]) -> None:
    before = await _pid(pg)
    admin = await asyncpg.connect(servers["postgres"])
    assert await admin.fetchval("SELECT pg_terminate_backend($1, 30000)", before)  # waits until it has ended
    await admin.close()
    for _ in range(3):  # we may hear of it a moment later
        with suppress(StoreUnavailable):
            after = await _pid(pg)
            break
    assert after != before


async def test_whoever_is_alone_notices_that_the_server_says_nothing_any_more(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its host is gone: nobody ends the connection."""
    monkeypatch.setattr(postgres, "CALL_SECONDS", 0.5)
    monkeypatch.setattr(postgres, "LOCK_CHECK_SECONDS", 0.01)
    is_there = asyncio.Event()
    is_there.set()

    async def hold_back(_: bytes) -> None:
        await is_there.wait()

    between, url = await _relayed(servers["postgres"], hold_back)
    pg = Postgres(url)
    async with asyncio.timeout(20), pg.advisory_lock("silence") as holds_lock:
        assert holds_lock()
        is_there.clear()
        while holds_lock():  # noqa: ASYNC110 — it comes true elsewhere
            await asyncio.sleep(0.01)
    is_there.set()
    between.close()
    await pg.close()


async def test_whoever_stands_still_is_alone_no_more(
    pg: Postgres, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, or on a host that has disappeared: its connection ends neither by itself nor by the network."""
    monkeypatch.setattr(postgres, "SILENT_SECONDS", 3)
    monkeypatch.setattr(postgres, "LOCK_CHECK_SECONDS", 0.05)
    watch, still = postgres._end_when_silent, asyncio.Event()

    async def stand_still(_: object) -> None:
        still.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(postgres, "_end_when_silent", stand_still)
    other = Postgres(servers["postgres"])
    async with asyncio.timeout(30), pg.advisory_lock("still") as holds_lock:
        await still.wait()
        monkeypatch.setattr(postgres, "_end_when_silent", watch)
        async with other.advisory_lock("still") as is_the_other:
            while holds_lock():  # noqa: ASYNC110 — the server tells it
                await asyncio.sleep(0.01)
            await asyncio.sleep(3.5)
            assert is_the_other()
    await other.close()


async def test_a_transaction_that_stands_still_keeps_its_locks_for_a_while_only(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is stopped; others wait for the row."""
    monkeypatch.setattr(postgres, "IDLE_TRANSACTION_SECONDS", 3)
    pg = Postgres(servers["postgres"], size=2)
    async with pg.tx() as tx:
        await tx.execute("DROP TABLE IF EXISTS still")
        await tx.execute("CREATE TABLE still AS SELECT 1 AS n")
    with pytest.raises(StoreUnavailable):
        async with pg.tx() as sleeper:
            await sleeper.execute("UPDATE still SET n = 2")
            async with pg.tx() as other:
                await other.execute("UPDATE still SET n = 3")
    async with pg.tx() as tx:
        assert await tx.fetchval("SELECT n FROM still") == 3
        await tx.execute("DROP TABLE still")
    await pg.close()


async def test_a_transaction_that_stands_still_within_a_statement_keeps_its_locks_for_a_while_only(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is stopped when the server has prepared a statement and waits for the word to execute it, which is no
    idleness to it. Whoever is at work for as long is left alone."""
    monkeypatch.setattr(postgres, "IDLE_TRANSACTION_SECONDS", 1)
    has_locked, is_prepared, is_over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hold_back(said: bytes) -> None:
        if has_locked.is_set() and said.startswith(b"B"):  # Bind
            is_prepared.set()
            await is_over.wait()

    between, url = await _relayed(servers["postgres"], hold_back)
    sleeper = Postgres(url, size=1)
    pg = Postgres(servers["postgres"])
    async with pg.tx() as tx:
        await tx.execute("DROP TABLE IF EXISTS still")
        await tx.execute("CREATE TABLE still AS SELECT 1 AS n")

    async def stand_still() -> None:
        async with sleeper.tx() as tx:
            await tx.execute("UPDATE still SET n = 2")
            has_locked.set()
            await tx.fetch("SELECT n FROM still")

    async def wait_for_it() -> None:
        async with pg.tx() as tx:
            await tx.execute("UPDATE still SET n = n + 2")
            assert await tx.fetchval("SELECT n FROM still") == 3

    async def work() -> None:
        async with pg.read() as read:
            await read.fetchval("SELECT pg_sleep(2.5)")

    standing = asyncio.create_task(stand_still())
    await is_prepared.wait()
    waiting, working = asyncio.create_task(wait_for_it()), asyncio.create_task(work())
    ended = [await pg.end_stalled()]
    async with asyncio.timeout(8):  # a call of ten seconds gives up by itself
        while not waiting.done():
            ended.append(await pg.end_stalled())
            await asyncio.sleep(0.05)
    await asyncio.gather(waiting, working)
    assert (ended[0], sum(ended)) == (0, 1)
    is_over.set()
    with pytest.raises(StoreUnavailable):
        await standing
    async with pg.once() as tx:
        await tx.execute("DROP TABLE still")
    between.close()
    await sleeper.close()
    await pg.close()


async def test_a_server_that_is_away_is_said_so() -> None:
    pg = Postgres("postgresql://nobody@127.0.0.1:1/none", size=1)
    for _ in range(3):  # a failed connect gives its place back
        with pytest.raises(StoreUnavailable):
            await pg.ping()


async def test_a_migration_under_a_prepared_statement_costs_one_try_and_no_fault(pg: Postgres) -> None:
    async with pg.tx() as tx:
        await tx.execute("CREATE TABLE grown (sku text)")
        await tx.execute("INSERT INTO grown VALUES ('MUG')")
    for _ in range(8):
        async with pg.tx() as tx:
            await tx.fetch("SELECT * FROM grown")
    async with pg.once() as tx:
        await tx.execute("ALTER TABLE grown ADD COLUMN qty int")
    with pytest.raises(StoreUnavailable):
        async with pg.tx() as tx:
            await tx.fetch("SELECT * FROM grown")
    async with pg.tx() as tx:
        assert [dict(row) for row in await tx.fetch("SELECT * FROM grown")] == [{"sku": "MUG", "qty": None}]


async def test_of_two_who_wait_for_each_other_one_is_asked_to_come_again(pg: Postgres) -> None:
    async with pg.tx() as tx:
        await tx.execute("CREATE TABLE fought_over (sku text PRIMARY KEY, qty int)")
        await tx.execute("INSERT INTO fought_over VALUES ('A', 0), ('B', 0)")
    both = asyncio.Barrier(2)

    async def take(first: str, second: str) -> None:
        async with pg.tx() as tx:
            await tx.execute("UPDATE fought_over SET qty = qty + 1 WHERE sku = $1", first)
            await both.wait()
            await tx.execute("UPDATE fought_over SET qty = qty + 1 WHERE sku = $1", second)

    ends = await asyncio.gather(take("A", "B"), take("B", "A"), return_exceptions=True)
    assert [type(end) for end in ends if end is not None] == [StoreUnavailable]
    async with pg.read() as read:
        assert await read.fetchval("SELECT sum(qty) FROM fought_over") == 2


async def test_a_function_is_made_anew_when_its_file_has_changed(servers: dict[str, str], tmp_path: Path) -> None:
    admin = await asyncpg.connect(servers["postgres"])
    await admin.execute("CREATE DATABASE functions")
    folder = tmp_path / "room" / "schema"
    folder.mkdir(parents=True)
    pg = Postgres(urlsplit(servers["postgres"])._replace(path="/functions").geturl(), size=1)

    async def apply(answer: int) -> list[str] | None:
        text = f"CREATE OR REPLACE FUNCTION said() RETURNS INT LANGUAGE sql AS $$ SELECT {answer} $$;"
        (folder / "sayings.sql").write_text(text)
        return await migrate(pg, find(tmp_path))

    applied = [await apply(answer) for answer in (1, 1, 2, 1)]
    assert applied == [["sayings"], [], ["sayings"], ["sayings"]]
    async with pg.read() as read:
        assert await read.fetchval("SELECT said()") == 1
    await pg.close()
    await admin.execute("DROP DATABASE functions")
    await admin.close()


@pytest.fixture
async def bare(servers: dict[str, str]) -> AsyncIterator[str]:
    """The URL of an empty database."""
    admin = await asyncpg.connect(servers["postgres"])
    await admin.execute("CREATE DATABASE bare_of_tables")
    yield urlsplit(servers["postgres"])._replace(path="/bare_of_tables").geturl()
    await admin.execute("DROP DATABASE bare_of_tables WITH (FORCE)")
    await admin.close()


async def test_a_migration_may_take_longer_than_any_request(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an index of a large table does; and so may the turn of whoever migrates at the same time."""
    monkeypatch.setattr(postgres, "CALL_SECONDS", 1.0)
    slow = [Migration("0001", "slow", "SELECT pg_sleep(1.5)")]
    both = Postgres(bare, size=2)
    ends = await asyncio.gather(migrate(both, slow), migrate(both, slow))
    assert sorted(names or [] for names in ends) == [[], ["0001_slow"]]
    await both.close()


async def test_a_migration_waits_for_a_table_by_moments_and_then_says_so(
    bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a backup, which keeps each table to its end. Whoever comes for a row meanwhile is not held up."""
    monkeypatch.setattr(migrations, "_TRIED_SECONDS", 1)
    pg = Postgres(bare, size=1)
    await migrate(pg, [Migration("0001", "shelf", "CREATE TABLE shelf (sku text)")])
    wider = [Migration("0002", "wider", "CREATE TABLE other (n int); ALTER TABLE shelf ADD COLUMN qty int")]

    backup = await asyncpg.connect(bare)
    async with backup.transaction():
        await backup.execute("LOCK TABLE shelf IN ACCESS SHARE MODE")
        with pytest.raises(ValueError, match="somebody keeps a table, as a backup or a long report"):
            await migrate(pg, wider)
        assert not await backup.fetchval("SELECT to_regclass('other') IS NOT NULL")
    assert await migrate(pg, wider) == ["0002_wider"]
    await backup.close()
    await pg.close()


async def test_a_migration_that_takes_long_is_not_made_again_and_again(
    bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes to its tables waits for as long as an index is built."""
    monkeypatch.setattr(migrations, "_TRIED_SECONDS", 0.2)
    pg = Postgres(bare, size=1)
    await migrate(pg, [Migration("0001", "shelf", "CREATE TABLE shelf (sku text); CREATE SEQUENCE builds")])
    long = "SELECT nextval('builds'), pg_sleep(0.3); ALTER TABLE shelf ADD COLUMN qty int"

    backup = await asyncpg.connect(bare)
    async with backup.transaction():
        await backup.execute("LOCK TABLE shelf IN ACCESS SHARE MODE")
        with pytest.raises(ValueError, match="somebody keeps a table"):
            await migrate(pg, [Migration("0002", "long", long)])
        assert await backup.fetchval("SELECT last_value FROM builds") == 1
    await backup.close()
    await pg.close()


async def test_autovacuum_makes_room_for_a_migration(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table of many rows it takes hours; and it does so for nobody who waits less than `deadlock_timeout`."""
    monkeypatch.setattr(migrations, "_TRIED_SECONDS", 0)  # as of one that takes long
    pg, other = Postgres(bare, size=1), await asyncpg.connect(bare)
    await other.execute(
        "CREATE TABLE shelf (sku text, qty int) WITH (autovacuum_vacuum_threshold = 1,"
        " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)"
    )
    await other.execute("INSERT INTO shelf SELECT repeat('x', 500), n FROM generate_series(1, 20000) AS n")
    await other.execute("UPDATE shelf SET qty = qty + 1")
    await _set_naptime(other, "'1s'")
    try:
        at_it = "backend_type = 'autovacuum worker' AND relation = 'shelf'::regclass"
        await _until(other, f"SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE {at_it}")
        assert await migrate(pg, [Migration("0001", "by_qty", "CREATE INDEX ON shelf (qty)")]) == ["0001_by_qty"]
    finally:
        await _set_naptime(other, "DEFAULT")
        await other.close()
        await pg.close()


async def _until(connection: "asyncpg.Connection[Any]", sql: str) -> None:
    while not await connection.fetchval(sql):  # noqa: ASYNC110 — becomes true in another session
        await asyncio.sleep(0.02)


async def _set_naptime(connection: "asyncpg.Connection[Any]", value: str) -> None:
    await connection.execute(f"ALTER SYSTEM SET autovacuum_naptime = {value}")
    await connection.execute("SELECT pg_reload_conf()")


async def test_a_migration_that_waits_for_who_waits_for_it_begins_anew(
    bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "_TURNS", (migrations._LONGER,))
    pg, other = Postgres(bare, size=1), await asyncpg.connect(bare)
    await migrate(pg, [Migration("0001", "two", "CREATE TABLE one (n int); CREATE TABLE two (n int)")])
    both = [Migration("0002", "both", "ALTER TABLE one ADD COLUMN m int; ALTER TABLE two ADD COLUMN m int")]
    async with other.transaction():
        await other.execute("LOCK TABLE two IN ROW EXCLUSIVE MODE")
        migrating = asyncio.create_task(migrate(pg, both))
        await _until(other, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'two'::regclass")
        await other.execute("LOCK TABLE one IN ROW EXCLUSIVE MODE")
    assert await migrating == ["0002_both"]
    await other.close()
    await pg.close()
