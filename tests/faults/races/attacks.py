"""The attacks of "ACIDRain: Concurrency-Related Attacks on Database-Backed Web Applications" (Warszawski and Bailis,
SIGMOD 2017), voucher apart, and their kin. Each is a function that prepares one round.

An attack has broken variants of the shop in which it must succeed: what it can't find there it can't rule out here.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal
from uuid import UUID, uuid4

from quartet import cart
from quartet.payments import Outcome
from races.arena import Answer, Arena, Call, Json, Person, Round, clock_in, sandbox_of
from races.steering import PATIENCE_SECONDS, Variant

ORDER = "SELECT FROM orders WHERE id = $1 FOR UPDATE"
ORDERS = "SELECT FROM orders WHERE id = ANY ($1) FOR UPDATE"
SHELF = "SELECT FROM inventory WHERE sku = $1 FOR UPDATE"
PERSON = "SELECT FROM users WHERE id = $1 FOR UPDATE"

Prepare = Callable[[Arena, random.Random], Awaitable[Round]]


@dataclass(frozen=True)
class Attack:
    """`broken`: variants by what was taken away in them."""

    prepare: Prepare
    broken: dict[str, Variant]

    @property
    def name(self) -> str:
        return self.prepare.__name__


def _yes(answers: dict[str, Any]) -> dict[str, Json]:
    """Who was told yes, and what."""
    return {who: a.body for who, a in answers.items() if isinstance(a, Answer) and a.status < 300}


def _strange(answers: dict[str, Any], *expected: str) -> list[str]:
    """Refusals that the attack does not explain."""
    return [
        f"{who} was answered {a}"
        for who, a in answers.items()
        if isinstance(a, Answer) and 400 <= a.status < 500 and a.slug not in expected
    ]


# --- stock


async def last_piece(arena: Arena, dice: random.Random) -> Round:
    """More buyers than pieces, some with the SKU on two lines; meanwhile a colleague may take a piece away."""
    pieces = dice.randint(1, 3)
    sku = await arena.stock(pieces)
    wanted = {f"buyer{n}": dice.choice([(1,), (1,), (2,), (1, 1)]) for n in range(dice.randint(3, 5))}
    calls: dict[str, Call] = {
        who: arena.placing(arena.people[n], *((sku, qty) for qty in lines))
        for n, (who, lines) in enumerate(wanted.items())
    }
    if dice.random() < 0.4:
        move = {"delta": -1, "reason": "damaged"}
        calls["staff"] = partial(
            arena.ask, "POST", f"/inventory/{sku}/movements", by=arena.staff[0], body=move, key=str(uuid4())
        )

    async def judge(answers: dict[str, Any]) -> list[str]:
        yes = _yes(answers)
        sold = sum(sum(wanted[who]) for who in yes if who != "staff")
        stock, reserved = await arena.shelf(sku)
        faults = _strange(answers, "insufficient-stock", "stock-out-of-bounds")
        if (stock, reserved) != (pieces - ("staff" in yes), sold) or sold > stock:
            faults.append(f"of {pieces} pieces {sold} were promised; the shelf says {stock}, {reserved} reserved")
        # Pieces only went away: who was refused must not find enough now.
        refused = [sum(lines) for who, lines in wanted.items() if who not in yes]
        if any(qty <= stock - reserved for qty in refused):
            faults.append(f"somebody was refused {refused}, and {stock - reserved} are free")
        return faults + await arena.unbalanced((body for who, body in yes.items() if who != "staff"), [sku])

    return Round(calls, (SHELF, sku), judge)


async def crossed_carts(arena: Arena, dice: random.Random) -> Round:
    """Carts that hold the same things in another order wait for one another; nobody dies of it."""
    skus = [await arena.stock(50) for _ in range(3)]
    calls: dict[str, Call] = {}
    for n in range(dice.randint(3, 5)):
        lines = [(sku, 1) for sku in dice.sample(skus, dice.randint(2, 3))]
        calls[f"buyer{n}"] = arena.placing(arena.people[n], *lines)

    async def judge(answers: dict[str, Any]) -> list[str]:
        yes = _yes(answers)
        faults = _strange(answers) + ([] if len(yes) == len(calls) else [f"only {list(yes)} were told yes"])
        return faults + await arena.unbalanced(yes.values(), skus)

    return Round(calls, (SHELF, dice.choice(skus)), judge)


async def price_changed(arena: Arena, dice: random.Random) -> Round:
    """Prices change between the look into the cart and the order: whoever is charged is charged what the order says."""
    skus = sorted([await arena.stock(9, 100), await arena.stock(9, 200)])
    buyer = arena.people[0]
    prices = {sku: dice.randint(300, 900) for sku in skus}

    async def buy() -> list[Answer]:
        body = {"items": [{"sku": sku, "qty": 2} for sku in skus]} | (
            {} if expected is None else {"expectedTotalCents": expected}
        )
        placed = await arena.ask("POST", "/orders", by=buyer, body=body)
        return [placed, await arena.paying(buyer, placed.body)()] if placed.status == 201 else [placed]

    expected = dice.choice([None, 600])
    calls: dict[str, Call] = {"buyer": buy}
    for sku, cents in prices.items():
        body = {"name": "Dearer", "unitPriceCents": cents}
        calls[f"staff {sku}"] = partial(arena.ask, "PUT", f"/inventory/{sku}", by=arena.staff[0], body=body)

    async def judge(answers: dict[str, Any]) -> list[str]:
        placed, *paid = answers["buyer"]
        if placed.slug == "price-changed" and expected is not None:
            same = placed.body["totalCents"] == expected
            return [f"refused for nothing: {placed}"] if same else await arena.unbalanced([], skus)
        if placed.status != 201 or [a.status for a in paid] != [201]:
            return [f"the buyer was answered {answers['buyer']}"]
        order = placed.body
        lines = sum(line["qty"] * line["unitPriceCents"] for line in order["items"])
        book = await arena.book(order)
        told = {expected or lines, lines, order["totalCents"], book["total_cents"], book["taken"]}
        faults = [] if told == {paid[0].body["amountCents"]} else [f"lines, total and charge differ: {told}"]
        return faults + await arena.unbalanced([order], skus)

    return Round(calls, (SHELF, dice.choice(skus)), judge)


# --- the cart


async def cart_changed(arena: Arena, dice: random.Random) -> Round:
    """The cart changes during checkout: what is charged is what was ordered, what came later stays in the cart."""
    one, two, three = [await arena.stock(20, cents) for cents in (100, 200, 300)]
    buyer = arena.people[dice.randrange(len(arena.people))]
    redis, key = arena.shop.stores.redis, cart.store.key(buyer.id)
    await redis.call("DEL", key)
    await redis.call("HSET", key, one, 2, two, 1)

    async def buy() -> list[Answer]:
        placed = await arena.ask("POST", "/orders", by=buyer)
        return [placed, await arena.paying(buyer, placed.body)()] if placed.status == 201 else [placed]

    async def put_in(sku: str, qty: int) -> None:
        await cart.store.Carts(arena.steered.stores.redis, 30).add(buyer.id, sku, qty)

    async def take_out(sku: str) -> None:
        await cart.store.Carts(arena.steered.stores.redis, 30).put(buyer.id, sku, 0)

    more, removed = dice.randint(1, 3), dice.random() < 0.3
    calls: dict[str, Call] = {
        "buyer": buy, "more": partial(put_in, one, more), "another": partial(put_in, three, 1)
    }  # fmt: skip
    if removed:
        calls["less"] = partial(take_out, two)
    # The worker hears of the paid order, too, maybe twice.
    relays = dice.randint(0, 2)

    async def judge(answers: dict[str, Any]) -> list[str]:
        placed, *paid = answers["buyer"]
        if placed.status != 201 or [a.status for a in paid] != [201]:
            return [f"the buyer was answered {answers['buyer']}"]
        order = placed.body
        ordered = {line["sku"]: line["qty"] for line in order["items"]}
        for _ in range(relays):
            await cart.take_bought(arena.steered.stores.redis, buyer.id, ordered, order["id"])
        left = await cart.lines(redis, buyer.id)
        want = {one: 2 + more, two: 1, three: 1}
        faults = []
        for sku, qty in want.items():
            had = left.get(sku, 0) + ordered.get(sku, 0)
            if had != qty and not (removed and sku == two and had == 0):
                faults.append(f"of {qty} of {sku} {ordered.get(sku, 0)} were ordered and {left.get(sku, 0)} are left")
        if removed and left.get(two):
            faults.append(f"what was removed is in the cart again: {left}")
        book = await arena.book(order)
        if book["taken"] != sum(line["lineTotalCents"] for line in order["items"]):
            faults.append(f"charged {book['taken']} for {order['items']}")
        return faults + await arena.unbalanced([order], [one, two, three])

    return Round(calls, (SHELF, one), judge)


async def one_guest_cart(arena: Arena, dice: random.Random) -> Round:
    """A guest's cart is taken in by two sign-ins at the same time: nothing is lost, nothing is there twice."""
    token, sku, other = cart.new_token(), f"G-{uuid4().hex[:8]}", f"H-{uuid4().hex[:8]}"
    people = dice.sample(arena.people, 2)
    owners: list[str | UUID] = [token, *(person.id for person in people)]
    redis = arena.shop.stores.redis
    for owner in owners:
        await redis.call("DEL", cart.store.key(owner))
    await redis.call("HSET", cart.store.key(token), sku, 3, other, 1)
    await redis.call("HSET", cart.store.key(people[0].id), sku, 1)
    same = dice.random() < 0.5

    def look(person: Person) -> Call:
        return partial(arena.ask, "GET", "/cart", by=person, headers={"X-Cart-Token": token})

    calls = {"one": look(people[0]), "two": look(people[0 if same else 1]), "again": look(people[0])}

    async def judge(answers: dict[str, Any]) -> list[str]:
        carts = [await cart.lines(redis, owner) for owner in owners]
        found = {name: sum(lines.get(name, 0) for lines in carts) for name in (sku, other)}
        return [] if found == {sku: 4, other: 1} and not carts[0] else [f"of 4 and 1 pieces there are {carts}"]

    return Round(calls, None, judge)


# --- payments


async def two_payments(arena: Arena, dice: random.Random) -> Round:
    """Two cards, two tabs, one key twice: an order is paid once."""
    sku, buyer = await arena.stock(5), arena.people[0]
    order = await arena.order(buyer, (sku, 2))
    keys = [None, None, "k1", "k1", "k2"]
    cards = ["card_ok", "card_ok", "card_slow", "card_async", "card_declined"]
    calls = {
        f"card{n}": arena.paying(buyer, order, dice.choice(cards), _key(order, dice.choice(keys)))
        for n in range(dice.randint(2, 4))
    }

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book = await arena.book(order)
        yes = {body["id"] for body in _yes(answers).values() if body["status"] in ("succeeded", "pending")}
        faults = _strange(
            answers, "payment-declined", "order-not-payable", "payment-in-progress", "request-in-progress",
            "idempotency-key-reused",
        )  # fmt: skip
        charges = await arena.rows(
            "SELECT c.* FROM sandbox.charges c JOIN payments p ON p.id::text = c.reference "
            "WHERE p.order_id = $1 AND c.decline_code IS NULL", order["id"],
        )  # fmt: skip
        if len(yes) > 1 or len(charges) > 1:
            faults.append(f"two cards were charged, if only for a while: {charges}")
        if yes and (book["status"], book["taken"]) != ("confirmed", order["totalCents"]):
            faults.append(f"said yes, and {book}")
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


async def told_thrice(arena: Arena, dice: random.Random) -> Round:
    """The redirect, two webhooks and the sweep end one payment at the same time, beside another card."""
    sku, buyer = await arena.stock(5), arena.people[0]
    order = await arena.order(buyer, (sku, 1))
    payment = await arena.good(
        "POST", "/payments", by=buyer,
        body={"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_async"},
    )  # fmt: skip
    (charge,) = await arena.rows(
        """UPDATE sandbox.charges SET settles_at = clock_timestamp() - interval '1 s' WHERE reference = $1
           RETURNING id""", payment["id"],
    )  # fmt: skip
    webhook = webhook_of(arena, payment["id"], charge["id"])
    calls: dict[str, Call] = {"webhook1": webhook, "webhook2": webhook, "sweep": arena.sweeping(_soon(arena))}
    if dice.random() < 0.5:
        calls["card"] = arena.paying(buyer, order)

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book = await arena.book(order)
        faults = _strange(answers, "order-not-payable", "payment-in-progress")
        if (book["status"], book["taken"]) != ("confirmed", order["totalCents"]):
            faults.append(f"paid, and {book}")
        if await arena.shelf(sku) != (4, 0):
            faults.append(f"one of 5 pieces was sold: {await arena.shelf(sku)}")
        told = await arena.rows("SELECT topic FROM outbox WHERE key = $1 AND topic = 'order.confirmed'", order["id"])
        if len(told) != 1:
            faults.append(f"confirmed {len(told)} times")
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


async def cancel_beside_pay(arena: Arena, dice: random.Random) -> Round:
    """Whoever cancels has the money; whoever has paid has the goods."""
    sku, buyer = await arena.stock(5), arena.people[0]
    order = await arena.order(buyer, (sku, 2))
    calls = {"pay": arena.paying(buyer, order, dice.choice(["card_ok", "card_slow", "card_async"]))}
    for who, by in (("buyer", buyer), ("staff", arena.staff[0]))[: dice.randint(1, 2)]:
        calls[who] = arena.cancelling(by, order)

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book = await arena.book(order)
        faults = _strange(answers, "order-not-payable", "invalid-transition", "payment-in-progress")
        told = [who for who in _yes(answers) if who != "pay"]
        if len(told) != 1 or (book["status"], book["taken"]) != ("cancelled", 0):
            faults.append(f"cancelled for {told}, and {book}")
        if await arena.shelf(sku) != (5, 0):
            faults.append(f"5 pieces should be free: {await arena.shelf(sku)}")
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


async def expire_beside_pay(arena: Arena, dice: random.Random) -> Round:
    """The reservation ends while the card is charged, and a rival may want the pieces: paid and sold, or neither."""
    pieces, buyer = dice.choice([2, 5]), arena.people[0]
    sku = await arena.stock(pieces)
    order = await arena.order(buyer, (sku, 2))
    calls = {"pay": arena.paying(buyer, order, dice.choice(["card_ok", "card_slow"]))}
    calls |= {f"sweep{n}": arena.sweeping(arena.later) for n in range(dice.randint(1, 2))}
    if dice.random() < 0.5:
        calls["rival"] = arena.placing(arena.people[1], (sku, 2))

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book, yes = await arena.book(order), _yes(answers)
        faults = _strange(answers, "order-not-payable", "insufficient-stock")
        rivals = [await arena.book(yes["rival"])] if "rival" in yes else []
        held = sum(2 for rival in rivals if rival["status"] == "pending")  # a sweep may have come after it
        paid = "pay" in yes
        want = ("confirmed", order["totalCents"], (pieces - 2, held)) if paid else ("cancelled", 0, (pieces, held))
        found = (book["status"], book["taken"], await arena.shelf(sku))
        if found != want:
            faults.append(f"{'paid' if paid else 'not paid'}, and {found}: {book}")
        return faults + await arena.unbalanced([order, *(yes[who] for who in ("rival",) if who in yes)], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


# --- money back


async def refund_twice(arena: Arena, dice: random.Random) -> Round:
    """Two colleagues give back at the same time, in parts or whole, with one key or two: never more than was paid."""
    sku, buyer = await arena.stock(5, 500), arena.people[0]
    order = await arena.paid(buyer, (sku, 2))
    keys = [None, None, "k1", "k1", "k2"]
    sums: list[list[int | None]] = [[600], [None], [400, 700], [1000, 1], [None, 300]]
    amounts = dice.choice(sums)
    asked = [(dice.choice(amounts), dice.choice(keys)) for _ in range(dice.randint(2, 4))]
    calls = {
        f"staff{n}": arena.refunding(arena.staff[n % 2], order, cents, _key(order, key))
        for n, (cents, key) in enumerate(asked)
    }

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book = await arena.book(order)
        given = {body["id"]: body["amountCents"] for body in _yes(answers).values()}
        faults = _strange(answers, "over-refund", "request-in-progress", "idempotency-key-reused")
        if sum(given.values()) != book["refunded_cents"] or book["refunded_cents"] > 1000:
            faults.append(f"told {given}, and {book}")
        left = 1000 - book["refunded_cents"]
        refused = [asked[int(who[5:])][0] for who, a in answers.items() if a.slug == "over-refund"]
        if any((cents or 1) <= left for cents in refused):
            faults.append(f"{refused} were refused, and {left} are left")
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


async def cancel_beside_refund(arena: Arena, dice: random.Random) -> Round:
    """A paid order is cancelled while a colleague gives part of it back: all of it goes back, once."""
    sku, buyer = await arena.stock(5, 500), arena.people[0]
    order = await arena.paid(buyer, (sku, 2))
    restock = dice.random() < 0.5
    body = {"amountCents": dice.choice([1, 400, 1000]), "restock": restock}
    calls: dict[str, Call] = {
        "cancel": arena.cancelling(dice.choice([buyer, arena.staff[1]]), order),
        "refund": partial(arena.ask, "POST", f"/orders/{order['id']}/refunds", by=arena.staff[0], body=body),
    }

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book = await arena.book(order)
        cancelled = "cancel" in _yes(answers)
        faults = _strange(answers, "over-refund", "invalid-transition")
        if book["status"] != ("cancelled" if cancelled else "refunded") or book["taken"] != 0:
            faults.append(f"{'' if cancelled else 'not '}cancelled, and {book}")
        if await arena.shelf(sku) != ((5, 0) if cancelled or restock else (3, 0)):
            faults.append(f"the pieces are back once: {await arena.shelf(sku)}")
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


async def cancel_beside_ship(arena: Arena, dice: random.Random) -> Round:
    """The parcel leaves, or the money goes back."""
    sku, buyer = await arena.stock(5), arena.people[0]
    order = await arena.paid(buyer, (sku, 2))
    calls = {"cancel": arena.cancelling(buyer, order), "ship": arena.shipping(arena.staff[0], order)}
    if dice.random() < 0.3:
        calls["again"] = arena.shipping(arena.staff[1], order)

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book = await arena.book(order)
        faults = _strange(answers, "invalid-transition")
        told = list(_yes(answers))
        want = ("cancelled", 0, (5, 0)) if told == ["cancel"] else ("shipped", order["totalCents"], (3, 0))
        found = (book["status"], book["taken"], await arena.shelf(sku))
        if len(told) != 1 or found != want:
            faults.append(f"{told} were told yes, and {found}")
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


async def refund_by_piece(arena: Arena, dice: random.Random) -> Round:
    """Colleagues give back the same pieces, with and without putting them on the shelf; the buyer may cancel beside."""
    one, two, buyer = await arena.stock(5, 500), await arena.stock(5, 300), arena.people[0]
    order = await arena.paid(buyer, (one, 2), (two, 1))
    asked = [
        (dice.choice([{one: 1}, {one: 2}, {two: 1}, {one: 1, two: 1}]), dice.random() < 0.5)
        for _ in range(dice.randint(2, 4))
    ]
    calls: dict[str, Call] = {}
    for n, (pieces, restock) in enumerate(asked):
        body = {"items": [{"sku": sku, "qty": qty} for sku, qty in pieces.items()], "restock": restock}
        path = f"/orders/{order['id']}/refunds"
        calls[f"staff{n}"] = partial(arena.ask, "POST", path, by=arena.staff[n % 2], body=body)
    if dice.random() < 0.4:
        calls["cancel"] = arena.cancelling(buyer, order)

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book, yes = await arena.book(order), _yes(answers)
        faults = _strange(answers, "over-refund", "invalid-transition")
        cents, back, written_off = 0, {one: 0, two: 0}, {one: 0, two: 0}
        for pieces, restock in (asked[int(who[5:])] for who in yes if who != "cancel"):
            cents += sum(qty * {one: 500, two: 300}[sku] for sku, qty in pieces.items())
            for sku, qty in pieces.items():
                (back if restock else written_off)[sku] += qty
        if "cancel" in yes:
            back = {one: 2 - written_off[one], two: 1 - written_off[two]}
        want = 1300 if "cancel" in yes else cents
        shelves = {one: (3 + back[one], 0), two: (4 + back[two], 0)}
        found = {sku: await arena.shelf(sku) for sku in shelves}
        if book["refunded_cents"] != want or found != shelves:
            faults.append(
                f"{list(yes)} of {asked} were told yes, wanted {want} and {shelves}, found {found} and {book}"
            )
        return faults + await arena.unbalanced([order], [one, two])

    return Round(calls, (ORDER, order["id"]), judge)


async def capture_beside_cancel(arena: Arena, dice: random.Random) -> Round:
    """What is held is taken by a colleague, or two, while the buyer cancels: in the end nothing is taken or held."""
    sku, buyer = await arena.stock(5), arena.people[0]
    order, payment = await arena.held(buyer, (sku, 2))
    calls: dict[str, Call] = {"cancel": arena.cancelling(buyer, order)}
    for n in range(dice.randint(1, 2)):
        calls[f"capture{n}"] = partial(arena.ask, "POST", f"/payments/{payment['id']}/capture", by=arena.staff[n])

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book = await arena.book(order)
        faults = _strange(answers, "nothing-to-capture", "payment-in-progress")
        held = await arena.rows(
            "SELECT * FROM sandbox.books WHERE reference = $1 AND status = 'authorized'", payment["id"]
        )
        if "cancel" not in _yes(answers) or (book["status"], book["taken"]) != ("cancelled", 0) or held:
            faults.append(f"cancelled, and {book}, held {held}")
        if await arena.shelf(sku) != (5, 0):
            faults.append(f"5 pieces should be free: {await arena.shelf(sku)}")
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


async def capture_twice(arena: Arena, dice: random.Random) -> Round:
    """Two colleagues take what is held, with one key or two, beside the sweep: it is taken once."""
    sku, buyer = await arena.stock(5), arena.people[0]
    order, payment = await arena.held(buyer, (sku, 2))
    path, keys = f"/payments/{payment['id']}/capture", [None, "k1", "k1", "k2"]
    calls: dict[str, Call] = {
        f"staff{n}": partial(arena.ask, "POST", path, by=arena.staff[n % 2], key=_key(order, dice.choice(keys)))
        for n in range(3)
    } | {"sweep": arena.sweeping(_soon(arena))}

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book = await arena.book(order)
        faults = _strange(answers, "nothing-to-capture", "payment-in-progress", "request-in-progress")
        if not _yes({**answers, "sweep": None}) or (book["status"], book["taken"]) != (
            "confirmed",
            order["totalCents"],
        ):
            faults.append(f"captured, and {book}")
        begun = await arena.rows(
            "SELECT FROM audit_log WHERE action = 'payment.capture' AND subject_id = $1", payment["id"]
        )
        if len(begun) != 1:
            faults.append(f"{len(begun)} colleagues took it")
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


# --- keys and names


async def claim_beside_pay(arena: Arena, dice: random.Random) -> Round:
    """A guest's order becomes an account's, asked for twice, while the guest pays or cancels it."""
    sku, buyer = await arena.stock(5), dice.choice(arena.people)
    body = {"items": [{"sku": sku, "qty": 2}], "email": buyer.email}
    order = await arena.good("POST", "/orders", body=body)
    guest = {"X-Order-Token": order["orderToken"]}
    pay = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": dice.choice(["card_ok", "card_slow"])}
    calls: dict[str, Call] = {
        "pay": partial(arena.ask, "POST", "/payments", body=pay, headers=guest),
        "claim1": partial(arena.ask, "POST", "/orders/claim", by=buyer),
        "claim2": partial(arena.ask, "POST", "/orders/claim", by=buyer),
    }
    if dice.random() < 0.3:
        calls["cancel"] = partial(arena.ask, "POST", f"/orders/{order['id']}/cancel", headers=guest)

    async def judge(answers: dict[str, Any]) -> list[str]:
        await arena.settle(order)
        book = await arena.book(order)
        yes = _yes(answers)
        faults = _strange(answers, "not-found", "order-not-payable")
        claims = [yes[who].get("claimed", 0) for who in ("claim1", "claim2") if who in yes]
        told = await arena.rows("SELECT by FROM order_history WHERE order_id = $1 AND reason = 'claimed'", order["id"])
        if sorted(claims) != [0, 1] or len(told) != 1 or book["user_id"] != buyer.id:
            faults.append(f"claimed {claims}, noted {len(told)} times, and it is {book['user_id']}'s")
        want = "cancelled" if "cancel" in yes else "confirmed" if "pay" in yes else "pending"
        if book["status"] != want:
            faults.append(f"{list(yes)} were told yes, and it is {book['status']}")
        if want == "pending":
            await arena.good("POST", f"/orders/{order['id']}/cancel", by=buyer)
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


async def one_key(arena: Arena, dice: random.Random) -> Round:
    """One Idempotency-Key, many requests, one of them perhaps with another body: one order."""
    sku, buyer = await arena.stock(50), arena.people[0]
    key = str(uuid4())
    calls = {f"click{n}": arena.placing(buyer, (sku, 1), key=key) for n in range(dice.randint(2, 4))}
    if dice.random() < 0.4:
        calls["other"] = arena.placing(buyer, (sku, 2), key=key)

    async def judge(answers: dict[str, Any]) -> list[str]:
        again = await arena.placing(buyer, (sku, 1), key=key)()
        yes = _yes({**answers, "again": again})
        faults = _strange({**answers, "again": again}, "request-in-progress", "idempotency-key-reused")
        made = await arena.rows("SELECT o.id FROM orders o JOIN order_items i ON i.order_id = o.id WHERE sku = $1", sku)
        if len(made) != 1 or {body["id"] for body in yes.values()} != {str(row["id"]) for row in made}:
            faults.append(f"one key made {made}")
        return faults + await arena.unbalanced(yes.values(), [sku])

    return Round(calls, (PERSON, buyer.id), judge)


async def one_key_pays(arena: Arena, dice: random.Random) -> Round:
    """One Idempotency-Key, many clicks on one payment, perhaps also for another order: one card is asked, once."""
    sku, buyer = await arena.stock(50), arena.people[0]
    order, other = [await arena.order(buyer, (sku, 1)) for _ in range(2)]
    key, card = str(uuid4()), dice.choice(["card_ok", "card_declined", "card_slow", "card_async"])
    calls = {f"click{n}": arena.paying(buyer, order, card, key) for n in range(dice.randint(1, 3))}
    if len(calls) == 1 or dice.random() < 0.4:
        calls["other"] = arena.paying(buyer, other, card, key)

    async def judge(answers: dict[str, Any]) -> list[str]:
        told = {**answers, "again": await arena.paying(buyer, order, card, key)()}
        await arena.settle(order, other)
        faults = _strange(told, "request-in-progress", "idempotency-key-reused", "payment-declined")
        asked = await arena.rows(
            "SELECT p.id FROM payments p JOIN sandbox.charges c ON c.reference = p.id::text "
            "WHERE p.order_id IN ($1, $2)", order["id"], other["id"],
        )  # fmt: skip
        named = {a.body.get("paymentId", a.body.get("id")) for a in told.values() if a.status in (201, 402)}
        if named != {str(row["id"]) for row in asked} or len(asked) != 1:
            faults.append(f"one key asked for {asked}, and told of {named}")
        return faults + await arena.unbalanced([order, other], [sku])

    return Round(calls, (ORDERS, [order["id"], other["id"]]), judge)


async def one_key_gives_back(arena: Arena, dice: random.Random) -> Round:
    """One Idempotency-Key, many clicks on one refund, perhaps also of another sum: one goes back, once."""
    sku, staff = await arena.stock(50), arena.staff[0]
    order, key = await arena.paid(arena.people[0], (sku, 2)), str(uuid4())
    calls = {f"click{n}": arena.refunding(staff, order, 100, key) for n in range(dice.randint(2, 4))}
    if dice.random() < 0.4:
        calls["other"] = arena.refunding(staff, order, 150, key)

    async def judge(answers: dict[str, Any]) -> list[str]:
        told = {**answers, "again": await arena.refunding(staff, order, 100, key)()}
        await arena.settle(order)
        yes = {(body["id"], body["amountCents"]) for body in _yes(told).values()}
        faults = _strange(told, "request-in-progress", "idempotency-key-reused")
        book = await arena.book(order)
        if [book["refunded_cents"]] != [cents for _, cents in yes]:
            faults.append(f"one key gave {yes} back, and {book}")
        return faults + await arena.unbalanced([order], [sku])

    return Round(calls, (ORDER, order["id"]), judge)


async def one_address(arena: Arena, dice: random.Random) -> Round:
    """Two people sign up with one address, written in two ways: one account."""
    name = uuid4().hex[:12]
    written = [f"{name}@example.com", f"{name.upper()}@Example.com"]
    calls: dict[str, Call] = {
        f"form{n}": partial(
            arena.ask, "POST", "/users", body={"email": dice.choice(written), "password": "a long and good one"}
        )
        for n in range(2)
    }

    async def judge(answers: dict[str, Any]) -> list[str]:
        made = await arena.rows("SELECT id FROM users WHERE lower(email) = $1", written[0])
        faults = _strange(answers, "email-taken")
        return faults if len(made) == len(_yes(answers)) == 1 else [*faults, f"one address has {made}: {answers}"]

    return Round(calls, None, judge)


# How a charge may be said to stand.
Stand = Literal["authorized", "succeeded", "failed", "voided"]


def webhook_of(arena: Arena, payment_id: str, charge_id: str, status: Stand = "succeeded") -> Call:
    """The sandbox's webhook about a charge, signed."""
    sandbox = sandbox_of(arena.shop)
    body = sandbox.event(payment_id, Outcome(charge_id, status))

    async def deliver() -> Answer:
        headers = {"sandbox-signature": sandbox.sign(body, datetime.now(UTC)), "content-type": "application/json"}
        return await arena.ask("POST", "/webhooks/sandbox", content=body, headers=headers)

    return deliver


def _soon(arena: Arena) -> Any:
    """When open payments may be asked for, and no reservation is over."""
    return replace(arena.steered, clock=clock_in(60))


def _key(order: Json, name: str | None) -> str | None:
    return None if name is None else f"{name} {order['id']}"


# --- what each attack is for

_LOCK = r"FOR NO KEY UPDATE"


def unlocked(*functions: str, **more: Any) -> Variant:
    """Without the lock of the order's row, in these functions of the database and in the statements of the shop."""
    return Variant(statements=((_LOCK, ""),), functions=tuple((name, _LOCK, "") for name in functions), **more)


def hesitating(variant: Variant, function: str, before: str) -> Variant:
    """The same, and that function stands still before that statement, for longer than the helm waits: others pass in
    the middle of one statement, as on a machine under load they do now and then."""
    pause = rf"PERFORM pg_sleep({2 * PATIENCE_SECONDS}); \1"
    return replace(variant, functions=(*variant.functions, (function, f"({before})", pause)))


_FREE = r"stock - reserved >= v_qtys\[i\]"
READ_THEN_WRITE = Variant(
    functions=(
        (
            "place_order", "UPDATE inventory SET reserved",
            "PERFORM FROM inventory WHERE sku = v_skus[i] AND stock - reserved >= v_qtys[i]; IF NOT FOUND THEN "
            "PERFORM refuse_shortage(v_skus[i:], v_qtys[i:]); END IF; UPDATE inventory SET reserved",
        ),
        ("place_order", rf" AND {_FREE}\s+RETURNING", " RETURNING"),
    ),
    ddl=("ALTER TABLE inventory DROP CONSTRAINT inventory_reserved",),
)  # fmt: skip

_TOTAL_READ_BEFORE = Variant(
    functions=(
        ("place_order", r"v_total := v_total \+ v_price \* v_qtys\[i\];", ""),
        (
            "place_order", "IF NOT v_ascending THEN",
            "SELECT sum(unit_price_cents * qty) INTO v_total FROM unnest(v_skus, v_qtys) AS line(sku, qty) "
            "JOIN inventory USING (sku); IF NOT v_ascending THEN",
        ),
    )
)  # fmt: skip

# As in the specification's own function (bench/brief_place_order.sql).
_LOCKED_AS_THEY_COME = Variant(functions=(("place_order", "IF NOT v_ascending THEN", "IF false THEN"),))

_TWO_OPEN = Variant(
    statements=((_LOCK, ""),),
    functions=(
        ("start_payment", _LOCK, ""),
        (
            "start_payment", "INSERT INTO payments",
            "IF EXISTS (SELECT FROM payments WHERE order_id = p_order_id AND status IN ('pending', 'succeeded')) THEN "
            "RAISE EXCEPTION 'open' USING ERRCODE = 'QT021', DETAIL = p_order_id; END IF; INSERT INTO payments",
        ),
        ("start_payment", r"ON CONFLICT [^;]* DO NOTHING", ""),
        ("complete_payment", _LOCK, ""),
    ),
    ddl=("DROP INDEX payments_one_open",),
)  # fmt: skip

_CART_EMPTIED = Variant(scripts=((r"for i = 2, #ARGV, 2 do", "redis.call('DEL', KEYS[1])\nfor i = 2, 1, 2 do"),))
_TAKEN_AT_EACH_TELLING = Variant(scripts=((r"if mark then return .*\n", ""),))
_MERGED_BY_EACH = Variant(scripts=((r"if note then return .*\n", ""),))
_SEEN_NOT_HELD = Variant(
    functions=(
        ("claim_request", r"pg_try_advisory_xact_lock\(.*\);", "true;"),
        ("take_request", r"WHERE idempotency_keys.created_at <= now\(\) - interval '24 hours'", ""),
    )
)
_LOOK_THEN_SIGN_UP = Variant(
    statements=(
        (
            r"VALUES \(([^;]*)\)\s*ON CONFLICT \(email\) DO NOTHING",
            r"SELECT \1 WHERE NOT EXISTS (SELECT FROM users WHERE email = $2) AND pg_sleep(0.02) IS NOT NULL",
        ),
    ),
    ddl=("ALTER TABLE users DROP CONSTRAINT users_email_key",),
)
_NO_MACHINE = ("ALTER TABLE orders DISABLE TRIGGER orders_transition",)

ATTACKS = (
    Attack(last_piece, {"the shelf is read, then written": READ_THEN_WRITE}),
    Attack(crossed_carts, {"locked as the buyer has them": _LOCKED_AS_THEY_COME}),
    Attack(price_changed, {"the total is read before the lines": _TOTAL_READ_BEFORE}),
    Attack(
        cart_changed,
        {"the cart is emptied": _CART_EMPTIED, "taken at each telling": _TAKEN_AT_EACH_TELLING},
    ),
    Attack(one_guest_cart, {"merged by each": _MERGED_BY_EACH}),
    Attack(two_payments, {"an open payment is looked for, not held": _TWO_OPEN}),
    Attack(told_thrice, {"no lock": unlocked("complete_payment", "step_order")}),
    Attack(cancel_beside_pay, {"no lock": unlocked("complete_payment", "step_order", "start_payment")}),
    Attack(
        expire_beside_pay,
        {
            "no lock": hesitating(
                unlocked("complete_payment", "step_order", "start_payment"),
                "expire_orders",
                "UPDATE orders SET status = 'cancelled'",
            )
        },
    ),
    Attack(refund_twice, {"no lock": unlocked("start_refund", "complete_refund")}),
    Attack(refund_by_piece, {"no lock": unlocked("start_refund", "complete_refund", "step_order")}),
    Attack(cancel_beside_refund, {"no lock": unlocked("start_refund", "complete_refund", "step_order")}),
    Attack(cancel_beside_ship, {"no lock, no machine": unlocked("step_order", ddl=_NO_MACHINE)}),
    Attack(
        capture_beside_cancel,
        {"no lock": unlocked("start_capture", "complete_payment", "step_order")},
    ),
    Attack(capture_twice, {"no lock": unlocked("start_capture", "complete_payment")}),
    Attack(claim_beside_pay, {"no lock": unlocked("claim_orders")}),
    Attack(one_key, {"seen, not held": _SEEN_NOT_HELD, "no transaction": Variant(unscoped=True)}),
    Attack(
        one_key_pays,
        {"seen, not held": hesitating(_SEEN_NOT_HELD, "start_payment_under_key", "payment := start_payment")},
    ),
    Attack(one_key_gives_back, {"seen, not held": _SEEN_NOT_HELD, "no transaction": Variant(unscoped=True)}),
    Attack(one_address, {"looked for, then written": _LOOK_THEN_SIGN_UP}),
)
