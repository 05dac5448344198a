"""`make bench`: every benchmark, one after another; `python -m bench http orders` some of them.

Prints Markdown; docs/BENCHMARKS.md holds such a run.
"""

import argparse
import asyncio
import sys
from datetime import UTC, datetime

from bench import machine

NAMES = ("orders", "http", "loads")


async def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("which", nargs="*", choices=[*NAMES, []], help="default: all")
    parser.add_argument("--calls", type=int, default=2000, help="calls of a cheap request")
    asked = parser.parse_args()
    print(f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine.machine()}.\n", flush=True)
    for name in asked.which or NAMES:
        print(f"<!-- {name} -->", file=sys.stderr, flush=True)
        print(await _run(name, asked.calls), end="\n\n", flush=True)


async def _run(name: str, calls: int) -> str:
    match name:
        case "orders":
            from bench.place_order import orders

            return await orders()
        case "http":
            from bench.http import http

            return await http(calls)
        case _:
            from bench.loads import loads

            return await loads()


if __name__ == "__main__":
    asyncio.run(main())
