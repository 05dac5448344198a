"""A shop that is sold from is backed up, lost, and put back."""

import asyncio
import itertools
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psutil
import pytest
from stops import Killed, dies_at
from test_sync import add, equal, kettle, running, soon

from conftest import Outbox, everything, settings_of_ones_own
from floor import Floor, made
from quartet import audit, backup, catalog, cli, inventory, orders, search, sync
from quartet.catalog import Category, Draft
from quartet.cli import prepare
from quartet.devstores import postgres
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import open_stores
from quartet.sync import store
from quartet.web.dependencies import Shop

SKUS = [f"K{i:02}" for i in range(30)]


def tool(name: str) -> Path:
    """Of the server that the tests run on."""
    found = postgres.find()
    assert found is not None
    return postgres.tool(name, found.major)


@pytest.fixture
async def full(shop: Shop) -> Shop:
    """Thirty kettles with a thousand pieces each, and a category of its own."""
    await catalog.put_category(shop, Category("kitchen", "Kitchen", None, {"type": "object"}))
    await add(shop, *map(kettle, SKUS))
    await stock(shop, *SKUS)
    await sync.catch_up(shop)
    return shop


async def stock(shop: Shop, *skus: str) -> None:
    """A thousand pieces of each."""
    async with shop.stores.pg.tx() as tx:
        for sku in skus:
            await inventory.put(tx, sku, f"Kettle {sku}", 2500, currency="GBP", actor="test", stock=1000)


async def change(shop: Shop, sku: str, draft: Draft) -> None:
    """The product is this from now on."""
    await catalog.change_product(shop, sku, lambda _: draft, if_match=None, actor="test")


async def back_up(shop: Shop, folder: Path) -> backup.Manifest:
    return await backup.back_up(shop, folder, tool("pg_dump"))


async def restore(shop: Shop, folder: Path, **more: Any) -> backup.Manifest:
    return await backup.restore(shop, folder, tool("pg_restore"), prepare, **more)


async def caught_up(shop: Shop) -> None:
    """As far as a worker brings it after it was put back."""
    async with running(sync.run_worker(shop, asyncio.Event())):
        await soon(lambda: _rebuilt(shop), 60)
        await soon(lambda: equal(shop), 60)


async def found(shop: Shop) -> dict[str, str]:
    """What search finds: names by SKU."""
    held = await search.stored(shop.stores.search, shop.settings.search_alias, "", None, 1000)
    return {document["sku"]: document["name"] for document in held.values()}


@pytest.fixture
async def other(servers: dict[str, str], template: str, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Shop]]]:
    """`await other()` is an empty shop on other stores; what is in Redis is lost then."""
    async with AsyncExitStack() as stack:

        async def opened() -> Shop:
            settings = await stack.enter_async_context(settings_of_ones_own(servers, template, tmp_path))
            stores = await stack.enter_async_context(open_stores(settings))
            stack.push_async_callback(stores.mongo.drop_database)
            await stores.redis.call("FLUSHDB")
            return Shop(settings, stores, mail=Outbox())

        yield opened


@asynccontextmanager
async def busy(floor: Floor, paid: list[str], unpaid: list[str]) -> AsyncIterator[None]:
    """Two shoppers buy all the time, one of them pays (the lists have what was acknowledged), and staff write the
    catalog: kettles come, others are renamed."""

    async def buy(acknowledged: list[str]) -> None:
        for sku in itertools.cycle(SKUS):
            order = await made(floor.shopper.post("/orders", json={"items": [{"sku": sku, "qty": 1}]}))
            if acknowledged is paid:
                body = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
                await made(floor.shopper.post("/payments", json=body))
            acknowledged.append(order["id"])
            await asyncio.sleep(0.05)

    async def write() -> None:
        for number, sku in enumerate(itertools.cycle(SKUS)):
            await add(floor.shop, kettle(f"NEW{number}"))
            await stock(floor.shop, f"NEW{number}")
            await change(floor.shop, sku, kettle(sku, name=f"Renamed {number}", slug=f"kettle-{sku.lower()}"))
            await asyncio.sleep(0.1)

    async with running(buy(paid), buy(unpaid), write()):
        yield


async def test_a_shop_that_is_sold_from_comes_back_with_every_order_and_is_sound(
    full: Shop, floor: Floor, other: Callable[[], Awaitable[Shop]], tmp_path: Path
) -> None:
    paid, unpaid = list[str](), list[str]()

    async def enough() -> bool:
        return min(len(paid), len(unpaid)) >= 10

    async with running(sync.run_worker(full, asyncio.Event())), busy(floor, paid, unpaid):
        await soon(enough, 60)
        before = dict.fromkeys(paid, "confirmed") | dict.fromkeys(unpaid, "pending")
        manifest = await back_up(full, tmp_path / "copy")
    assert manifest.documents["products"] >= len(SKUS)
    again = await other()
    await restore(again, tmp_path / "copy")
    async with again.stores.pg.read() as read:
        assert {id_: (await orders.get(read, UUID(id_))).status for id_ in before} == before
    await caught_up(again)
    assert (await audit.check(again)).violations == ()
    assert set(SKUS) <= set(await found(again))
    assert str((await order_of(again, "K00")).id) not in before


async def order_of(shop: Shop, sku: str) -> orders.Order:
    """One piece, bought by a guest."""
    async with shop.stores.pg.tx() as tx:
        return await orders.place(tx, orders.Guest("guest@example.com"), [(sku, 1)])


async def _rebuilt(shop: Shop) -> bool:
    found = await sync.last_rebuild(shop)
    return found is not None and found.state == "done" and found.reason == "restored from a backup"


async def test_a_shop_that_is_not_empty_is_replaced_only_when_told_so_and_shows_nothing_newer(
    full: Shop, floor: Floor, tmp_path: Path
) -> None:
    """Search, pages and boards are all there, and of a later time than what is put back; also a rebuild that was under
    way then and has ended since."""
    await sync.ask_reindex(full, "asked for before the backup")
    await back_up(full, tmp_path / "copy")
    async with full.stores.pg.tx() as tx:
        for _ in range(500):  # as many batches were carried since
            await store.begin_batch(tx)
    late = (await made(floor.shopper.post("/orders", json={"items": [{"sku": "K01", "qty": 3}]})))["id"]
    for name in ("Teapot", "Samovar"):
        await change(full, "K01", kettle("K01", name=name))
    await add(full, kettle("LATE"))
    await sync.reindex(full)
    await sync.catch_up(full)
    assert (await made(floor.guest.get("/products/K01")))["name"] == "Samovar"
    assert (await found(full))["LATE"] == "Kettle LATE"
    with pytest.raises(ValueError, match="not empty"):
        await restore(full, tmp_path / "copy")
    assert (await made(floor.guest.get("/products/K01")))["name"] == "Samovar"
    await restore(full, tmp_path / "copy", replace=True)
    assert (await made(floor.guest.get("/products/K01")))["name"] == "Kettle K01"
    assert (await floor.shopper.get(f"/orders/{late}")).status_code == 404
    assert (await floor.guest.get("/products/LATE")).status_code == 404
    await caught_up(full)
    for back in (False, True):  # the former index is of the later time as a whole
        if back:
            await sync.reindex(full, back=True)
        assert await found(full) == {sku: f"Kettle {sku}" for sku in SKUS}
        assert (await audit.check(full)).violations == ()


async def test_what_is_added_and_taken_away_between_the_two_stores_is_consistent_afterwards(
    full: Shop, other: Callable[[], Awaitable[Shop]], tmp_path: Path
) -> None:
    """The catalog is of a later moment than inventory: what only it knows has no pieces, what only inventory knows is
    not shown, and a price is inventory's."""

    async def meanwhile(name: str) -> None:
        if name == "postgres copied":
            await add(full, kettle("FRESH"))
            await stock(full, "FRESH")
            await catalog.delete_product(full, "K02", if_match=None)
            async with full.stores.pg.tx() as tx:
                await inventory.put(tx, "K03", "Kettle", 9900, currency="GBP", actor="test", stock=5)
            await sync.catch_up(full)

    await back_up(replace(full, step=meanwhile), tmp_path / "copy")
    again = await other()
    await restore(again, tmp_path / "copy")
    await caught_up(again)
    assert (await audit.check(again)).violations == ()
    shown = {p["sku"]: p for p in await everything(again)}
    assert (shown["FRESH"]["available"], shown["K03"]["available"], shown["K03"]["priceCents"]) == (0, 1000, 2500)
    assert "K02" not in await found(again) and "FRESH" in await found(again)


async def test_a_sku_that_goes_from_one_product_to_another_meanwhile_is_in_the_copy_once(
    full: Shop, other: Callable[[], Awaitable[Shop]], tmp_path: Path
) -> None:
    """Each product by itself would be right, and both together were never so."""
    looks = itertools.count()
    first, last = sorted([*await ids(full)])[:: len(SKUS) - 1]
    sku = {p["_id"]: p["sku"] for p in await catalog.by_ids(full.stores.mongo, [first, last])}

    async def meanwhile(name: str) -> None:
        if name == "products copied" and next(looks) == 0:
            for one, new in ((first, "OTHER"), (last, sku[first])):
                await change(full, sku[one], kettle(new))

    await back_up(replace(full, step=meanwhile), tmp_path / "copy")
    assert next(looks) == 2
    again = await other()
    await restore(again, tmp_path / "copy")
    names = {"OTHER": first, sku[first]: last}
    assert {name: (await catalog.find(again.stores.mongo, name) or {})["_id"] for name in names} == names


async def ids(shop: Shop) -> list[str]:
    return await catalog.ids_after(shop.stores.mongo, "", 1000)


async def test_a_restore_that_was_cut_short_anywhere_is_done_again(full: Shop, tmp_path: Path) -> None:
    await back_up(full, tmp_path / "copy")
    before = await ids(full)
    steps = "postgres cleared", "postgres restored", "catalog cleared", "catalog restored", "pages and boards renewed"
    for mortal in steps:
        with pytest.raises(Killed):
            await restore(replace(full, step=dies_at(mortal)), tmp_path / "copy", replace=True)
        await restore(full, tmp_path / "copy", replace=True)
        assert await ids(full) == before
    await caught_up(full)
    assert (await audit.check(full)).violations == ()


STORES = "postgres_url", "mongodb_url", "redis_url", "search_url"
AWAY = {
    "mongodb": {"mongodb_url": "mongodb://127.0.0.1:1/x?directConnection=true"},
    "redis": {"redis_url": "redis://127.0.0.1:1/0"},
    "search": {"search_url": "http://127.0.0.1:1"},
}


async def test_a_restore_that_lacks_a_store_changes_nothing(full: Shop, tmp_path: Path) -> None:
    await back_up(full, tmp_path / "copy")
    order = (await order_of(full, "K00")).id
    for name, url in AWAY.items():
        settings = full.settings.model_copy(update=url)
        async with open_stores(settings) as stores:
            with pytest.raises(ValueError, match=f"{name} does not answer right now: nothing was changed"):
                await restore(Shop(settings, stores), tmp_path / "copy", replace=True)
        async with full.stores.pg.read() as read:
            assert (await orders.get(read, order)).items[0].sku == "K00"
        assert len(await ids(full)) == len(SKUS)


async def test_a_restore_that_loses_a_store_says_that_it_is_half_done(full: Shop, tmp_path: Path) -> None:
    await back_up(full, tmp_path / "copy")

    async def lose(name: str) -> None:
        if name == "postgres restored":
            raise StoreUnavailable("mongodb")

    with pytest.raises(ValueError, match=r"^mongodb does not answer right now; .* gone .* --replace$"):
        await restore(replace(full, step=lose), tmp_path / "copy", replace=True)


def _shorter(folder: Path) -> None:
    os.truncate(folder / "postgres.dump", 5000)


def _changed(folder: Path) -> None:
    text = (folder / "products.bson").read_bytes()
    (folder / "products.bson").write_bytes(text.replace(b"Kettle K07", b"Kettle K77"))


def _manifest(**more: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        held = orjson.loads((folder / "manifest.json").read_bytes())
        (folder / "manifest.json").write_bytes(orjson.dumps(held | more))

    return write


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (shutil.rmtree, "there is no folder"),
    "unfinished": (lambda folder: (folder / "manifest.json").unlink(), "no finished backup"),
    "half-manifest": (lambda folder: os.truncate(folder / "manifest.json", 60), "can't be read"),
    "file-gone": (lambda folder: (folder / "reviews.bson").unlink(), "reviews.bson is missing"),
    "truncated": (_shorter, "postgres.dump has 5000 bytes and had "),
    "changed": (_changed, "products.bson is not what was written"),
    "newer-schema": (_manifest(migrations=["0001", "9998"]), "newer Quartet.*9998"),
    "newer-form": (_manifest(format=2), "newer Quartet"),
    "no-backup": (_manifest(files=3), "can't be read"),
}


async def test_what_is_no_sound_backup_is_named_and_changes_nothing(full: Shop, tmp_path: Path) -> None:
    await back_up(full, tmp_path / "sound")
    before = await ids(full)
    for name, (spoil, said) in SPOILED.items():
        shutil.copytree(tmp_path / "sound", tmp_path / name)
        spoil(tmp_path / name)
        with pytest.raises(ValueError, match=said):
            await restore(full, tmp_path / name, replace=True)
    with pytest.raises(ValueError, match="is not empty: name a new folder"):
        await back_up(full, tmp_path / "sound")
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared" / "letter").touch()
    with pytest.raises(ValueError, match="is not empty"):
        await back_up(full, tmp_path / "shared")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755
    assert await ids(full) == before
    assert (await order_of(full, "K00")).items[0].sku == "K00"


@pytest.fixture
def sigterm() -> Iterator[None]:
    """Which the commands take for themselves."""
    usual = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, usual)


@pytest.mark.usefixtures("sigterm")
async def test_the_commands_say_what_they_did(
    full: Shop, other: Callable[[], Awaitable[Shop]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "copy").mkdir(mode=0o755)
    await cli._backup(full.settings, tmp_path / "copy")
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o700
    again = await other()
    async with again.stores.pg.tx() as tx:
        await tx.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")  # a server without any table
    await cli._restore(again.settings, tmp_path / "copy", replace=False)
    assert await ids(again) == await ids(full)
    async with again.stores.pg.read() as read:
        may = "SELECT has_table_privilege('quartet_app', 'audit_log', $1)"
        assert [await read.fetchval(may, right) for right in ("INSERT", "DELETE")] == [True, False]
    said = capsys.readouterr().out
    assert "the shop is as of 20" in said and said.count("30 products, 1 categories, 0 reviews") == 2


async def test_a_disk_that_is_full_is_said_in_one_line(full: Shop, tmp_path: Path) -> None:
    async def fill(step: str) -> None:
        if step == "postgres copied":
            (tmp_path / "copy/products.bson").symlink_to("/dev/full")

    with pytest.raises(ValueError, match=r"copy can't be written: No space left on device$"):
        await back_up(replace(full, step=fill), tmp_path / "copy")


async def test_what_postgresqls_tool_does_ends_with_the_command(full: Shop, tmp_path: Path) -> None:
    environment = {f"QUARTET_{name.upper()}": str(getattr(full.settings, name)) for name in STORES}
    words = sys.executable, "-m", "quartet.cli", "backup", str(tmp_path / "copy")
    async with full.stores.pg.tx() as tx:
        await tx.execute("LOCK TABLE orders")  # the tool waits for it
        command = await asyncio.create_subprocess_exec(*words, env=os.environ | environment, cwd=tmp_path)
        children = psutil.Process(command.pid).children

        async def begun() -> bool:
            for child in children():
                with suppress(psutil.NoSuchProcess):  # one that was only asked for its version
                    if child.name() == "pg_dump":
                        return True
            return False

        await soon(begun, 60)
        tools = children()
        command.terminate()
        assert await command.wait() == 130
    assert (await asyncio.to_thread(psutil.wait_procs, tools, 20))[1] == []
