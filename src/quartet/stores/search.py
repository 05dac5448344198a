"""Elasticsearch or OpenSearch, found by asking the server, behind one narrow interface; driver errors stop here."""

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
DOUBT_SECONDS = 0.5
PROBE_SECONDS = 2.0
MOST_CALLS = 200
BULK_BYTES = 5_000_000  # past some 10 MB a bulk gains nothing, and past 100 MB it is refused


# What may be asked twice: it changes nothing, or, as our bulks do, names the version that it writes.
_TWICE = ("/_search", "/_count", "/_refresh", "/_bulk")
# Statuses of an engine that does not let us in, and of one that can't serve, or not now; 0 is none.
_BARRING = (401, 403)
_REFUSING = (0, *_BARRING, 429, 502, 503, 504)


class SearchRefused(Exception):
    """The engine answered with an error; `status` is HTTP's, `reason` its own words."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class BulkResult:
    """What became of one item; a version conflict (409) means that a newer one was there already."""

    id: str
    status: int
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """In, or superseded by a newer version, or a delete of what was not there."""
        return self.status < 300 or self.status == 409 or (self.status == 404 and not self.reason)

    @property
    def homeless(self) -> bool:
        """The alias names no index (any more)."""
        return self.status == 404 and bool(self.reason)

    @property
    def passing(self) -> bool:
        """Refused because the engine was busy or hurt: the same item may go in later."""
        return self.status == 429 or self.status >= 500


class _Client(Protocol):
    async def request(self, method: str, path: str, params: Mapping[str, Any], body: Any, seconds: float) -> Any: ...

    async def close(self) -> None: ...


class _Orjson(JSONSerializer):
    """A query is written in a tenth of what the client's own way takes, and an answer read in half."""

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
        # A node that did not answer is left alone for some seconds, where there are others.
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
                raise StoreUnavailable("search", bars_us=status in _BARRING) from error
            raise SearchRefused(status, _reason(error.info)) from error

    async def close(self) -> None:
        await self._client.close()


class _Elasticsearch:
    """The official Elasticsearch 8.19 client, which speaks to 8 and 9."""

    def __init__(self, urls: Sequence[str]) -> None:
        import elasticsearch  # a second of CPU that only those who have one should pay at every start

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
                raise StoreUnavailable("search", bars_us=error.status_code in _BARRING) from error
            raise SearchRefused(error.status_code, _reason(error.body)) from error
        return found.body

    async def close(self) -> None:
        await self._client.close()


def nodes_of(url: str) -> list[str]:
    """A URL for each node of `http://user:password@host:9200,host:9200`, with its port, which Elasticsearch's client
    does not guess."""
    scheme, _, rest = url.partition("://")
    login, at, hosts = rest.rstrip("/").rpartition("@")
    usual = ":443" if scheme == "https" else ":9200"
    nodes = [host.partition("/") for host in hosts.split(",")]
    return [
        f"{scheme}://{login}{at}{host}{'' if re.search(r':[0-9]+$', host) else usual}{slash}{path}"
        for host, slash, path in nodes
    ]


def is_partial(found: Json) -> bool:
    """Whether an engine's answer is of a part of the index only. A shard of which no copy is there is not among the
    failed. `terminated_early` says nothing as long as nobody asks to `terminate_after`: an engine that only counts may
    set it, and has counted all."""
    shards = found["_shards"]
    return bool(found.get("timed_out") or shards["failed"] or shards["successful"] < shards["total"])


def _whole(found: Json) -> Json:
    if is_partial(found):
        raise StoreUnavailable("search", "a part of the search index does not answer")
    return found


def _reason(info: Any) -> str:
    error = info.get("error", info) if isinstance(info, dict) else info
    return str(error.get("reason", error)) if isinstance(error, dict) else str(error)


class SearchEngine:
    """The engine behind a URL, one node or several; which one it is, is asked at the first call. `patience`: seconds
    without an answer to the guard's probe until it counts as away."""

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
        """One call; asked of another node where one does not answer, if it may be asked twice. Raises SearchRefused,
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
                if isinstance(found, str):  # a page of a proxy's, which stands in the engine's place
                    raise _no_engine(found)
                return found
            except StoreUnavailable:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _if_there(self, method: str, path: str, seconds: float = 0) -> Json:
        """{} where the engine has no such thing."""
        try:
            found: Json = await self.request(method, path, seconds=seconds)
        except SearchRefused as refusal:
            if refusal.status != 404:
                raise
            return {}
        return found

    async def search(self, index: str, body: Json) -> Json:
        """`_search`; the engine's answer as it is, maybe of a part. StoreUnavailable also while there is no index."""
        try:
            found: Json = await self.request("POST", f"/{index}/_search", body=body)
        except SearchRefused as refusal:
            if refusal.status == 404:
                raise StoreUnavailable("search", "the search index is not there yet") from refusal
            raise
        return found

    async def search_all(self, index: str, body: Json) -> Json:
        """The same, for whoever takes what was not found for gone. StoreUnavailable also where only a part of the index
        has answered."""
        return _whole(await self.search(index, body))

    async def bulk(self, alias: str, actions: Sequence[tuple[Json, Json | bytes | None]]) -> list[BulkResult]:
        """`_bulk` of (action, document or its JSON, or None for a delete); one result an action, in order. Through an
        alias only: a write to an index that is not there would make one, with guessed fields; this way each item is
        refused 404.

        An action is the engine's: `{"index": {"_id": "1", "version": 7, "version_type": "external_gte"}}`."""
        results: list[BulkResult] = []
        if any(document is None for _, document in actions) and not await self.alias_targets(alias):
            # engines make an index for a delete all the same, which would be in the way of the alias for ever.
            return [BulkResult(next(iter(a.values()))["_id"], 404, f"no index is behind {alias}") for a, _ in actions]
        body = bytearray()
        for action, document in actions:
            body += orjson.dumps(action, option=orjson.OPT_APPEND_NEWLINE)
            if document is not None:
                body += (document if isinstance(document, bytes) else orjson.dumps(document)) + b"\n"
            if len(body) > BULK_BYTES:
                results += await self._bulk(alias, bytes(body))
                body.clear()
        return results + (await self._bulk(alias, bytes(body)) if body else [])

    async def _bulk(self, alias: str, body: bytes) -> list[BulkResult]:
        params = {"require_alias": "true", "filter_path": "items.*._id,items.*.status,items.*.error"}
        found = await self.request("POST", f"/{alias}/_bulk", params=params, body=body, seconds=BULK_SECONDS)
        results = [next(iter(item.values())) for item in found["items"]]
        return [BulkResult(r["_id"], r["status"], _reason(r["error"]) if "error" in r else "") for r in results]

    async def create_index(self, name: str, definition: Json, *, aliases: Sequence[str] = ()) -> None:
        """Makes an index with settings and mappings, and its aliases in the same step."""
        body = {**definition, "aliases": {alias: {} for alias in aliases}}
        await self.request("PUT", f"/{name}", body=body, seconds=BULK_SECONDS)

    async def delete_index(self, name: str) -> None:
        """Idempotent."""
        await self._if_there("DELETE", f"/{name}", BULK_SECONDS)

    async def alias_target(self, alias: str) -> str | None:
        """The index that the alias names, or None."""
        return next(iter(await self.alias_targets(alias)), None)

    async def alias_targets(self, alias: str) -> list[str]:
        """Every index that the alias names."""
        return list(await self._if_there("GET", f"/_alias/{alias}"))

    async def swap_alias(self, alias: str, index: str, *, leave: str, keep: str) -> None:
        """Points the alias at the index, away from all others, and takes the alias `leave` off it; what the alias named
        so far is what the alias `keep` names from now on. One atomic call."""
        old = [other for other in await self.alias_targets(alias) if other != index]
        kept = [] if not old else await self.alias_targets(keep)
        actions: list[Json] = [{"remove": {"index": other, "alias": alias}} for other in old]
        actions += [{"remove": {"index": other, "alias": keep}} for other in kept if other not in old]
        actions += [{"add": {"index": other, "alias": keep}} for other in old]
        actions += [{"remove": {"index": index, "alias": leave}}, {"add": {"index": index, "alias": alias}}]
        await self.request("POST", "/_aliases", body={"actions": actions}, seconds=BULK_SECONDS)

    async def mappings(self, index: str) -> Json:
        """The mappings of the index (or of the one that an alias names); {} where there is none."""
        found = await self._if_there("GET", f"/{index}/_mapping")
        return next((dict(one["mappings"]) for one in found.values()), {})

    async def add_fields(self, index: str, fields: Json) -> None:
        """Fields that the index (or the one that an alias names) has not; those that it has stay as they are."""
        await self.request("PUT", f"/{index}/_mapping", body={"properties": fields}, seconds=BULK_SECONDS)

    async def change_settings(self, index: str, settings: Json) -> None:
        """Those of an index that can be changed while it is in use."""
        await self.request("PUT", f"/{index}/_settings", body={"index": settings}, seconds=BULK_SECONDS)

    async def refresh(self, index: str) -> None:
        """Makes what was written findable now."""
        await self.request("POST", f"/{index}/_refresh", seconds=BULK_SECONDS)

    async def count(self, index: str) -> int:
        """How many documents; of the whole index, else StoreUnavailable."""
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
        """By a client of its own: those of the other have each a connection that may be waiting."""
        if self._prober is None:
            self._prober = _OpenSearch(self._urls)
        with suppress(SearchRefused):  # an answer
            await _of_any(self._prober, self._urls, self._patience)

    async def _find(self) -> _Client:
        """Asks `GET /` who is there. The OpenSearch client asks, since Elasticsearch answers it too."""
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
    """What the engine says of its own. What is taken for an engine here is so for as long as the process lives."""
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
    """What the first node that answers says it is."""
    for left in reversed(range(len(urls))):
        try:
            found: Json = await asker.request("GET", "/", {}, None, seconds / len(urls))
        except StoreUnavailable:
            if not left:
                raise
        else:
            return found
    raise AssertionError("the last try returns or raises")
