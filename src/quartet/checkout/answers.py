"""How a purchase's results are told. One place, since recovery keeps the answer of a request that did not live to."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from quartet.orders import Order, OrderShape
from quartet.payments import OrderNotPayable, Payment, PaymentDeclined, PaymentShape, Refund
from quartet.web.answers import Answer, answer, problem_response
from quartet.web.shapes import Shape


class RefundShape(Shape):
    """`pending` while the provider has not confirmed it; it will be asked again."""

    id: UUID
    order_id: UUID
    payment_id: UUID
    amount_cents: int
    currency: str
    status: Literal["pending", "succeeded", "failed"]
    restock: bool
    created_at: datetime
    processed_at: datetime | None


def of_order(order: Order, status: int = 200) -> Answer:
    """A new order says where it can be found."""
    headers = {"Location": f"/orders/{order.id}"} if status == 201 else None
    return answer(OrderShape.model_validate(order), status, headers)


def of_payment(payment: Payment, request_id: str = "") -> Answer:
    """201; 402 when it was declined, 409 when the order could not take it any more."""
    if payment.status == "failed":
        declined = PaymentDeclined(
            f"the provider declined: {payment.decline_code or 'no reason given'}",
            decline_code=payment.decline_code, payment_id=payment.id, order_id=payment.order_id,
        )  # fmt: skip
        return problem_response(declined, request_id)
    if payment.status == "refunded":
        late = OrderNotPayable("the order was decided meanwhile; the charge goes back", payment_id=payment.id)
        return problem_response(late, request_id)
    return answer(PaymentShape.model_validate(payment), 201, {"Location": f"/payments/{payment.id}"})


def of_refund(refund: Refund) -> Answer:
    """201, settled or not yet."""
    return answer(RefundShape.model_validate(refund), 201)
