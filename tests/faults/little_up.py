"""`quartet up` with a shop of two little programs, so that what is tested is the supervision and starts quickly.

Arguments: the data folder, the port, and what is to go wrong.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from quartet import supervise
from quartet.kernel.settings import Settings

API = """
import http.server, os
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["QUARTET_REDIS_URL"].encode())
http.server.HTTPServer((os.environ["QUARTET_HOST"], int(os.environ["QUARTET_PORT"])), Ready).serve_forever()
"""
WORKER = "import threading; threading.Event().wait()"
ENDS = "import sys; sys.exit('no such queue')"


async def prepare(settings: Settings, console: Console) -> Mapping[str, str]:
    console.print("prepared", settings.search_url)
    if "full disk" in sys.argv:
        await asyncio.to_thread(Path("/dev/full").write_text, "a migration")
    return {"shopper@demo.test": "correct-horse"}


def main() -> int:
    if "nearly full disk" in sys.argv:
        supervise.LEAST_FREE_BYTES = 2**62
    settings = Settings(data_dir=Path(sys.argv[1]), port=int(sys.argv[2]))
    programs = {
        "worker": (sys.executable, "-c", ENDS if "failing worker" in sys.argv else WORKER),
        "api": (sys.executable, "-c", ENDS if "failing API" in sys.argv else API),
    }
    return asyncio.run(supervise.up(settings, prepare, Console(width=200), programs))


if __name__ == "__main__":
    sys.exit(main())
