"""Something else answers in an engine's place: a proxy with a page of its own, or nobody who lets us in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.search import SearchEngine

OPENSEARCH = '{"version": {"number": "2.19.6", "distribution": "opensearch"}}'
ELASTICSEARCH = '{"version": {"number": "8.19.21"}}'
FOUND = '{"_shards": {"total": 1, "successful": 1, "failed": 0}, "hits": {"hits": []}}'
JSON = "application/json"
EVERYTHING: dict[str, Any] = {"query": {"match_all": {}}}
# Status, kind, body; and whether the engine itself signs it, as Elasticsearch does.
Page = tuple[str, str, str, bool]


@asynccontextmanager
async def a_proxy_before(pages: Callable[[bytes], Page]) -> AsyncIterator[SearchEngine]:
    """What is at this address, by path."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            asked = head.split(b" ", 2)[1]
            length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
            await reader.readexactly(length)
            status, kind, body, signed = pages(asked)
            says = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\n"
            says += "X-Elastic-Product: Elasticsearch\r\n" if signed else ""
            writer.write(f"{says}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    engine = SearchEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield engine
    finally:
        await engine.close()
        server.close()


@pytest.mark.parametrize("kind", ["text/html", "text/plain", JSON])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("version", [OPENSEARCH, ELASTICSEARCH])
async def test_a_page_in_place_of_an_answer_is_an_engine_away(version: str, kind: str, *, signed: bool) -> None:
    page = ("200", kind, "<h1>Soon back</h1>", signed)
    async with a_proxy_before(lambda path: ("200", JSON, version, True) if path == b"/" else page) as engine:
        with pytest.raises(StoreUnavailable):
            await engine.search("products", EVERYTHING)


@pytest.mark.parametrize(
    "page",
    [("200", "text/plain", "Soon back", False), ("200", JSON, '{"status": "maintenance"}', False),
     ("200", JSON, '["maintenance"]', False), ("401", JSON, '{"error": "who are you?"}', True)],
)  # fmt: skip
async def test_what_is_no_engine_at_the_first_call_is_taken_for_none(page: Page) -> None:
    """Else it would be taken for that as long as the process lives."""
    is_back = False

    def pages(path: bytes) -> Page:
        return page if not is_back else ("200", JSON, OPENSEARCH if path == b"/" else FOUND, False)

    async with a_proxy_before(pages) as engine:
        with pytest.raises(StoreUnavailable):
            await engine.search("products", EVERYTHING)
        is_back = True
        async with asyncio.timeout(10):
            while not (await _answers(engine)):  # noqa: ASYNC110 — it is found out by asking
                await asyncio.sleep(0.05)
        assert engine.engine == "opensearch"


@pytest.mark.parametrize("status", ["401", "403"])
@pytest.mark.parametrize("version", [OPENSEARCH, ELASTICSEARCH])
async def test_an_engine_that_lets_nobody_in_any_more_is_away(version: str, status: str) -> None:
    """A password was changed: what can be listed without it still is."""
    is_shut = False

    def pages(path: bytes) -> Page:
        shut = (status, JSON, '{"error": {"reason": "who are you?"}}', True)
        return shut if is_shut else ("200", JSON, version if path == b"/" else FOUND, True)

    async with a_proxy_before(pages) as engine:
        assert await _answers(engine)
        is_shut = True
        with pytest.raises(StoreUnavailable) as away:
            await engine.search("products", EVERYTHING)
        assert away.value.is_unauthorized


async def _answers(engine: SearchEngine) -> bool:
    try:
        await engine.search("products", EVERYTHING)
    except StoreUnavailable:
        return False
    return True
