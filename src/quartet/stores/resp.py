"""One connection to Redis or Valkey, shared by all callers: all commands of one turn of the event loop are pipelined
in one write, and replies come in the order of the commands. Each call then costs a third of one on a pooled connection
of its own, most of which is the two system calls."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast

import hiredis

CALL_SECONDS = 1.0


class Gone(Exception):
    """The connection is lost, or the server does not answer: whether the command was executed is unknown."""


class Refused(Exception):
    """The server's own words, code first: `OOM command not allowed …`."""


class Server:
    """The connection to one server, opened at first use and again when it is gone."""

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._where = where
        self._opened: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None

    @property
    def opened(self) -> "Connection | None":
        """None while there is none."""
        return None if self._opened is None or self._opened.gone else self._opened

    @property
    def is_at_rest(self) -> bool:
        """Whether every command has been answered."""
        opening = self._opening is not None and not self._opening.done()
        return not opening and (self.opened is None or self.opened.is_at_rest)

    async def open(self) -> "Connection":
        """One attempt for all who wait: if they took turns, the last would wait for all the others' timeouts. Raises
        Gone, Refused."""
        if (opened := self.opened) is not None:
            return opened
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(seen)
        self._opened = await asyncio.shield(self._opening)
        return self._opened

    async def probe(self) -> None:
        """Returns when it answers, on a connection of its own; raises Gone, Refused."""
        (await self._connect()).close()

    def close(self) -> None:
        """Ends it."""
        if self._opened is not None:
            self._opened.close()

    async def _connect(self) -> "Connection":
        return await connect(self._where)


class Master(Server):
    """The one server of a shop without a cluster. Behind its address a failover may happen; a demoted master keeps its
    clients, who would never reach the new one: so we disconnect."""

    async def send(self, commands: Sequence[Sequence[Any]]) -> "list[asyncio.Future[Any]]":
        """The replies to come, in order. Raises Gone, Refused."""
        opened = self.opened or await self.open()
        return [opened.ask(command) for command in commands]

    async def receive(
        self, _: Sequence[Sequence[Any]], replies: "Sequence[asyncio.Future[Any]]", _brief: bool
    ) -> list[Any]:
        """The replies, refusals among them. Raises Gone, and Refused by a server that is no master, or not yet."""
        said = [await reply for reply in replies]
        for reply in said:
            if _is_by_no_master(reply):
                self.close()
                raise reply
        return said

    async def each(self, command: Sequence[Any]) -> list[Any]:
        """Its reply: it is alone. Raises Gone, Refused."""
        return await self.receive([command], await self.send([command]), False)

    async def _connect(self) -> "Connection":
        opened = await super()._connect()
        try:
            hello, alive = [await each for each in (opened.ask(("HELLO",)), opened.ask(("PING",)))]
            if _is_by_no_master(alive):
                raise alive
            if isinstance(hello, Mapping) and hello.get("role") == "replica":
                raise Gone("a replica is at the master's address")
        except BaseException:
            opened.close()
            raise
        return opened


def _is_by_no_master(said: Any) -> bool:
    return isinstance(said, Refused) and str(said).startswith(("READONLY", "MASTERDOWN", "LOADING"))


def seen(task: "asyncio.Task[Any]") -> None:
    """Whoever asked for it may have gone, so that nobody hears of a failure."""
    if not task.cancelled():
        task.exception()


class Connection(asyncio.Protocol):
    """Open it by `connect`. A call that nobody waits for any more is carried out all the same."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.gone = False
        self._transport: asyncio.Transport
        # One value that is no text must not cost the connection, and with it what all the others have asked.
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace", replyError=Refused)
        self._unsent: list[bytes] = []
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()  # with the moment until which it may take
        self._watch: asyncio.TimerHandle | None = None

    def ask(self, command: Sequence[Any]) -> "asyncio.Future[Any]":
        """The reply to come; what the server refuses is a reply as well: `Refused`. Raises Gone."""
        if self.gone:
            raise Gone
        reply: asyncio.Future[Any] = self.loop.create_future()
        if not self._unsent:
            self.loop.call_soon(self._send)
        self._unsent.append(hiredis.pack_command(tuple(command)))
        self._asked.append((reply, self.loop.time() + CALL_SECONDS))
        if self._watch is None:
            self._watch = self.loop.call_later(CALL_SECONDS, self._look)
        return reply

    @property
    def is_at_rest(self) -> bool:
        """Whatever it was asked is answered."""
        return not self._asked

    def close(self) -> None:
        """Ends it; whoever still waits learns that it is gone."""
        self.gone = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own kind is none by name

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                waiting, _ = self._asked.popleft()
                if not waiting.done():
                    waiting.set_result(reply)
        except (hiredis.HiredisError, IndexError):
            self.close()  # not what a server of this kind writes, so nothing after it can be told apart

    def connection_lost(self, _: Exception | None) -> None:
        self.gone = True
        if self._watch is not None:
            self._watch.cancel()
        for reply, _until in self._asked:
            if not reply.done():
                reply.set_exception(Gone())
                reply.exception()  # whoever gave up waiting need not be told that nobody looked
        self._asked.clear()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.gone:
            self._transport.write(b"".join(unsent))

    def _look(self) -> None:
        """One timer for all calls: replies come in order, so the first is the one that waits longest."""
        self._watch = None
        if self._asked and not self.gone:
            until = self._asked[0][1]
            if until <= self.loop.time():
                self.close()
            else:
                self._watch = self.loop.call_at(until, self._look)


async def connect(where: Mapping[str, Any]) -> Connection:
    """`where` as redis-py reads it from a URL. Raises Gone, Refused."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CALL_SECONDS):
            if "path" in where:
                _, opened = await loop.create_unix_connection(lambda: Connection(loop), where["path"])
            else:
                tls = "SSL" in where["connection_class"].__name__ if "connection_class" in where else False
                host, port = where.get("host", "localhost"), where.get("port", 6379)
                _, opened = await loop.create_connection(lambda: Connection(loop), host, port, ssl=tls or None)
    except (OSError, TimeoutError) as error:
        raise Gone from error
    login = ("AUTH", where.get("username") or "default", where["password"]) if where.get("password") else ()
    hello = [opened.ask(("HELLO", "3", *login)), opened.ask(("SELECT", where.get("db", 0)))]
    try:
        for reply in [await each for each in hello]:
            if isinstance(reply, Refused):
                raise reply
    except BaseException:
        opened.close()
        raise
    return opened
