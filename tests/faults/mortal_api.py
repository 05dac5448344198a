"""The API, or a part of the worker, as a process that can be killed again and again, and that kills itself at a step.

Arguments: the settings as JSON, and the doom, a file: while it says `<n> <step>`, whoever comes to that step for the
nth time dies of kill -9. For each line on standard input a fresh process is forked, before any loop or connection
exists; its process id is written out. An empty line: it serves on the settings' port. A number: it recovers what is
open, that many seconds later than now, and goes on doing so. `carry` and a number: it does what follows, likewise.
Importing everything anew would cost seconds each time. Ends, with all of them, when standard input does.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import uvicorn

from quartet import checkout, notify, payments
from quartet.cli import open_shop
from quartet.gateway import ROOMS, create_app
from quartet.kernel.clock import SystemClock
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.sync.relay import relay
from quartet.web import logs
from quartet.web.dependencies import Shop


class Doom:
    """Read at every step: it can be spoken while the process lives."""

    def __init__(self, path: Path) -> None:
        self._path, self._said, self._passed = path, "", 0

    async def step(self, name: str) -> None:
        said = self._path.read_text() if self._path.exists() else ""
        if said != self._said:
            self._said, self._passed = said, 0
        nth, _, mortal = said.partition(" ")
        if name == mortal:
            self._passed += 1
            if self._passed == int(nth):
                os.kill(os.getpid(), signal.SIGKILL)


class Later(SystemClock):
    """The machine's clock, so many seconds later."""

    def __init__(self, seconds: float) -> None:
        self._ahead = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._ahead


@asynccontextmanager
async def mortal_shop(settings: Settings, doom: Path) -> AsyncIterator[Shop]:
    async with open_shop(settings) as shop:
        yield replace(shop, step=Doom(doom).step)


async def work(settings: Settings, doom: Path, what: str) -> None:
    job, _, ahead = what.rpartition(" ")
    async with mortal_shop(settings, doom) as shop:
        later = replace(shop, clock=Later(float(ahead)))
        providers = payments.open_providers(shop.settings, shop.stores.pg)
        while True:
            with suppress(StoreUnavailable):
                await (carry(later) if job == "carry" else checkout.recover(later, providers))
            await asyncio.sleep(0.05)


async def carry(shop: Shop) -> None:
    await relay(shop)
    await notify.deliver(shop)


def serve(settings: Settings, doom: Path) -> None:
    app = create_app(lambda: mortal_shop(settings, doom), ROOMS)
    # Longer than any client keeps a connection: else one that is hung up on just as it asks takes it for a death.
    uvicorn.run(app, port=settings.port, log_level="critical", lifespan="on", timeout_keep_alive=600)


def main() -> None:
    settings, doom = Settings.model_validate_json(sys.argv[1]), Path(sys.argv[2])
    logs.configure("warning", as_json=True)
    create_app(lambda: open_shop(settings), ROOMS).openapi()  # imports every room once
    children: set[int] = set()
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if what := line.strip():
                asyncio.run(work(settings, doom, what))
            else:
                serve(settings, doom)
            return
        children.add(child)
        print(child, flush=True)
    for child in children:
        with suppress(ChildProcessError):  # it is over, and its number may be somebody else's by now
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                os.kill(child, signal.SIGKILL)


def reap() -> None:
    """Whoever looks for a dead process is to find none."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


main()
