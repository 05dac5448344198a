"""The speed of importing the retailer's year, and of rebuilding the search index."""

import asyncio
import resource
import sys
import time
from pathlib import Path

from bench.machine import cpu_seconds
from bench.running import RunningShop, running_shop


async def loads() -> str:
    """The results as a Markdown table."""
    async with running_shop("auto", "--empty") as shop:
        rows = [await _timed(shop, "import --all --verify", "import"), await _timed(shop, "reindex", "reindex")]
    return "\n".join(
        ["### Import and reindex\n", "| command | seconds | CPU s | by process |", "|---|---:|---:|---|", *rows]
    )


async def _timed(shop: RunningShop, command: str, name: str) -> str:
    quartet = Path(sys.executable).with_name("quartet")
    before = {process: cpu_seconds(pid) for process, pid in shop.pids.items()}
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        quartet, *command.split(), "--data", str(shop.data), stdout=asyncio.subprocess.DEVNULL
    )
    status = await process.wait()
    seconds = time.perf_counter() - began
    if status:
        raise RuntimeError(f"quartet {command} ended with {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = {process: cpu_seconds(pid) - before[process] for process, pid in shop.pids.items()}
    cpu[name] = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
    each = ", ".join(f"{process} {spent:.1f}" for process, spent in sorted(cpu.items(), key=lambda item: -item[1]))
    peak = f", peak memory of the command {after.ru_maxrss / 1024:.0f} MB"
    return f"| `quartet {command}` | {seconds:.0f} | {sum(cpu.values()):.0f} | {each}{peak} |"
