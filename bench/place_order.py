"""A `place_order` call compared with the specification's own function and with a bare insert of the same rows.

PostgreSQL's pgbench drives a server of our own that flushes every commit. The three take turns within each round, in
rotating order, and the ratios are medians over rounds: other load on the machine then affects all of them alike.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.machine import cpu_seconds
from quartet.devstores import Place, postgres
from quartet.stores.migrate import migrate
from quartet.stores.postgres import Postgres

SKUS, BUYERS = 5000, 1000
ROUNDS = 3
KINDS = ("brief", "ours", "rows")

# Both functions have the same SKUs and buyers; nothing ever sells out.
FILL = f"""
INSERT INTO users (id, email) SELECT md5(n::text)::uuid, n || '@example.com' FROM generate_series(1, {BUYERS}) AS n;
INSERT INTO inventory (sku, name, stock, unit_price_cents)
    SELECT 'S' || n, 'Product number ' || n, 2000000000, 100 + n FROM generate_series(1, {SKUS}) AS n;
INSERT INTO brief.users (id, email) SELECT id, email FROM users;
INSERT INTO brief.inventory (sku, name, stock, unit_price_cents)
    SELECT sku, name, stock, unit_price_cents FROM inventory;
"""

# The rows that ours writes, without any reads; pipelined, so that there is one round trip.
ROWS = """\\set n random(1, 9000000000000000000)
BEGIN;
\\startpipeline
INSERT INTO orders (id, user_id, total_cents, expires_at) VALUES (md5(:n::text)::uuid, {buyer}, 700, now());
INSERT INTO order_items (order_id, sku, quantity, unit_price_cents, product_name)
VALUES (md5(:n::text)::uuid, {a}, 1, 100, 'Product number 1'), (md5(:n::text)::uuid, {b}, 2, 300, 'Product number 2');
INSERT INTO inventory_movements (sku, reserved_delta, reason, order_id, actor)
VALUES ({a}, 1, 'reserved', md5(:n::text)::uuid, 'x'), ({b}, 2, 'reserved', md5(:n::text)::uuid, 'x');
INSERT INTO outbox (topic, key, payload) VALUES ('order.placed', :n::text, '{{"total_cents": 700}}');
COMMIT;
\\endpipeline
"""


@dataclass(frozen=True)
class Case:
    """A scenario: lines per order, SKUs to choose from, concurrent clients."""

    lines: int
    skus: int
    clients: int

    @property
    def title(self) -> str:
        """The scenario's name in the table."""
        goods = "one pair of SKUs" if self.skus == self.lines else f"{self.skus} SKUs"
        return f"{self.lines} lines, {goods}"

    def script(self, kind: str) -> str:
        """The pgbench script. Each line draws from a separate range of the SKUs, so that the specification's function,
        which locks rows in the order of the lines, can't deadlock."""
        share = self.skus // self.lines
        lines = range(self.lines)
        head = "".join(f"\\set s{n} random({n * share + 1}, {(n + 1) * share})\n" for n in lines)
        head += f"\\set u random(1, {BUYERS})\n"
        buyer, sku = "md5(:u::text)::uuid", [f"'S' || :s{n}::text" for n in lines]
        if kind == "rows":
            return head + ROWS.format(buyer=buyer, a=sku[0], b=sku[1])
        items = ", ".join(f"jsonb_build_object('sku', {sku[n]}, 'qty', {1 + n % 2})" for n in lines)
        return head + f"SELECT place_order({buyer}, jsonb_build_array({items}));\n"

    @property
    def seconds(self) -> int:
        """The duration of a run. A connection replans each statement for its first five orders; with many connections
        a longer run is needed for that not to matter, as in a shop, where connections live for days."""
        return 2 + self.clients // 6

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds to run; the bare insert exists for two lines only."""
        return KINDS if self.lines == 2 else KINDS[:2]


CASES = (
    *(Case(2, SKUS, clients) for clients in (1, 8, 32)),
    *(Case(2, 2, clients) for clients in (1, 8, 32)),
    *(Case(lines, SKUS, 8) for lines in (5, 20)),  # a basket of the retailer's year has about twenty lines
)


@dataclass(frozen=True)
class Run:
    """Orders per second, and the server's CPU per order in microseconds."""

    rate: float
    cpu: float


async def orders() -> str:
    """The results as a Markdown table."""
    with TemporaryDirectory(prefix="quartet-bench-", dir=os.environ.get("QUARTET_BENCH_DIR")) as folder:
        place = _place(Path(folder))
        running = await postgres.start(place)
        try:
            await _fill(running.server.url)
            found = [(case, await _measure(case, running.server.url, running.server.pid)) for case in CASES]
        finally:
            await running.stop()
            postgres.discard(place)
    return "\n".join(_table(found))


def _place(folder: Path) -> Place:
    folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
    (folder / "data").mkdir()
    return Place(folder / "data")


async def _fill(url: str) -> None:
    pg = Postgres(url, size=1)
    await migrate(pg)
    brief = Path(__file__).with_name("brief_place_order.sql").read_text()
    async with pg.once() as tx:
        await tx.execute(brief)
        await tx.execute("RESET search_path")
        await tx.execute(FILL)
        await tx.execute("VACUUM ANALYZE")
    await pg.close()


async def _measure(case: Case, url: str, pid: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {kind: [] for kind in case.kinds}
    for number in range(ROUNDS):
        for kind in case.kinds if number % 2 == 0 else case.kinds[::-1]:
            runs[kind].append(await _pgbench(case, kind, url, pid))
    return runs


async def _pgbench(case: Case, kind: str, url: str, pid: int) -> Run:
    schema = "brief" if kind == "brief" else "public"
    before = cpu_seconds(pid)
    process = await asyncio.create_subprocess_exec(
        _tool(), "--no-vacuum", "--protocol=prepared", f"--client={case.clients}", f"--time={case.seconds}",
        "--file=/dev/stdin", url,
        env={**os.environ, "PGOPTIONS": f"-c search_path={schema}"},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(case.script(kind).encode())
    await asyncio.sleep(0.3)  # until the server has reaped its backends, so that their CPU is counted as its own
    text = out.decode()
    done, rate = re.search(r"actually processed: (\d+)", text), re.search(r"^tps = ([\d.]+)", text, re.MULTILINE)
    if process.returncode or done is None or rate is None or "failed transactions: 0 " not in text:
        raise RuntimeError(f"pgbench {kind}: {err.decode()}{text}")
    return Run(float(rate[1]), (cpu_seconds(pid) - before) / int(done[1]) * 1e6)


def _tool() -> str:
    binaries = postgres.find()
    beside = shutil.which("pgbench", path=str(binaries.folder)) if binaries else None
    tool = beside or shutil.which("pgbench")
    if tool is None:
        raise RuntimeError("pgbench is missing: install postgresql's client tools (Debian: postgresql-contrib)")
    return tool


def _table(found: list[tuple[Case, dict[str, list[Run]]]]) -> Iterator[str]:
    yield "### One order: place_order, ledger and outbox included\n"
    yield (
        "Ratios of orders a second: above 1 ours is quicker. The specification's function (“brief”) writes the order "
        "and its lines only; ours and the bare rows write a ledger entry a line and an outbox row more.\n"
    )
    head = ["order of", "clients", "ours ÷ brief", "ours ÷ bare rows", "brief/s", "ours/s", "rows/s"]
    yield f"| {' | '.join([*head, 'CPU µs: brief', 'ours', 'rows'])} |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for case, runs in found:
        rates = [f"{median(r.rate for r in runs[kind]):.0f}" if kind in runs else "" for kind in KINDS]
        cpu = [f"{median(r.cpu for r in runs[kind]):.0f}" if kind in runs else "" for kind in KINDS]
        cells = [case.title, str(case.clients), _ratio(runs, "brief"), _ratio(runs, "rows"), *rates, *cpu]
        yield f"| {' | '.join(cells)} |"


def _ratio(runs: dict[str, list[Run]], other: str) -> str:
    if other not in runs:
        return ""
    each = [ours.rate / theirs.rate for ours, theirs in zip(runs["ours"], runs[other], strict=True)]
    return f"**{median(each):.2f}**"


if __name__ == "__main__":
    print(asyncio.run(orders()))
