"""uvicorn, with an accept loop of its own: a crowd of connections is accepted one by one, so that requests in progress
do not wait for all of them. An event loop by itself accepts, and then reads, every waiting connection before it goes on
with anything else: 20 to 90 ms for a thousand."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from quartet.gateway.limits import hashes
from quartet.gateway.security import as_lines, security_headers
from quartet.kernel.errors import BadRequest
from quartet.web.answers import problem_response

# Reading a sign-in and sending it away again costs about 0.2 ms.
PACE_SECONDS = 0.001
REST_SECONDS = 0.1
# Nobody waits much longer than this: the line moves faster the longer it is.
LONGEST_LINE = 1000
# Nothing else bounds what a client may send before its request has begun, or how long that takes.
LONGEST_HEAD = 64 * 1024
HEAD_SECONDS = 30.0
# Nor how long somebody may let an answer stand.
UNREAD_SECONDS = 30.0
_TOO_LONG = f"headers must not have more than {LONGEST_HEAD} bytes"


# Of a GET's address, headers and peer the answer that needs no task, if there is one: the headers that follow those of
# the server after the status 200, and the body. None where the request has a body.
AnswerAtOnce = Callable[[bytes, list[tuple[bytes, bytes]], tuple[str, int] | None], tuple[bytes, bytes] | None]


class Server(uvicorn.Server):
    """One connection is accepted at each turn of the event loop; the others wait in the kernel's line."""

    def __init__(
        self,
        config: uvicorn.Config,
        at_once: AnswerAtOnce = lambda *_: None,
        listening: Callable[[], None] = lambda: None,
        *,
        is_secure: bool = False,
    ) -> None:
        """`at_once` is asked before the application is; `listening` is called once whoever comes is let in;
        `is_secure`: the shop is reached by https alone."""
        super().__init__(config)
        self._at_once, self._listening, self._is_secure = at_once, listening, is_secure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but for who listens."""
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()
        self._line = _Line(loop)
        self._arriving: set[asyncio.Task[None]] = set()
        for listener in sockets or []:
            listener.setblocking(False)
            listener.listen(self.config.backlog)
            self._listen(loop, listener)
        if not self.should_exit:
            self._listening()

    def _listen(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        if listener.fileno() >= 0:  # not closed meanwhile
            loop.add_reader(listener, self._accept, loop, listener)

    def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # out of file descriptors: some will be free again, and asking at each turn helps nobody
            loop.remove_reader(listener)
            loop.call_later(REST_SECONDS, self._listen, loop, listener)
            return
        task = loop.create_task(self._welcome(loop, connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _welcome(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        with suppress(OSError):  # gone before it came in
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                # asyncio itself does so only where the listener names its protocol, which uvicorn's does not: then a
                # body that follows its headers would wait for them to be acknowledged, 40 ms.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        own = (self._line, self._at_once, self._is_secure)
        return _Protocol(*own, self.config, self.server_state, self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No more are let in; those who are in are served."""
        for listener in sockets or []:
            asyncio.get_running_loop().remove_reader(listener)
        await super().shutdown(sockets)


class _Line:
    """One is called in a millisecond; who comes when nobody waits goes straight in."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_moving = False

    def join(self, enter: Callable[[], None]) -> None:
        """`enter` is called now or soon."""
        if self._is_moving:
            self._waiting.append(enter)
        else:
            self._is_moving = True
            self._loop.call_later(PACE_SECONDS, self._move)
            enter()

    def _move(self) -> None:
        self._is_moving = bool(self._waiting)
        if self._is_moving:
            self._loop.call_later(PACE_SECONDS, self._move)
        for _ in range(min(len(self._waiting), 1 + len(self._waiting) // LONGEST_LINE)):
            self._waiting.popleft()()


class _Protocol(HttpToolsProtocol):
    """A connection whose requests to have a password hashed stand in line before they are read, and others may be
    answered at once."""

    def __init__(self, line: _Line, at_once: AnswerAtOnce, is_secure: bool, *args: Any) -> None:
        super().__init__(*args)
        self._line, self._at_once, self._is_secure = line, at_once, is_secure
        self._held: list[bytes] = []
        self._is_answered = self._is_ending = False
        self._head = 0  # bytes that have come since headers were complete, or a piece of a body
        self._refusal = b""
        self._patience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has come."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """And has gone."""
        super().connection_lost(exc)
        self._go_on()
        self._end_unread()

    def pause_writing(self) -> None:
        """Nobody takes what is written."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Somebody does again."""
        super().resume_writing()
        self._end_unread()

    def _end_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self._refusal:
            return
        if self._held:  # uvloop may have read on when it was told to pause
            self._held.append(data)
        elif _hashes(data):
            self._held = [data]
            self.transport.pause_reading()
            self._line.join(self._enter)
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        self._head += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(memoryview(data))
        except HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._refusal:
            return
        if self._head > LONGEST_HEAD:
            self.send_400_response(_TOO_LONG)
        elif self._patience is None and (self._head or self._is_forgotten()):
            self._wait()

    def _parse(self, data: memoryview) -> None:
        """Whoever would rather go on in another protocol, as Java's own client (`Upgrade: h2c`), goes on in this one.
        By itself the parser would leave such a request's body, and take it for the next request: behind a proxy that
        shares a connection out, one whose answer somebody else gets. Raises HttpParserError."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as wish:
                if self.parser.get_method() == b"CONNECT":
                    raise HttpParserError("no tunnels") from None
                data = data[wish.args[0] :]
                self._begin_anew()

    def _begin_anew(self) -> None:
        """The headers once more, without the wish."""
        version = self.parser.get_http_version().encode()
        start = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        headers = as_lines(header for header in self.headers if header[0] != b"upgrade")
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as the one before
        self.parser.feed_data(start + headers + b"\r\n")

    def _is_forgotten(self) -> bool:
        """No timer runs: what came late of a body, after the answer, has ended uvicorn's wait for the next request."""
        return self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None

    def _wait(self) -> None:
        """For the end of the headers that come next."""
        self._patience = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _go_on(self) -> None:
        self._head = 0
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def on_headers_complete(self) -> None:
        """What is at hand is answered here, and nothing of what an application needs is made."""
        if self.parser.should_upgrade():
            return  # they come once more
        if self._head > LONGEST_HEAD and self._length() > LONGEST_HEAD:  # in one piece, perhaps with a body
            self.send_400_response(_TOO_LONG)
            raise ValueError(_TOO_LONG)  # so that nothing more is read
        self._go_on()
        answer = self._at_once(self.url, self.headers, self.client) if self._may_answer() else None
        if answer is None:
            self._unset_keepalive_if_required()  # set where one that came along was answered here
            super().on_headers_complete()
            self.headers = []  # so that trailers, which no proxy has checked, do not become headers
        else:
            self._is_answered = True
            self.transport.write(self._written(200, *answer))
            super().on_response_complete()

    def _length(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _may_answer(self) -> bool:
        """Not where a reader is slow, or more requests wait: they would be answered within one another."""
        return (
            self.parser.get_method() == b"GET"
            and self.parser.should_keep_alive()
            and self.parser.get_http_version() == "1.1"
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self.pipeline
        )

    def on_body(self, body: bytes) -> None:
        """A part of a request's body."""
        if self.cycle.response_complete:  # a body that trickles in after that keeps no connection
            self._head = 0
        else:
            self._go_on()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        if self.parser.should_upgrade():
            return
        if self._is_answered:
            self._is_answered = False
        else:
            self._go_on()
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What can't be read as HTTP, an unheard-of method too, is refused as everything else is, and after what came
        before it is answered."""
        if self._refusal:
            return
        request_id = os.urandom(16).hex()
        refusal = problem_response(BadRequest(msg), request_id)
        headers = [
            *refusal.raw_headers, *security_headers("", self._is_secure),
            (b"cache-control", b"no-store"), (b"x-request-id", request_id.encode()), (b"connection", b"close"),
        ]  # fmt: skip
        self._refusal = self._written(refusal.status_code, as_lines(headers), bytes(refusal.body))
        if not self._has_earlier():
            self._refuse()

    def _has_earlier(self) -> bool:
        """Whether any request before the one that can't be read is still to be answered."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if not self.cycle.more_body or self.cycle.response_started:
            return True
        # It was the last one's body that can't be read.
        if self.pipeline:
            self.pipeline.popleft()
            return True
        return False

    def on_response_complete(self) -> None:
        """The application has answered."""
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last and self._refusal and not self.transport.is_closing():
            self._refuse()

    def _refuse(self) -> None:
        self.transport.write(self._refusal)
        self.transport.close()

    def _written(self, status: int, headers: bytes, body: bytes) -> bytes:
        own = as_lines(self.server_state.default_headers)
        return b"".join((STATUS_LINE[status], own, headers, b"\r\n", body))

    def shutdown(self) -> None:
        """Whoever stands in line is served first."""
        if self._held:
            self._is_ending = True
        else:
            super().shutdown()

    def _enter(self) -> None:
        data, self._held = b"".join(self._held), []
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._read(data)
            if self._is_ending:
                super().shutdown()


def _hashes(data: bytes) -> bool:
    if not data.startswith(b"POST /"):
        return False
    path = data[5:100].partition(b" ")[0].partition(b"?")[0]
    return hashes("POST", path.decode("latin-1"))
