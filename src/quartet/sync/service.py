"""How synchronisation stands, and what staff can do about it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet import notify
from quartet.kernel.errors import NotFound
from quartet.stores import letters, outbox
from quartet.stores.letters import Letter
from quartet.sync import changes, compare, freshness, products, relay, store
from quartet.sync.freshness import Freshness
from quartet.sync.products import carry
from quartet.sync.store import Position, Rebuild
from quartet.web import trail
from quartet.web.dependencies import Shop

PIPELINES = (changes.PIPELINE, relay.PIPELINE, notify.PIPELINE)
SHOWN_LETTERS = 20
REPLAYED = 500


@dataclass(frozen=True)
class Pipeline:
    """`lag_seconds`: everything older than that has been carried; None before the first. `pending`: what waits, where
    that is known. `last_token` is where it would go on."""

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
    letters: list[Letter]


async def state(shop: Shop) -> State:
    """How far each pipeline is and what could not be carried."""
    async with shop.stores.pg.read() as read:
        positions = {position.pipeline: position for position in await store.positions(read)}
        dead = await letters.counts(read)
        waiting = {relay.PIPELINE: await outbox.depth(read), notify.PIPELINE: await notify.waiting(read)}
        newest = await letters.newest(read, SHOWN_LETTERS)
        rebuild = await store.last_rebuild(read)
        tooks, songs = await store.freshness(read), await store.songs(read)
    now = shop.clock.now()
    pipelines = []
    # What the engine refuses came through either pipeline; it is counted with the changes, which carry it again.
    letters_of = {changes.PIPELINE: products.PIPELINE}
    for name in PIPELINES:
        at = positions.get(name) or Position(name)
        pending, since = None, at.caught_up_at
        if name in waiting:
            pending, oldest = waiting[name]
            since = oldest or now
        lag = max((now - since).total_seconds(), 0) if since else None
        buried = dead.get(letters_of.get(name, name), 0)
        pipelines.append(Pipeline(name, lag, pending, at.token, at.batches, at.items, at.retries, buried))
    fresh = freshness.summary(tooks, songs, now.timestamp())
    return State(pipelines, fresh, rebuild, sum(dead.values()), newest)


async def dead_letters(shop: Shop, limit: int) -> list[Letter]:
    """The newest."""
    async with shop.stores.pg.read() as read:
        return await letters.newest(read, limit)


async def replay_dead_letters(shop: Shop, actor: str) -> int:
    """Tries what could not be carried once more, the oldest 500 of each pipeline; answers how many were taken up.
    Events go into the outbox again under their own id, e-mails wait again; products are carried at once, and stay
    letters if refused."""
    async with shop.stores.pg.tx() as tx:
        events = await letters.oldest(tx, relay.PIPELINE, REPLAYED)
        for letter in events:
            held = letter.payload
            at = datetime.fromisoformat(held["at"]) if "at" in held else None
            await outbox.put_back(tx, UUID(letter.key), held["topic"], held["key"], held["payload"], created_at=at)
        await letters.exhume(tx, relay.PIPELINE, [letter.key for letter in events])
        mails = await letters.oldest(tx, notify.PIPELINE, REPLAYED)
        await notify.revive(tx, [int(letter.key) for letter in mails])
        await letters.exhume(tx, notify.PIPELINE, [letter.key for letter in mails])
        refused = await letters.oldest(tx, products.PIPELINE, REPLAYED)
        taken = {"events": events, "mails": mails, "products": refused}
        before = {what: [letter.key for letter in held] for what, held in taken.items()}
        await trail.record(tx, actor, "sync.replay", "dead-letters", "all", before=before)
    await carry(shop, [letter.key for letter in refused], cause="doubt")
    return len(events) + len(mails) + len(refused)


async def drop_dead_letter(shop: Shop, id_: int, actor: str) -> Letter:
    """Gives up for good what can't be carried. Raises NotFound."""
    async with shop.stores.pg.tx() as tx:
        letter = await letters.drop(tx, id_)
        if letter is None:
            raise NotFound(f"there is no dead letter {id_}")
        if letter.pipeline == notify.PIPELINE:
            await notify.drop(tx, int(letter.key))
        if letter.pipeline == products.PIPELINE:
            await store.leave_out(tx, letter.key)
        await trail.record(tx, actor, "sync.drop", "dead-letters", letter.key, before={"pipeline": letter.pipeline})
    return letter


async def catch_up(shop: Shop) -> None:
    """Carries everything that waits, here and now, and makes it findable: for loaders and for tests. No worker needed,
    and one that runs does no harm. E-mails are left to the worker."""
    while await relay.relay(shop):
        pass
    await shop.stores.search.refresh(shop.settings.search_alias)
    found = await compare.look_at_all(shop)
    await carry(shop, found.suspects, cause="doubt")
    await shop.stores.search.refresh(shop.settings.search_alias)


async def begin_anew(shop: Shop, reason: str) -> Rebuild:
    """After the stores were put back to an earlier point: the position in the change stream is of another time, and so
    may be search, and an index half built. The worker opens the stream anew and builds search anew."""
    async with shop.stores.pg.tx() as tx:
        await store.leap(tx)
        await store.lose(tx, changes.PIPELINE)
        opened = await store.open_rebuild(tx)
        if opened is not None:
            await store.end_rebuild(tx, opened, reason)
        return await store.ask_rebuild(tx, reason)
