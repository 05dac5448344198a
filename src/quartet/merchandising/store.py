"""The search log and the search settings in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from quartet.kernel.errors import NotFound
from quartet.merchandising.model import (
    Opened,
    QueryLine,
    Ranking,
    ReportOrder,
    Rule,
    Searched,
    SearchReport,
    Synonyms,
    entry_of,
)
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Record, Tx

q = queries(__file__)

# Rows deleted per statement.
PORTION = 20_000


async def write(tx: Tx, searches: Sequence[Searched], opens: Sequence[Opened]) -> None:
    """Writes log entries; idempotent."""
    if searches:
        rows = [(entry.id, entry.at, entry.times, *entry.answered) for entry in searches]
        await tx.execute(q.write_searches, *map(list, zip(*rows, strict=True)))
    if opens:
        ids, *others = map(list, zip(*opens, strict=True))
        await tx.execute(q.write_opens, ids, [*map(entry_of, ids)], *others)


async def expect(tx: Tx, order_id: UUID, found_by: Sequence[tuple[str, UUID]]) -> None:
    """Records from which searches an order's lines came, (SKU, search id) each; the first per SKU counts."""
    await tx.execute(q.expect, order_id, [sku for sku, _ in found_by], [search_id for _, search_id in found_by])


async def credit(tx: Tx, order_ids: Sequence[UUID]) -> None:
    """Credits paid orders to the queries that their lines came from, once, as far as these searches are in the log."""
    await tx.execute(q.credit, order_ids)


async def credit_late(tx: Tx) -> None:
    """Credits lines that were paid before their search was in the log; deletes those whose search will never be."""
    if order_ids := [row["order_id"] for row in await tx.fetch(q.paid)]:
        await credit(tx, order_ids)
        await tx.execute(q.give_up, order_ids)


async def forget_lines(tx: Tx, order_ids: Sequence[UUID]) -> None:
    """Deletes from which searches these orders came."""
    await tx.execute(q.forget_lines, order_ids)


async def report(
    read: Read, *, start: datetime, before: datetime, currency: str, order: ReportOrder, limit: int
) -> SearchReport:
    """Queries in `[start, before)`, highest `order` first; money in one currency."""
    rows = await read.fetch(q.report, start, before, currency, order, limit)
    lines = [QueryLine(**row) for row in rows]
    return SearchReport(tuple(line for line in lines if line.query is not None), lines[-1])


async def sweep(tx: Tx, before: datetime) -> bool:
    """Deletes a portion of what is older; returns whether that was all."""
    tags = [await tx.execute(statement, before, PORTION) for statement in (q.sweep_searches, q.sweep_opens)]
    await tx.execute(q.sweep_sales, before)
    await tx.execute(q.sweep_query_days, before)
    return f"DELETE {PORTION}" not in tags


async def count_queries(tx: Tx, day: datetime) -> None:
    """Recounts the queries of a day, given by its start."""
    await tx.execute(q.count_queries, day)


async def draw_frequent(tx: Tx, since: datetime, least: int, limit: int) -> None:
    """Stores the most frequent queries since `since`, in their latest spelling: those with at least `least` exact
    searches with hits, which must be more than half of all."""
    await tx.execute(q.draw_frequent, since, least, limit)


async def past_queries(read: Read) -> list[tuple[str, int]]:
    """The stored frequent queries with their number of searches, most frequent first."""
    return [(row["spelt"], row["searches"]) for row in await read.fetch(q.past_queries)]


# --- Settings by staff ------------------------------------------------------------------------------------------------


async def stamp(read: Read) -> int:
    """A number that changes with every change of the settings."""
    found: int = await read.fetchval(q.stamp)
    return found


async def all_synonyms(read: Read) -> list[Synonyms]:
    """All synonyms."""
    return [_synonyms(row) for row in await read.fetch(q.all_synonyms)]


async def all_rules(read: Read) -> list[Rule]:
    """All rules."""
    return [_rule(row) for row in await read.fetch(q.all_rules)]


async def synonyms_page(read: Read, before: UUID, limit: int) -> list[Synonyms]:
    """Synonyms, newest first."""
    return [_synonyms(row) for row in await read.fetch(q.synonyms_page, before, limit)]


async def rules_page(read: Read, after: str, limit: int) -> list[Rule]:
    """Rules, sorted by query."""
    return [_rule(row) for row in await read.fetch(q.rules_page, after, limit)]


async def add_synonyms(tx: Tx, new: Synonyms) -> None:
    """Adds synonyms; in effect within a second after the commit."""
    await tx.execute(q.add_synonyms, new.id, new.words, new.means, new.created_at)
    await tx.execute(q.touch)


async def drop_synonyms(tx: Tx, id_: UUID) -> Synonyms:
    """Deletes synonyms and returns them. Raises NotFound."""
    row = await tx.fetchrow(q.drop_synonyms, id_)
    if row is None:
        raise NotFound(f"there are no synonyms {id_}")
    await tx.execute(q.touch)
    return _synonyms(row)


async def put_rule(tx: Tx, rule: Rule) -> tuple[Rule | None, Rule]:
    """Sets a query's rule; returns the earlier one, if any, and the new one."""
    before = await tx.fetchrow(q.lock_rule, rule.query)
    row = await tx.fetchrow(
        q.put_rule, rule.id, rule.query, rule.pinned, rule.hidden, rule.pinned_ids, rule.hidden_ids, rule.offered,
        rule.updated_at,
    )  # fmt: skip
    await tx.execute(q.touch)
    return _rule(before) if before else None, _rule(row)


async def drop_rule(tx: Tx, id_: UUID) -> Rule:
    """Deletes a rule and returns it. Raises NotFound."""
    row = await tx.fetchrow(q.drop_rule, id_)
    if row is None:
        raise NotFound(f"there is no rule {id_}")
    await tx.execute(q.touch)
    return _rule(row)


async def ranking(read: Read) -> Ranking:
    """The current ranking settings."""
    return Ranking(**await read.fetchrow(q.ranking))


async def set_ranking(tx: Tx, new: Ranking) -> Ranking:
    """Sets the ranking settings; returns the earlier ones."""
    before = Ranking(**await tx.fetchrow(q.lock_ranking))
    await tx.execute(q.set_ranking, new.most_boost, new.least_units, new.days)
    await tx.execute(q.touch)
    return before


async def best_of_queries(read: Read, now: datetime, bounds: Ranking, limit: int) -> list[tuple[str, str, int]]:
    """Query, SKU and units of what has sold enough within the `bounds`, most sold first."""
    rows = await read.fetch(q.best_of_queries, now, bounds.days, bounds.least_units, limit)
    return [(row["query"], row["sku"], row["units"]) for row in rows]


def _synonyms(row: Record) -> Synonyms:
    return Synonyms(row["id"], tuple(row["words"]), tuple(row["means"]), row["created_at"])


def _rule(row: Record) -> Rule:
    pinned, hidden = tuple(row["pinned"]), tuple(row["hidden"])
    ids = tuple(row["pinned_ids"]), tuple(row["hidden_ids"])
    return Rule(row["id"], row["query"], pinned, hidden, *ids, row["offered"], row["updated_at"])
