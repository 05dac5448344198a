"""Storms of webhooks: every event of a payment ten times, some late, in any order and at several processes, beside the
buyer who comes back, the worker's sweeps and its relay. Whatever comes, all of it happens once."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from quartet import cart, leaderboard
from quartet.sync.relay import relay
from races.arena import Arena, Call, Json, Round, clock_in
from races.attacks import ORDER, Attack, Stand, hesitating, unlocked, webhook_of
from races.steering import Variant

# As (payment, status).
Events = Sequence[tuple[str, Stand]]
COPIES = 10
LATE_SECONDS = 0.06


async def storm_of_a_charge(arena: Arena, dice: random.Random) -> Round:
    """A card that was declined, then one whose money comes later; the first's events go on coming."""
    scene = await _Scene.open(arena, dice)
    declined = await arena.paying(scene.buyer, scene.order, "card_declined")()
    assert declined.slug == "payment-declined", declined
    paid = await arena.paying(scene.buyer, scene.order, "card_async")()
    assert paid.status == 201, paid
    refused, charge = declined.body["paymentId"], paid.body["id"]
    # A provider may first say that it failed, and be wrong.
    events: Events = [(refused, "failed"), (charge, "succeeded")]
    more: list[Events] = [[], [(charge, "failed")]]
    return await scene.round(charge, [*events, *dice.choice(more)], ("confirmed", 1, 1))


async def storm_of_a_hold(arena: Arena, dice: random.Random) -> Round:
    """Money is held, and taken at the provider while a colleague takes it here as well."""
    scene = await _Scene.open(arena, dice)
    payment = await scene.hold()
    path = f"/payments/{payment['id']}/capture"
    await arena.rows("SELECT sandbox.settle($1, true)", payment["id"])
    scene.calls["capture"] = partial(arena.ask, "POST", path, by=arena.staff[0])
    events: Events = [(payment["id"], "authorized"), (payment["id"], "succeeded")]
    return await scene.round(payment["id"], events, ("confirmed", 1, 1), "nothing-to-capture", "payment-in-progress")


async def storm_of_a_lapse(arena: Arena, dice: random.Random) -> Round:
    """The hold lapses at the provider: its order goes with it, and is told so, in whatever order."""
    scene = await _Scene.open(arena, dice)
    payment = await scene.hold()
    await arena.rows("SELECT sandbox.settle($1, false)", payment["id"])
    events: Events = [(payment["id"], "authorized"), (payment["id"], "voided")]
    return await scene.round(payment["id"], events, ("cancelled", 0, 1))


class _Scene:
    """An order out of a cart with more in it, and what its buyer has been told and given before."""

    def __init__(self, arena: Arena, dice: random.Random) -> None:
        self.arena, self.dice = arena, dice
        self.buyer = dice.choice(arena.people)
        self.calls: dict[str, Call] = {}
        self.order: Json = {}
        self.sku = ""
        self.points = 0

    @classmethod
    async def open(cls, arena: Arena, dice: random.Random) -> "_Scene":
        """Two of five pieces are ordered; three are in the cart."""
        scene = cls(arena, dice)
        scene.sku = await arena.stock(5, 700)
        scene.points = await scene._xp()
        await arena.shop.stores.redis.call("HSET", cart.store.key(scene.buyer.id), scene.sku, 3)
        scene.order = await arena.order(scene.buyer, (scene.sku, 2))
        return scene

    async def hold(self) -> Json:
        """Has the order's money held; answers the payment."""
        body = {"orderId": self.order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
        return await self.arena.good("POST", "/payments", by=self.buyer, body=body, at=self.arena.holding)

    async def round(self, payment: str, events: Events, end: tuple[str, int, int], *expected: str) -> Round:
        """`end`: status, how often it is taken, how often it was confirmed."""
        arena, dice = self.arena, self.dice
        for number, (reference, status) in enumerate(events):
            (charge,) = await arena.rows("SELECT id FROM sandbox.charges WHERE reference = $1", reference)
            deliver = webhook_of(arena, reference, charge["id"], status)
            for copy in range(COPIES):
                self.calls[f"event {number}.{copy} {status}"] = self._late(deliver)
        soon = replace(arena.steered, clock=clock_in(4000))  # a hold is asked after in an hour
        for n in range(2):
            self.calls[f"sweep{n}"] = self._late(arena.sweeping(soon))
            self.calls[f"relay{n}"] = self._late(partial(relay, arena.steered))
        refresh = partial(arena.ask, "POST", f"/payments/{payment}/refresh", by=self.buyer)
        self.calls["redirect"] = self._late(refresh)

        async def judge(answers: dict[str, Any]) -> list[str]:
            return await self._judge(answers, end, expected)

        names = dice.sample(list(self.calls), len(self.calls))
        return Round({name: self.calls[name] for name in names}, (ORDER, self.order["id"]), judge)

    def _late(self, call: Call) -> Call:
        seconds = self.dice.choice([0.0, 0.0, self.dice.uniform(0, LATE_SECONDS)])

        async def later() -> Any:
            await asyncio.sleep(seconds)
            return await call()

        return later

    async def _judge(self, answers: dict[str, Any], end: tuple[str, int, int], expected: tuple[str, ...]) -> list[str]:
        arena, order = self.arena, self.order
        await arena.settle(order)
        while await relay(arena.steered):
            pass
        status, taken, confirmed = end
        book = await arena.book(order)
        sold = 2 if status == "confirmed" else 0
        (kept,) = await arena.rows(
            """SELECT (SELECT count(*) FROM order_history WHERE order_id = $1 AND to_status = 'confirmed') AS history,
                      (SELECT count(*) FROM mails WHERE args ->> 'order_id' = $1::text AND kind = 'order-confirmed')
                          AS mails""",
            UUID(order["id"]),
        )  # fmt: skip
        found = {
            "status": book["status"],
            "taken": book["taken"],
            "shelf": await arena.shelf(self.sku),
            "cart": (await cart.lines(arena.shop.stores.redis, self.buyer.id)).get(self.sku),
            "points": await self._xp() - self.points,
            "confirmed": kept["history"],
            "mails": kept["mails"],
        }
        want = {
            "status": status,
            "taken": taken * order["totalCents"],
            "shelf": (5 - sold, 0),
            "cart": 1,
            "points": taken * order["totalCents"] // 100,
            "confirmed": confirmed,
            "mails": confirmed,
        }
        strange = [f"{who}: {a}" for who, a in answers.items() if getattr(a, "slug", "") not in ("", *expected)]
        await arena.shop.stores.redis.call("DEL", cart.store.key(self.buyer.id))
        return strange + ([] if found == want else [f"wanted {want}\n   found {found}"])

    async def _xp(self) -> int:
        place = await leaderboard.place_of(self.arena.shop, "weekly", self.buyer.id)
        return place.xp if place else 0


# Where a consumer, or the keeper of e-mails, takes an event for a new one whenever it comes; and it comes twice.
_COUNTED_AGAIN = Variant(
    scripts=((r"if mark then return .*\n", ""),),
    statements=(
        (r"DELETE FROM outbox WHERE id = ANY \(\$1\)", "DELETE FROM outbox WHERE id = ANY ($1) AND random() < 0.5"),
    ),
)
_MAILED_AGAIN = Variant(
    statements=(
        *_COUNTED_AGAIN.statements, (r"ON CONFLICT ON CONSTRAINT mails_once DO NOTHING", ""),
    ),
    ddl=("ALTER TABLE mails DROP CONSTRAINT mails_once",),
)  # fmt: skip

STORMS = (
    Attack(
        storm_of_a_charge,
        {
            "no lock": unlocked("complete_payment", "step_order"),
            "counted at each telling": _COUNTED_AGAIN,
            "mailed at each telling": _MAILED_AGAIN,
        },
    ),
    Attack(
        storm_of_a_hold,
        {
            "no lock": hesitating(
                unlocked("complete_payment", "step_order", "start_capture"),
                "start_capture",
                r"UPDATE payments\s+SET due = 'capture'",
            )
        },
    ),
    Attack(storm_of_a_lapse, {"no lock": unlocked("complete_payment", "step_order")}),
)
