"""Counts a request's round trips to the stores: a proxy in front of each counts what the client sends."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit, urlunsplit


class Wire:
    """The proxy of one store, and its counts so far. `trips`: round trips; `statements`: statements run by
    PostgreSQL."""

    def __init__(self, store: str) -> None:
        self.counted: Counter[str] = Counter()
        self._forward = self._postgres if store == "postgres" else self._plain

    async def carry(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards one client's connection."""
        server_reader, server_writer = await asyncio.open_connection(host, port)
        try:
            await asyncio.gather(self._forward(reader, server_writer), _back(server_reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            server_writer.close()
            writer.close()

    async def _plain(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Counts each chunk read as a round trip: clients of Redis, MongoDB and HTTP write a request or pipeline at
        once."""
        while data := await reader.read(1 << 20):
            self.counted["trips"] += 1
            writer.write(data)
        writer.close()

    async def _postgres(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each Sync and each simple Query is a round trip; each Execute and each simple Query a statement."""
        started = False
        while True:
            kind = await reader.readexactly(1) if started else b""
            length = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(length) - 4)
            started = started or body[:2] == b"\x00\x03"  # messages up to StartupMessage have no type byte (SSLRequest)
            self.counted["trips"] += kind in (b"S", b"Q")
            self.counted["statements"] += kind in (b"E", b"Q")
            writer.write(kind + length + body)


async def _back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def wired(urls: Mapping[str, str]) -> AsyncIterator[tuple[dict[str, str], dict[str, Wire]]]:
    """Yields URLs that lead to the same stores through the proxies, and the proxies; both by store."""
    wires = {store: Wire(store) for store in urls}
    async with AsyncExitStack() as stack:
        yield {store: await _listen(stack, wires[store], url) for store, url in urls.items()}, wires


async def _listen(stack: AsyncExitStack, wire: Wire, url: str) -> str:
    parts = urlsplit(url)
    host, real_port = parts.hostname or "", parts.port or 0
    server = await asyncio.start_server(lambda r, w: wire.carry(host, real_port, r, w), "127.0.0.1", 0)
    stack.callback(server.close)
    login = parts.netloc.rpartition("@")[0]
    here = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    return urlunsplit(parts._replace(netloc=f"{login}@{here}" if login else here))
