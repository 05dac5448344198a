"""What payments do to orders, by the database's own functions: for tests that need an order paid and no payment."""

from uuid import UUID

from quartet import orders
from quartet.orders import store as orders_store
from quartet.payments import store as payments_store
from quartet.stores.postgres import Tx


async def confirm(tx: Tx, order_id: UUID, *, by: str = "system") -> orders.Order:
    """The money is captured: what was reserved is sold. Raises InvalidTransition."""
    with orders_store._refusals():
        await tx.execute("SELECT confirm_order($1, $2)", order_id, by)
    return await orders.get(tx, order_id)


async def refund(
    tx: Tx,
    order_id: UUID,
    amount_cents: int | None = None,
    *,
    restock: bool = False,
    source_ref: str | None = None,
) -> orders.OrderRefund:
    """Money given back, all that is left by default. Raises OverRefund, InvalidTransition."""
    sql = "SELECT refund_order($1, $2, $3, p_source_ref => $4)"
    with orders_store._refusals(), payments_store._refusals():
        refund_id = await tx.fetchval(sql, order_id, amount_cents, restock, source_ref)
    return next(each for each in (await orders.get(tx, order_id)).refunds if each.id == refund_id)
