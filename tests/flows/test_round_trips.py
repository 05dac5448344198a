"""What a purchase costs in round trips to PostgreSQL, counted on the wire."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
from fastapi import FastAPI
from till import Till, order, pay

from quartet.kernel.settings import Settings
from quartet.stores.postgres import Postgres
from quartet.web.dependencies import Shop


class Wire:
    """A proxy that counts what the client waits for: each Sync and each simple Query is a round trip."""

    def __init__(self) -> None:
        self.round_trips = 0

    async def carry(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(host, port)
        try:
            await asyncio.gather(self._forward(reader, server_writer), _back(server_reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            server_writer.close()
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started = False
        while True:
            kind = b"" if not started else await reader.readexactly(1)
            length = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(length) - 4)
            # Before the session starts messages have no kind: a wish for TLS, then version 3's own.
            started = started or body[:2] == b"\x00\x03"
            self.round_trips += kind in (b"S", b"Q")
            writer.write(kind + length + body)


async def _back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@pytest.fixture
async def wire(settings: Settings, shop: Shop, app: FastAPI) -> AsyncIterator[Wire]:
    """The application's way to PostgreSQL, with a counter on it and one warm connection."""
    wire = Wire()
    url = urlsplit(settings.postgres_url or "")
    host, real_port = url.hostname or "", url.port or 5432
    server = await asyncio.start_server(lambda r, w: wire.carry(host, real_port, r, w), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    netloc = url.netloc.rpartition("@")[0] + f"@127.0.0.1:{port}"
    pg = Postgres(urlunsplit(url._replace(netloc=netloc.lstrip("@"))), size=1)
    app.state.shop = replace(shop, stores=replace(shop.stores, pg=pg))
    yield wire
    await pg.close()
    server.close()


async def test_a_purchase_costs_few_round_trips(shopper: httpx.AsyncClient, shop: Shop, wire: Wire) -> None:
    await Till(shop).stock("MUG", 100)
    counted: dict[str, int] = {}
    for _ in range(2):  # the first time each statement is prepared
        counted = await _purchases(shopper, wire)
    print(counted)
    assert counted == {
        "order": 1, "pay": 3, "order with a key": 4, "pay with a key": 3, "replay": 1, "cancel": 5, "refund": 10,
    }  # fmt: skip


async def _purchases(shopper: httpx.AsyncClient, wire: Wire) -> dict[str, int]:
    counted = {}
    lines = {"items": [{"sku": "MUG", "qty": 1}, {"sku": "MUG", "qty": 1}]}

    def note(name: str) -> None:
        counted[name] = wire.round_trips
        wire.round_trips = 0

    wire.round_trips = 0
    made = await order(shopper, ("MUG", 1))
    note("order")
    assert (await pay(shopper, made["id"])).status_code == 201
    note("pay")
    key = {"Idempotency-Key": made["id"]}
    keyed = (await shopper.post("/orders", json=lines, headers=key)).json()
    note("order with a key")
    assert (await pay(shopper, keyed["id"], key=keyed["id"])).status_code == 201
    note("pay with a key")
    assert (await pay(shopper, keyed["id"], key=keyed["id"])).status_code == 201
    note("replay")
    other = await order(shopper, ("MUG", 1))
    wire.round_trips = 0
    assert (await shopper.post(f"/orders/{other['id']}/cancel")).status_code == 200
    note("cancel")
    assert (await shopper.post(f"/orders/{made['id']}/cancel")).status_code == 200
    note("refund")
    return counted
