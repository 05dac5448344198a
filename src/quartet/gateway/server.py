"""uvicorn with its own accept loop: pending connections are accepted one at a time, so that requests in progress do
not wait for all of them. By default an event loop accepts, and then reads, every pending connection before it does
anything else: 20 to 90 ms for a thousand of them."""

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

# Between two sign-ins that are read from the queue: reading one and rejecting it costs about 0.2 ms.
PACE_SECONDS = 0.001
REST_SECONDS = 0.1
# Above this length the queue is emptied faster the longer it is, so that nobody waits much longer than a second.
LONG_QUEUE = 1000
# Nothing else limits the size of a request's headers in bytes, or how long they may take to arrive.
LONGEST_HEAD = 64 * 1024
HEAD_SECONDS = 30.0
# Nor how long a client may leave a response unread.
UNREAD_SECONDS = 30.0
_TOO_LONG = f"headers must not have more than {LONGEST_HEAD} bytes"


# Takes a GET's URL, headers and peer address. Returns a 200 response that needs no asyncio task, as header lines (sent
# after the server's own) and body; None if there is none, or the request has a body.
AnswerAtOnce = Callable[[bytes, list[tuple[bytes, bytes]], tuple[str, int] | None], tuple[bytes, bytes] | None]


class Server(uvicorn.Server):
    """Accepts one connection per event loop iteration; the others wait in the kernel's listen backlog."""

    def __init__(
        self,
        config: uvicorn.Config,
        at_once: AnswerAtOnce = lambda *_: None,
        listening: Callable[[], None] = lambda: None,
        *,
        is_secure: bool = False,
    ) -> None:
        """`at_once` is called before the application is; `listening` is called once connections are accepted;
        `is_secure`: the shop is served over HTTPS only."""
        super().__init__(config)
        self._at_once, self._listening, self._is_secure = at_once, listening, is_secure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, except that this class accepts the connections."""
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()
        self._queue = _Queue(loop)
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
        except OSError:  # out of file descriptors: retry later rather than at every iteration
            loop.remove_reader(listener)
            loop.call_later(REST_SECONDS, self._listen, loop, listener)
            return
        task = loop.create_task(self._open_connection(loop, connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _open_connection(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        with suppress(OSError):  # the client has disconnected already
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                # asyncio sets this only if the listening socket was created with an explicit protocol number, and
                # uvicorn's is not. Without it a body sent after its headers waits 40 ms for their ACK.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        own = (self._queue, self._at_once, self._is_secure)
        return _Protocol(*own, self.config, self.server_state, self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts no more connections; requests on open ones are still answered."""
        for listener in sockets or []:
            asyncio.get_running_loop().remove_reader(listener)
        await super().shutdown(sockets)


class _Queue:
    """A queue that calls one entry per millisecond, or at once if it has been idle for that long."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_running = False

    def enqueue(self, enter: Callable[[], None]) -> None:
        """Calls `enter` now if the queue is idle, else when its turn comes."""
        if self._is_running:
            self._waiting.append(enter)
        else:
            self._is_running = True
            self._loop.call_later(PACE_SECONDS, self._run_next)
            enter()

    def _run_next(self) -> None:
        self._is_running = bool(self._waiting)
        if self._is_running:
            self._loop.call_later(PACE_SECONDS, self._run_next)
        for _ in range(min(len(self._waiting), 1 + len(self._waiting) // LONG_QUEUE)):
            self._waiting.popleft()()


class _Protocol(HttpToolsProtocol):
    """A connection. Requests that need a password hash wait in a queue before they are parsed; others may be answered
    without calling the application."""

    def __init__(self, queue: _Queue, at_once: AnswerAtOnce, is_secure: bool, *args: Any) -> None:
        super().__init__(*args)
        self._queue, self._at_once, self._is_secure = queue, at_once, is_secure
        self._held: list[bytes] = []
        self._is_answered = self._is_ending = False
        self._head = 0  # bytes received since the last complete headers or piece of a body
        self._refusal = b""
        self._head_timeout: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the timeout for the first request's headers."""
        super().connection_made(transport)
        self._start_head_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timers."""
        super().connection_lost(exc)
        self._cancel_head_timeout()
        self._end_unread()

    def pause_writing(self) -> None:
        """The client does not read: starts the timeout after which the connection is aborted."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again: cancels that timeout."""
        super().resume_writing()
        self._end_unread()

    def _end_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        """Parses the bytes, or holds them back while a request of this connection waits in the queue."""
        if self._refusal:
            return
        if self._held:  # uvloop may deliver data it had already read when reading was paused
            self._held.append(data)
        elif _hashes(data):
            self._held = [data]
            self.transport.pause_reading()
            self._queue.enqueue(self._enter)
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
        elif self._head_timeout is None and (self._head or self._is_forgotten()):
            self._start_head_timeout()

    def _parse(self, data: memoryview) -> None:
        """Parses, and ignores requests to switch protocols, such as `Upgrade: h2c` from Java's HTTP client. By default
        the parser would stop before such a request's body, and read the body as the next request: request smuggling,
        whose response goes to another client if a proxy shares the connection. Raises HttpParserError."""
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
        """Parses the headers again in a new parser, without the `Upgrade` header."""
        version = self.parser.get_http_version().encode()
        start = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        headers = as_lines(header for header in self.headers if header[0] != b"upgrade")
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        self.parser.feed_data(start + headers + b"\r\n")

    def _is_forgotten(self) -> bool:
        """Whether no timeout is running: a piece of a body that came after the response has cancelled uvicorn's
        keep-alive timer."""
        return self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None

    def _start_head_timeout(self) -> None:
        """Starts the timeout for the next request's headers to be complete."""
        self._head_timeout = self.loop.call_later(HEAD_SECONDS, self._on_head_timeout)

    def _cancel_head_timeout(self) -> None:
        self._head = 0
        if self._head_timeout is not None:
            self._head_timeout.cancel()
            self._head_timeout = None

    def _on_head_timeout(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Answers here if `at_once` has a response, which saves creating what an ASGI application needs."""
        if self.parser.should_upgrade():
            return  # `_begin_anew` parses them again
        if self._head > LONGEST_HEAD and self._length() > LONGEST_HEAD:  # they may have come in one piece with a body
            self.send_400_response(_TOO_LONG)
            raise ValueError(_TOO_LONG)  # so that the parser stops
        self._cancel_head_timeout()
        answer = self._at_once(self.url, self.headers, self.client) if self._may_answer() else None
        if answer is None:
            self._unset_keepalive_if_required()  # set if a request in the same data was answered here
            super().on_headers_complete()
            self.headers = []  # else trailers, which no proxy has checked, would be appended to the headers
        else:
            self._is_answered = True
            self.transport.write(self._written(200, *answer))
            super().on_response_complete()

    def _length(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _may_answer(self) -> bool:
        """Not while the client reads slowly or an earlier pipelined request is unanswered: their responses would be
        mixed."""
        return (
            self.parser.get_method() == b"GET"
            and self.parser.should_keep_alive()
            and self.parser.get_http_version() == "1.1"
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self.pipeline
        )

    def on_body(self, body: bytes) -> None:
        """Resets the limits of the headers, since the bytes belong to a body."""
        if self.cycle.response_complete:  # a body that trickles in after the response must not keep the connection open
            self._head = 0
        else:
            self._cancel_head_timeout()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends the request, unless it was answered here or is to be parsed again."""
        if self.parser.should_upgrade():
            return
        if self._is_answered:
            self._is_answered = False
        else:
            self._cancel_head_timeout()
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not valid HTTP, or has an unknown method, with problem+json like every other error, once the
        requests before it are answered."""
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
        """Whether any request before the invalid one is still unanswered."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if not self.cycle.more_body or self.cycle.response_started:
            return True
        # The invalid bytes are in the body of the last request, which therefore gets no response of its own.
        if self.pipeline:
            self.pipeline.popleft()
            return True
        return False

    def on_response_complete(self) -> None:
        """Sends the refusal of an invalid request once the last one before it is answered."""
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
        """Closes the connection; if a request waits in the queue, only after it."""
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
