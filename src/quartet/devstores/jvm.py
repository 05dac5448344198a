"""Java servers, of which there is no Python package, built here from a Maven repository.

Each one's pom.xml lists its libraries, and a small main class starts it. The libraries are downloaded once into a cache
shared by all data folders; Maven's own settings on the machine decide from where.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from quartet.devstores.local import Child, Command, Place, StartError, launch

Report = Callable[[str], None]

OLDEST_JAVA = 17


@dataclass(frozen=True, slots=True)
class Jvm:
    """The tools that build and run a server, and Java's major version."""

    java: Path
    javac: Path
    jar: Path
    maven: Path
    major: int


def find_java() -> Jvm | None:
    """Finds Java 17 or newer with its compiler, and Maven; None if one of them is missing."""
    java, javac, jar = (_java_tool(name) for name in ("java", "javac", "jar"))
    maven = shutil.which("mvn")
    if not (java and javac and jar and maven):
        return None
    major = _java_major(java)
    return Jvm(java, javac, jar, Path(maven), major) if major >= OLDEST_JAVA else None


def need_java(engine: str) -> Jvm:
    """The Java tools that the engine needs. Raises StartError if they are missing."""
    jvm = find_java()
    if jvm is None:
        raise StartError(f"{engine} needs a JDK of Java {OLDEST_JAVA} or newer and Maven: install both")
    return jvm


def cache_folder() -> Path:
    """The folder in which engines are built, once for all data folders."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "quartet"


async def build(
    jvm: Jvm,
    engine: str,
    folder: str,
    report: Report,
    *,
    mark: str = "",
    finish: Callable[[Path], Awaitable[None]] | None = None,
    advice: str = "check the network",
) -> Path:
    """The folder with the engine's jars, downloaded and compiled at the first use, by one process at a time.

    `folder` is that of its sources below ``java/``; a change of them or of `mark` causes a new build. `finish` is the
    last build step; `advice` ends the error message for a failed download. Raises StartError.
    """
    source = Path(__file__).parent / "java" / folder
    text = b"".join(file.read_bytes() for file in sorted(source.iterdir()))
    digest = hashlib.sha256(text + f"{jvm.major} {mark}".encode()).hexdigest()[:12]
    built = cache_folder() / f"{folder}-{digest}"
    try:
        built.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"{built} can't be made ({error.strerror}): set XDG_CACHE_HOME to another folder") from error
    ready = built / "ready"
    with (built / "lock").open("w") as lock:
        if not ready.exists():
            await _locked(lock)
        if not ready.exists():
            await _fetch(jvm, engine, source, built, report, advice=advice)
            await _compile(jvm, engine, source, built)
            if finish is not None:
                await finish(built)
            ready.touch()
    return built


async def _locked(file: IO[str]) -> None:
    """Waits for the lock by polling: a thread blocked in flock could not be ended by Ctrl-C."""
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(0.2)


async def _fetch(jvm: Jvm, engine: str, source: Path, built: Path, report: Report, *, advice: str) -> None:
    jars = built / "jars"
    shutil.rmtree(jars, ignore_errors=True)
    words = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]

    def fetched(maven: Child) -> None:
        lines = maven.log.read_text(errors="replace").splitlines()
        count = sum("Downloaded from" in line and ".jar" in line for line in lines)
        report(f"{engine}: fetching its libraries by Maven, {count} files")

    ended, maven = await _run(built, "maven", [jvm.maven, "-B", "-f", source / "pom.xml", *words], fetched)
    if ended != 0:
        # Maven's last lines only point to its help.
        why = next((line for line in maven.output().splitlines() if "ERROR" in line), maven.last_error_line())
        raise StartError(f"Maven could not fetch {engine}'s libraries: {why} — see {maven.log}; {advice}")


async def _compile(jvm: Jvm, engine: str, source: Path, built: Path) -> None:
    """Makes a jar of each source file: class data sharing does not work with folders in the class path."""
    classes, jars = built / "classes", built / "jars"
    shutil.rmtree(classes, ignore_errors=True)
    files = sorted(source.glob("*.java"))  # noqa: ASYNC240 — a folder of the package
    await _tool(engine, built, "javac", [jvm.javac, "-nowarn", "-cp", f"{jars}/*", "-d", classes, *files])
    for file in files:
        made = [made.name for made in classes.glob(f"{file.stem}*.class")]
        words = [word for name in made for word in ("-C", classes, name)]
        await _tool(engine, built, "jar", [jvm.jar, "cf", jars / f"{file.stem}.jar", *words])


async def _tool(engine: str, built: Path, name: str, words: Sequence[str | Path]) -> None:
    ended, tool = await _run(built, name, words)
    if ended != 0:
        raise StartError(f"{engine} could not be built: {tool.last_error_line()} — see {tool.log}")


async def _run(
    built: Path, name: str, words: Sequence[str | Path], watch: Callable[[Child], None] = lambda _: None
) -> tuple[int, Child]:
    """Runs a tool to its end, calling `watch` every half second; returns its exit status and its process."""
    place = Place(built)
    place.log(name).unlink(missing_ok=True)
    child = launch(place, name, Command([str(word) for word in words], cwd=built))
    try:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    return await child.wait(), child
            watch(child)
    finally:
        await child.stop()


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
