"""The worker is killed at every step; whoever goes on makes everything equal, and counts nothing twice."""

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from uuid import UUID, uuid4

import httpx
import psutil
import pytest

from conftest import SEED, daily_points, differing
from quartet import cart, catalog, inventory, search, sync
from quartet.catalog import Category, Draft
from quartet.kernel.settings import Settings
from quartet.stores import letters, outbox
from quartet.sync import changes, store
from quartet.sync.leases import HEARTBEATS_PER_LEASE
from quartet.sync.tasks import together
from quartet.sync.worker import PIECES
from quartet.web.dependencies import Shop

# As they come in a batch of changes, of events, and in a rebuild.
STEPS = ("gathered", "drawn", "read", "copied", "noted", "written", "dropped", "carried", "saved")
EVENT_STEPS = ("claimed", "levels read", "levels copied", "pages renewed", "levels noted", "delivered", "forgotten")
REBUILD_STEPS = ("made", "batch", "filled", "live")
MORTAL, DROWSY = [Path(__file__).with_name(f"{kind}_worker.py") for kind in ("mortal", "drowsy")]
POINTS = 7
# How often a worker is stopped, and how long the other may take then: locks are held for three seconds, the rest is for
# its start and for a busy machine.
STOPS = 3
STOPPED_SECONDS = 20


class Traffic:
    """What goes on in the shop, a round at a time."""

    def __init__(self, shop: Shop, user_id: UUID) -> None:
        self.shop, self.user_id, self.rounds = shop, user_id, 0

    async def prepare(self) -> None:
        await catalog.put_category(self.shop, Category("kitchen", "Kitchen", None, {"type": "object"}))
        for i in range(40):
            await self._add(f"OLD{i}")

    async def round(self) -> None:
        """One product comes, one changes, one goes, one is stocked up, and one order is paid."""
        n = self.rounds
        self.rounds += 1
        await self._add(f"NEW{n}")
        await catalog.change_product(
            self.shop, f"OLD{n + 20}", lambda _: self._draft(f"OLD{n + 20}", "Teapot"), if_match=None, actor="test"
        )
        await catalog.delete_product(self.shop, f"OLD{n}", if_match=None)
        order_id = str(uuid4())
        order = {"order_id": order_id, "user_id": str(self.user_id), "currency": "GBP",
                 "total_cents": POINTS * 100, "items": [{"sku": "OLD39", "qty": 1}]}  # fmt: skip
        async with self.shop.stores.pg.tx() as tx:
            await inventory.move(tx, f"OLD{n + 20}", 1 + n, "received", actor="test")
            await outbox.emit(tx, "order.confirmed", order_id, order)

    async def _add(self, sku: str) -> None:
        await catalog.create_product(self.shop, self._draft(sku, f"Kettle {sku}"), actor="test")

    @staticmethod
    def _draft(sku: str, name: str) -> Draft:
        return Draft(sku, name, "kitchen", price_cents=2500, published_at=datetime(2025, 1, 1, tzinfo=UTC))

    async def carried(self) -> bool:
        """Whether everything that went on has arrived."""
        await self.shop.stores.search.refresh(self.shop.settings.search_alias)
        async with self.shop.stores.pg.read() as read:
            waiting, _ = await outbox.depth(read)
            rebuild = await store.open_rebuild(read)
        return not waiting and rebuild is None and not await differing(self.shop)


@pytest.fixture
async def traffic(shop: Shop, shopper: httpx.AsyncClient) -> Traffic:
    """A shop in which something goes on."""
    traffic = Traffic(shop, shopper.user_id)  # type: ignore[attr-defined]
    await traffic.prepare()
    assert (await shopper.put("/cart/items/OLD39", json={"qty": 30})).status_code == 200
    return traffic


class Mortals:
    """Starts worker processes that kill themselves; what they say of it goes to `log`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self._log = process, log

    async def killed_at(self, step: str) -> None:
        """Runs one until it has killed itself at the step."""
        self.start(step)
        await self.ended(step)

    async def kill(self) -> None:
        """Kills the one that runs, wherever it stands."""
        [running] = psutil.Process(self._process.pid).children()
        running.kill()
        await self.ended("anywhere")

    async def stands_still(self) -> psutil.Process:
        """Waits until the one that runs is stopped."""
        async with asyncio.timeout(30):
            while True:
                for running in psutil.Process(self._process.pid).children():
                    if running.status() == psutil.STATUS_STOPPED:
                        return running
                await asyncio.sleep(0.02)

    def start(self, step: str = "never") -> None:
        """Runs one."""
        assert self._process.stdin
        self._process.stdin.write(f"{step}\n".encode())

    async def ended(self, step: str) -> None:
        """Waits until it was killed."""
        assert self._process.stdout
        said = (await self._process.stdout.readline()).decode().strip()
        if said != str(int(signal.SIGKILL)):
            pytest.fail(f"{step}: ended by signal {said or 'none'}; the workers' log ends:\n{self._log_end()}")

    def _log_end(self) -> str:
        return "\n".join(self._log.read_text().splitlines()[-60:])


@pytest.fixture
async def mortals(shop: Shop, tmp_path: Path) -> AsyncIterator[Mortals]:
    async with mortals_of(shop, tmp_path) as mortals:
        yield mortals


@asynccontextmanager
async def mortals_of(shop: Shop, folder: Path, kind: Path = MORTAL) -> AsyncIterator[Mortals]:
    """Workers of this shop, with their log in the folder."""
    settings = shop.settings.model_dump_json().replace('"**********"', '"' + "x" * 40 + '"')
    log = folder / "mortals.log"
    with log.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, kind, settings, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )  # fmt: skip
    try:
        yield Mortals(process, log)
    finally:
        assert process.stdin
        process.stdin.close()
        async with asyncio.timeout(60):
            await process.wait()


async def _until_carried(traffic: Traffic, step: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not await traffic.carried():  # noqa: ASYNC110 — it comes true in the stores
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"killed at {step!r}, it was not made good within 30 s")


@pytest.mark.timeout(600)
async def test_a_worker_killed_at_any_step_leaves_nothing_undone_or_done_twice(
    shop: Shop, traffic: Traffic, mortals: Mortals
) -> None:
    await mortals.killed_at("saved")  # the first start: no position, so a rebuild, then the changes
    for step in (*STEPS, *EVENT_STEPS, *REBUILD_STEPS):
        await traffic.round()
        if step in REBUILD_STEPS:
            await sync.ask_reindex(shop, "test")
        await mortals.killed_at(step)
        await leases_run_out(shop)
        await together(sync.run_worker(shop, asyncio.Event()), _until_carried(traffic, step))
    async with shop.stores.pg.read() as read:
        assert await store.position(read, changes.PIPELINE) is not None
        assert await letters.counts(read) == {}
    assert await daily_points(shop, traffic.user_id) == POINTS * traffic.rounds
    assert await cart.lines(shop.stores.redis, traffic.user_id) == {"OLD39": 30 - traffic.rounds}
    assert await shop.stores.search.alias_targets(search.next_alias(shop.settings)) == []
    assert len(await shop.stores.search.alias_targets(f"{shop.settings.search_alias}-all")) == 2


async def leases(shop: Shop) -> dict[str, set[str]]:
    """By each worker that lives the pieces that it holds."""
    async with shop.stores.pg.read() as read:
        rows = await read.fetch("SELECT worker, piece FROM work_leases WHERE until > now()")
    return {row["worker"]: {r["piece"] for r in rows if r["worker"] == row["worker"]} - {row["worker"]} for row in rows}


async def leases_run_out(shop: Shop) -> None:
    """As they do when a second has passed since a worker was killed."""
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE work_leases SET until = now()")


async def until_so_many_live(shop: Shop, count: int, holding: int) -> None:
    """And together hold so many pieces at least."""
    async with asyncio.timeout(30):
        while True:
            held = await leases(shop)
            if len(held) == count and sum(map(len, held.values())) >= holding:
                return
            await asyncio.sleep(0.02)


@pytest.mark.timeout(600)
async def test_what_a_killed_worker_had_to_do_is_soon_done_by_the_one_beside_it(
    shop: Shop, traffic: Traffic, tmp_path: Path
) -> None:
    """Killed as the other comes, when it holds all, and when they have shared the work."""
    lease = Settings(_env_file=None).worker_lease_seconds
    assert lease * (1 + 1 / HEARTBEATS_PER_LEASE) < 5  # the longest that nobody does a piece of the work
    shop = replace(shop, settings=shop.settings.model_copy(update={"worker_lease_seconds": lease}))
    pieces = sum(map(len, PIECES.values()))
    print(f"seed {SEED}")
    for seconds in (0.0, lease / 2, lease / 2 + random.Random(SEED).uniform(0, lease / HEARTBEATS_PER_LEASE)):
        async with mortals_of(shop, tmp_path) as mortals:
            mortals.start()
            await until_so_many_live(shop, 1, pieces)
            await _until_carried(traffic, "never")
            [killed] = await leases(shop)

            async def kill_and_change(
                killed: str = killed, mortals: Mortals = mortals, seconds: float = seconds
            ) -> None:
                await until_so_many_live(shop, 2, 1)
                await asyncio.sleep(seconds)
                held = len((await leases(shop))[killed])
                await mortals.kill()
                began = monotonic()
                await traffic.round()
                await _until_carried(traffic, "anywhere")
                print(f"killed with {held} of {pieces} pieces: made good after {monotonic() - began:.1f} s")

            await together(sync.run_worker(shop, asyncio.Event()), kill_and_change())


async def held_in_postgres(shop: Shop) -> str:
    """Which connections there are, what they do, and what they have locked or wait for."""
    async with shop.stores.pg.read() as read:
        rows = await read.fetch(
            """SELECT pid, state, wait_event, clock_timestamp() - query_start AS since, pg_blocking_pids(pid) AS behind,
                      left(query, 80) AS query,
                      (SELECT string_agg(DISTINCT concat_ws(' ', relation::regclass, mode, granted), ', ')
                       FROM pg_locks l WHERE l.pid = a.pid) AS locks
               FROM pg_stat_activity a WHERE datname = current_database() ORDER BY query_start"""
        )
    return "\n".join(str(dict(row)) for row in rows)


@pytest.mark.timeout(300)
async def test_what_a_worker_that_stands_still_has_locked_is_soon_free_for_the_one_beside_it(
    shop: Shop, traffic: Traffic, tmp_path: Path
) -> None:
    """Stopped anywhere in the transaction in which the relay writes down what it has done, also in the middle of a
    statement; when it wakes up it undoes nothing."""
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    (tmp_path / "beside").mkdir()
    async with (
        mortals_of(shop, tmp_path, DROWSY) as drowsy,
        mortals_of(shop, tmp_path / "beside", DROWSY) as others,
    ):
        for _ in range(STOPS):
            place = f"{dice.randint(1, 4)} {dice.uniform(0, 0.003):.4f}"
            drowsy.start(place)
            await traffic.round()
            sleeper = await drowsy.stands_still()
            others.start()
            began = monotonic()
            try:
                async with asyncio.timeout(STOPPED_SECONDS):
                    while not await traffic.carried():  # noqa: ASYNC110 — it comes true in the stores
                        await asyncio.sleep(0.05)
            except TimeoutError:
                pytest.fail(f"stopped at {place}, it keeps the other waiting:\n{await held_in_postgres(shop)}")
            print(f"stopped at {place}: made good after {monotonic() - began:.1f} s")
            sleeper.resume()
            await until_so_many_live(shop, 2, sum(map(len, PIECES.values())))
            await traffic.round()
            await _until_carried(traffic, place)
            await drowsy.kill()
            await others.kill()
            await leases_run_out(shop)
    async with shop.stores.pg.read() as read:
        assert await letters.counts(read) == {}
    assert await daily_points(shop, traffic.user_id) == POINTS * traffic.rounds
    assert await cart.lines(shop.stores.redis, traffic.user_id) == {"OLD39": 30 - traffic.rounds}
