"""The API as processes that a test steers.

Argument: the path of the helm's socket. For each line on standard input, {"settings", "variant"} as JSON, a process is
forked, before any loop or connection exists, that serves on the settings' port; its process id is written out. Each
ends when it is killed, or the helm is gone.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from quartet.cli import open_shop
from quartet.gateway import ROOMS, create_app
from quartet.kernel.settings import Settings
from quartet.web import logs
from quartet.web.dependencies import Shop
from races.steering import HEADER, WHO, Line, Variant, steered


def app_of(settings: Settings, variant: Variant, socket: str) -> Any:
    """The whole API over a steered shop."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Shop]:
        line = Line(*await asyncio.open_unix_connection(socket))
        listening = asyncio.create_task(_listen(line))
        async with open_shop(settings) as shop, steered(shop, line.stop, variant) as same:
            yield same
        listening.cancel()

    app = create_app(opened, ROOMS)
    header = HEADER.encode()

    async def named(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            WHO.set(dict(scope["headers"]).get(header, b"").decode())
        await app(scope, receive, send)

    return named


async def _listen(line: Line) -> None:
    await line.listen()
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    logs.configure("critical", as_json=True)
    socket = sys.argv[1]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for them
    for line in sys.stdin:
        told = json.loads(line)
        settings = Settings.model_validate_json(told["settings"])
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            app = app_of(settings, Variant(**told["variant"]), socket)
            uvicorn.run(app, port=settings.port, log_level="critical", lifespan="on", timeout_keep_alive=600)
            return
        print(child, flush=True)


if __name__ == "__main__":
    import importlib

    for room in ROOMS:  # every room once, before the first fork
        importlib.import_module(f"quartet.{room}.api")
    main()
