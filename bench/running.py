"""The whole shop as `quartet up` runs it, on a throwaway data folder, with the pid of each of its processes."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bench.client import Client

START_SECONDS = 300


@dataclass(frozen=True)
class RunningShop:
    """`url` of the API; `pids` by process; `logins` from address to password."""

    url: str
    data: Path
    pids: dict[str, int]
    logins: dict[str, str]

    async def sign_in(self, address: str) -> Client:
        """A client with that login's token."""
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
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        quartet = Path(sys.executable).with_name("quartet")
        limits = {f"QUARTET_LIMIT_{kind}": "100000000" for kind in ("BROWSE", "SEARCH", "WRITE", "AUTH", "PAY")}
        process = await asyncio.create_subprocess_exec(
            quartet, "up", "--port", str(port), "--data", str(data), *arguments,
            env={**os.environ, "QUARTET_DEV_SEARCH": search, "QUARTET_LOG_LEVEL": "warning", **limits},
            start_new_session=True,
        )  # fmt: skip
        try:
            logins = await _ready(process, port, data)
            yield RunningShop(f"http://127.0.0.1:{port}", data, _pids(process.pid), logins)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 60)


async def _ready(process: asyncio.subprocess.Process, port: int, data: Path) -> dict[str, str]:
    async with asyncio.timeout(START_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"`quartet up` ended with {process.returncode}")
            with suppress(OSError, RuntimeError, FileNotFoundError, asyncio.IncompleteReadError):
                await Client(f"http://127.0.0.1:{port}").request("GET", "/health/ready")
                logins: dict[str, str] = json.loads((data / "demo-logins.json").read_text())
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


def _pids(parent: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for child in psutil.Process(parent).children():
        line = " ".join(child.cmdline())
        name = next((name for mark, name in _NAMES.items() if mark in line), None)
        if name:
            found[name] = child.pid
    return found
