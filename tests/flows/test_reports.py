"""Reports over HTTP, by clients that come and go."""

import asyncio

import httpx
from fastapi import FastAPI
from line import serving

from quartet.stores.postgres import Read
from quartet.stores.reports import AT_ONCE
from quartet.web.dependencies import Shop

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass"


async def test_a_report_ends_when_whoever_asked_hangs_up(shop: Shop, app: FastAPI, staff: httpx.AsyncClient) -> None:
    """At PostgreSQL too; and who waits for its place gets it."""
    async with serving(app) as line, shop.stores.pg.tx() as tx:
        await tx.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        async with httpx.AsyncClient(base_url=line.url, headers=staff.headers) as client:
            asked = [asyncio.create_task(client.get("/analytics/revenue")) for _ in range(AT_ONCE + 1)]
            await _until_waiting(tx, AT_ONCE)
            for each in asked:
                each.cancel()
            await _until_waiting(tx, 0)
        async with asyncio.timeout(10):
            found, _ = await shop.stores.report(lambda read: read.fetchval("SELECT 'read'"))
        assert found == "read"
    told = (await staff.get("/metrics")).text
    assert 'quartet_http_requests_total{method="GET",route="/analytics/revenue",status="499"}' in told
    assert (await staff.get("/analytics/revenue")).status_code == 200


async def _until_waiting(read: Read, many: int) -> None:
    """Until so many reports wait for the table."""
    async with asyncio.timeout(10):
        while await read.fetchval(WAITING) != many:  # noqa: ASYNC110 — it is found out by asking
            await asyncio.sleep(0.02)
