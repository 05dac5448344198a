"""The server's door: a crowd that signs in is let in one by one, and whoever shops does not wait for it."""

import asyncio
import json
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quartet.gateway import server as server_module
from quartet.gateway.security import security_headers
from quartet.gateway.server import LONGEST_HEAD, Server

CROWD = 300


class Desk:
    """An application that notes what it was asked, and answers with the body; `takes` so many seconds."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: dict[bytes, bytes] = {}
        self.takes = 0.0
        self.heeds_bodies = True

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", self.heeds_bodies
        self.asked.append(scope["path"])
        self.headers = dict(scope["headers"])
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await asyncio.sleep(self.takes)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def desk() -> Desk:
    return Desk()


def at_once(target: bytes, *_: object) -> tuple[bytes, bytes] | None:
    """What needs no application."""
    return (b"content-length: 2\r\nx-kind: kept\r\n", b"OK") if target.startswith(b"/kept") else None


@pytest.fixture
async def server(desk: Desk) -> AsyncIterator[Server]:
    """One that serves; `server.config.port` is where."""
    config = uvicorn.Config(desk, port=0, log_level="warning", lifespan="off", timeout_graceful_shutdown=5)
    listener = config.bind_socket()
    config.port = listener.getsockname()[1]
    server = Server(config, at_once, is_secure=True)
    serving = asyncio.create_task(server.serve([listener]))
    yield server
    server.should_exit = True
    await serving


@pytest.fixture
def port(server: Server) -> int:
    return server.config.port


Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def come(port: int) -> Line:
    return await asyncio.open_connection("127.0.0.1", port)


def request(method: str, path: str, body: bytes = b"") -> bytes:
    return b"%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
        method.encode(), path.encode(), len(body)) + body  # fmt: skip


async def answer(line: Line) -> bytes:
    head = await line[0].readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    return await line[0].readexactly(length)


async def test_whoever_shops_does_not_wait_for_those_who_sign_in(port: int, desk: Desk) -> None:
    shopper = await come(port)
    crowd = [await come(port) for _ in range(CROWD)]
    for n, line in enumerate(crowd):
        line[1].write(request("POST", "/sessions", b"%d" % n))
    shopper[1].write(request("GET", "/products/MUG"))
    await answer(shopper)
    assert desk.asked.index("/products/MUG") < CROWD / 2
    assert [await answer(line) for line in crowd] == [b"%d" % n for n in range(CROWD)]
    for line in [shopper, *crowd]:
        line[1].close()


async def test_a_sign_in_may_come_in_pieces_and_again(port: int) -> None:
    line, others = await come(port), [await come(port) for _ in range(20)]
    for round_ in range(3):
        for other in others:  # so that there is a line to stand in
            other[1].write(request("POST", "/sessions?x=1", b"other"))
        sent = request("POST", "/password-resets", b"%d" % round_ * 40)
        for start in range(0, len(sent), 30):
            line[1].write(sent[start : start + 30])
            await line[1].drain()
            await asyncio.sleep(0.0005)
        assert await answer(line) == b"%d" % round_ * 40
        assert {await answer(other) for other in others} == {b"other"}
    for each in [line, *others]:
        each[1].close()


async def test_who_leaves_the_line_is_forgotten(port: int, desk: Desk) -> None:
    crowd = [await come(port) for _ in range(50)]
    for line in crowd:
        line[1].write(request("POST", "/users"))
    for line in crowd[1::2]:
        line[1].transport.abort()
    assert [await answer(line) for line in crowd[::2]] == [b""] * 25
    assert 25 <= desk.asked.count("/users") <= 50
    for line in crowd[::2]:
        line[1].close()


async def test_a_process_out_of_file_descriptors_lets_people_in_once_there_are_some(port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    early, late = await come(port), socket.socket()
    late.setblocking(False)
    loop, faults = asyncio.get_running_loop(), []
    usual = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, told: faults.append(told))
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        await loop.sock_connect(late, ("127.0.0.1", port))
        early[1].write(request("GET", "/products/MUG", b"early"))
        assert await answer(early) == b"early"
        await asyncio.sleep(0.3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        loop.set_exception_handler(usual)
    line = await asyncio.open_connection(sock=late)
    line[1].write(request("GET", "/products/MUG", b"late"))
    assert await answer(line) == b"late"
    # The loop is all tests', and what else is told may be of one before.
    assert not [told for told in faults if "accept" in str(told) or "Too many open files" in str(told)]
    for each in (early, line):
        each[1].close()


async def test_what_is_answered_goes_out_at_once(server: Server, port: int) -> None:
    """And not when the client has acknowledged what went before: on asyncio's own loop, too, as here."""
    line = await come(port)
    line[1].write(request("POST", "/orders", b"x"))
    assert await answer(line) == b"x"
    [protocol] = server.server_state.connections
    accepted = protocol.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    line[1].close()


async def test_what_is_at_hand_is_answered_without_the_application(port: int, desk: Desk) -> None:
    line = await come(port)
    line[1].write(b"GET /kept?q=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    head = (await line[0].readuntil(b"\r\n\r\n")).split(b"\r\n")
    assert head[0] == b"HTTP/1.1 200 OK"
    assert {b"content-length: 2", b"x-kind: kept"} <= set(head)
    assert any(one.startswith(b"date: ") for one in head)
    assert await line[0].readexactly(2) == b"OK"
    line[1].write(request("GET", "/other", b"asked"))
    assert await answer(line) == b"asked"
    assert desk.asked == ["/other"]
    line[1].close()


async def test_pipelined_requests_are_answered_in_their_order_however_many(port: int, desk: Desk) -> None:
    line, sent, expected = await come(port), b"", []
    for n in range(2000):
        kept = n % 7 != 0
        body = b"" if kept else b"%d" % n
        sent += b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n" if kept else request("GET", "/asked", body)
        expected.append(b"OK" if kept else body)
    line[1].write(sent)
    # Those that wait their turn are asked of the application, whatever is at hand.
    assert [await answer(line) or b"OK" for _ in expected] == expected
    line[1].close()


@pytest.mark.parametrize(
    "sent",
    [
        b"BREW /pot HTTP/1.1\r\n",
        b"GET /\xff HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n",
        b"CONNECT shop:80 HTTP/1.1\r\n",
    ],
)
async def test_what_is_no_http_is_refused_as_all_else_is(port: int, desk: Desk, sent: bytes) -> None:
    line = await come(port)
    line[1].write(sent + b"Host: x\r\n\r\n")
    head, _, body = (await line[0].read()).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(each.split(": ", 1) for each in lines)
    assert (status, headers["content-type"]) == ("HTTP/1.1 400 Bad Request", "application/problem+json")
    assert int(headers["content-length"]) == len(body)
    problem = json.loads(body)
    assert (problem["type"], problem["status"]) == ("/problems/bad-request", 400)
    assert problem["instance"] == headers["x-request-id"]
    assert (headers["connection"], headers["cache-control"], desk.asked) == ("close", "no-store", [])
    for name, value in security_headers("", is_secure=True):
        assert headers[name.decode()] == value.decode()
    line[1].close()


@pytest.mark.parametrize("wish", [b"h2c", b"websocket", b"anything"])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_who_would_rather_speak_another_protocol_has_the_body_read_all_the_same(
    server: Server, desk: Desk, wish: bytes, is_chunked: bool
) -> None:
    """Else it would be the next request: of somebody else, where a proxy shares the connection out."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    length = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(hidden)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden) if is_chunked else hidden
    head = b"POST /orders?a=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %b\r\n%b\r\n\r\n" % (wish, length)
    bare = b"GET /bare HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % wish
    sent = (head + body) * 2 + bare + request("GET", "/next", b"next")
    protocol = server._protocol()
    assert isinstance(protocol, HttpToolsProtocol)
    met = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    line = await come(met.sockets[0].getsockname()[1])
    while not hasattr(protocol.transport, "write"):  # noqa: ASYNC110 — until it is let in
        await asyncio.sleep(0)
    for cut in (len(sent), len(head), len(head) - 9, len(head + body) + 5, 1):
        for start in range(0, len(sent), cut):
            protocol.data_received(sent[start : start + cut])
        assert [await answer(line) for _ in range(4)] == [hidden, hidden, b"", b"next"]
    assert desk.asked == ["/orders", "/orders", "/bare", "/next"] * 5
    line[1].close()
    met.close()


async def test_what_came_before_what_is_no_http_is_answered_first(port: int, desk: Desk) -> None:
    asked, broken = (
        request("POST", "/orders", b"mine"),
        b"POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno",
    )
    for sent, answers in (
        (asked + b"BREW /pot\r\n", 1), (asked * 3 + b"\0", 3), (asked * 2 + broken, 2), (broken, 0),
    ):  # fmt: skip
        line = await come(port)
        line[1].write(sent)
        assert [await answer(line) for _ in range(answers)] == [b"mine"] * answers
        assert (await line[0].read()).startswith(b"HTTP/1.1 400")
        line[1].close()
    # One whose body can't be read comes to the application only where nothing is to be answered before it.
    assert desk.asked == ["/orders"] * 7


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"GET /other?q=", b"q" * 100),
        (b"GET /other HTTP/1.1\r\n", b"A: b\r\n"),
        (b"POST /other HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"A: b\r\n"),
    ],
)
async def test_headers_without_end_are_refused(server: Server, first: bytes, more: bytes) -> None:
    """Each costs memory: else one client could have all of it."""
    line = await come(server.config.port)
    line[1].write(first)
    while not any(getattr(each, "headers", None) is not None for each in server.server_state.connections):  # noqa: ASYNC110 — until heard
        await asyncio.sleep(0)
    for _ in range(LONGEST_HEAD // 1000 + 1):
        line[1].write(more * (1000 // len(more) + 1))
    async with asyncio.timeout(30):
        assert (await line[0].read()).startswith(b"HTTP/1.1 400")
    line[1].close()


@pytest.mark.parametrize("body", [b"", b"x" * LONGEST_HEAD])
async def test_headers_that_come_in_one_piece_may_not_be_longer_either(server: Server, desk: Desk, body: bytes) -> None:
    """A transport hands over what has come, and that may be far more."""
    protocol = server._protocol()
    assert isinstance(protocol, HttpToolsProtocol)
    met = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    line = await come(met.sockets[0].getsockname()[1])
    line[1].write(b"GET / HTTP/1.1\r\n\r\n")
    assert await answer(line) == b""
    long = b"X: %b\r\n" % (b"x" * (LONGEST_HEAD // 2)) * 2
    protocol.data_received(b"PUT /long HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (long, len(body), body))
    heard = await line[0].read()
    assert heard.startswith(b"HTTP/1.1 400")
    assert b"more than 65536 bytes" in heard
    assert (heard.count(b"HTTP/1.1"), desk.asked) == (1, ["/"])
    line[1].close()
    met.close()


async def test_a_body_may_be_longer_than_headers(port: int) -> None:
    line, body = await come(port), b"x" * 3 * LONGEST_HEAD
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:1], body[1:]))
    line[1].write(b"POST /products HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert await answer(line) == body
    for _ in range(2):
        line[1].write(request("POST", "/products", body))
        assert await answer(line) == body
    line[1].close()


async def test_what_follows_the_body_is_no_header(port: int, desk: Desk) -> None:
    """A proxy sets X-Forwarded-For among the headers, and may let through what comes after the body."""
    line = await come(port)
    head = b"POST /orders HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    line[1].write(head + b"1\r\nx\r\n0\r\nX-Forwarded-For: 198.51.100.7\r\nAuthorization: Bearer x\r\n\r\n")
    assert await answer(line) == b"x"
    assert desk.headers == {b"x-forwarded-for": b"192.0.2.1", b"transfer-encoding": b"chunked"}
    line[1].close()


async def test_who_stands_in_line_when_the_server_ends_is_served(server: Server, desk: Desk) -> None:
    crowd = [await come(server.config.port) for _ in range(CROWD)]
    for n, line in enumerate(crowd):
        line[1].write(request("POST", "/sessions", b"%d" % n))
    while len(server._queue._waiting) + len(desk.asked) < CROWD:  # noqa: ASYNC110 — until all have been heard
        await asyncio.sleep(0)
    server.should_exit = True
    assert [await answer(line) for line in crowd] == [b"%d" % n for n in range(CROWD)]
    assert [await line[0].read() for line in crowd] == [b""] * CROWD
    for line in crowd:
        line[1].close()


async def test_only_a_get_is_answered_without_the_application(port: int, desk: Desk) -> None:
    line = await come(port)
    for method in ("POST", "GET", "PUT", "GET"):
        line[1].write(b"%s /kept HTTP/1.1\r\nHost: x\r\n\r\n" % method.encode())
        assert await answer(line) == (b"OK" if method == "GET" else b"")
    assert desk.asked == ["/kept"] * 2
    line[1].close()


async def test_who_was_answered_at_once_and_comes_no_more_has_the_connection_closed(server: Server) -> None:
    server.config.timeout_keep_alive = 0.05  # type: ignore[assignment]
    line = await come(server.config.port)
    line[1].write(b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await answer(line) == b"OK"
    assert await line[0].read() == b""
    assert server.server_state.total_requests == 1
    line[1].close()


async def test_who_was_answered_at_once_and_asked_more_is_waited_for(server: Server, desk: Desk) -> None:
    server.config.timeout_keep_alive = 0.01  # type: ignore[assignment]
    desk.takes = 0.1
    line = await come(server.config.port)
    line[1].write(b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n" + request("GET", "/other", b"asked"))
    assert [await answer(line) for _ in range(2)] == [b"OK", b"asked"]
    assert await line[0].read() == b""
    line[1].close()


@pytest.mark.parametrize("first", [b"", b"GET /other HTTP/1.1\r\nHost: x\r\n"])
async def test_who_does_not_say_what_he_wants_is_not_waited_for(
    port: int, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where something is said again and again: some hundreds of such would keep everybody else out."""
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.1)
    line = await come(port)
    line[1].write(first)
    reading = asyncio.ensure_future(line[0].read())
    async with asyncio.timeout(30):
        while not reading.done():
            if first:
                line[1].write(b"A: b\r\n")
            await asyncio.wait([reading], timeout=0.01)
    assert isinstance(reading.exception(), ConnectionResetError) or reading.result() == b""
    line[1].close()


@pytest.mark.parametrize("rest", [b"y", b"y" * 10])
async def test_a_body_after_its_answer_keeps_no_connection(
    port: int, monkeypatch: pytest.MonkeyPatch, rest: bytes, desk: Desk
) -> None:
    """Whether it ends, or trickles in for ever."""
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.3)
    desk.heeds_bodies = False
    line = await come(port)
    line[1].write(b"POST /products HTTP/1.1\r\nContent-Length: 10\r\n\r\n")
    assert await answer(line) == b""
    reading = asyncio.ensure_future(line[0].read())
    async with asyncio.timeout(30):
        for n in range(len(rest)):
            line[1].write(rest[n : n + 1])
            await asyncio.wait([reading], timeout=0.01)
        await asyncio.wait([reading])
    assert isinstance(reading.exception(), ConnectionResetError) or reading.result() == b""
    line[1].close()


async def test_who_does_not_read_is_not_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch, desk: Desk, server: Server
) -> None:
    monkeypatch.setattr(server_module, "UNREAD_SECONDS", 0.1)
    line, body = await come(port), b"x" * 900_000
    sending = asyncio.ensure_future(_send(line, request("POST", "/products", body) * 30))
    async with asyncio.timeout(30):
        while not server.server_state.connections:  # noqa: ASYNC110 — until it has come
            await asyncio.sleep(0.01)
        while server.server_state.connections:  # noqa: ASYNC110 — until it was sent away
            await asyncio.sleep(0.01)
    await sending
    assert len(desk.asked) < 30


async def _send(line: Line, data: bytes) -> None:
    with suppress(ConnectionError):
        line[1].write(data)
        await line[1].drain()
    line[1].close()


@pytest.mark.parametrize("first", [b"GET /kept HTTP/1.0\r\n", b"GET /kept HTTP/1.1\r\nConnection: close\r\n"])
async def test_who_wants_the_connection_closed_has_it_closed(port: int, first: bytes) -> None:
    line = await come(port)
    line[1].write(first + b"Host: x\r\n\r\n")
    assert (await line[0].read()).startswith(b"HTTP/1.1 200")
    line[1].close()
