"""Shops' own systems are told what happens: signed, at least once, and never a machine inside the house."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from standardwebhooks import Webhook, WebhookVerificationError
from till import Till, order, pay

from conftest import stuck
from quartet import accounts, hooks
from quartet.hooks import addresses, delivery, model, sender, store
from quartet.kernel.clock import FixedClock
from quartet.kernel.settings import Settings
from quartet.stores import outbox, tallies
from quartet.sync import relay
from quartet.web.dependencies import Shop

Json = dict[str, Any]
Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    """As it came over the wire."""

    head: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


async def answer(writer: asyncio.StreamWriter, status: str, more: str = "", body: bytes = b"thanks") -> None:
    writer.write(f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


async def takes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await answer(writer, "204 No Content", body=b"")


def says(status: str, more: str = "", body: bytes = b"no") -> Behave:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(writer, status, more, body)

    return behave


async def hangs(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def cuts(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def never_ends(status: str) -> Behave:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()

    return behave


async def trickles(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)


async def endless_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


@dataclass
class Receiver:
    """A shop's own system: keeps what it is sent, behaves as it is told."""

    url: str = ""
    port: int = 0
    behave: Behave = takes
    got: list[Request] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.got.append(Request(head, headers, body))
            await self.behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.at_once -= 1
            writer.close()


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    receiver.url = f"http://127.0.0.1:{receiver.port}/hooks"
    try:
        yield receiver
    finally:
        server.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Receivers stand on this machine."""
    return settings.model_copy(update={"webhook_loopback": True, "access_ttl": 10**8})


@pytest.fixture
async def send(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[sender.Sender]:
    """Impatient, so that no test waits long for an endpoint that says nothing."""
    monkeypatch.setattr(sender, "WHOLE_SECONDS", 1.5)
    monkeypatch.setattr(sender, "BODY_SECONDS", 0.5)
    async with sender.open_sender(loopback=True, at_once=32) as found:
        yield found


async def endpoint(staff: httpx.AsyncClient, url: str, *events: str) -> Json:
    made = await staff.post("/webhook-endpoints", json={"url": url, "events": list(events) or ["*"]})
    assert made.status_code == 201, made.text
    found: Json = made.json()
    return found


async def happen(shop: Shop, topic: str, key: str = "", payload: Json | None = None) -> str:
    """An event, carried as far as the deliveries; its id."""
    async with shop.stores.pg.tx() as tx:
        key = key or uuid4().hex
        await outbox.emit(tx, topic, key, payload or {"sku": key})
        id_ = await tx.fetchval("SELECT event_id FROM outbox WHERE key = $1 ORDER BY id DESC LIMIT 1", key)
    while await relay.relay(shop):
        pass
    return str(id_)


async def deliver(shop: Shop, send: sender.Sender) -> int:
    """Carries what is due now, as the worker would, and waits for it; answers how many that were."""
    claimed = await delivery._claim(shop, delivery.AT_ONCE)
    await asyncio.gather(*(delivery._attempt(shop, send, each) for each in claimed))
    return len(claimed)


async def deliveries(staff: httpx.AsyncClient, made: Json, query: str = "") -> list[Json]:
    listed = await staff.get(f"/webhook-endpoints/{made['id']}/deliveries?limit=100{query}")
    assert listed.status_code == 200, listed.text
    found: list[Json] = listed.json()["items"]
    return found


async def look(staff: httpx.AsyncClient, made: Json) -> Json:
    found: Json = (await staff.get(f"/webhook-endpoints/{made['id']}")).json()
    return found


# What arrives


async def test_a_purchase_is_told_in_order_and_every_signature_is_right(
    shop: Shop, staff: httpx.AsyncClient, shopper: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    await Till(shop).stock("MUG", 10, 1250)
    made = await endpoint(staff, receiver.url, "order.placed", "order.confirmed", "order.refunded")
    placed = await order(shopper, ("MUG", 2))
    await pay(shopper, placed["id"])
    await staff.post(f"/orders/{placed['id']}/refunds", json={"amountCents": 500})
    for _ in range(2):
        while await relay.relay(shop):
            pass
        while await deliver(shop, send):
            pass
    assert [r.head for r in receiver.got] == ["POST /hooks HTTP/1.1"] * 3
    told = [Webhook(made["secret"]).verify(r.body, r.headers) for r in receiver.got]
    assert [one["type"] for one in told] == ["order.placed", "order.confirmed", "order.refunded"]
    assert all(set(one) == {"type", "timestamp", "data"} for one in told)
    assert told[1]["data"] | {"items": 0, "confirmedAt": 0} == {
        "orderId": placed["id"], "userId": str(shopper.user_id), "email": None, "currency": "GBP",  # type: ignore[attr-defined]
        "totalCents": 2500, "capturedCents": 2500, "refundedCents": 0, "confirmedAt": 0, "claimedAt": None,
        "items": 0,
    }  # fmt: skip
    assert told[2]["data"]["amountCents"] == 500
    assert abs(datetime.now(UTC) - datetime.fromisoformat(told[0]["timestamp"])) < timedelta(minutes=2)
    assert {d["state"] for d in await deliveries(staff, made)} == {"delivered"}
    assert {d["eventId"] for d in await deliveries(staff, made)} == {r.id for r in receiver.got}
    with pytest.raises(WebhookVerificationError):
        Webhook(made["secret"]).verify(receiver.got[0].body + b" ", receiver.got[0].headers)


async def test_each_listens_to_what_it_asked_for(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    prices = await endpoint(staff, receiver.url, "price.changed")
    everything = await endpoint(staff, receiver.url, "*")
    off = await endpoint(staff, receiver.url, "*")
    await staff.patch(f"/webhook-endpoints/{off['id']}", json={"enabled": False})
    for topic in ("stock.changed", "price.changed", "user.reset_asked", "order.placed"):
        await happen(shop, topic, payload={"user_id": None, "sku": "MUG"})
    while await deliver(shop, send):
        pass
    assert [d["type"] for d in await deliveries(staff, prices)] == ["price.changed"]
    # What concerns the shop's own mail is nobody else's, links to new passwords least of all.
    assert [d["type"] for d in await deliveries(staff, everything)] == [
        "order.placed",
        "price.changed",
        "stock.changed",
    ]
    assert await deliveries(staff, off) == []


async def test_what_opens_a_guests_cart_leaves_the_house_with_nobody(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    await endpoint(staff, receiver.url)
    await happen(shop, "order.placed", payload={"order_id": "o", "guest_cart": "a-token-of-a-cart", "items": []})
    await deliver(shop, send)
    assert json.loads(receiver.got[0].body)["data"] == {"orderId": "o", "items": []}


async def test_an_event_carried_again_is_delivered_once(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    await endpoint(staff, receiver.url)
    id_ = await happen(shop, "price.changed", "MUG")
    async with shop.stores.pg.tx() as tx:
        await outbox.requeue(tx, UUID(id_), "price.changed", "MUG", {"sku": "MUG"})
    await relay.relay(shop)
    await asyncio.gather(*(deliver(shop, send) for _ in range(6)))
    assert [r.id for r in receiver.got] == [id_]


async def test_many_workers_at_once_deliver_each_once_and_no_more_than_some_at_a_time(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    async def takes_its_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        await takes(reader, writer)

    receiver.behave = takes_its_time
    await endpoint(staff, receiver.url)
    ids = [await happen(shop, "price.changed", f"S{n}") for n in range(24)]
    while sum(await asyncio.gather(*(deliver(shop, send) for _ in range(3)))):
        pass
    assert sorted(r.id for r in receiver.got) == sorted(ids)
    assert receiver.most_at_once <= delivery.EACH_AT_ONCE


async def test_of_one_key_the_first_is_sent_first_and_one_that_is_refused_holds_up_none_for_ever(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    await endpoint(staff, receiver.url)
    first, second, third = [await happen(shop, "price.changed", "MUG") for _ in range(3)]
    receiver.behave = says("500 Oops")
    assert await deliver(shop, send) == 1
    receiver.behave = takes
    assert await deliver(shop, send) == 1
    assert await deliver(shop, send) == 1
    assert [r.id for r in receiver.got] == [first, second, third]


# Secrets


async def test_after_a_rotation_the_secrets_of_before_verify_for_a_day_and_none_lies_in_the_database(
    shop: Shop, app: FastAPI, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    clock = FixedClock(datetime.now(UTC))
    app.state.shop = shop = replace(shop, clock=clock)
    made = await endpoint(staff, receiver.url)
    once = (await staff.post(f"/webhook-endpoints/{made['id']}/rotate-secret")).json()
    rotated = (await staff.post(f"/webhook-endpoints/{made['id']}/rotate-secret")).json()
    assert rotated["secret"].startswith("whsec_")
    assert len({made["secret"], once["secret"], rotated["secret"]}) == 3
    await happen(shop, "price.changed")
    await deliver(shop, send)
    for secret in (made["secret"], once["secret"], rotated["secret"]):
        Webhook(secret).verify(receiver.got[0].body, receiver.got[0].headers)
    clock.advance(86_400 + 1)
    async with shop.stores.pg.read() as read:
        found = await store.get(read, rotated["id"])
        rows = str([dict(row) for row in await read.fetch("SELECT * FROM webhook_endpoints")])
        rows += str([dict(row) for row in await read.fetch("SELECT * FROM audit_log")])
    assert found.secrets(shop.settings.all_secrets(), clock.now()) == [rotated["secret"]]
    for secret in (made["secret"], once["secret"], rotated["secret"]):
        assert secret.removeprefix("whsec_") not in rows
    assert "secret" not in await look(staff, made)


def test_a_changed_shop_secret_leaves_the_old_signature_good_while_it_is_listed() -> None:
    now = datetime.now(UTC)
    one = model.Endpoint(uuid4(), "https://a.example", ("*",), None, b"salt", None, None, True, None, 0, 0, None, None,
                         uuid4(), now, now)  # fmt: skip
    before = one.secrets(["old" * 20], now)
    assert before[0] in one.secrets(["new" * 20, "old" * 20], now)
    assert before[0] not in one.secrets(["new" * 20], now)


# Endpoints that fail


@pytest.mark.parametrize(
    ("behave", "status", "error"),
    [
        (says("500 Oops"), 500, None),
        (says("302 Found", "Location: http://127.0.0.1:1/elsewhere\r\n"), 302, None),
        (says("307 Again", "Location: /hooks\r\n"), 307, None),
        (says("404 Not Found", body=b"<b>no</b>\0\n" + b"x" * 5000), 404, None),
        (never_ends("500 Oops"), 500, None),
        (hangs, None, "no answer within"),
        (cuts, None, ""),
        (endless_head, None, ""),
    ],
    ids=["500", "302", "307", "404", "endless 500", "hangs", "cuts", "endless head"],
)
async def test_only_2xx_is_a_yes_and_nothing_is_followed_or_waited_for(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender, behave: Behave,
    status: int | None, error: str | None,
) -> None:  # fmt: skip
    receiver.behave = behave
    made = await endpoint(staff, receiver.url)
    await happen(shop, "price.changed")
    async with asyncio.timeout(10):
        assert await deliver(shop, send) == 1
    [one] = await deliveries(staff, made)
    assert (one["state"], one["attempts"], one["status"]) == ("pending", 1, status)
    assert error is None or error in one["error"]
    assert len(one["answer"] or "") <= sender.KEPT_CHARACTERS
    assert "\0" not in (one["answer"] or "")
    assert receiver.connections == 1
    wait = datetime.fromisoformat(one["nextTryAt"]) - datetime.now(UTC)
    assert timedelta(seconds=0) < wait < timedelta(seconds=7)
    assert await deliver(shop, send) == 0


@pytest.mark.parametrize("behave", [never_ends("200 OK"), trickles, says("201 Created"), says("299 Hm")],
                         ids=["endless", "trickling", "201", "299"])  # fmt: skip
async def test_a_yes_is_a_yes_however_long_the_endpoint_talks_on(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender, behave: Behave
) -> None:
    receiver.behave = behave
    made = await endpoint(staff, receiver.url)
    await happen(shop, "price.changed")
    async with asyncio.timeout(10):
        await deliver(shop, send)
    [one] = await deliveries(staff, made)
    assert one["state"] == "delivered"
    assert len(one["answer"]) <= sender.KEPT_CHARACTERS


async def test_one_that_hangs_does_not_hold_up_the_others(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    async with receiving() as slow:
        slow.behave = hangs
        await endpoint(staff, slow.url)
        await endpoint(staff, receiver.url)
        for n in range(12):
            await happen(shop, "price.changed", f"S{n}")
        task = asyncio.create_task(hooks.run(shop))
        async with asyncio.timeout(20):
            while len(receiver.got) < 12:  # noqa: ASYNC110 — it comes from outside
                await asyncio.sleep(0.05)
        assert slow.most_at_once == delivery.EACH_AT_ONCE
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_delivery_is_tried_for_a_day_later_each_time_then_lies_dead_and_can_be_sent_by_hand(
    shop: Shop, app: FastAPI, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(model, "FAILURES", 10**6)  # the breaker has a test of its own
    clock = FixedClock(datetime.now(UTC))
    app.state.shop = shop = replace(shop, clock=clock)
    receiver.behave = says("503 Later")
    made = await endpoint(staff, receiver.url)
    id_ = await happen(shop, "price.changed")
    began, tries = clock.now(), []
    while (one := (await deliveries(staff, made))[0])["state"] == "pending":
        if one["nextTryAt"]:
            clock.at = datetime.fromisoformat(one["nextTryAt"])
        tries.append((clock.now() - began).total_seconds())
        assert await deliver(shop, send) == 1
    assert 9 <= len(tries) <= 14
    assert tries[-1] > 12 * 3600
    assert tries[-1] <= 86_400
    assert {r.id for r in receiver.got} == {id_}
    assert one["state"] == "dead"
    receiver.behave = takes
    again = await staff.post(f"/webhook-endpoints/{made['id']}/deliveries/{one['id']}/redeliver")
    assert (again.status_code, again.json()["state"]) == (202, "pending")
    clock.at = datetime.now(UTC)
    await deliver(shop, send)
    Webhook(made["secret"]).verify(receiver.got[-1].body, receiver.got[-1].headers)
    assert receiver.got[-1].id == id_
    assert (await deliveries(staff, made))[0]["state"] == "delivered"


async def test_the_few_that_were_given_up_are_found_among_the_many_that_were_delivered(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver
) -> None:
    made = await endpoint(staff, receiver.url)
    async with shop.stores.pg.tx() as tx:
        await tx.execute(
            """INSERT INTO webhook_deliveries
                   (endpoint_id, event_id, topic, key, payload, happened_at, state, give_up_at)
               SELECT $1, gen_random_uuid(), 'price.changed', n::text, '{}', now(),
                      CASE WHEN n <= 5 THEN 'dead' WHEN n <= 8 THEN 'pending' ELSE 'delivered' END, now()
               FROM generate_series(1, 3000) AS n""",
            UUID(made["id"]),
        )
        await tx.execute("ANALYZE webhook_deliveries")
    for state, number in (("dead", 5), ("pending", 3), ("delivered", 100)):
        found = await deliveries(staff, made, f"&state={state}")
        assert [each["state"] for each in found] == [state] * number
        assert [each["id"] for each in found] == sorted((each["id"] for each in found), reverse=True)
    assert {each["state"] for each in await deliveries(staff, made)} == {"delivered"}
    for state in ("dead", "pending"):
        async with shop.stores.pg.tx() as tx:
            await tx.execute("SET LOCAL plan_cache_mode = force_generic_plan")  # as after some calls
            text = "EXPLAIN " + store.q.texts[f"deliveries_{state}"]
            plan = "\n".join(row[0] for row in await tx.fetch(text, UUID(made["id"]), 2**62, 100))
        assert " on webhook_deliveries" in plan and "webhook_deliveries_newest" not in plan and "Seq" not in plan, plan


async def test_an_endpoint_is_gone_at_once_and_its_deliveries_follow_in_portions(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    gone, stays = await endpoint(staff, receiver.url), await endpoint(staff, receiver.url)
    async with shop.stores.pg.tx() as tx:
        for each, many in ((gone, 5_003), (stays, 2)):
            await tx.execute(
                """INSERT INTO webhook_deliveries (endpoint_id, event_id, topic, key, payload, happened_at, give_up_at)
                   SELECT $1, gen_random_uuid(), 'price.changed', n::text, '{}', now(), now() + interval '1 day'
                   FROM generate_series(1, $2::int) AS n""",
                UUID(each["id"]), many,
            )  # fmt: skip
    assert (await staff.delete(f"/webhook-endpoints/{gone['id']}")).status_code == 204
    assert (await staff.get(f"/webhook-endpoints/{gone['id']}/deliveries")).status_code == 404
    async with shop.stores.pg.read() as read:
        assert (await hooks.waiting(read))[0] == 2
    left = []
    for _ in range(3):
        left += await Till(shop).rows("SELECT count(*) AS rows FROM webhook_deliveries")
        async with shop.stores.pg.tx() as tx:
            await hooks.sweep(tx, shop.clock.now())
    assert [each["rows"] for each in left] == [5_005, 5, 2]
    assert await deliver(shop, send) == 2
    assert len(await deliveries(staff, stays)) == 2


async def test_what_nobody_carried_for_a_day_is_not_sent_any_more(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    await endpoint(staff, receiver.url)
    await happen(shop, "price.changed")
    late = replace(shop, clock=FixedClock(datetime.now(UTC) + timedelta(hours=25)))
    assert await deliver(late, send) == 0
    assert receiver.got == []


async def test_what_is_on_its_way_is_not_sent_by_hand_beside_that(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    made = await endpoint(staff, receiver.url)
    await happen(shop, "price.changed")
    [one] = await deliveries(staff, made)
    by_hand: list[int] = []

    async def meanwhile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = await staff.post(f"/webhook-endpoints/{made['id']}/deliveries/{one['id']}/redeliver")
        by_hand.append(told.status_code)
        await takes(reader, writer)

    receiver.behave = meanwhile
    await deliver(shop, send)
    assert by_hand == [409]
    assert (await deliveries(staff, made))[0]["state"] == "delivered"


async def test_an_address_that_is_just_being_forgotten_does_not_come_along(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver
) -> None:
    await endpoint(staff, receiver.url)
    order_id = uuid4()
    async with shop.stores.pg.tx() as tx:
        await outbox.emit(tx, "order.cancelled", str(order_id), {"email": "guest@example.com"})
        events = await outbox.due(tx, 10, topics=["order.cancelled"])

    async def kept() -> None:
        async with shop.stores.pg.tx() as other:
            await hooks.keep(other, events)

    async with shop.stores.pg.tx() as tx:
        await outbox.forget_orders(tx, [order_id])
        keeping = asyncio.create_task(kept())
        await stuck(shop)
    await keeping
    async with shop.stores.pg.read() as read:
        assert [row["payload"] for row in await read.fetch("SELECT payload FROM webhook_deliveries")] == [{}]


async def test_what_an_endpoint_repeats_of_somebody_who_is_forgotten_meanwhile_is_not_kept(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    made, order_id, reached, forgotten = await endpoint(staff, receiver.url), uuid4(), asyncio.Event(), asyncio.Event()

    async def repeats(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await forgotten.wait()
        await answer(writer, "200 OK", body=receiver.got[-1].body)

    receiver.behave = repeats
    await happen(shop, "order.cancelled", str(order_id), {"order_id": str(order_id), "email": "guest@example.com"})
    delivering = asyncio.create_task(deliver(shop, send))
    await reached.wait()
    async with shop.stores.pg.tx() as tx:
        await hooks.forget_orders(tx, [order_id])
    forgotten.set()
    await delivering
    (delivered,) = await deliveries(staff, made)
    assert (delivered["state"], delivered["answer"]) == ("delivered", None)


async def test_the_breaker_opens_for_longer_each_time_lets_one_through_and_closes_with_a_yes(
    shop: Shop, app: FastAPI, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    clock = FixedClock(datetime.now(UTC))
    app.state.shop = shop = replace(shop, clock=clock)
    receiver.behave = says("500 Oops")
    made = await endpoint(staff, receiver.url)
    for n in range(40):
        await happen(shop, "price.changed", f"S{n}")
    while await deliver(shop, send):
        pass
    breaker = (await look(staff, made))["breaker"]
    assert breaker["state"] == "open"
    # Those that were under way when it opened count too, and no more are sent.
    assert model.FAILURES <= len(receiver.got) < model.FAILURES + delivery.EACH_AT_ONCE
    pauses = []
    for _ in range(9):
        until = datetime.fromisoformat((await look(staff, made))["breaker"]["openUntil"])
        pauses.append((until - clock.now()).total_seconds())
        assert await deliver(shop, send) == 0
        clock.at = until
        assert (await look(staff, made))["breaker"]["state"] == "half-open"
        (probe,) = await delivery._claim(shop, delivery.AT_ONCE)  # one, to see
        assert await delivery._claim(shop, delivery.AT_ONCE) == []  # nor another beside it
        await delivery._attempt(shop, send, probe)
        assert await deliver(shop, send) == 0
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    clock.at = datetime.fromisoformat((await look(staff, made))["breaker"]["openUntil"])
    receiver.behave = takes
    assert await deliver(shop, send) == 1
    assert (await look(staff, made))["breaker"] == {"state": "closed", "failures": 0, "openUntil": None}
    while await deliver(shop, send):
        pass
    clock.advance(7 * 3600)
    while await deliver(shop, send):
        pass
    assert {d["state"] for d in await deliveries(staff, made)} == {"delivered"}


async def test_who_refuses_one_kind_of_event_is_sent_the_others_at_once(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    async def knows_orders_alone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        known = json.loads(receiver.got[-1].body)["type"].startswith("order.")
        await (takes if known else says("422 Unknown type"))(reader, writer)

    receiver.behave = knows_orders_alone
    made = await endpoint(staff, receiver.url)
    for n in range(60):
        await happen(shop, "stock.changed", f"S{n}")
    await happen(shop, "order.shipped", payload={"order_id": "o"})
    while await deliver(shop, send):
        pass
    assert [d["type"] for d in await deliveries(staff, made, "&state=delivered")] == ["order.shipped"]
    assert len(receiver.got) == 61


async def test_what_it_fails_at_keeps_the_breaker_from_closing_for_no_other_kind(
    shop: Shop, app: FastAPI, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    async def fails_at_stock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        known = json.loads(receiver.got[-1].body)["type"].startswith("order.")
        await (takes if known else says("500 Oops"))(reader, writer)

    clock = FixedClock(datetime.now(UTC))
    app.state.shop = shop = replace(shop, clock=clock)
    receiver.behave = fails_at_stock
    made = await endpoint(staff, receiver.url)
    for n in range(20):
        await happen(shop, "stock.changed", f"S{n}")
    for n in range(2):
        await happen(shop, "order.shipped", f"O{n}", {"order_id": "o"})
    for delivered in (0, 1, 2):
        while await deliver(shop, send):
            pass
        now = await look(staff, made)
        assert (now["breaker"]["state"], len(await deliveries(staff, made, "&state=delivered"))) == ("open", delivered)
        clock.at = datetime.fromisoformat(now["breaker"]["openUntil"])


async def test_what_goes_alone_is_found_without_going_through_all_that_wait(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver
) -> None:
    """A million may, and no endpoint is sent anything while one claims."""
    made = await endpoint(staff, receiver.url)
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE webhook_endpoints SET opened = 1")
        # Of each order that it was delivered waits for that it was placed.
        await tx.execute(
            """INSERT INTO webhook_deliveries (endpoint_id, event_id, topic, key, payload, happened_at, give_up_at)
               SELECT $1, gen_random_uuid(), topic, n::text, '{}', now(), now() + interval '1 day'
               FROM generate_series(1, 10000) AS n, unnest(ARRAY['order.placed', 'order.delivered']) AS topic
               ORDER BY n, topic DESC""",
            UUID(made["id"]),
        )
        await tx.execute("ANALYZE webhook_deliveries")
        asked = (shop.clock.now(), 4, 32, 30.0)
        told = await tx.fetchval("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + store.q.claim, *asked)
        touched = told[0]["Plan"]["Shared Hit Blocks"] + told[0]["Plan"]["Shared Read Blocks"]
        assert touched < 10_000, told
        claimed = await tx.fetch("SELECT topic, key FROM webhook_deliveries WHERE attempts > 0")
    assert [tuple(each) for each in claimed] == [("order.placed", "1")]


async def test_another_address_does_not_wait_for_what_the_old_one_failed(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    receiver.behave = says("503 Later")
    made = await endpoint(staff, f"{receiver.url}/mistyped")
    for n in range(20):
        await happen(shop, "price.changed", f"S{n}")
    while await deliver(shop, send):
        pass
    same = await staff.patch(f"/webhook-endpoints/{made['id']}", json={"url": f"{receiver.url}/mistyped"})
    assert same.json()["breaker"]["state"] == "open"
    receiver.behave = takes
    moved = await staff.patch(f"/webhook-endpoints/{made['id']}", json={"url": receiver.url})
    assert moved.json()["breaker"] == {"state": "closed", "failures": 0, "openUntil": None}
    while await deliver(shop, send):
        pass
    states = [d["state"] for d in await deliveries(staff, made)]
    assert states.count("delivered") > 10  # all but those that were refused, which wait for their next try


async def test_what_an_open_breaker_held_back_for_a_day_is_counted_as_given_up(
    shop: Shop, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    receiver.behave = says("500 Oops")
    made = await endpoint(staff, receiver.url)
    for n in range(20):
        await happen(shop, "price.changed", f"S{n}")
    while await deliver(shop, send):
        pass
    for _ in range(2):
        async with shop.stores.pg.tx() as tx:
            await hooks.sweep(tx, datetime.now(UTC) + timedelta(hours=25))
    assert {d["state"] for d in await deliveries(staff, made)} == {"dead"}
    async with shop.stores.pg.read() as read:
        assert (await tallies.counted(read))["webhooks.dead"] == 20


async def test_after_days_of_failure_or_when_it_is_gone_it_is_switched_off_with_a_notice(
    shop: Shop, app: FastAPI, staff: httpx.AsyncClient, receiver: Receiver, send: sender.Sender
) -> None:
    clock = FixedClock(datetime.now(UTC))
    app.state.shop = shop = replace(shop, clock=clock)
    failing, gone = (
        await endpoint(staff, receiver.url, "price.changed"),
        await endpoint(staff, receiver.url, "order.placed"),
    )
    receiver.behave = says("500 Oops")
    await happen(shop, "price.changed")
    await deliver(shop, send)
    clock.advance(3 * 86_400 + 1)
    async with shop.stores.pg.tx() as tx:
        await hooks.sweep(tx, clock.now())
    assert (await deliveries(staff, failing))[0]["state"] == "dead"
    assert (await staff.post(f"/webhook-endpoints/{failing['id']}/test")).status_code == 202
    await deliver(shop, send)
    receiver.behave = says("410 Gone")
    clock.at = datetime.now(UTC)
    await happen(shop, "order.placed", payload={"items": []})
    await deliver(shop, send)
    for made, reason in ((failing, "nothing was taken since"), (gone, "410 Gone")):
        now = await look(staff, made)
        assert (now["enabled"], now["breaker"]["state"]) == (False, "disabled")
        assert reason in now["disabledReason"]
        assert (await staff.post(f"/webhook-endpoints/{made['id']}/test")).status_code == 409
    while await relay.relay(shop):
        pass
    async with shop.stores.pg.read() as read:
        told = await read.fetch("SELECT args FROM mails WHERE kind = 'webhook-disabled' ORDER BY id")
    assert [row["args"]["endpoint_id"] for row in told] == [failing["id"], gone["id"]]
    on = await staff.patch(f"/webhook-endpoints/{gone['id']}", json={"enabled": True})
    assert (on.json()["enabled"], on.json()["disabledReason"], on.json()["breaker"]["state"]) == (True, None, "closed")


@pytest.mark.parametrize("by_key", [False, True], ids=["by hand", "by a key"])
async def test_the_notice_reaches_whoever_made_the_endpoint(
    shop: Shop, admin: httpx.AsyncClient, client: httpx.AsyncClient, receiver: Receiver, send: sender.Sender,
    by_key: bool,
) -> None:  # fmt: skip
    from quartet import notify

    receiver.behave = says("410 Gone")
    maker = admin
    if by_key:
        key = (await admin.post("/api-keys", json={"name": "till", "scopes": ["webhooks:write"]})).json()
        client.headers["Authorization"] = f"Bearer {key['key']}"
        maker = client
    await endpoint(maker, receiver.url)
    await happen(shop, "price.changed")
    await deliver(shop, send)
    while await relay.relay(shop):
        pass
    await notify.deliver(shop)
    [(to, subject, text)] = shop.mail.sent  # type: ignore[attr-defined]
    async with shop.stores.pg.read() as read:
        assert to == await accounts.address(read, admin.user_id)  # type: ignore[attr-defined]
    assert subject == "A webhook endpoint was switched off"
    assert receiver.url in text
    assert "410 Gone" in text


# Addresses


async def test_an_address_that_turned_inside_after_it_was_given_is_never_connected_to(receiver: Receiver) -> None:
    """DNS rebinding: a public address when it is looked at, this machine's when it is sent to."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    asked = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return next(answers)

    from quartet.hooks import addresses

    url = f"https://rebind.example:{receiver.port}/"
    await addresses.public_addresses("rebind.example", receiver.port, rebinding, loopback=False)
    async with sender.open_sender(loopback=False, at_once=1, resolver=rebinding) as send:
        said = await send.post(url, {}, b"{}")
    assert said.error == "refused: the address is not a public one"
    assert len(asked) == 2
    assert receiver.connections == 0


async def test_a_name_that_leads_inside_as_well_is_refused_whole(receiver: Receiver) -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "10.0.0.7"]

    async with sender.open_sender(loopback=False, at_once=1, resolver=both) as send:
        assert "not a public one" in ((await send.post("https://both.example/", {}, b"{}")).error or "")


async def test_what_was_checked_is_what_is_connected_to_and_the_name_is_resolved_once(receiver: Receiver) -> None:
    asked = []

    async def once(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    async with sender.open_sender(loopback=True, at_once=1, resolver=once) as send:
        said = await send.post(f"http://shop.example:{receiver.port}/hooks?a=1", {"X-A": "b"}, b"{}")
    assert said.status == 204
    assert asked == ["shop.example"]
    assert receiver.got[0].head == "POST /hooks?a=1 HTTP/1.1"
    assert receiver.got[0].headers["host"] == f"shop.example:{receiver.port}"


async def test_tls_is_with_the_name_not_with_the_address(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    making = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
        "-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await making.communicate()
    assert making.returncode == 0, said
    names: list[str | None] = []
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(cert, key)
    theirs.sni_callback = lambda _, name, __: names.append(name)

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with receiving(theirs) as receiver:
        ours = ssl.create_default_context(cafile=str(cert))
        async with sender.open_sender(loopback=True, at_once=2, resolver=here, tls=ours) as send:
            assert (await send.post(f"https://shop.example:{receiver.port}/", {}, b"{}")).status == 204
            other = await send.post(f"https://other.example:{receiver.port}/", {}, b"{}")
        async with sender.open_sender(loopback=True, at_once=2, resolver=here) as send:
            unknown = await send.post(f"https://shop.example:{receiver.port}/", {}, b"{}")
    assert "CERTIFICATE_VERIFY_FAILED" in (other.error or "")
    assert "CERTIFICATE_VERIFY_FAILED" in (unknown.error or "")
    assert names == ["shop.example", "other.example", "shop.example"]
    assert len(receiver.got) == 1


async def test_no_endpoint_stands_inside_the_house(
    shop: Shop, app: FastAPI, staff: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = addresses.resolve

    async def resolve(host: str, port: int) -> Sequence[str]:
        """No name server is asked."""
        if host == "localhost" or not host[-1].isalpha():
            return await ours(host, port)
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(addresses, "resolve", resolve)
    app.state.shop = replace(shop, settings=shop.settings.model_copy(update={"webhook_loopback": False}))
    for url in (
        "http://example.com/", "https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data", "https://2130706433/", "https://0x7f.1/", "https://0/",
        "https://[::ffff:10.0.0.1]/", "https://[64:ff9b::a00:1]/", "https://100.64.0.1/", "https://224.0.0.1/",
        "https://user:password@example.com/", "https://1.1.1.1:22/", "https://1.1.1.1/#part", "ftp://1.1.1.1/",
        "https:///", "https://", "nothing", "https://a b/", "https://name.invalid/", "https://1.1.1.1\\@127.0.0.1/",
    ):  # fmt: skip
        refused = await staff.post("/webhook-endpoints", json={"url": url, "events": ["*"]})
        assert refused.status_code == 422, (url, refused.text)
        assert refused.json()["errors"][0]["field"] == "url", url
    made = await endpoint(staff, "https://1.1.1.1/hooks")
    inward = await staff.patch(f"/webhook-endpoints/{made['id']}", json={"url": "https://127.0.0.1/"})
    assert inward.status_code == 422
    assert (await look(staff, made))["url"] == "https://1.1.1.1/hooks"


# Staff


async def test_endpoints_are_listed_changed_and_taken_away_and_every_act_is_written_down(
    shop: Shop, staff: httpx.AsyncClient, shopper: httpx.AsyncClient, client: httpx.AsyncClient, receiver: Receiver
) -> None:
    body = {"url": receiver.url, "events": ["order.placed", "order.placed"], "description": "the warehouse"}
    made = (await staff.post("/webhook-endpoints", json=body)).json()
    assert made["events"] == ["order.placed"]
    others = [await endpoint(staff, receiver.url) for _ in range(4)]
    page = (await staff.get("/webhook-endpoints?limit=3")).json()
    rest = (await staff.get(f"/webhook-endpoints?limit=3&cursor={page['nextCursor']}")).json()
    assert [e["id"] for e in page["items"] + rest["items"]] == [e["id"] for e in [*others[::-1], made]]
    assert rest["nextCursor"] is None
    path = f"/webhook-endpoints/{made['id']}"
    changed = await staff.patch(path, json={"events": ["*", "stock.changed"], "description": None})
    assert (changed.json()["events"], changed.json()["description"]) == (["*"], None)
    assert (await staff.patch(path, json={"events": ["nothing.known"]})).status_code == 422
    assert (await staff.post("/webhook-endpoints", json={"url": receiver.url, "events": []})).status_code == 422
    assert (await staff.post(f"{path}/test")).status_code == 202
    [one] = await deliveries(staff, made)
    assert (one["type"], one["state"]) == ("webhook.test", "pending")
    assert (await staff.post(f"{path}/deliveries/{one['id']}/redeliver")).status_code == 202
    assert (await staff.post(f"{path}/deliveries/{one['id'] + 1}/redeliver")).status_code == 404
    assert (await staff.delete(path)).status_code == 204
    for call in (staff.get(path), staff.delete(path), staff.get(f"{path}/deliveries"), staff.post(f"{path}/test")):
        assert (await call).status_code == 404
    for guest, status in ((client, 401), (shopper, 403)):
        assert (await guest.get("/webhook-endpoints")).status_code == status
        assert (await guest.post("/webhook-endpoints", json=body)).status_code == status
    acts = await Till(shop).rows(
        "SELECT action FROM audit_log WHERE subject_id = $1 AND action LIKE 'webhook.%' ORDER BY id", made["id"]
    )
    assert [act["action"].removeprefix("webhook.") for act in acts] == [
        "create", "change", "test", "redeliver", "remove",
    ]  # fmt: skip
