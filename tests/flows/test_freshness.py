"""How fresh search is, is measured each second by a product that goes the way of all, and that nobody is shown."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from test_sync import add, kettle, kitchen, running, soon

from quartet import audit, catalog, search, sync
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.stores import open_stores
from quartet.sync import freshness, metrics, relay, store, worker
from quartet.web.dependencies import Shop

__all__ = ["kitchen"]  # a fixture

NOWHERE = "postgresql://127.0.0.1:1/none"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With a canary that is in a hurry."""
    return settings.model_copy(update={"canary_seconds": 0.2, "webhook_loopback": True})


@pytest.fixture
async def singing(kitchen: Shop, staff: httpx.AsyncClient) -> AsyncIterator[Shop]:
    """A worker works, and the canary has been found in every way."""
    await add(kitchen, kettle("A"))
    async with running(sync.run_worker(kitchen, asyncio.Event())):
        await soon(lambda: _found(kitchen, staff), 60)
        yield kitchen


async def _found(shop: Shop, staff: httpx.AsyncClient) -> bool:
    await freshness.flush(shop)
    shown = (await staff.get("/sync")).json()["freshness"]
    return all(fresh["samples"] > 1 for fresh in shown)


async def test_how_long_it_takes_is_told_by_sync_and_by_metrics(
    singing: Shop, staff: httpx.AsyncClient, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {fresh["what"]: fresh for fresh in (await staff.get("/sync")).json()["freshness"]}
    assert list(shown) == ["catalog", "stock", "cache"]
    for fresh in shown.values():
        assert 0 < fresh["p50Seconds"] <= fresh["p99Seconds"]
    assert shown["catalog"]["ageSeconds"] < 60
    assert shown["stock"]["ageSeconds"] < 60
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 0)
    text = (await client.get("/metrics")).text
    for what in shown:
        name = f'quartet_search_freshness_seconds_bucket{{le="+Inf",of="{what}"}} '
        [line] = [line for line in text.splitlines() if line.startswith(name)]
        assert float(line.split()[-1]) >= shown[what]["samples"]
    assert 'quartet_search_freshness_seconds_bucket{le="0.05",of="catalog"}' in text
    assert 'quartet_search_freshness_age_seconds{of="stock"}' in text


async def test_nobody_is_shown_the_canary(singing: Shop, client: httpx.AsyncClient, staff: httpx.AsyncClient) -> None:
    held = await search.found_by_ids(singing.stores.search, singing.settings.search_alias, [catalog.CANARY])
    assert set(held) == {catalog.CANARY}  # it is there
    for asked in ("", "canary", "~canary", "~"):
        found = (await client.get("/search", params={"q": asked})).json()
        assert {item["sku"] for item in found["items"]} <= {"A"}
        assert found["total"] == len(found["items"])
        assert sum(bucket["count"] for bucket in found["facets"]["category"]) == found["total"]
        assert "canary" not in str(found["didYouMean"])
        assert (await client.get("/search/suggest", params={"q": asked})).json()["items"] == []
    for visitor in (client, staff):
        listed = (await visitor.get("/products", params={"limit": 100})).json()
        assert [item["sku"] for item in listed["items"]] == ["A"]
    assert (await client.get("/products/~canary")).status_code == 404
    stocked = (await staff.get("/inventory")).json()
    assert [item["sku"] for item in stocked["items"]] == ["A"]
    report = await audit.check(singing)
    assert report.violations == ()
    assert report.checked["search_equals_catalog"] == 1


async def test_no_shops_own_system_is_told_of_the_canary(kitchen: Shop, staff: httpx.AsyncClient) -> None:
    everything = {"url": "http://127.0.0.1:1024/", "events": ["*"]}
    made = (await staff.post("/webhook-endpoints", json=everything)).json()
    async with running(freshness.run_canary(kitchen)):
        await soon(lambda: _sung(kitchen), 60)
    while await relay.relay(kitchen):
        pass
    assert (await staff.get(f"/webhook-endpoints/{made['id']}/deliveries")).json()["items"] == []


async def _sung(shop: Shop) -> bool:
    async with shop.stores.pg.read() as read:
        return bool(await read.fetchval("SELECT count(*) FROM outbox WHERE key = $1", catalog.CANARY))


async def test_canary_writes_not_found_grow_old_and_are_found_by_the_next_worker(kitchen: Shop) -> None:
    """A worker sang and was killed, an hour ago."""
    long_ago = freshness._now(kitchen) - 3_600_000
    async with kitchen.stores.pg.tx() as tx:
        for what in (freshness.CATALOG, freshness.STOCK):
            await store.record_canary_write(tx, what, long_ago)
            await store.record_canary_found(tx, what, long_ago - 1000)
        states = await store.canary_states(tx)
    now = kitchen.clock.now().timestamp()
    ages = {fresh.what: fresh.age_seconds for fresh in freshness.summary([], states, now)}
    assert ages["cache"] is None
    assert all(ages[what] is not None and ages[what] > 3600 for what in ("catalog", "stock"))  # type: ignore[operator]
    async with running(sync.run_worker(kitchen, asyncio.Event())):
        await soon(lambda: _long(kitchen), 60)


async def _long(shop: Shop) -> bool:
    await freshness.flush(shop)
    async with shop.stores.pg.read() as read:
        return any(took.bound == float("inf") and took.lately for took in await store.freshness(read))


async def test_what_is_old_is_summed_up_and_never_counted_less(kitchen: Shop) -> None:
    for seconds in (0.01, 0.04, 0.3, 7, 100):
        freshness.observe(kitchen, freshness.CATALOG, seconds)
    await freshness.flush(kitchen)
    await freshness.flush(kitchen)
    async with kitchen.stores.pg.tx() as tx:
        before = await store.freshness(tx)
        assert [(took.bound, took.n) for took in before] == [(0.05, 2), (0.3, 1), (10, 1), (float("inf"), 1)]
        for _ in range(2):
            await tx.execute("UPDATE sync_freshness SET minute = minute - interval '2 hours' WHERE minute > 'epoch'")
            await store.sweep_freshness(tx)
            await store.observe(tx, [(freshness.CATALOG, 0.05, 1, 0.01)])
        after = await store.freshness(tx)
        rows = await tx.fetch("SELECT minute FROM sync_freshness WHERE minute = 'epoch'")
    assert [(took.bound, took.n) for took in after] == [(0.05, 4), (0.3, 1), (10, 1), (float("inf"), 1)]
    assert sum(took.lately for took in after) == 1
    assert len(rows) == 4


async def test_what_cannot_be_written_down_is_kept_for_the_next_time(
    kitchen: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    freshness.observe(kitchen, freshness.CATALOG, 0.3)
    with monkeypatch.context() as away:
        away.setattr(store, "observe", _away)
        with pytest.raises(StoreUnavailable):
            await freshness.flush(kitchen)
    freshness.observe(kitchen, freshness.CATALOG, 0.2)
    await freshness.flush(kitchen)
    async with kitchen.stores.pg.read() as read:
        written = [(took.n, took.seconds) for took in await store.freshness(read)]
    assert written == [(1, 0.2), (1, 0.3)]


async def _away(*_: Any) -> None:
    raise StoreUnavailable("postgresql")


async def test_a_worker_says_so_when_it_cannot_ask_for_its_figures(kitchen: Shop) -> None:
    metrics.MEASURED.set(1)
    async with open_stores(kitchen.settings.model_copy(update={"postgres_url": NOWHERE})) as stores:
        lonely = replace(kitchen, stores=stores)
        freshness.observe(lonely, freshness.CATALOG, 0.3)  # which it has nowhere to write down
        with pytest.raises(StoreUnavailable):
            await worker._measures(lonely, store.NO_LEASE)
    assert metrics.MEASURED._value.get() == 0


@pytest.mark.parametrize(
    ("counts", "p50", "p99"),
    [({}, None, None), ({0.1: 99, 2.0: 1}, 0.1, 0.1), ({0.1: 98, 2.0: 2}, 0.1, 2.0), ({float("inf"): 1}, None, None)],
)
def test_quantiles_are_bounds_that_hold(counts: dict[float, int], p50: float | None, p99: float | None) -> None:
    histogram = [store.HistogramBucket("stock", bound, n, 0.0, n) for bound, n in counts.items()]
    [fresh] = [fresh for fresh in freshness.summary(histogram, [], 0) if fresh.what == "stock"]
    assert (fresh.p50_seconds, fresh.p99_seconds, fresh.samples) == (p50, p99, sum(counts.values()))


async def test_a_shop_may_have_no_canary(kitchen: Shop) -> None:
    quiet = replace(kitchen, settings=kitchen.settings.model_copy(update={"canary_seconds": 0}))
    async with running(freshness.run_canary(quiet)):
        await asyncio.sleep(0.3)
    async with kitchen.stores.pg.read() as read:
        assert await store.canary_states(read) == []
