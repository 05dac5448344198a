"""A line to a store that can be cut: what is being said breaks off, and whoever calls again is hung up on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit


class Line:
    """Carries bytes both ways until it is cut."""

    def __init__(self, url: str) -> None:
        self._there = urlsplit(url)
        self._is_cut = False
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> str:
        """The URL at this end."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        credentials = self._there.netloc.rpartition("@")[0]
        here = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return urlunsplit(self._there._replace(netloc=f"{credentials}@{here}" if credentials else here))

    def cut(self) -> None:
        """At once, whatever is under way."""
        self._is_cut = True
        for end in list(self._ends):
            end.transport.abort()

    def mend(self) -> None:
        """Whoever calls again gets through."""
        self._is_cut = False

    def close(self) -> None:
        """For good."""
        self.cut()
        if self._server is not None:
            self._server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        ends = {writer}
        self._ends |= ends
        try:
            there, back = await asyncio.open_connection(self._there.hostname, self._there.port)
            ends.add(back)
            self._ends |= ends
            ways = [asyncio.create_task(_pass_on(*way)) for way in ((reader, back), (there, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # nobody is there
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def lines_to(urls: dict[str, str]) -> AsyncIterator[tuple[dict[str, Line], dict[str, str]]]:
    """A line to each store, and the URLs at this end."""
    lines = {name: Line(url) for name, url in urls.items()}
    here = {name: await line.open() for name, line in lines.items()}
    here["mongodb"] += ("&" if "?" in here["mongodb"] else "?") + "directConnection=true"
    try:
        yield lines, here
    finally:
        for line in lines.values():
            line.close()
