"""A way to PostgreSQL that breaks at a chosen message."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

# What a client waits for an answer to: Sync and a simple Query.
ASKS = (b"S", b"Q")
# The message never arrives; it arrives, and the answer is lost; it arrives, and the answer breaks off.
HOWS = ("before", "after", "within")


class Wire:
    """Carries messages between the shop and PostgreSQL, until the one it is to break at."""

    def __init__(self) -> None:
        self._at: int | None = None
        self._how = ""
        self._every = False
        self._passed = 0
        self.broke: str | None = None

    def break_at(self, nth: int, how: str, *, every: bool) -> None:
        """At the nth message from now on that wants an answer, or at the nth of `every` kind."""
        self._at, self._how, self._every, self._passed, self.broke = nth, how, every, 0, None

    def mend(self) -> None:
        """Carries everything."""
        self._at = None

    def breaks(self, kind: bytes) -> str | None:
        """How this message is to break, if it is the one."""
        if self._at is None or not (self._every or kind in ASKS):
            return None
        self._passed += 1
        if self._passed - 1 != self._at:
            return None
        self._at = None
        self.broke = kind.decode()
        # What wants no answer can only be lost.
        return self._how if kind in ASKS else "before"


class _Line:
    """One connection."""

    def __init__(self, wire: Wire, server_writer: asyncio.StreamWriter, writer: asyncio.StreamWriter) -> None:
        self.wire, self.server_writer, self.writer = wire, server_writer, writer
        self._broken = ""  # how, while the server still works on what arrived

    async def ahead(self, reader: asyncio.StreamReader) -> None:
        """From the shop to the server."""
        started = False
        while True:
            kind = b"" if not started else await reader.readexactly(1)
            length = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(length) - 4)
            how = self.wire.breaks(kind) if started else None
            # Before the session starts messages have no kind: a wish for TLS, then version 3's own.
            started = started or body[:2] == b"\x00\x03"
            if how == "before":
                return
            self._broken = how or ""
            self.server_writer.write(kind + length + body)

    async def back(self, reader: asyncio.StreamReader) -> None:
        """From the server to the shop. A lost answer is waited for to its end, so that the server has done it."""
        answer = b""
        while data := await reader.read(65536):
            if not self._broken:
                self.writer.write(data)
                continue
            answer += data
            if answer[-6:-1] == b"Z\x00\x00\x00\x05":
                if self._broken == "within":
                    self.writer.write(answer[: len(answer) // 2])
                    await self.writer.drain()
                return


async def both_ways(
    ahead: Coroutine[Any, Any, None], back: Coroutine[Any, Any, None], *ends: asyncio.StreamWriter
) -> None:
    """Carries both ways until one ends, then closes both ends."""
    ways = [asyncio.create_task(ahead), asyncio.create_task(back)]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in ends:
            end.close()


async def _carry(wire: Wire, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    server_reader, server_writer = await asyncio.open_connection(host, port)
    line = _Line(wire, server_writer, writer)
    await both_ways(line.ahead(reader), line.back(server_reader), server_writer, writer)


@asynccontextmanager
async def breakable(postgres_url: str) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to this server, and the URL at its other end."""
    wire = Wire()
    url = urlsplit(postgres_url)
    host, port = url.hostname or "", url.port or 5432
    server = await asyncio.start_server(lambda r, w: _carry(wire, host, port, r, w), "127.0.0.1", 0)
    credentials = url.netloc.rpartition("@")[0]
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire, urlunsplit(url._replace(netloc=f"{credentials}@{address}" if credentials else address))
    finally:
        server.close()
