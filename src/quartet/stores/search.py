"""Elasticsearch or OpenSearch, detected at the first call, behind one narrow interface that hides driver errors."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from opensearchpy import AsyncOpenSearch, JSONSerializer
from opensearchpy import exceptions as opensearch_errors

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.guard import Guard
from quartet.stores.timing import Timed

Json = dict[str, Any]

CALL_SECONDS = 5.0
BULK_SECONDS = 30.0
# How long a restarted node may take to bring its shards back.
RECOVERY_SECONDS = 5
DOUBT_SECONDS = 0.5
PROBE_SECONDS = 2.0
MOST_CALLS = 200
BULK_BYTES = 5_000_000  # above some 10 MB a bulk gets no faster, and above 100 MB it is refused


# Idempotent POST requests, which may be retried: they change no document, or (our bulks) write explicit versions.
_TWICE = ("/_search", "/_count", "/_refresh", "/_bulk")
# Statuses of a refused login, and of an engine that can't serve us now; 0: no status.
_UNAUTHORIZED = (401, 403)
_REFUSING = (0, *_UNAUTHORIZED, 429, 502, 503, 504)


class SearchRefused(Exception):
    """The engine answered with an error; `status` is the HTTP status, `reason` the engine's text."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class BulkResult:
    """The outcome of one item; a version conflict (409) means that a newer version is stored already."""

    id: str
    status: int
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether it was written, superseded by a newer version, or a delete of a document that does not exist."""
        return self.status < 300 or self.status == 409 or (self.status == 404 and not self.reason)

    @property
    def is_index_missing(self) -> bool:
        """Whether it failed because the alias names no index (any more)."""
        return self.status == 404 and bool(self.reason)

    @property
    def is_transient(self) -> bool:
        """Whether it failed because the engine was overloaded or unhealthy, or its index closed to writes or to our
        login: the same item may succeed later."""
        return self.status in (403, 429) or self.status >= 500


class _Client(Protocol):
    async def request(self, method: str, path: str, params: Mapping[str, Any], body: Any, seconds: float) -> Any: ...

    async def close(self) -> None: ...


class _Orjson(JSONSerializer):
    """orjson takes a tenth of the time of the client's serializer for a query, and half for an answer."""

    def loads(self, s: str) -> Any:
        try:
            return orjson.loads(s)
        except orjson.JSONDecodeError as error:
            raise opensearch_errors.SerializationError(s, error) from error

    def dumps(self, data: Any) -> Any:
        return data if isinstance(data, str | bytes) else orjson.dumps(data)


class _OpenSearch:
    """The official OpenSearch client; also speaks to osmem."""

    def __init__(self, urls: Sequence[str]) -> None:
        # A node that did not answer is not used for `dead_timeout` seconds, if there are others.
        self._client = AsyncOpenSearch(
            hosts=list(urls),
            serializer=_Orjson(),
            timeout=CALL_SECONDS,
            max_retries=0,
            pool_maxsize=16,
            retry_on_timeout=True,
            dead_timeout=5,
        )

    async def request(self, method: str, path: str, params: Mapping[str, Any], body: Any, seconds: float) -> Any:
        try:
            return await self._client.transport.perform_request(
                method, path, params={**params, "request_timeout": seconds}, body=body
            )
        except (opensearch_errors.ConnectionError, opensearch_errors.SerializationError) as error:
            raise StoreUnavailable("search") from error
        except opensearch_errors.TransportError as error:
            status = error.status_code if isinstance(error.status_code, int) else 0
            if status in _REFUSING:
                raise StoreUnavailable("search", is_unauthorized=status in _UNAUTHORIZED) from error
            raise SearchRefused(status, _reason(error.info)) from error

    async def close(self) -> None:
        await self._client.close()


class _Elasticsearch:
    """The official Elasticsearch 8.19 client, which speaks to 8 and 9."""

    def __init__(self, urls: Sequence[str]) -> None:
        import elasticsearch  # here, since it takes a second of CPU that OpenSearch shops save

        self._errors = elasticsearch
        self._client = elasticsearch.AsyncElasticsearch(
            list(urls), serializer=elasticsearch.OrjsonSerializer(), max_retries=0, connections_per_node=16
        )

    async def request(self, method: str, path: str, params: Mapping[str, Any], body: Any, seconds: float) -> Any:
        ndjson = isinstance(body, bytes)
        headers = {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/x-ndjson" if ndjson else "application/json"
        try:
            found = await self._client.options(request_timeout=seconds).perform_request(
                method, path, params=dict(params), headers=headers, body=body
            )
        except (self._errors.TransportError, self._errors.UnsupportedProductError) as error:
            raise StoreUnavailable("search") from error
        except self._errors.ApiError as error:
            if error.status_code in _REFUSING:
                raise StoreUnavailable("search", is_unauthorized=error.status_code in _UNAUTHORIZED) from error
            raise SearchRefused(error.status_code, _reason(error.body)) from error
        return found.body

    async def close(self) -> None:
        await self._client.close()


def nodes_of(url: str) -> list[str]:
    """A URL for each node of `http://user:password@host:9200,host:9200`, with an explicit port, which Elasticsearch's
    client needs."""
    scheme, _, rest = url.partition("://")
    login, at, hosts = rest.rstrip("/").rpartition("@")
    usual = ":443" if scheme == "https" else ":9200"
    nodes = [host.partition("/") for host in hosts.split(",")]
    return [
        f"{scheme}://{login}{at}{host}{'' if re.search(r':[0-9]+$', host) else usual}{slash}{path}"
        for host, slash, path in nodes
    ]


def is_partial(found: Json) -> bool:
    """Whether the answer covers a part of the index only. `failed` does not count a shard without any available copy.
    `terminated_early` is ignored, since we never send `terminate_after`: an engine may set it when it only counts,
    though it has counted all."""
    shards = found["_shards"]
    return bool(found.get("timed_out") or shards["failed"] or shards["successful"] < shards["total"])


def _whole(found: Json) -> Json:
    if is_partial(found):
        raise StoreUnavailable("search", "a part of the search index does not answer")
    return found


def _id(action: Json) -> str:
    return str(next(iter(action.values()))["_id"])


def _reason(info: Any) -> str:
    error = info.get("error", info) if isinstance(info, dict) else info
    return str(error.get("reason", error)) if isinstance(error, dict) else str(error)


class SearchEngine:
    """The engine at a URL, one node or several; its kind is detected at the first call. `patience`: timeout of the
    guard's probe in seconds."""

    def __init__(self, url: str, *, patience: float = PROBE_SECONDS) -> None:
        self._urls, self._patience = nodes_of(url), patience
        self._client: _Client | None = None
        self._finding = asyncio.Lock()
        self._prober: _OpenSearch | None = None
        self.guard = Guard(
            "search",
            self._probe,
            (StoreUnavailable,),
            doubt=DOUBT_SECONDS,
            patience=patience,
            places=MOST_CALLS,
        )
        self.engine = ""
        self.version = ""

    async def request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None, seconds: float = 0
    ) -> Any:
        """One call; retried on another node if one does not answer and the call is idempotent. Raises SearchRefused,
        StoreUnavailable."""
        try:
            async with asyncio.timeout(seconds or CALL_SECONDS) as limit:
                with self.guard.call(None if seconds else limit), Timed("search"):
                    return await self._try(method, path, params or {}, body, seconds or CALL_SECONDS)
        except TimeoutError as error:
            raise StoreUnavailable("search") from error

    async def _try(self, method: str, path: str, params: Mapping[str, Any], body: Any, seconds: float) -> Any:
        tries = len(self._urls) if method == "GET" or path.endswith(_TWICE) else 1
        for left in reversed(range(tries)):
            client = self._client or await self._find()
            try:
                found = await client.request(method, path, params, body, seconds / tries)
                if isinstance(found, str):  # text or HTML, as of a proxy in front of the engine
                    raise _no_engine(found)
                return found
            except StoreUnavailable:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _if_there(self, method: str, path: str, seconds: float = 0) -> Json:
        """The answer; {} if it is 404."""
        try:
            found: Json = await self.request(method, path, seconds=seconds)
        except SearchRefused as refusal:
            if refusal.status != 404:
                raise
            return {}
        return found

    async def search(self, index: str, body: Json) -> Json:
        """`_search`: the engine's answer, which may be partial. Raises StoreUnavailable also if there is no index."""
        try:
            found: Json = await self.request("POST", f"/{index}/_search", body=body)
        except SearchRefused as refusal:
            if refusal.status == 404:
                raise StoreUnavailable("search", "the search index is not there yet") from refusal
            raise
        return found

    async def search_all(self, index: str, body: Json) -> Json:
        """The same for callers that treat documents not found as deleted: raises StoreUnavailable also if the answer
        is partial."""
        return _whole(await self.search(index, body))

    async def bulk(self, alias: str, actions: Sequence[tuple[Json, Json | bytes | None]]) -> list[BulkResult]:
        """`_bulk` of (action, document or its JSON, or None for a delete); one result per action, in order. Through an
        alias only: a write to a missing index would create it with guessed mappings; this way each item fails with 404.

        An action is the engine's: `{"index": {"_id": "1", "version": 7, "version_type": "external_gte"}}`."""
        results: list[BulkResult] = []
        if any(document is None for _, document in actions) and not await self.alias_targets(alias):
            # Engines create an index for a delete even so, and an index of that name would block the alias for ever.
            return [BulkResult(_id(action), 404, f"no index is behind {alias}") for action, _ in actions]
        body, first = bytearray(), 0
        for end, (action, document) in enumerate(actions, 1):
            body += orjson.dumps(action, option=orjson.OPT_APPEND_NEWLINE)
            if document is not None:
                body += (document if isinstance(document, bytes) else orjson.dumps(document)) + b"\n"
            if len(body) > BULK_BYTES or end == len(actions):
                results += await self._bulk(alias, actions[first:end], bytes(body))
                first = end
                body.clear()
        return results

    async def _bulk(
        self, alias: str, actions: Sequence[tuple[Json, Json | bytes | None]], body: bytes
    ) -> list[BulkResult]:
        params = {"require_alias": "true", "filter_path": "items.*._id,items.*.status,items.*.error"}
        try:
            found = await self.request("POST", f"/{alias}/_bulk", params=params, body=body, seconds=BULK_SECONDS)
        except SearchRefused as refusal:
            if refusal.status != 413:
                raise
            # A proxy in front of the engine, or its own setting, allows less.
            if len(actions) == 1:
                return [BulkResult(_id(actions[0][0]), 413, "too large for the engine, or for what is in front of it")]
            middle = len(actions) // 2
            return await self.bulk(alias, actions[:middle]) + await self.bulk(alias, actions[middle:])
        results = [next(iter(item.values())) for item in found["items"]]
        return [BulkResult(r["_id"], r["status"], _reason(r["error"]) if "error" in r else "") for r in results]

    async def create_index(self, name: str, definition: Json, *, aliases: Sequence[str] = ()) -> None:
        """Creates an index with settings, mappings and aliases, atomically."""
        body = {**definition, "aliases": {alias: {} for alias in aliases}}
        await self.request("PUT", f"/{name}", body=body, seconds=BULK_SECONDS)

    async def delete_index(self, name: str) -> None:
        """Deletes the index, if it exists."""
        await self._if_there("DELETE", f"/{name}", BULK_SECONDS)

    async def alias_target(self, alias: str) -> str | None:
        """The index that the alias names, or None."""
        return next(iter(await self.alias_targets(alias)), None)

    async def alias_targets(self, alias: str) -> list[str]:
        """Every index that the alias names."""
        return list(await self._if_there("GET", f"/_alias/{alias}"))

    async def aliases_of(self, index: str) -> list[str]:
        """Every alias of the index; none if it does not exist."""
        found = await self._if_there("GET", f"/{index}/_alias")
        return [alias for one in found.values() for alias in one["aliases"]]

    async def swap_alias(self, alias: str, index: str, *, leave: str, keep: str) -> None:
        """Moves the alias to this index from all others, removes the alias `leave` from this index, and moves the alias
        `keep` to the indexes that had the alias before. One atomic call."""
        old = [other for other in await self.alias_targets(alias) if other != index]
        kept = [] if not old else await self.alias_targets(keep)
        actions: list[Json] = [{"remove": {"index": other, "alias": alias}} for other in old]
        actions += [{"remove": {"index": other, "alias": keep}} for other in kept if other not in old]
        actions += [{"add": {"index": other, "alias": keep}} for other in old]
        actions += [{"remove": {"index": index, "alias": leave}}, {"add": {"index": index, "alias": alias}}]
        await self.request("POST", "/_aliases", body={"actions": actions}, seconds=BULK_SECONDS)

    async def mappings(self, index: str) -> Json:
        """The mappings of the index (or of the one that an alias names); {} if there is none."""
        found = await self._if_there("GET", f"/{index}/_mapping")
        return next((dict(one["mappings"]) for one in found.values()), {})

    async def add_fields(self, index: str, fields: Json) -> None:
        """Adds fields that the index (or the one that an alias names) does not have; existing ones stay as they are."""
        await self.request("PUT", f"/{index}/_mapping", body={"properties": fields}, seconds=BULK_SECONDS)

    async def change_settings(self, index: str, settings: Json) -> None:
        """Changes dynamic settings, which can be changed on an open index."""
        await self.request("PUT", f"/{index}/_settings", body={"index": settings}, seconds=BULK_SECONDS)

    async def is_red(self, index: str) -> bool:
        """Whether a part of the existing index is on no node; one that has just restarted gets some seconds for it."""
        params = {"wait_for_status": "yellow", "timeout": f"{RECOVERY_SECONDS}s"}
        try:
            found = await self.request("GET", f"/_cluster/health/{index}", params=params, seconds=BULK_SECONDS)
        except SearchRefused as refusal:
            if refusal.status != 408:  # the wait is over
                raise
            return True
        return bool(found["status"] == "red")

    async def refresh(self, index: str) -> None:
        """Makes all writes so far visible to searches."""
        await self.request("POST", f"/{index}/_refresh", seconds=BULK_SECONDS)

    async def count(self, index: str) -> int:
        """The number of documents. Raises StoreUnavailable also if only a part of the index has answered."""
        return int(_whole(await self.request("GET", f"/{index}/_count"))["count"])

    async def ping(self) -> str:
        """The server's version."""
        await self.request("GET", "/_cluster/health", params={"timeout": "1s"})
        return f"{self.engine} {self.version}"

    async def close(self) -> None:
        """Closes every connection."""
        self.guard.close()
        for client in (self._client, self._prober):
            if client is not None:
                await client.close()

    async def _probe(self) -> None:
        """Uses a client of its own, since all connections of the other may be waiting for answers."""
        if self._prober is None:
            self._prober = _OpenSearch(self._urls)
        with suppress(SearchRefused):  # the engine is up
            await _of_any(self._prober, self._urls, self._patience)

    async def _find(self) -> _Client:
        """Detects the engine by `GET /`, with the OpenSearch client, which Elasticsearch answers too."""
        async with self._finding:
            if self._client is None:
                asker = _OpenSearch(self._urls)
                try:
                    version = await _version(asker, self._urls)
                except BaseException:
                    await asker.close()
                    raise
                self.engine = version.get("distribution", "elasticsearch")
                self.version = version.get("number", "")
                if self.engine == "elasticsearch":
                    await asker.close()
                    self._client = _Elasticsearch(self._urls)
                else:
                    self._client = asker
            return self._client


async def _version(asker: _Client, urls: Sequence[str]) -> Json:
    """The `version` object of the engine's answer to `GET /`. Raises StoreUnavailable if it is not a search engine's,
    since the engine is detected only once per process."""
    try:
        found = await _of_any(asker, urls, CALL_SECONDS)
    except SearchRefused as refusal:
        if refusal.status != 405:  # an Elasticsearch node without its `rest-root` module
            raise
        return {"number": "8"}
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(version, dict):
        raise _no_engine(found)
    return version


def _no_engine(said: Any) -> StoreUnavailable:
    return StoreUnavailable("search", f"what answers is no search engine: {str(said)[:200]}")


async def _of_any(asker: _Client, urls: Sequence[str], seconds: float) -> Json:
    """The answer to `GET /` of the first node that answers. Raises StoreUnavailable if none does."""
    for left in reversed(range(len(urls))):
        try:
            found: Json = await asker.request("GET", "/", {}, None, seconds / len(urls))
        except StoreUnavailable:
            if not left:
                raise
        else:
            return found
    raise AssertionError("the last try returns or raises")
