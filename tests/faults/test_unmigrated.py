"""A process on a database that lacks a part of the schema says so, instead of failing at every request."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from rich.console import Console

from conftest import SECRET, api_of, client_of
from quartet import catalog
from quartet.cli import bring_up, check_schema, open_shop, prepare
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.stores import search as engines
from quartet.stores.migrate import find, migrate
from quartet.stores.mongo import DuplicateKey, Mongo
from quartet.sync import worker
from quartet.sync.store import NO_LEASE
from quartet.web.dependencies import Shop

NUMBERED = sum("@" not in migration.version for migration in find())


@pytest.fixture
async def bare(settings: Settings, servers: dict[str, str]) -> AsyncIterator[Settings]:
    """A shop whose database was made, and nothing more."""
    name = f"bare_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(servers["postgres"])
    await admin.execute(f"CREATE DATABASE {name}")
    yield settings.model_copy(update={"postgres_url": servers["postgres"].rpartition("/")[0] + f"/{name}"})
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an engine takes seconds for its first index, and answers nobody meanwhile."""
    monkeypatch.setattr(engines, "DOUBT_SECONDS", 60.0)


async def _quartet(settings: Settings, *words: str) -> tuple[int | None, str]:
    """What a command ends with, and its last words."""
    named = {f"QUARTET_{name}": str(getattr(settings, name.lower())) for name in
             ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL", "SEARCH_URL", "SEARCH_ALIAS")}  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quartet.cli", *words),
        stderr=asyncio.subprocess.PIPE,
        cwd=settings.data_dir,
        env={**os.environ, **named, "QUARTET_SECRET": SECRET, "QUARTET_DATA_DIR": str(settings.data_dir)},
    )
    try:
        async with asyncio.timeout(60):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:  # it works: on what?
            process.kill()
            await process.wait()
    return process.returncode, said.decode()


@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("worker",), ("check",), ("roles", "ada@example.com")])
async def test_a_process_does_not_start_on_a_database_without_the_shop(bare: Settings, words: tuple[str, ...]) -> None:
    ended = await _quartet(bare, *words)
    assert ended == (1, f"quartet: the database lacks {NUMBERED} of the shop's migrations: run `quartet migrate`\n")


async def test_while_postgresql_is_away_it_starts_all_the_same(settings: Settings) -> None:
    await check_schema(settings.model_copy(update={"postgres_url": "postgresql://nobody@127.0.0.1:1/x"}))


async def test_a_process_is_ready_once_the_database_is_migrated(bare: Settings) -> None:
    async with open_shop(bare) as shop, _guest(bare) as guest:
        answer = await guest.get("/health/ready")
        assert answer.status_code == 503
        postgres = answer.json()["stores"]["postgres"]
        assert postgres["status"] == "down"
        assert postgres["error"] == f"the database lacks {NUMBERED} of the shop's migrations: run `quartet migrate`"
        assert postgres["breaker"] == "closed", "it answers"

        await migrate(shop.stores.pg)
        assert (await guest.get("/health/ready")).status_code == 200


async def test_while_search_is_away_the_rest_is_migrated_and_a_worker_makes_the_index(settings: Settings) -> None:
    away = settings.model_copy(update={"search_url": "http://127.0.0.1:1"})
    code, said = await _quartet(away, "migrate")
    assert code == 0
    assert said.splitlines()[-1].startswith("search does not answer right now: ")
    assert said.endswith("(QUARTET_SEARCH_URL): a worker brings it up to date once it does\n")
    async with open_shop(settings) as shop:
        assert await shop.stores.search.alias_target(settings.search_alias) is None
        await worker.rebuild(shop)
        assert await shop.stores.search.alias_target(settings.search_alias) is not None


async def test_while_mongodb_is_away_the_rest_is_migrated_and_a_worker_makes_the_collections(bare: Settings) -> None:
    code, said = await _quartet(bare.model_copy(update={"mongodb_url": "mongodb://127.0.0.1:1/x"}), "migrate")
    assert code == 0
    assert said.splitlines()[-1].startswith("mongodb does not answer right now")
    assert said.endswith("(QUARTET_MONGODB_URL): a worker brings it up to date once it does\n")
    await check_schema(bare)
    async with open_shop(bare) as shop:
        assert await shop.stores.search.alias_target(bare.search_alias) is not None
        async with shop.stores.pg.once() as tx:
            await tx.execute("INSERT INTO schema_migrations (version) VALUES ('9999')")
        await worker.make_collections(shop)
        assert await _are_slugs_free(shop), "the validators of a newer version are not put back"
        async with shop.stores.pg.once() as tx:
            await tx.execute("DELETE FROM schema_migrations WHERE version = '9999'")
        await worker.make_collections(shop)
        assert not await _are_slugs_free(shop)
        await shop.stores.mongo.drop_database()


async def _are_slugs_free(shop: Shop) -> bool:
    """Whether two products may have the same one: there is no index yet."""
    products = shop.stores.mongo.collection(catalog.PRODUCTS)
    try:
        for sku in (uuid4().hex, uuid4().hex):
            await products.insert_one({"_id": sku, "sku": sku, "slug": "same"})
    except DuplicateKey:
        return False
    finally:
        await products.delete_many({})
    return True


async def test_a_mongodb_that_does_not_let_us_in_is_no_outage_that_is_waited_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: Mongo, name: str, *_validator: Any) -> None:
        raise StoreUnavailable("mongodb", f"not you: {name}", is_unauthorized=True)

    monkeypatch.setattr(Mongo, "ensure_collection", refuse)
    async with open_shop(settings) as shop:
        with pytest.raises(StoreUnavailable, match="not you: products"):
            await prepare(shop, away=[])


async def test_a_worker_makes_the_collections_once_mongodb_lets_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, made = 0, asyncio.Event()

    async def prepare(_: Mongo) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable("mongodb", is_unauthorized=True)
        made.set()

    monkeypatch.setattr(catalog, "prepare", prepare)
    monkeypatch.setattr(worker, "UNAUTHORIZED_SECONDS", 0)
    async with open_shop(settings) as shop, asyncio.timeout(60):
        loop = asyncio.ensure_future(worker.LOOPS["collections"](shop, NO_LEASE))
        await made.wait()
        loop.cancel()


async def test_a_wrong_password_of_search_is_no_outage_that_is_waited_out(settings: Settings) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        wrong = settings.model_copy(update={"search_url": f"http://someone:wrong@{host}:{port}"})
        code, said = await _quartet(wrong, "migrate")
    assert code == 1
    assert "QUARTET_SEARCH_URL" in said


async def test_while_versions_change_processes_of_both_start(settings: Settings) -> None:
    async with open_shop(settings) as shop, shop.stores.pg.tx() as tx:
        await tx.execute("INSERT INTO schema_migrations (version) VALUES ('9999')")
        await tx.execute("UPDATE schema_migrations SET version = version || 'later' WHERE version LIKE '%@%'")
    await check_schema(settings)

    async with open_shop(settings) as shop, shop.stores.pg.tx() as tx:
        await tx.execute("DELETE FROM schema_migrations WHERE version = '0001'")
    with pytest.raises(ValueError, match="the database lacks 1 of the shop's migrations"):
        await check_schema(settings)


async def test_an_older_version_leaves_the_functions_and_validators_of_a_newer_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process may be begun with `quartet migrate`, also one of before that is started again beside newer ones."""
    put: list[str] = []
    ensure = Mongo.ensure_collection

    async def noted(mongo: Mongo, name: str, *validator: Any) -> None:
        put.append(name)
        await ensure(mongo, name, *validator)

    monkeypatch.setattr(Mongo, "ensure_collection", noted)
    async with open_shop(settings) as shop:
        async with shop.stores.pg.tx() as tx:
            await tx.execute("INSERT INTO schema_migrations (version) VALUES ('9999')")
            await tx.execute("UPDATE schema_migrations SET version = version || 'later' WHERE version LIKE '%@%'")
        assert (await prepare(shop), put) == (None, [])

        async with shop.stores.pg.tx() as tx:
            await tx.execute("DELETE FROM schema_migrations WHERE version = '9999'")
        assert "place_order" in (await prepare(shop) or ()), "what is of no later version is brought up to date"
        assert "products" in put


async def test_an_older_version_comes_up_on_the_stores_of_a_newer_one(settings: Settings) -> None:
    """Its search engine in memory has nothing at each start."""
    async with open_shop(settings) as shop:
        async with shop.stores.pg.tx() as tx:
            await tx.execute("INSERT INTO schema_migrations (version) VALUES ('9999')")
        assert await shop.stores.search.alias_target(settings.search_alias) is None
        await bring_up(settings, Console(quiet=True), empty=True)
        assert await shop.stores.search.alias_target(settings.search_alias) is not None


@asynccontextmanager
async def _guest(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Of the API that opened its shop while PostgreSQL was away, as far as that makes a difference."""
    async with open_shop(settings) as shop, client_of(api_of(shop)) as guest:
        yield guest
