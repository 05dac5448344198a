"""What the local servers share: processes with port, log file and record file, and clearing up after an unclean stop.

A data folder holds ``NAME/`` (a server's files), ``logs/NAME.log``, ``run/NAME.json`` (which process serves it, and
on which port) and ``lock`` (held by the one ``quartet up`` that uses the folder).
"""

import asyncio
import ctypes
import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import psutil

HOST = "127.0.0.1"
# Below the ephemeral ports of Linux, macOS and Windows.
PORTS = range(10_000, 32_768)
# Drawn by this process before. Nobody may listen on them yet, so they look free.
_USED_PORTS: set[int] = set()
LOG_LIMIT = 8 * 1024 * 1024
ERROR_LINE = re.compile(r"FATAL|PANIC|ERROR|Error\b|Exception\b")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class StartError(RuntimeError):
    """A local server or process could not be started. The message is one line and says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of local servers and how they run.

    ``durable=False`` is for tests: nothing is flushed to disk. ``die_with_parent=False`` leaves children running when
    this process is killed, as is always the case on systems other than Linux. ``shelter`` is used for files that an
    unprivileged account could not reach below `data`.
    """

    data: Path
    durable: bool = True
    die_with_parent: bool = True
    shelter: Path = Path("/var/lib/quartet")

    def log(self, name: str) -> Path:
        return self.data / "logs" / f"{name}.log"

    def record(self, name: str) -> Path:
        return self.data / "run" / f"{name}.json"

    def folder(self, name: str) -> Path:
        path = self.data / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path


@dataclass(frozen=True, slots=True)
class Account:
    """A system user for a server that refuses to run as root, if we are root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a process: ``argv``, additional environment, account, and the signal for a clean stop."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A store that was started here: what it is, where it listens and how long it took to answer.

    `note` is a sentence for the user, if a better engine is available.
    """

    name: str
    engine: str
    version: str
    url: str
    pid: int
    took_seconds: float
    log: Path
    keeps_data: bool = True
    note: str = ""


class Child:
    """A child process, in a session of its own so that Ctrl-C in a terminal reaches only us."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], command: Command, *, record: Path, log: Path, log_start: int
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.log = log
        self._process = process
        self._stop_signal = command.stop_signal
        self._record = record
        self._log_start = log_start
        self._over = asyncio.Event()
        threading.Thread(
            target=self._reap, args=(asyncio.get_running_loop(),), name=f"wait-{name}", daemon=True
        ).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def wait(self) -> int:
        """Waits for the process to end; returns its exit status (negative: a signal)."""
        await self._over.wait()
        return self._process.wait()

    async def stop(self, patience: float = 20.0) -> None:
        """Asks the process to stop, kills its whole group after `patience` seconds, and updates its record."""
        if self.alive:
            self._process.send_signal(self._stop_signal)
            try:
                async with asyncio.timeout(patience):
                    await self._over.wait()
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
        await self._over.wait()
        _forget(self._record)

    def output(self) -> str:
        """The end of its log since it was started, at most 16 KiB."""
        try:
            with self.log.open("rb") as text:
                text.seek(max(self._log_start, self.log.stat().st_size - 16_384))
                return COLOURS.sub("", text.read().decode(errors="replace"))
        except OSError:
            return ""

    def last_error_line(self) -> str:
        """The log line that most likely says why it ended: its last error, else its last line."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        complaints = [line for line in lines[-20:] if ERROR_LINE.search(line)]
        return (complaints or lines or ["it said nothing"])[-1]

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        self._process.wait()
        with suppress(RuntimeError):  # the loop may be gone by the time the process is
            loop.call_soon_threadsafe(self._over.set)


@dataclass(frozen=True, slots=True)
class Running:
    """A local server and the process behind it."""

    server: LocalServer
    child: Child

    async def stop(self) -> None:
        await self.child.stop()


def launch(place: Place, name: str, command: Command, *, port: int | None = None) -> Child:
    """Starts a process with a log file, and records it, so that a later start can find it if we are killed."""
    log = place.log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    account = command.account
    with _opened(log) as sink:
        log_start = os.fstat(sink).st_size
        process = subprocess.Popen(
            list(command.argv),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=command.cwd,
            env={**os.environ, **command.env},
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            # Safe after fork: one system call by a function resolved beforehand, without locks.
            preexec_fn=_tie_to_parent(command.stop_signal) if place.die_with_parent else None,  # noqa: PLW1509
        )
    record = place.record(name)
    record.parent.mkdir(parents=True, exist_ok=True)
    _write(record, {"port": port, "signal": int(command.stop_signal), **_identity(process.pid)})
    return Child(name, process, command, record=record, log=log, log_start=log_start)


async def serve(
    place: Place,
    name: str,
    engine: str,
    *,
    command: Callable[[int], Command],
    probe: Callable[[int], Awaitable[str]],
    url: Callable[[int], str],
    patience: float = 60.0,
    keeps_data: bool = True,
) -> Running:
    """Starts `command(port)` and waits until `probe(port)` returns a version.

    The port of the last start is used again if it is free, so that URLs and open clients keep working.

    Raises:
        StartError: it ended early or did not answer in `patience` seconds; the log's last line is quoted.
    """
    began = perf_counter()
    wanted = _recorded_port(place.record(name))
    for attempt in range(3):
        port = free_port(wanted if attempt == 0 else None)
        child = launch(place, name, command(port), port=port)
        try:
            version = await _answer(child, port, probe, patience)
        except BaseException:
            await child.stop(patience=5.0)
            raise
        if version is not None:
            took = perf_counter() - began
            return Running(LocalServer(name, engine, version, url(port), child.pid, took, child.log, keeps_data), child)
        status = await child.wait()
        if is_free(port):  # not a lost race for the port: the server itself could not run
            raise StartError(f"{engine} ended at once (status {status}): {child.last_error_line()} — see {child.log}")
    raise StartError(f"{engine} found no free port on {HOST} in three tries — see {place.log(name)}")


async def clear_leftovers(place: Place) -> list[str]:
    """Stops processes that an earlier, killed run left running on this data folder; returns their names."""
    left: list[tuple[str, psutil.Process, int]] = []
    for record in sorted((place.data / "run").glob("*.json")):
        process, stop_signal = _recorded_process(record)
        if process is not None:
            left.append((record.stem, process, stop_signal))
    for _, process, stop_signal in left:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(stop_signal)
    _, stubborn = await asyncio.to_thread(psutil.wait_procs, [process for _, process, _ in left], timeout=15)
    for process in stubborn:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    await asyncio.to_thread(psutil.wait_procs, stubborn, timeout=5)
    for name, _, _ in left:
        _forget(place.record(name))
    return [name for name, _, _ in left]


@contextmanager
def lock_folder(data: Path) -> Iterator[None]:
    """Locks the data folder for this process; the system releases the lock however the process ends.

    Raises:
        StartError: another live process holds it.
    """
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise StartError(
                f"another `quartet up` (process {owner}) uses {data}; stop it, or choose another folder with --data"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_locked(data: Path) -> bool:
    """Whether a live process holds the data folder."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError), (data / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, replacing an existing one."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


def free_port(wanted: int | None = None) -> int:
    """A free port on loopback: `wanted` if it is free, else a random one below the ephemeral range, never the same
    twice. A server binds it only seconds later, and again at each restart: an ephemeral port could be assigned to
    another program meanwhile."""
    if wanted is not None and is_free(wanted):
        return wanted
    while (port := random.choice(PORTS)) in _USED_PORTS or not is_free(port):
        pass
    _USED_PORTS.add(port)
    return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    return why_closed(port, HOST) is None


def why_closed(port: int, host: str) -> OSError | None:
    """The error that a server would get if it tried to listen there now; None if it could. A former server's
    connections in TIME_WAIT do not count."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


async def _answer(child: Child, port: int, probe: Callable[[int], Awaitable[str]], patience: float) -> str | None:
    """Polls until the server answers; None if its process ended first."""
    pause = 0.02
    try:
        async with asyncio.timeout(patience):
            while child.alive:
                with suppress(Exception):  # each driver has other errors for a server that is not ready
                    return await probe(port)
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 0.25)
    except TimeoutError:
        raise StartError(
            f"{child.name} did not answer within {patience:.0f} s: {child.last_error_line()} — see {child.log}"
        ) from None
    return None


def _tie_to_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    """On Linux, makes the kernel stop a child whose parent was killed (PR_SET_PDEATHSIG); else None."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    set_death_signal = 1  # PR_SET_PDEATHSIG
    return lambda: prctl(set_death_signal, int(stop_signal), 0, 0, 0) and None


@contextmanager
def _opened(log: Path) -> Iterator[int]:
    """Opens a log for appending, rotating it once it exceeds the limit."""
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _identity(pid: int) -> dict[str, object]:
    """What distinguishes this process from a later one with the same process id."""
    try:
        process = psutil.Process(pid)
        return {"pid": pid, "exe": process.exe(), "created": process.create_time()}
    except psutil.Error:
        return {}


def _recorded_process(record: Path) -> tuple[psutil.Process | None, int]:
    """The recorded process, if it is still alive and the same, and the signal that stops it."""
    noted = _read(record)
    pid = noted.get("pid")
    stop_signal = noted.get("signal")
    if not isinstance(pid, int) or not isinstance(stop_signal, int):
        return None, signal.SIGTERM
    now = _identity(pid)
    created, then = now.get("created"), noted.get("created")
    same = isinstance(created, float) and isinstance(then, float) and abs(created - then) < 5.0
    if not same or now.get("exe") != noted.get("exe"):
        return None, stop_signal
    with suppress(psutil.NoSuchProcess):  # it may be ending just now
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process, stop_signal
    return None, stop_signal


def _recorded_port(record: Path) -> int | None:
    port = _read(record).get("port")
    return port if isinstance(port, int) else None


def _forget(record: Path) -> None:
    """Deletes the process from the record, but keeps the port."""
    with suppress(OSError):  # a throwaway folder may be gone already
        _write(record, {"port": _recorded_port(record)})


def _read(record: Path) -> dict[str, object]:
    try:
        noted = json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _write(record: Path, noted: Mapping[str, object]) -> None:
    fresh = record.with_suffix(".tmp")
    fresh.write_text(json.dumps(noted))
    fresh.replace(record)
