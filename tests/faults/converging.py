"""A shop whose workers are moved step by step, in an order that a seed draws: one goes on until its next step while all
others stand still, so that a seed that fails fails again. Between the steps products come, change and go, workers are
killed, the engine is away, busy or deaf, and what was told is told again. At the end one worker carries what is left,
by the streams alone (no comparison mends anything), and all stores must say the same of every product."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from conftest import differing, everything
from quartet import audit, catalog, inventory, search, sync
from quartet.catalog import Category, Draft, Level, cache, pages
from quartet.kernel.clock import FixedClock
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.steps import unwatched
from quartet.stores import letters, mongo, outbox
from quartet.stores.search import BulkResult
from quartet.sync import changes, products, relay, store
from quartet.web.dependencies import Shop

Json = dict[str, Any]
Put = Callable[..., Awaitable[list[BulkResult]]]

MOVES = 90
SKUS = 5
LAST_YEAR = datetime(2025, 1, 1, tzinfo=UTC)
NEXT_YEAR = datetime(2126, 1, 1, tzinfo=UTC)


class Actor:
    """Something that goes from step to step, when it is its turn."""

    def __init__(self, shop: Shop, work: Callable[[Shop], Awaitable[None]]) -> None:
        self.at = "the start"
        self._shop = replace(shop, step=self._step)
        self._may_go, self._stands = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run(work))

    async def _run(self, work: Callable[[Shop], Awaitable[None]]) -> None:
        await self._step("the start")
        with suppress(StoreUnavailable):  # a loop of the worker would begin anew
            await work(self._shop)

    async def _step(self, name: str) -> None:
        self.at = name
        self._may_go.clear()
        self._stands.set()
        await self._may_go.wait()

    async def move(self) -> None:
        """Goes on to its next step, or to its end."""
        await self._stands.wait()
        self._stands.clear()
        self._may_go.set()
        stands = asyncio.create_task(self._stands.wait())
        await asyncio.wait({stands, self.task}, return_when=asyncio.FIRST_COMPLETED)
        stands.cancel()
        if self.task.done():
            self.task.result()

    async def kill(self) -> None:
        """It does nothing any more, from where it stands."""
        self.task.cancel()
        await asyncio.wait([self.task])


@dataclass
class Engine:
    """What stands between the worker and search; `mood` is how it takes the next writes."""

    put: Put
    dice: random.Random = field(default_factory=random.Random)
    mood: str = "well"

    async def take(self, engine: Any, alias: str, version: int, documents: Mapping[str, Json | None]) -> Any:
        """`search.put`, on a bad day."""
        if self.mood == "away":
            raise StoreUnavailable("search")
        busy = {id_ for id_ in sorted(documents) if self.mood == "busy" and self.dice.random() < 0.5}
        if self.mood == "busy":
            self.mood = "well"
        taken = {id_: held for id_, held in documents.items() if id_ not in busy}
        results = await self.put(engine, alias, version, taken) if taken else []
        if self.mood == "deaf":  # it has written, and its answer is lost
            raise StoreUnavailable("search")
        return [*results, *(BulkResult(id_, 429, "queue is full") for id_ in busy)]


class World:
    """A shop, two workers and whatever happens; each seed has products of its own in it."""

    def __init__(self, shop: Shop, patch: pytest.MonkeyPatch) -> None:
        self.shop = shop
        self.engine = Engine(search.put)
        patch.setattr(search, "put", self.engine.take)
        patch.setattr(relay, "AWAY_SECONDS", 0.0)  # what is postponed is due again by the order of moves, not by time
        patch.setattr(mongo, "_PAUSE_SECONDS", 0)
        self._stores = [replace(shop.stores) for _ in range(2)]  # beside which a worker remembers
        self.log: list[str] = []

    async def prepare(self) -> None:
        await self.shop.stores.redis.call("FLUSHDB")  # which all shops of a run share
        await catalog.put_category(self.shop, Category("kitchen", "Kitchen", None, {"type": "object"}))

    async def run(self, seed: int) -> list[str]:
        """What is wrong in the end, if anything; `log` tells how it came to that."""
        self.log = [f"seed {seed}"]
        self.dice, self.engine.dice, self.engine.mood = random.Random(seed), random.Random(seed), "well"
        self.skus = [f"S{seed}-{n}" for n in range(SKUS)]
        self.refused: set[str] = set()
        self.tokens: list[Any] = []
        self.slow: dict[str, Actor] = {}
        await self._remember_where_the_stream_is()
        self.actors = {
            f"{work.__name__} {n}": self._worker(n, work) for n in range(2) for work in (follow, carry_events)
        }
        for _ in range(MOVES):
            await self._move()
        return await self._end()

    async def _remember_where_the_stream_is(self) -> None:
        stream = catalog.watch(self.shop.stores.mongo, None)
        async with aclosing(stream):
            _, token = await anext(stream)
        await self._save(token)

    async def _save(self, token: Any) -> None:
        async with self.shop.stores.pg.once() as tx:
            await store.save_position(tx, changes.PIPELINE, token, caught_up_at=None, items=0)

    def _worker(self, number: int, work: Callable[[Shop], Awaitable[None]]) -> Actor:
        """Of two workers, whose clocks are an hour apart and more, and of whom one carries one product at a time."""
        stores = self._stores[number]
        stores._singletons.pop(products._Memory, None)
        clock = FixedClock(datetime.now(UTC) + timedelta(hours=(-1, 1)[number]))
        settings = self.shop.settings.model_copy(update={"sync_batch": (1, 500)[number]})
        return Actor(replace(self.shop, clock=clock, settings=settings, stores=stores), work)

    async def _move(self) -> None:
        what = self.dice.random()
        if what < 0.5:
            await self._go_on()
        elif what < 0.85:
            await self._change()
        elif what < 0.9:
            await self._kill()
        elif what < 0.95:
            self.engine.mood = self.dice.choice(["well", "well", "away", "busy", "deaf"])
            self.log.append(f"search is {self.engine.mood}")
        else:
            await self._tell_again()

    async def _go_on(self) -> None:
        everybody = self.actors | self.slow
        name = self.dice.choice(sorted(everybody))
        for _ in range(self.dice.choice([1, 1, 2, 5, 12])):
            actor = everybody[name]
            await actor.move()
            self.log.append(f"{name} goes on to {'its end' if actor.task.done() else actor.at}")
            if actor.task.done():
                self._begin_anew(name)
                return

    def _begin_anew(self, name: str) -> None:
        if self.slow.pop(name, None) is None:
            work, _, number = name.rpartition(" ")
            self.actors[name] = self._worker(int(number), {"follow": follow, "carry_events": carry_events}[work])

    async def _kill(self) -> None:
        name = self.dice.choice(sorted(self.actors | self.slow))
        actor = (self.actors | self.slow)[name]
        self.log.append(f"{name} is killed at {actor.at}")
        await actor.kill()
        self._begin_anew(name)

    async def _tell_again(self) -> None:
        """An old position, an old event, a batch that was on its way for long, or a shopper who is slow."""
        what, sku = self.dice.choice(["position", "event", "batch", "shopper"]), self.dice.choice(self.skus)
        self.log.append(f"again: {what} {sku}")
        if what == "position":
            async with self.shop.stores.pg.read() as read:
                self.tokens.append(await store.position(read, changes.PIPELINE))
            await self._save(self.dice.choice(self.tokens))
        elif what == "event":
            async with self.shop.stores.pg.tx() as tx:
                await outbox.emit(tx, "stock.changed", sku, {"sku": sku})
        else:
            slow = self._batch(sku) if what == "batch" else self._look(sku)
            self.slow[f"{what} {len(self.log)}"] = Actor(self.shop, slow)

    def _batch(self, sku: str) -> Callable[[Shop], Awaitable[None]]:
        doubting = partial(products.sync_products, cause="doubt")
        works: list[Callable[..., Awaitable[Any]]] = [products.sync_products, doubting, products.sync_copies]
        work = self.dice.choice(works)

        async def batch(shop: Shop) -> None:
            await work(shop, [catalog.loaded_id(sku)])

        return batch

    def _look(self, sku: str) -> Callable[[Shop], Awaitable[None]]:
        async def look(shop: Shop) -> None:
            """As `pages.product_page` does it, taking its time."""
            redis = shop.stores.redis
            leases = await cache.lease(redis, [sku])
            await shop.step("leased")
            product = await catalog.find(shop.stores.mongo, sku)
            await shop.step("read")
            await pages._keep(shop, leases, {} if product is None else {sku: product})

        return look

    # What happens to products

    async def _change(self) -> None:
        sku = self.dice.choice(self.skus)
        product = await catalog.find(self.shop.stores.mongo, sku)
        if product is None:
            happens: Callable[[str], Awaitable[None]] = self._insert
        else:
            happens = self.dice.choice(
                [self._update, self._replace, self._delete, self._unpublish, self._schedule, self._reprice, self._stock,
                 self._stock, self._stock, self._write_past, self._delete_past, self._spoil, self._look_now]
            )  # fmt: skip
        self.log.append(f"{happens.__name__.strip('_')} {sku}")
        await happens(sku)

    def _draft(self, sku: str, published_at: datetime | None = LAST_YEAR, **more: Any) -> Draft:
        name = f"Kettle {self.dice.randrange(10**6)}"
        return Draft(sku, name, "kitchen", slug=f"kettle-{sku}".lower(), published_at=published_at, **more)

    async def _insert(self, sku: str) -> None:
        """Under the id that it had, if there was one before."""
        draft = self._draft(sku)
        async with self.shop.stores.pg.tx() as tx:
            item, _ = await inventory.put(
                tx, sku, draft.name, self.dice.randrange(1, 999), currency="GBP", actor="test"
            )
        levels = {sku: Level(item.unit_price_cents, item.available)}
        await catalog.load_products(self.shop, [draft], levels)

    async def _update(self, sku: str) -> None:
        await self._edit(sku, self._draft(sku, tags=(self.dice.choice(["new", "old"]),)))

    async def _replace(self, sku: str) -> None:
        await self._edit(sku, self._draft(sku, description="another", price_cents=self.dice.randrange(1, 999)))

    async def _unpublish(self, sku: str) -> None:
        await self._edit(sku, self._draft(sku, None))

    async def _schedule(self, sku: str) -> None:
        await self._edit(sku, self._draft(sku, NEXT_YEAR))

    async def _edit(self, sku: str, draft: Draft) -> None:
        await catalog.change_product(self.shop, sku, lambda _: draft, if_match=None, actor="test")

    async def _delete(self, sku: str) -> None:
        await catalog.delete_product(self.shop, sku, if_match=None)

    async def _reprice(self, sku: str) -> None:
        async with self.shop.stores.pg.tx() as tx:
            await inventory.put(tx, sku, "Kettle", self.dice.randrange(1, 999), currency="GBP", actor="test")

    async def _stock(self, sku: str) -> None:
        async with self.shop.stores.pg.tx() as tx:
            left = (await inventory.prices(tx, [sku]))[sku].available
            await inventory.move(tx, sku, -left if left else 1, "adjusted", actor="test")

    async def _write_past(self, sku: str) -> None:
        """By somebody who knows the database and none of the rooms."""
        update = {"$set": {"name": f"Past {self.dice.randrange(10**6)}"}, "$inc": {"version": 1}}
        await self._collection.update_one({"_id": catalog.loaded_id(sku)}, update)

    async def _delete_past(self, sku: str) -> None:
        await self._collection.delete_one({"_id": catalog.loaded_id(sku)})

    async def _spoil(self, sku: str) -> None:
        """The engine will refuse it, until it is mended."""
        self.refused.add(sku)
        await self._rate(sku, "very good")

    async def _rate(self, sku: str, rating: float | str) -> None:
        update = {"$set": {"ratings.avg": rating}, "$inc": {"version": 1}}
        await self._collection.update_one({"_id": catalog.loaded_id(sku)}, update)

    async def _look_now(self, sku: str) -> None:
        await pages.product_page(self.shop, sku)

    @property
    def _collection(self) -> mongo.Collection:
        return self.shop.stores.mongo.collection(catalog.PRODUCTS)

    # The end

    async def _end(self) -> list[str]:
        for actor in (self.actors | self.slow).values():
            await actor.kill()
        self.engine.mood = "well"
        for sku in sorted(self.refused):
            await self._rate(sku, 4.5)
        await self._carry_the_rest()
        async with self.shop.stores.pg.read() as read:
            dead = await letters.counts(read)
        if dead:
            await sync.replay_dead_letters(self.shop, "test")
        return await self._wrong()

    async def _carry_the_rest(self) -> None:
        """What a healthy worker does that begins where the last position was saved."""
        for stores in (self.shop.stores, *self._stores):
            stores._singletons.pop(products._Memory, None)
        async with self.shop.stores.pg.read() as read:
            position = await store.position(read, changes.PIPELINE)
        buffer = changes.ChangeBuffer(self.shop.clock)
        async with aclosing(catalog.watch(self.shop.stores.mongo, position)) as stream:
            told = 1
            while told or buffer.ids:
                told = await read_on(stream, buffer)
                await changes.process_batch(replace(self.shop, step=unwatched), buffer)
                told += await relay.relay(self.shop)

    async def _wrong(self) -> list[str]:
        shop = self.shop
        await shop.stores.search.refresh(shop.settings.search_alias)
        report = await audit.check(shop, patience=0)
        wrong = [f"{found.rule}: {found.subject}: {found.finding}" for found in report.violations]
        wrong += [f"differs: {id_}" for id_ in sorted(await differing(shop))]
        for now in (datetime.now(UTC), NEXT_YEAR + timedelta(days=1)):
            wrong += [f"seen at {now:%Y}: {sku}" for sku in sorted(await self._wrongly_seen(now))]
        async with shop.stores.pg.read() as read:
            wrong += [f"dead letters: {n} of {name}" for name, n in (await letters.counts(read)).items()]
        return wrong

    async def _wrongly_seen(self, now: datetime) -> set[str]:
        """What a shopper finds then and should not, or the other way round."""
        found = await search.find(self.shop.stores.search, self.shop.settings, search.Wanted(size=1000), now)
        held = await everything(self.shop)
        return {hit["_source"]["sku"] for hit in found.hits} ^ {p["sku"] for p in held if catalog.is_published(p, now)}


async def follow(shop: Shop) -> None:
    """As `changes.follow`, whose waiting is for the clock: here a batch is what there is when it is this one's turn."""
    async with shop.stores.pg.read() as read:
        position = await store.position(read, changes.PIPELINE)
    buffer = changes.ChangeBuffer(shop.clock)
    async with aclosing(catalog.watch(shop.stores.mongo, position)) as stream:
        while True:
            await shop.step("reading")
            await read_on(stream, buffer)
            await changes.process_batch(shop, buffer)


async def read_on(stream: AsyncGenerator[tuple[str | None, Any], None], buffer: changes.ChangeBuffer) -> int:
    """All there is for now; how much that was."""
    told = 0
    buffer.saved_at = float("-inf")  # so that the position is saved each time
    while True:
        id_, token = await anext(stream)
        buffer.add(id_, token)
        if id_ is None:
            return told
        told += 1


async def carry_events(shop: Shop) -> None:
    """As the worker's loop does."""
    while True:
        await shop.step("waiting")
        await relay.relay(shop)


# Workers that are wrong, each in a way that the proof has to notice


async def save_before_carrying(shop: Shop, buffer: changes.ChangeBuffer, *_: Any) -> None:
    """`changes.process_batch` the wrong way round: what is saved as done is lost when it is killed now."""
    ids, token, drained_at = buffer.take(shop.settings.sync_batch)
    async with shop.stores.pg.once() as tx:
        await store.save_position(tx, changes.PIPELINE, token, caught_up_at=drained_at, items=0)
    await shop.step("saved")
    await products.sync_products(shop, ids)


def take_all_but_the_ids(self: changes.ChangeBuffer, most: int) -> tuple[set[str], Any, datetime | None]:
    """What is saved as done is what has been read: what waits then is lost when it is killed."""
    ids, _, drained_at = TAKE(self, most)
    return ids, self.token, drained_at


async def put_without_version(engine: Any, alias: str, _version: int, documents: Mapping[str, Json | None]) -> Any:
    """Whoever writes last wins, however old what it read."""
    return await engine.bulk(
        alias, [({"delete" if held is None else "index": {"_id": id_}}, held) for id_, held in documents.items()]
    )


async def delete_without_version(engine: Any, alias: str, version: int, documents: Mapping[str, Json | None]) -> Any:
    """An old delete takes away what was put in again since."""
    gone = [({"delete": {"_id": id_}}, None) for id_, held in documents.items() if held is None]
    left = {id_: held for id_, held in documents.items() if held is not None}
    results = await engine.bulk(alias, gone) if gone else []
    return [*results, *(await PUT(engine, alias, version, left) if left else [])]


PUT, TAKE = search.put, changes.ChangeBuffer.take
BROKEN: Sequence[tuple[str, Any, str, Any]] = (
    ("a position saved before what it stands for is written", changes, "process_batch", save_before_carrying),
    ("a position saved past what still waits", changes.ChangeBuffer, "take", take_all_but_the_ids),
    ("writes without a version", search, "put", put_without_version),
    ("deletes without a version", search, "put", delete_without_version),
)
