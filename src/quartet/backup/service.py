"""A backup: PostgreSQL first, from one snapshot, then the catalog, product by product.

In that order, because the catalog may know what inventory does not (it is shown, without stock), while a SKU that is
sold and not in the catalog would have no page. Prices and stock in the catalog are copies, updated from inventory.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from quartet import catalog, leaderboard, search, sync
from quartet.backup import model
from quartet.backup.model import Manifest
from quartet.kernel.errors import Problem, writing
from quartet.stores import copies, ping_all
from quartet.stores.files import queries
from quartet.stores.migrate import newer
from quartet.web.dependencies import Shop

q = queries(__file__)

BATCH = 500
# Copies of the catalog made before we say that it does not hold still.
TRIES = 5
DUMP = "postgres.dump"


async def back_up(shop: Shop, folder: Path, pg_dump: Path) -> Manifest:
    """Copies the shop, which goes on meanwhile, into a new or empty folder. Raises ValueError, StoreUnavailable."""
    model.make(folder)
    async with shop.stores.pg.read() as read:
        if not await read.fetchval(q.is_there):
            raise ValueError("there is no shop in this database: `quartet migrate` makes one")
        point, migrations = await read.fetchrow(q.point)
    words = "--format=custom", "--no-owner", "--no-privileges", f"--file={folder / DUMP}"
    await copies.run_tool(pg_dump, *words, url=_url(shop))
    await shop.step("postgres copied")
    with writing(folder):
        documents = await _copy_catalog(shop, folder)
        await shop.step("catalog copied")
        names = [DUMP, *map(_file, documents)]
        files = {name: await asyncio.to_thread(model.kept, folder / name) for name in names}
        manifest = Manifest(model.FORMAT, point, migrations, documents, files)
        model.write(folder, manifest)
    return manifest


async def _copy_catalog(shop: Shop, folder: Path) -> dict[str, int]:
    """Each collection in order of ids; how many documents each has. Products come and change meanwhile, each in one
    write; but if one gives a SKU up and another takes it, both could be copied with it. So all are looked at again."""
    products, *others = catalog.COPIED
    for _ in range(TRIES):
        documents = {products: await _copy(shop, folder, products)}
        await shop.step("products copied")
        documents |= {name: await _copy(shop, folder, name) for name in others}
        if await _stands(shop, folder / _file(products)):
            return documents
    raise ValueError(f"products were deleted, or given other SKUs, during each of {TRIES} copies: try again later")


async def _copy(shop: Shop, folder: Path, name: str) -> int:
    number = 0
    with (folder / _file(name)).open("wb") as file:
        async for some in shop.stores.mongo.collection(name).scan({}, batch=BATCH):
            file.write(copies.bson_of(some))
            number += len(some)
        model.keep(file)
    return number


async def _stands(shop: Shop, path: Path) -> bool:
    """Whether every product copied is still there, with the same SKUs, slug and category: then it had them all the time
    since, and at the moment when the last was copied all had theirs together."""
    with closing(copies.documents_in(path, BATCH)) as batches:
        for some in batches:
            now = await catalog.keys_and_categories(shop.stores.mongo, [product["_id"] for product in some])
            if now != {product["_id"]: catalog.keys_and_category(product) for product in some}:
                return False
    return True


async def restore(
    shop: Shop, folder: Path, pg_restore: Path, prepare: Callable[[Shop], Awaitable[object]], *, replace: bool = False
) -> Manifest:
    """Puts the shop back as it was, then brings its schema up to date with `prepare`. What is derived follows: boards
    and cached pages here, search by the worker, which is asked to build it anew.

    The folder and the stores are looked at before anything is changed. One that was cut short begins anew, with
    `replace`. Raises ValueError where the folder is no sound backup, or of a newer schema, a store does not answer, or
    the shop is not empty and need not be replaced; StoreUnavailable."""
    manifest = model.read(folder)
    await asyncio.to_thread(model.verify, folder, manifest)
    unknown = newer(manifest.migrations)
    if unknown:
        raise ValueError(f"{folder} is of a newer Quartet: this one does not know its migrations {', '.join(unknown)}")
    await copies.run_tool(pg_restore, "--list", str(folder / DUMP))
    await _must_answer(shop)
    if not replace:
        await _must_be_empty(shop)
    async with shop.stores.pg.tx() as tx:
        await tx.execute(q.clear)
    try:
        await _put_back(shop, folder, manifest, pg_restore, prepare)
    except (Problem, ValueError) as error:
        raise ValueError(f"{error}; what the shop had is gone already: run this again with --replace") from error
    return manifest


async def _must_answer(shop: Shop) -> None:
    """All of them, since PostgreSQL is replaced first: without the others the shop would have neither its old catalog
    nor its new one."""
    away = [str(found) for found in (await ping_all(shop.stores)).values() if isinstance(found, Exception)]
    if away:
        raise ValueError(f"{', '.join(away)}: nothing was changed")


async def _put_back(
    shop: Shop, folder: Path, manifest: Manifest, pg_restore: Path, prepare: Callable[[Shop], Awaitable[object]]
) -> None:
    await shop.step("postgres cleared")
    words = "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error", str(folder / DUMP)
    await copies.run_tool(pg_restore, *words, url=_url(shop))
    async with shop.stores.pg.once() as tx:
        await tx.execute(q.forget_functions)
    await shop.step("postgres restored")
    await prepare(shop)
    await _restore_catalog(shop, folder, manifest)
    await shop.step("catalog restored")
    await _derive(shop)


async def _must_be_empty(shop: Shop) -> None:
    stores = shop.stores
    async with stores.pg.read() as read:
        held = await read.fetchval(q.is_there) and await read.fetchval(q.holds)
    if held or set(await catalog.ids_after(stores.mongo, "", 2)) - {catalog.CANARY}:
        raise ValueError("the shop is not empty: say --replace, and what is in it will be gone")


async def _restore_catalog(shop: Shop, folder: Path, manifest: Manifest) -> None:
    mongo = shop.stores.mongo
    await catalog.clear(mongo)
    await shop.step("catalog cleared")
    for name in manifest.documents:
        with closing(copies.documents_in(folder / _file(name), BATCH)) as batches:
            for some in batches:
                await catalog.restore(mongo, name, some, shop.clock.now())


async def _derive(shop: Shop) -> None:
    """Pages and boards would show what is no more; the position in the change stream is of another time."""
    await catalog.forget_pages(shop.stores.redis)
    await search.invalidate_answers(shop)
    await leaderboard.rebuild(shop, actor="command line")
    await shop.step("pages and boards renewed")
    await sync.reset_after_restore(shop, "restored from a backup")


def _file(collection: str) -> str:
    return f"{collection}.bson"


def _url(shop: Shop) -> str:
    return shop.settings.postgres_url or ""
