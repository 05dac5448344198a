"""How synchronisation stands, and what staff can do about it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from quartet.stores import outbox
from quartet.sync import changes, products, relay, store
from quartet.sync.products import carry, compare
from quartet.sync.store import Letter, Rebuild
from quartet.web.dependencies import Shop

SHOWN_LETTERS = 20
REPLAYED = 500


@dataclass(frozen=True)
class Pipeline:
    """`lag_seconds`: everything older than that has been carried; None before the first. `pending`: what waits, where
    that is known. `token` is where it would go on."""

    name: str
    lag_seconds: float | None
    pending: int | None
    token: Any
    batches: int
    items: int
    retries: int
    dead_letters: int


@dataclass(frozen=True)
class State:
    """Everything that GET /sync shows."""

    pipelines: list[Pipeline]
    rebuild: Rebuild | None
    dead_letters: int
    letters: list[Letter]


async def state(shop: Shop) -> State:
    """How far each pipeline is and what could not be carried."""
    async with shop.stores.pg.read() as read:
        positions = {position.pipeline: position for position in await store.positions(read)}
        counts = await store.letter_counts(read)
        pending, oldest = await outbox.depth(read)
        letters = await store.letters(read, SHOWN_LETTERS)
        rebuild = await store.last_rebuild(read)
    now = shop.clock.now()
    pipelines = []
    # What the engine refuses came through either pipeline; it is counted with the changes, which carry it again.
    dead = {changes.PIPELINE: counts.get(products.PIPELINE, 0), relay.PIPELINE: counts.get(relay.PIPELINE, 0)}
    for name in (changes.PIPELINE, relay.PIPELINE):
        known = positions.get(name)
        since = known.caught_up_at if known else None
        if name == relay.PIPELINE:
            since = oldest or now
        pipelines.append(
            Pipeline(
                name,
                max((now - since).total_seconds(), 0) if since else None,
                pending if name == relay.PIPELINE else None,
                known.token if known else None,
                known.batches if known else 0,
                known.items if known else 0,
                known.retries if known else 0,
                dead[name],
            )
        )
    return State(pipelines, rebuild, sum(counts.values()), letters)


async def replay_dead_letters(shop: Shop) -> int:
    """Tries what could not be carried once more, the oldest 500 of each pipeline; answers how many were taken up.
    Events go into the outbox again under their own id; products are carried at once, and stay letters if refused."""
    async with shop.stores.pg.tx() as tx:
        events = await store.take_letters(tx, relay.PIPELINE, REPLAYED)
        for letter in events:
            held = letter.payload
            await outbox.put_back(tx, UUID(letter.key), held["topic"], held["key"], held["payload"])
        await store.exhume(tx, relay.PIPELINE, [letter.key for letter in events])
        refused = await store.take_letters(tx, products.PIPELINE, REPLAYED)
    await carry(shop, [letter.key for letter in refused])
    return len(events) + len(refused)


async def catch_up(shop: Shop) -> None:
    """Carries everything that waits, here and now, and makes it findable: for loaders and for tests. No worker needed,
    and one that runs does no harm."""
    while await relay.relay(shop):
        pass
    after: str | None = ""
    while after is not None:
        part = await compare(shop, after)
        await carry(shop, part.differing)
        after = part.upto
    await shop.stores.search.refresh(shop.settings.search_alias)
