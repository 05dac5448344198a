"""A way to MongoDB that breaks at a chosen question, and where something may happen just before any."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from cut_wire import both_ways

# What the driver asks for itself, whenever it likes.
SMALL_TALK = {"hello", "ismaster", "isMaster", "ping", "buildInfo", "endSessions", "killCursors"}
OP_MSG = 2013


async def _nothing(_name: str) -> None:
    pass


class StreamWire:
    """Carries questions and answers until the one it is to break at: `before` it arrives; `after`, so that its answer
    is lost; or `within` the answer."""

    def __init__(self) -> None:
        self.first: Callable[[str], Awaitable[None]] = _nothing
        """Called with the name of each question before it goes on."""
        self.broke: list[str] = []
        self._at: int | None = None
        self._how = ""
        self._lasting = False
        self._passed = 0

    def break_at(self, nth: int, how: str, *, lasting: bool) -> None:
        """At the nth question from now on, alone or with all that follow it until the wire is mended."""
        self._at, self._how, self._lasting, self._passed, self.broke = nth, how, lasting, 0, []

    def mend(self) -> None:
        """Carries everything."""
        self._at = None

    def breaks(self, name: str) -> str:
        """How this question is to break, if it is."""
        self._passed += 1
        if self._at is None or self._passed <= self._at:
            return ""
        if not self._lasting:
            self._at = None
        self.broke.append(name)
        return self._how


class _Line:
    """One connection, on which one question at a time waits for its answer."""

    def __init__(self, wire: StreamWire, server_writer: asyncio.StreamWriter, writer: asyncio.StreamWriter) -> None:
        self.wire, self.server_writer, self.writer = wire, server_writer, writer
        self._broken = ""

    async def ahead(self, reader: asyncio.StreamReader) -> None:
        """From the shop to the server."""
        while True:
            message = await _message(reader)
            name = _name(message)
            if name and name not in SMALL_TALK:
                self._broken = self.wire.breaks(name)
                await self.wire.first(name)
            if self._broken == "before":
                return
            self.server_writer.write(message)

    async def back(self, reader: asyncio.StreamReader) -> None:
        """From the server to the shop."""
        while True:
            message = await _message(reader)
            if self._broken == "within":
                self.writer.write(message[: len(message) // 2])
                await self.writer.drain()
            if self._broken:
                return
            self.writer.write(message)


async def _message(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length, "little") - 4)


def _name(message: bytes) -> str:
    """The command that a message asks for: its body's first field; empty of the older kind, which only says hello."""
    if int.from_bytes(message[12:16], "little") != OP_MSG:
        return ""
    return message[26 : message.index(0, 26)].decode()  # behind header, flags, kind, length and the field's type


async def _carry(
    wire: StreamWire, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    server_reader, server_writer = await asyncio.open_connection(host, port)
    line = _Line(wire, server_writer, writer)
    await both_ways(line.ahead(reader), line.back(server_reader), server_writer, writer)


@asynccontextmanager
async def stream_wire(mongodb_url: str) -> AsyncIterator[tuple[StreamWire, str]]:
    """A wire to this server, and the URL at its other end."""
    wire, url = StreamWire(), urlsplit(mongodb_url)
    host, port = url.hostname or "", url.port or 27017
    server = await asyncio.start_server(lambda r, w: _carry(wire, host, port, r, w), "127.0.0.1", 0)
    try:
        here = url._replace(netloc=f"127.0.0.1:{server.sockets[0].getsockname()[1]}", query="directConnection=true")
        yield wire, here.geturl()
    finally:
        server.close()
