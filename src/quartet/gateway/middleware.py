"""What every request passes before and after its route. Plain ASGI without a framework, since it runs each time."""

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import orjson
import structlog
from starlette.datastructures import Headers
from starlette.routing import BaseRoute

from quartet import accounts
from quartet.gateway.auth import Authenticator, check_scope
from quartet.gateway.limits import Limiter, hashes, is_for_anyone
from quartet.gateway.metrics import REQUESTS
from quartet.gateway.security import as_lines, security_headers
from quartet.kernel.errors import (
    BadRequest,
    Problem,
    TimedOut,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unexpected,
    UnsupportedMediaType,
    invalid,
)
from quartet.stores import timing
from quartet.stores.reports import REPORT_SECONDS
from quartet.web import logs, trail
from quartet.web.answers import JSON, AtHand, problem_response
from quartet.web.dependencies import Principal, Shop
from quartet.web.limits import Revoked, Taken
from quartet.web.shapes import levels

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
# By path: the route, and a function that answers a GET from memory, given path and query, or returns None.
Offered = Mapping[str, tuple[BaseRoute, Callable[[Shop, str, str], AtHand | None]]]
RawHeaders = Sequence[tuple[bytes, bytes]]

log = structlog.get_logger("quartet.gateway")

BODY_BYTES = 64 * 1024
PRODUCT_BYTES = 1024 * 1024
BODY_DEPTH = 32
# The status that proxies log when the client disconnected before the response; it is never sent.
CLIENT_CLOSED_REQUEST = 499

# Request headers that authenticate the client or announce a body.
_TO_BE_READ = frozenset((b"authorization", b"cookie", b"content-length", b"transfer-encoding"))
_NUL = re.compile("\0")
_SURROGATE = re.compile("[\ud800-\udfff]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Some proxies append the client's port, which differs for each connection.
_WITH_PORT = re.compile(r"(?:\[([^]]*)\]|([^:]*))(?::\d+)?")


class Gateway:
    """ASGI middleware around the whole application."""

    app: App

    def __init__(self, at_hand: Offered) -> None:
        self._at_hand = at_hand
        self._forms: dict[str, bytes] = {}
        self._shop: Shop | None = None
        self._authenticator: Authenticator
        self._limiter: Limiter

    def around(self, app: App) -> "Gateway":
        """Sets the application and returns itself."""
        self.app = app
        return self

    def at_once(self, target: bytes, sent: RawHeaders, peer: tuple[str, int] | None) -> tuple[bytes, bytes] | None:
        """The response to a guest's GET if it is in memory and needs no store call, for the server to write: the header
        lines that follow the status line (200) and the server's own headers, and the body. Else None. A task and ASGI
        messages would double its cost."""
        path, _, query = target.decode("latin-1").partition("?")
        if self._shop is None or path not in self._at_hand:
            return None
        began = time.perf_counter()
        headers = dict(reversed(sent))  # the first, if one is repeated
        if not _TO_BE_READ.isdisjoint(headers):
            return None
        share = self._limiter.at_hand(path, self._address(sent, peer))
        if share is None:
            return None
        route, find = self._at_hand[path]
        found = find(self._shop, path, query)
        if found is None:
            return None
        taken = share.use()
        request_id = _request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        left = (taken.limit, taken.remaining, taken.reset)
        head = self._form(path) % (as_lines(found.headers), len(found.body), request_id.encode(), *left)
        seconds = time.perf_counter() - began
        _note(route, 200, seconds, request_id=request_id, method="GET", path=path, user=None)
        return head, found.body

    def _form(self, path: str) -> bytes:
        """The template of the response headers at this path, built once."""
        form = self._forms.get(path)
        if form is None:
            always = as_lines([*security_headers(path, self.shop.settings.is_secure), (b"cache-control", b"no-store")])
            form = self._forms[path] = (
                b"%b" + f"content-length: %d\r\ncontent-type: {JSON}\r\nx-request-id: %b\r\n".encode()
                + always.replace(b"%", b"%%")
                + b"ratelimit-limit: %d\r\nratelimit-remaining: %d\r\nratelimit-reset: %d\r\n"
            )  # fmt: skip
        return form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        shop = scope["app"].state.shop
        if self._shop is not shop:  # the first request
            self._shop, self._limiter = shop, Limiter(shop.settings, shop.stores.redis)
            self._authenticator = Authenticator(shop, self._limiter)
        await _Request(self, scope).run(receive, send)

    async def admit(self, scope: Scope, headers: Headers) -> Taken | None:
        """Authenticates the client and counts the request against its rate limit. None where no limit applies. Raises
        Unauthenticated, TooManyRequests."""
        address = scope["address"] = self._address(headers.raw, scope.get("client"))
        signs_in = (scope["method"], scope["path"]) == ("POST", "/sessions")
        by_cookie = "cookie" in headers and "authorization" not in headers and not signs_in
        if by_cookie:
            scope["principal"], scope["set_cookies"] = await self._authenticator.visitor(headers, scope["method"])
        else:
            scope["principal"] = await self._authenticator.principal(headers, address)
        taken = await self._limiter.check(scope["method"], scope["path"], scope["principal"], address)
        revoked = taken if isinstance(taken, Revoked) else None
        if isinstance(taken, Taken) and taken.is_local:
            revoked = await self._authenticator.revoked(scope["principal"])
        if revoked is not None:
            if by_cookie:
                scope["principal"], scope["set_cookies"] = await self._authenticator.renew(scope["principal"], revoked)
            else:
                await self._authenticator.refuse_revoked(scope["principal"], revoked)
            if isinstance(taken, Revoked) or scope["principal"] is None:  # else it has been counted
                taken = await self._limiter.check(scope["method"], scope["path"], scope["principal"], address)
        check_scope(scope["principal"], scope["method"], scope["path"])
        return await self.count_guest(scope) if isinstance(taken, Revoked) else taken

    async def count_guest(self, scope: Scope) -> Taken | None:
        """Counts it against the guest's limit, as requests with an invalid or revoked token are: else guessing tokens
        would not be limited."""
        taken = await self._limiter.check(scope["method"], scope["path"], None, scope["address"])
        assert not isinstance(taken, Revoked)
        return taken

    def _address(self, sent: RawHeaders, peer: tuple[str, int] | None) -> str:
        """The client's address as the last trusted proxy saw it, else the peer's. Some proxies append to the client's
        X-Forwarded-For line, others add a line of their own after it."""
        if self.shop.settings.trust_proxy:
            for name, value in reversed(sent):
                if name == b"x-forwarded-for" and value:
                    said = value.decode("latin-1").rsplit(",", 1)[-1].strip()
                    found = _WITH_PORT.fullmatch(said)
                    return (found[1] or found[2]) if found else said
        return str(peer[0]) if peer else ""

    def ready(self, scope: Scope) -> App | None:
        """A response from memory, which needs neither the framework nor its router; None if there is none."""
        offered = self._at_hand.get(scope["path"]) if scope["method"] == "GET" else None
        if offered is None:
            return None
        route, find = offered
        found = find(self.shop, scope["path"], scope["query_string"].decode("latin-1"))
        if found is None:
            return None
        scope["route"] = route
        return found.response()

    @property
    def shop(self) -> Shop:
        """The shop; set by the first request."""
        assert self._shop is not None
        return self._shop


class _Request:
    """The handling of one request."""

    _send: Send
    _limit: asyncio.Timeout

    def __init__(self, gateway: Gateway, scope: Scope) -> None:
        self.gateway, self.scope = gateway, scope
        self.only_head = scope["method"] == "HEAD"
        if self.only_head:  # GET's route answers it; in a copy, since the server reads the method from its own scope
            self.scope = {**scope, "method": "GET"}
        self.is_report: bool = self.scope["method"] == "GET" and self.scope["path"].startswith("/analytics/")
        self.headers = Headers(scope=self.scope)
        self.id = self.scope["request_id"] = _request_id(self.headers.get("x-request-id", ""))
        trail.REQUEST_ID.set(self.id)
        self.taken: Taken | None = None
        self.status = 0
        self.asked = timing.begin() if gateway.shop.settings.server_timing else None

    async def run(self, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        self._send = send
        try:
            async with asyncio.timeout(self._seconds()) as self._limit:
                await self._handle(receive)
        except Problem as problem:
            await self._refuse(problem)
        except TimeoutError:
            await self._refuse(TimedOut())
        except asyncio.CancelledError:  # the process shuts down, and its grace period is over
            await self._refuse(TimedOut())
            raise
        except Exception:
            path = logs.without_token(self.scope["path"])
            log.exception("unexpected", request_id=self.id, method=self.scope["method"], path=path)
            await self._refuse(Unexpected())
        finally:
            principal: Principal | None = self.scope.get("principal")
            _note(
                self.scope.get("route"),
                self.status,
                time.perf_counter() - started,
                request_id=self.id,
                method=self.scope["method"],
                path=self.scope["path"],
                user=str(principal.user_id) if principal else None,
            )

    def _seconds(self) -> float:
        """The request's timeout."""
        return REPORT_SECONDS if self.is_report else self.gateway.shop.settings.request_timeout

    async def _handle(self, receive: Receive) -> None:
        _check_address(self.scope)
        if not hashes(self.scope["method"], self.scope["path"]):
            await self._admit(receive)
            return
        # The body is read first, so that a slow sender does not occupy a place in the queue for password hashing. The
        # place is taken before any store is called: a thousand sign-ins at once would slow down all other requests.
        receive = _replayed(await _read_body(receive, self.headers, self.scope["path"]), receive)
        async with accounts.place(self.gateway.shop):
            await self._admit(receive)

    async def _admit(self, receive: Receive) -> None:
        try:
            self.taken = await self.gateway.admit(self.scope, self.headers)
        except Unauthenticated:
            self.scope["principal"] = None
            self.taken = await self.gateway.count_guest(self.scope)
            welcome = is_for_anyone(self.scope["method"], self.scope["path"])
            if not welcome and (self.taken is None or self.taken.allowed):
                raise
        if self.taken is not None and not self.taken.allowed:
            raise TooManyRequests(retry_after=self.taken.reset)
        if self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers:
            body = await _read_body(receive, self.headers, self.scope["path"])
            if not self.scope["path"].startswith("/webhooks/"):
                _check_json(body, self.headers)
            receive = _replayed(body, receive)
        if self.is_report:
            await self._report(receive)
        else:
            await (self.gateway.ready(self.scope) or self.gateway.app)(self.scope, receive, self._answer)

    async def _report(self, receive: Receive) -> None:
        """Runs a report, which is cancelled when the client disconnects, since others wait for its place. Requests that
        may write are not cancelled: nobody would know how far they got."""
        watch = asyncio.create_task(self._cancel_on_disconnect(receive))
        try:
            await self.gateway.app(self.scope, receive, self._answer)
        finally:
            watch.cancel()

    async def _cancel_on_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self.status == 0 and not self._limit.expired():
            self.status = CLIENT_CLOSED_REQUEST
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*self._headers(message["headers"])]
        elif self.only_head:
            message = {**message, "body": b""}
        await self._send(message)

    def _headers(self, given: RawHeaders) -> Iterator[tuple[bytes, bytes]]:
        """The route's headers, and those of every response."""
        names = {name for name, _ in given}
        # If the route sets cookies itself (sign-in, sign-out), they take precedence.
        cookies = () if b"set-cookie" in names else self.scope.get("set_cookies", ())
        for name, value in given:
            if not (cookies and name == b"cache-control"):  # else a cache could give this session to other clients
                yield name, value
        yield b"x-request-id", self.id.encode()
        yield from security_headers(self.scope["path"], self.gateway.shop.settings.is_secure)
        if cookies or b"cache-control" not in names:
            yield b"cache-control", b"no-store"
        for cookie in cookies:
            yield b"set-cookie", cookie.encode("latin-1")
        if self.asked:
            yield b"server-timing", timing.header(self.asked).encode()
        if self.taken is not None:
            yield b"ratelimit-limit", b"%d" % self.taken.limit
            yield b"ratelimit-remaining", b"%d" % self.taken.remaining
            yield b"ratelimit-reset", b"%d" % self.taken.reset

    async def _refuse(self, problem: Problem) -> None:
        if self.status == 0:
            await problem_response(problem, self.id)(self.scope, _nothing_more, self._answer)


def _request_id(sent: str) -> str:
    return sent if sent and _REQUEST_ID.fullmatch(sent) else os.urandom(16).hex()


def _note(
    route: object, status: int, seconds: float, *, request_id: str, method: str, path: str, user: str | None
) -> None:
    """Records the request in metrics and log; `seconds`: how long it took."""
    REQUESTS.add(method, getattr(route, "path", "(none)"), status, seconds)
    logs.log_request(
        request_id=request_id,
        method=method,
        path=logs.without_token(path),
        status=status,
        ms=round(seconds * 1000, 1),
        user=user,
    )


def _check_address(scope: Scope) -> None:
    """Refuses NUL, which not every store can hold in text, and names the parameter that contains it. Raises
    Invalid."""
    if "\0" in scope["path"] or "\ufffd" in scope["path"]:
        raise invalid("path", "must not contain NUL or bytes that are not UTF-8")
    query = scope["query_string"]
    if b"%00" in query or b"\0" in query:
        part = next(p for p in query.split(b"&") if b"%00" in p or b"\0" in p)
        raise invalid(part.split(b"=")[0].decode("latin-1"), "must not contain NUL")


async def _read_body(receive: Receive, headers: Headers, path: str) -> bytes:
    limit = PRODUCT_BYTES if path.startswith("/products") else BODY_BYTES
    length = headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > limit:
        raise TooLarge(f"at most {limit} bytes")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the connection was closed before the body had arrived")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise TooLarge(f"at most {limit} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


def _check_json(body: bytes, headers: Headers) -> None:
    if not body:
        return
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise UnsupportedMediaType(f"got {media or 'none'}")
    try:
        # Unlike the standard library, orjson rejects NaN, lone surrogates and invalid UTF-8.
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        _name_surrogate(body)
        raise BadRequest(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    if body.count(b"[") + body.count(b"{") > BODY_DEPTH:
        _check_depth(value)
    if b"\\u0000" in body:
        _refuse(value, "body", _NUL, "NUL")


def _name_surrogate(body: bytes) -> None:
    """Raises Invalid naming the field, if a lone surrogate is all that keeps the body from being valid JSON."""
    if b"\\ud" in body.lower():
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return
        _check_depth(value)
        _refuse(value, "body", _SURROGATE, "a lone surrogate")


def _refuse(value: Any, field: str, bad: re.Pattern[str], what: str) -> None:
    """Raises Invalid naming the field that matches `bad`. Recursive: the nesting depth must have been checked."""
    if isinstance(value, str):
        if bad.search(value):
            raise invalid(field, f"must not contain {what}")
    elif isinstance(value, dict | list):
        for name, child in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(name, str) and bad.search(name):
                raise invalid(field, f"must not have a name that contains {what}")
            _refuse(child, str(name) if field == "body" else f"{field}.{name}", bad, what)


def _check_depth(value: Any) -> None:
    for depth, _ in enumerate(levels(value), 1):
        if depth > BODY_DEPTH:
            raise BadRequest(f"the body is nested more than {BODY_DEPTH} deep")


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}
