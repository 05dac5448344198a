"""E-mails: each once, to whom it concerns, whatever the mail server does."""

import asyncio
import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from stops import Killed, dies_at
from test_sync import soon
from till import Till, order, pay

from quartet import notify
from quartet.kernel.clock import FixedClock
from quartet.kernel.errors import StoreUnavailable
from quartet.notify import service, store
from quartet.notify.templates import FOLDER
from quartet.stores import outbox
from quartet.stores.mail import MailRefused
from quartet.stores.outbox import Event
from quartet.stores.postgres import Tx
from quartet.stores.redis import RedisStore
from quartet.sync import relay, tasks
from quartet.web.dependencies import Shop

Json = dict[str, Any]


@pytest.fixture
async def till(shop: Shop) -> Till:
    till = Till(shop)
    await till.stock("MUG", 100, 1250)
    return till


async def carry(shop: Shop) -> None:
    """Events become e-mails, and those leave."""
    while await relay.relay(shop):
        pass
    while await notify.deliver(shop):
        pass


def sent(shop: Shop) -> list[tuple[str, str, str]]:
    """(address, subject, text) of what has left."""
    found: list[tuple[str, str, str]] = shop.mail.sent  # type: ignore[attr-defined]
    return found


async def address_of(shop: Shop, user_id: UUID) -> str:
    async with shop.stores.pg.read() as read:
        address: str = await read.fetchval("SELECT email FROM users WHERE id = $1", user_id)
    return address


def told(topic: str, payload: Json) -> Event:
    """An event as the relay takes it from the outbox."""
    return Event(1, uuid4(), topic, "k", payload, 0, datetime.now(UTC))


async def keep(shop: Shop, *events: Event) -> None:
    async with shop.stores.pg.tx() as tx:
        await notify.keep(tx, events)


async def mails_wait(shop: Shop, shopper: httpx.AsyncClient, times: int = 1) -> None:
    """So many e-mails to a shopper about one order."""
    placed = await order(shopper, ("MUG", 1))
    payload = {"order_id": placed["id"], "user_id": str(shopper.user_id)}  # type: ignore[attr-defined]
    await keep(shop, *(told("order.confirmed", payload) for _ in range(times)))


async def states(till: Till) -> list[str]:
    return [row["state"] for row in await till.rows("SELECT state FROM mails ORDER BY id")]


async def test_a_paid_order_is_told_once_with_what_was_bought(
    shop: Shop, till: Till, shopper: httpx.AsyncClient
) -> None:
    placed = await order(shopper, ("MUG", 2))
    assert (await pay(shopper, placed["id"])).status_code == 201
    await carry(shop)
    await carry(shop)
    [(to, subject, text)] = sent(shop)
    assert to == await address_of(shop, shopper.user_id)  # type: ignore[attr-defined]
    assert subject == f"Your order {placed['number']}"
    assert "2 x A MUG: 25.00 GBP" in text
    assert "Total: 25.00 GBP" in text
    assert f"{shop.settings.base_url}/orders/{placed['id']}" in text
    assert shop.mail.ids[0].startswith("<")  # type: ignore[attr-defined]
    assert await states(till) == ["sent"]


async def test_a_mail_does_not_wait_for_redis(shop: Shop, till: Till, shopper: httpx.AsyncClient) -> None:
    placed = await order(shopper, ("MUG", 1))
    await pay(shopper, placed["id"])
    away = RedisStore("redis://127.0.0.1:1")
    await relay.relay(replace(shop, stores=replace(shop.stores, redis=away)))
    await away.close()
    while await notify.deliver(shop):
        pass
    assert len(await till.rows("SELECT FROM outbox WHERE topic = 'order.confirmed' AND attempts > 0")) == 1
    assert [subject for _, subject, _ in sent(shop)] == [f"Your order {placed['number']}"]
    await till.rows("UPDATE outbox SET not_before = now() RETURNING id")
    await carry(shop)
    assert (len(sent(shop)), await till.rows("SELECT FROM outbox")) == (1, [])


async def test_each_refund_is_told_with_its_own_amount(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    placed = await order(shopper, ("MUG", 2))
    await pay(shopper, placed["id"])
    for body in ({"amountCents": 500}, {}):
        assert (await staff.post(f"/orders/{placed['id']}/refunds", json=body)).status_code == 201
    await carry(shop)
    texts = [text for _, subject, text in sent(shop) if subject.startswith("A refund")]
    assert "giving you back 5.00 GBP" in texts[0]
    assert "With what came before" not in texts[0]
    assert "giving you back 20.00 GBP" in texts[1]
    assert "25.00 GBP of 25.00 GBP is refunded" in texts[1]


async def test_who_was_told_that_an_order_is_paid_is_told_that_it_is_cancelled_and_nobody_else(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, staff: httpx.AsyncClient
) -> None:
    paid, unpaid = [await order(shopper, ("MUG", 1)) for _ in range(2)]
    await pay(shopper, paid["id"])
    for placed in (paid, unpaid):
        assert (await staff.post(f"/orders/{placed['id']}/cancel")).status_code == 200
    await carry(shop)
    number = paid["number"]
    assert [subject for _, subject, _ in sent(shop)] == [
        f"Your order {number}", f"Your order {number} is cancelled", f"A refund for your order {number}",
    ]  # fmt: skip
    assert "What you paid goes back" in sent(shop)[1][2]


GOES_BACK, NOT_TAKEN = "goes back the way it came", "is not taken: your bank only held it"


@pytest.mark.parametrize(
    ("more", "title", "said"),
    [
        ({"reason": "expired"}, "goes back", f"came too late: .* It {GOES_BACK}"),
        ({"reason": "cancelled"}, "goes back", f"was cancelled before .* so it {GOES_BACK}"),
        ({"reason": "paid"}, "goes back", f"was paid already, so your second payment of 12.50 GBP {GOES_BACK}"),
        ({"reason": "expired", "held": True}, "is not taken", f"came too late: .* It {NOT_TAKEN}"),
        ({"reason": "cancelled", "held": False}, "goes back", f"was cancelled before .* so it {GOES_BACK}"),
    ],
)
async def test_money_that_came_too_late_is_told_with_the_reason(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, more: dict[str, Any], title: str, said: str
) -> None:
    placed = await order(shopper, ("MUG", 1))
    user_id = str(shopper.user_id)  # type: ignore[attr-defined]
    returned = {"payment_id": str(uuid4()), "order_id": placed["id"], "user_id": user_id, "amount_cents": 1250,
                "currency": "GBP", **more}  # fmt: skip
    async with shop.stores.pg.tx() as tx:
        await outbox.emit(tx, "payment.returned", placed["id"], returned)
    await carry(shop)
    [(_, subject, text)] = sent(shop)
    assert subject == f"Your payment for order {placed['number']} {title}"
    assert "12.50 GBP" in text
    assert re.search(said, " ".join(text.split())), text


async def test_an_event_carried_again_is_no_second_mail(shop: Shop, till: Till, shopper: httpx.AsyncClient) -> None:
    placed = await order(shopper, ("MUG", 1))
    user_id = str(shopper.user_id)  # type: ignore[attr-defined]
    event = told("order.confirmed", {"order_id": placed["id"], "user_id": user_id})
    await keep(shop, event, event)
    await asyncio.gather(*(keep(shop, event) for _ in range(8)))
    await asyncio.gather(*(notify.deliver(shop) for _ in range(8)))
    await keep(shop, event)
    await notify.deliver(shop)
    assert len(sent(shop)) == 1


async def test_of_many_workers_each_mail_is_sent_by_one(shop: Shop, till: Till, shopper: httpx.AsyncClient) -> None:
    await mails_wait(shop, shopper, 90)
    while sum(await asyncio.gather(*(notify.deliver(shop) for _ in range(6)))):
        pass
    assert len(sent(shop)) == len(set(shop.mail.ids)) == 90  # type: ignore[attr-defined]


async def test_mails_that_leave_together_are_marked_together_and_counted_each(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = await order(shopper, ("MUG", 1))
    await keep(shop, *(told("order.confirmed", {"order_id": placed["id"], "user_id": str(uuid4())}) for _ in range(20)))
    mark, marks = store.mark, list[set[int]]()

    async def all_who_may_have_sent() -> bool:
        return len(sent(shop)) >= service.AT_ONCE

    async def watched(tx: Tx, outcomes: Mapping[int, store.Outcome], *rest: Any) -> None:
        marks.append(set(outcomes))
        if len(marks) == 1:
            raise StoreUnavailable("postgres")
        if len(marks) == 2:
            await soon(all_who_may_have_sent)
        await mark(tx, outcomes, *rest)

    monkeypatch.setattr(store, "mark", watched)
    with pytest.raises(StoreUnavailable):
        await notify.deliver(shop)
    assert len(sent(shop)) == 20
    assert await states(till) == ["sent"] * 20  # the one whose own mark failed went with the next
    assert 1 < len(marks) < 20
    assert sum(map(len, marks[1:])) == 20
    assert [row["n"] for row in await till.rows("SELECT n FROM tallies WHERE name = 'mails.sent'")] == [20]


class Stubborn:
    """A mail server that fails as it is told, and takes every mail after that."""

    is_away = False

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.tries: list[str] = []

    async def send(self, to: str, subject: str, text: str, *, html: str = "", message_id: str = "") -> None:
        self.tries.append(message_id)
        if self.failures:
            raise self.failures.pop(0)


class Slow:
    """A mail server that takes a mail at once, and says so when it is let."""

    is_away = False

    def __init__(self) -> None:
        self.says = asyncio.Event()
        self.taken: list[str] = []

    async def send(self, to: str, subject: str, text: str, *, html: str = "", message_id: str = "") -> None:
        self.taken.append(message_id)
        await self.says.wait()


async def test_a_worker_that_stops_waits_for_the_mail_servers_yes_and_begins_no_other(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LAST_SECONDS", 60.0)  # not what is looked at here
    server = Slow()
    shop = Shop(shop.settings, shop.stores, shop.clock, server)
    placed = await order(shopper, ("MUG", 1))
    payload = {"order_id": placed["id"], "user_id": str(shopper.user_id)}  # type: ignore[attr-defined]
    await keep(shop, told("order.confirmed", payload), told("order.refunded", payload))
    sending = asyncio.create_task(notify.deliver(shop))

    async def taken() -> bool:
        return bool(server.taken)

    await soon(taken)
    stopping = asyncio.create_task(tasks.end([sending]))
    assert not (await asyncio.wait([stopping], timeout=1.2))[0]  # cancelled twice by then
    server.says.set()
    await stopping
    assert sending.cancelled()
    assert len(server.taken) == 1
    assert await states(till) == ["sent", "waiting"]


async def test_a_worker_that_stops_waits_some_moments_only(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LAST_SECONDS", 0.2)
    shop = Shop(shop.settings, shop.stores, shop.clock, Slow())
    await mails_wait(shop, shopper)
    sending = asyncio.create_task(notify.deliver(shop))
    await asyncio.wait([sending], timeout=0.3)
    async with asyncio.timeout(5):
        await tasks.end([sending])
    assert sending.cancelled()
    assert await states(till) == ["waiting"]


async def test_none_is_still_being_sent_when_its_lease_ends(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sluggish(Stubborn):
        """A mail takes it a whole minute."""

        async def send(self, *words: str, **more: str) -> None:
            await super().send(*words, **more)
            passed.append(60.0)

    passed: list[float] = []
    monkeypatch.setattr(service, "monotonic", lambda: sum(passed))
    clock, server = FixedClock(datetime.now(UTC)), Sluggish()
    shop = Shop(shop.settings, shop.stores, clock, server)
    await mails_wait(shop, shopper, 20)
    while await notify.deliver(shop):
        assert sum(passed) <= service.LEASE_SECONDS
        clock.advance(service.LEASE_SECONDS + 1)
        passed.clear()
    assert await states(till) == ["sent"] * 20
    assert len(set(server.tries)) == len(server.tries) == 20


async def test_a_mail_server_that_never_ends_is_given_a_minute(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAIL_SECONDS", 0.2)
    shop = Shop(shop.settings, shop.stores, shop.clock, Slow())
    await mails_wait(shop, shopper)
    async with asyncio.timeout(10):
        assert await notify.deliver(shop) == 1
    assert await states(till) == ["waiting"]
    assert [row["n"] for row in await till.rows("SELECT n FROM tallies WHERE name = 'mails.failed'")] == [1]


async def test_a_mail_server_that_is_away_is_tried_later_and_later_under_one_message_id(
    shop: Shop, till: Till, shopper: httpx.AsyncClient
) -> None:
    clock, server = FixedClock(datetime.now(UTC)), Stubborn(*(OSError("no route") for _ in range(4)))
    shop = Shop(shop.settings, shop.stores, clock, server)
    await mails_wait(shop, shopper)
    waits = []
    for _ in range(4):
        assert await notify.deliver(shop) == 1
        [row] = await till.rows("SELECT not_before, state FROM mails")
        waits.append((row["not_before"] - clock.now()).total_seconds())
        assert await notify.deliver(shop) == 0
        clock.at = row["not_before"]
    assert await notify.deliver(shop) == 1
    assert await states(till) == ["sent"]
    assert all(later > earlier for earlier, later in itertools.pairwise(waits))
    assert len(set(server.tries)) == 1


async def test_while_the_mail_server_is_away_mails_wait_as_they_are_however_long(
    shop: Shop, till: Till, shopper: httpx.AsyncClient
) -> None:
    clock, server = FixedClock(datetime.now(UTC)), Stubborn(StoreUnavailable("mail"))
    shop = Shop(shop.settings, shop.stores, clock, server)
    await mails_wait(shop, shopper, 3)
    server.is_away = True
    for _ in range(5):
        clock.advance(12 * 3600)
        assert await notify.deliver(shop) == 0
    assert {(row["state"], row["attempts"]) for row in await till.rows("SELECT * FROM mails")} == {("waiting", 0)}
    server.is_away = False
    assert await notify.deliver(shop) == 3  # the first is refused, since just then it goes away once more
    assert sorted(await states(till)) == ["sent", "sent", "waiting"]
    clock.advance(30)
    assert await notify.deliver(shop) == 1
    assert await states(till) == ["sent"] * 3


async def test_a_mailbox_is_not_filled_by_one_account_after_another(
    shop: Shop, till: Till, client: httpx.AsyncClient
) -> None:
    """Each is made by the same address, and forgotten once its e-mail has left."""
    ada = {"email": "ada@example.com", "password": "analytical engine"}
    for _ in range(service.LINKS_AN_HOUR + 2):
        assert (await client.post("/users", json=ada)).status_code == 201
        signed = (await client.post("/sessions", json=ada)).json()
        await carry(shop)
        headers, body = {"Authorization": f"Bearer {signed['accessToken']}"}, {"password": ada["password"]}
        assert (await client.request("DELETE", "/users/me", json=body, headers=headers)).status_code == 204
    assert [to for to, *_ in sent(shop)] == [ada["email"]] * service.LINKS_AN_HOUR
    assert (await states(till))[-2:] == ["dropped"] * 2
    assert (await client.post("/users", json={**ada, "email": "bob@example.com"})).status_code == 201
    await carry(shop)
    assert sent(shop)[-1][0] == "bob@example.com"


async def test_nor_by_one_account_whose_password_is_changed_again_and_again(
    shop: Shop, till: Till, client: httpx.AsyncClient
) -> None:
    """Nobody has proved that the address is theirs."""
    email, words = "ada@example.com", [f"analytical engine {n}" for n in range(service.LINKS_AN_HOUR + 3)]
    assert (await client.post("/users", json={"email": email, "password": words[0]})).status_code == 201
    signed = (await client.post("/sessions", json={"email": email, "password": words[0]})).json()
    headers = {"Authorization": f"Bearer {signed['accessToken']}"}
    for current, new in itertools.pairwise(words):
        body = {"currentPassword": current, "newPassword": new}
        assert (await client.post("/users/me/password", json=body, headers=headers)).status_code == 204
    await carry(shop)
    told = [subject for _, subject, _ in sent(shop)]
    assert told.count("Your password was changed") == service.LINKS_AN_HOUR
    assert (await states(till))[-2:] == ["dropped"] * 2


async def test_the_link_in_a_mailbox_that_is_sent_no_more_stays_good(
    shop: Shop, till: Till, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever asks for links in another's name leaves them with none."""
    monkeypatch.setattr(service, "LINKS_AN_HOUR", 1)
    email = "ada@example.com"
    assert (await client.post("/users", json={"email": email, "password": "analytical engine"})).status_code == 201
    await client.post("/password-resets", json={"email": email})
    await carry(shop)
    [link] = [found[0] for _, _, text in sent(shop) if (found := re.search(r"/password-resets/\S+", text))]
    async with shop.stores.pg.tx() as tx:  # of the hour before, as far as this account goes
        await tx.execute("UPDATE mails SET created_at = created_at - interval '2 hours'")
    await client.post("/password-resets", json={"email": email})
    await carry(shop)
    assert (await states(till))[-1] == "dropped"
    assert (await client.post(link, json={"password": "difference engine"})).status_code == 204


@pytest.mark.parametrize("in_the_end", ["told", "given up"])
async def test_the_old_address_is_told_before_the_new_one_has_its_link(
    shop: Shop, client: httpx.AsyncClient, in_the_end: str
) -> None:
    """Whoever has the password could be quicker than a mail server that is away for a moment, and be told alone."""
    ada = {"email": "ada@example.com", "password": "analytical engine"}
    assert (await client.post("/users", json=ada)).status_code == 201
    await carry(shop)
    signed = (await client.post("/sessions", json=ada)).json()
    body, headers = {**ada, "email": "thief@example.com"}, {"Authorization": f"Bearer {signed['accessToken']}"}
    assert (await client.post("/users/me/email", json=body, headers=headers)).status_code == 202
    while await relay.relay(shop):
        pass
    refusal = OSError("451 later") if in_the_end == "told" else MailRefused("550 no such mailbox")
    clock, server = FixedClock(datetime.now(UTC)), Stubborn(refusal)
    slow = Shop(shop.settings, shop.stores, clock, server)
    assert (await notify.deliver(slow), len(server.tries)) == (1, 1)
    if in_the_end == "told":
        assert (await notify.deliver(slow), len(server.tries)) == (0, 1)
    sent(shop).clear()
    clock.advance(60)
    while await notify.deliver(Shop(shop.settings, shop.stores, clock, shop.mail)):
        pass
    told = [(to, subject) for to, subject, _ in sent(shop)]
    notice, link = (ada["email"], "Your e-mail address is to change"), (body["email"], "Confirm your e-mail address")
    assert told == ([notice, link] if in_the_end == "told" else [link])


@pytest.mark.parametrize("pending", [None, "countess@example.com"])
async def test_a_link_asked_for_before_the_address_is_changed_does_not_go_to_the_new_one(
    shop: Shop, client: httpx.AsyncClient, pending: str | None
) -> None:
    """It is sent before the old address is told, also where another change is under way."""
    ada = {"email": "ada@example.com", "password": "analytical engine"}
    assert (await client.post("/users", json=ada)).status_code == 201
    signed = (await client.post("/sessions", json=ada)).json()
    body, headers = {**ada, "email": "thief@example.com"}, {"Authorization": f"Bearer {signed['accessToken']}"}
    if pending:
        mine = await client.post("/users/me/email", json={**ada, "email": pending}, headers=headers)
        assert mine.status_code == 202
        await carry(shop)
        sent(shop).clear()
    assert (await client.post("/email-verifications", headers=headers)).status_code == 202
    while await relay.relay(shop):
        pass
    assert (await client.post("/users/me/email", json=body, headers=headers)).status_code == 202
    while await notify.deliver(shop):  # what waited as the address was changed, and before the change is told of
        pass
    assert sent(shop) == []
    await carry(shop)
    assert (await client.post("/email-verifications", headers=headers)).status_code == 202
    await carry(shop)
    notice, link = (ada["email"], "Your e-mail address is to change"), (body["email"], "Confirm your e-mail address")
    assert [(to, subject) for to, subject, _ in sent(shop)] == [notice, link, link]


async def test_a_link_that_an_earlier_version_asked_for_goes_to_the_address_that_waits(
    shop: Shop, client: httpx.AsyncClient
) -> None:
    ada = {"email": "ada@example.com", "password": "analytical engine"}
    assert (await client.post("/users", json=ada)).status_code == 201
    signed = (await client.post("/sessions", json=ada)).json()
    body, headers = {**ada, "email": "countess@example.com"}, {"Authorization": f"Bearer {signed['accessToken']}"}
    assert (await client.post("/users/me/email", json=body, headers=headers)).status_code == 202
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE outbox SET payload = payload - 'address'")
    await carry(shop)
    assert [to for to, *_ in sent(shop)][-1] == "countess@example.com"


async def test_what_is_refused_or_failed_for_a_day_lies_dead_and_can_be_sent_by_hand(
    shop: Shop, till: Till, shopper: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    clock = FixedClock(datetime.now(UTC))
    server = Stubborn(MailRefused("550 no such mailbox"), OSError("no route"))
    shop = Shop(shop.settings, shop.stores, clock, server)
    await mails_wait(shop, shopper)
    await notify.deliver(shop)  # refused for good
    clock.advance(2 * 86_400)
    await mails_wait(shop, shopper)
    await notify.deliver(shop)  # two days old, and the server is away
    assert await states(till) == ["dead", "dead"]
    state = (await admin.get("/sync")).json()
    assert {letter["pipeline"] for letter in state["letters"]} == {"mails"}
    assert {p["name"]: p["deadLetters"] for p in state["pipelines"]}["mails"] == 2
    assert "550 no such mailbox" in state["letters"][1]["reason"]
    first, second = state["letters"]
    assert (await admin.delete(f"/sync/dead-letters/{first['id']}")).status_code == 204
    assert (await admin.delete(f"/sync/dead-letters/{first['id']}")).status_code == 404
    assert (await admin.post("/sync/dead-letters/replay")).json() == {"replayed": 1}
    await notify.deliver(shop)
    assert await states(till) == ["sent", "dropped"]
    assert second["key"] != first["key"]
    assert (await admin.get("/sync")).json()["deadLetters"] == 0


async def test_a_crash_before_the_mark_sends_again_under_the_same_message_id(
    shop: Shop, till: Till, shopper: httpx.AsyncClient
) -> None:
    clock = FixedClock(datetime.now(UTC))
    dying = Shop(shop.settings, shop.stores, clock, shop.mail, dies_at("mail sent"))
    await mails_wait(shop, shopper)
    with pytest.raises(Killed):
        await notify.deliver(dying)
    alive = Shop(shop.settings, shop.stores, clock, shop.mail)
    assert await notify.deliver(alive) == 0  # the lease still runs
    clock.advance(301)
    assert await notify.deliver(alive) == 1
    assert len(shop.mail.ids) == 2  # type: ignore[attr-defined]
    assert len(set(shop.mail.ids)) == 1  # type: ignore[attr-defined]
    assert await states(till) == ["sent"]


async def test_nobody_writes_to_a_person_who_is_gone(shop: Shop, till: Till, shopper: httpx.AsyncClient) -> None:
    placed = await order(shopper, ("MUG", 1))
    user_id = str(shopper.user_id)  # type: ignore[attr-defined]
    confirmed = told("order.confirmed", {"order_id": placed["id"], "user_id": user_id})
    await keep(shop, confirmed, told("user.erased", {"user_id": user_id}))
    await keep(shop, told("order.confirmed", {"order_id": str(uuid4()), "user_id": str(uuid4())}))
    await notify.deliver(shop)
    assert sent(shop) == []
    assert await states(till) == ["dropped", "dropped"]


async def test_a_guest_is_written_to_with_a_link_that_opens_the_order_until_it_is_claimed(
    shop: Shop, till: Till, client: httpx.AsyncClient, shopper: httpx.AsyncClient
) -> None:
    body = {"items": [{"sku": "MUG", "qty": 1}], "email": "guest@example.com"}
    first, second = [(await client.post("/orders", json=body)).json() for _ in range(2)]
    for placed in (first, second):
        paying = {"orderId": placed["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
        opened = {"X-Order-Token": placed["orderToken"]}
        assert (await client.post("/payments", json=paying, headers=opened)).status_code == 201
    while await relay.relay(shop):
        pass
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE orders SET user_id = $2, email = NULL WHERE id = $1", second["id"], shopper.user_id)  # type: ignore[attr-defined]
    await carry(shop)
    texts = {to: text for to, _, text in sent(shop)}
    owner = await address_of(shop, shopper.user_id)  # type: ignore[attr-defined]
    assert set(texts) == {"guest@example.com", owner}
    assert f"/orders/{first['id']}#token={first['orderToken']}" in texts["guest@example.com"]
    assert "#token" not in texts[owner]
    kept = str(await till.rows("SELECT * FROM mails"))
    assert "guest@example.com" not in kept
    assert first["orderToken"] not in kept


async def test_a_guest_who_was_forgotten_is_not_written_to(shop: Shop, till: Till, client: httpx.AsyncClient) -> None:
    body = {"items": [{"sku": "MUG", "qty": 1}], "email": "guest@example.com"}
    placed = (await client.post("/orders", json=body)).json()
    await keep(shop, told("order.confirmed", {"order_id": placed["id"], "user_id": None}))
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE orders SET email = NULL, erased_at = now() WHERE id = $1", placed["id"])
    await notify.deliver(shop)
    assert sent(shop) == []
    assert await states(till) == ["dropped"]


async def test_nobody_reads_in_our_mail_what_a_stranger_has_signed_up_with(
    shop: Shop, till: Till, client: httpx.AsyncClient
) -> None:
    words, email = "Your prize waits at evil.example", "ada@example.com"
    body = {"email": email, "password": "analytical engine", "displayName": words}
    assert (await client.post("/users", json=body)).status_code == 201
    assert (await client.post("/password-resets", json={"email": email})).status_code == 202
    await carry(shop)
    texts = {subject: text for _, subject, text in sent(shop)}
    assert sorted(texts) == ["Choose a new password", "Confirm your e-mail address"]
    assert words not in str([texts, shop.mail.html])  # type: ignore[attr-defined]
    proof = re.search(r"/email-verifications/\S+", texts["Confirm your e-mail address"])
    assert proof is not None
    assert (await client.post(proof[0])).status_code == 204
    await client.post("/password-resets", json={"email": email})
    await carry(shop)
    assert f"Hello {words}," in sent(shop)[-1][2]


async def test_names_of_goods_are_text_never_markup(shop: Shop, till: Till, shopper: httpx.AsyncClient) -> None:
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE inventory SET name = '<b>Mug</b> & {{ 7 * 7 }}' WHERE sku = 'MUG'")
    placed = await order(shopper, ("MUG", 1))
    await pay(shopper, placed["id"])
    await carry(shop)
    [html] = shop.mail.html  # type: ignore[attr-defined]
    assert "&lt;b&gt;Mug&lt;/b&gt; &amp; {{ 7 * 7 }}" in html
    assert "<b>Mug</b> & {{ 7 * 7 }}" in sent(shop)[0][2]


def test_every_kind_has_a_text_with_a_subject_and_an_html() -> None:
    kinds = {path.stem for path in FOLDER.glob("*.txt")}
    assert kinds == {path.stem for path in FOLDER.glob("*.html")} - {"layout"}
    assert kinds == set(service.KINDS) == set(service.TOPICS.values())
    for path in FOLDER.glob("*.txt"):
        assert re.match(r"Subject: \S.*\n", path.read_text(encoding="utf-8")), path.name


def test_every_paragraph_begins_like_a_sentence() -> None:
    for path in (*FOLDER.glob("*.txt"), *FOLDER.glob("*.html")):
        text = re.sub(r"{% .*? %}\n?", "", path.read_text(encoding="utf-8"))
        assert not re.search(r"(?:\n\n|<p>)\s*[a-z]", text), path.name


async def test_what_was_done_with_long_ago_is_forgotten(shop: Shop, till: Till, shopper: httpx.AsyncClient) -> None:
    placed = await order(shopper, ("MUG", 1))
    payload = {"order_id": placed["id"], "user_id": str(shopper.user_id)}  # type: ignore[attr-defined]
    await keep(shop, told("order.confirmed", payload), told("order.refunded", payload))
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE mails SET state = 'sent', done_at = now() - interval '91 days' WHERE id = 1")
        await store.sweep(tx, shop.clock.now())
    assert await states(till) == ["waiting"]
