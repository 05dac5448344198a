"""The state of synchronisation, and what staff can do about it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet import notify
from quartet.kernel.errors import NotFound
from quartet.stores import letters, outbox
from quartet.stores.letters import DeadLetter
from quartet.sync import changes, compare, freshness, products, relay, store
from quartet.sync.freshness import Freshness
from quartet.sync.products import sync_products
from quartet.sync.store import Position, Rebuild
from quartet.web import trail
from quartet.web.dependencies import Shop

PIPELINES = (changes.PIPELINE, relay.PIPELINE, notify.PIPELINE)
SHOWN_LETTERS = 20
REPLAYED = 500


@dataclass(frozen=True)
class Pipeline:
    """`lag_seconds`: everything older than that has been processed; None before the first run. `pending`: the number of
    waiting items, if known. `last_token`: the position from which it would resume."""

    name: str
    lag_seconds: float | None
    pending: int | None
    last_token: Any
    batches: int
    items: int
    retries: int
    dead_letters: int


@dataclass(frozen=True)
class State:
    """Everything that GET /sync shows."""

    pipelines: list[Pipeline]
    freshness: list[Freshness]
    reindex: Rebuild | None
    dead_letters: int
    letters: list[DeadLetter]


async def state(shop: Shop) -> State:
    """Each pipeline's lag and dead letters, freshness, and the latest rebuild."""
    async with shop.stores.pg.read() as read:
        positions = {position.pipeline: position for position in await store.positions(read)}
        dead = await letters.counts(read)
        waiting = {relay.PIPELINE: await outbox.depth(read), notify.PIPELINE: await notify.waiting(read)}
        newest = await letters.newest(read, SHOWN_LETTERS)
        rebuild = await store.last_rebuild(read)
        histogram, canary = await store.freshness(read), await store.canary_states(read)
    now = shop.clock.now()
    pipelines = []
    # Products rejected by the engine may come from either pipeline; counted under `changes`, which retries them.
    letters_of = {changes.PIPELINE: products.PIPELINE}
    for name in PIPELINES:
        at = positions.get(name) or Position(name)
        pending, since = None, at.caught_up_at
        if name in waiting:
            pending, oldest = waiting[name]
            since = oldest or now
        lag = max((now - since).total_seconds(), 0) if since else None
        refused = dead.get(letters_of.get(name, name), 0)
        pipelines.append(Pipeline(name, lag, pending, at.token, at.batches, at.items, at.retries, refused))
    fresh = freshness.summary(histogram, canary, now.timestamp())
    return State(pipelines, fresh, rebuild, sum(dead.values()), newest)


async def dead_letters(shop: Shop, limit: int) -> list[DeadLetter]:
    """The newest dead letters."""
    async with shop.stores.pg.read() as read:
        return await letters.newest(read, limit)


async def replay_dead_letters(shop: Shop, actor: str) -> int:
    """Retries the oldest 500 dead letters of each pipeline; returns how many were taken up. Events go into the outbox
    again under their own id, e-mails wait again; products are processed at once, and stay dead letters if rejected."""
    async with shop.stores.pg.tx() as tx:
        events = await letters.oldest(tx, relay.PIPELINE, REPLAYED)
        for letter in events:
            held = letter.payload
            at = datetime.fromisoformat(held["at"]) if "at" in held else None
            await outbox.requeue(tx, UUID(letter.key), held["topic"], held["key"], held["payload"], created_at=at)
        await letters.delete_dead_letters(tx, relay.PIPELINE, [letter.key for letter in events])
        mails = await letters.oldest(tx, notify.PIPELINE, REPLAYED)
        await notify.revive(tx, [int(letter.key) for letter in mails])
        await letters.delete_dead_letters(tx, notify.PIPELINE, [letter.key for letter in mails])
        refused = await letters.oldest(tx, products.PIPELINE, REPLAYED)
        taken = {"events": events, "mails": mails, "products": refused}
        before = {what: [letter.key for letter in held] for what, held in taken.items()}
        await trail.record(tx, actor, "sync.replay", "dead-letters", "all", before=before)
    await sync_products(shop, [letter.key for letter in refused], cause="doubt")
    return len(events) + len(mails) + len(refused)


async def drop_dead_letter(shop: Shop, id_: int, actor: str) -> DeadLetter:
    """Discards a dead letter for good. Raises NotFound."""
    async with shop.stores.pg.tx() as tx:
        letter = await letters.drop(tx, id_)
        if letter is None:
            raise NotFound(f"there is no dead letter {id_}")
        if letter.pipeline == notify.PIPELINE:
            await notify.drop(tx, int(letter.key))
        if letter.pipeline == products.PIPELINE:
            await store.exclude_from_rebuild(tx, letter.key)
        await trail.record(tx, actor, "sync.drop", "dead-letters", letter.key, before={"pipeline": letter.pipeline})
    return letter


async def catch_up(shop: Shop) -> None:
    """Processes everything that waits, in this process, and makes it visible in search: for loaders and tests. Needs no
    worker, and works beside a running one. E-mails are left to the worker."""
    while await relay.relay(shop):
        pass
    await shop.stores.search.refresh(shop.settings.search_alias)
    found = await compare.compare_ranges(shop)
    await sync_products(shop, found.suspects, cause="doubt")
    await shop.stores.search.refresh(shop.settings.search_alias)


async def reset_after_restore(shop: Shop, reason: str) -> Rebuild:
    """After the stores were restored to an earlier point: the position in the change stream is no longer valid, nor may
    be the search index or a half-built one. Discards the position and the open rebuild, and requests a new one, which
    the worker runs."""
    async with shop.stores.pg.tx() as tx:
        await store.skip_versions(tx)
        await store.discard_position(tx, changes.PIPELINE)
        opened = await store.open_rebuild(tx)
        if opened is not None:
            await store.end_rebuild(tx, opened, reason)
        return await store.ask_rebuild(tx, reason)
