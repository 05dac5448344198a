"""Workers that stand still, as a stopped process does, in the transaction in which the relay writes down what it did.

Argument: the settings as JSON. For each line on standard input, the number of one of that transaction's statements and
the seconds from its beginning, a process is forked that is stopped there, once; for any other line one that is not. The
signal that ended it is written out. What stands still is waited for less long than outside of tests.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from quartet import sync
from quartet.kernel.settings import Settings
from quartet.stores import open_stores, postgres
from quartet.stores.mail import mailer
from quartet.stores.postgres import Postgres, Tx
from quartet.sync import worker
from quartet.web import logs
from quartet.web.dependencies import Shop

PATIENCE = 60
STILL_SECONDS = 3

writes_down = ContextVar("writes_down", default=False)


class DrowsyTx(Tx):
    """Sends the process to sleep at one of its statements."""

    def __init__(self, tx: Tx, left: list[tuple[int, float]]) -> None:
        super().__init__(tx._connection)
        self._left, self._begun = left, 0

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        self._begin()
        return await super().fetch(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        self._begin()
        return await super().execute(sql, *args)

    def _begin(self) -> None:
        self._begun += 1
        if self._left and self._left[0][0] == self._begun:
            threading.Timer(self._left.pop()[1], os.kill, (os.getpid(), signal.SIGSTOP)).start()


class DrowsyPostgres(Postgres):
    """Lends such transactions to the relay."""

    def __init__(self, url: str, left: list[tuple[int, float]]) -> None:
        super().__init__(url)
        self._left = left

    @asynccontextmanager
    async def tx(self, seconds: float | None = None) -> AsyncIterator[Tx]:
        async with super().tx(seconds) as tx:
            yield DrowsyTx(tx, self._left) if writes_down.get() else tx


async def work(settings: Settings, left: list[tuple[int, float]]) -> None:
    async def step(name: str) -> None:
        if name in ("delivered", "forgotten"):
            writes_down.set(name == "delivered")

    async with open_stores(settings) as stores:
        pg = DrowsyPostgres(settings.postgres_url or "", left)
        mail = mailer(settings.mail_url, settings.mail_from)
        shop = Shop(settings, replace(stores, pg=pg), mail=mail, step=step)
        await sync.run_worker(shop, asyncio.Event())


def main() -> None:
    settings = Settings.model_validate_json(sys.argv[1])
    logs.configure("warning", as_json=True)  # standard output is ours
    postgres.IDLE_TRANSACTION_SECONDS = postgres.SILENT_SECONDS = STILL_SECONDS
    worker.STALLED_SECONDS = 0.5
    for line in sys.stdin:
        statement, _, seconds = line.strip().partition(" ")
        child = os.fork()
        if child == 0:
            asyncio.run(work(settings, [(int(statement), float(seconds))] if seconds else []))
        signal.signal(signal.SIGALRM, lambda *_, child=child: os.kill(child, signal.SIGKILL))
        signal.alarm(PATIENCE)  # no other signal ends one that stands still
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
        print(os.WTERMSIG(status), flush=True)


main()
