"""The whole shop as run by `quartet up`, on a temporary data folder, with the process id of each of its processes."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from bench.client import Client
from bench.machine import cpu_seconds
from quartet import catalog
from quartet.devstores import free_port
from quartet.kernel.clock import SystemClock
from quartet.kernel.fingerprints import BUCKETS
from quartet.kernel.settings import Settings
from quartet.stores.mongo import Mongo
from quartet.supervise import settings_of_running

START_SECONDS = 300
# CPU seconds per second below which the engine counts as idle; and the longest wait for that.
IDLE_SECONDS = 0.05
COMPILED_SECONDS = 180


@dataclass(frozen=True)
class RunningShop:
    """`url` of the API; `pids` by process name; `logins`: password by address."""

    url: str
    data: Path
    pids: dict[str, int]
    logins: dict[str, str]

    @property
    def settings(self) -> Settings:
        """The running shop's settings: URLs, port, secret."""
        open_ones = Settings(data_dir=self.data)
        return open_ones.model_copy(update=settings_of_running(open_ones))

    def mongo(self) -> Mongo:
        """A client for the catalog's database."""
        url = self.settings.mongodb_url
        assert url
        return Mongo(url, url.rpartition("/")[2])

    async def sign_in(self, address: str) -> Client:
        """An HTTP client with that login's access token."""
        guest = Client(self.url)
        session = await guest.json("POST", "/sessions", {"email": address, "password": self.logins[address]}, want=201)
        await guest.close()
        return Client(self.url, {"Authorization": f"Bearer {session['accessToken']}"})


@asynccontextmanager
async def running_shop(search: str = "auto", *arguments: str) -> AsyncIterator[RunningShop]:
    """Starts `quartet up`, waits until it is ready, and stops it at the end."""
    with TemporaryDirectory(prefix="quartet-bench-", dir=os.environ.get("QUARTET_BENCH_DIR")) as folder:
        data = Path(folder) / "data"
        data.parent.chmod(0o755)  # PostgreSQL runs as another user when we are root
        port = free_port()
        quartet = Path(sys.executable).with_name("quartet")
        free = {"QUARTET_ACCESS_TTL": "86400", "QUARTET_CANARY_SECONDS": "0", "QUARTET_TRUST_PROXY": "true"} | {
            f"QUARTET_LIMIT_{kind}": "100000000" for kind in ("BROWSE", "SEARCH", "WRITE", "AUTH", "PAY")
        }
        process = await asyncio.create_subprocess_exec(
            quartet, "up", "--port", str(port), "--data", str(data), *arguments,
            env={**os.environ, "QUARTET_DEV_SEARCH": search, **free},
            start_new_session=True, stdout=sys.stderr,
        )  # fmt: skip
        try:
            logins = await _ready(process, port, data)
            yield RunningShop(f"http://127.0.0.1:{port}", data, pids_below(process.pid), logins)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 60)


async def published(mongo: Mongo) -> list[dict[str, Any]]:
    """Every published product."""
    now = SystemClock().now()
    held = await catalog.in_buckets(mongo, 0, BUCKETS)
    return [p for p in sorted(held, key=lambda p: p["_id"]) if catalog.is_published(p, now)]


async def renamed(mongo: Mongo, before: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Renames the product under the next version, without checking the stored one; returns it, or None if it is
    gone."""
    after = catalog.with_version(
        {**before, "name": name}, before["version"] + 1, SystemClock().now().replace(microsecond=0)
    )
    return after if await mongo.collection(catalog.PRODUCTS).replace_one({"_id": before["_id"]}, after) else None


async def settled(shop: RunningShop) -> None:
    """Waits until the worker has processed what the first start loaded, since it deletes cache entries and takes CPU
    meanwhile; and until a Java search engine's JIT compiler is idle, which takes a minute or more, at most
    `COMPILED_SECONDS`."""
    staff = await shop.sign_in("staff@demo.test")
    quiet, began = 0, time.monotonic()
    while quiet < 5:
        batches = [pipeline["batches"] for pipeline in (await staff.json("GET", "/sync"))["pipelines"]]
        compiled = cpu_seconds(shop.pids["search"])
        await asyncio.sleep(1)
        after = [pipeline["batches"] for pipeline in (await staff.json("GET", "/sync"))["pipelines"]]
        busy = (
            cpu_seconds(shop.pids["search"]) - compiled > IDLE_SECONDS and time.monotonic() - began < COMPILED_SECONDS
        )
        quiet = quiet + 1 if batches == after and not busy else 0
    await staff.close()


async def _ready(process: asyncio.subprocess.Process, port: int, data: Path) -> dict[str, str]:
    async with asyncio.timeout(START_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"`quartet up` ended with {process.returncode}")
            with suppress(OSError, RuntimeError, FileNotFoundError, asyncio.IncompleteReadError):
                await Client(f"http://127.0.0.1:{port}").request("GET", "/health/ready")
                (data / "up.json").stat()  # written last
                kept = data / "demo-logins.json"  # an empty shop has none
                logins: dict[str, str] = json.loads(kept.read_text()) if kept.exists() else {}
                return logins
            await asyncio.sleep(0.2)


_NAMES = {
    "quartet.cli serve": "api",
    "quartet.cli worker": "worker",
    "postgres": "postgres",
    "valkey": "redis",
    "redis-server": "redis",
    "mongod": "mongodb",
    "nx_27017": "mongodb",
    "nx-27017": "mongodb",
    "java": "search",
    "osmem": "search",
}


def pids_below(parent: int) -> dict[str, int]:
    """The shop's processes among the parent's children, by name."""
    found: dict[str, int] = {}
    for child in psutil.Process(parent).children():
        line = " ".join(child.cmdline())
        name = next((name for mark, name in _NAMES.items() if mark in line), None)
        if name:
            found[name] = child.pid
    return found
