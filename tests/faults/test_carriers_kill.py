"""The worker is killed at every step of carrying e-mails and webhooks: nothing is lost, what comes twice says so."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from test_worker_kill import mortals_of

from quartet import sync
from quartet.kernel.settings import Settings
from quartet.stores import outbox
from quartet.stores.mail import mailer
from quartet.sync.tasks import together
from quartet.web.dependencies import Shop

STEPS = (
    *("claimed", "delivered", "forgotten"),
    *("webhook claimed", "webhook sent", "webhook marked"),
    *("mail claimed", "mail sent", "mail marked"),
)


class Sinks:
    """A shop's own system, and a mail server: they keep what they are sent."""

    def __init__(self) -> None:
        self.hooks: list[tuple[dict[str, str], bytes]] = []
        self.mails: list[str] = []

    async def take_hook(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head)}
        self.hooks.append((headers, await reader.readexactly(int(headers["content-length"]))))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    async def take_mail(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink\r\n")
        while line := (await reader.readline()).strip().upper():
            if line == b"DATA":
                writer.write(b"354 go on\r\n")
                text = (await reader.readuntil(b"\r\n.\r\n")).decode()
                self.mails += [text_line for text_line in text.splitlines() if text_line.startswith("Message-ID")]
            writer.write(b"250 yes\r\n")
            await writer.drain()
        writer.close()


@pytest.fixture
async def sinks() -> AsyncIterator[tuple[Sinks, int, int]]:
    sinks = Sinks()
    servers = [await asyncio.start_server(take, "127.0.0.1", 0) for take in (sinks.take_hook, sinks.take_mail)]
    hooks_port, mail_port = (server.sockets[0].getsockname()[1] for server in servers)
    yield sinks, hooks_port, mail_port
    for server in servers:
        server.close()


@pytest.fixture
def settings(settings: Settings, sinks: tuple[Sinks, int, int]) -> Settings:
    return settings.model_copy(update={"webhook_loopback": True, "mail_url": f"smtp://127.0.0.1:{sinks[2]}"})


@pytest.mark.timeout(600)
async def test_a_worker_killed_at_any_step_of_carrying_loses_nothing(
    shop: Shop, staff: httpx.AsyncClient, shopper: httpx.AsyncClient, sinks: tuple[Sinks, int, int], tmp_path: Path
) -> None:
    sink, port, _ = sinks
    wanted = {"url": f"http://127.0.0.1:{port}/", "events": ["*"]}
    assert (await staff.post("/webhook-endpoints", json=wanted)).status_code == 201
    happened: list[str] = []
    async with mortals_of(shop, tmp_path) as mortals:
        for step in STEPS:
            async with shop.stores.pg.tx() as tx:
                # A link to a new password is an e-mail; a new price is what the shop's own system listens to.
                user_id = str(shopper.user_id)  # type: ignore[attr-defined]
                await outbox.emit(tx, "user.reset_asked", user_id, {"user_id": user_id})
                key = uuid4().hex
                await outbox.emit(tx, "price.changed", key, {"sku": key})
                happened.append(str(await tx.fetchval("SELECT event_id FROM outbox WHERE key = $1", key)))
            await mortals.killed_at(step)
            async with shop.stores.pg.tx() as tx:  # the leases of the dead have run out
                await tx.execute("UPDATE work_leases SET until = now()")
                await tx.execute("UPDATE webhook_deliveries SET leased_until = now() WHERE leased_until IS NOT NULL")
                await tx.execute("UPDATE mails SET not_before = now() WHERE state = 'waiting'")
    alive = replace(shop, mail=mailer(shop.settings.mail_url, shop.settings.mail_from))
    await together(sync.run_worker(alive, asyncio.Event()), _until_quiet(shop, len(happened)))
    told = [headers["webhook-id"] for headers, _ in sink.hooks]
    assert set(told) == set(happened)
    # What was on its way when the worker died may come again: under the same id, and word for word.
    assert len({(headers["webhook-id"], body) for headers, body in sink.hooks}) == len(happened)
    async with shop.stores.pg.read() as read:
        states = await read.fetch("SELECT kind, state, count(*) AS n FROM mails GROUP BY 1, 2")
    assert [tuple(row.values()) for row in states] == [("reset", "sent", len(STEPS))]
    assert len(sink.mails) >= len(STEPS)


async def _until_quiet(shop: Shop, deliveries: int) -> None:
    async with asyncio.timeout(60):
        while True:
            async with shop.stores.pg.read() as read:
                waiting = await read.fetchval(
                    """SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM mails WHERE state = 'waiting')
                       + (SELECT count(*) FROM webhook_deliveries WHERE state = 'pending')"""
                )
                done = await read.fetchval("SELECT count(*) FROM webhook_deliveries WHERE state = 'delivered'")
            if not waiting and done == deliveries:
                return
            await asyncio.sleep(0.1)
