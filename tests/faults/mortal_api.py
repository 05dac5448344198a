"""The API as a process that can be killed again and again.

Argument: the settings as JSON. For each line on standard input a fresh process is forked, before any loop or connection
exists, that serves on the settings' port; its process id is written out. Importing everything anew would cost seconds
each time. Ends, with the last of them, when standard input does.
"""

import os
import signal
import sys

import uvicorn

from quartet.cli import open_shop
from quartet.gateway import ROOMS, create_app
from quartet.kernel.settings import Settings
from quartet.web import logs


def main() -> None:
    settings = Settings.model_validate_json(sys.argv[1])
    logs.configure("warning", as_json=True)
    create_app(lambda: open_shop(settings), ROOMS).openapi()  # imports every room once
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for them
    child = 0
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            uvicorn.run(
                create_app(lambda: open_shop(settings), ROOMS), port=settings.port, log_level="critical", lifespan="on"
            )
            return
        print(child, flush=True)
    if child:
        os.kill(child, signal.SIGKILL)


main()
