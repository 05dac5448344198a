"""A local search engine: a real OpenSearch node if there are Java and Maven, else osmem from its wheel.

A node of OpenSearch or Elasticsearch is built here from their published libraries (`jvm.build`).
"""

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quartet.devstores.jvm import OLDEST_JAVA, Jvm, Report, build, find_java, need_java
from quartet.devstores.local import HOST, Command, Place, Running, StartError, free_port, serve

SETTINGS = {
    "cluster.name": "quartet",
    "node.name": "quartet",
    "discovery.type": "single-node",
    "network.host": HOST,
    "transport.port": "0",
    # The disk is shared with everything else on the machine; `quartet up` checks for free space itself.
    "cluster.routing.allocation.disk.threshold_enabled": "false",
}
JVM = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "-Dio.netty.noUnsafe=true",
    "-Dorg.apache.logging.log4j.level=WARN",
)


@dataclass(frozen=True, slots=True)
class Node:
    """An engine built from Maven's repository: its name, its main class and its folder under ``java/``.

    `modules` are plugins that it loads only from separate folders: by name, the class and the jars; `version` is the
    engine's, for their descriptors.
    """

    engine: str
    main: str
    folder: str
    version: str = ""
    modules: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)


OPENSEARCH = Node("OpenSearch", "OpenSearchNode", "opensearch")
ELASTICSEARCH = Node(
    "Elasticsearch",
    "ElasticsearchNode",
    "elasticsearch",
    "8.19.21",
    {
        "transport-netty4": (
            "org.elasticsearch.transport.netty4.Netty4Plugin",
            ("netty-*.jar", "transport-netty4-*.jar"),
        ),
        "quartet": ("QuartetModule", ("QuartetModule.jar",)),
    },
)
NODES = {node.folder: node for node in (OPENSEARCH, ELASTICSEARCH)}


def find_osmem() -> Path | None:
    """The wheel's engine, if the wheel has one for this machine."""
    wheel = importlib.util.find_spec("osmem_server")
    if wheel is None or wheel.origin is None:
        return None
    binary = Path(wheel.origin).parent / "bin" / "osmem-server"
    return binary if binary.exists() else None


async def start(place: Place, engine: str = "auto", report: Report = lambda _: None) -> Running:
    """Starts the engine: ``opensearch``, ``elasticsearch``, ``osmem`` or ``auto``; `report` is called during long
    steps.

    ``auto`` is OpenSearch, or osmem with a note if OpenSearch is not available.
    """
    if engine == "auto":
        return await _start_best(place, report)
    if engine not in ("osmem", *NODES):
        raise StartError(f"QUARTET_DEV_SEARCH={engine} is not known: say auto, osmem or {' or '.join(NODES)}")
    for other in place.data.glob("search-*"):
        if other.name != f"search-{engine}":
            # Another engine's index misses all changes from now on, and would be taken for current when used again.
            await asyncio.to_thread(shutil.rmtree, other)
    return await (_start_osmem(place) if engine == "osmem" else _start_node(place, NODES[engine], report))


async def _start_best(place: Place, report: Report) -> Running:
    if find_java() is None:
        why = "for a real OpenSearch install a JDK of Java 17 or newer and Maven"
    else:
        try:
            return await start(place, "opensearch", report)
        except StartError as failure:
            why = f"OpenSearch could not be started: {failure}"
    running = await start(place, "osmem", report)
    server = replace(running.server, note=f"Search runs on osmem, in memory; {why}.")
    return Running(server, running.child)


async def _start_osmem(place: Place) -> Running:
    binary = find_osmem()
    if binary is None:
        raise StartError(
            "no search engine to start: install Java 17 (JDK) and Maven, or osmem-server, or set QUARTET_SEARCH_URL"
        )
    # It can watch its parent itself, for systems whose kernel does not.
    words = [str(binary), "-no-stdin-watch", *(["-parent-pid", str(os.getpid())] if place.die_with_parent else [])]

    async def answering(port: int) -> str:
        await _get(port)
        return importlib.metadata.version("osmem-server")

    return await serve(
        place,
        "search",
        "osmem (in memory)",
        command=lambda port: Command([*words, "-addr", f"{HOST}:{port}"]),
        probe=answering,
        url=lambda port: f"http://{HOST}:{port}",
        keeps_data=False,
    )


async def _start_node(place: Place, node: Node, report: Report) -> Running:
    jvm = need_java(node.engine)
    built = await _built(jvm, node, report)
    home = place.folder(f"search-{node.folder}")
    # For tests without the optimising compiler, which takes half of the start-up time and pays off only later.
    quick = () if place.durable else ("-XX:TieredStopAtLevel=1",)

    def command(port: int) -> Command:
        return Command([*_java(jvm, built), *quick, *_arguments(node, built, home, port)], cwd=home)

    return await _serve_node(place, node, command)


async def start_cluster(place: Place, nodes: int = 3) -> list[Running]:
    """Starts an OpenSearch cluster, 640 MB per node; every node can serve every request."""
    jvm = need_java(OPENSEARCH.engine)
    built = await _built(jvm, OPENSEARCH, lambda _: None)
    names, ports = [f"quartet-{n}" for n in range(nodes)], [free_port() for _ in range(nodes)]
    together = {
        "discovery.type": "zen",
        "discovery.seed_hosts": ",".join(f"{HOST}:{port}" for port in ports),
        "cluster.initial_cluster_manager_nodes": ",".join(names),
    }

    async def start_one(name: str, transport: int) -> Running:
        home = place.folder(name)
        own = {**together, "node.name": name, "transport.port": str(transport)}

        def command(port: int) -> Command:
            return Command([*_java(jvm, built), *_arguments(OPENSEARCH, built, home, port, own)], cwd=home)

        return await _serve_node(place, OPENSEARCH, command, name)

    return list(await asyncio.gather(*map(start_one, names, ports)))


async def _serve_node(place: Place, node: Node, command: Callable[[int], Command], name: str = "search") -> Running:
    async def yellow(port: int) -> str:
        await _get(port, "/_cluster/health?wait_for_status=yellow&timeout=1s")
        return str((await _get(port))["version"]["number"])

    return await serve(
        place,
        name,
        node.engine,
        command=command,
        probe=yellow,
        url=lambda port: f"http://{HOST}:{port}",
        patience=180.0,
    )


def _java(jvm: Jvm, built: Path) -> list[str]:
    words = [str(jvm.java), *JVM]
    archive = built / "classes.jsa"
    if archive.exists():  # if it does not match, Java starts without it
        words.append(f"-XX:SharedArchiveFile={archive}")
    return [*words, "-cp", f"{built}/jars/*"]


def _arguments(node: Node, built: Path, home: Path, port: int, own: Mapping[str, str] | None = None) -> list[str]:
    paths = {"path.home": built, "path.data": home / "data", "path.logs": home / "logs", "http.port": port}
    return [node.main, *(f"{key}={value}" for key, value in {**SETTINGS, **(own or {}), **paths}.items())]


async def _built(jvm: Jvm, node: Node, report: Report) -> Path:
    """The folder with the node's jars, modules and class data archive."""

    async def finish(built: Path) -> None:
        _move_modules(node, built)
        report(f"{node.engine}: keeping its loaded classes, so that it starts in half the time")
        await _archive(jvm, node, built)

    advice = "check the network, or set QUARTET_DEV_SEARCH=osmem"
    return await build(jvm, node.engine, node.folder, report, mark=str(node), finish=finish, advice=advice)


def _move_modules(node: Node, built: Path) -> None:
    """Moves the modules' jars off the class path, each module into a folder with a plugin descriptor."""
    shutil.rmtree(built / "modules", ignore_errors=True)
    for name, (main, patterns) in node.modules.items():
        folder = built / "modules" / name
        folder.mkdir(parents=True)
        for pattern in patterns:
            for jar in (built / "jars").glob(pattern):
                jar.rename(folder / jar.name)
        said = {
            "name": name,
            "description": name,
            "version": node.version,
            "elasticsearch.version": node.version,
            "java.version": str(OLDEST_JAVA),
            "classname": main,
        }
        text = "".join(f"{key}={value}\n" for key, value in said.items())
        (folder / "plugin-descriptor.properties").write_text(text)


async def _archive(jvm: Jvm, node: Node, built: Path) -> None:
    """Runs the node once so that Java writes an archive of the loaded classes (class data sharing)."""
    archive = built / "classes.jsa"
    archive.unlink(missing_ok=True)
    trial = Place(built / "trial")
    words = _java(jvm, built)
    words.insert(1, f"-XX:ArchiveClassesAtExit={archive}")
    home = trial.folder("home")
    running = await _serve_node(
        trial, node, lambda port: Command([*words, *_arguments(node, built, home, port)], cwd=home)
    )
    await running.child.stop(patience=120.0)
    shutil.rmtree(trial.data)


async def _get(port: int, path: str = "/") -> dict[str, Any]:
    """A JSON object over plain HTTP/1.0; enough to see whether a server is up."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {HOST}:{port}\r\n\r\n".encode())
        async with asyncio.timeout(5.0):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise ConnectionError(f"not ready: {head[:40]!r}")
    answer = json.loads(body)
    return answer if isinstance(answer, dict) else {}
