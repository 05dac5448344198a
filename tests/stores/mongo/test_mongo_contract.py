"""What the shop asks of MongoDB, and nothing else: an engine on which this passes will do."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from pymongo.errors import BulkWriteError, OperationFailure, WriteConcernError

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.mongo import Collection, DuplicateKey, Mongo

MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)
DOCUMENT: dict[str, Any] = {
    "_id": "a",
    "sku": "A",
    "text": "Ünï 'quoted' \"twice\" $dollar",
    "big": 2**53,
    "float": 4.7,
    "yes": True,
    "nothing": None,
    "at": MOMENT,
    "attrs": {"ram_gb": 32, "touch": False},
    "variants": [{"sku": "A-1", "attrs": {"color": "black"}, "priceCents": 2**40}],
    "tags": ["x", "y"],
    "empty": [],
    "version": 1,
}


@pytest.fixture
async def mongo(servers: dict[str, str]) -> AsyncIterator[Mongo]:
    """A database of one's own; on a real replica set where QUARTET_TEST_MONGODB_URL names one."""
    name = f"t_{uuid4().hex[:12]}"
    store = Mongo(os.environ.get("QUARTET_TEST_MONGODB_URL") or servers["mongodb"], name)
    yield store
    await store.drop_database()
    await store.close()


@pytest.fixture
async def things(mongo: Mongo) -> Collection:
    """Six documents under the indexes that products have."""
    things = mongo.collection("things")
    await things.create_indexes(
        ([("sku", 1)], True),
        ([("tags", 1)], False),
        ([("category", 1), ("attrs.ram_gb", 1), ("ratings.avg", -1)], False),
        ([("category", 1), ("ratings.avg", 1), ("sku", 1)], False),
    )
    await things.insert_many(
        [
            {
                "_id": f"id{i}",
                "sku": f"S{i}",
                "category": "c" if i < 4 else "d",
                "attrs": {"ram_gb": 8 * i, "touch": bool(i % 2), "cpu": f"i{i}"},
                "options": [{"color": "black", "size": i}, {"color": "blue", "size": i + 10}],
                "ratings": {"avg": 4.5 if i < 3 else i / 2},
                "tags": ["all", f"t{i}"],
                "ms": None if i == 3 else 1000 + i,
                "version": 1,
            }
            for i in range(6)
        ]
    )
    return things


async def ids(things: Collection, where: dict[str, Any], **more: Any) -> str:
    return "".join(found["_id"].removeprefix("id") for found in await things.find(where, **more))


async def test_a_document_comes_back_as_it_went(mongo: Mongo) -> None:
    things = mongo.collection("things")
    await things.insert_one(dict(DOCUMENT))
    assert await things.find_one({"_id": "a"}) == DOCUMENT
    assert await things.find_one({"_id": "a"}, ["sku", "attrs"]) == {
        "_id": "a", "sku": "A", "attrs": DOCUMENT["attrs"]
    }  # fmt: skip
    assert await things.find_one({"_id": "b"}) is None
    changed = {**DOCUMENT, "at": MOMENT + timedelta(milliseconds=1), "tags": [], "version": 2}
    assert await things.replace_one({"_id": "a", "version": 1}, changed)
    assert await things.find_one({"_id": "a"}) == changed


async def test_preparing_twice_is_preparing_once(mongo: Mongo) -> None:
    validator = {"bsonType": "object", "required": ["sku"], "properties": {"sku": {"bsonType": "string"}}}
    for schema in (None, validator, {**validator, "required": ["sku", "name"]}):
        await mongo.ensure_collection("things", schema)
    await mongo.ensure_collection("plain")
    for _ in range(2):
        await mongo.collection("things").create_indexes(([("sku", 1)], True), ([("name", 1)], False))
    await mongo.collection("things").insert_one({"_id": "a", "sku": "a", "name": "b"})


async def test_unique_means_unique_on_every_way_in(things: Collection) -> None:
    for attempt in (
        things.insert_one({"_id": "id0", "sku": "new"}),
        things.insert_one({"_id": "new", "sku": "S0"}),
        things.insert_many(
            [{"_id": "first", "sku": "first"}, {"_id": "id1", "sku": "S9"}, {"_id": "third", "sku": "t"}]
        ),
        things.replace_one({"_id": "id1"}, {"_id": "id1", "sku": "S0"}),
        things.update_one({"_id": "id1"}, {"$set": {"sku": "S0"}}),
    ):
        with pytest.raises(DuplicateKey):
            await attempt
    assert len(await things.find({})) == 7  # an ordered insert keeps what stood before the one refused
    assert (await things.find_one({"_id": "id1"}, ["sku"]) or {})["sku"] == "S1"


async def test_writes_tell_whether_there_was_something(things: Collection) -> None:
    assert await things.update_one({"_id": "id0", "version": 1}, {"$set": {"attrs.cpu": "x"}, "$inc": {"version": 1}})
    assert not await things.update_one({"_id": "id0", "version": 1}, {"$set": {"attrs.cpu": "y"}})
    assert await things.update_one({"_id": "id0"}, {"$set": {"attrs.cpu": "x"}})  # matched, though nothing is new
    assert (await things.find_one({"_id": "id0"}) or {})["attrs"] == {"ram_gb": 0, "touch": False, "cpu": "x"}
    assert not await things.replace_one({"_id": "id0", "version": 9}, {"_id": "id0"})
    assert not await things.delete_one({"_id": "id1", "version": 9})
    assert await things.delete_one({"_id": "id1", "version": 1})
    assert await things.delete_many({"_id": {"$in": ["id2", "id3", "nope"]}, "category": "c"}) == 2
    assert len(await things.find({})) == 3


async def test_of_writers_at_one_version_one_wins(things: Collection) -> None:
    async def count_up() -> None:
        while True:
            found = await things.find_one({"_id": "id0"})
            assert found is not None
            newer = {**found, "n": found.get("n", 0) + 1, "version": found["version"] + 1}
            if await things.replace_one({"_id": "id0", "version": found["version"]}, newer):
                return

    await asyncio.gather(*(count_up() for _ in range(16)))
    await asyncio.gather(*(things.update_one({"_id": "id0"}, {"$inc": {"n": 1}}) for _ in range(16)))
    assert (await things.find_one({"_id": "id0"}) or {})["n"] == 32


RATED = [("ratings.avg", -1), ("sku", -1)]
FILTERS: list[tuple[dict[str, Any], str]] = [
    ({"category": "c", "attrs.ram_gb": {"$gte": 16}}, "23"),
    ({"attrs.ram_gb": {"$gte": 8, "$lt": 32}}, "123"),
    ({"attrs.ram_gb": {"$gte": 8.5}}, "2345"),
    ({"attrs.ram_gb": {"$gte": "8"}}, ""),
    ({"attrs.touch": {"$eq": True}}, "135"),
    ({"attrs.touch": {"$eq": False}}, "024"),
    ({"attrs.cpu": {"$eq": "i1"}}, "1"),
    ({"attrs.cpu": {"$eq": "$cpu"}}, ""),
    ({"attrs.absent": {"$eq": 1}}, ""),
    ({"tags": {"$in": ["t1"]}}, "1"),
    ({"tags": {"$in": ["t"]}}, ""),
    ({"tags": {"$in": ["it's"]}}, ""),
    ({"options": {"$elemMatch": {"color": {"$eq": "black"}, "size": {"$gte": 3}}}}, "345"),
    ({"options": {"$elemMatch": {"color": {"$eq": "black"}, "size": {"$gte": 10}}}}, ""),
    ({"options": {"$elemMatch": {"size": {"$gte": 12, "$lte": 13}}}}, "23"),
    ({"ms": {"$lte": 1004}}, "0124"),
    ({"category": {"$in": ["c", "d"]}, "ms": {"$lte": 1001}}, "01"),
    ({"category": {"$in": []}}, ""),
    ({"_id": {"$in": ["id1", "nope", "id4"]}}, "14"),
    ({"$and": [{"category": "c"}, {"ratings.avg": 4.5, "sku": {"$lt": "S2"}}]}, "01"),
    ({"$and": [{"category": "c", "tags": {"$in": ["all"]}}, {"ratings.avg": {"$lt": 4.5}}]}, "3"),
]


async def test_filters_find_what_they_say(things: Collection) -> None:
    found = [(where, await ids(things, where, sort=[("sku", 1)])) for where, _ in FILTERS]
    assert found == FILTERS


async def test_lists_are_sorted_and_cut(things: Collection) -> None:
    assert await ids(things, {}, sort=RATED) == "210543"
    assert await ids(things, {}, sort=[("ratings.avg", 1), ("sku", 1)]) == "345012"
    assert await ids(things, {"category": {"$in": ["c", "d"]}}, sort=RATED, limit=4) == "2105"
    assert await ids(things, {}, sort=[("sku", 1)], skip=2, limit=2) == "23"
    assert [list(found) for found in await things.find({}, limit=1, projection=["_id"])] == [["_id"]]


async def test_dates_compare_as_moments(things: Collection) -> None:
    for day in range(4):
        at = MOMENT + timedelta(days=day)
        await things.replace_one({"_id": f"id{day}"}, {"_id": f"id{day}", "sku": f"S{day}", "at": at})
    in_tokyo = (MOMENT + timedelta(days=2)).astimezone(timezone(timedelta(hours=9)))
    assert await ids(things, {"at": {"$lte": in_tokyo}}, sort=[("at", -1)]) == "210"
    assert await ids(things, {"at": {"$lt": in_tokyo}}, sort=[("at", 1)]) == "01"
    assert await ids(things, {"at": in_tokyo}) == "2"


async def test_groups_are_counted_and_summed(things: Collection) -> None:
    found = await things.aggregate(
        [
            {"$match": {"category": "c"}},
            {"$group": {"_id": "$category", "sum": {"$sum": "$attrs.ram_gb"}, "count": {"$sum": 1}}},
        ]
    )
    assert found == [{"_id": "c", "sum": 48, "count": 4}]
    assert await things.aggregate([{"$match": {"category": "x"}}, {"$group": {"_id": "$category"}}]) == []


async def test_a_scan_sees_everything_once(things: Collection) -> None:
    batches = [[found["_id"] for found in batch] async for batch in things.scan({"tags": {"$in": ["all"]}}, batch=4)]
    assert batches == [["id0", "id1", "id2", "id3"], ["id4", "id5"]]


# The change stream


async def changes(things: Collection, count: int, after: Any = None) -> tuple[list[str], Any]:
    """The next `count` changes and the position after them."""
    seen: list[str] = []
    position = after
    async with contextlib.aclosing(things.watch(resume_after=after)) as stream:
        async for id_, token in stream:
            position = token
            if id_ is not None:
                seen.append(id_)
            if len(seen) == count:
                break
    return seen, position


async def test_every_kind_of_change_is_told(things: Collection) -> None:
    async with contextlib.aclosing(things.watch()) as stream:
        id_, position = await anext(stream)
    assert id_ is None
    assert position, "nothing yet, but a position to resume from"
    await things.insert_one({"_id": "new", "sku": "new", "n": {"m": 1}})
    await things.update_one({"_id": "new"}, {"$set": {"n.m": 2}, "$inc": {"version": 1}})
    await things.replace_one({"_id": "id1"}, {"_id": "id1", "sku": "S1"})
    await things.insert_many([{"_id": "x", "sku": "x"}, {"_id": "y", "sku": "y"}])
    await things.delete_one({"_id": "id2"})
    await things.delete_many({"_id": {"$in": ["x", "y"]}})
    seen, halfway = await asyncio.wait_for(changes(things, 3, position), 20)
    assert seen == ["new", "new", "id1"]
    seen, _ = await asyncio.wait_for(changes(things, 5, halfway), 20)
    assert (seen[:3], sorted(seen[3:])) == (["x", "y", "id2"], ["x", "y"])


async def test_another_collections_changes_are_not_told(mongo: Mongo, things: Collection) -> None:
    async with contextlib.aclosing(things.watch()) as stream:
        _, position = await anext(stream)
    assert position
    await mongo.collection("others").insert_one({"_id": "stranger"})
    await things.insert_one({"_id": "ours", "sku": "ours"})
    assert (await asyncio.wait_for(changes(things, 1, position), 20))[0] == ["ours"]


async def test_a_watcher_that_is_cancelled_ends(things: Collection) -> None:
    async def follow() -> None:
        async for _ in things.watch():
            pass

    for wait in range(8):
        watcher = asyncio.create_task(follow())
        await asyncio.sleep(0.05 + wait * 0.007)
        watcher.cancel()
        done, _ = await asyncio.wait([watcher], timeout=10)
        assert done == {watcher}
        assert watcher.cancelled()


# A server that is not there


async def test_a_missing_server_is_said_quickly() -> None:
    gone = Mongo("mongodb://127.0.0.1:1", "x")
    things = gone.collection("things")
    started = asyncio.get_running_loop().time()
    for call in (
        things.find_one({}),
        things.insert_one({"_id": "a"}),
        things.aggregate([{"$limit": 1}]),
        changes(things, 1),
        gone.ensure_collection("things"),
        gone.ping(),
    ):
        with pytest.raises(StoreUnavailable) as refused:
            await call
        assert refused.value.store == "mongodb"
    assert asyncio.get_running_loop().time() - started < 6 * 4
    await gone.close()


class SteppingDown:
    """A primary that is deposed while it waits for the others to have what was written."""

    async def insert_one(self, document: Any) -> None:
        raise WriteConcernError("operation was interrupted", 11602, {"code": 11602})

    async def bulk_write(self, requests: Any, *, ordered: bool) -> None:
        interrupted = {"code": 11602, "errmsg": "operation was interrupted", "errInfo": {}}
        raise BulkWriteError({"writeErrors": [], "writeConcernErrors": [interrupted]})


async def test_a_write_that_the_others_may_not_have_is_unknown_and_the_server_in_doubt(mongo: Mongo) -> None:
    things = Collection(SteppingDown(), mongo.guard)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        await things.insert_one({"_id": "a"})
    assert mongo.guard.is_doubtful
    with pytest.raises(StoreUnavailable):
        await things.replace_many([({"_id": "a"}, {"_id": "a"})])


class Refusing:
    """A server that runs, and refuses everything."""

    def __init__(self, code: int) -> None:
        self._code = code

    async def find_one(self, *_: Any) -> None:
        raise OperationFailure("not you, or not now", self._code)


@pytest.mark.parametrize("code", [13, 18, 8000, 14031])
async def test_a_server_that_lets_us_in_no_more_or_has_no_room_is_away(mongo: Mongo, code: int) -> None:
    with pytest.raises(StoreUnavailable) as away:
        await Collection(Refusing(code), mongo.guard).find_one({})  # type: ignore[arg-type]
    assert away.value.is_unauthorized is (code != 14031)


async def test_what_a_server_finds_wrong_with_the_question_is_our_fault(mongo: Mongo) -> None:
    with pytest.raises(OperationFailure):
        await Collection(Refusing(2), mongo.guard).find_one({})  # type: ignore[arg-type]


async def test_a_server_says_its_version(mongo: Mongo) -> None:
    assert await mongo.ping()
