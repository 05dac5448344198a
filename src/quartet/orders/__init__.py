"""Orders: placed with their stock reserved, confirmed, shipped, delivered, cancelled, refunded. Held in PostgreSQL.

`OrderShape.model_validate(order)` is an order on the wire.
"""

from quartet.orders.model import (
    InsufficientStock,
    InvalidTransition,
    MixedCurrencies,
    Order,
    OrderItem,
    OrderPayment,
    OrderRefund,
    OverRefund,
    Status,
    Step,
    UnknownSku,
)
from quartet.orders.shapes import OrderShape
from quartet.orders.store import (
    Before,
    cancel,
    confirm,
    deliver,
    expire_due,
    get,
    has_bought,
    lock,
    page,
    place,
    refund,
    ship,
)

__all__ = [
    "Before",
    "InsufficientStock",
    "InvalidTransition",
    "MixedCurrencies",
    "Order",
    "OrderItem",
    "OrderPayment",
    "OrderRefund",
    "OrderShape",
    "OverRefund",
    "Status",
    "Step",
    "UnknownSku",
    "cancel",
    "confirm",
    "deliver",
    "expire_due",
    "get",
    "has_bought",
    "lock",
    "page",
    "place",
    "refund",
    "ship",
]
