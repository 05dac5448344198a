"""The minimal cost of an HTTP answer of a given size: the shop's HTTP server with a constant answer.
`python -m bench.bare port bytes` is that server."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from bench.client import Client
from quartet.gateway.server import Server

Message = MutableMapping[str, Any]


def answering(body: bytes) -> Callable[..., Awaitable[None]]:
    """An ASGI application that answers every request with this body."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def application(_: object, __: object, send: Callable[[Message], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


@asynccontextmanager
async def started(port: int, size: int) -> AsyncIterator[tuple[str, int]]:
    """Starts the server; yields its URL and process id."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.bare", str(port), str(size))
    client = Client(f"http://127.0.0.1:{port}")
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    await client.request("GET", "/")
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        await client.close()
        process.terminate()
        await process.wait()


def main(port: int, size: int) -> None:
    """Runs the server until it is stopped."""
    config = uvicorn.Config(answering(b"x" * size), lifespan="off", access_log=False, log_level="warning")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        Server(config).run([listener])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
