"""The search log, and what staff set for queries.

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
from quartet.kernel.errors import invalid
from quartet.kernel.ids import new_id
from quartet.merchandising import store
from quartet.merchandising.model import Opened, Ranking, Rule, Searched, Synonyms, normalised, products_of, told
from quartet.stores.outbox import Event
from quartet.stores.postgres import Postgres, Tx, new_row_id
from quartet.web import trail
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.merchandising")

GATHER_SECONDS = 0.5
BATCH = 2_000
# Two seconds of the busiest shop, some 5 MB.
MOST_WAITING = 20_000
# A statement that counts goes through a day's searches, or through a month of queries.
COUNT_SECONDS = 120.0
OFFERED_DAYS = 30
MOST_OFFERED = 5_000

WRITTEN = Counter("quartet_search_log_written", "Searches and opened pages written to the log.")
DROPPED = Counter("quartet_search_log_dropped", "Searches and opened pages that the log had no room for.")


class Journal:
    """What one process has noted and not yet written."""

    def __init__(self, pg: Postgres) -> None:
        self._pg = pg
        self._waiting: deque[Searched | Opened] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, entry: Searched | Opened) -> None:
        """Takes no time and raises nothing."""
        if len(self._waiting) >= MOST_WAITING:
            DROPPED.inc()
        else:
            self._waiting.append(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._wake)

    def _wake(self) -> None:
        self._timer = None
        task = asyncio.create_task(self.write())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def write(self) -> None:
        """All that waits. What can't be written stays for the next time that something is noted."""
        async with self._writing:
            while self._waiting:
                batch = list(islice(self._waiting, BATCH))
                searches = [entry for entry in batch if isinstance(entry, Searched)]
                opens = [entry for entry in batch if isinstance(entry, Opened)]
                try:
                    async with self._pg.tx() as tx:
                        await store.write(tx, searches, opens)
                except Exception as error:
                    log.warning("searches not written", waiting=len(self._waiting), error=repr(error))
                    return
                for _ in batch:
                    self._waiting.popleft()
                WRITTEN.inc(len(batch))


def _journal(shop: Shop) -> Journal:
    return shop.stores.kept(Journal, shop.stores.pg)


def note_search(shop: Shop, text: str, found: int, *, exact: bool) -> UUID:
    """Notes a search that has been answered, and gives it the id that its answer carries. `exact`: what was found has
    all of its words as they are."""
    search_id, exact = new_row_id(), exact and found > 0
    query, spelt = told(text, exact)
    if query:
        _journal(shop).note(Searched(search_id, shop.clock.now(), query, spelt, found, exact))
    return search_id


def note_opened(shop: Shop, search_id: UUID, product_id: str) -> None:
    """Notes that a product's page was opened from a search."""
    _journal(shop).note(Opened(search_id, product_id, shop.clock.now()))


async def write_log(shop: Shop) -> None:
    """Writes what this process has noted; at its end, or for a test."""
    await _journal(shop).write()


async def keep(tx: Tx, events: Sequence[Event]) -> None:
    """What was sold counts for its queries, in the transaction that takes the event out of the outbox."""
    if confirmed := _orders(events, "order.confirmed"):
        await store.credit(tx, confirmed)
    if cancelled := _orders(events, "order.cancelled"):
        await store.forget_lines(tx, cancelled)


def _orders(events: Sequence[Event], topic: str) -> list[UUID]:
    """Their ids. An event that names none is left out: it must not keep the others from being kept."""
    ids: list[UUID] = []
    for event in events:
        if event.topic == topic:
            with suppress(ValueError, TypeError, AttributeError, KeyError):
                ids.append(UUID(event.payload["order_id"]))
    return ids


async def credit_late(shop: Shop) -> None:
    """Counts what was sold before its search was written down, as `keep` does the rest."""
    async with shop.stores.pg.tx() as tx:
        await store.credit_late(tx)


async def count_queries(shop: Shop, *, yesterday: bool = True) -> None:
    """Counts how often queries of today, and of `yesterday`, were searched for, and puts down which are offered.
    Today's first, and put down before yesterday's, which were counted all day long and may be too many."""
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
    """Forgets what is older than the setting says."""
    before, done = shop.clock.now() - timedelta(days=shop.settings.search_log_days), False
    while not done:
        async with shop.stores.pg.tx() as tx:
            done = await store.sweep(tx, before)
        await shop.step("searches forgotten")


# --- What staff say ---------------------------------------------------------------------------------------------------


async def add_synonyms(shop: Shop, words: Sequence[str], means: Sequence[str], *, actor: str) -> Synonyms:
    """Raises Invalid naming the field."""
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
    """Raises NotFound."""
    async with shop.stores.pg.tx() as tx:
        before = await store.drop_synonyms(tx, id_)
        await trail.record(tx, actor, "synonyms.drop", "synonyms", id_, before=before)


async def put_rule(
    shop: Shop, query: str, pinned: Sequence[str], hidden: Sequence[str], *, offered: bool, actor: str
) -> Rule:
    """In place of what was said of the query before. Raises Invalid naming the field, StoreUnavailable."""
    query = normalised(query)
    if not query:
        raise invalid("query", "must be words")
    ids = await catalog.product_ids_of_skus(shop.stores.mongo, [*pinned, *hidden])
    for field, skus in (("pinned", pinned), ("hidden", hidden)):
        if unknown := [sku for sku in skus if sku not in ids]:
            raise invalid(field, f"there is no product {unknown[0]}")
    pinned_ids, hidden_ids = products_of(pinned, ids), products_of(hidden, ids)
    if both := [sku for sku in hidden if ids[sku] in pinned_ids]:  # each perhaps by another variant's SKU
        raise invalid("hidden", f"has {both[0]}, which is pinned")
    rule = Rule(new_id(), query, tuple(pinned), tuple(hidden), pinned_ids, hidden_ids, offered, shop.clock.now())
    async with shop.stores.pg.tx() as tx:
        before, after = await store.put_rule(tx, rule)
        await trail.record(tx, actor, "search-rule.put", "search-rule", after.id, before=before, after=after)
    return after


async def drop_rule(shop: Shop, id_: UUID, *, actor: str) -> None:
    """Raises NotFound."""
    async with shop.stores.pg.tx() as tx:
        before = await store.drop_rule(tx, id_)
        await trail.record(tx, actor, "search-rule.drop", "search-rule", id_, before=before)


async def set_ranking(shop: Shop, new: Ranking, *, actor: str) -> None:
    """How far what sells for a query may rise, from now on."""
    async with shop.stores.pg.tx() as tx:
        before = await store.set_ranking(tx, new)
        await trail.record(tx, actor, "search-ranking.set", "search-ranking", "sales", before=before, after=new)
