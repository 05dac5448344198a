"""The duration of a rebuild of the search index, compared with a bulk load from a file, and the cost of finding one
wrong product among all."""

import asyncio
import os
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson

from bench.machine import cpu_seconds
from bench.running import pids_below
from quartet import catalog, devstores, search, sync
from quartet.catalog import Draft, Level, Ratings
from quartet.catalog.model import new_document
from quartet.cli import open_shop, prepare
from quartet.kernel.fingerprints import BUCKETS
from quartet.kernel.settings import Settings
from quartet.stores.search import SearchEngine
from quartet.sync import compare, store
from quartet.web.dependencies import Shop

SEED = 20101201
LOADED = 200
CHUNK = 1_000
_WORDS = (
    "steel copper walnut linen granite ivory cobalt amber folding compact wireless quiet kettle lamp notebook speaker "
    "bottle backpack keyboard monitor blanket teapot candle puzzle camera tripod drill sander planter bowl"
)
WORDS = _WORDS.split()


async def reindex(products: int, *, by_sums_only: bool = False) -> str:
    """Two tables as Markdown. With `by_sums_only` only the second, without comparing whole documents, which saves an
    hour with a million products."""
    with TemporaryDirectory(prefix="quartet-bench-", dir=os.environ.get("QUARTET_BENCH_DIR")) as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101 — PostgreSQL runs as another user when we are root
        async with devstores.throwaway(Path(folder), search="opensearch") as urls:
            settings = Settings(
                _env_file=None, postgres_url=urls["postgres"], mongodb_url=urls["mongodb"],
                redis_url=urls["redis"], search_url=urls["search"], secret="x" * 40,
            )  # fmt: skip
            async with open_shop(settings) as shop:
                await prepare(shop)
                await _load(shop, products)
                if by_sums_only:
                    assert (await sync.reindex(shop, reason="bench")).done == products
                    return _compared(products, await _comparisons(shop, products))
                rebuilt = await _rebuilds(shop, Path(folder), products)
                return "\n\n".join(
                    [rebuilt, _compared(products, [*await _comparisons(shop, products), await _read(shop, products)])]
                )


async def _load(shop: Shop, products: int) -> None:
    dice = random.Random(SEED)
    for start in range(0, products, LOADED):
        if start % 100_000 == 0:
            print(f"{start:,} of {products:,} products are there", file=sys.stderr, flush=True)
        drafts = [_draft(dice, n) for n in range(start, min(start + LOADED, products))]
        await shop.stores.mongo.collection(catalog.PRODUCTS).insert_many([_document(draft) for draft in drafts])
        async with shop.stores.pg.tx() as tx:
            await tx.execute(
                "INSERT INTO inventory (sku, name, category, stock, unit_price_cents, currency) "
                "SELECT sku, name, 'things', 7, cents, 'GBP' FROM unnest($1::text[], $2::text[], $3::bigint[]) "
                "AS t(sku, name, cents)",
                [d.sku for d in drafts], [d.name for d in drafts], [d.price_cents for d in drafts],
            )  # fmt: skip
            await tx.execute("TRUNCATE outbox")


def _document(draft: Draft) -> dict[str, Any]:
    found = new_document(_id(draft.sku), draft, draft.sku.lower(), {draft.sku: Level(draft.price_cents or 0, 7)})
    return catalog.with_version(found, 1, datetime(2025, 1, 1, tzinfo=UTC))


def _id(sku: str) -> str:
    return str(uuid5(NAMESPACE_URL, sku))


def _draft(dice: random.Random, n: int) -> Draft:
    name = " ".join(dice.sample(WORDS, 3)).title()
    return Draft(
        f"SKU-{n:07}", f"{name} {n}", "things", brand=dice.choice(WORDS).title(),
        description=" ".join(dice.choices(WORDS, k=60)), price_cents=dice.randrange(100, 100_000),
        attrs={"color": dice.choice(WORDS), "ram_gb": dice.randrange(1, 128), "weight": dice.randrange(1, 5000)},
        tags=dice.sample(WORDS, 3), published_at=datetime(2025, 1, 1, tzinfo=UTC), ratings=Ratings(4.5, 3),
    )  # fmt: skip


class Meter:
    """Measures seconds and CPU of a piece of work."""

    def __init__(self) -> None:
        self._pids = pids_below(os.getpid())
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}

    async def of(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Does the work and measures it."""
        before, own, began = self._all(), self._own(), time.perf_counter()
        done = await work()
        self.seconds = time.perf_counter() - began
        self.cpu = {name: spent - before[name] for name, spent in self._all().items()} | {"python": self._own() - own}
        return done

    def _all(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    @staticmethod
    def _own() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def __str__(self) -> str:
        names = ("search", "python", "mongodb", "postgres", "redis")
        return " | ".join(f"{self.cpu.get(name, 0):.1f}" for name in names)


async def _rebuilds(shop: Shop, folder: Path, products: int) -> str:
    file = folder / "products.ndjson"
    await _write_file(shop, file)
    rows, ratios = [], []
    for _ in range(2):
        bulk, rebuild = Meter(), Meter()
        await bulk.of(lambda: _bulk_from_file(shop, file))
        done = await rebuild.of(lambda: sync.reindex(shop, reason="bench"))
        assert done.state == "done", done
        assert done.done == products, done
        rows.append(
            f"| engine's own bulk API from a file | {bulk.seconds:.1f} | {products / bulk.seconds:.0f} | {bulk} |"
        )
        rows.append(f"| `sync.reindex` | {rebuild.seconds:.1f} | {products / rebuild.seconds:.0f} | {rebuild} |")
        ratios.append(f"{rebuild.seconds / bulk.seconds:.2f}")
    head = "| into an index | seconds | products/s | search CPU s | python | mongodb | postgres | redis |"
    size = file.stat().st_size / products
    return "\n".join([
        f"### A new index of {products:,} products ({size:.0f} bytes each)\n", head, "|---|" + "---:|" * 7, *rows,
        f"\nWall clock of the rebuild, with its comparison, over the engine's own: {', '.join(ratios)}.",
    ])  # fmt: skip


async def _write_file(shop: Shop, file: Path) -> None:
    with file.open("wb") as out:
        for low in range(0, BUCKETS, 512):
            for product in await catalog.in_buckets(shop.stores.mongo, low, low + 512):
                about = {"index": {"_id": product["_id"], "version": 1, "version_type": "external_gte"}}
                out.write(orjson.dumps(about) + b"\n" + orjson.dumps(search.document(product)) + b"\n")


async def _bulk_from_file(shop: Shop, file: Path) -> None:
    """A plain bulk load: into an index of the same definition, without refreshes, with two concurrent bulks."""
    engine: SearchEngine = shop.stores.search
    name = await search.build_next(engine, shop.settings)
    gate = asyncio.Semaphore(2)

    async def send(body: bytes) -> None:
        try:
            found = await engine.request("POST", f"/{name}/_bulk", body=body, seconds=60)
        finally:
            gate.release()
        assert not found["errors"]

    sending = []
    with file.open("rb") as lines:
        while body := b"".join(line for _, line in zip(range(2 * CHUNK), lines, strict=False)):
            await gate.acquire()
            sending.append(asyncio.create_task(send(body)))
    await asyncio.gather(*sending)
    await engine.refresh(name)
    await search.abandon_next(engine, shop.settings)


def _compared(products: int, rows: list[str]) -> str:
    head = (
        "| comparing | rows moved | their KB as JSON | seconds | search CPU s | python | mongodb | postgres | redis |"
    )
    return "\n".join([f"### One wrong product among {products:,}\n", head, "|---|" + "---:|" * 8, *rows])


async def _comparisons(shop: Shop, products: int) -> list[str]:
    rows = []
    tally = _tally()
    whole = Meter()
    assert not (await whole.of(lambda: compare.differing(shop, patience=0))).suspects
    rows.append(f"| nothing is wrong | {tally()} | {whole.seconds:.2f} | {whole} |")
    print(rows[-1], file=sys.stderr, flush=True)
    async with shop.stores.pg.tx() as tx:
        batch = await store.begin_batch(tx)
    wrong = _id(f"SKU-{products // 2:07}")
    await search.put(shop.stores.search, shop.settings.search_alias, batch.version, {wrong: None})
    await shop.stores.search.refresh(shop.settings.search_alias)
    tally()
    one = Meter()
    found = await one.of(lambda: compare.differing(shop, patience=0))
    assert set(found.suspects) == {wrong}, found
    rows.append(f"| one is wrong, and is named | {tally()} | {one.seconds:.2f} | {one} |")
    await compare.repair(shop, [wrong])
    return rows


async def _read(shop: Shop, products: int) -> str:
    read = Meter()
    await read.of(lambda: _read_all(shop))
    return f"| every document read, for comparison | {products} | | {read.seconds:.1f} | {read} |"


def _tally() -> Callable[[], str]:
    """Starts counting the rows that the compared stores return, and their size as JSON; the returned function gives the
    counts and resets them."""
    seen = [0, 0]
    for room in (catalog, search, store):
        for name in ("sums", "fingerprints", "stale_levels"):
            with suppress(AttributeError):
                setattr(room, name, _counting(getattr(room, name), seen))

    def told() -> str:
        rows, size = seen
        seen[:] = [0, 0]
        return f"{rows} | {size / 1000:.1f}"

    return told


def _counting(ask: Callable[..., Awaitable[Any]], seen: list[int]) -> Callable[..., Awaitable[Any]]:
    async def counted(*args: Any, **named: Any) -> Any:
        found = await ask(*args, **named)
        seen[0] += sum(len(part) for part in found) if isinstance(found, tuple) else len(found)
        seen[1] += len(orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS))
        return found

    return counted


async def _read_all(shop: Shop) -> None:
    for low in range(0, BUCKETS, 256):
        assert not (await compare.scrub(shop, low, low + 256, patience=0)).suspects
