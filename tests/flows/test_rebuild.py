"""A rebuild of the search index that is cut short, held up, gone back from; and shoppers who search meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from stops import Held, Killed, dies_at
from test_sync import Cache, add, becoming, equal, kettle, kitchen, receive, rename_behind, running, soon, stored

from conftest import Command
from quartet import catalog, search, sync
from quartet.catalog import Variant
from quartet.kernel.errors import Conflict, StoreUnavailable
from quartet.kernel.fingerprints import bucket
from quartet.kernel.steps import Step
from quartet.search import store as index_store
from quartet.stores.search import SearchEngine
from quartet.sync import compare, products, store, worker
from quartet.web.dependencies import Shop

__all__ = ["kitchen"]
reindex = import_module("quartet.sync.reindex")  # the room gives its function that name
SKUS = [f"K{i}" for i in range(40)]


@pytest.fixture
async def full(kitchen: Shop, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """Forty products in search, and bulks so small that a rebuild takes many."""
    monkeypatch.setattr(reindex, "BULK", 5)
    await add(kitchen, *map(kettle, SKUS))
    await sync.catch_up(kitchen)
    yield kitchen
    assert await kitchen.stores.search.alias_targets(search.next_alias(kitchen.settings)) == []


async def killed(shop: Shop, step: str, times: int = 1, *, back: bool = False) -> None:
    """A rebuild that came so far."""
    with pytest.raises(Killed):
        await sync.reindex(replace(shop, step=dies_at(step, times)), reason="test", back=back)


async def live(shop: Shop) -> str | None:
    """The index that shoppers search."""
    return await shop.stores.search.alias_target(shop.settings.search_alias)


async def change_everything(shop: Shop) -> None:
    """One comes, one goes, one is renamed, one hidden, one sold; and the worker has heard of it."""
    ids = await add(shop, kettle("NEW"))
    gone = await catalog.find(shop.stores.mongo, "K1")
    assert gone
    await catalog.delete_product(shop, "K1", if_match=None)
    for sku, more in (("K2", {"name": "Teapot"}), ("K3", {"published_at": None})):
        made = kettle(sku, **more)
        ids.append((await catalog.change_product(shop, sku, becoming(made), if_match=None, actor="test"))["_id"])
    await receive(shop, "K4", 3)
    sold = await catalog.find(shop.stores.mongo, "K4")
    assert sold
    await products.sync_products(shop, [*ids, gone["_id"], sold["_id"]])


async def as_changed(shop: Shop) -> bool:
    """Whether search shows what `change_everything` did."""
    held = await stored(shop)
    return await equal(shop) and (
        held.keys() == {*SKUS, "NEW"} - {"K1", "K3"} and held["K2"]["name"] == "Teapot" and held["K4"]["inStock"]
    )


async def test_a_rebuild_that_was_killed_goes_on_where_it_was(full: Shop) -> None:
    await killed(full, "batch", 5)
    halfway = await sync.last_rebuild(full)
    assert halfway
    assert (halfway.state, 0 < halfway.done < 40, halfway.upto > 0) == ("building", True, True)
    await change_everything(full)
    begun: list[int] = []
    fill = reindex.fill

    async def watched(shop: Shop, low: int, high: int, bulks: asyncio.Semaphore) -> tuple[int, set[str]]:
        begun.append(low)
        found: tuple[int, set[str]] = await fill(shop, low, high, bulks)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reindex, "fill", watched)
        rebuild = await sync.reindex(full)
    assert (rebuild.id, rebuild.state, rebuild.index_name) == (halfway.id, "done", halfway.index_name)
    assert min(begun) == halfway.upto
    assert await live(full) == halfway.index_name
    assert await as_changed(full)


async def test_a_rebuild_ends_where_the_engine_has_lost_all_of_its_indexes(full: Shop) -> None:
    """And products change as it goes on."""
    await killed(full, "batch", 3)
    engine = full.stores.search
    for index in await engine.alias_targets(f"{full.settings.search_alias}-all"):
        await engine.delete_index(index)

    async def change(step: str) -> None:
        if step == "filled":
            made = kettle("K2", name="Teapot")
            await catalog.change_product(full, "K2", lambda _: made, if_match=None, actor="test")

    await worker.rebuild(replace(full, step=change))
    rebuilt = await sync.last_rebuild(full)
    assert rebuilt
    assert rebuilt.state == "done"
    assert (await stored(full))["K2"]["name"] == "Teapot"
    assert await equal(full)


async def test_a_new_index_that_cannot_be_written_keeps_nothing_from_the_live_one(
    full: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has one copy, on a node that is gone. The batch is done again, for the new index must not lack it."""
    await killed(full, "filled")
    put = search.put

    async def put_live(engine: Any, alias: str, version: int, documents: Any) -> Any:
        if alias == search.next_alias(full.settings):
            raise StoreUnavailable("search")
        return await put(engine, alias, version, documents)

    with monkeypatch.context() as patched:
        patched.setattr(search, "put", put_live)
        await rename_behind(full, "K2", "Teapot")
        with pytest.raises(StoreUnavailable):
            await products.sync_products(full, [(await stored(full))["K2"]["id"]])
    assert (await stored(full))["K2"]["name"] == "Teapot"
    assert (await sync.reindex(full)).state == "done"
    assert (await stored(full))["K2"]["name"] == "Teapot"
    assert await equal(full)


async def test_a_new_index_whose_node_is_gone_is_begun_anew(full: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await killed(full, "batch", 5)
    halfway = await sync.last_rebuild(full)
    assert halfway is not None

    async def is_red(_: SearchEngine, index: str) -> bool:
        return index == halfway.index_name

    monkeypatch.setattr(SearchEngine, "is_red", is_red)
    rebuild = await sync.reindex(full)
    assert (rebuild.id, rebuild.state) == (halfway.id, "done")
    assert rebuild.index_name != halfway.index_name
    assert rebuild.done == len(SKUS)
    assert await equal(full)


async def test_there_is_no_going_back_to_an_index_whose_node_is_gone(
    full: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not be written, and every batch would wait for it."""
    await sync.reindex(full)
    now, former = await live(full), await full.stores.search.alias_target(index_store.former_alias(full.settings))

    async def is_red(_: SearchEngine, index: str) -> bool:
        return index == former

    monkeypatch.setattr(SearchEngine, "is_red", is_red)
    with pytest.raises(Conflict, match="on no node"):
        await sync.reindex(full, back=True)
    ended = await sync.last_rebuild(full)
    assert (ended and ended.state, await live(full)) == ("failed", now)


async def test_a_rebuild_ends_while_the_cache_is_away(full: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though products changed as it went on, more than one batch of them."""
    few = full.settings.model_copy(update={"sync_batch": 1})

    async def change(step: str) -> None:
        if step == "filled":
            for sku in SKUS[:3]:
                await rename_behind(full, sku, "Teapot")

    Cache(monkeypatch).away = True
    rebuilt = await sync.reindex(replace(full, settings=few, step=change))
    assert rebuilt.state == "done"
    assert {sku for sku, held in (await stored(full)).items() if held["name"] == "Teapot"} == set(SKUS[:3])
    assert await equal(full)


async def test_filling_makes_every_document_and_carries_none_once_more(full: Shop) -> None:
    sizes = (Variant("POT-S", {"litres": 1}), Variant("POT-L", {"litres": 3}))
    pot = kettle("POT", brand="Alto", description="Of steel.", tags=("new",), variants=sizes)
    await add(full, pot, kettle("DRAFT", published_at=None))
    await receive(full, "POT-L", 3)
    await sync.catch_up(full)
    before = await stored(full)
    stops: list[str] = []

    async def noted(name: str) -> None:
        stops.append(name)

    await sync.reindex(replace(full, step=noted))
    assert "batch" in stops
    assert "drawn" not in stops
    assert await stored(full) == before
    assert await equal(full)


@pytest.mark.parametrize("step", ["made", "filled", "settled", "live"])
async def test_a_rebuild_killed_at_any_step_is_ended_by_another(full: Shop, step: str) -> None:
    await killed(full, step)
    await change_everything(full)
    await rename_behind(full, "K8", "Jug")  # of which no worker has heard
    rebuild = await sync.reindex(full)
    assert rebuild.state == "done"
    assert await live(full) == rebuild.index_name
    assert await as_changed(full)


@pytest.mark.parametrize("held", ["batch", "settled"])
async def test_who_has_lost_his_turn_leaves_the_index_to_the_next(full: Shop, held: str) -> None:
    """PostgreSQL was away for a moment, and others have done the rebuild and begun another when he goes on."""
    stop = Held(held)
    slow = asyncio.create_task(sync.reindex(replace(full, step=stop.step)))
    await stop.reached.wait()
    async with full.stores.pg.tx() as tx:
        await tx.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON oid = database
               WHERE locktype = 'advisory' AND datname = current_database()"""
        )
    ended = await sync.reindex(full)
    await killed(full, "filled")
    stop.go_on.set()
    with pytest.raises(StoreUnavailable, match="another"):
        await slow
    async with full.stores.pg.read() as read:
        assert (await store.get_rebuild(read, ended.id)).state == "done"
    assert await live(full) == ended.index_name
    assert (await sync.reindex(full)).state == "done"
    assert await equal(full)


async def test_going_back_ends_with_what_is_true_now(full: Shop) -> None:
    before = await live(full)
    await sync.reindex(full)
    assert await live(full) != before
    await change_everything(full)
    went = await sync.reindex(full, back=True)
    assert (went.kind, went.state) == ("back", "done")
    assert await live(full) == before
    assert await as_changed(full)
    # And forth again, after more has changed.
    await catalog.delete_product(full, "NEW", if_match=None)
    await sync.catch_up(full)
    await sync.reindex(full, back=True)
    assert await live(full) != before
    assert await equal(full)


@pytest.mark.parametrize("held", ["drawn", "read", "copied", "noted"])
async def test_going_back_leaves_nothing_out_of_a_batch_that_began_before(full: Shop, held: str) -> None:
    """The batch drew before anybody wrote to the former index, and is not done when it goes live."""
    await sync.reindex(full)
    changed = await catalog.change_product(
        full, "K5", lambda _: kettle("K5", name="Teapot"), if_match=None, actor="test"
    )
    await receive(full, "K5", 3)
    stop = Held(held)
    slow = asyncio.create_task(products.sync_products(replace(full, step=stop.step), [changed["_id"]]))
    await stop.reached.wait()
    going = asyncio.create_task(sync.reindex(replace(full, step=_opens(stop.go_on, "settled", 1)), back=True))
    await asyncio.gather(slow, going)
    document = (await stored(full))["K5"]
    assert (document["name"], document["inStock"]) == ("Teapot", True)
    # What the slow one copied late comes back as a change.
    await products.sync_products(full, [changed["_id"]])
    assert await equal(full)


async def test_a_new_index_is_built_though_going_back_was_left_half_done(full: Shop) -> None:
    await sync.reindex(full)
    await killed(full, "filled", back=True)
    await sync.reset_after_restore(full, "restored")
    await change_everything(full)
    assert (await sync.reindex(full)).state == "done"
    assert await as_changed(full)


def _opens(gate: asyncio.Event, at: str, times: int) -> Step:
    left = [times]

    async def step(name: str) -> None:
        left[0] -= name == at
        if left[0] == 0:
            gate.set()

    return step


async def test_there_is_no_going_back_without_a_former_index_nor_while_another_is_built(full: Shop) -> None:
    with pytest.raises(Conflict, match="no former index"):
        await sync.reindex(full, back=True)
    await killed(full, "batch")
    with pytest.raises(Conflict, match="is being built"):
        await sync.reindex(full, back=True)
    assert (await sync.reindex(full)).state == "done"


async def test_dead_letters_keep_a_new_index_from_going_live_until_somebody_decides(
    full: Shop, admin: httpx.AsyncClient
) -> None:
    before = await live(full)
    id_ = await spoil(full, "K6")
    for _ in range(2):
        rebuild = await sync.reindex(full)
        assert rebuild.state == "building"
        assert rebuild.error
        assert "dead letters" in rebuild.error
        assert await live(full) == before
    shown = (await admin.get("/sync")).json()
    assert shown["reindex"]["error"] == rebuild.error
    [letter] = shown["letters"]
    assert (await admin.delete(f"/sync/dead-letters/{letter['id']}")).status_code == 204
    assert await products.sync_products(full, [id_]) == {id_}  # as a comparison does: the decision holds
    ended = await sync.reindex(full)
    assert (ended.id, ended.state, ended.error) == (rebuild.id, "done", None)
    assert await live(full) == ended.index_name
    assert "K6" not in await stored(full)


async def spoil(shop: Shop, sku: str) -> str:
    """The engine will refuse it from now on; its id."""
    bad = await catalog.find(shop.stores.mongo, sku)
    assert bad
    broken = {**bad, "ratings": {"avg": "very good", "count": 1}}
    collection = shop.stores.mongo.collection(catalog.PRODUCTS)
    await collection.replace_one(
        {"_id": bad["_id"]}, catalog.with_version(broken, bad["version"] + 1, bad["updatedAt"])
    )
    return str(bad["_id"])


async def test_what_is_refused_only_as_the_new_index_is_compared_keeps_it_from_going_live_too(full: Shop) -> None:
    before = await live(full)

    async def step(name: str) -> None:
        if name == "filled":
            await spoil(full, "K6")

    rebuild = await sync.reindex(replace(full, step=step))
    assert (rebuild.state, "dead letters" in (rebuild.error or "")) == ("building", True)
    assert await live(full) == before
    [letter] = await sync.dead_letters(full, 20)
    await sync.drop_dead_letter(full, letter.id, "test")
    assert (await sync.reindex(full)).state == "done"


@pytest.mark.parametrize("how", ["gone", "forged"])
async def test_a_new_index_is_compared_before_it_goes_live(
    full: Shop, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What it lacks is found by sums alone, what is not as its own fingerprint says by reading some of it whole."""
    held = (await stored(full))["K7"]
    wrong = None if how == "gone" else {**held, "brand": "forged"}

    async def step(name: str) -> None:
        if name == "filled":
            async with full.stores.pg.once() as tx:
                batch = await store.begin_batch(tx)
            await search.put(full.stores.search, search.next_alias(full.settings), batch.version, {held["id"]: wrong})

    sampled = [] if how == "gone" else [bucket(held["id"])]
    monkeypatch.setattr(reindex, "random", SimpleNamespace(sample=lambda *_: sampled))
    rebuild = await sync.reindex(replace(full, step=step))
    assert rebuild.state == "done"
    assert (await stored(full))["K7"] == held


async def test_the_command_builds_an_index_anew_and_goes_back(full: Shop, command: Command) -> None:
    before = await live(full)
    code, said = await command("reindex")
    assert (code, "40 products are in the new search index" in said) == (0, True), said
    assert "40/40" in said
    assert await live(full) != before
    code, said = await command("reindex", "--back")
    assert (code, "the former search index is live again" in said) == (0, True), said
    assert "40/40" in said
    assert await live(full) == before
    await killed(full, "filled", back=True)
    code, said = await command("reindex")  # goes on with what was begun, and says which it was
    assert (code, "the former search index is live again" in said) == (0, True), said


async def test_how_fast_it_goes_and_how_long_it_takes_is_told(full: Shop, admin: httpx.AsyncClient) -> None:
    await killed(full, "batch", 4)
    shown = (await admin.get("/sync")).json()["reindex"]
    assert (shown["state"], shown["kind"]) == ("building", "new")
    assert shown["rate"] > 0
    assert shown["secondsLeft"] == pytest.approx((shown["total"] - shown["done"]) / shown["rate"])
    await sync.reindex(full)
    assert (await admin.get("/sync")).json()["reindex"]["secondsLeft"] is None


async def test_searches_lose_nothing_and_see_no_draft_while_it_is_rebuilt_and_gone_back(
    full: Shop, client: httpx.AsyncClient
) -> None:
    """Forty are there all the time; drafts and what is to come tomorrow come into the catalog meanwhile."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    seen: list[set[str]] = []
    over = asyncio.Event()

    async def shop_around() -> None:
        while not over.is_set():
            found = await client.get("/search", params={"size": 100})
            assert found.status_code == 200, found.text
            seen.append({item["sku"] for item in found.json()["items"]})

    async def write() -> None:
        for n in range(6):
            await add(full, kettle(f"DRAFT{n}", published_at=None), kettle(f"LATER{n}", published_at=tomorrow))
            await catalog.change_product(
                full, SKUS[n], becoming(kettle(SKUS[n], name=f"Pot {n}")), if_match=None, actor="test"
            )

    async with running(sync.run_worker(full, asyncio.Event())):
        around = asyncio.create_task(shop_around())
        for back in (False, True, False):
            _, rebuild = await asyncio.gather(write(), _by_worker(full, back=back))
            assert rebuild.state == "done", rebuild.error
            await asyncio.gather(*(catalog.delete_product(full, f"{k}{n}", if_match=None)
                                   for k in ("DRAFT", "LATER") for n in range(6)))  # fmt: skip
        over.set()
        await around
        await soon(lambda: equal(full))
    assert seen
    assert [found ^ set(SKUS) for found in seen if found != set(SKUS)] == []
    assert (await compare.differing(full, patience=0)).suspects == {}


async def _by_worker(shop: Shop, *, back: bool) -> store.Rebuild:
    asked = await reindex.ask(shop, "test", back=back)

    async def ended() -> bool:
        found = await sync.last_rebuild(shop)
        return found is not None and found.id == asked.id and found.state in ("done", "failed")

    await soon(ended, 60)
    found = await sync.last_rebuild(shop)
    assert found
    return found


async def test_a_shop_that_keeps_more_of_a_product_goes_on_with_the_index_it_has_until_it_is_rebuilt(
    full: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, definition = search.document, deepcopy(index_store.INDEX)
    properties = definition["mappings"]["properties"]
    properties["badge"] = properties["words"]["properties"]["badge"] = {"type": "keyword"}

    def with_badge(product: Mapping[str, Any]) -> dict[str, Any] | None:
        held = document(product)
        return held and held | {"badge": "new", "words": {**held["words"], "badge": "new"}}

    monkeypatch.setattr(index_store, "INDEX", definition)
    monkeypatch.setattr(search, "document", with_badge)
    assert await products.sync_products(full, await add(full, kettle("NEW"))) == set()
    assert (await stored(full))["NEW"]["badge"] == "new"
    assert not await search.is_current(full.stores.search, full.settings)  # so that it is rebuilt all the same
    rebuilt = await sync.reindex(full, reason="the index was of an earlier definition")
    assert (rebuilt.state, rebuilt.error) == ("done", None)
    assert await search.is_current(full.stores.search, full.settings)
    assert {held.get("badge") for held in (await stored(full)).values()} == {"new"}


async def test_a_worker_of_before_leaves_the_index_of_a_newer_version(
    full: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, alias = full.stores.search, full.settings.search_alias
    theirs = await engine.alias_target(alias)
    definition = deepcopy(index_store.INDEX)
    del definition["mappings"]["properties"]["attrsInStock"]
    monkeypatch.setattr(index_store, "INDEX", definition)
    async with full.stores.pg.tx() as tx:
        await tx.execute("INSERT INTO schema_migrations (version) VALUES ('9999')")
    await worker.rebuild(full)
    assert (await engine.alias_target(alias), await sync.last_rebuild(full)) == (theirs, None)

    assert theirs is not None
    await engine.delete_index(theirs)
    await worker.rebuild(full)
    assert await search.is_current(engine, full.settings), "better one of before than none"

    monkeypatch.undo()
    async with full.stores.pg.tx() as tx:
        await tx.execute("DELETE FROM schema_migrations WHERE version = '9999'")
    await worker.rebuild(full)
    assert await search.is_current(engine, full.settings)


class Drowsy:
    """A search engine that is asked by a process that stands still after its nth answer, while something happens."""

    def __init__(self, engine: SearchEngine, nth: int, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._engine, self._left, self._meanwhile = engine, nth, meanwhile

    async def _stand_still(self) -> None:
        self._left -= 1
        if self._left == 0:
            await self._meanwhile()

    async def alias_target(self, alias: str) -> str | None:
        found = await self._engine.alias_target(alias)
        await self._stand_still()
        return found

    async def alias_targets(self, alias: str) -> list[str]:
        found = await self._engine.alias_targets(alias)
        await self._stand_still()
        return found

    async def aliases_of(self, index: str) -> list[str]:
        found = await self._engine.aliases_of(index)
        await self._stand_still()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@pytest.mark.parametrize("nth", range(1, 5))
async def test_who_stood_still_while_clearing_up_deletes_nothing_that_has_gone_live_meanwhile(
    full: Shop, nth: int
) -> None:
    await sync.reindex(full, reason="before")
    made = []

    async def rebuild() -> None:
        made.append((await sync.reindex(full, reason="meanwhile")).index_name)

    drowsy: Any = Drowsy(full.stores.search, nth, rebuild)
    await search.abandon_next(drowsy, full.settings)
    assert made == [await live(full)]
    assert await equal(full)


async def test_who_stood_still_while_clearing_up_leaves_the_index_that_another_builds(full: Shop) -> None:
    engine, made = full.stores.search, []

    async def begin() -> None:
        made.append(await index_store.build_next(engine, full.settings))

    drowsy: Any = Drowsy(engine, 1, begin)
    await search.abandon_next(drowsy, full.settings)
    assert made == await engine.alias_targets(search.next_alias(full.settings))
    await search.abandon_next(engine, full.settings)
    assert await engine.aliases_of(made[0]) == []


@pytest.mark.parametrize("nth", range(1, 5))
async def test_who_stood_still_while_clearing_up_leaves_an_index_that_goes_live(full: Shop, nth: int) -> None:
    await sync.reindex(full, reason="before")
    engine = full.stores.search
    built = await index_store.build_next(engine, full.settings)
    woken: list[str] = []

    async def go_live() -> None:
        woken.append(built)
        await index_store.go_live(engine, full.settings, built)

    drowsy: Any = Drowsy(engine, nth, go_live)
    await index_store.sweep(drowsy, full.settings)
    assert woken == [built] == [await live(full)]
