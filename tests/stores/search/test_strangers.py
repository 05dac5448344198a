"""Something else answers in an engine's place: a proxy with a page of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.search import SearchEngine


@asynccontextmanager
async def a_proxy_before(version: str, kind: str) -> AsyncIterator[SearchEngine]:
    """An engine that says what it is, and for all else there is only this page."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            asked = head.split(b" ", 2)[1]
            length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
            await reader.readexactly(length)
            told, body = ("application/json", version) if asked == b"/" else (kind, "<h1>Soon back</h1>")
            says = f"HTTP/1.1 200 OK\r\nContent-Type: {told}\r\nX-Elastic-Product: Elasticsearch\r\n"
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


@pytest.mark.parametrize("kind", ["text/html", "text/plain", "application/json"])
@pytest.mark.parametrize(
    "version", ['{"version": {"number": "2.19.6", "distribution": "opensearch"}}', '{"version": {"number": "8.19.21"}}']
)
async def test_a_page_in_place_of_an_answer_is_an_engine_away(version: str, kind: str) -> None:
    async with a_proxy_before(version, kind) as engine:
        with pytest.raises(StoreUnavailable):
            await engine.search("products", {"query": {"match_all": {}}})
