"""One connection to Redis or Valkey, shared by all callers: the commands of one event loop iteration are pipelined in
one write, and replies come in the order of the commands. A call costs a third of one on a pooled connection of its own,
most of which is the two system calls."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import hiredis

CALL_SECONDS = 1.0

T = TypeVar("T")


class ConnectionLost(Exception):
    """The connection is lost, or the server does not answer: whether the command was executed is unknown."""


class Refused(Exception):
    """An error reply, as the server wrote it: `OOM command not allowed …`."""


class Server:
    """The connection to one server, opened at first use, and again after it was lost."""

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._where = where
        self._opened: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None

    @property
    def opened(self) -> "Connection | None":
        """The open connection, if there is one."""
        return None if self._opened is None or self._opened.gone else self._opened

    @property
    def is_at_rest(self) -> bool:
        """Whether no connection is being opened, and every command has been answered."""
        opening = self._opening is not None and not self._opening.done()
        return not opening and (self.opened is None or self.opened.is_at_rest)

    async def open(self) -> "Connection":
        """The connection, which is opened if need be: one attempt for all concurrent callers, since with one attempt
        each, the last would wait for the timeouts of all the others. Raises ConnectionLost, Refused."""
        if (opened := self.opened) is not None:
            return opened
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(retrieve_exception)
        return await result_of(self._opening)

    async def probe(self) -> None:
        """Returns when the server answers on a new connection. Raises ConnectionLost, Refused."""
        (await self._connect()).close()

    def close(self) -> None:
        """Closes the connection, also one that is being opened: whoever waits for it gets ConnectionLost."""
        if self._opening is not None:
            self._opening.cancel()
        if self._opened is not None:
            self._opened.close()

    async def _open(self) -> "Connection":
        """Kept also if nobody waits for it any more: otherwise it would stay open beside the next one."""
        self._opened = await self._connect()
        return self._opened

    async def _connect(self) -> "Connection":
        return await connect(self._where)


class Standalone(Server):
    """The server, without a cluster. After a failover behind its address a demoted master keeps its connections, so
    that we would never reach the new one: hence we disconnect if the server turns out to be no master."""

    async def send(self, commands: Sequence[Sequence[Any]]) -> "list[asyncio.Future[Any]]":
        """Sends the commands; returns a future of each reply, in order. Raises ConnectionLost, Refused."""
        opened = self.opened or await self.open()
        return [opened.ask(command) for command in commands]

    async def receive(
        self, _: Sequence[Sequence[Any]], replies: "Sequence[asyncio.Future[Any]]", _brief: bool
    ) -> list[Any]:
        """The replies, in which errors are `Refused` objects. Raises ConnectionLost, and Refused if the server
        is not, or not yet, a master."""
        said = [await reply for reply in replies]
        for reply in said:
            if _is_by_no_master(reply):
                if (opened := self.opened) is not None:
                    opened.close()
                raise reply
        return said

    async def each(self, command: Sequence[Any]) -> list[Any]:
        """The reply of each master, of which there is one. Raises ConnectionLost, Refused."""
        return await self.receive([command], await self.send([command]), False)

    async def _connect(self) -> "Connection":
        opened = await super()._connect()
        try:
            hello, alive = [await each for each in (opened.ask(("HELLO",)), opened.ask(("PING",)))]
            if _is_by_no_master(alive):
                raise alive
            if isinstance(hello, Mapping) and hello.get("role") == "replica":
                raise ConnectionLost("a replica is at the master's address")
        except BaseException:
            opened.close()
            raise
        return opened


def _is_by_no_master(said: Any) -> bool:
    return isinstance(said, Refused) and str(said).startswith(("READONLY", "MASTERDOWN", "LOADING"))


async def result_of(task: "asyncio.Task[T]") -> T:
    """The result of a task that several callers wait for, and that goes on if one of them is cancelled. Raises what the
    task raises, and ConnectionLost if it is cancelled, as by `close`."""
    await asyncio.wait([task])
    if task.cancelled():
        raise ConnectionLost("closed meanwhile")
    return task.result()


def retrieve_exception(task: "asyncio.Task[Any]") -> None:
    """Retrieves the task's exception, so that asyncio does not log it if its callers were cancelled."""
    if not task.cancelled():
        task.exception()


class Connection(asyncio.Protocol):
    """A connection, opened by `connect`. Cancelling a caller does not cancel its command."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.gone = False
        self._transport: asyncio.Transport
        # Replacing: a value that is not UTF-8 must not end the connection, and with it all other callers' commands.
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace", replyError=Refused)
        self._unsent: list[bytes] = []
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()  # replies awaited, and their deadlines
        self._watch: asyncio.TimerHandle | None = None

    def ask(self, command: Sequence[Any]) -> "asyncio.Future[Any]":
        """Sends the command; returns a future of its reply, which is a `Refused` object for an error reply. Raises
        ConnectionLost."""
        if self.gone:
            raise ConnectionLost
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
        """Whether every command has been answered."""
        return not self._asked

    def close(self) -> None:
        """Closes the connection; replies still awaited raise ConnectionLost."""
        self.gone = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass of it

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                waiting, _ = self._asked.popleft()
                if not waiting.done():
                    waiting.set_result(reply)
        except (hiredis.HiredisError, IndexError):
            self.close()  # invalid RESP, or a reply too many: later replies can't be matched to their commands

    def connection_lost(self, _: Exception | None) -> None:
        self.gone = True
        if self._watch is not None:
            self._watch.cancel()
        for reply, _until in self._asked:
            if not reply.done():
                reply.set_exception(ConnectionLost())
                reply.exception()  # retrieved, so that asyncio does not log it if its caller was cancelled
        self._asked.clear()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.gone:
            self._transport.write(b"".join(unsent))

    def _look(self) -> None:
        """Closes the connection if a command has timed out. One timer serves all commands: replies come in order, so
        the first has waited longest."""
        self._watch = None
        if self._asked and not self.gone:
            until = self._asked[0][1]
            if until <= self.loop.time():
                self.close()
            else:
                self._watch = self.loop.call_at(until, self._look)


async def connect(where: Mapping[str, Any]) -> Connection:
    """Opens a connection; `where` is what redis-py's `parse_url` returns. Raises ConnectionLost, Refused."""
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
        raise ConnectionLost from error
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
