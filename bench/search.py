"""What a search costs the engine: the brief's query, what each part of it costs, and ours.

Products are the retailer's and our own; beyond them names are put together of the words of real ones. Queries are
drawn from names as the relevance bench draws them, some in a thousand of each other kind, and asked by Zipf's law.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from bench.machine import Measured, compiler_seconds, measure, middle, table
from bench.relevance import NOW, SEED, Json, brief_query, briefs, node_of, ours, products
from bench.search_words import Zipf, typed
from quartet import search as searching
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.search import Wanted
from quartet.stores.search import SearchEngine

QUERIES = 300
WARM_SECONDS = 20.0
# All kinds by turns, since the engine's compiler is at work now and then for minutes, and a core is not always as fast.
TURNS = 7


async def search(sizes: Sequence[int]) -> str:
    """The tables, as Markdown."""
    shelf = await asyncio.to_thread(products)
    return "\n\n".join([await _engine_part(grown(shelf, size)) for size in sizes])


def grown(shelf: Sequence[Json], size: int) -> list[Json]:
    """So many products; those beyond the shelf have a real name with one or two words of others in it."""
    draw = random.Random(SEED)
    words = [word for product in shelf for word in product["name"].split()]
    more = []
    for number in range(size - len(shelf)):
        product = draw.choice(shelf)
        name = product["name"].split()
        for at in draw.sample(range(len(name)), min(len(name), draw.choice((1, 2)))):
            name[at] = draw.choice(words)
        sku = f"G{number:06}"
        more.append({**product, "_id": f"id-{sku}", "sku": sku, "slug": sku.lower(), "name": " ".join(name)})
    return [*shelf, *more][:size]


# --- The engine -----------------------------------------------------------------------------------------------------


async def _engine_part(shelf: Sequence[Json]) -> str:
    """CPU of the engine's process for each query, from the brief's whole one down to ours."""
    zipf = Zipf(typed(shelf, 1000))
    drawn = [zipf.draw() for _ in range(QUERIES)]
    async with node_of("opensearch") as (engine, pid):
        briefly, settings = await _both(engine, shelf)

        def brief(*left_out: str) -> Callable[[int], Awaitable[object]]:
            def ask(number: int) -> Awaitable[object]:
                body = {part: held for part, held in brief_query(drawn[number]).items() if part not in left_out}
                return engine.request("POST", f"/{briefly}/_search", body=body, seconds=30)

            return ask

        def mine(**how: Any) -> Callable[[int], Awaitable[object]]:
            return lambda number: searching.find(engine, settings, Wanted(q=drawn[number], **how), NOW)

        steps = (
            ("the brief's query", brief()),
            ("… without its suggester", brief("suggest")),
            ("… nor highlighting", brief("suggest", "highlight")),
            ("… nor facets", brief("suggest", "highlight", "aggs")),
            ("ours, first page (facets, marking, other spelling)", mine()),
            ("ours, first page without facets", mine(facets=False)),
            ("ours, second page", mine(page=2)),
            ("ours, a brand and a price ticked", mine(brand=("Lenovo",), max_price=50_000)),
        )
        for _, ask in steps:
            await _warmed(ask)
        turns = [[await _measured(name, ask, pid) for name, ask in steps] for _ in range(TURNS)]
        runs = [middle(of_one, "search") for of_one in zip(*turns, strict=True)]
        loose = 0
        for text in drawn:
            loose += (await searching.find(engine, settings, Wanted(q=text), NOW)).tier is not searching.Tier.EXACT
        version = await engine.ping()
    brief_run, our_run = runs[0], runs[4]
    note = (
        f"{len(shelf):,} products, {version}, two callers, {QUERIES} queries, of which {loose / QUERIES:.0%} found "
        f"nothing as typed; of {TURNS} turns the middle one. Ours ÷ the brief's: "
        f"{our_run.cpu['search'] / brief_run.cpu['search']:.2f}, and with the engine's compiler "
        f"{our_run.total_cpu / brief_run.total_cpu:.2f}."
    )
    return f"### A query at the engine\n\n{note}\n\n{table(runs, runs[0])}"


async def _measured(name: str, ask: Callable[[int], Awaitable[object]], pid: int) -> Measured:
    """The engine's compiler by itself: it is at work for minutes after a start, now on this query and now on that."""
    before = compiler_seconds(pid)
    run = await measure(name, ask, calls=QUERIES, callers=2, processes={"search": pid}, warm=5)
    compiling = (compiler_seconds(pid) - before) / QUERIES * 1e6
    run.cpu = {"search": run.cpu["search"] - compiling, "its compiler": compiling}
    return run


async def _warmed(ask: Callable[[int], Awaitable[object]]) -> None:
    """A Java engine takes thousands of queries of a kind until it has compiled what they run; and the first take
    seconds."""
    until = time.monotonic() + WARM_SECONDS

    async def caller() -> None:
        while time.monotonic() < until:
            with suppress(StoreUnavailable):
                await ask(random.randrange(QUERIES))

    await asyncio.gather(caller(), caller())


async def _both(engine: SearchEngine, shelf: Sequence[Json]) -> tuple[str, Settings]:
    settings = Settings(_env_file=None, search_alias="ours", search_seconds=30)
    await ours(engine, shelf, settings)
    await briefs(engine, shelf, alias="brief")
    for alias in ("ours", "brief"):
        await engine.request("POST", f"/{alias}/_forcemerge", params={"max_num_segments": "1"}, seconds=120)
    return "brief", settings
