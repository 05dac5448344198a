"""The connection to MongoDB is cut at every question of following the catalog's changes: none is lost, and none told
twice but what is then without effect."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import test_sync
from cut_stream import StreamWire, stream_wire
from cut_wire import HOWS
from test_sync import add, equal, has_position, kettle, running, soon
from use_cases import told

from conftest import database_url
from quartet import audit, catalog
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import letters
from quartet.stores.mongo import Collection, Mongo
from quartet.sync import changes, store
from quartet.web.dependencies import Shop

kitchen = test_sync.kitchen  # a fixture

NEWS = {"aggregate", "getMore"}  # the stream is opened; it is asked what is new
ALONE = 5  # questions of a stream
CARRYING = 8  # with those that are asked to carry what it tells
WAYS = [*((how, False) for how in HOWS), ("before", True), ("within", True)]


@asynccontextmanager
async def behind_a_wire(mongodb_url: str) -> AsyncIterator[tuple[StreamWire, Mongo, Mongo]]:
    """A wire to this database, the database at its other end, and the same without a wire."""
    name = urlsplit(mongodb_url).path.strip("/")
    async with stream_wire(mongodb_url) as (wire, url):
        behind, here = Mongo(url, name), Mongo(mongodb_url, name)
        try:
            yield wire, behind, here
        finally:
            await behind.close()
            await here.close()


async def read(wire: StreamWire, things: Collection, position: Any, last: str) -> tuple[list[str], Any, int]:
    """What is told from there to the last change, the position then, and how often it was begun anew meanwhile."""
    ids: list[str] = []
    anew = 0
    while True:
        try:
            async with aclosing(things.watch(resume_after=position)) as stream:
                async for id_, token in stream:
                    position = token
                    if id_ is not None:
                        ids.append(id_)
                    if id_ == last:
                        return ids, position, anew
        except StoreUnavailable:
            anew += 1
            wire.mend()


@pytest.mark.parametrize(("how", "lasting"), WAYS)
async def test_wherever_a_stream_is_cut_each_change_is_told_once(
    servers: dict[str, str], how: str, lasting: bool
) -> None:
    async with behind_a_wire(database_url(servers["mongodb"], f"t_{uuid4().hex[:12]}")) as (wire, behind, here):
        things = here.collection("things")
        await things.insert_one({"_id": "first"})
        async with aclosing(things.watch()) as stream:
            _, position = await anext(stream)
        begun_anew, broken = 0, Counter[str]()
        for at in range(ALONE):
            ids = [f"at {at}, {n}" for n in range(at + 3)]
            left = iter(ids)

            async def write(name: str, left: Any = left) -> None:
                """So that each answer has something to lose."""
                if name in NEWS and (id_ := next(left, None)):
                    await things.insert_one({"_id": id_})

            wire.first = write
            wire.break_at(at, how, lasting=lasting)
            with told(f"cut {how} question {at}"):
                async with asyncio.timeout(30):
                    seen, position, anew = await read(wire, behind.collection("things"), position, ids[-1])
                assert wire.broke
                assert seen == ids
            begun_anew += anew
            broken[wire.broke[0]] += 1
        await here.drop_database()
    print(f"cut {how}, {'lasting' if lasting else 'once'}: {dict(broken)}, begun anew {begun_anew} times")
    assert set(broken) == NEWS
    # After one cut the driver goes on by itself, if it is given the time.
    assert (begun_anew >= ALONE) == lasting


class Hand:
    """Somebody who changes the catalog: each product once at most until `rest`, so that each change counts."""

    def __init__(self, shop: Shop, skus: list[str]) -> None:
        self.shop, self.skus = shop, skus
        self.begun = self.done = 0
        self._touched: list[str] = []

    async def change(self) -> None:
        """One product is new, or another, or gone."""
        self.begun += 1
        number = self.begun
        match number % 3:
            case 0:
                await catalog.delete_product(self.shop, self.skus.pop(0), if_match=None)
            case 1:
                self._touched.append(f"P{number}")
                await add(self.shop, kettle(f"P{number}"))
            case _:
                self._touched.append(sku := self.skus.pop(0))
                draft = kettle(sku, name=f"Kettle {number}")
                await catalog.change_product(self.shop, sku, lambda _: draft, if_match=None, actor="test")
        self.done += 1

    def rest(self) -> None:
        """All may be changed again."""
        self.skus += self._touched
        self._touched = []


async def keep_following(shop: Shop, wire: StreamWire) -> None:
    """As the worker's loop does, but without its pauses; a wire that lasts to be cut is mended meanwhile."""
    task = asyncio.current_task()
    while task is None or not task.cancelling():
        try:
            await changes.follow(shop)
        except StoreUnavailable:
            wire.mend()
        else:
            raise AssertionError("the position was lost")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("how", "lasting"), [("before", True), ("within", False)])
async def test_wherever_following_is_cut_search_ends_equal_without_a_rebuild(
    kitchen: Shop, how: str, lasting: bool
) -> None:
    hand, broken = Hand(kitchen, [f"OLD{n}" for n in range(24)]), Counter[str]()
    await add(kitchen, *map(kettle, hand.skus))
    async with behind_a_wire(kitchen.settings.mongodb_url or "") as (wire, mongo, _):
        behind = replace(kitchen, stores=replace(kitchen.stores, mongo=mongo))
        async with running(keep_following(behind, wire)):
            await soon(lambda: has_position(kitchen), 60)
        async with kitchen.stores.pg.read() as read:
            rebuilt = await store.last_rebuild(read)
        for at in range(CARRYING):
            enough = hand.done + at + 2

            async def change(name: str, enough: int = enough) -> None:
                """So that each answer has something to lose."""
                if name in NEWS and hand.begun < enough:
                    await hand.change()

            async def is_cut(enough: int = enough) -> bool:
                return bool(wire.broke) and hand.done == enough

            wire.first = change
            wire.break_at(at, how, lasting=lasting)
            with told(f"cut {how} question {at}"):
                async with running(keep_following(behind, wire)):
                    await soon(is_cut, 60)
                    await hand.change()
                    await soon(lambda: equal(kitchen), 60)
            hand.rest()
            broken[wire.broke[0]] += 1
    print(f"cut {how}, {'lasting' if lasting else 'once'}: {dict(broken)}, {hand.done} changes")
    async with kitchen.stores.pg.read() as read:
        assert await store.last_rebuild(read) == rebuilt
        assert await letters.counts(read) == {}
    assert (await audit.check(kitchen, patience=0)).violations == ()
