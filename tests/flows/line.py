"""A line to a server, cut wherever a test wants it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import uvicorn

from quartet.devstores import free_port

# unplugged: nobody listens · lost: the request never arrives · swallowed: it does, its answer does not ·
# half: half of its answer does · ringing: somebody listens, and takes up no connection
Cut = Literal["", "unplugged", "lost", "swallowed", "half", "ringing"]
CUTS: tuple[Cut, ...] = ("unplugged", "lost", "swallowed", "half")


class Line:
    """Carries bytes to a server at this port; `cut` says what becomes of them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._waiting: list[socket.socket] = []
        self.port = free_port()
        self.cut: Cut = ""
        self.noticed: Callable[[], Awaitable[None]] | None = None
        """Returns when whoever asks over it has noticed that it is mended."""
        self.at_rest: Callable[[], Awaitable[None]] | None = None
        """Returns when nobody asks over it whether the other end lives."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connected(self) -> int:
        """How many connections are open."""
        return len(self._open)

    async def plug(self) -> None:
        """Listens, on the port it had."""
        self.cut = ""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)

    async def break_at(self, cut: Cut) -> None:
        """From now on the line is cut there, also for those who are connected. The first to notice is the test's own
        next request."""
        if self.at_rest is not None and not self.cut:
            await self.at_rest()
        self.cut = cut
        if cut in ("unplugged", "ringing"):
            await self.unplug()
        if cut == "ringing":
            self._ring()

    async def mend(self) -> None:
        """As new."""
        for waiting in self._waiting:
            waiting.close()
        if self.cut in ("unplugged", "ringing"):
            await self.plug()
        self.cut = ""
        if self.noticed is not None:
            await self.noticed()

    async def unplug(self) -> None:
        """Nobody listens."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)

    def _ring(self) -> None:
        """The one place for those who wait is taken."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=0)
        self._waiting = [listener, socket.create_connection(("127.0.0.1", self.port))]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._open.add(writer)
        try:
            await asyncio.gather(self._pump(reader, back, self._asked), self._pump(there, writer, self._answered))
        except (ConnectionError, EOFError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()
            back.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        through: Callable[[bytes], tuple[bytes, bool]],
    ) -> None:
        while data := await reader.read(65536):
            data, goes_on = through(data)
            writer.write(data)
            await writer.drain()
            if not goes_on:
                await asyncio.sleep(0.02)
                raise EOFError
        raise EOFError

    def _asked(self, data: bytes) -> tuple[bytes, bool]:
        return (b"", False) if self.cut == "lost" else (data, True)

    def _answered(self, data: bytes) -> tuple[bytes, bool]:
        if self.cut == "swallowed":
            return b"", False
        return (data[: len(data) // 2], False) if self.cut == "half" else (data, True)


@asynccontextmanager
async def serving(app: Callable[..., Awaitable[Any]]) -> AsyncIterator[Line]:
    """The ASGI application on a free port of this machine, behind a line.

    Without uvicorn's own loop, which looks ten times a second whether it is to end, and then lets everybody finish.
    """
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="error")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    line = Line(server.servers[0].sockets[0].getsockname()[1])
    await line.plug()
    yield line
    await line.unplug()
    for listener in server.servers:
        listener.close()
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    for answering in list(server.server_state.tasks):
        answering.cancel()
