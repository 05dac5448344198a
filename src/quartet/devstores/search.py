"""A local search engine: a real OpenSearch node where Java and Maven are, else osmem from its wheel.

OpenSearch and Elasticsearch are in no package for Python, but their libraries are in Maven's repository: the pom.xml
of each names them, and a small main class starts a node of them. They are fetched once into a cache that all data
folders share; Maven decides from where, by the machine's own settings.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quartet.devstores.local import HOST, Child, Command, Place, Running, StartError, launch, serve

Report = Callable[[str], None]

OLDEST_JAVA = 17
SETTINGS = {
    "cluster.name": "quartet",
    "node.name": "quartet",
    "discovery.type": "single-node",
    "network.host": HOST,
    "transport.port": "0",
    # The disk is shared with everything else on the machine; `up` warns of a full one itself.
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
class Jvm:
    """The tools that build and run a node, and the major version of the Java among them."""

    java: Path
    javac: Path
    jar: Path
    maven: Path
    major: int


@dataclass(frozen=True, slots=True)
class Node:
    """An engine built from Maven's repository: its name, its main class and its folder under ``java/``.

    `modules` are plugins that it loads only from folders of their own: a version, and by name the class and the jars.
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


def find_java() -> Jvm | None:
    """Java 17 or newer with its compiler, and Maven; None where one of them is missing."""
    java, javac, jar = (_java_tool(name) for name in ("java", "javac", "jar"))
    maven = shutil.which("mvn")
    if not (java and javac and jar and maven):
        return None
    major = _java_major(java)
    return Jvm(java, javac, jar, Path(maven), major) if major >= OLDEST_JAVA else None


def find_osmem() -> Path | None:
    """The engine of the wheel, where the wheel has one for this machine."""
    wheel = importlib.util.find_spec("osmem_server")
    if wheel is None or wheel.origin is None:
        return None
    binary = Path(wheel.origin).parent / "bin" / "osmem-server"
    return binary if binary.exists() else None


async def start(place: Place, engine: str = "auto", report: Report = lambda _: None) -> Running:
    """Start the engine: ``opensearch``, ``elasticsearch``, ``osmem`` or ``auto``; `report` is told what takes long.

    ``auto`` is OpenSearch, and osmem with a note where OpenSearch can't be had.
    """
    if engine == "auto":
        return await _start_best(place, report)
    if engine not in ("osmem", *NODES):
        raise StartError(f"QUARTET_DEV_SEARCH={engine} is not known: say auto, osmem or {' or '.join(NODES)}")
    for other in place.data.glob("search-*"):
        if other.name != f"search-{engine}":
            # Another engine's index missed every change since, and would be taken for fresh when it is back.
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
    # It also watches its parent itself, which helps where the kernel does not.
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
    jvm = find_java()
    if jvm is None:
        raise StartError(f"{node.engine} needs a JDK of Java {OLDEST_JAVA} or newer and Maven: install both")
    built = await _built(jvm, node, report)
    home = place.folder(f"search-{node.folder}")
    # Half the time to start goes into optimising compilation, which a test is over too soon to gain from.
    quick = () if place.durable else ("-XX:TieredStopAtLevel=1",)

    def command(port: int) -> Command:
        return Command([*_java(jvm, built), *quick, *_arguments(node, built, home, port)], cwd=home)

    return await _serve_node(place, node, command)


async def _serve_node(place: Place, node: Node, command: Callable[[int], Command]) -> Running:
    async def yellow(port: int) -> str:
        await _get(port, "/_cluster/health?wait_for_status=yellow&timeout=1s")
        return str((await _get(port))["version"]["number"])

    return await serve(
        place,
        "search",
        node.engine,
        command=command,
        probe=yellow,
        url=lambda port: f"http://{HOST}:{port}",
        patience=180.0,
    )


def _java(jvm: Jvm, built: Path) -> list[str]:
    words = [str(jvm.java), *JVM]
    archive = built / "classes.jsa"
    if archive.exists():  # where it does not fit, Java starts without it
        words.append(f"-XX:SharedArchiveFile={archive}")
    return [*words, "-cp", f"{built}/jars/*"]


def _arguments(node: Node, built: Path, home: Path, port: int) -> list[str]:
    paths = {"path.home": built, "path.data": home / "data", "path.logs": home / "logs", "http.port": port}
    return [node.main, *(f"{key}={value}" for key, value in {**SETTINGS, **paths}.items())]


def cache_folder() -> Path:
    """Where engines are built, once for all data folders."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "quartet"


async def _built(jvm: Jvm, node: Node, report: Report) -> Path:
    """The folder with the engine's jars, fetched and compiled at the first use, by one process at a time."""
    source = Path(__file__).parent / "java" / node.folder
    text = b"".join(file.read_bytes() for file in sorted(source.iterdir()))
    mark = hashlib.sha256(text + f"{jvm.major} {node}".encode()).hexdigest()[:12]
    built = cache_folder() / f"{node.folder}-{mark}"
    try:
        built.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"{built} can't be made ({error.strerror}): set XDG_CACHE_HOME to another folder") from error
    ready = built / "ready"
    with (built / "lock").open("w") as lock:
        if not ready.exists():
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if not ready.exists():
            await _fetch(jvm, node, source, built, report)
            await _compile(jvm, node, source, built)
            _move_modules(node, built)
            report(f"{node.engine}: keeping its loaded classes, so that it starts in half the time")
            await _archive(jvm, node, built)
            ready.touch()
    return built


async def _fetch(jvm: Jvm, node: Node, source: Path, built: Path, report: Report) -> None:
    jars = built / "jars"
    shutil.rmtree(jars, ignore_errors=True)
    words = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]

    def fetched(maven: Child) -> None:
        lines = maven.log.read_text(errors="replace").splitlines()
        count = sum("Downloaded from" in line and ".jar" in line for line in lines)
        report(f"{node.engine}: fetching its libraries by Maven, {count} files")

    ended, maven = await _run(built, "maven", [jvm.maven, "-B", "-f", source / "pom.xml", *words], fetched)
    if ended != 0:
        # Its last lines only say where help is.
        why = next((line for line in maven.said().splitlines() if "ERROR" in line), maven.last_words())
        raise StartError(
            f"Maven could not fetch {node.engine}'s libraries: {why} — see {maven.log}; "
            "check the network, or set QUARTET_DEV_SEARCH=osmem"
        )


async def _compile(jvm: Jvm, node: Node, source: Path, built: Path) -> None:
    """A jar for each source file; jars, since Java keeps no loaded classes for a class path with a folder in it."""
    classes, jars = built / "classes", built / "jars"
    shutil.rmtree(classes, ignore_errors=True)
    files = sorted(source.glob("*.java"))  # noqa: ASYNC240 — a folder of the package
    await _tool(node, built, "javac", [jvm.javac, "-nowarn", "-cp", f"{jars}/*", "-d", classes, *files])
    for file in files:
        made = [made.name for made in classes.glob(f"{file.stem}*.class")]
        words = [word for name in made for word in ("-C", classes, name)]
        await _tool(node, built, "jar", [jvm.jar, "cf", jars / f"{file.stem}.jar", *words])


async def _tool(node: Node, built: Path, name: str, words: Sequence[str | Path]) -> None:
    ended, tool = await _run(built, name, words)
    if ended != 0:
        raise StartError(f"{node.engine} could not be built: {tool.last_words()} — see {tool.log}")


def _move_modules(node: Node, built: Path) -> None:
    """Take the modules' jars off the class path, each into a folder that says what it is."""
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
    """Run the node once so that Java keeps what it loaded (class data sharing)."""
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


async def _run(
    built: Path, name: str, words: Sequence[str | Path], watch: Callable[[Child], None] = lambda _: None
) -> tuple[int, Child]:
    """Run a tool to its end, showing it to `watch` now and then; its status and what it was."""
    place = Place(built)
    place.log(name).unlink(missing_ok=True)
    child = launch(place, name, Command([str(word) for word in words], cwd=built))
    try:
        while True:
            with suppress(TimeoutError):
                return await asyncio.wait_for(child.wait(), 0.5), child
            watch(child)
    finally:
        await child.stop()


async def _get(port: int, path: str = "/") -> dict[str, Any]:
    """A JSON object over plain HTTP/1.0, for a server that has only to show that it is up."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {HOST}:{port}\r\n\r\n".encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 5.0)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise ConnectionError(f"not ready: {head[:40]!r}")
    answer = json.loads(body)
    return answer if isinstance(answer, dict) else {}


def _java_tool(name: str) -> Path | None:
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / name).exists():
        return Path(home) / "bin" / name
    found = shutil.which(name)
    return Path(found) if found else None


def _java_major(java: Path) -> int:
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0
