"""From an event to an e-mail: stored as a row when the event is forgotten, rendered and sent by the worker.

An e-mail is sent once. Only if the mail server accepts it and that is not recorded (a crash, a broken connection, an
answer that takes too long) is it sent again, and then with the same Message-ID; except one with a link, whose token is
generated anew, which makes it another message.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from quartet import accounts, orders
from quartet.kernel.errors import StoreUnavailable
from quartet.notify import store
from quartet.notify.model import Mail, MailContent
from quartet.notify.templates import write
from quartet.stores import letters, tallies
from quartet.stores.mail import MailRefused
from quartet.stores.outbox import Event
from quartet.stores.postgres import Tx
from quartet.web import limits
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.notify")

PIPELINE = "mails"
BATCH = 20
AT_ONCE = 4
# For all the steps of one e-mail, and how long after the claim one may begin. The rest of the lease is long enough for
# it, so nobody else takes up what is still being sent; what was not begun is due again when the lease ends.
MAIL_SECONDS, BEGIN_SECONDS = 60.0, 150.0
LEASE_SECONDS = 300.0
# For what is being sent when its worker stops: less than a worker's own lease (QUARTET_WORKER_LEASE_SECONDS, unless it
# is set lower), since meanwhile that worker does not say that it lives.
LAST_SECONDS = 2.0
GIVE_UP = timedelta(hours=24)
FIRST_SECONDS, LONGEST_SECONDS = 5.0, 1800.0
# Of links that anybody may ask for in another's name, and of each notice that an account by another's address may bring
# about: a mailbox is not to be filled.
LINKS_AN_HOUR = 10

# Which event is told by which e-mail.
TOPICS: Mapping[str, str] = {
    "user.verify_asked": "verify",
    "user.reset_asked": "reset",
    "user.email_change_asked": "email-change",
    "user.password_changed": "password-changed",
    "order.confirmed": "order-confirmed",
    "order.cancelled": "order-cancelled",
    "order.refunded": "order-refunded",
    "payment.returned": "payment-returned",
    "webhook.disabled": "webhook-disabled",
}
_ARGS = ("order_id", "amount_cents", "currency", "refunded_cents", "reason", "held", "endpoint_id", "url", "address")


def check(event: Event) -> None:
    """Raises what is wrong with an event that is to become an e-mail."""
    _row(event)


async def keep(tx: Tx, events: Sequence[Event]) -> None:
    """Records the e-mails for these events, in the transaction that forgets the events. One that `check` refuses is
    left out: it must not keep the others from being recorded."""
    rows: list[store.Row] = []
    gone: list[UUID] = []
    for event in events:
        with suppress(ValueError, TypeError, AttributeError, KeyError):
            rows += _row(event)
            if event.topic == "user.erased":
                gone.append(UUID(event.payload["user_id"]))
    await store.keep(tx, rows)
    await store.forget_people(tx, gone)


def _row(event: Event) -> list[store.Row]:
    """The e-mail for an event, if any; a guest is found by the order. The cancellation of an order that was never
    confirmed is not mailed, as its placing was not; nor a refund that was mailed before under another id."""
    kind, payload = TOPICS.get(event.topic), event.payload
    user_id = UUID(payload["user_id"]) if payload.get("user_id") else None
    silent = (kind == "order-cancelled" and not payload.get("confirmed_at")) or "replaces" in payload
    if kind is None or silent or not (user_id or payload.get("order_id")):
        return []
    return [(event.event_id, kind, user_id, {name: payload[name] for name in _ARGS if name in payload})]


async def deliver(shop: Shop) -> int:
    """Sends what is due; returns how many it took up, none while the mail server is down: they wait unchanged. Raises
    StoreUnavailable when PostgreSQL is down."""
    if shop.mail.is_away:
        return 0
    until = monotonic() + BEGIN_SECONDS
    async with shop.stores.pg.once() as tx:
        mails = await store.claim(tx, shop.clock.now(), LEASE_SECONDS, BATCH)
    gate, outcomes = asyncio.Semaphore(AT_ONCE), _OutcomeBatch(shop)
    theirs: dict[str, list[Mail]] = {}
    for mail in sorted(mails, key=lambda mail: mail.id):
        theirs.setdefault(str(mail.user_id or mail.args["order_id"]), []).append(mail)
    jobs = (_deliver_all(shop, some, gate, outcomes, until) for some in theirs.values())
    for found in await asyncio.gather(*jobs, return_exceptions=True):
        if isinstance(found, BaseException):
            raise found
    return len(mails)


async def _deliver_all(
    shop: Shop, mails: Sequence[Mail], gate: asyncio.Semaphore, outcomes: "_OutcomeBatch", until: float
) -> None:
    """One person's, in the order in which it happened."""
    async with gate:
        for mail in mails:
            if monotonic() > until:
                return
            await _to_its_end(_deliver(shop, mail, outcomes))


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Cancelled, it lets the work come to its end first, for some moments: else what the mail server has taken already
    would be sent again. Nobody who cancels again and again makes these shorter or longer."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        until = monotonic() + LAST_SECONDS
        while not task.done() and (left := until - monotonic()) > 0:
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task], timeout=left)
        task.cancel()
        await task
        raise


async def _deliver(shop: Shop, mail: Mail, outcomes: "_OutcomeBatch") -> None:
    await shop.step("mail claimed")
    try:
        async with asyncio.timeout(MAIL_SECONDS):
            content = await KINDS[mail.kind](shop, mail)
            if content is not None:
                await _send(shop, mail, content)
    except StoreUnavailable as away:
        await _again(shop, mail, away, fault=False)
    except MailRefused as refusal:
        await _give_up(shop, mail, refusal)
    except Exception as error:
        await _again(shop, mail, error)
    else:
        await shop.step("mail sent")
        await outcomes.put(mail, "dropped" if content is None else "sent")
        await shop.step("mail marked")


async def _send(shop: Shop, mail: Mail, content: MailContent) -> None:
    rendered = write(mail.kind, content.args | {"shop_url": shop.settings.base_url.rstrip("/")})
    host = urlsplit(shop.settings.base_url).hostname or "localhost"
    message_id = mail.message_id(host, anew=content.anew)
    await shop.mail.send(content.to, rendered.subject, rendered.text, html=rendered.html, message_id=message_id)


class _OutcomeBatch:
    """What became of e-mails that are done with. Those that come while one mark is on its way go together with the
    next: by themselves they would all wait for each other's commit, at the one row by which they are counted."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._lock = asyncio.Lock()
        self._waiting: dict[int, store.Outcome] = {}

    async def put(self, mail: Mail, outcome: store.Outcome) -> None:
        """Returns when it is written down, by this call or by another's. Raises StoreUnavailable."""
        self._waiting[mail.id] = outcome
        async with self._lock:
            if mail.id in self._waiting:
                outcomes = dict(self._waiting)
                async with self._shop.stores.pg.once() as tx:
                    await store.mark(tx, outcomes, self._shop.clock.now(), PIPELINE)
                for id_ in outcomes:
                    del self._waiting[id_]


async def _again(shop: Shop, mail: Mail, error: Exception, *, fault: bool = True) -> None:
    """Retries with growing delays; after a day, never. A store or a mail server that is down does not count."""
    now = shop.clock.now()
    if fault and now - mail.created_at > GIVE_UP:
        await _give_up(shop, mail, error)
        return
    log.warning("mail not sent", mail=mail.id, kind=mail.kind, attempt=mail.attempts, error=repr(error))
    pause = min(FIRST_SECONDS * 2.0 ** (mail.attempts - 1), LONGEST_SECONDS) * random.uniform(0.75, 1.25)
    async with shop.stores.pg.tx() as tx:
        await store.postpone(tx, mail, now + timedelta(seconds=pause))
        await tallies.count(tx, "mails.failed")


async def _give_up(shop: Shop, mail: Mail, error: Exception) -> None:
    log.error("mail given up", mail=mail.id, kind=mail.kind, error=repr(error))
    held = {
        "kind": mail.kind, "event_id": str(mail.event_id), "order_id": mail.args.get("order_id"),
        "user_id": str(mail.user_id) if mail.user_id else None,
    }  # fmt: skip
    async with shop.stores.pg.tx() as tx:
        await store.mark_dead(tx, mail, shop.clock.now())
        await letters.add_dead_letters(tx, PIPELINE, [(str(mail.id), held, f"{type(error).__name__}: {error}")])
        await tallies.count(tx, "mails.failed")


# What each kind needs to be written, asked for at the last moment; None when there is nobody to write to.

Compose = Callable[[Shop, Mail], Awaitable[MailContent | None]]
Mint = Callable[[Tx, UUID, str, datetime], Awaitable[tuple[str, str] | None]]


def _link(mint: Mint, path: str) -> Compose:
    """A link with a single-use token, generated only now: until it is sent it is stored nowhere in plain text."""

    async def compose(shop: Shop, mail: Mail) -> MailContent | None:
        if mail.user_id is None:
            return None
        async with shop.stores.pg.read() as read:
            to = await accounts.address(read, mail.user_id, pending=mail.kind == "verify")
            has_many = await store.sent_lately(read, mail) >= LINKS_AN_HOUR
        # Before one is drawn: where no newer one is sent, the link that the mailbox has stays good.
        if to is None or not _is_meant(mail, to) or has_many or await _has_enough(shop, mail, to):
            return None
        async with shop.stores.pg.once() as tx:
            minted = await mint(tx, mail.user_id, to, shop.clock.now())
        if minted is None:
            return None
        name, token = minted
        return MailContent(to, {"name": name, "link": f"{shop.settings.base_url.rstrip('/')}{path}/{token}"}, anew=True)

    return compose


def _is_meant(mail: Mail, to: str) -> bool:
    """Not where the address was changed since a link was asked for; earlier versions did not say for which one."""
    assert mail.user_id is not None
    return mail.args.get("address") in (None, accounts.address_digest(mail.user_id, to))


async def _has_enough(shop: Shop, mail: Mail, address: str) -> bool:
    """Whether one account after another is filling this mailbox; a retry of the same e-mail does not count again."""
    if mail.attempts > 1:
        return False
    whose = hashlib.sha256(f"{mail.kind} {address}".encode()).hexdigest()[:32]
    try:
        return not (await limits.take(shop.stores.redis, f"mailbox:{whose}", LINKS_AN_HOUR, window=3600)).allowed
    except StoreUnavailable:  # without Redis one account alone is kept from it
        return False


async def _of_order(shop: Shop, mail: Mail) -> MailContent | None:
    """The order's present owner. A guest's link contains the order's token in the fragment, which no server sees."""
    async with shop.stores.pg.read() as read:
        order, to = await orders.order_with_recipient(read, UUID(mail.args["order_id"])) or (None, None)
    if order is None or to is None:
        return None
    link = f"{shop.settings.base_url.rstrip('/')}/orders/{order.id}"
    if order.user_id is None:
        link += f"#token={shop.order_tokens.issue(order.id)}"
    return MailContent(to, mail.args | {"order": order, "link": link})


async def _to_user(shop: Shop, mail: Mail) -> MailContent | None:
    """A message to the address that the account has now."""
    async with shop.stores.pg.read() as read:
        to = await accounts.address(read, mail.user_id) if mail.user_id else None
    return MailContent(to, mail.args) if to else None


async def _notice(shop: Shop, mail: Mail) -> MailContent | None:
    """The same, of what somebody may do again and again whose address is perhaps not theirs."""
    content = await _to_user(shop, mail)
    return None if content is None or await _has_enough(shop, mail, content.to) else content


KINDS: Mapping[str, Compose] = {
    "verify": _link(accounts.mint_verification, "/email-verifications"),
    "reset": _link(accounts.mint_reset, "/password-resets"),
    "email-change": _notice,
    "password-changed": _notice,
    "order-confirmed": _of_order,
    "order-cancelled": _of_order,
    "order-refunded": _of_order,
    "payment-returned": _of_order,
    "webhook-disabled": _to_user,
}
