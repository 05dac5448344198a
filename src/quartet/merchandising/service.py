"""The search log, and changes of the search settings.

Log entries are collected in memory and written in batches in the background. A search never waits for it, and no
failure of PostgreSQL affects searching. What does not fit into memory is dropped and counted.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, timedelta
from itertools import islice
from uuid import UUID

import structlog
from prometheus_client import Counter

from quartet import catalog
from quartet.kernel.clock import Clock
from quartet.kernel.errors import invalid
from quartet.kernel.ids import new_id
from quartet.merchandising import store
from quartet.merchandising.model import (
    MOST_ALIKE,
    Answered,
    Opened,
    Ranking,
    Rule,
    Searched,
    Synonyms,
    masked_query,
    normalised,
    products_of,
)
from quartet.stores.outbox import Event
from quartet.stores.postgres import Postgres, Tx
from quartet.web import trail
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.merchandising")

GATHER_SECONDS = 0.5
BATCH = 2_000
# Two seconds of the greatest load expected, if no two searches are alike; some 12 MB.
MOST_WAITING = 20_000
# The timeout of counting statements, which read a day's searches, or a month of queries.
COUNT_SECONDS = 120.0
OFFERED_DAYS = 30
MOST_OFFERED = 5_000

WRITTEN = Counter("quartet_search_log_written", "Searches and opened pages written to the log.")
DROPPED = Counter("quartet_search_log_dropped", "Searches and opened pages that the log had no room for.")


class Journal:
    """The log entries of one process that are not written yet."""

    def __init__(self, pg: Postgres) -> None:
        self._pg = pg
        self._waiting: deque[Searched | Opened] = deque()
        # Those of `_waiting` that still count others: in a crowd most searches are alike.
        self._growing: dict[Answered, Searched] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """The number of entries that are not written yet."""
        return len(self._waiting)

    def note_search(self, answered: Answered, clock: Clock) -> str:
        """Adds a search and returns its id; never waits or raises."""
        entry = self._growing.get(answered)
        if entry is None or entry.times == MOST_ALIKE:
            entry = Searched(answered, clock.now())
            if self._add(entry):
                self._growing[answered] = entry
        return entry.add()

    def note_opened(self, entry: Opened) -> None:
        """Adds an opened page; never waits or raises."""
        self._add(entry)

    def _add(self, entry: Searched | Opened) -> bool:
        """Adds an entry, to be written soon. False if there is no room for it."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._wake)
        if self.waiting >= MOST_WAITING:
            DROPPED.inc()
            return False
        self._waiting.append(entry)
        return True

    def _wake(self) -> None:
        self._timer = None
        self._growing.clear()
        task = asyncio.create_task(self.write())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def write(self) -> None:
        """Writes all waiting entries. After a failure they are kept, until the next entry triggers another try."""
        async with self._writing:
            while self._waiting:
                self._growing.clear()  # nothing is added to what is being written
                batch = list(islice(self._waiting, BATCH))
                searches = [entry for entry in batch if isinstance(entry, Searched)]
                opens = [entry for entry in batch if isinstance(entry, Opened)]
                try:
                    async with self._pg.tx() as tx:
                        await store.write(tx, searches, opens)
                except Exception as error:
                    log.warning("searches not written", waiting=self.waiting, error=repr(error))
                    return
                for _ in batch:
                    self._waiting.popleft()
                WRITTEN.inc(sum(entry.times for entry in searches) + len(opens))


def _journal(shop: Shop) -> Journal:
    return shop.stores.singleton(Journal, shop.stores.pg)


def note_search(shop: Shop, text: str, found: int, *, exact: bool) -> str:
    """Logs an answered search; returns its id for the response's header. `exact`: the hits have all of its words as
    typed."""
    exact = exact and found > 0
    query, spelt = masked_query(text, exact)
    return _journal(shop).note_search(Answered(query, spelt, found, exact), shop.clock) if query else str(new_id())


def note_opened(shop: Shop, search_id: UUID, product_id: str) -> None:
    """Logs that a product's page was opened from a search."""
    _journal(shop).note_opened(Opened(search_id, product_id, shop.clock.now()))


async def write_log(shop: Shop) -> None:
    """Writes this process's waiting entries; at shutdown, or for a test."""
    await _journal(shop).write()


async def keep(tx: Tx, events: Sequence[Event]) -> None:
    """Credits confirmed orders to the queries that they came from, and forgets the searches of cancelled ones; in the
    transaction in which the outbox relay records the events' first try."""
    if confirmed := _orders(events, "order.confirmed"):
        await store.credit(tx, confirmed)
    if cancelled := _orders(events, "order.cancelled"):
        await store.forget_lines(tx, cancelled)


def _orders(events: Sequence[Event], topic: str) -> list[UUID]:
    """The order ids of this topic's events. A malformed event is skipped: it must not fail the others'
    transaction."""
    ids: list[UUID] = []
    for event in events:
        if event.topic == topic:
            with suppress(ValueError, TypeError, AttributeError, KeyError):
                ids.append(UUID(event.payload["order_id"]))
    return ids


async def credit_late(shop: Shop) -> None:
    """Credits orders that were paid before their search was written to the log; `keep` credits the others."""
    async with shop.stores.pg.tx() as tx:
        await store.credit_late(tx)


async def count_queries(shop: Shop, *, yesterday: bool = True) -> None:
    """Counts today's queries, and yesterday's if `yesterday`, and stores the most frequent ones as suggestions. Today's
    are counted and stored first: yesterday's were counted all day long, and may be so many that counting fails."""
    now = shop.clock.now()
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (midnight, midnight - timedelta(days=1)) if yesterday else (midnight,):
        async with shop.stores.pg.once(COUNT_SECONDS) as tx:
            await store.count_queries(tx, day)
        await shop.step("queries counted")
        async with shop.stores.pg.once(COUNT_SECONDS) as tx:
            since = now - timedelta(days=OFFERED_DAYS)
            await store.draw_frequent(tx, since, shop.settings.suggest_least_searches, MOST_OFFERED)
        await shop.step("frequent queries drawn")


async def sweep(shop: Shop) -> None:
    """Deletes log entries older than the setting `search_log_days`, in batches."""
    before, done = shop.clock.now() - timedelta(days=shop.settings.search_log_days), False
    while not done:
        async with shop.stores.pg.tx() as tx:
            done = await store.sweep(tx, before)
        await shop.step("searches forgotten")


# --- Settings by staff ------------------------------------------------------------------------------------------------


async def add_synonyms(shop: Shop, words: Sequence[str], means: Sequence[str], *, actor: str) -> Synonyms:
    """Adds synonyms. Raises Invalid naming the field."""
    new = Synonyms(new_id(), _texts("words", words), _texts("means", means), shop.clock.now())
    if len(new.words) < 2 and not new.means:
        raise invalid("words", "must be two at least, or `means` says what one stands for")
    async with shop.stores.pg.tx() as tx:
        await store.add_synonyms(tx, new)
        await trail.record(tx, actor, "synonyms.add", "synonyms", new.id, after=new)
    return new


def _texts(field: str, given: Sequence[str]) -> tuple[str, ...]:
    texts = tuple(dict.fromkeys(normalised(text) for text in given))
    if "" in texts:
        raise invalid(field, "must be words")
    return texts


async def drop_synonyms(shop: Shop, id_: UUID, *, actor: str) -> None:
    """Deletes synonyms. Raises NotFound."""
    async with shop.stores.pg.tx() as tx:
        before = await store.drop_synonyms(tx, id_)
        await trail.record(tx, actor, "synonyms.drop", "synonyms", id_, before=before)


async def put_rule(
    shop: Shop, query: str, pinned: Sequence[str], hidden: Sequence[str], *, offered: bool, actor: str
) -> Rule:
    """Sets the rule for a query, replacing an earlier one. Raises Invalid naming the field, StoreUnavailable."""
    query = normalised(query)
    if not query:
        raise invalid("query", "must be words")
    ids = await catalog.product_ids_of_skus(shop.stores.mongo, [*pinned, *hidden])
    for field, skus in (("pinned", pinned), ("hidden", hidden)):
        if unknown := [sku for sku in skus if sku not in ids]:
            raise invalid(field, f"there is no product {unknown[0]}")
    pinned_ids, hidden_ids = products_of(pinned, ids), products_of(hidden, ids)
    if both := [sku for sku in hidden if ids[sku] in pinned_ids]:  # by product, since the SKUs may be two variants'
        raise invalid("hidden", f"has {both[0]}, which is pinned")
    rule = Rule(new_id(), query, tuple(pinned), tuple(hidden), pinned_ids, hidden_ids, offered, shop.clock.now())
    async with shop.stores.pg.tx() as tx:
        before, after = await store.put_rule(tx, rule)
        await trail.record(tx, actor, "search-rule.put", "search-rule", after.id, before=before, after=after)
    return after


async def drop_rule(shop: Shop, id_: UUID, *, actor: str) -> None:
    """Deletes a rule. Raises NotFound."""
    async with shop.stores.pg.tx() as tx:
        before = await store.drop_rule(tx, id_)
        await trail.record(tx, actor, "search-rule.drop", "search-rule", id_, before=before)


async def set_ranking(shop: Shop, new: Ranking, *, actor: str) -> None:
    """Sets how much sales may boost a product for a query."""
    async with shop.stores.pg.tx() as tx:
        before = await store.set_ranking(tx, new)
        await trail.record(tx, actor, "search-ranking.set", "search-ranking", "sales", before=before, after=new)
