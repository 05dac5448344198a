"""MongoDB by pymongo's asyncio client, limited to what behaves the same on every engine (docs/engines.md)."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from functools import cached_property
from typing import Any, TypeVar

from pymongo import AsyncMongoClient, IndexModel, ReplaceOne, errors, lock, monitoring
from pymongo.asynchronous.collection import AsyncCollection

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.guard import Guard
from quartet.stores.timing import Timed

T = TypeVar("T")
Document = dict[str, Any]
Filter = Mapping[str, Any]
Sort = Sequence[tuple[str, int]]

CALL_SECONDS = 5.0
DOUBT_SECONDS = 0.25
PROBE_SECONDS = 2.0
MOST_CALLS = 500
# Between two polls of a change stream whose engine answers at once if there is no change.
_PAUSE_SECONDS = 0.02
# How long MongoDB waits for a change before it answers that there is none.
_AWAIT_MS = 200
# History lost, fatal stream error, invalid resume token, stream closed, token not found, oplog rolled over.
_LOST = (286, 280, 260, 222, 50811, 136)
_NAMESPACE_EXISTS = 48
# A write concern error: the server stepped down before the majority had the write, so that its outcome is unknown.
_AWAY = (
    errors.ConnectionFailure,
    errors.WriteConcernError,
    errors.ExecutionTimeout,
    errors.WaitQueueTimeoutError,
    OSError,
)
# Error codes of a refused login: unauthorized, authentication failed, the same at Atlas.
_UNAUTHORIZED = (13, 18, 8000)
_OUT_OF_DISK = 14031


class DuplicateKey(Exception):
    """A unique index refused the document (code 11000; its text differs between engines, so look at nothing else)."""


class LostPosition(Exception):
    """The change stream can't resume from the token given: the history is gone (error 286 and similar ones)."""


class _NamedErrors:
    """Translates the driver's errors into ours."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, errors.DuplicateKeyError):
            raise DuplicateKey from error
        if isinstance(error, _AWAY) or (isinstance(error, errors.OperationFailure) and _is_refusing(error)):
            raise StoreUnavailable("mongodb", is_unauthorized=getattr(error, "code", None) in _UNAUTHORIZED) from error


def _is_refusing(error: errors.OperationFailure) -> bool:
    """Whether the server can't serve us now; also if a bulk write reports a write concern error."""
    return error.code in (*_UNAUTHORIZED, _OUT_OF_DISK) or bool((error.details or {}).get("writeConcernErrors"))


@asynccontextmanager
async def _called(guard: Guard, seconds: float | None = CALL_SECONDS, *, brief: bool = False) -> AsyncIterator[None]:
    with _NamedErrors():
        async with asyncio.timeout(seconds) as limit:
            with guard.call(limit, brief=brief), Timed("mongodb"):
                yield


async def _wait_for(work: Coroutine[Any, Any, T], seconds: float | None) -> T:
    """asyncio.wait_for as of Python 3.12, which awaits the coroutine in the calling task."""
    async with asyncio.timeout(seconds):
        return await work


if sys.version_info < (3, 12):
    # The driver waits for a condition by asyncio.wait_for, which before 3.12 runs it in a separate task. If the caller
    # was cancelled just when that wait timed out, the task was left behind and acquired the driver's lock, which nobody
    # released: no call of this process was answered any more, and it could not even shut down.
    lock.wait_for = _wait_for  # type: ignore[assignment,attr-defined]


async def _in_own_task(work: Coroutine[Any, Any, T]) -> T:
    """Runs the driver's call in a separate task: a cancelled caller returns at once, and the call is cancelled in the
    background. That may take long, and on Python 3.11 is missed if it coincides with an answer."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_retrieve_exception)
        task.cancel()
        raise


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieves the exception of a task that nobody awaits any more, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()


class Collection:
    """One collection. Filters and updates are built by rooms from checked values, never from a client's JSON."""

    def __init__(self, collection: AsyncCollection[Document], guard: Guard, *, brief: bool = False) -> None:
        self._collection = collection
        self._guard = guard
        self._is_brief = brief

    async def find_one(self, where: Filter, projection: Sequence[str] | None = None) -> Document | None:
        """One document or None; `projection` names top-level fields."""
        async with _called(self._guard):
            return await _in_own_task(self._collection.find_one(where, projection))

    async def find(
        self,
        where: Filter,
        *,
        sort: Sort = (),
        limit: int = 0,
        skip: int = 0,
        projection: Sequence[str] | None = None,
    ) -> list[Document]:
        """The documents, all in memory: give a limit, or use `scan`."""
        async with _called(self._guard, brief=self._is_brief):
            cursor = self._collection.find(where, projection, skip=skip, limit=limit, sort=list(sort) or None)
            return await _in_own_task(cursor.to_list())

    async def scan(self, where: Filter, *, batch: int = 500) -> AsyncIterator[list[Document]]:
        """Every matching document in order of `_id`, in batches, resumable and with constant memory."""
        last: Any = None
        while True:
            page_filter = dict(where) if last is None else {**where, "_id": {"$gt": last}}
            found = await self.find(page_filter, sort=[("_id", 1)], limit=batch)
            if found:
                last = found[-1]["_id"]
                yield found
            if len(found) < batch:
                return

    async def insert_one(self, document: Document) -> None:
        """Raises DuplicateKey."""
        async with _called(self._guard):
            await _in_own_task(self._collection.insert_one(document))

    async def insert_many(self, documents: Sequence[Document]) -> None:
        """Inserts in order. Raises DuplicateKey at the first duplicate; the documents before it are inserted."""
        try:
            async with _called(self._guard, None):
                await _in_own_task(self._collection.insert_many(documents))
        except errors.BulkWriteError as error:
            if any(e.get("code") == 11000 for e in (error.details or {}).get("writeErrors", [])):
                raise DuplicateKey from error
            raise

    async def replace_one(self, where: Filter, document: Document) -> bool:
        """Whether one matched (for optimistic locking put `version` into the filter). Raises DuplicateKey."""
        async with _called(self._guard):
            return (await _in_own_task(self._collection.replace_one(where, document))).matched_count > 0

    async def replace_many(self, pairs: Sequence[tuple[Filter, Document]]) -> int:
        """As `replace_one` for each pair, in one call; how many matched."""
        async with _called(self._guard):
            requests = [ReplaceOne(where, document) for where, document in pairs]
            return (await _in_own_task(self._collection.bulk_write(requests, ordered=False))).matched_count

    async def update_one(self, where: Filter, update: Mapping[str, Any]) -> bool:
        """`$set`, `$inc`, `$unset` on top-level or dotted fields; whether one matched. Raises DuplicateKey.

        Not for datetimes: nx-27017 stores one that is `$set` as text. Replace the document instead."""
        async with _called(self._guard):
            return (await _in_own_task(self._collection.update_one(where, update))).matched_count > 0

    async def delete_one(self, where: Filter) -> bool:
        """Whether one was deleted."""
        async with _called(self._guard):
            return (await _in_own_task(self._collection.delete_one(where))).deleted_count > 0

    async def delete_many(self, where: Filter) -> int:
        """How many were deleted."""
        async with _called(self._guard, None):
            return (await _in_own_task(self._collection.delete_many(where))).deleted_count

    async def aggregate(self, pipeline: Sequence[Mapping[str, Any]]) -> list[Document]:
        """The result of a pipeline of `$match`, `$group`, `$sort` and `$limit` only, which every engine has."""
        async with _called(self._guard):
            cursor = await _in_own_task(self._collection.aggregate(list(pipeline)))
            return await _in_own_task(cursor.to_list())

    async def create_indexes(self, *wanted: tuple[Sort, bool]) -> None:
        """Creates indexes of (keys, is unique); only on scalar fields that every document has. Idempotent. In one
        command, so that MongoDB scans the collection once."""
        async with _called(self._guard, None):
            await _in_own_task(
                self._collection.create_indexes([IndexModel(list(keys), unique=u) for keys, u in wanted])
            )

    async def watch(self, *, resume_after: Any = None) -> AsyncGenerator[tuple[str | None, Any], None]:
        """The change stream: (document id, resume token) for each insert, update, replace and delete, and (None, token)
        if there is no change at present, which MongoDB reports after `_AWAIT_MS` and nx-27017 much sooner. Only *which*
        document changed is reported, since no more is reliable on every engine. On MongoDB, raises LostPosition if the
        resume token has expired, or the collection was dropped or renamed, since no token leads past that; nx-27017
        continues with the changes that it still has. Raises StoreUnavailable."""
        operations = {"$match": {"operationType": {"$in": ["insert", "update", "replace", "delete", "invalidate"]}}}
        opening = self._collection.watch([operations], resume_after=resume_after, max_await_time_ms=_AWAIT_MS)
        try:
            with _NamedErrors():
                stream = await _in_own_task(opening)
                try:
                    while stream.alive:
                        asked = time.monotonic()
                        change = await _in_own_task(stream.try_next())
                        if change is not None and change["operationType"] == "invalidate":
                            raise LostPosition("the collection was dropped or renamed")
                        yield (None if change is None else str(change["documentKey"]["_id"])), stream.resume_token
                        if change is None and time.monotonic() - asked < _PAUSE_SECONDS:
                            await asyncio.sleep(_PAUSE_SECONDS)
                finally:
                    await _in_own_task(stream.close())
        except errors.OperationFailure as error:
            if error.code in _LOST or "resume" in str(error).lower():
                raise LostPosition(str(error)) from error
            raise


class _Heartbeats(monitoring.ServerHeartbeatListener):
    """Listens to the driver's heartbeat, so that an outage is noticed even without calls: cached pages are then sent
    with an `Age` header."""

    def __init__(self, mongo: "Mongo") -> None:
        self._mongo = mongo

    def started(self, event: monitoring.ServerHeartbeatStartedEvent) -> None:
        pass

    def succeeded(self, event: monitoring.ServerHeartbeatSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.ServerHeartbeatFailedEvent) -> None:  # noqa: ARG002
        self._mongo.guard.mark_doubtful()


class Mongo:
    """A client that connects at first use."""

    def __init__(self, url: str, database: str) -> None:
        self._client: AsyncMongoClient[Document] = AsyncMongoClient(
            url,
            connect=False,
            tz_aware=True,
            # No `timeoutMS`: calls would wait that long for a server that is down. One that hangs is detected by the
            # heartbeat, so that not every call has to wait.
            heartbeatFrequencyMS=2000,
            serverSelectionTimeoutMS=int(PROBE_SECONDS * 1000),
            connectTimeoutMS=1000,
            socketTimeoutMS=int(CALL_SECONDS * 1000),
            waitQueueTimeoutMS=2000,
            retryWrites=False,
            appname="quartet",
            event_listeners=[_Heartbeats(self)],
        )
        self._database = self._client[database]
        self._is_brief = False
        self.guard = Guard(
            "mongodb", self._probe, _AWAY, doubt=DOUBT_SECONDS, patience=PROBE_SECONDS, places=MOST_CALLS
        )

    def collection(self, name: str) -> Collection:
        """A collection by name."""
        return Collection(self._database[name], self.guard, brief=self._is_brief)

    @cached_property
    def brief(self) -> "Mongo":
        """The same for callers with a fallback: `find` fails as soon as it is doubtful whether the server is up."""
        brief = copy(self)
        brief._is_brief = True
        return brief

    async def ensure_collection(self, name: str, validator: Mapping[str, Any] | None = None) -> None:
        """Creates the collection with this `$jsonSchema` validator, or sets it on an existing one."""
        options: dict[str, Any] = {"validator": {"$jsonSchema": validator}} if validator else {}
        async with _called(self.guard, None):
            try:
                await _in_own_task(self._database.create_collection(name, check_exists=False, **options))
            except errors.OperationFailure as error:
                if error.code != _NAMESPACE_EXISTS and "exists" not in str(error):
                    raise
                if validator:
                    await _in_own_task(self._database.command({"collMod": name, **options}))

    async def ping(self) -> str:
        """The server's version."""
        async with _called(self.guard):
            return await self._probe()

    async def drop_database(self) -> None:
        """Deletes everything in this database."""
        async with _called(self.guard, None):
            await _in_own_task(self._client.drop_database(self._database))

    async def close(self) -> None:
        """Closes every connection."""
        self.guard.close()
        await _in_own_task(self._client.close())

    async def _probe(self) -> str:
        # Not `server_info()`: it sends "buildinfo", which the emulator (nx-27017) does not recognise.
        return str((await _in_own_task(self._client.admin.command("buildInfo")))["version"])
