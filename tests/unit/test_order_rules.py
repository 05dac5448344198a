"""Rules of orders and reports that need no store."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from quartet.analytics.model import RevenueLine, sell_through
from quartet.inventory import Item
from quartet.kernel.errors import Invalid
from quartet.orders import InsufficientStock, Order, OrderItem, OrderShape, Step
from quartet.web.answers import problem_response
from quartet.web.moments import span

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ID = UUID(int=7)


ORDER = Order(
    id=ID, number="Q-100001", user_id=ID, email=None, status="confirmed",
    items=(OrderItem("MUG", "A mug", 2, 500, 1000),), total_cents=1000, captured_cents=1000, refunded_cents=300,
    currency="GBP", metadata={"gift": True}, payments=(), refunds=(),
    history=(Step(AT, None, "pending", str(ID), None),), created_at=AT, updated_at=AT, expires_at=None,
)  # fmt: skip


def test_an_order_on_the_wire_is_in_camel_case_and_keeps_its_owner_to_itself() -> None:
    wire = OrderShape.model_validate(ORDER).model_dump(mode="json", by_alias=True)
    assert list(wire) == [
        "id", "number", "status", "email", "items", "totalCents", "refundedCents", "currency", "payments", "refunds",
        "history", "metadata", "createdAt", "updatedAt", "expiresAt",
    ]  # fmt: skip
    assert wire["items"] == [{"sku": "MUG", "name": "A mug", "qty": 2, "unitPriceCents": 500, "lineTotalCents": 1000}]
    assert wire["history"] == [
        {"at": "2026-01-02T03:04:05Z", "from": None, "to": "pending", "by": str(ID), "reason": None}
    ]


def test_a_shortage_on_the_wire_lists_every_sku() -> None:
    shortages = [{"sku": "MUG", "requested": 3, "available": 1}]
    response = problem_response(InsufficientStock("short of MUG", shortages=shortages), "r-1")
    assert response.status_code == 409
    assert b'"shortages":[{"sku":"MUG","requested":3,"available":1}]' in bytes(response.body)


def test_what_can_be_bought_is_what_is_not_promised() -> None:
    assert Item("MUG", "A mug", 7, 3, 500, "GBP", None, AT).available == 4


def test_net_revenue_may_fall_below_zero() -> None:
    assert RevenueLine("2011-01", "January 2011", 0, 0, 0, 250).net_cents == -250


def test_sell_through_is_sold_of_what_there_was() -> None:
    assert sell_through(1, 3) == 0.25
    assert sell_through(0, 5) == 0
    assert sell_through(5, 0) == 1
    assert sell_through(0, 0) is None


def test_a_day_lasts_to_its_end_where_it_is_the_last_one() -> None:
    def until(text: str) -> datetime:
        return span(None, text)[1]

    assert until("2011-01-31") == datetime(2011, 2, 1, tzinfo=UTC)
    assert until("2011-01-31T12:00:00Z") == datetime(2011, 1, 31, 12, tzinfo=UTC)
    assert until("2011-01-31T12:00:00+02:00") == until("2011-01-31T12:00:00 02:00") == until("2011-01-31T10:00:00")
    assert span("2011-01-31", None)[0] == datetime(2011, 1, 31, tzinfo=UTC)
    assert span(None, None)[0] < AT < span(None, None)[1]


@pytest.mark.parametrize("text", ["", "today", "2011-13-01", "2011-1-1", "20110131", "9999-12-31", "1899-12-31"])
def test_a_day_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        span(text, None)
