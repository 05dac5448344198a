"""Workers that kill themselves, as kill -9 does, when they come to a step.

Argument: the settings as JSON. For each step on standard input a fresh process is forked, before any loop or connection
exists, and the signal that ended it is written out: importing everything anew would cost seconds each.
"""

import asyncio
import os
import signal
import sys

from quartet import sync
from quartet.kernel.settings import Settings
from quartet.stores import open_stores
from quartet.stores.mail import mailer
from quartet.web import logs
from quartet.web.dependencies import Shop

PATIENCE = 40


async def work(settings: Settings, mortal: str) -> None:
    async def step(name: str) -> None:
        if name == mortal:
            os.kill(os.getpid(), signal.SIGKILL)

    async with open_stores(settings) as stores:
        mail = mailer(settings.mail_url, settings.mail_from)
        await sync.run_worker(Shop(settings, stores, mail=mail, step=step), asyncio.Event())


def main() -> None:
    settings = Settings.model_validate_json(sys.argv[1])
    logs.configure("warning", as_json=True)  # standard output is ours
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE)  # a worker that never comes to its step ends by another signal
            asyncio.run(work(settings, line.strip()))
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status), flush=True)


main()
