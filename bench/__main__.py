"""`make bench` runs every benchmark, one after another; `python -m bench http orders` runs some of them.

Prints Markdown; docs/BENCHMARKS.md has the results of such a run.
"""

import argparse
import asyncio
import sys
from datetime import UTC, datetime

from bench import machine

BUYERS = (1, 2, 4, 8, 16, 32, 64)
STORES = ("postgres", "mongodb", "redis", "search")
SCENARIOS = ("many", "hot", "real")
NAMES = (
    "orders",
    "http",
    "purchase",
    "logins",
    "pauses",
    "loads",
    "relevance",
    "engine",
    "search",
    "reindex",
    "freshness",
)


async def main() -> None:
    """Runs the benchmarks named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "which", nargs="*", metavar="name", choices=[*NAMES, []], help=f"of {', '.join(NAMES)}; default: all"
    )
    parser.add_argument("--rebuilt", type=int, default=100_000, help="products of the index that is built anew")
    parser.add_argument(
        "--by-sums-only", action="store_true", help="of a new index: only how one wrong product among all is found"
    )
    parser.add_argument("--calls", type=int, default=2000, help="calls of a cheap request")
    parser.add_argument("--orders", type=int, default=300, help="purchases for each number of buyers")
    parser.add_argument("--buyers", type=int, nargs="+", default=BUYERS, help="how many buy at once")
    parser.add_argument("--scenarios", nargs="+", default=(), choices=SCENARIOS, help="what they buy; default: all")
    parser.add_argument("--products", type=int, nargs="+", default=(20_000, 100_000), help="how many the engine has")
    parser.add_argument(
        "--queries", type=int, nargs="+", default=(1000, 10_000, 100_000), help="distinct ones that are asked"
    )
    parser.add_argument(
        "--changed", nargs="+", default=("prices", "names"), choices=("prices", "names"), help="what is to be fresh"
    )
    parser.add_argument("--rounds", type=int, default=10, help="pauses of each store")
    parser.add_argument("--paused", nargs="+", default=STORES, choices=STORES, help="which stores pause")
    asked = parser.parse_args()
    print(f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine.machine()}.\n", flush=True)
    for name in asked.which or NAMES:
        print(f"<!-- {name} -->", file=sys.stderr, flush=True)
        print(await _run(name, asked), end="\n\n", flush=True)


async def _run(name: str, asked: argparse.Namespace) -> str:
    match name:
        case "orders":
            from bench.place_order import orders

            return await orders()
        case "http":
            from bench.http import http

            return await http(asked.calls)
        case "purchase":
            from bench.purchase import purchase

            return await purchase(asked.orders, asked.buyers, asked.scenarios)
        case "freshness":
            from bench.freshness import freshness

            return await freshness(asked.changed)
        case "pauses":
            from bench.pauses import pauses

            return await pauses(asked.rounds, asked.paused)
        case "logins":
            from bench.logins import logins

            return await logins()
        case "engine":
            from bench.engine import engine

            return await engine(asked.products)
        case "search":
            from bench.search import search

            return await search(asked.queries)
        case "relevance":
            from bench.relevance import relevance

            return await relevance()
        case "reindex":
            from bench.reindex import reindex

            return await reindex(asked.rebuilt, by_sums_only=asked.by_sums_only)
        case _:
            from bench.loads import loads

            return await loads()


if __name__ == "__main__":
    asyncio.run(main())
