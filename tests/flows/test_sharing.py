"""Several workers share the work by leases: each piece has one owner, a silent one is followed by another, and one that
was only stalled does no harm when it goes on."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from pymongo import errors
from stops import Held
from test_sync import add, copies, equal, kettle, kitchen, running, soon, stored

from quartet import catalog, inventory, merchandising, sync
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import outbox
from quartet.stores.mongo import LostPosition
from quartet.sync import changes, products, relay, store, worker
from quartet.sync.leases import LeaseRunner, Work
from quartet.sync.store import Lease, LeaseLost
from quartet.web.dependencies import Shop

__all__ = ["kitchen"]  # a fixture

PIECES = [piece for pieces in worker.PIECES.values() for piece in pieces]


async def beat(shop: Shop, name: str, seconds: float = 60, pieces: list[str] | None = None) -> dict[str, int]:
    """What falls to the worker of this name."""
    async with shop.stores.pg.once() as tx:
        return await store.heartbeat(tx, name, PIECES if pieces is None else pieces, seconds)


async def give_up(shop: Shop, name: str, pieces: list[str]) -> None:
    async with shop.stores.pg.once() as tx:
        await store.release_leases(tx, name, pieces)


async def test_each_piece_of_work_is_one_workers(shop: Shop) -> None:
    assert set(await beat(shop, "anna")) == set(PIECES)
    assert await beat(shop, "ben") == {}  # what is his is still hers
    left = await beat(shop, "anna")
    assert 0 < len(left) < len(PIECES)
    await give_up(shop, "anna", sorted(set(PIECES) - set(left)))
    bens = await beat(shop, "ben")
    assert set(bens) == set(PIECES) - set(left)
    assert set(bens.values()) == {2}  # the second owner
    assert await beat(shop, "anna") == left
    # A third takes from both and moves nothing between them.
    await beat(shop, "cleo")
    assert set(await beat(shop, "anna")) < set(left)
    assert set(await beat(shop, "ben")) < set(bens)


async def test_a_silent_workers_pieces_are_taken_over_and_its_tokens_are_good_no_more(shop: Shop) -> None:
    old = Lease(await beat(shop, "anna", 0.3))
    async with shop.stores.pg.once() as tx:
        await store.save_position(tx, "changes", "one", caught_up_at=None, items=1, lease=old)

    async def taken() -> bool:
        return set(await beat(shop, "ben")) == set(PIECES)

    await soon(taken)
    async with shop.stores.pg.once() as tx:
        with pytest.raises(LeaseLost):
            await store.save_position(tx, "changes", "two", caught_up_at=None, items=1, lease=old)
        await store.discard_position(tx, "changes", old)
    async with shop.stores.pg.read() as read:
        assert await store.position(read, "changes") == "one"
    async with shop.stores.pg.once() as tx:
        await store.save_position(
            tx, "changes", "three", caught_up_at=None, items=1, lease=Lease(await beat(shop, "ben"))
        )
    assert await beat(shop, "anna") == {}


async def test_a_lease_that_ends_is_anothers_at_that_moment(shop: Shop) -> None:
    """So that nothing lies idle for longer than a lease and a beat after its worker was killed."""
    await beat(shop, "anna", 3)
    async with shop.stores.pg.tx() as tx:
        lasts = await tx.fetchval("SELECT max(extract(epoch FROM until - now()))::float8 FROM work_leases")
        await tx.execute("UPDATE work_leases SET until = now()")
    assert lasts <= 3
    assert set(await beat(shop, "ben")) == set(PIECES)


async def test_workers_that_beat_at_once_never_have_the_same_piece(shop: Shop) -> None:
    names = [f"w{n}" for n in range(6)]
    for _ in range(10):
        shares = await asyncio.gather(*(beat(shop, name) for name in names))
        owned = [piece for share in shares for piece in share]
        assert len(owned) == len(set(owned))
        for name, share in zip(names, shares, strict=True):
            wanted = await beat(shop, name)
            await give_up(shop, name, sorted(set(share) - set(wanted)))
    assert {piece for name in names for piece in await beat(shop, name)} == set(PIECES)


async def test_a_share_runs_what_is_its_own_and_ends_what_is_not(shop: Shop) -> None:
    """Two shares of the same work: between them each piece runs once, and all of it in one when the other ends."""
    runs: dict[str, set[str]] = {"anna": set(), "ben": set()}
    pieces = [f"piece {n}" for n in range(8)]

    def share(name: str) -> LeaseRunner:
        async def loop(lease: Lease) -> None:
            runs[name] = set(lease.tokens)
            try:
                await asyncio.Event().wait()
            finally:
                runs[name] = set()

        made = LeaseRunner(shop, {"all": Work(loop, pieces)})
        made.worker = name
        return made

    async def parted() -> bool:
        assert not runs["anna"] & runs["ben"]
        return bool(runs["anna"] and runs["ben"]) and runs["anna"] | runs["ben"] == set(pieces)

    async def whole() -> bool:
        return runs["anna"] == set(pieces)

    async with running(share("anna").run()):
        await soon(whole)
        async with running(share("ben").run()):
            await soon(parted)
        await soon(whole)
    assert runs == {"anna": set(), "ben": set()}


async def test_a_worker_whose_connections_are_all_busy_keeps_its_work(shop: Shop) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def loop(_: Lease) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def long_statement() -> None:
        async with shop.stores.pg.read() as read:
            await read.fetchval("SELECT pg_sleep($1)", 2 * shop.settings.worker_lease_seconds)

    async with running(LeaseRunner(shop, {"all": Work(loop, ["one"])}).run()):
        await begun.wait()
        await asyncio.gather(*(long_statement() for _ in range(shop.settings.postgres_pool)))
        assert not ended.is_set()
        assert await beat(shop, "ben", pieces=["one"]) == {}


async def test_a_stalled_worker_that_goes_on_says_nothing_of_the_position(kitchen: Shop) -> None:
    """It has carried a batch and stands still before it saves; meanwhile another carries on."""
    stop = Held("carried")
    async with kitchen.stores.pg.once() as tx:
        await store.save_position(tx, changes.PIPELINE, {"at": "the start"}, caught_up_at=None, items=0)
    [id_] = await add(kitchen, kettle("A"))
    buffer = changes.ChangeBuffer(kitchen.clock)
    buffer.add(id_, {"at": "the first change"})
    old = Lease(await beat(kitchen, "anna", 0.2, ["changes"]))
    stalled = asyncio.create_task(changes.process_batch(replace(kitchen, step=stop.step), buffer, old))
    await stop.reached.wait()

    async def taken() -> bool:
        return "changes" in await beat(kitchen, "ben", 60, ["changes"])

    await soon(taken)
    await catalog.delete_product(kitchen, "A", if_match=None)
    buffer = changes.ChangeBuffer(kitchen.clock)
    buffer.add(id_, {"at": "the second change"})
    await changes.process_batch(kitchen, buffer, Lease(await beat(kitchen, "ben", 60, ["changes"])))
    stop.go_on.set()
    with pytest.raises(LeaseLost):
        await stalled
    async with kitchen.stores.pg.read() as read:
        assert await store.position(read, changes.PIPELINE) == {"at": "the second change"}
    assert await stored(kitchen) == {}


async def test_events_of_a_stalled_worker_are_anothers(kitchen: Shop) -> None:
    """What it delivered is delivered again, and it takes nothing out of the outbox."""
    await add(kitchen, kettle("A"))
    await sync.catch_up(kitchen)
    async with kitchen.stores.pg.tx() as tx:
        await inventory.move(tx, "A", 3, "received", actor="test")
    old = Lease(await beat(kitchen, "anna", 0.2, list(relay.PIECES)))

    async def step(name: str) -> None:
        if name == "delivered":
            await soon(taken)

    async def taken() -> bool:
        return bool(await beat(kitchen, "ben", 60, list(relay.PIECES)))

    with pytest.raises(LeaseLost):
        await relay.relay(replace(kitchen, step=step), old)
    async with kitchen.stores.pg.read() as read:
        assert (await outbox.depth(read))[0] == 1
    assert await relay.relay(kitchen, Lease(await beat(kitchen, "ben", 60, list(relay.PIECES)))) == 1
    assert await copies(kitchen) == {"A": 3}


async def test_parts_of_the_outbox_are_every_event_once_and_a_key_is_in_one_part(shop: Shop) -> None:
    async with shop.stores.pg.tx() as tx:
        for n in range(40):
            await outbox.emit(tx, "stock.changed", f"K{n % 20}", {"n": n})
    async with shop.stores.pg.read() as read:
        parts = [await outbox.due(read, 100, [part], topics=["stock.changed"]) for part in range(outbox.PARTS)]
        everything = await outbox.due(read, 100, topics=["stock.changed"])
    assert sorted(event.id for part in parts for event in part) == [event.id for event in everything]
    assert all(parts)
    keys = [{event.key for event in part} for part in parts]
    assert sum(map(len, keys)) == 20
    assert all([event.id for event in part] == sorted(event.id for event in part) for part in parts)


# The stream


async def test_what_waited_longest_is_carried_first_and_the_position_keeps_what_waits(kitchen: Shop) -> None:
    buffer = changes.ChangeBuffer(kitchen.clock)
    for at, id_ in enumerate("CABACD", 1):
        buffer.add(id_, {"at": at})
    buffer.add(None, {"at": 6})
    assert buffer.take(2) == ({"C", "A"}, {"at": 2}, None)
    buffer.add("A", {"at": 7})
    assert buffer.take(2) == ({"B", "D"}, {"at": 6}, None)
    assert buffer.take(2) == ({"A"}, {"at": 7}, buffer.drained_at)
    assert buffer.take(2) == (set(), {"at": 7}, buffer.drained_at)


async def test_the_cache_is_told_of_many_changes_a_batch_at_a_time(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[set[str]] = []

    async def noted(_: Shop, ids: set[str]) -> None:
        told.append(ids)

    monkeypatch.setattr(changes, "invalidate_cache", noted)
    few = replace(kitchen, settings=kitchen.settings.model_copy(update={"sync_batch": 3}))
    buffer = changes.ChangeBuffer(kitchen.clock)
    for at, id_ in enumerate("CABACDEFG", 1):
        buffer.add(id_, {"at": at})

    async def all_told() -> bool:
        return not buffer.has_invalidations.is_set()

    async with running(changes._invalidate_cache(few, buffer)):
        await soon(all_told)
    assert told == [{"C", "A", "B"}, {"D", "E", "F"}, {"G"}]


async def test_the_stream_is_not_read_on_while_nothing_is_carried(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = 0

    async def endless(_mongo: Any, _position: Any = None) -> AsyncGenerator[tuple[str | None, Any], None]:
        nonlocal told
        while True:
            told += 1
            yield f"product {told}", {"at": told}
            await asyncio.sleep(0)

    monkeypatch.setattr(catalog, "watch", endless)

    async def _is(count: int) -> bool:
        return told >= count

    few = replace(kitchen, settings=kitchen.settings.model_copy(update={"sync_waiting": 50}))
    buffer = changes.ChangeBuffer(kitchen.clock)
    async with running(changes._read(few, buffer, None)):
        await soon(lambda: _is(50))
        await asyncio.sleep(0.05)  # and no more
        assert (told, len(buffer.ids)) == (50, 50)
        ids, token, _ = buffer.take(few.settings.sync_batch)
        assert (len(ids), token) == (50, {"at": 50})
        await soon(lambda: _is(100))
        await asyncio.sleep(0.05)
        assert told == 100


@pytest.mark.parametrize("code", [286, 280, 260, 136, 222, 50811])
async def test_every_way_of_losing_the_position_is_known(shop: Shop, code: int) -> None:
    class Gone:
        async def watch(self, *_: Any, **__: Any) -> Any:
            raise errors.OperationFailure("no such place", code)

    collection = shop.stores.mongo.collection(catalog.PRODUCTS)
    collection._collection = Gone()  # type: ignore[assignment]
    with pytest.raises(LostPosition):
        await anext(collection.watch(resume_after={"_data": "8264"}))


async def test_a_position_that_the_stream_has_lost_becomes_a_rebuild(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nobody watched, a product went; the history that told of it is gone. The comparison does not run."""
    await add(kitchen, kettle("A"), kettle("B"))
    await sync.catch_up(kitchen)
    async with kitchen.stores.pg.once() as tx:
        await store.save_position(tx, changes.PIPELINE, {"_data": "of long ago"}, caught_up_at=None, items=0)
    await catalog.delete_product(kitchen, "B", if_match=None)
    watch = catalog.watch

    async def forgetful(mongo: Any, position: Any = None) -> AsyncGenerator[tuple[str | None, Any], None]:
        if position is not None:
            raise LostPosition("286")
        async for told in watch(mongo, position):
            yield told

    monkeypatch.setattr(catalog, "watch", forgetful)

    async def follow() -> None:
        while True:
            await changes.follow(kitchen)

    async def rebuilt() -> bool:
        async with kitchen.stores.pg.read() as read:
            rebuild = await store.last_rebuild(read)
        return rebuild is not None and rebuild.state == "done" and "position" in rebuild.reason

    async with running(follow()):
        await soon(rebuilt, 60)
        await soon(lambda: equal(kitchen))
    assert set(await stored(kitchen)) == {"A"}


async def test_a_quiet_catalogs_position_is_kept_fresh(kitchen: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes, but the history goes on: the position goes with it."""
    at = 0

    async def quiet(_mongo: Any, _position: Any = None) -> AsyncGenerator[tuple[str | None, Any], None]:
        nonlocal at
        while True:
            at += 1
            yield None, {"at": at}

    monkeypatch.setattr(catalog, "watch", quiet)
    async with kitchen.stores.pg.once() as tx:
        await store.save_position(tx, changes.PIPELINE, {"at": 0}, caught_up_at=None, items=0)

    async def position() -> int:
        async with kitchen.stores.pg.read() as read:
            return int((await store.position(read, changes.PIPELINE))["at"])

    async def past(where: int) -> bool:
        return await position() > where

    async with running(changes.follow(kitchen)):
        for _ in range(2):
            now = await position()
            await soon(partial(past, now))


async def test_what_changes_within_a_moment_is_one_batch_and_a_full_one_waits_for_nothing(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(kitchen, settings=kitchen.settings.model_copy(update={"sync_batch": 2}))
    buffer, rests = changes.ChangeBuffer(kitchen.clock), list[float]()

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        buffer.add("B", {"at": 2})

    monkeypatch.setattr(changes, "asyncio", SimpleNamespace(sleep=rest, timeout=asyncio.timeout))
    buffer.add("A", {"at": 1})
    await changes._gather(few, buffer)
    assert (rests, list(buffer.ids)) == ([few.settings.sync_gather_seconds], ["A", "B"])
    await changes._gather(few, buffer)
    assert len(rests) == 1


async def test_a_batch_is_no_larger_than_is_set(kitchen: Shop) -> None:
    drawn = 0

    async def step(name: str) -> None:
        nonlocal drawn
        drawn += name == "drawn"

    ids = await add(kitchen, *(kettle(f"K{n}") for n in range(7)))
    few = replace(kitchen, step=step, settings=kitchen.settings.model_copy(update={"sync_batch": 3}))
    with suppress(TimeoutError):
        await products.sync_products(few, ids)
    assert drawn == 3
    assert await equal(kitchen)


async def test_the_log_of_searches_is_swept_also_while_it_is_too_long_to_be_counted(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And PostgreSQL is not made to count all the time."""
    tries: list[float] = []

    async def too_long(_: Shop, **__: bool) -> None:
        tries.append(monotonic())
        raise StoreUnavailable("postgresql")

    async def swept() -> bool:
        async with shop.stores.pg.read() as read:
            return bool(await read.fetchval("SELECT count(*) FROM searches") == 0)

    async def tried() -> bool:
        return len(tries) > 2

    monkeypatch.setattr(merchandising, "count_queries", too_long)
    monkeypatch.setattr(worker, "COUNT_SECONDS", 1.0)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("INSERT INTO searches VALUES ($1, now() - interval '91 days', 'mug', 1)", uuid4())
    async with running(sync.run_worker(shop, asyncio.Event())):
        await soon(swept)
        await soon(tried)
    assert min(later - earlier for earlier, later in itertools.pairwise(tries)) >= 1


async def test_of_yesterday_the_worker_counts_once_in_a_while_what_was_written_late(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[bool] = []

    async def noted(_: Shop, *, yesterday: bool = True) -> None:
        turns.append(yesterday)

    async def done() -> bool:
        return len(turns) >= 5

    monkeypatch.setattr(merchandising, "count_queries", noted)
    monkeypatch.setattr(worker, "COUNT_SECONDS", 0.01)
    monkeypatch.setattr(worker, "COUNT_TURNS", 3, raising=False)
    async with running(sync.run_worker(shop, asyncio.Event())):
        await soon(done)
    assert turns[:5] == [False, False, True, False, False]


async def test_what_is_searched_for_is_counted_by_the_worker(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def counted() -> bool:
        async with shop.stores.pg.read() as read:
            return bool(await read.fetchval("SELECT sum(searches) FROM query_days") == 2)

    monkeypatch.setattr(worker, "COUNT_SECONDS", 0.2)
    async with shop.stores.pg.tx() as tx:
        for days in (0, 1, 2):
            await tx.execute("INSERT INTO searches VALUES ($1, now() - $2 * interval '1 day', 'mug', 1)", uuid4(), days)
    async with running(sync.run_worker(shop, asyncio.Event())):
        await soon(counted)
