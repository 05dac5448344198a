"""The shop on real servers: one set of local stores for the whole run, a fresh shop in them for each test."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import hypothesis
import psutil
import pytest
import structlog
from fastapi import FastAPI
from typer.testing import CliRunner

from floor import Floor
from quartet import catalog, devstores, search
from quartet.gateway import ROOMS, create_app
from quartet.kernel import looks
from quartet.kernel.fingerprints import BUCKETS
from quartet.kernel.settings import Settings
from quartet.leaderboard import store as boards
from quartet.stores import mongo, open_stores, postgres
from quartet.stores.migrate import migrate
from quartet.stores.postgres import Postgres
from quartet.stores.redis import RedisStore
from quartet.sync import products
from quartet.web.dependencies import Shop

SECRET = "a secret for tests, never used elsewhere"
MEMORY = Path("/dev/shm")
PLENTY_BYTES = 4 * 2**30
# Of what tests draw, hypothesis' too: the same each time, so that nobody's change is refused for what was there before
# it. Whoever looks for more sets it to draw anew.
SEED = int(os.environ.get("QUARTET_TEST_SEED", "20260131"))

# How long one example takes depends on what else the machine does. What fails is printed, to be run again.
hypothesis.settings.register_profile(
    "shop", deadline=None, print_blob=True, derandomize="QUARTET_TEST_SEED" not in os.environ
)
hypothesis.settings.load_profile("shop")

# To tell of a failure with every variable around it, as structlog does by itself, takes a fifth of a second.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def _process() -> dict[str, object]:
    """What all tests of a process share, and a command that is run in it may set up as its own."""
    return {
        "log": structlog.get_config(),
        "SIGTERM": signal.getsignal(signal.SIGTERM),
        "folder": Path.cwd(),
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
    }


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Else a test of another file fails, and only where one process has both: what it tells would go where nobody
    listens any more."""
    before = _process()
    yield
    after = _process()
    assert [name for name in before if before[name] != after[name]] == []


# Where a test takes longest comes first, so that of two workers none is left alone with it at the end.
FOLDERS = ("faults", "stores", "flows", "rooms", "access", "architecture", "unit")
HERE = Path(__file__).resolve().parent
ENGINES = "tests/stores/search"
_THIS = sys.modules[__name__]


def pytest_plugin_registered(plugin: object) -> None:
    """Whoever says `from conftest import …` means this one, also once pytest has read another in a folder below."""
    if HERE in Path(getattr(plugin, "__file__", None) or "/").resolve().parents:
        sys.modules["conftest"] = _THIS


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of the folders; what is within one stays as it is."""
    ranks = {str(HERE / folder): rank for rank, folder in enumerate(FOLDERS)}
    items.sort(key=lambda item: next((ranks[str(above)] for above in item.path.parents if str(above) in ranks), 0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file goes to one worker, in that order, and all that is asked of search engines: each is started once."""
    from xdist.scheduler import LoadFileScheduling

    class Rota(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return ENGINES if nodeid.startswith(f"{ENGINES}/") else str(super()._split_scope(nodeid))

    config.option.loadscopereorder = False
    return Rota(config, log) if config.option.dist == "loadfile" else None


async def everything(shop: Shop) -> list[dict[str, Any]]:
    """Every document of the catalog."""
    return await catalog.in_buckets(shop.stores.mongo, 0, BUCKETS)


async def differing(shop: Shop) -> set[str]:
    """The products of which the catalog's copies or search say something else than is true, by reading all of them."""
    wanted, wrong = await products.expected_documents(shop, await everything(shop))
    held = await search.stored(shop.stores.search, shop.settings.search_alias, "", None, 1000)
    return wrong | {id_ for id_ in wanted.keys() | held.keys() if wanted.get(id_) != held.get(id_)}


async def daily_points(shop: Shop, user_id: UUID) -> int:
    """Somebody's, of today's board and of yesterday's: a test may run at midnight."""
    days = [shop.clock.now() - timedelta(days=n) for n in range(2)]
    places = [await boards.place_of(shop.stores.redis, day, "daily", user_id) for day in days]
    return sum(place.xp for place in places if place)


class Outbox:
    """A mailer that keeps what it is given: (address, subject, text) each, and beside them HTML and Message-IDs."""

    is_away = False

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []
        self.html: list[str] = []
        self.ids: list[str] = []

    async def send(self, to: str, subject: str, text: str, *, html: str = "", message_id: str = "") -> None:
        self.sent.append((to, subject, text))
        self.html.append(html)
        self.ids.append(message_id)


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """URLs by store: postgres, mongodb, redis, search."""
    with in_memory(tmp_path_factory.mktemp("stores")) as folder:
        async with devstores.throwaway(folder, search="osmem") as urls:
            yield urls


@pytest.fixture(scope="session")
async def redis(servers: dict[str, str]) -> AsyncIterator[RedisStore]:
    """The shared one without a shop, for whoever has keys of his own."""
    store = RedisStore(servers["redis"], doubt=60)  # on a busy machine it may be silent for a moment
    yield store
    await store.close()


@contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """A folder for servers whose files need not last: in memory where there is plenty of it. A database for each test
    is hundreds of files, and to make and delete them on a disk is most of what most tests take."""
    for left in MEMORY.glob("quartet-tests-*"):
        if not devstores.is_locked(left):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
    if not MEMORY.is_dir() or min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) < PLENTY_BYTES:
        yield otherwise
        return
    made = Path(mkdtemp(dir=MEMORY, prefix="making-"))
    with devstores.lock_folder(made):
        folder = made.rename(MEMORY / f"quartet-tests-{made.name}")  # only now others see it, and that it is held
        folder.chmod(0o755)  # PostgreSQL runs as somebody else where we are root
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def tell_family(pid: int, what: signal.Signals) -> None:
    """Sends a signal to a server and whatever it started."""
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # PostgreSQL's helpers come and go
            process.send_signal(what)


def database_url(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@pytest.fixture(scope="session")
async def template(servers: dict[str, str]) -> str:
    """A migrated database that each test's own is cloned from."""
    return await make_template(servers["postgres"])


async def make_template(url: str) -> str:
    """A migrated database on that server."""
    admin = await asyncpg.connect(url)
    await admin.execute("CREATE DATABASE quartet_template")
    await admin.close()
    pg = Postgres(database_url(url, "quartet_template"), size=1)
    await migrate(pg)
    await pg.close()
    return "quartet_template"


@asynccontextmanager
async def settings_of_ones_own(servers: dict[str, str], template: str, folder: Path) -> AsyncIterator[Settings]:
    """Settings of a shop of one's own on the shared servers."""
    name = f"t_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(servers["postgres"])
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield Settings(
        _env_file=None,
        postgres_url=database_url(servers["postgres"], name),
        mongodb_url=database_url(servers["mongodb"], name),
        redis_url=servers["redis"],
        search_url=servers["search"],
        search_alias=name,
        search_cache_seconds=0,  # tests look again at once
        redis_doubt=8.0,  # on a busy machine Redis may be silent for long, and nobody is to do without it for that
        secret=SECRET,
        data_dir=folder,
        canary_seconds=0,
        worker_lease_seconds=1,  # many a test kills its worker and waits for the next
    )
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def settings(servers: dict[str, str], template: str, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of a shop of one's own on the shared servers."""
    async with settings_of_ones_own(servers, template, tmp_path) as settings:
        yield settings


@pytest.fixture
async def shop(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """An empty shop: migrated, its collections and index made, nothing in it."""
    # On a busy machine too the first answer is one that knows what staff and shoppers say, nobody does without MongoDB
    # for a moment's silence, and nobody in a crowd is sent away.
    monkeypatch.setattr(looks, "FIRST_PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(mongo, "DOUBT_SECONDS", 8.0)
    monkeypatch.setattr(postgres, "WAIT_SECONDS", 60.0)  # for a connection, where a crowd has them all
    async with open_stores(settings) as stores:
        await stores.redis.call("FLUSHDB")
        shop = Shop(settings, stores, mail=Outbox())
        await catalog.prepare(stores.mongo)  # PostgreSQL's part came with the template
        await search.prepare(stores.search, settings)
        yield shop
        await stores.mongo.drop_database()
        # What stays takes some two megabytes of the shared server's memory, until it ends.
        for index in await stores.search.alias_targets(f"{settings.search_alias}-all"):
            await stores.search.delete_index(index)


@pytest.fixture
def app(shop: Shop) -> FastAPI:
    """The whole API over that shop."""
    return api_of(shop)


def api_of(shop: Shop, rooms: Sequence[str] = ROOMS) -> FastAPI:
    """The API over an open shop, with a memory of its own as another process has."""
    app = create_app(lambda: nullcontext(shop), rooms)
    app.state.shop = shop  # httpx's ASGI transport runs no lifespan
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A guest."""
    async with client_of(app) as guest:
        yield guest


def client_of(app: FastAPI, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    """A guest, or whoever these headers say."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://shop", headers=headers)


SignIn = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def sign_in(app: FastAPI, shop: Shop) -> AsyncIterator[SignIn]:
    """`await sign_in()` is a new shopper's client, `await sign_in("staff")` a colleague's; `.headers` hold the token,
    `client.user_id` says who it is."""
    from quartet.accounts import create_user, start_session, tokens
    from quartet.web.dependencies import Principal

    opened: list[httpx.AsyncClient] = []

    async def sign(*roles: str) -> httpx.AsyncClient:
        async with shop.stores.pg.tx() as tx:
            user = await create_user(tx, f"{uuid4().hex[:10]}@example.com", None, "Test Shopper", roles=roles)
            session = await start_session(tx, user.id, shop.clock.now(), shop.settings)
        token = tokens.issue(shop.settings, Principal(user.id, frozenset(roles), session.id), datetime.now(UTC))
        client = client_of(app, {"Authorization": f"Bearer {token}"})
        client.user_id = user.id  # type: ignore[attr-defined]
        opened.append(client)
        return client

    yield sign
    await asyncio.gather(*(client.aclose() for client in opened))


@pytest.fixture
async def shopper(sign_in: SignIn) -> httpx.AsyncClient:
    """A signed-in shopper."""
    return await sign_in()


@pytest.fixture
async def staff(sign_in: SignIn) -> httpx.AsyncClient:
    """A signed-in colleague."""
    return await sign_in("staff")


@pytest.fixture
async def admin(sign_in: SignIn) -> httpx.AsyncClient:
    """A signed-in administrator."""
    return await sign_in("admin")


@pytest.fixture
def floor(
    shop: Shop,
    app: FastAPI,
    client: httpx.AsyncClient,
    shopper: httpx.AsyncClient,
    staff: httpx.AsyncClient,
    admin: httpx.AsyncClient,
) -> Floor:
    """The shop with everybody in it."""
    return Floor(shop, app, client, shopper, staff, admin)


Command = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def command(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`quartet` with these words, over that shop: its exit code and what it says."""
    from quartet.cli import app as commands

    for name in ("postgres_url", "mongodb_url", "redis_url", "search_url", "search_alias", "data_dir"):
        monkeypatch.setenv(f"QUARTET_{name.upper()}", str(getattr(shop.settings, name)))

    async def run(*words: str) -> tuple[int, str]:
        ran = await asyncio.to_thread(CliRunner().invoke, commands, words)
        return ran.exit_code, ran.output

    return run


async def stuck(shop: Shop, many: int = 1) -> None:
    """Until so many in PostgreSQL wait for what another has locked."""
    async with shop.stores.pg.read() as read, asyncio.timeout(30):
        while await read.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < many:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
