"""PostgreSQL by asyncpg: `Read` to read, `Tx` to write; driver errors are translated here."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from time import monotonic
from typing import Any, TypeVar

import asyncpg
import orjson

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.files import queries
from quartet.stores.guard import Guard
from quartet.stores.timing import Timed

Record = Mapping[str, Any]

CONNECT_SECONDS = 3.0
CALL_SECONDS = 10.0
WAIT_SECONDS = 3.0
DOUBT_SECONDS = 0.5
PROBE_SECONDS = 2.0
MOST_CALLS = 1000
LOCK_CHECK_SECONDS = 0.5
# After so long without a question the server ends that connection: its process is stopped, or its host is gone, which
# without TCP keepalive nobody would notice for hours.
SILENT_SECONDS = 10
# The same for a transaction, whose locks others wait for. Longer, since an import computes between its statements. The
# server does not see it in the middle of a statement: that is for `end_stalled`.
IDLE_TRANSACTION_SECONDS = 30
# Routers and load balancers drop connections that were idle for some minutes, many without notice: a statement on one
# would wait for its timeout.
IDLE_SECONDS = 180.0

q = queries(__file__)
# Errors of a server that is down, shutting down, starting up or just demoted to standby; and transient errors, after
# which the same call may succeed: a deadlock, or a prepared statement whose table a migration has changed.
_GONE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.DiskFullError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidCachedStatementError,
    OSError,
    TimeoutError,
    ssl.SSLError,
)


class Violation(Exception):
    """A constraint or a RAISE refused the statement; rooms map it to an error of their own by these attributes.

    `constraint` is the constraint's name or "", `sqlstate` five characters, `detail` the server's DETAIL.
    """

    def __init__(self, error: asyncpg.PostgresError) -> None:
        super().__init__(str(error))
        self.constraint: str = error.constraint_name or ""
        self.sqlstate: str = error.sqlstate or ""
        self.detail: str = error.detail or ""
        self.message: str = error.message or ""


class _Statement(Timed):
    """Measures a statement and raises its refusal as Violation, so that a room can catch it at the call."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("postgres")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        super().__exit__(kind, error, trace)
        ours = isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith("QT")
        if ours or isinstance(error, asyncpg.IntegrityConstraintViolationError | asyncpg.RaiseError):
            raise Violation(error) from error  # type: ignore[arg-type]


class Read:
    """One connection for reading. Statements are prepared once per connection and reused. `seconds`: the timeout of
    each statement, if not `CALL_SECONDS`."""

    def __init__(self, connection: "asyncpg.Connection[Any]", seconds: float | None = None) -> None:
        self._connection, self._seconds = connection, seconds

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """All rows."""
        with _Statement():
            return await self._connection.fetch(sql, *args, timeout=self._seconds)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """The first row, or None."""
        with _Statement():
            return await self._connection.fetchrow(sql, *args, timeout=self._seconds)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        with _Statement():
            return await self._connection.fetchval(sql, *args, timeout=self._seconds)


class Tx(Read):
    """A connection for writing."""

    async def execute(self, sql: str, *args: Any) -> str:
        """Runs the statement; returns the server's tag, such as `UPDATE 1`."""
        with _Statement():
            return await self._connection.execute(sql, *args, timeout=self._seconds)

    async def copy_records(self, table: str, columns: Sequence[str], records: Iterable[Sequence[Any]]) -> str:
        """COPY in binary; returns the tag."""
        with _Statement():
            return await self._connection.copy_records_to_table(table, columns=list(columns), records=records)


R = TypeVar("R", bound=Read)


async def _prepare_connection(connection: "asyncpg.Connection[Any]") -> None:
    # By a statement: a pooler such as PgBouncer refuses connections that ask for it as a parameter.
    await connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TRANSACTION_SECONDS}s'")
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=_to_jsonb,
        decoder=lambda data: orjson.loads(data[1:]),
    )
    await connection.set_type_codec(
        "json", schema="pg_catalog", format="binary", encoder=orjson.dumps, decoder=orjson.loads
    )


def _to_jsonb(value: Any) -> bytes:
    return b"\x01" + orjson.dumps(value)  # 1 is jsonb's wire version


async def _end_when_silent(connection: "asyncpg.Connection[Any]") -> None:
    """Closes the connection if the server stops answering: without TCP keepalive, one to a host that has disappeared
    would stay open for hours."""
    with suppress(*_GONE):
        while True:
            # Sent whole, unlike what is prepared first: so the session is idle whenever we stand still.
            await connection.execute("SELECT 1")
            await asyncio.sleep(LOCK_CHECK_SECONDS)
    connection.terminate()


async def _end(connection: "asyncpg.Connection[Any]") -> None:
    """Closes the connection, which, unlike terminating it, first cancels a statement that is still running: else the
    server would execute it to its end, though nobody waits for it."""
    with suppress(Exception):
        await connection.close(timeout=PROBE_SECONDS)


class _Pool:
    """A pool that reuses the connection used last first. asyncpg's own pool costs more than the statement itself (90 of
    170 µs), for a proxy, a task and a lock at each acquire; its reset is not needed, since rooms leave no session
    state."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._room = size
        self._idle: list[tuple[asyncpg.Connection[Any], float]] = []  # since when they are idle
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ending: set[asyncio.Task[None]] = set()

    async def take(self, held: set[asyncio.Timeout]) -> "asyncpg.Connection[Any]":
        """An open connection. Raises TimeoutError if all are busy for `WAIT_SECONDS`, or if the timeout added to `held`
        is triggered (the breaker opens)."""
        while True:
            while self._idle:
                connection, since = self._idle.pop()
                if not connection.is_closed() and monotonic() - since < IDLE_SECONDS:
                    return connection
                self._part_with(connection)
            if self._room:
                return await self._connect()
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                async with asyncio.timeout(WAIT_SECONDS) as limit:
                    held.add(limit)
                    await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._next()  # it was our turn, but too late: pass it on
                raise
            finally:
                held.discard(limit)

    def give_back(self, connection: "asyncpg.Connection[Any]", *, sound: bool) -> None:
        """Returns it to the pool, unless a call was cancelled in it."""
        if sound and not connection.is_closed() and not connection.is_in_transaction():
            self._idle.append((connection, monotonic()))
        else:
            self._part_with(connection)
        self._next()

    def _part_with(self, connection: "asyncpg.Connection[Any]") -> None:
        ending = asyncio.create_task(_end(connection))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        self._room += 1

    async def close(self) -> None:
        """Closes the idle connections; those in use are closed when their callers return them."""
        while self._idle:
            await self._idle.pop()[0].close(timeout=2)

    async def _connect(self) -> "asyncpg.Connection[Any]":
        self._room -= 1
        try:
            connection: asyncpg.Connection[Any] = await asyncpg.connect(
                self._url,
                timeout=CONNECT_SECONDS,
                command_timeout=CALL_SECONDS,
                server_settings={"application_name": "quartet", "timezone": "UTC"},
            )
            try:
                await _prepare_connection(connection)
            except BaseException:  # else it would stay open for ever, without counting against the pool's size
                connection.terminate()
                raise
        except BaseException:
            self._room += 1
            self._next()
            raise
        return connection

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class Postgres:
    """A pool that connects at first use and outlives the server's restarts."""

    def __init__(self, url: str, *, size: int = 8, name: str = "postgres") -> None:
        self._url = url
        self._pool = _Pool(url, size)
        self.guard = Guard(name, self._probe, _GONE, doubt=DOUBT_SECONDS, patience=PROBE_SECONDS, places=MOST_CALLS)

    def read(self, seconds: float | None = None) -> AbstractAsyncContextManager[Read]:
        """A connection for reading; each statement sees its own snapshot. `seconds`, for statements that take longer as
        the shop grows and that no client waits for: after which one is cancelled; by default `CALL_SECONDS`."""
        return self._borrowed(Read, seconds)

    def once(self, seconds: float | None = None) -> AbstractAsyncContextManager[Tx]:
        """A connection for one statement that is its own transaction: one round trip. `seconds` as of `read`."""
        return self._borrowed(Tx, seconds)

    @asynccontextmanager
    async def tx(self, seconds: float | None = None) -> AsyncIterator[Tx]:
        """A transaction: commits at the end of the block, rolls back when it raises. `seconds` as of `read`."""
        async with self._borrowed(Tx, seconds) as tx:
            transaction = tx._connection.transaction()
            await transaction.start()
            try:
                yield tx
            except (asyncio.CancelledError, GeneratorExit, *_GONE):
                # The connection is closed, which rolls back: a ROLLBACK after a cancelled call would wait for a server
                # that does not answer.
                raise
            except BaseException:
                await transaction.rollback()
                raise
            await transaction.commit()

    def beside(self) -> "Postgres":
        """The same server over one connection of its own, for calls that must not wait for the others; the caller
        closes it."""
        return Postgres(self._url, size=1)

    async def ping(self) -> str:
        """The server's version; StoreUnavailable when it does not answer."""
        async with self.read() as read:
            version: str = await read.fetchval("SELECT current_setting('server_version')")
            return version

    async def end_stalled(self) -> int:
        """Ends connections of this login's processes that are stalled in the middle of a statement, for as long as they
        may in a transaction; returns how many. Raises StoreUnavailable."""
        async with self.once() as tx:
            ended: int = await tx.fetchval(q.end_stalled, float(IDLE_TRANSACTION_SECONDS))
            return ended

    @asynccontextmanager
    async def advisory_lock(self, name: str) -> AsyncIterator[Callable[[], bool]]:
        """A lock across processes: waits until no other process is in the block of this name. Yields a function that
        returns whether the lock is still held. The server releases it when its connection ends, however it ends, or is
        silent for `SILENT_SECONDS`: so for a moment two processes may be in the block, which must tolerate that. Uses a
        connection outside the pool.
        Raises StoreUnavailable."""
        try:
            connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS, command_timeout=CALL_SECONDS)
        except (*_GONE, asyncpg.PostgresError) as error:
            raise StoreUnavailable("postgres") from error
        try:
            await self._wait_for_lock(connection, name)
            watch = asyncio.create_task(_end_when_silent(connection))
            try:
                yield lambda: not connection.is_closed()
            finally:
                watch.cancel()
        finally:
            connection.terminate()

    async def _wait_for_lock(self, connection: "asyncpg.Connection[Any]", name: str) -> None:
        try:
            await connection.execute(f"SET idle_session_timeout = '{SILENT_SECONDS}s'")
            while not await connection.fetchval(q.try_advisory_lock, name):  # noqa: ASYNC110 — held in another process
                await asyncio.sleep(LOCK_CHECK_SECONDS)
        except (*_GONE, asyncpg.PostgresError) as error:
            raise StoreUnavailable("postgres") from error

    async def close(self) -> None:
        """Closes the idle connections."""
        self.guard.close()
        await self._pool.close()

    async def _probe(self) -> None:
        with suppress(asyncpg.TooManyConnectionsError):  # the server is up
            (await asyncpg.connect(self._url, timeout=PROBE_SECONDS)).terminate()

    @asynccontextmanager
    async def _borrowed(self, use: type[R], seconds: float | None) -> AsyncIterator[R]:
        """A pooled connection. Driver errors are raised as StoreUnavailable or Violation; a connection lost after
        COMMIT was sent is StoreUnavailable too: its outcome is unknown, not failed."""
        try:
            with self.guard.call():
                connection = await self._pool.take(self.guard.held)
                sound = False
                try:
                    with _Statement():  # deferred constraints are checked at COMMIT
                        yield use(connection, seconds)
                    sound = True
                except _GONE:
                    raise
                except Exception:
                    sound = True  # an error of the statement or the caller: the connection can be reused
                    raise
                finally:
                    self._pool.give_back(connection, sound=sound)
        except _GONE as error:
            raise StoreUnavailable("postgres") from error
