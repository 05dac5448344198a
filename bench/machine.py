"""The cost of an operation: user and system time of each process from /proc, latencies from a monotonic clock."""

import asyncio
import os
import platform
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

TICK = os.sysconf("SC_CLK_TCK")

# The most warm-up rounds, and the share of a core below which a JIT compiler counts as idle.
LONGEST_WARMING, QUIET_SHARE = 12, 0.05


def compiler_seconds(pid: int) -> float:
    """CPU seconds that a Java process' JIT compiler threads have used."""
    total = 0.0
    for task in psutil.Process(pid).threads():
        with suppress(OSError):
            if "CompilerThre" in Path(f"/proc/{pid}/task/{task.id}/comm").read_text():
                total += task.user_time + task.system_time
    return total


@contextmanager
def held_still(pid: int) -> Iterator[None]:
    """Suspends a process and its children (SIGSTOP), and resumes them at the end."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    _tell(family, signal.SIGSTOP)
    try:
        yield
    finally:
        _tell(family, signal.SIGCONT)


def _tell(family: Sequence[psutil.Process], what: signal.Signals) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):  # a helper process has ended
            process.send_signal(what)


def cpu_seconds(pid: int) -> float:
    """User + system seconds of a process, its threads, and its children, live ones and reaped ones.

    A PostgreSQL backend that ended during the run is counted through its parent.
    """
    total = 0.0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0.0
    for member in family:
        try:
            fields = Path(f"/proc/{member.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        utime, stime, cutime, cstime = (int(value) for value in fields[11:15])
        total += utime + stime
        if member.pid == pid:
            total += cutime + cstime
    return total / TICK


@dataclass
class Measured:
    """Measurements of a repeated operation: milliseconds of each call, CPU in microseconds per call by process."""

    name: str
    seconds: float
    latencies: list[float] = field(repr=False)
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        """Calls per second of all callers together."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """The quantile of the latency in milliseconds."""
        return quantile(self.latencies, share)

    @property
    def total_cpu(self) -> float:
        """Microseconds per call over all processes."""
        return sum(self.cpu.values())


def middle(runs: Sequence[Measured], process: str) -> Measured:
    """Of repeated measurements the median one by this process' CPU."""
    return sorted(runs, key=lambda run: run.cpu[process])[len(runs) // 2]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def measure(
    name: str,
    call: Callable[[int], Awaitable[object]],
    *,
    calls: int,
    callers: int,
    processes: Mapping[str, int],
    warm: int = 50,
) -> Measured:
    """Measures `calls` calls by `callers` concurrent callers, after `warm` uncounted ones. `call` gets the call's
    number."""
    for number in range(warm):
        await call(-1 - number)
    numbers = iter(range(calls))
    latencies: list[float] = []

    async def caller() -> None:
        for number in numbers:
            began = time.perf_counter()
            await call(number)
            latencies.append((time.perf_counter() - began) * 1000)

    before = {process: cpu_seconds(pid) for process, pid in processes.items()}
    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = time.perf_counter() - began
    cpu = {process: (cpu_seconds(pid) - before[process]) / calls * 1e6 for process, pid in processes.items()}
    return Measured(name, seconds, latencies, cpu)


async def warmed(pid: int, *asks: Callable[[int], Awaitable[object]], calls: int, callers: int) -> float:
    """Warm-up: repeats rounds of calls until this Java process' JIT compiler is nearly idle; returns the share of a
    core that it still takes. For minutes after a start it takes more CPU than the queries themselves, which wait for
    it."""
    share = 1.0
    for _ in range(LONGEST_WARMING):
        began, before = time.monotonic(), compiler_seconds(pid)
        for ask in asks:
            await measure("warming", ask, calls=calls, callers=callers, processes={})
        share = (compiler_seconds(pid) - before) / (time.monotonic() - began)
        if share < QUIET_SHARE:
            break
    return share


def table(measured: Sequence[Measured], floor: Measured | None = None) -> str:
    """A Markdown table; ratios to the floor come first."""
    processes = sorted({process for m in measured for process in m.cpu})
    head = ["operation", *(["× floor"] if floor else []), "CPU µs", *processes, "p50 ms", "p99 ms", "calls/s"]
    rows = []
    for m in measured:
        ratio = [f"{m.total_cpu / floor.total_cpu:.1f}"] if floor else []
        each = [f"{m.cpu.get(process, 0):.0f}" for process in processes]
        quick = [f"{m.quantile(0.5):.1f}", f"{m.quantile(0.99):.1f}", f"{m.rate:.0f}"]
        rows.append([m.name, *ratio, f"{m.total_cpu:.0f}", *each, *quick])
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """A line that describes this machine."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Python {platform.python_version()}, {platform.system()}"
    )
