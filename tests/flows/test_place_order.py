"""Placing orders and what becomes of them, in PostgreSQL itself: crowds of buyers, wrong lines, hands in the data."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

import cashier
from quartet import inventory, orders
from quartet.kernel.errors import Invalid
from quartet.kernel.ids import new_id
from quartet.kernel.settings import Settings
from quartet.stores import postgres
from quartet.stores.postgres import Postgres, Violation

Json = dict[str, Any]


@pytest.fixture
async def pg(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Postgres]:
    """Sixteen connections, so that orders really meet."""
    monkeypatch.setattr(postgres, "WAIT_SECONDS", 60.0)  # for a connection, where a crowd has them all
    assert settings.postgres_url is not None
    pg = Postgres(settings.postgres_url, size=16)
    yield pg
    await pg.close()


@pytest.fixture
async def buyer(pg: Postgres) -> UUID:
    return await a_user(pg)


async def a_user(pg: Postgres) -> UUID:
    user_id = new_id()
    async with pg.once() as tx:
        await tx.execute("INSERT INTO users (id, email) VALUES ($1, $2)", user_id, f"{user_id}@example.com")
    return user_id


async def stock(pg: Postgres, pieces: int, *skus: str, cents: int = 500, currency: str = "GBP") -> None:
    for sku in skus:
        async with pg.tx() as tx:
            await inventory.put(tx, sku, f"A {sku}", cents, stock=pieces, currency=currency, actor="test")


async def place(pg: Postgres, user_id: UUID, *lines: tuple[str, int], hold: int = 900) -> orders.Order:
    async with pg.once() as tx:
        return await orders.place(tx, user_id, lines, hold=timedelta(seconds=hold))


async def shelves(pg: Postgres) -> dict[str, tuple[int, int]]:
    async with pg.read() as read:
        rows = await read.fetch("SELECT sku, stock, reserved FROM inventory")
    return {row["sku"]: (row["stock"], row["reserved"]) for row in rows}


async def assert_books_agree(pg: Postgres) -> None:
    """The ledger's sums equal the rows, and what is reserved is what pending orders hold."""
    async with pg.read() as read:
        rows = await read.fetch("SELECT sku, sum(stock_delta), sum(reserved_delta) FROM inventory_movements GROUP BY 1")
        held = await read.fetch(
            """SELECT i.sku, sum(i.quantity) FROM orders o JOIN order_items i ON i.order_id = o.id
               WHERE o.status = 'pending' GROUP BY 1"""
        )
    found = await shelves(pg)
    sums = {row[0]: (row[1], row[2]) for row in rows}
    assert {sku: sums.get(sku, (0, 0)) for sku in found} == found
    pending = {row[0]: row[1] for row in held}
    assert {sku: reserved for sku, (_, reserved) in found.items() if reserved} == pending


async def test_the_example_of_the_specification_runs_as_written(pg: Postgres, buyer: UUID) -> None:
    async with pg.tx() as tx:
        await tx.execute(
            """INSERT INTO inventory (sku, name, stock, unit_price_cents)
               VALUES ('LAPTOP-001', 'ThinkPad X1 Carbon Gen 12', 5, 189900), ('MOUSE-001', 'Pebble', 9, 1999)"""
        )
        placed = await tx.fetchval(
            f"""SELECT place_order(
                '{buyer}',
                '[{{"sku":"LAPTOP-001","qty":1}},{{"sku":"MOUSE-001","qty":2}}]'
            )"""
        )
        row = await tx.fetchrow("SELECT user_id, status, total_cents, currency FROM orders WHERE id = $1", placed)
        assert tuple(row) == (buyer, "pending", 189900 + 2 * 1999, "USD")
        lines = await tx.fetch(
            """SELECT sku, quantity, unit_price_cents, product_name FROM order_items WHERE order_id = $1
               ORDER BY sku""",
            placed,
        )
        assert [tuple(line) for line in lines] == [
            ("LAPTOP-001", 1, 189900, "ThinkPad X1 Carbon Gen 12"),
            ("MOUSE-001", 2, 1999, "Pebble"),
        ]
    assert await shelves(pg) == {"LAPTOP-001": (5, 1), "MOUSE-001": (9, 2)}
    await assert_books_agree(pg)


async def test_of_sixty_four_buyers_of_ten_pieces_ten_get_one(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 10_000, "PLENTY-A", "PLENTY-Z")
    for seed in range(20):
        print(f"seed {seed}")
        assert await crowd(pg, buyer, f"LAST-TEN-{seed}", random.Random(seed)) == {"sold": 10, "told": 54}
        assert (await shelves(pg))[f"LAST-TEN-{seed}"] == (10, 10)
    await assert_books_agree(pg)


async def crowd(pg: Postgres, buyer: UUID, sku: str, draw: random.Random) -> Counter[str]:
    """What sixty-four buyers of ten pieces are told, some of whom want other things as well."""
    await stock(pg, 10, sku)

    async def buy() -> str:
        lines = [(sku, 1)]
        lines += [(other, draw.randint(1, 9)) for other in ("PLENTY-A", "PLENTY-Z") if draw.random() < 0.5]
        draw.shuffle(lines)
        try:
            await place(pg, buyer, *lines)
        except orders.InsufficientStock as told:
            assert told.members["shortages"] == [{"sku": sku, "requested": 1, "available": 0}]
            return "told"
        return "sold"

    return Counter(await asyncio.gather(*(buy() for _ in range(64))))


async def test_carts_in_any_order_never_lock_each_other_out(pg: Postgres, buyer: UUID) -> None:
    """Five hundred orders over the same eight SKUs, each in an order of its own, beside confirmations, cancellations
    and the sweep: PostgreSQL would answer a deadlock with an error, and there is none."""
    seed = 20111209
    print(f"seed {seed}")
    draw = random.Random(seed)
    skus = ["b", "A", "a", "B", "é", "Z", "z-1", "Z 1"]  # languages sort these differently, bytes always the same
    await stock(pg, 4000, *skus)
    done: Counter[str] = Counter()

    async def one(number: int) -> None:
        lines = [(sku, draw.randint(1, 3)) for sku in draw.choices(skus, k=draw.randint(2, 12))]
        order = await place(pg, buyer, *lines, hold=-1 if number % 5 == 0 else 900)
        if number % 25 == 0:
            async with pg.tx() as tx:
                done["expired"] += len(await orders.expire_due(tx, limit=7))
            return
        step = draw.choice((cashier.confirm, orders.cancel))
        try:
            async with pg.tx() as tx:
                await step(tx, order.id)
            done[step.__name__] += 1
        except orders.InvalidTransition:
            done["too late"] += 1

    await asyncio.gather(*(one(number) for number in range(500)))
    print(done)
    assert done["expired"] > 0 and done["confirm"] > 100 and done["cancel"] > 100
    await assert_books_agree(pg)


async def test_lines_of_one_sku_are_added_up_and_checked_together(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 5, "MUG")
    with pytest.raises(orders.InsufficientStock) as told:
        await place(pg, buyer, ("MUG", 3), ("MUG", 3))
    assert told.value.members["shortages"] == [{"sku": "MUG", "requested": 6, "available": 5}]
    order = await place(pg, buyer, ("MUG", 3), ("MUG", 2))
    assert [(item.sku, item.qty, item.line_total_cents) for item in order.items] == [("MUG", 5, 2500)]
    assert order.total_cents == 2500
    assert await shelves(pg) == {"MUG": (5, 5)}


async def test_every_shortage_is_told_and_nothing_is_reserved(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 2, "A", "C", "D")
    await stock(pg, 50, "B")
    with pytest.raises(orders.InsufficientStock) as told:
        await place(pg, buyer, ("D", 3), ("B", 10), ("C", 1), ("A", 9))
    assert told.value.members["shortages"] == [
        {"sku": "A", "requested": 9, "available": 2},
        {"sku": "D", "requested": 3, "available": 2},
    ]
    assert set((await shelves(pg)).values()) == {(2, 0), (50, 0)}
    async with pg.read() as read:
        assert await read.fetchval("SELECT count(*) FROM orders") == 0
        assert await read.fetchval("SELECT count(*) FROM outbox WHERE topic LIKE 'order.%'") == 0


async def test_unknown_skus_are_all_named(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 2, "M")
    with pytest.raises(orders.UnknownSku) as told:
        await place(pg, buyer, ("Y", 1), ("M", 1), ("B", 1))
    assert told.value.members["skus"] == ["B", "Y"]
    assert await shelves(pg) == {"M": (2, 0)}


# What is no order line, and where the fault lies.
_NO_LINES: list[tuple[Any, list[tuple[int | None, str]]]] = [
    ([], [(None, "items")]),
    ({"sku": "MUG", "qty": 1}, [(None, "items")]),
    ("MUG", [(None, "items")]),
    (None, [(None, "items")]),
    ([{"sku": "MUG", "qty": 1}] * 1001, [(None, "items")]),
    ([{"sku": "MUG", "qty": 0}], [(0, "qty")]),
    ([{"sku": "MUG", "qty": 1}, {"sku": "MUG", "qty": -1}], [(1, "qty")]),
    ([{"sku": "MUG", "qty": 1000}], [(0, "qty")]),
    ([{"sku": "MUG", "qty": 10**9}], [(0, "qty")]),
    ([{"sku": "MUG", "qty": 10**30}], [(0, "qty")]),
    ([{"sku": "MUG", "qty": 1.5}], [(0, "qty")]),
    ([{"sku": "MUG", "qty": 2.0}], [(0, "qty")]),
    ([{"sku": "MUG", "qty": "2"}], [(0, "qty")]),
    ([{"sku": "MUG", "qty": True}], [(0, "qty")]),
    ([{"sku": "MUG", "qty": None}], [(0, "qty")]),
    ([{"sku": "MUG", "qty": {"$gt": ""}}], [(0, "qty")]),
    ([{"sku": "MUG"}], [(0, "qty")]),
    ([{"qty": 1}], [(0, "sku")]),
    ([{"sku": 7, "qty": 1}], [(0, "sku")]),
    ([{"sku": None, "qty": 1}], [(0, "sku")]),
    ([7, None, []], [(0, "qty"), (0, "sku"), (1, "qty"), (1, "sku"), (2, "qty"), (2, "sku")]),
    ([{"sku": "MUG", "qty": 500}, {"sku": "CUP", "qty": 1}, {"sku": "MUG", "qty": 500}], [(0, "qty"), (2, "qty")]),
]


async def test_lines_that_are_none_are_refused_by_name(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 9999, "MUG", "CUP")
    for items, faults in _NO_LINES:
        with pytest.raises(Violation) as refused:
            async with pg.once() as tx:
                await tx.fetchval("SELECT place_order($1, $2::text::jsonb)", buyer, json.dumps(items))
        assert refused.value.sqlstate == "QT003", items
        assert [(fault["index"], fault["field"]) for fault in json.loads(refused.value.detail)] == faults
    assert set((await shelves(pg)).values()) == {(9999, 0)}


async def test_the_front_door_names_the_field(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 1, "MUG")
    with pytest.raises(Invalid) as refused:
        await place(pg, buyer, ("MUG", 1), ("MUG", 0))
    assert refused.value.members["errors"][0]["field"] == "items.1.qty"


async def test_totals_go_far_beyond_an_int(pg: Postgres, buyer: UUID) -> None:
    highest = 100_000_000_000
    await stock(pg, 999, "YACHT", "ISLAND", cents=highest)
    order = await place(pg, buyer, ("YACHT", 999), ("ISLAND", 999))
    assert order.total_cents == 2 * 999 * highest
    many = [f"S{number:04}" for number in range(1000)]
    async with pg.once() as tx:
        await tx.execute(
            """INSERT INTO inventory (sku, name, stock, unit_price_cents, currency)
               SELECT sku, sku, 999, $2, 'GBP' FROM unnest($1::text[]) AS sku""",
            many, highest,
        )  # fmt: skip
    order = await place(pg, buyer, *((sku, 999) for sku in many))
    assert order.total_cents == 1000 * 999 * highest
    await assert_books_agree(pg)


async def test_an_order_is_paid_in_one_currency(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 5, "TEA", currency="GBP")
    await stock(pg, 5, "WINE", currency="EUR")
    with pytest.raises(orders.MixedCurrencies) as refused:
        await place(pg, buyer, ("TEA", 1), ("WINE", 1))
    assert refused.value.members["currencies"] == {"TEA": "GBP", "WINE": "EUR"}
    assert (await place(pg, buyer, ("WINE", 1))).currency == "EUR"


async def test_name_and_price_stay_as_they_were_when_ordered(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 5, "MUG", cents=500)
    order = await place(pg, buyer, ("MUG", 2))
    async with pg.tx() as tx:
        await inventory.put(tx, "MUG", "A dearer mug", 900, currency="GBP", actor="test")
    async with pg.read() as read:
        assert (await orders.get(read, order.id)).items == order.items
    assert (order.items[0].name, order.items[0].unit_price_cents) == ("A MUG", 500)


async def test_more_can_not_be_reserved_than_there_is_not_even_by_hand(pg: Postgres) -> None:
    await stock(pg, 5, "MUG")
    for hand in (
        "UPDATE inventory SET reserved = 6",
        "UPDATE inventory SET reserved = -1",
        "UPDATE inventory SET stock = -1",
        "UPDATE inventory SET reserved = 3, stock = 2",
        "UPDATE inventory SET unit_price_cents = -1",
        "INSERT INTO inventory (sku, name, stock, reserved, unit_price_cents) VALUES ('X', 'X', 1, 2, 1)",
    ):
        with pytest.raises(Violation):
            async with pg.once() as tx:
                await tx.execute(hand)
    assert await shelves(pg) == {"MUG": (5, 0)}


async def test_the_ledger_follows_what_is_done_by_hand(pg: Postgres) -> None:
    async with pg.once() as tx:
        await tx.execute("DELETE FROM outbox")
        await tx.execute(
            "INSERT INTO inventory (sku, name, stock, unit_price_cents) VALUES ('A', 'A', 4, 1), ('B', 'B', 0, 1)"
        )
        await tx.execute("UPDATE inventory SET stock = stock + 3, reserved = 2")
        await tx.execute("UPDATE inventory SET name = 'Renamed' WHERE sku = 'A'")
        rows = await tx.fetch("SELECT sku, stock_delta, reserved_delta, reason FROM inventory_movements ORDER BY id")
        assert [tuple(row) for row in rows] == [
            ("A", 4, 0, "opening"), ("A", 3, 2, "adjusted"), ("B", 3, 2, "adjusted"),
        ]  # fmt: skip
        assert await tx.fetchval("SELECT count(*) FROM outbox WHERE topic = 'stock.changed' AND key = 'A'") == 3
        await tx.execute("DELETE FROM inventory WHERE sku = 'B'")
        assert await tx.fetchval("SELECT sum(stock_delta) FROM inventory_movements WHERE sku = 'B'") == 0


async def test_the_ledger_is_only_added_to(pg: Postgres) -> None:
    await stock(pg, 5, "MUG")
    for hand in (
        "UPDATE inventory_movements SET stock_delta = 9",
        "DELETE FROM inventory_movements",
        "TRUNCATE inventory_movements",
    ):
        with pytest.raises(Violation) as refused:
            async with pg.once() as tx:
                await tx.execute(hand)
        assert refused.value.sqlstate == "QT007"


async def test_the_state_machine_holds_every_writer(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 5, "MUG")
    order = await place(pg, buyer, ("MUG", 1))
    with pytest.raises(Violation) as refused:
        async with pg.once() as tx:
            await tx.execute("UPDATE orders SET status = 'delivered' WHERE id = $1", order.id)
    assert refused.value.sqlstate == "QT004"
    async with pg.tx() as tx:
        with pytest.raises(orders.InvalidTransition) as told:
            await orders.ship(tx, order.id, by="test")
    assert told.value.members == {"from": "pending", "to": "shipped"}


async def test_what_happened_is_told_to_the_outbox(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 9, "A", "B")
    async with pg.once() as tx:
        await tx.execute("DELETE FROM outbox")
    order = await place(pg, buyer, ("B", 2), ("A", 1))
    async with pg.tx() as tx:
        await cashier.confirm(tx, order.id)
        await cashier.refund(tx, order.id, restock=True)
    async with pg.read() as read:
        rows = await read.fetch("SELECT topic, key, payload FROM outbox ORDER BY id")
    told = [(row["topic"], row["key"]) for row in rows]
    assert Counter(told) == {
        ("order.placed", str(order.id)): 1, ("order.confirmed", str(order.id)): 1,
        ("order.refunded", str(order.id)): 1, ("stock.changed", "A"): 1, ("stock.changed", "B"): 1,
    }  # fmt: skip
    for row in rows:
        if row["topic"].startswith("order."):
            lines = row["payload"].pop("items")
            assert sorted((line["sku"], line["qty"]) for line in lines) == [("A", 1), ("B", 2)]
            assert row["payload"].items() >= {
                "order_id": str(order.id), "user_id": str(buyer), "currency": "GBP", "total_cents": 1500,
            }.items()  # fmt: skip


async def test_a_refund_falls_on_the_lines_to_the_cent(pg: Postgres, buyer: UUID) -> None:
    """Amounts of any size, again and again: parts sum up to each refund, and in the end to each line."""
    seed = 7
    print(f"seed {seed}")
    draw = random.Random(seed)
    for sku, cents in (("A", 1), ("B", 333), ("C", 1000), ("FREE", 0)):
        await stock(pg, 100, sku, cents=cents)
    order = await place(pg, buyer, ("A", 1), ("B", 3), ("C", 7), ("FREE", 2))
    async with pg.tx() as tx:
        await cashier.confirm(tx, order.id)
    left = order.total_cents
    while left:
        amount = draw.randint(1, min(left, 1700))
        async with pg.tx() as tx:
            refund = await cashier.refund(tx, order.id, amount)
            parts = await tx.fetchval("SELECT sum(amount_cents) FROM refund_items WHERE refund_id = $1", refund.id)
        assert parts == amount
        left -= amount
    async with pg.read() as read:
        rows = await read.fetch(
            """SELECT part.sku, sum(part.amount_cents) FROM refunds r JOIN refund_items part ON part.refund_id = r.id
               WHERE r.order_id = $1 GROUP BY 1 ORDER BY 1""",
            order.id,
        )
        assert [tuple(row) for row in rows] == [("A", 1), ("B", 999), ("C", 7000)]
        assert (await orders.get(read, order.id)).status == "refunded"
    with pytest.raises(orders.OverRefund):
        async with pg.tx() as tx:
            await cashier.refund(tx, order.id, 1)


async def test_the_same_refund_is_booked_once(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 5, "MUG", cents=500)
    order = await place(pg, buyer, ("MUG", 2))
    with pytest.raises(orders.InvalidTransition):
        async with pg.tx() as tx:
            await cashier.refund(tx, order.id, 100)
    async with pg.tx() as tx:
        await cashier.confirm(tx, order.id)

    async def refund() -> orders.OrderRefund:
        async with pg.tx() as tx:
            return await cashier.refund(tx, order.id, 400, restock=True, source_ref="provider-7")

    assert len(set(await asyncio.gather(*(refund() for _ in range(8))))) == 1
    async with pg.read() as read:
        found = await orders.get(read, order.id)
    assert (found.captured_cents, found.refunded_cents, found.status) == (1000, 400, "confirmed")
    assert await shelves(pg) == {"MUG": (5, 0)}

    other = await place(pg, buyer, ("MUG", 1))
    async with pg.tx() as tx:
        await cashier.confirm(tx, other.id)
    with pytest.raises(Violation) as refused:  # and not that refund, which gave this order's buyer nothing
        async with pg.tx() as tx:
            await cashier.refund(tx, other.id, 400, source_ref="provider-7")
    assert refused.value.constraint == "refunds_once"


async def test_sweeps_at_once_expire_each_order_once(pg: Postgres, buyer: UUID) -> None:
    await stock(pg, 500, *"ABCDEF")
    draw = random.Random(1)
    for _ in range(60):
        await place(pg, buyer, *((sku, 1) for sku in draw.sample("ABCDEF", 3)), hold=-1)
    kept = await place(pg, buyer, ("A", 1))

    async def sweep() -> list[UUID]:
        async with pg.tx() as tx:
            return await orders.expire_due(tx, limit=20)

    found = await asyncio.gather(*(sweep() for _ in range(6)))
    found.append(await sweep())
    expired = [order_id for each in found for order_id in each]
    assert len(expired) == len(set(expired)) == 60 and kept.id not in expired
    async with pg.read() as read:
        step = (await orders.get(read, expired[0])).history[-1]
    assert (step.from_status, step.to_status, step.by, step.reason) == ("pending", "cancelled", "system", "expired")
    await assert_books_agree(pg)


# What fills a shop: on small tables a planner rightly reads them whole.
_CROWD = """
INSERT INTO users (id, email) SELECT md5('u' || n)::uuid, n || '@crowd' FROM generate_series(1, 2000) AS n;
INSERT INTO inventory (sku, name, stock, unit_price_cents, currency)
    SELECT 'S' || n, 'Thing ' || n, 1000, n, 'GBP' FROM generate_series(1, 3000) AS n;
INSERT INTO orders (id, user_id, status, total_cents, captured_cents, currency, created_at, expires_at)
    SELECT md5('o' || n)::uuid, md5('u' || n % 2000 + 1)::uuid,
           CASE WHEN n % 50 = 0 THEN 'pending' WHEN n % 50 = 1 THEN 'confirmed' WHEN n % 50 = 2 THEN 'refunded'
                ELSE 'delivered' END,
           1000, CASE WHEN n % 50 = 0 THEN 0 ELSE 1000 END, 'GBP', now() - n * interval '1 minute',
           CASE WHEN n % 50 = 0 THEN now() + interval '1 hour' END
    FROM generate_series(1, 5000) AS n;
INSERT INTO order_items (order_id, sku, quantity, unit_price_cents, product_name)
    SELECT md5('o' || n)::uuid, 'S' || n % 3000 + 1, 1, 500, 'Thing' FROM generate_series(1, 5000) AS n;
INSERT INTO order_history (order_id, from_status, to_status)
    SELECT md5('o' || n)::uuid, 'pending', 'confirmed' FROM generate_series(1, 5000) AS n;
INSERT INTO refunds (id, order_id, amount_cents, currency)
    SELECT md5('r' || n)::uuid, md5('o' || n)::uuid, 1, 'GBP' FROM generate_series(1, 3000) AS n;
INSERT INTO refund_items SELECT md5('r' || n)::uuid, 'S' || n % 3000 + 1, 1 FROM generate_series(1, 3000) AS n;
INSERT INTO payments (order_id, provider, provider_ref, amount_cents)
    SELECT md5('o' || n)::uuid, 'sandbox', 'p' || n, 1000 FROM generate_series(1, 5000) AS n;
ANALYZE
"""


async def test_what_shoppers_wait_for_reads_no_table_whole(settings: Settings) -> None:
    """PostgreSQL counts how often it reads each table from end to end: none of these may."""
    assert settings.postgres_url is not None
    pg = Postgres(settings.postgres_url, size=1)  # one connection, whose counters we can ask for
    async with pg.once() as tx:
        for statement in _CROWD.split(";"):
            await tx.execute(statement)
    user = await a_user(pg)

    async def seen_whole() -> dict[str, int]:
        async with pg.read() as read:
            await read.fetchval("SELECT pg_stat_force_next_flush()")
            rows = await read.fetch(
                """SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname IN ('users', 'inventory', 'orders',
                   'inventory_movements', 'order_items', 'order_history', 'refunds', 'refund_items', 'payments')"""
            )
        return {row["relname"]: row["seq_scan"] for row in rows}

    async def day() -> None:
        newest = await place(pg, user, ("S7", 1), ("S4", 2))
        middle = orders.Before(newest.created_at - timedelta(hours=30), newest.id)
        async with pg.read() as read:
            await orders.get(read, newest.id)
            await inventory.prices(read, ["S1", "S2", "S3999"])
            assert not await orders.has_bought(read, user, ["S99"])
            assert len(await orders.page(read, limit=20)) == 20
            assert len(await orders.page(read, limit=20, before=middle)) == 20
            for status in ("pending", "confirmed", "delivered", "refunded"):
                assert len(await orders.page(read, limit=20, before=middle, status=status)) == 20
            assert await orders.page(read, limit=20, user_id=user) != []
            assert len(await orders.page(read, limit=20, number=int(newest.number.removeprefix("Q-")))) == 1
        async with pg.tx() as tx:
            await orders.lock(tx, newest.id)
            await cashier.confirm(tx, newest.id)
            await cashier.refund(tx, newest.id, 3, restock=True, source_ref=str(newest.id))
            await inventory.move(tx, "S9", 5, "received", actor="test")
            await inventory.put(tx, "S9", "Thing", 9, stock=7, currency="GBP", actor="test")
        lapsed = await place(pg, user, ("S8", 1), hold=-1)
        async with pg.tx() as tx:
            assert await orders.expire_due(tx) == [lapsed.id]
        with pytest.raises(orders.InsufficientStock):
            await place(pg, user, ("S7", 999), ("S9", 999))

    before = await seen_whole()
    for _ in range(8):  # from the sixth on, PostgreSQL may plan without looking at the values
        await day()
    assert await seen_whole() == before
    await pg.close()
