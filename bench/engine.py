"""The engine's own cost of a search: the brief's query, each part of it, and ours, also with each of the steps undone
that make it cheaper.

Products are the retailer's and the demo's; more are made with names from the words of real ones. Queries are drawn from
names, partly by the rules of the relevance bench, and asked with a Zipf distribution (`search_words`).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bench.machine import Measured, compiler_seconds, measure, middle, table, warmed
from bench.relevance import NOW, SEED, Json, brief_query, briefs, node_of, ours, products
from bench.search_words import Zipf, typed
from quartet import search as searching
from quartet.kernel.settings import Settings
from quartet.search import Tier, Wanted
from quartet.search.query import QueryContext, TextSettings, body

QUERIES = 300
# Warm-up calls per kind and round, repeated until the engine's JIT compiler is idle.
WARM = 2_000
CALLERS = 2
# Rounds over all kinds of queries: the JIT compiler is active for minutes now and then, and a core's speed varies.
TURNS = 15
# What our query does without, or only if too little is found.
FUZZY, SPELLING = "fuzzy matching at once", "the engine's suggester"
MARKED, SOURCE = "the engine's highlighting", "a card's fields read from the whole document"
STEPS = (FUZZY, SPELLING, MARKED, SOURCE)


async def engine(sizes: Sequence[int]) -> str:
    """The tables, as Markdown."""
    shelf = await asyncio.to_thread(products)
    return "\n\n".join([await _engine_part(grown(shelf, size)) for size in sizes])


def grown(shelf: Sequence[Json], size: int) -> list[Json]:
    """`size` products; those beyond the shelf have a real name in which one or two words are replaced by others'."""
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
    """CPU of the engine's process for each query: the brief's, its parts, ours.

    The brief's and ours have an engine each, and the whole query is measured before its parts: with alternating kinds
    of queries the JIT compiler recompiles code for each of them, which does not happen in a shop."""
    zipf = Zipf(typed(shelf, 1000))
    drawn = [zipf.draw() for _ in range(QUERIES)]
    settings = Settings(_env_file=None, search_alias="ours", search_seconds=30)
    async with node_of("opensearch") as (theirs, their_pid), node_of("opensearch") as (node, pid):
        await briefs(theirs, shelf, alias="brief")
        await ours(node, shelf, settings)
        for each, alias in ((theirs, "brief"), (node, "ours")):
            await each.request("POST", f"/{alias}/_forcemerge", params={"max_num_segments": "1"}, seconds=120)

        def brief(*left_out: str) -> Callable[[int], Awaitable[object]]:
            def ask(number: int) -> Awaitable[object]:
                whole = brief_query(drawn[number % QUERIES])
                body = {part: held for part, held in whole.items() if part not in left_out}
                return theirs.request("POST", "/brief/_search", body=body, seconds=30)

            return ask

        def mine(**how: Any) -> Callable[[int], Awaitable[object]]:
            return lambda number: searching.find(node, settings, Wanted(q=drawn[number % QUERIES], **how), NOW)

        brief_run, our_run = await _by_turns(
            ("the brief's query", brief(), their_pid),
            ("ours, first page (facets, marking, other spelling)", mine(), pid),
        )
        briefs_parts = await _by_turns(
            ("… without its suggester", brief("suggest"), their_pid),
            ("… nor highlighting", brief("suggest", "highlight"), their_pid),
            ("… nor facets", brief("suggest", "highlight", "aggs"), their_pid),
        )
        our_parts = await _by_turns(
            ("ours, first page without facets", mine(facets=False), pid),
            ("ours, second page", mine(page=2), pid),
            ("ours, a brand and a price ticked", mine(brand=("Lenovo",), max_price=50_000), pid),
        )
        tiers = [(await searching.find(node, settings, Wanted(q=text), NOW)).tier for text in drawn]
        loose = sum(tier is not Tier.EXACT for tier in tiers)
        as_typed = [text for text, tier in zip(drawn, tiers, strict=True) if tier is Tier.EXACT]

        def costlier(*steps: str) -> Callable[[int], Awaitable[object]]:
            def ask(number: int) -> Awaitable[object]:
                asked = _undone(as_typed[number % len(as_typed)], settings, steps)
                return node.request("POST", "/ours/_search", body=asked, seconds=30)

            return ask

        our_steps = await _by_turns(
            ("ours, of what is found as typed", costlier(), pid),
            *((f"… with {step}", costlier(step), pid) for step in STEPS),
            ("… with all of these", costlier(*STEPS), pid),
        )
        version = await node.ping()
    note = (
        f"{len(shelf):,} products, {version}, two callers, {QUERIES} queries, of which {loose / QUERIES:.0%} found "
        f"nothing as typed; of {TURNS} turns the middle one. Ours ÷ the brief's: "
        f"{our_run.cpu['search'] / brief_run.cpu['search']:.2f}, and with the engine's compiler "
        f"{our_run.total_cpu / brief_run.total_cpu:.2f}."
    )
    runs = [brief_run, *briefs_parts, our_run, *our_parts, *our_steps]
    return f"### A query at the engine\n\n{note}\n\n{table(runs, brief_run)}"


def _undone(text: str, settings: Settings, steps: Sequence[str]) -> Json:
    """Our first page with some of the steps that save the engine work undone."""
    asked = body(
        Wanted(q=text), Tier.LOOSE if FUZZY in steps else Tier.EXACT, NOW, TextSettings.of(settings), QueryContext()
    )
    if SOURCE in steps:
        asked["_source"] = asked.pop("stored_fields")
    if MARKED in steps:
        asked["highlight"] = {
            "require_field_match": False,
            "fields": {"words.name": {}, "words.description": {"fragment_size": 150}},
        }
    if SPELLING in steps:
        asked["suggest"] = {"did_you_mean": {"text": text, "phrase": {"field": "words.name.plain", "size": 3}}}
    return asked


async def _by_turns(*kinds: tuple[str, Callable[[int], Awaitable[object]], int]) -> list[Measured]:
    """Measures kinds of queries in turns; each is a name, the call, and the engine's process id. Returns the
    medians."""
    for _, ask, pid in kinds:
        await warmed(pid, ask, calls=WARM, callers=CALLERS)
    turns = [[await _measured(*kind) for kind in kinds] for _ in range(TURNS)]
    return [middle(of_one, "search") for of_one in zip(*turns, strict=True)]


async def _measured(name: str, ask: Callable[[int], Awaitable[object]], pid: int) -> Measured:
    """One measurement, with the CPU of the engine's JIT compiler separately: it is active for minutes after a start,
    during whichever query is being measured."""
    before = compiler_seconds(pid)
    run = await measure(name, ask, calls=QUERIES, callers=CALLERS, processes={"search": pid}, warm=5)
    compiling = (compiler_seconds(pid) - before) / QUERIES * 1e6
    run.cpu = {"search": run.cpu["search"] - compiling, "its compiler": compiling}
    return run
