"""The output of `quartet import` and `quartet replay`: progress bars and tables; and whether they succeeded."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from quartet.kernel.money import format_money
from quartet.kernel.watch import Watch
from quartet.retail.replay import Basket, Outcome, Replayed, percentile, replay
from quartet.retail.report import Report, Stage, pounds
from quartet.retail.service import import_retail
from quartet.retail.verify import Verified, verify
from quartet.web.dependencies import Shop

_UNITS: dict[str, str] = {
    Stage.READING: "bytes",
    Stage.BOOKING: "lines",
    Stage.SHELVES: "products",
    Stage.BASKETS: "baskets",
}


class _Rate(ProgressColumn):
    """A stage's rate in its unit per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "")


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A progress bar per stage, with rate and time left."""
    columns = (
        TextColumn("{task.description:<18}"), BarColumn(), TaskProgressColumn(), _Rate(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def watch(stage: str, done: int, total: int, /) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total, unit=_UNITS.get(stage, "items"))
            progress.update(bars[stage], completed=done, total=total)

        yield watch


def report_table(report: Report) -> Table:
    """Lines and sums by how they were booked or refused; the last row has the file's totals."""
    table = Table(title=f"{report.months[0]} to {report.months[-1]}" if report.months else "nothing")
    for heading in ("what", "lines", "sum, GBP", "why"):
        table.add_column(heading, justify="right" if heading in ("lines", "sum, GBP") else "left")
    rows = [
        ("sold", report.sales, f"{report.orders:,} orders"),
        ("taken back", report.refunds, "refunds of the same customer's earlier sale"),
        ("credited", report.credits, "cancellations that no earlier sale matches"),
        *((f"refused: {reason}", tally, reason.because) for reason, tally in sorted(report.refused.items())),
    ]
    for what, tally, why in rows:
        table.add_row(what, f"{tally.lines:,}", f"{pounds(tally.mills):,}", why)
    table.add_section()
    table.add_row(
        "the file", f"{report.everything.lines:,}", f"{pounds(report.everything.mills):,}", "taken and refused"
    )
    return table


def verified_table(verified: Verified) -> Table:
    """The file's sums compared with the database's."""
    table = Table(title="The file against the books")
    for heading in ("what", "file", "books", ""):
        table.add_column(heading, justify="right" if heading in ("file", "books") else "left")
    for what, file, books in verified.rows():
        table.add_row(what, f"{file:,}", f"{books:,}", "equal" if file == books else "DIFFERENT")
    return table


def replay_tables(result: Replayed, currency: str) -> list[Table]:
    """Outcomes with their rate, then latencies by step in milliseconds."""
    outcomes = Table(title=f"{result.orders_a_second:,.1f} orders/s for {result.seconds:,.1f} s")
    outcomes.add_column("outcome")
    outcomes.add_column("baskets", justify="right")
    for outcome, count in result.outcomes.most_common():
        outcomes.add_row(outcome, f"{count:,}")
    for failure, count in result.failures.most_common():
        outcomes.add_row(f"  {failure}", f"{count:,}")
    outcomes.add_section()
    outcomes.add_row("pieces bought", f"{result.units:,}")
    outcomes.add_row("paid", format_money(result.cents, currency))
    outcomes.add_row("told to come back later", f"{result.waits:,}")
    steps = Table(title="Latency, ms")
    for heading in ("step", "calls", "p50", "p99", "longest"):
        steps.add_column(heading, justify="left" if heading == "step" else "right")
    for step, seconds in result.latencies.items():
        figures = (percentile(seconds, 0.5), percentile(seconds, 0.99), max(seconds))
        steps.add_row(step, f"{len(seconds):,}", *(f"{figure * 1000:,.1f}" for figure in figures))
    return [outcomes, steps]


async def run_import(shop: Shop, console: Console, file: Path, month: str | None, *, verified: bool) -> bool:
    """Runs `quartet import`; False if nothing of the file could be read, or with `verified` if the books differ from
    it."""
    with watching(console) as watch:
        report = await import_retail(shop, file, month, watch=watch)
    console.print(report_table(report))
    before = "all of it was booked before" if report.months else "nothing of it could be read"
    written = f"booked {', '.join(report.written)}" if report.written else before
    console.print(
        f"{written}; {report.orders:,} orders of {report.customers:,} customers, {report.products:,} new products,"
        f" {report.seconds:,.1f} s", highlight=False,
    )  # fmt: skip
    console.print(f"every refused line and why: {report.refused_file}", highlight=False, soft_wrap=True)
    if not (verified and report.months):
        return bool(report.months)
    found = await verify(shop, file)
    console.print(verified_table(found))
    return found.holds


async def run_replay(console: Console, url: str, wanted: Sequence[Basket], buyers: int, currency: str) -> bool:
    """Runs `quartet replay` without its final check; False if a basket failed for another reason than a real shopper
    could meet. Raises ValueError if no shop answers at the URL."""
    limits = httpx.Limits(max_connections=buyers, max_keepalive_connections=buyers)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
            with watching(console) as watch:
                done = itertools.count(1)
                result = await replay(
                    http, wanted, buyers, bought=lambda _: watch(Stage.BASKETS, next(done), len(wanted))
                )
    except* httpx.TransportError as errors:
        raise ValueError(
            f"no shop answers at {url} ({errors.exceptions[0]!r}); start one with `quartet up`, or name it with --url"
        ) from None
    for table in replay_tables(result, currency):
        console.print(table)
    return not result.outcomes[Outcome.FAILED]
