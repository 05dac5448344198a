"""Payments: the sandbox as a provider is, and the steps that PostgreSQL guards."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from quartet import inventory, orders, payments
from quartet.accounts import create_user
from quartet.kernel.errors import NotFound
from quartet.kernel.settings import Settings
from quartet.payments import Charge, Outcome, PaymentInProgress, ProviderError, RefundRequest
from quartet.payments.providers.sandbox import Sandbox
from quartet.stores.postgres import Violation
from quartet.web.dependencies import Shop


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"sandbox_slow_seconds": 0.2, "sandbox_async_seconds": 0.2, "base_url": "http://127.0.0.1:1"}
    )


@pytest.fixture
def sandbox(shop: Shop) -> Sandbox:
    return Sandbox(shop.settings, shop.stores.pg)


def _charge(method: str = "card_ok", cents: int = 500) -> Charge:
    return Charge(str(uuid4()), cents, "GBP", method)


async def test_the_same_reference_is_charged_once(sandbox: Sandbox, shop: Shop) -> None:
    charge = _charge()
    outcomes = await asyncio.gather(*(sandbox.authorise(charge) for _ in range(8)))
    assert len(set(outcomes)) == 1
    async with shop.stores.pg.read() as read:
        assert await read.fetchval("SELECT count(*) FROM sandbox.charges") == 1
    assert await sandbox.look_up(charge.reference, None) == outcomes[0]
    assert await sandbox.look_up("never heard of", None) is None


async def test_every_card_does_what_its_name_says(sandbox: Sandbox) -> None:
    assert (await sandbox.authorise(_charge("card_ok"))).status == "succeeded"
    declined = await sandbox.authorise(_charge("card_declined"))
    assert (declined.status, declined.decline_code) == ("failed", "card_declined")
    poor = await sandbox.authorise(_charge("card_insufficient_funds"))
    assert (poor.status, poor.decline_code) == ("failed", "insufficient_funds")
    with pytest.raises(ProviderError):
        await sandbox.authorise(_charge("card_error"))

    slow = _charge("card_slow")
    asked = asyncio.create_task(sandbox.authorise(slow))
    while (seen := await sandbox.look_up(slow.reference, None)) is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert seen.status in ("pending", "succeeded")
    assert (await asked).status == "succeeded"

    later = _charge("card_async")
    assert (await sandbox.authorise(later)).status == "pending"
    async with asyncio.timeout(10):
        while (seen := await sandbox.look_up(later.reference, None)) is None or seen.status == "pending":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert seen.status == "succeeded"


async def test_the_sandbox_gives_back_once_and_never_more_than_it_took(sandbox: Sandbox) -> None:
    charge = _charge(cents=500)
    taken = await sandbox.authorise(charge)
    assert taken.provider_ref is not None
    back = RefundRequest(str(uuid4()), charge.reference, taken.provider_ref, 300, "GBP")
    first, second = await asyncio.gather(sandbox.refund(back), sandbox.refund(back))
    assert first == second
    others = [RefundRequest(str(uuid4()), charge.reference, taken.provider_ref, 150, "GBP") for _ in range(4)]
    found = await asyncio.gather(*(sandbox.refund(other) for other in others), return_exceptions=True)
    assert sum(isinstance(f, ProviderError) for f in found) == 3
    for wrong in (str(uuid4()), (await _declined(sandbox)).reference):
        with pytest.raises(ProviderError):
            await sandbox.refund(RefundRequest(str(uuid4()), wrong, "sb_?", 1, "GBP"))


async def _declined(sandbox: Sandbox) -> Charge:
    charge = _charge("card_declined")
    await sandbox.authorise(charge)
    return charge


@pytest.fixture
async def placed(shop: Shop) -> orders.Order:
    """An unpaid order of two mugs."""
    async with shop.stores.pg.tx() as tx:
        user = await create_user(tx, f"{uuid4().hex}@example.com", None, "Test Shopper", roles=())
        await inventory.put(tx, "MUG", "A mug", 500, currency="GBP", actor="test", stock=5)
        return await orders.place(tx, user.id, [("MUG", 2)])


async def _start(shop: Shop, order: orders.Order, user_id: UUID | None = None) -> payments.Payment:
    now = datetime.now(UTC)
    async with shop.stores.pg.once() as tx:
        return await payments.start(tx, order.id, user_id or order.user_id, "sandbox", now=now, ask=now)


async def test_one_payment_of_an_order_is_open_at_a_time(shop: Shop, placed: orders.Order) -> None:
    started = await _start(shop, placed)
    assert (started.status, started.provider_ref, started.amount_cents) == ("pending", str(started.id), 1000)
    with pytest.raises(PaymentInProgress) as refused:
        await _start(shop, placed)
    assert refused.value.members["payment_id"] == str(started.id)
    with pytest.raises(NotFound):
        await _start(shop, placed, user_id=uuid4())
    # The index is the last guard, whoever writes.
    with pytest.raises(Violation) as violation:
        async with shop.stores.pg.once() as tx:
            await tx.execute(
                "INSERT INTO payments (order_id, provider, provider_ref, amount_cents) VALUES ($1, 'x', 'y', 1)",
                placed.id,
            )
    assert violation.value.constraint == "payments_one_open"


async def test_completing_is_repeatable_and_knows_no_way_back(shop: Shop, placed: orders.Order) -> None:
    started = await _start(shop, placed)
    now = datetime.now(UTC)
    said = [
        Outcome(None, "pending"), Outcome("sb_1", "pending"), Outcome("sb_1", "succeeded"),
        Outcome("sb_1", "failed", "x"), Outcome("sb_2", "pending"), Outcome("sb_1", "succeeded"),
    ]  # fmt: skip
    seen = []
    for outcome in said:
        async with shop.stores.pg.once() as tx:
            done = await payments.complete(tx, started.id, outcome, now)
        seen.append((done.payment.status, done.payment.provider_ref))
    assert seen == [("pending", str(started.id)), ("pending", "sb_1"), *[("succeeded", "sb_1")] * 4]
    assert (done.user_id, done.bought) == (placed.user_id, {"MUG": 2})
    async with shop.stores.pg.read() as read:
        assert (await orders.get(read, placed.id)).status == "confirmed"
        item = await inventory.get(read, "MUG")
    assert (item.stock, item.reserved) == (3, 0)


async def test_workers_take_different_payments_and_leave_them_a_while(shop: Shop, placed: orders.Order) -> None:
    started = await _start(shop, placed)
    now = datetime.now(UTC) + timedelta(seconds=1)

    async def take(at: datetime) -> list[UUID]:
        async with shop.stores.pg.once() as tx:
            return [payment.id for payment in await payments.claim_unsettled(tx, at, 10)]

    taken = await asyncio.gather(*(take(now) for _ in range(4)))
    assert [ids for ids in taken if ids] == [[started.id]]
    assert await take(now + timedelta(seconds=1)) == []
    assert await take(now + timedelta(seconds=3)) == [started.id]
    assert await take(now + timedelta(seconds=5)) == []  # twice as long each time


async def test_the_briefs_columns_are_there(shop: Shop) -> None:
    async with shop.stores.pg.read() as read:
        rows = await read.fetch(
            "SELECT column_name, is_nullable FROM information_schema.columns WHERE table_name = 'payments'"
        )
        index = await read.fetchval("SELECT indexdef FROM pg_indexes WHERE indexname = 'idx_payments_order'")
    columns = {row["column_name"]: row["is_nullable"] for row in rows}
    required = ("id", "order_id", "provider", "provider_ref", "amount_cents", "status", "created_at")
    assert all(columns[name] == "NO" for name in required)
    assert columns["processed_at"] == "YES"
    assert index.endswith("USING btree (order_id)")
