"""Every use case of a purchase: what was there before it, what is asked, the steps that it passes, and how the order
ends, whether or not the process was killed on the way. `test_steps.py` holds the code to this list; `test_step_kill.py`
kills at each step of it."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import httpx
import pytest
from furnished import new_token as new_token_of

from quartet import cart, checkout, inventory, leaderboard, notify, payments
from quartet.accounts import create_user
from quartet.cart import new_token
from quartet.cart.store import Carts
from quartet.gateway import create_app
from quartet.kernel.clock import FixedClock
from quartet.kernel.settings import Settings
from quartet.payments import Outcome
from quartet.payments.providers.sandbox import SIGNATURE, Sandbox
from quartet.stores import Stores
from quartet.sync.relay import relay
from quartet.web.dependencies import Shop

Json = dict[str, Any]

STOCK, ORDERED, CARTED, CENTS = 10, 2, 3, 500
TOTAL = ORDERED * CENTS
# A charge that the provider never heard of is given up by now, and an order can still be paid.
SOON = 180
# Unpaid orders have given their stock back.
LATE = 960


@dataclass(frozen=True)
class End:
    """How an order, its goods and its buyer stand. `taken` is what the provider's own books say, `xp` the points, and
    `mails` what was written to the buyer."""

    status: str | None
    taken: int = 0
    stock: int = STOCK
    reserved: int = 0
    carted: int = CARTED
    xp: int = 0
    mails: tuple[str, ...] = ()


NOTHING = End(None)
PLACED = End("pending", reserved=ORDERED)
EXPIRED = CANCELLED = End("cancelled")
PAID = End("confirmed", TOTAL, STOCK - ORDERED, 0, CARTED - ORDERED, TOTAL // 100, ("order-confirmed",))
HELD = replace(PAID, taken=0)
LET_GO = replace(HELD, status="cancelled", stock=STOCK, xp=0, mails=("order-cancelled", *PAID.mails))
TAKEN_BACK = replace(LET_GO, mails=(*LET_GO.mails, "order-refunded"))
REFUNDED_A_PART = replace(PAID, taken=TOTAL - 300, xp=(TOTAL - 300) // 100, mails=(*PAID.mails, "order-refunded"))
REFUNDED = replace(PAID, status="refunded", taken=0, xp=0, mails=REFUNDED_A_PART.mails)
SENT_BACK = replace(CANCELLED, mails=("payment-returned",))


class Corner:
    """A shopper of one's own and something to buy that nobody else does, in a shop that others use too."""

    def __init__(self, shop: Shop, ahead: int) -> None:
        self.shop = shop
        self.sku = f"SKU-{uuid4().hex[:8]}"
        self.email = f"{uuid4().hex[:12]}@example.com"
        self.owner: UUID | str = new_token()
        self.headers: dict[str, dict[str, str]] = {"shopper": {"X-Cart-Token": str(self.owner)}}
        self.order = self.payment = self.refund = ""
        self.later = FixedClock(datetime.now(UTC) + timedelta(seconds=ahead))

    @classmethod
    async def open(cls, shop: Shop, ahead: int, *, guest: bool) -> "Corner":
        """`ahead`: how many seconds later the worker sweeps."""
        corner = cls(shop, ahead)
        if not guest:
            corner.owner = await corner._sign_in("shopper", corner.email)
        await corner._sign_in("staff", f"{uuid4().hex[:12]}@example.com", "staff")
        async with shop.stores.pg.tx() as tx:
            await inventory.put(tx, corner.sku, "A thing", CENTS, currency="GBP", actor="test", stock=STOCK)
        await Carts(shop.stores.redis, 30).add(corner.owner, corner.sku, CARTED)
        return corner

    async def _sign_in(self, who: str, email: str, *roles: str) -> UUID:
        async with self.shop.stores.pg.tx() as tx:
            user = await create_user(tx, email, None, who, roles=roles)
        self.headers[who] = {"Authorization": f"Bearer {await new_token_of(self.shop, user.id, *roles)}"}
        return user.id

    def ordered(self, told: Json) -> None:
        """A guest comes back to the order by its token."""
        self.order = told["id"]
        if "orderToken" in told:
            self.headers["shopper"]["X-Order-Token"] = told["orderToken"]

    @property
    def shopper(self) -> UUID | None:
        """None for a guest."""
        return self.owner if isinstance(self.owner, UUID) else None

    async def stands(self) -> End:
        """How it is now, once the outbox has been carried and every e-mail sent, those too that were left half sent."""
        await carry(replace(self.shop, clock=FixedClock(self.later.now() + timedelta(hours=1))))
        async with self.shop.stores.pg.read() as read:
            rows = await read.fetch(ORDERS, self.shopper, self.email)
            item = await inventory.get(read, self.sku)
            mails = await read.fetch(MAILS, str(rows[0]["id"]) if rows else "")
        assert len(rows) <= 1, f"{len(rows)} orders instead of one"
        order: dict[str, Any] = dict(rows[0]) if rows else {"status": None, "taken": 0, "id": ""}
        if rows:
            assert order["taken"] == order["kept"], f"the provider kept {order['taken']}, the books say {order['kept']}"
        self.order = str(order["id"])
        place = self.shopper and await leaderboard.place_of(self.shop, "weekly", self.shopper)
        left = (await cart.lines(self.shop.stores.redis, self.owner)).get(self.sku, 0)
        return End(
            order["status"], order["taken"], item.stock, item.reserved, left, place.xp if place else 0,
            tuple(mail["kind"] for mail in mails),
        )  # fmt: skip

    async def settle(self) -> None:
        """The worker's sweeps, until nothing of this shopper's is open."""
        providers = payments.open_providers(self.shop.settings, self.shop.stores.pg)
        for _ in range(15):
            await checkout.recover(replace(self.shop, clock=self.later), providers)
            async with self.shop.stores.pg.read() as read:
                if not await read.fetchval(OPEN, self.shopper, self.email):
                    return
            self.later.advance(40)
            await asyncio.sleep(0.03)  # by the provider's clock
        raise AssertionError("recovery does not come to an end")


async def carry(shop: Shop) -> None:
    """What follows from what happened, as the worker does it: carts, points, e-mails."""
    while await relay(shop):
        pass
    while await notify.deliver(shop):
        pass


# What each order took at the provider, by the provider's books and by ours.
ORDERS = """
SELECT o.id, o.status, o.captured_cents - o.refunded_cents AS kept, (
    SELECT coalesce(sum(b.captured_cents - b.refunded_cents), 0)::bigint
    FROM sandbox.books b JOIN payments p ON p.id::text = b.reference WHERE p.order_id = o.id) AS taken
FROM orders o WHERE o.user_id = $1 OR o.email = $2
"""
MAILS = "SELECT kind FROM mails WHERE args ->> 'order_id' = $1 AND state = 'sent' ORDER BY kind"
OPEN = """
SELECT (SELECT count(*) FROM payments p JOIN orders o ON o.id = p.order_id
        WHERE (o.user_id = $1 OR o.email = $2) AND (p.status = 'pending' OR p.due IS NOT NULL))
     + (SELECT count(*) FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
        JOIN orders o ON o.id = p.order_id WHERE (o.user_id = $1 OR o.email = $2) AND r.status = 'pending')
"""


@dataclass(frozen=True)
class Ask:
    """What somebody asks: `shopper` or `staff` by a POST, the `provider` by a webhook (without a path: it has decided
    and keeps that to itself), the `worker` by a sweep, the `carrier` by doing what follows, `fate` by a statement about
    the newest payment (its id is $1). `body` may depend on the corner. `dies`: the process is killed when it comes to
    that step."""

    who: str
    path: str = ""
    body: Callable[[Corner], Json] = lambda _: {}
    dies: str | None = None

    def killed(self, step: str) -> "Ask":
        """The same, not survived."""
        return replace(self, dies=step)


class House(Protocol):
    """A running shop: in this process or another."""

    shop: Shop

    async def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response: ...

    async def sweep(self, corner: Corner) -> None: ...

    async def carry(self, corner: Corner) -> None: ...

    async def killed_at(self, step: str, nth: int, doing: Any) -> None:
        """Awaits what comes to the step for the nth time and does not get beyond it; then the house stands again."""
        ...


async def ask(house: House, corner: Corner, wish: Ask, key: str | None = None) -> httpx.Response | None:
    """The answer; None for a sweep, and where nobody lived to give one."""
    if wish.dies:
        await house.killed_at(wish.dies, 1, _ask(house, corner, wish, key))
        return None
    return await _ask(house, corner, wish, key)


async def _ask(house: House, corner: Corner, wish: Ask, key: str | None) -> httpx.Response | None:
    if wish.who in ("provider", "fate", "staff"):
        async with corner.shop.stores.pg.read() as read:
            corner.payment = str(
                await read.fetchval(
                    "SELECT id FROM payments WHERE order_id = $1 ORDER BY created_at DESC LIMIT 1", UUID(corner.order)
                )
            )
            corner.refund = str(
                await read.fetchval("SELECT id FROM payment_refunds WHERE payment_id::text = $1", corner.payment)
            )
    if wish.who == "fate":
        async with corner.shop.stores.pg.once() as tx:
            await tx.execute(wish.path, corner.payment)
        return None
    if wish.who in ("worker", "carrier"):
        await (house.sweep(corner) if wish.who == "worker" else house.carry(corner))
        return None
    if wish.who == "provider":
        body, signature = await _event(corner, wish)
        if not wish.path:
            return None
        return await house.post(wish.path, body, {SIGNATURE: signature})
    headers = corner.headers[wish.who] | ({"Idempotency-Key": key} if key else {})
    body = httpx.Request("POST", "http://shop", json=wish.body(corner)).content
    return await house.post(wish.path.format(order=corner.order, payment=corner.payment), body, headers)


async def _event(corner: Corner, wish: Ask) -> tuple[bytes, str]:
    """What the provider tells, else of the payment what became of it, signed by it."""
    sandbox = Sandbox(corner.shop.settings, corner.shop.stores.pg)
    if told := wish.body(corner):
        body = httpx.Request("POST", "http://shop", json=told).content
        return body, sandbox.sign(body, datetime.now(UTC))
    outcome: Outcome | None = None
    while outcome is None or outcome.status == "pending":
        await asyncio.sleep(0.01)
        outcome = await sandbox.look_up(corner.payment)
    body = sandbox.event(corner.payment, outcome)
    return body, sandbox.sign(body, datetime.now(UTC))


@dataclass(frozen=True)
class UseCase:
    """`before` has happened when `act` is asked, and `after` happens when it is over. `status` is the answer's in the
    end, `ends` how all then stands. `manual`: in a shop that captures by hand; `guest`: without an account. `mended`:
    status and end where a process died, or a line was cut, and what comes after had come before it was asked again."""

    act: Ask
    status: int
    steps: tuple[str, ...]
    ends: End
    before: tuple[Ask, ...] = ()
    ahead: int = SOON
    after: tuple[Ask, ...] = ()
    manual: bool = False
    guest: bool = False
    mended: tuple[int, End] | None = None
    # Where these are others than with a key.
    keyless_steps: tuple[str, ...] | None = None

    def passes(self, *, keyed: bool) -> tuple[str, ...]:
        """The steps, in their order."""
        return self.steps if keyed or self.keyless_steps is None else self.keyless_steps

    @property
    def keyed(self) -> tuple[bool, ...]:
        """Whether it can be asked with a key, and without one."""
        takes_one = self.act.who in ("shopper", "staff") and self.act is not REFRESH
        return (True, False) if takes_one else (False,)


def _lines(qty: int) -> Callable[[Corner], Json]:
    return lambda corner: {"items": [{"sku": corner.sku, "qty": qty}]}


def _order(qty: int) -> Callable[[Corner], Json]:
    """A guest says where to be written to."""
    return lambda corner: _lines(qty)(corner) | ({} if corner.shopper else {"email": corner.email})


def _paying(card: str) -> Ask:
    body = {"provider": "sandbox", "paymentMethod": card}
    return Ask("shopper", "/payments", lambda corner: body | {"orderId": corner.order})


REFUND_A_PIECE = Ask("staff", "/orders/{order}/refunds", lambda corner: _lines(1)(corner) | {"restock": True})


def _giving_back(**body: Any) -> Ask:
    return Ask("staff", "/orders/{order}/refunds", lambda _: body)


def _of_refund(corner: Corner, kind: str) -> Json:
    return _moved(corner, kind, f"sbr_{corner.refund}", corner.refund)


def _moved(corner: Corner, kind: str, name: str, reference: str = "") -> Json:
    """What went back, all of it, under the provider's name."""
    money = {"charge": corner.payment, "amountCents": TOTAL, "currency": "GBP"}
    data = {"id": f"{name}_{corner.payment}", "reference": reference, **money}
    return {"id": f"evt_{kind}_{corner.payment}", "type": kind, "data": data}


PLACE = Ask("shopper", "/orders", _order(ORDERED))
TELL_BY_HAND = Ask("provider", "/webhooks/sandbox", lambda corner: _moved(corner, "refund.succeeded", "by hand"))
TELL_DISPUTED = Ask("provider", "/webhooks/sandbox", lambda corner: _moved(corner, "dispute.opened", "dispute"))
SETTLE = Ask(
    "staff", "/payments/{payment}/settle",
    lambda corner: {"note": "the bank was wrong", "contests": [f"dispute_{corner.payment}"]},
)  # fmt: skip
PAY, PAY_LATER = _paying("card_ok"), _paying("card_async")
CANCEL = Ask("shopper", "/orders/{order}/cancel")
REFUND = _giving_back()
CAPTURE = Ask("staff", "/payments/{payment}/capture")
REFRESH = Ask("staff", "/payments/{payment}/refresh")
TELL = Ask("provider", "/webhooks/sandbox")
DECIDE = Ask("provider")
TELL_FAILED = Ask("provider", "/webhooks/sandbox", lambda corner: _of_refund(corner, "refund.failed"))
SWEEP = Ask("worker")
CARRY = Ask("carrier")
DITHER = Ask("fate", "UPDATE sandbox.charges SET settles_at = 'infinity' WHERE reference = $1")
COME_ROUND = Ask("fate", "UPDATE sandbox.charges SET settles_at = now() WHERE reference = $1")
FORGET = Ask("fate", "UPDATE sandbox.charges SET reference = 'not ' || reference WHERE reference = $1")
REMEMBER = Ask("fate", "UPDATE sandbox.charges SET reference = $1 WHERE reference = 'not ' || $1")
# The sandbox sends nobody to a page of its own. What waits there for its buyer is a charge on its way, a hold, or one
# that was given up.
SEND_AWAY = Ask("fate", "UPDATE payments SET redirect_url = 'https://bank.example/' WHERE id = $1::text::uuid")
HOLD = Ask("fate", "UPDATE sandbox.charges SET capture = false, settles_at = now() WHERE reference = $1")
GIVE_BY_HAND = Ask(
    "fate",
    """INSERT INTO sandbox.refunds (reference, id, charge, amount_cents)
       SELECT 'by hand ' || reference, 'by hand ' || reference, reference, amount_cents FROM sandbox.charges
       WHERE reference = $1""",
)
FAIL = Ask("fate", "DELETE FROM sandbox.refunds WHERE charge = $1")
GIVE_UP = Ask("fate", "UPDATE sandbox.charges SET voided_at = now(), settles_at = now() WHERE reference = $1")
SELL_OUT = Ask(
    "fate",
    """UPDATE inventory SET stock = 1 WHERE sku = (
           SELECT sku FROM order_items JOIN payments USING (order_id) WHERE payments.id = $1::text::uuid)""",
)

_PAYING = ("payment started", "provider charged", "payment recorded")
_GIVING_BACK = ("provider refunded", "refund recorded")
_LOOKED_UP = ("refund looked up", *_GIVING_BACK)
_TOLD = ("webhook read", "webhook recorded")
_CAPTURED = ("provider captured", "payment recorded", "cart taken")
_LET_GO = ("provider voided", "payment recorded")
_LEFT = ("waiting payment left", *_LET_GO)
_EXPIRED_OPEN = (PLACE, PAY_LATER, DITHER, SWEEP, COME_ROUND)


def _swept(*, payments: tuple[str, ...] = (), refunds: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A sweep's steps, with what it did about an open payment or refund."""
    return (
        "orders expired", "payments taken up", *payments, "orders expired", "refunds taken up", *refunds, "keys swept",
        "sessions swept",
    )  # fmt: skip


def _carried(told: int, *, mails: int) -> tuple[str, ...]:
    """A batch of the outbox, and the e-mails that it means."""
    letter = ("mail claimed", "mail sent", "mail marked")
    return ("claimed", *("consumer told",) * told, "delivered", "forgotten", *letter * mails)


_SETTLED = ("provider asked", "payment recorded")

USE_CASES: dict[str, UseCase] = {
    "order": UseCase(PLACE, 201, ("order placed",), PLACED),
    "order as a guest": UseCase(PLACE, 201, ("order placed",), PLACED, guest=True),
    "order what is short": UseCase(
        Ask("shopper", "/orders", _order(STOCK + 1)), 409, ("refusal kept",), NOTHING, keyless_steps=()
    ),
    "pay": UseCase(PAY, 201, (*_PAYING, "cart taken"), PAID, (PLACE,)),
    "pay as a guest": UseCase(PAY, 201, (*_PAYING, "cart taken"), replace(PAID, xp=0), (PLACE,), guest=True),
    "pay slowly": UseCase(_paying("card_slow"), 201, (*_PAYING, "cart taken"), PAID, (PLACE,)),
    "pay by a card that is declined": UseCase(_paying("card_declined"), 402, _PAYING, PLACED, (PLACE,)),
    "pay while the provider fails": UseCase(_paying("card_error"), 502, _PAYING, PLACED, (PLACE,)),
    "pay by a card that takes until the next day": UseCase(PAY_LATER, 201, _PAYING, PAID, (PLACE,)),
    "pay what is cancelled": UseCase(PAY, 409, ("refusal kept",), CANCELLED, (PLACE, CANCEL), keyless_steps=()),
    "pay another way": UseCase(
        PAY, 201, (*_LEFT, *_PAYING, "cart taken"), PAID, (PLACE, PAY_LATER, SEND_AWAY, GIVE_UP)
    ),
    "pay another way as a guest": UseCase(
        PAY, 201, (*_LEFT, *_PAYING, "cart taken"), replace(PAID, xp=0), (PLACE, PAY_LATER, SEND_AWAY, GIVE_UP),
        guest=True,
    ),
    "hold another way": UseCase(
        PAY, 201, (*_LEFT, *_PAYING, "cart taken"), HELD, (PLACE, PAY_LATER, SEND_AWAY, HOLD), manual=True
    ),
    "pay another way what can't be let go": UseCase(
        PAY, 409, (*_LEFT, "refusal kept"), PAID, (PLACE, PAY_LATER, DITHER, SEND_AWAY), after=(COME_ROUND,),
        keyless_steps=_LEFT,
    ),
    "pay another way what is paid": UseCase(
        PAY, 409, (*_LEFT, "cart taken", "refusal kept"), PAID, (PLACE, PAY_LATER, SEND_AWAY, DECIDE),
        keyless_steps=(*_LEFT, "cart taken"),
    ),
    "recover a payment left for another": UseCase(
        SWEEP, 0, _swept(payments=_LET_GO), PLACED,
        (PLACE, PAY_LATER, SEND_AWAY, HOLD, PAY.killed("waiting payment left")),
    ),
    "webhook": UseCase(TELL, 200, (*_TOLD, "cart taken"), PAID, (PLACE, PAY_LATER)),
    "webhook told twice": UseCase(TELL, 200, ("webhook read",), PAID, (PLACE, PAY_LATER, TELL)),
    "webhook before the request has written": UseCase(
        TELL, 200, (*_TOLD, "cart taken"), PAID, (PLACE, PAY.killed("provider charged"))
    ),
    "webhook after the request has written": UseCase(
        TELL, 200, (*_TOLD, "cart taken"), PAID, (PLACE, PAY)
    ),
    "webhook that comes too late": UseCase(
        TELL, 200, (*_TOLD, *_GIVING_BACK), SENT_BACK, (PLACE, PAY_LATER, CANCEL)
    ),
    "webhook for an order that expired": UseCase(
        TELL, 200, (*_TOLD, "cart taken"), PAID, _EXPIRED_OPEN, LATE
    ),
    "webhook for an order that expired and is sold out": UseCase(
        TELL, 200, (*_TOLD, *_GIVING_BACK), replace(SENT_BACK, stock=1), (*_EXPIRED_OPEN, SELL_OUT), LATE
    ),
    "webhook of a refund that failed later": UseCase(
        TELL_FAILED, 200, _TOLD, replace(REFUNDED, taken=TOTAL), (PLACE, PAY, REFUND, FAIL)
    ),
    "webhook of a refund that failed later, told twice": UseCase(
        TELL_FAILED, 200, ("webhook read",), replace(REFUNDED, taken=TOTAL), (PLACE, PAY, REFUND, FAIL, TELL_FAILED)
    ),
    "webhook of a refund made by hand": UseCase(
        TELL_BY_HAND, 200, _TOLD, REFUNDED, (PLACE, PAY, GIVE_BY_HAND)
    ),
    "webhook of a refund made by hand, told before its charge": UseCase(
        TELL_BY_HAND, 502, ("webhook read",), REFUNDED,
        (PLACE, PAY.killed("provider charged"), GIVE_BY_HAND), after=(SWEEP, TELL_BY_HAND), mended=(200, REFUNDED),
    ),
    "webhook of a dispute": UseCase(TELL_DISPUTED, 200, _TOLD, PAID, (PLACE, PAY)),
    "refund what is disputed": UseCase(
        REFUND, 409, ("refusal kept",), PAID, (PLACE, PAY, TELL_DISPUTED), keyless_steps=()
    ),
    "cancel what was disputed and is settled": UseCase(
        CANCEL, 200, ("order cancelled", *_GIVING_BACK), TAKEN_BACK, (PLACE, PAY, TELL_DISPUTED, SETTLE)
    ),
    "come back from the provider's page": UseCase(
        REFRESH, 200, ("provider asked", "payment recorded", "cart taken"), PAID, (PLACE, PAY_LATER, DECIDE)
    ),
    "hold": UseCase(PAY, 201, (*_PAYING, "cart taken"), HELD, (PLACE,), manual=True),
    "capture": UseCase(CAPTURE, 200, ("capture started", *_CAPTURED), PAID, (PLACE, PAY), manual=True),
    "capture while the provider fails": UseCase(
        CAPTURE, 502, ("capture started", "provider captured", "capture dropped"), HELD, (PLACE, PAY, FORGET),
        after=(REMEMBER,), mended=(200, PAID), manual=True,
    ),
    "cancel what is held": UseCase(CANCEL, 200, ("order cancelled", *_LET_GO), LET_GO, (PLACE, PAY), manual=True),
    "webhook of a hold that comes too late": UseCase(
        TELL, 200, (*_TOLD, *_LET_GO), SENT_BACK, (PLACE, PAY_LATER, CANCEL), manual=True
    ),
    "cancel unpaid": UseCase(CANCEL, 200, ("order cancelled",), CANCELLED, (PLACE,)),
    "cancel paid": UseCase(CANCEL, 200, ("order cancelled", *_GIVING_BACK), TAKEN_BACK, (PLACE, PAY)),
    "cancel paid as a guest": UseCase(
        CANCEL, 200, ("order cancelled", *_GIVING_BACK), TAKEN_BACK, (PLACE, PAY), guest=True
    ),
    "refund all": UseCase(REFUND, 201, ("refund promised", *_GIVING_BACK), REFUNDED, (PLACE, PAY)),
    "refund a part": UseCase(
        _giving_back(amountCents=300), 201, ("refund promised", *_GIVING_BACK), REFUNDED_A_PART,
        (PLACE, PAY),
    ),
    "refund and restock": UseCase(
        _giving_back(restock=True), 201, ("refund promised", *_GIVING_BACK), replace(REFUNDED, stock=STOCK),
        (PLACE, PAY),
    ),
    "refund a piece and put it back": UseCase(
        REFUND_A_PIECE, 201, ("refund promised", *_GIVING_BACK),
        replace(PAID, taken=CENTS, stock=STOCK - 1, xp=CENTS // 100, mails=REFUNDED.mails), (PLACE, PAY),
    ),
    "refund too much": UseCase(
        _giving_back(amountCents=TOTAL + 1), 409, ("refusal kept",), PAID, (PLACE, PAY), keyless_steps=()
    ),
    "sweep with nothing to do": UseCase(SWEEP, 0, _swept(), PLACED, (PLACE,)),
    "expire": UseCase(SWEEP, 0, _swept(), EXPIRED, (PLACE,), LATE),
    "recover a payment never sent": UseCase(
        SWEEP, 0, _swept(payments=_SETTLED), PLACED, (PLACE, PAY.killed("payment started"))
    ),
    "recover a charge not written down": UseCase(
        SWEEP, 0, _swept(payments=(*_SETTLED, "cart taken")), PAID, (PLACE, PAY.killed("provider charged"))
    ),
    "recover a charge when the order's time is over": UseCase(
        SWEEP, 0, _swept(payments=(*_SETTLED, "cart taken")), PAID, (PLACE, PAY.killed("provider charged")), LATE
    ),
    "recover a payment that its buyer never ended": UseCase(
        SWEEP, 0, _swept(payments=("unwanted payment voided", "payment recorded")), SENT_BACK,
        (PLACE, PAY_LATER, CANCEL, DITHER), after=(COME_ROUND,),
    ),
    "recover a capture never asked for": UseCase(
        SWEEP, 0, _swept(payments=("provider asked", *_CAPTURED)), PAID,
        (PLACE, PAY, CAPTURE.killed("capture started")), manual=True,
    ),
    "recover a capture not written down": UseCase(
        SWEEP, 0, _swept(payments=(*_SETTLED, "cart taken")), PAID, (PLACE, PAY, CAPTURE.killed("provider captured")),
        manual=True,
    ),
    "recover a hold to be let go": UseCase(
        SWEEP, 0, _swept(payments=_LET_GO), LET_GO, (PLACE, PAY, CANCEL.killed("order cancelled")), manual=True
    ),
    "recover a charge of an order that was cancelled": UseCase(
        SWEEP, 0, _swept(payments=(*_SETTLED, *_GIVING_BACK)), SENT_BACK,
        (PLACE, PAY.killed("provider charged"), CANCEL),
    ),
    "recover a payment that nobody told of": UseCase(
        SWEEP, 0, _swept(payments=(*_SETTLED, "cart taken")), PAID, (PLACE, PAY_LATER, DECIDE)
    ),
    "recover a refund never asked for": UseCase(
        SWEEP, 0, _swept(refunds=_LOOKED_UP), REFUNDED, (PLACE, PAY, REFUND.killed("refund promised"))
    ),
    "recover a refund not written down": UseCase(
        SWEEP, 0, _swept(refunds=_LOOKED_UP), REFUNDED, (PLACE, PAY, REFUND.killed("provider refunded"))
    ),
    "recover a cancellation's refund": UseCase(
        SWEEP, 0, _swept(refunds=_LOOKED_UP), TAKEN_BACK, (PLACE, PAY, CANCEL.killed("order cancelled"))
    ),
    "carry what a payment means": UseCase(
        CARRY, 0, _carried(3, mails=1), PAID, (PLACE, PAY.killed("payment recorded"))
    ),
    "carry what a refund means": UseCase(CARRY, 0, _carried(5, mails=2), REFUNDED, (PLACE, PAY, REFUND)),
    "carry what a cancellation means": UseCase(CARRY, 0, _carried(2, mails=0), CANCELLED, (PLACE, CANCEL)),
}  # fmt: skip

STEPS = frozenset(step for case in USE_CASES.values() for step in case.steps)


async def prepared(house: House, case: UseCase) -> Corner:
    """A corner in which everything before the act has happened."""
    corner = await Corner.open(house.shop, case.ahead, guest=case.guest)
    for wish in case.before:
        answer = await ask(house, corner, wish)
        if wish is PLACE:
            assert answer is not None
            corner.ordered(answer.json())
    return corner


async def finished(house: House, corner: Corner, case: UseCase) -> None:
    """What comes after it has come, and nothing is open any more."""
    for wish in case.after:
        await ask(house, corner, wish)
    await corner.settle()


async def ask_as_the_careful_do(house: House, corner: Corner, case: UseCase, key: str | None) -> None:
    """Once the outcome of the act is unknown, until all is as it has to be. With a key the same is asked again; the
    provider sends its webhook again in any case; a shopper without a key first looks what became of it."""
    for wish in case.after:
        await ask(house, corner, wish)
    status, ends = case.mended or (case.status, case.ends)
    if key is not None:
        await _ask_under_the_same_key(house, corner, case, key, status)
    else:
        if case.act.who == "provider":
            await ask(house, corner, case.act)
        await corner.settle()
        if await corner.stands() != ends:
            await ask(house, corner, case.act)
    await corner.settle()
    assert await corner.stands() == ends


async def _ask_under_the_same_key(house: House, corner: Corner, case: UseCase, key: str, status: int) -> None:
    answer = await ask(house, corner, case.act, key)
    assert answer is not None
    if answer.status_code == 409 and answer.json()["type"] == "/problems/request-in-progress":
        await corner.settle()
        answer = await ask(house, corner, case.act, key)
        assert answer is not None
    assert answer.status_code == status, answer.text
    again = await ask(house, corner, case.act, key)
    assert again is not None
    if answer.status_code < 500:
        assert (again.status_code, again.content) == (answer.status_code, answer.content)
        assert again.headers["idempotent-replayed"] == "true"


class Died(BaseException):
    """As far as this process can."""


class LocalHouse:
    """The shop in this process, over stores that the test holds in its hands. The provider, a company elsewhere, has a
    way of its own to its own books."""

    def __init__(self, shop: Shop, stores: Stores) -> None:
        self.shop = shop
        self.mortal: str | None = None
        self.held = replace(shop, stores=stores, step=self.step)
        self.providers: Any = {"sandbox": Sandbox(shop.settings, shop.stores.pg)}
        app = create_app(lambda: nullcontext(self.held))
        app.state.shop, app.state.providers = self.held, self.providers
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop")

    async def step(self, name: str) -> None:
        """For the shop."""
        if name == self.mortal:
            raise Died

    async def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        return await self._client.post(path, content=content, headers={"Content-Type": "application/json", **headers})

    async def sweep(self, corner: Corner) -> None:
        await checkout.recover(replace(self.held, clock=corner.later), self.providers)

    async def carry(self, corner: Corner) -> None:
        await carry(replace(self.held, clock=corner.later))

    async def killed_at(self, step: str, nth: int, doing: Any) -> None:
        self.mortal = step
        with pytest.raises(Died):
            await doing
        self.mortal = None

    async def close(self) -> None:
        """Hangs up."""
        await self._client.aclose()


@contextmanager
def told(what: str) -> Iterator[None]:
    """A failure says what was tried."""
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise


def without_delay(settings: Settings) -> Settings:
    """A provider that takes little time and whose webhooks come from the tests alone, and nobody limited."""
    quick = {"sandbox_slow_seconds": 0.02, "sandbox_async_seconds": 0.05, "base_url": "http://127.0.0.1:1"}
    limits = {f"limit_{kind}": 10**9 for kind in ("browse", "write", "auth", "pay")}
    return settings.model_copy(update={**quick, **limits, "request_timeout": 8.0, "payment_timeout": 5.0})
