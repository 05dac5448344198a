"""A minimal HTTP/1.1 client with keep-alive, so that the load costs little compared with the server."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import orjson


async def by_the_clock(rate: float, times: int | None = None) -> AsyncIterator[tuple[int, float]]:
    """An open-loop schedule: `rate` per second, whether or not earlier calls are done; `times` times, or for ever.
    Yields the number, from 0, and when it was due by `perf_counter`: latencies from then on include queueing."""
    began = time.perf_counter()
    for number in itertools.count() if times is None else range(times):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        yield number, due


async def keep_calling(
    rate: float, most: int, call: Callable[[int, float], Coroutine[Any, Any, object]], times: int | None = None
) -> None:
    """Makes calls in an open loop, each with its number and due time. Skips calls while `most` are in flight, since
    they would only lengthen the queue."""
    running = set[asyncio.Task[object]]()
    async for number, due in by_the_clock(rate, times):
        if len(running) < most:
            task = asyncio.create_task(call(number, due))
            running.add(task)
            task.add_done_callback(running.discard)
    await asyncio.gather(*running)


class Connection:
    """A connection; one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Makes a request; returns status, headers (names in lower case) and body."""
        if self._writer is None or self._reader is None or self._writer.is_closing() or self._reader.at_eof():
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        data = orjson.dumps(body) if body is not None else b""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answered = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        if answered.get("transfer-encoding") == "chunked":
            content = await self._chunks()
        else:
            content = await self._reader.readexactly(int(answered.get("content-length", "0")))
        return int(head[0].split(" ")[1]), answered, content

    async def _chunks(self) -> bytes:
        assert self._reader is not None
        parts = []
        while size := int((await self._reader.readline()).strip(), 16):
            parts.append(await self._reader.readexactly(size))
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return b"".join(parts)

    async def close(self) -> None:
        """Closes the connection."""
        if self._writer is not None:
            self._writer.close()


class Client:
    """A connection pool: each call takes a free one."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._where = (host, int(port))
        self.headers = headers or {}
        self._free: list[Connection] = []

    async def request(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, want: int = 200
    ) -> tuple[dict[str, str], bytes]:
        """Makes a request; returns headers and body. Raises RuntimeError if the status is not the wanted one."""
        connection = self._free.pop() if self._free else Connection(*self._where)
        status, answered, content = await connection.request(method, path, body, {**self.headers, **(headers or {})})
        self._free.append(connection)
        if status != want:
            raise RuntimeError(f"{method} {path}: {status} {content[:300]!r}")
        return answered, content

    async def json(self, method: str, path: str, body: Any = None, *, want: int = 200, **headers: str) -> Any:
        """Makes a request; returns the response's JSON."""
        return orjson.loads((await self.request(method, path, body, headers=headers, want=want))[1] or b"null")

    async def close(self) -> None:
        """Closes all connections."""
        for connection in self._free:
            await connection.close()
