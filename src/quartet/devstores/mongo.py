"""A local MongoDB: ``mongod`` if the machine has it, else the emulator ``nx-27017`` (on SQLite) from its wheel.

For proofs there is also mongo-java-server, a second emulator with other faults, as a witness.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from quartet.devstores.jvm import build, need_java
from quartet.devstores.local import HOST, Command, Place, Running, StartError, serve

Document = dict[str, Any]
DATABASE = "quartet"
# With logging reduced: by default the emulator logs several lines per request.
EMULATOR = "import logging; logging.disable(logging.INFO); from nx_27017.nx_27017 import main; main()"
NOT_YET_INITIALISED = 94


def find() -> str | None:
    """What would be started: ``mongod``, ``nx-27017`` or None."""
    if shutil.which("mongod"):
        return "mongod"
    return "nx-27017" if importlib.util.find_spec("nx_27017") else None


async def start(place: Place) -> Running:
    """Starts a one-node replica set (change streams need one), or the emulator."""
    match find():
        case "mongod":
            return await _start_mongod(place)
        case "nx-27017":
            return await _start_emulator(place)
        case _:
            raise StartError("no MongoDB to start: install mongod 7 or 8 or nx-27017, or set QUARTET_MONGODB_URL")


async def _start_mongod(place: Place) -> Running:
    folder = place.folder("mongodb")
    words = ["mongod", "--quiet", "--bind_ip", HOST, "--replSet", "quartet", "--dbpath", str(folder)]

    async def primary(port: int) -> str:
        async with _client(port) as client:
            await _make_primary(client, port)
            return str((await client.admin.command("buildInfo"))["version"])

    return await serve(
        place,
        "mongodb",
        "MongoDB",
        command=lambda port: Command([*words, "--port", str(port)]),
        probe=primary,
        url=lambda port: f"mongodb://{HOST}:{port}/{DATABASE}?directConnection=true",
    )


async def _make_primary(client: AsyncMongoClient[Document], port: int) -> None:
    """Initiates the replica set, or sets the node's new port. Raises while the node is not primary yet, so that the
    probe is repeated."""
    member = {"_id": 0, "host": f"{HOST}:{port}"}
    try:
        config = (await client.admin.command("replSetGetConfig"))["config"]
    except OperationFailure as failure:
        if failure.code != NOT_YET_INITIALISED:
            raise
        await client.admin.command("replSetInitiate", {"_id": "quartet", "members": [member]})
    else:
        if config["members"][0]["host"] != member["host"]:
            config |= {"members": [config["members"][0] | member], "version": config["version"] + 1}
            await client.admin.command("replSetReconfig", config, force=True)
    if not (await client.admin.command("hello"))["isWritablePrimary"]:
        raise ConnectionError("not primary yet")


async def _start_emulator(place: Place) -> Running:
    folder = place.folder("mongodb")
    # A pid file left by a kill would keep it from starting. It is stale, since only one `up` can hold the folder.
    pid_file = folder / "pid"
    pid_file.unlink(missing_ok=True)
    words = [sys.executable, "-P", "-c", EMULATOR, "--host", HOST, "--data-dir", str(folder / "data")]
    words += ["--log-file", os.devnull, "--pid-file", str(pid_file)]
    words += ["--journal-mode", "WAL" if place.durable else "MEMORY"]
    (folder / "data").mkdir(exist_ok=True)

    async def answering(port: int) -> str:
        async with _client(port) as client:
            await client.admin.command("ping")
        return importlib.metadata.version("nx-27017")

    return await serve(
        place,
        "mongodb",
        "nx-27017 (emulator)",
        command=lambda port: Command([*words, "--port", str(port)], cwd=folder),
        probe=answering,
        url=lambda port: f"mongodb://{HOST}:{port}/{DATABASE}",
    )


async def start_witness(place: Place) -> Running:
    """Starts mongo-java-server, in memory; needs a JDK and Maven."""
    jvm = need_java("mongo-java-server")
    built = await build(jvm, "mongo-java-server", "mongo", lambda _: None)
    words = [str(jvm.java), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{built}/jars/*"]

    async def answering(port: int) -> str:
        async with _client(port) as client:
            return str((await client.admin.command("buildInfo"))["version"])

    return await serve(
        place,
        "mongodb",
        "mongo-java-server (in memory)",
        command=lambda port: Command([*words, "MongoWitness", HOST, str(port)]),
        probe=answering,
        url=lambda port: f"mongodb://{HOST}:{port}/{DATABASE}?directConnection=true",
        keeps_data=False,
    )


def _client(port: int) -> AsyncMongoClient[Document]:
    return AsyncMongoClient(HOST, port, directConnection=True, serverSelectionTimeoutMS=1000, timeoutMS=5000)
