"""Each store is stopped, paused or cut off: what becomes of every kind of request is the table in outages.py, cell by
cell, and when the store is back so is all of the shop, with no process restarted. On servers of this file's own."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from furnished import Json, furnish, new_token
from lines import Line, lines_to
from outages import GROUPS, MAKES_DO, ORDER, WAYS, Group, Request, as_told, away, pay, table, well
from own_stores import STORES, OwnStores, own_stores, settings_over

from conftest import SECRET, api_of, client_of, in_memory
from quartet import search, sync
from quartet.accounts import create_user
from quartet.cli import open_shop, prepare
from quartet.devstores import free_port
from quartet.kernel.errors import StoreUnavailable
from quartet.stores.search import BULK_SECONDS
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

# Of who asks before anybody knows. A paused PostgreSQL is the slowest: a statement may take ten seconds (an analysis, a
# bulk load), and one that was sent is not given up sooner, since it may be carried out.
PATIENCE = {"postgres": 13.0, "mongodb": 7.0, "redis": 10.0, "search": 7.0}
# It is well under one on a quiet machine.
RECOVERY_SECONDS = 10.0
REQUESTS = [request for group in GROUPS for request in group.requests]


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnStores]:
    """Servers that only these tests use."""
    with in_memory(tmp_path_factory.mktemp("own")) as folder:
        async with own_stores(folder) as stores:
            yield stores


@dataclass(frozen=True)
class Street:
    """A shop on those servers, and the people in it."""

    shop: Shop
    guest: httpx.AsyncClient
    shopper: httpx.AsyncClient
    staff: httpx.AsyncClient
    lines: dict[str, Line] = field(default_factory=dict)

    async def ask(self, who: str, method: str, path: str, body: Json | None = None) -> httpx.Response:
        client: httpx.AsyncClient = getattr(self, who)
        if method == "PAY":
            return await pay(client)
        return await client.request(method, path, json=body)


@asynccontextmanager
async def street_on(urls: dict[str, str], folder: Path, lines: dict[str, Line]) -> AsyncIterator[Street]:
    """A shop over these URLs, with everybody signed in."""
    async with open_shop(settings_over(urls, folder, SECRET)) as shop:
        await prepare(shop)
        app, people = api_of(shop), dict[str, dict[str, str]](guest={})
        for name, roles in (("shopper", ()), ("staff", ("staff",))):
            address = f"{name}{'-afar' if lines else ''}@example.com"
            async with shop.stores.pg.tx() as tx:
                user = await create_user(tx, address, None, name, roles=roles)
            people[name] = {"Authorization": f"Bearer {await new_token(shop, user.id, *roles)}"}
        clients = {name: client_of(app, headers) for name, headers in people.items()}
        yield Street(shop, **clients, lines=lines)


@pytest.fixture(scope="module")
async def street(stores: OwnStores, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Street]:
    """One shop for all of these tests, that opened before anything failed."""
    async with street_on(stores.urls, tmp_path_factory.mktemp("data"), {}) as street:
        await furnish(street.staff, street.shopper)
        await sync.catch_up(street.shop)
        yield street


@pytest.fixture(scope="module")
async def afar(stores: OwnStores, street: Street, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Street]:
    """Another process's shop over the same servers, behind lines that can be cut."""
    async with (
        lines_to(stores.urls) as (lines, urls),
        street_on(urls, tmp_path_factory.mktemp("afar"), lines) as street_afar,
    ):
        order = await street_afar.shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": 1}]})
        assert order.is_success, order.text
        yield street_afar


async def make_ready(street: Street) -> None:
    """All four at work, one product page cached and one not, something in the cart, the new user known."""
    await until_well(street)
    for request in (
        ("guest", "GET", "/products/MUG", None),
        ("shopper", "PUT", "/cart/items/MUG", {"qty": 1}),
        ("guest", "POST", "/users", {"email": "new@example.com", "password": "correct horse battery"}),
    ):
        await street.ask(*request)
    await street.shop.stores.redis.call("DEL", "product:TEE")


async def until_well(street: Street) -> float:
    """Seconds until every kind of request is answered again."""
    began = time.monotonic()
    async with asyncio.timeout(RECOVERY_SECONDS + 20):
        while True:
            answers = [await street.ask(*request) for request in WELL]
            if all(answer.is_success for answer in answers) and answers[-1].json()["degraded"] is False:
                return time.monotonic() - began
            if {answer.status_code for answer in answers} > {200, 503}:
                raise AssertionError([answer.text for answer in answers if not answer.is_success])
            # osmem keeps its indexes in memory: the worker makes them anew.
            with suppress(StoreUnavailable):
                if await street.shop.stores.search.alias_target(street.shop.settings.search_alias) is None:
                    await prepare(street.shop)
                    await sync.catch_up(street.shop)
            await asyncio.sleep(0.05)


WELL: list[Request] = [
    ("guest", "GET", "/products", None),
    ("shopper", "GET", "/orders", None),
    ("shopper", "GET", "/cart", None),
    ("guest", "GET", "/leaderboard", None),
    ("guest", "GET", "/search?q=mug", None),
    ("guest", "GET", "/search", None),
]


@dataclass
class Outage:
    """A store that is away, how, and what the first to ask were answered, after how many seconds."""

    store: str
    way: str
    street: Street
    first: dict[str, tuple[httpx.Response, float]] = field(default_factory=dict)


@pytest.fixture(scope="module", params=[f"{store} {way}" for store in STORES for way in WAYS])
async def outage(
    request: pytest.FixtureRequest, stores: OwnStores, street: Street, afar: Street
) -> AsyncIterator[Outage]:
    """One store is taken away while everybody asks for everything; then all know it."""
    store, way = request.param.split()
    outage = Outage(store, way, afar if way == "cut" else street)
    await make_ready(outage.street)
    await take_away(stores, store, way, outage.street.lines)
    answers = await asyncio.gather(*(_timed(outage.street, asked) for asked in REQUESTS))
    outage.first = {repr(asked): answer for asked, answer in zip(REQUESTS, answers, strict=True)}
    guard = next(guard for guard in outage.street.shop.stores.guards if guard.store == store)
    async with asyncio.timeout(20):
        while guard.state not in ("open", "half-open"):  # noqa: ASYNC110 — the probe decides
            await asyncio.sleep(0.02)
    await asyncio.sleep(outage.street.shop.settings.search_cache_seconds)  # what was found before is still told
    yield outage
    await bring_back(stores, outage)


async def take_away(stores: OwnStores, store: str, way: str, lines: dict[str, Line]) -> None:
    match way:
        case "stopped":
            await stores.kill(store)
        case "paused":
            stores.freeze(store)
        case _:
            lines[store].cut()


async def bring_back(stores: OwnStores, outage: Outage) -> None:
    for line in outage.street.lines.values():
        line.mend()
    await stores.mend()


async def _timed(street: Street, request: Request) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    return await street.ask(*request), time.monotonic() - began


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name.replace(" ", "-"))
async def test_a_cell_of_the_table(outage: Outage, group: Group) -> None:
    for request in group.requests:
        first, seconds = outage.first[repr(request)]
        # Whoever asks first may be answered as ever, or be told, before anything is known.
        assert well(request, first) or away(first, outage.store), (request[:3], first.status_code, first.text)
        assert seconds < PATIENCE[outage.store], request[:3]
        answer, seconds = await _timed(outage.street, request)
        assert as_told(group, outage.store, request, answer), (request[:3], answer.status_code, answer.text[:300])
        if group.outcome(outage.store) not in ("works", *MAKES_DO):
            assert seconds < 3.0, "nobody waits for what is known to be away"


async def test_health_and_metrics_tell_of_it(outage: Outage) -> None:
    health = (await outage.street.guest.get("/health/ready")).json()
    state = health["stores"][outage.store]
    assert (state["status"], state["breaker"] in ("open", "half-open")) == ("down", True)
    assert state["meanwhile"]
    assert {name for name, state in health["stores"].items() if state["status"] == "down"} == {outage.store}
    assert health["status"] == ("unavailable" if outage.store in ("postgres", "mongodb") else "degraded")
    metrics = (await outage.street.guest.get("/metrics")).text
    assert f'quartet_store_breaker{{state="closed",store="{outage.store}"}} 0.0' in metrics


async def test_once_it_is_back_all_is_well(stores: OwnStores, outage: Outage) -> None:
    await bring_back(stores, outage)
    began = time.monotonic()
    guard = next(guard for guard in outage.street.shop.stores.guards if guard.store == outage.store)
    async with asyncio.timeout(RECOVERY_SECONDS):
        while guard.state != "closed":  # noqa: ASYNC110 — the probe decides
            await asyncio.sleep(0.01)
    print(f"{outage.store} {outage.way}: known to be back after {time.monotonic() - began:.2f} s", end=", ")
    print(f"all well {await until_well(outage.street):.2f} s later")


def test_the_operators_table_is_this_one() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert table() in page, table()
    for way, meaning in WAYS.items():
        assert f"- **{way}**: {meaning}" in page


async def test_all_is_well_when_all_are_up(stores: OwnStores, street: Street) -> None:
    await stores.mend()
    await make_ready(street)
    for request in REQUESTS:
        answer = await street.ask(*request)
        assert well(request, answer), (request, answer.text)
    health = await street.guest.get("/health/ready")
    assert health.json()["status"] == "ready"


@pytest.fixture
async def mended(stores: OwnStores, street: Street) -> AsyncIterator[None]:
    """All four at work before, and after."""
    await stores.mend()
    await make_ready(street)
    yield
    await stores.mend()
    await until_well(street)


@pytest.mark.parametrize("way", ["stopped", "paused"])
async def test_a_purchase_needs_postgresql_alone(stores: OwnStores, street: Street, mended: None, way: str) -> None:
    for store in ("mongodb", "redis", "search"):
        await take_away(stores, store, way, {})
    placed = await street.shopper.post("/orders", json=ORDER, headers={"Idempotency-Key": str(uuid4())})
    assert placed.status_code == 201, placed.text
    began = time.monotonic()
    payment = {"orderId": placed.json()["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    paid = await street.shopper.post("/payments", json=payment, headers={"Idempotency-Key": str(uuid4())})
    assert (paid.status_code, paid.json()["status"]) == (201, "succeeded"), paid.text
    assert time.monotonic() - began < PATIENCE["redis"]
    seen = await street.shopper.get(f"/orders/{placed.json()['id']}")
    assert seen.json()["status"] == "confirmed"


async def test_prices_reach_their_pages_while_the_engine_stands_still(
    stores: OwnStores, street: Street, mended: None
) -> None:
    """The second as well as the first, while what search was to be told of the first hangs; search follows."""

    async def change_prices() -> None:
        async with asyncio.timeout(60):
            while await price_in_search() != await price_on_page():  # noqa: ASYNC110 — the worker has caught up
                await asyncio.sleep(0.05)
        stores.freeze("search")
        before = await price_on_page()
        for price in (before + 100, before + 200):
            item = {"name": "A mug", "unitPriceCents": price}
            changed = await street.staff.put("/inventory/MUG", json=item)
            assert changed.is_success, changed.text
            async with asyncio.timeout(BULK_SECONDS / 2):
                while await price_on_page() != price:  # noqa: ASYNC110 — it comes true elsewhere
                    await asyncio.sleep(0.02)
        stores.thaw("search")
        async with asyncio.timeout(60):
            while await price_in_search() != price:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def price_on_page() -> int:
        return int((await street.guest.get("/products/MUG")).json()["priceCents"])

    async def price_in_search() -> int | None:
        shop = street.shop
        with suppress(StoreUnavailable):
            held = await search.stored(shop.stores.search, shop.settings.search_alias, "", None, 1000)
            return next((int(found["priceCents"]) for found in held.values() if found["sku"] == "MUG"), None)
        return None

    await together(sync.run_worker(street.shop, asyncio.Event()), change_prices())


@pytest.mark.parametrize("store", STORES)
async def test_a_store_that_dies_under_load_is_never_a_fault(
    stores: OwnStores, street: Street, mended: None, store: str
) -> None:
    told_away, has_been_round, is_dead = 0, asyncio.Event(), asyncio.Event()

    async def shop_on() -> list[str]:
        """Everything, and again until the store is dead and somebody was told: what was found before is kept."""
        nonlocal told_away
        said = []
        while not (is_dead.is_set() and told_away):
            for request in REQUESTS:
                answer = await street.ask(*request)
                told_away += away(answer, store)
                # A crowd meets itself (409) and tries one wrong password too often (429); neither is a fault.
                if not (well(request, answer) or answer.status_code in (409, 429) or away(answer, store)):
                    said.append(f"{request[:3]}: {answer.status_code} {answer.text[:300]}")
            has_been_round.set()
        return said

    crowd = [asyncio.create_task(shop_on()) for _ in range(6)]
    await has_been_round.wait()
    await stores.kill(store)
    is_dead.set()
    async with asyncio.timeout(60):
        faults = [fault for said in await asyncio.gather(*crowd) for fault in said]
    assert not faults, f"{len(faults)}:\n" + "\n".join(faults[:10])


async def test_a_shop_that_opens_with_no_store_up_works_once_they_are(
    stores: OwnStores, street: Street, mended: None
) -> None:
    for store in STORES:
        await stores.kill(store)
    port = free_port()
    settings = street.shop.settings
    environment = {f"QUARTET_{name.upper()}_URL": url for name, url in stores.urls.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "quartet.cli", "serve", "--port", str(port), "--data", str(settings.data_dir),
        env={**environment, "QUARTET_SECRET": SECRET, "PATH": "/usr/bin:/bin", "QUARTET_LOG_LEVEL": "error"},
        cwd=settings.data_dir,
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            async with asyncio.timeout(40):
                while not await _answers(client):  # noqa: ASYNC110 — it comes true elsewhere
                    await asyncio.sleep(0.1)
            for path, store in {"/products": "mongodb", "/search": "search", "/cart": "redis"}.items():
                answer = await client.get(path)
                assert away(answer, store), answer.text
            token = street.shopper.headers
            assert away(await client.get("/orders", headers=token), "postgres")
            await stores.mend()
            await until_well(street)
            for path in ("/products", "/search?q=mug", "/cart", "/orders"):
                async with asyncio.timeout(20):  # its own guards learn of it in their own time
                    while (await client.get(path, headers=token)).status_code != 200:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
    finally:
        process.terminate()
        await process.wait()


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health/live")).is_success
    except httpx.TransportError:
        return False
