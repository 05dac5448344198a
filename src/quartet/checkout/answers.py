"""The answers of a purchase. In one place, since recovery stores the answer of a request that died."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from quartet.orders import NewOrderShape, Order, OrderShape
from quartet.payments import NothingToCapture, OrderNotPayable, Payment, PaymentDeclined, PaymentShape, Refund
from quartet.web.answers import Answer, answer, problem_response
from quartet.web.shapes import Shape


class PiecesShape(Shape):
    """A quantity of a SKU."""

    sku: str
    qty: int


class RefundShape(Shape):
    """`pending` while the provider has not confirmed it; it will be asked again."""

    id: UUID
    order_id: UUID
    payment_id: UUID
    amount_cents: int
    currency: str
    status: Literal["pending", "succeeded", "failed"]
    items: list[PiecesShape]
    restock: bool
    created_at: datetime
    processed_at: datetime | None


def of_order(order: Order) -> Answer:
    """200."""
    return answer(OrderShape.model_validate(order))


def of_new_order(order: Order, token: str | None) -> Answer:
    """201 with its `Location`, and for a guest with the order's token."""
    shape = OrderShape.model_validate(order)
    if token is not None:
        shape = NewOrderShape(**shape.model_dump(), order_token=token)
    return answer(shape, 201, {"Location": f"/orders/{order.id}"})


def of_payment(payment: Payment, request_id: str = "") -> Answer:
    """201; 402 if it was declined, 409 if the order could not take it any more."""
    if payment.status == "failed":
        declined = PaymentDeclined(
            f"the provider declined: {payment.decline_code or 'no reason given'}",
            decline_code=payment.decline_code, payment_id=payment.id, order_id=payment.order_id,
        )  # fmt: skip
        return problem_response(declined, request_id)
    if payment.status in ("refunded", "voided"):
        late = OrderNotPayable("the order was decided meanwhile; the charge goes back", payment_id=payment.id)
        return problem_response(late, request_id)
    return answer(PaymentShape.model_validate(payment), 201, {"Location": f"/payments/{payment.id}"})


def of_capture(payment: Payment, request_id: str = "") -> Answer:
    """200, `authorized` while the provider has not confirmed the capture; 409 if the authorization had ended before."""
    if payment.status == "voided":
        return problem_response(NothingToCapture("the hold has ended", payment_status=payment.status), request_id)
    return of_payment_as_it_stands(payment)


def of_payment_as_it_stands(payment: Payment) -> Answer:
    """200."""
    return answer(PaymentShape.model_validate(payment))


def of_refund(refund: Refund) -> Answer:
    """201, whether or not the provider has confirmed it yet."""
    return answer(RefundShape.model_validate(refund), 201)
