"""Sends one request to an endpoint, and nowhere else: the address is resolved once, checked, and connected to as it was
checked. No redirects, no proxy from the environment, and only the beginning of an answer is read."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpcore

from quartet.hooks.addresses import Refused, Resolve, parse, public_addresses, resolve
from quartet.hooks.model import AttemptResult

CONNECT_SECONDS, READ_SECONDS, WHOLE_SECONDS = 5.0, 10.0, 15.0
# For the body, once the status has been said: it is for the log alone.
BODY_SECONDS = 2.0
READ_BYTES = 16_384
KEPT_CHARACTERS = 1000
_BROKEN = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only. TLS and `Host` use the name, so the server must be the one that was meant."""

    def __init__(self, resolver: Resolve, *, loopback: bool) -> None:
        self._resolve, self._loopback = resolver, loopback
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await public_addresses(host, port, self._resolve, loopback=self._loopback)
        for address in addresses[:-1]:
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._plain.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)


class Sender:
    """Sends requests, each over a connection of its own, so that each address is checked."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, *, loopback: bool) -> None:
        self._pool, self._loopback = pool, loopback

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> AttemptResult:
        """The endpoint's answer within the timeout, or why there is none; its faults are never raised."""
        try:
            async with asyncio.timeout(WHOLE_SECONDS):
                return await self._post(url, headers, body)
        except TimeoutError:
            return AttemptResult(error=f"no answer within {WHOLE_SECONDS:g} s")
        except Refused as refusal:
            return AttemptResult(error=f"refused: {refusal}")
        except (*_BROKEN, OSError) as error:
            return AttemptResult(error=f"{type(error).__name__}: {error}"[:KEPT_CHARACTERS])

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> AttemptResult:
        to = parse(url, loopback=self._loopback)
        timeouts = {"connect": CONNECT_SECONDS, "read": READ_SECONDS, "write": READ_SECONDS, "pool": WHOLE_SECONDS}
        async with self._pool.stream(
            "POST",
            httpcore.URL(scheme=to.raw_scheme, host=to.raw_host, port=to.port, target=to.raw_path),
            headers=[("Host", to.netloc.decode()), ("Content-Length", str(len(body))), *headers.items()],
            content=body,
            extensions={"timeout": timeouts},
        ) as response:
            return AttemptResult(response.status, await _beginning(response))


async def _beginning(response: httpcore.Response) -> str:
    """The first few KB; what comes after is nobody's business. A body that breaks off is an answer all the same."""
    found = bytearray()
    with suppress(TimeoutError, *_BROKEN):
        async with asyncio.timeout(BODY_SECONDS):
            async for part in response.aiter_stream():
                found += part[: READ_BYTES - len(found)]
                if len(found) >= READ_BYTES:
                    break
    text = bytes(found).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)[:KEPT_CHARACTERS]


@asynccontextmanager
async def open_sender(
    *, loopback: bool, at_once: int, resolver: Resolve = resolve, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Sender]:
    """A sender of at most so many concurrent requests."""
    pool = httpcore.AsyncConnectionPool(
        ssl_context=tls,
        max_connections=at_once,
        max_keepalive_connections=0,
        network_backend=_Checked(resolver, loopback=loopback),
    )
    try:
        yield Sender(pool, loopback=loopback)
    finally:
        await pool.aclose()
