"""Buying: an order is placed, paid, cancelled and refunded, alone and by many hands at once."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from till import Till, look, order, pay

from conftest import SEED, SignIn
from quartet import audit, cart
from quartet.checkout import recover
from quartet.kernel.clock import FixedClock
from quartet.kernel.settings import Settings
from quartet.payments import open_providers
from quartet.web.dependencies import Shop


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A provider that does not take its time."""
    quick = {"sandbox_slow_seconds": 0.2, "sandbox_async_seconds": 0.2, "payment_timeout": 2.0}
    return settings.model_copy(update=quick)


async def test_an_order_is_placed_paid_and_gone_from_the_shelf(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 10, 500)
    await till.stock("TEA", 5, 325)

    placed = await shopper.post(
        "/orders", json={"items": [{"sku": "MUG", "qty": 2}, {"sku": "TEA", "qty": 1}], "metadata": {"gift": True}}
    )
    assert placed.status_code == 201
    made = placed.json()
    assert placed.headers["location"] == f"/orders/{made['id']}"
    assert (made["status"], made["totalCents"], made["currency"]) == ("pending", 1325, "GBP")
    assert made["metadata"] == {"gift": True}
    assert await till.shelf("MUG") == (10, 2)

    paid = await pay(shopper, made["id"])
    assert paid.status_code == 201, paid.text
    payment = paid.json()
    assert payment["status"] == "succeeded"
    assert (payment["orderId"], payment["provider"], payment["amountCents"]) == (made["id"], "sandbox", 1325)
    assert payment["providerRef"].startswith("sb_")
    assert payment["processedAt"]
    assert (await shopper.get(f"/payments/{payment['id']}")).json() == payment

    assert (await look(shopper, made["id"]))["status"] == "confirmed"
    assert await till.shelf("MUG") == (8, 0)
    assert await till.shelf("TEA") == (4, 0)
    assert await till.topics(made["id"]) == ["order.placed", "order.confirmed"]
    assert await till.charged(made["id"]) == 1325


async def test_another_total_than_the_buyer_was_shown_reserves_nothing(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 10, 500)
    await till.stock("TEA", 5, 325)
    wanted = {"items": [{"sku": "TEA", "qty": 1}, {"sku": "MUG", "qty": 1}, {"sku": "MUG", "qty": 1}]}
    await till.stock("MUG", 10, 550)

    told = await shopper.post("/orders", json=wanted | {"expectedTotalCents": 1325}, headers={"Idempotency-Key": "1"})
    assert (told.status_code, told.json()["type"]) == (409, "/problems/price-changed")
    assert (told.json()["expectedTotalCents"], told.json()["totalCents"], told.json()["currency"]) == (
        1325,
        1425,
        "GBP",
    )
    assert told.json()["changes"] == [
        {"sku": "MUG", "qty": 2, "unitPriceCents": 550, "lineTotalCents": 1100},
        {"sku": "TEA", "qty": 1, "unitPriceCents": 325, "lineTotalCents": 325},
    ]
    assert (await till.shelf("MUG"), await till.shelf("TEA")) == ((10, 0), (5, 0))
    again = await shopper.post("/orders", json=wanted | {"expectedTotalCents": 1325}, headers={"Idempotency-Key": "1"})
    assert (again.status_code, again.content) == (409, told.content)

    cheaper = await shopper.post("/orders", json=wanted | {"expectedTotalCents": 1426})
    assert (cheaper.status_code, cheaper.json()["type"]) == (409, "/problems/price-changed")
    made = await shopper.post("/orders", json=wanted | {"expectedTotalCents": told.json()["totalCents"]})
    assert (made.status_code, made.json()["totalCents"]) == (201, 1425)


async def test_a_price_that_moves_while_buyers_order_is_never_charged_unseen(
    shopper: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 1000, 500)

    async def buy(shown: int) -> tuple[int, int | None]:
        answer = await shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": 1}], "expectedTotalCents": shown})
        assert answer.status_code in (201, 409), answer.text
        return shown, answer.json()["totalCents"] if answer.status_code == 201 else None

    async def reprice() -> None:
        for cents in range(501, 511):
            await till.stock("MUG", 1000, cents)

    bought = await asyncio.gather(*(buy(500 + n % 11) for n in range(88)), reprice())
    paid = [pair for pair in bought if pair is not None and pair[1] is not None]
    assert paid
    assert all(shown == total for shown, total in paid)


async def test_the_cart_is_ordered_and_keeps_what_was_put_in_meanwhile(
    shopper: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 10)
    await till.stock("TEA", 10)
    await shop.stores.redis.call("HSET", f"cart:{{{shopper.user_id}}}", "MUG", 2)  # type: ignore[attr-defined]

    made = (await shopper.post("/orders")).json()
    assert [(line["sku"], line["qty"]) for line in made["items"]] == [("MUG", 2)]

    await shop.stores.redis.call("HINCRBY", f"cart:{{{shopper.user_id}}}", "MUG", 1)  # type: ignore[attr-defined]
    await shop.stores.redis.call("HSET", f"cart:{{{shopper.user_id}}}", "TEA", 4)  # type: ignore[attr-defined]
    assert (await pay(shopper, made["id"])).status_code == 201
    assert await cart.lines(shop.stores.redis, shopper.user_id) == {"MUG": 1, "TEA": 4}  # type: ignore[attr-defined]


async def test_an_empty_cart_is_no_order(shopper: httpx.AsyncClient) -> None:
    answer = await shopper.post("/orders", json={})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "items"


async def test_every_shortage_is_told_and_nothing_reserved(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 1)
    await till.stock("TEA", 2)
    await till.stock("PEN", 9)
    lines = [{"sku": "TEA", "qty": 2}, {"sku": "PEN", "qty": 1}, {"sku": "MUG", "qty": 3}, {"sku": "TEA", "qty": 1}]

    answer = await shopper.post("/orders", json={"items": lines})

    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/insufficient-stock"
    assert answer.json()["shortages"] == [
        {"sku": "MUG", "requested": 3, "available": 1},
        {"sku": "TEA", "requested": 3, "available": 2},
    ]
    assert [await till.shelf(sku) for sku in ("MUG", "TEA", "PEN")] == [(1, 0), (2, 0), (9, 0)]


async def test_unknown_skus_are_named(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 1)
    lines = [{"sku": sku, "qty": 1} for sku in ("MUG", "NO-1", "NO-2")]
    answer = await shopper.post("/orders", json={"items": lines})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/unknown-sku")
    assert answer.json()["skus"] == ["NO-1", "NO-2"]


async def test_what_cannot_be_a_sku_is_an_unknown_one(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 1)
    odd = [" MUG", "MUG/1", "__nope__", "x" * 200, "~canary", "Täßchen"]
    answer = await shopper.post("/orders", json={"items": [{"sku": sku, "qty": 1} for sku in (*odd, "MUG")]})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/unknown-sku")
    assert sorted(answer.json()["skus"]) == sorted(odd)
    assert await till.shelf("MUG") == (1, 0)


async def test_a_quantity_that_is_none_is_refused_by_name(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 5)
    for qty in (0, -1, 10**9, 1.5, "2", True, None, {"$gt": ""}, [1], 10**30):
        answer = await shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": qty}]})
        assert answer.status_code == 422, qty
        assert answer.json()["errors"][0]["field"] == "items.0.qty"
    assert await till.shelf("MUG") == (5, 0)


async def test_an_order_that_is_none_is_refused_by_name(shopper: httpx.AsyncClient) -> None:
    bodies: list[tuple[dict[str, object], str]] = [
        ({"items": [{"sku": {"$gt": ""}, "qty": 1}]}, "items.0.sku"),
        ({"items": [{"sku": "A\u0000B", "qty": 1}]}, "items"),
        ({"items": [{"sku": "", "qty": 1}]}, "items.0.sku"),
        ({"items": []}, "items"),
        ({"items": "MUG"}, "items"),
        ({"items": [{"sku": "MUG", "qty": 1, "price": 1}]}, "items.0.price"),
        ({"items": [{"sku": "MUG", "qty": 1}], "metadata": []}, "metadata"),
        ({"items": [{"sku": "MUG", "qty": 1}], "metadata": {"n": 10**30}}, "metadata"),
        ({"items": [{"sku": "MUG", "qty": 1}], "metadata": {str(n): n for n in range(99)}}, "metadata"),
        ({"total": 1}, "total"),
    ]
    for body, field in bodies:
        answer = await shopper.post("/orders", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"].startswith(field)


async def test_a_field_is_refused_where_none_is_taken(
    client: httpx.AsyncClient, shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 5)
    made = (await shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": 1}]})).json()
    for step, body in (("cancel", {"reason": "too late"}), ("ship", {"carrier": "post"}), ("deliver", {"at": "noon"})):
        path = f"/orders/{made['id']}/{step}"
        answer = await staff.post(path, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, next(iter(body)))
        assert (await client.post(path, json=body)).status_code == 401
    assert (await look(shopper, made["id"]))["status"] == "pending"
    assert (await shopper.post(f"/orders/{made['id']}/cancel", json={})).json()["status"] == "cancelled"


async def test_a_payment_that_is_none_is_refused_by_name(shopper: httpx.AsyncClient) -> None:
    changes: list[tuple[dict[str, object], str]] = [
        ({"orderId": "1"}, "orderId"),
        ({"orderId": {"$gt": ""}}, "orderId"),
        ({"orderId": None}, "orderId"),
        ({"provider": "stripey"}, "provider"),
        ({"provider": {"$gt": ""}}, "provider"),
        ({"provider": "sand\u0000box"}, "provider"),
        ({"paymentMethod": "card_magic"}, "paymentMethod"),
        ({"paymentMethod": True}, "paymentMethod"),
        ({"amountCents": 1}, "amountCents"),
    ]
    for change, field in changes:
        body = {"orderId": str(uuid4()), "provider": "sandbox", "paymentMethod": "card_ok"} | change
        answer = await shopper.post("/payments", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"] == field


async def test_after_declined_cards_another_one_pays(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    for card, code in (("card_declined", "card_declined"), ("card_insufficient_funds", "insufficient_funds")):
        declined = await pay(shopper, made["id"], card)
        assert declined.status_code == 402
        assert declined.json()["type"] == "/problems/payment-declined"
        assert declined.json()["declineCode"] == code
        failed = (await shopper.get(f"/payments/{declined.json()['paymentId']}")).json()
        assert (failed["status"], failed["declineCode"]) == ("failed", code)
        assert (await look(shopper, made["id"]))["status"] == "pending"
        assert await till.shelf("MUG") == (5, 1)

    assert (await pay(shopper, made["id"])).status_code == 201
    assert [p["status"] for p in (await look(shopper, made["id"]))["payments"]] == ["failed", "failed", "succeeded"]


async def test_a_failing_provider_charges_nothing_and_the_order_stays_payable(
    shopper: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    for _ in range(2):  # nothing happened, so the same key may try again
        failed = await pay(shopper, made["id"], "card_error", key="one")
        assert (failed.status_code, failed.json()["type"]) == (502, "/problems/provider-error")
        assert "idempotent-replayed" not in failed.headers
    assert (await pay(shopper, made["id"])).status_code == 201
    assert await till.charged(made["id"]) == 500


async def test_a_slow_card_pays(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, made["id"], "card_slow")).json()["status"] == "succeeded"


@pytest.mark.parametrize("card", ["card_ok", "card_slow", "card_async"])
async def test_the_answer_under_a_key_tells_the_payment_as_it_stands(
    shopper: httpx.AsyncClient, till: Till, card: str
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    told = await pay(shopper, made["id"], card, key="one")
    if card == "card_async":  # its webhook may have told the rest by now
        assert told.json()["status"] == "pending"
    else:
        assert (await shopper.get(f"/payments/{told.json()['id']}")).content == told.content
    again = await pay(shopper, made["id"], card, key="one")
    assert (again.status_code, again.content) == (told.status_code, told.content) == (201, told.content)


async def test_an_order_is_paid_once(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, made["id"])).status_code == 201
    again = await pay(shopper, made["id"])
    assert (again.status_code, again.json()["type"]) == (409, "/problems/order-not-payable")
    assert again.json()["orderStatus"] == "confirmed"


async def test_a_pending_order_is_cancelled_and_its_stock_free(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    cancelled = await shopper.post(f"/orders/{made['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert await till.shelf("MUG") == (5, 0)
    again = await shopper.post(f"/orders/{made['id']}/cancel")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/invalid-transition")
    assert (await pay(shopper, made["id"])).status_code == 409


async def test_a_paid_order_is_cancelled_and_its_money_given_back(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made["id"])).json()
    assert await till.shelf("MUG") == (3, 0)

    cancelled = await shopper.post(f"/orders/{made['id']}/cancel")
    assert cancelled.status_code == 200, cancelled.text
    assert (cancelled.json()["status"], cancelled.json()["refundedCents"]) == ("cancelled", 1000)
    assert await till.shelf("MUG") == (5, 0)
    assert await till.charged(made["id"]) == 0
    assert (await staff.get(f"/payments/{paid['id']}")).json()["status"] == "refunded"
    again = await staff.post(f"/orders/{made['id']}/refunds", json={})
    assert (again.status_code, again.json()["refundableCents"]) == (409, 0)


async def test_refunds_in_parts_and_never_more_than_was_paid(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    refunds = f"/orders/{made['id']}/refunds"
    assert (await staff.post(refunds, json={})).status_code == 409  # nothing was paid yet
    await pay(shopper, made["id"])

    part = await staff.post(refunds, json={"amountCents": 300})
    assert part.status_code == 201, part.text
    assert (part.json()["amountCents"], part.json()["status"], part.json()["currency"]) == (300, "succeeded", "GBP")
    seen = await look(shopper, made["id"])
    assert (seen["status"], seen["refundedCents"]) == ("confirmed", 300)

    too_much = await staff.post(refunds, json={"amountCents": 701})
    assert (too_much.status_code, too_much.json()["refundableCents"]) == (409, 700)
    for bad in (0, -1, 1.5, "7", True, 10**30):
        refused = await staff.post(refunds, json={"amountCents": bad})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "amountCents")

    assert (await staff.post(refunds)).status_code == 201
    seen = await look(shopper, made["id"])
    assert (seen["status"], seen["refundedCents"]) == ("refunded", 1000)
    assert await till.shelf("MUG") == (3, 0)


async def test_a_refund_can_put_the_pieces_back(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    refunds = f"/orders/{made['id']}/refunds"
    await pay(shopper, made["id"])
    assert (await staff.post(refunds, json={"amountCents": 300})).status_code == 201
    rest = await staff.post(refunds, json={"restock": True})
    assert (rest.status_code, rest.json()["amountCents"]) == (201, 700)
    seen = await look(shopper, made["id"])
    assert (seen["status"], seen["refundedCents"]) == ("refunded", 1000)
    assert await till.shelf("MUG") == (5, 0)
    assert await till.charged(made["id"]) == 0


async def test_what_another_shop_was_paid_is_not_refunded_here(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    paid = (await pay(shopper, made["id"])).json()
    async with shop.stores.pg.once() as tx:
        await tx.execute("UPDATE payments SET provider = 'import' WHERE id = $1", paid["id"])
    for key in ("a", "a", "b"):
        refused = await staff.post(f"/orders/{made['id']}/refunds", json={}, headers={"Idempotency-Key": key})
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/provider-off")
        assert refused.json()["provider"] == "import"
    assert await till.rows("SELECT * FROM payment_refunds") == []
    assert (await look(shopper, made["id"]))["refundedCents"] == 0


async def test_two_refunds_at_once_never_give_back_more_than_was_paid(
    shopper: httpx.AsyncClient, staff: httpx.AsyncClient, till: Till
) -> None:
    await till.stock("MUG", 5)
    made = await order(shopper, ("MUG", 2))
    await pay(shopper, made["id"])
    answers = await asyncio.gather(
        *(staff.post(f"/orders/{made['id']}/refunds", json={"amountCents": 400}) for _ in range(6))
    )
    assert sorted(a.status_code for a in answers) == [201, 201, 409, 409, 409, 409]
    assert await till.charged(made["id"]) == 200
    assert (await look(shopper, made["id"]))["refundedCents"] == 800


# Idempotency


async def test_a_key_belongs_to_one_user(shopper: httpx.AsyncClient, sign_in: SignIn, till: Till) -> None:
    await till.stock("MUG", 5)
    other = await sign_in()
    body, key = {"items": [{"sku": "MUG", "qty": 1}]}, {"Idempotency-Key": "1"}
    made = [await who.post("/orders", json=body, headers=key) for who in (shopper, other)]
    assert [m.status_code for m in made] == [201, 201]
    assert made[0].json()["id"] != made[1].json()["id"]


async def test_a_refusal_is_a_first_answer_too(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 1)
    body, key = {"items": [{"sku": "MUG", "qty": 2}]}, {"Idempotency-Key": "1"}
    first = await shopper.post("/orders", json=body, headers=key)
    await till.stock("MUG", 9)
    second = await shopper.post("/orders", json=body, headers=key)
    assert first.status_code == second.status_code == 409
    assert first.content == second.content
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["content-type"] == "application/problem+json"

    made = await order(shopper, ("MUG", 1))
    declined = [await pay(shopper, made["id"], "card_declined", key="2") for _ in range(2)]
    assert [d.status_code for d in declined] == [402, 402]
    assert declined[0].content == declined[1].content
    assert len((await look(shopper, made["id"]))["payments"]) == 1


async def test_a_key_works_again_after_a_day(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 5)
    key = {"Idempotency-Key": "1"}
    assert (await shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": 1}]}, headers=key)).status_code == 201
    await till.rows("UPDATE idempotency_keys SET created_at = created_at - interval '24 hours' RETURNING key")
    assert (await shopper.post("/orders", json={"items": [{"sku": "MUG", "qty": 2}]}, headers=key)).status_code == 201
    assert await till.shelf("MUG") == (5, 3)


async def test_a_double_click_with_one_key_orders_and_charges_once(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 50)
    body, key = {"items": [{"sku": "MUG", "qty": 1}]}, {"Idempotency-Key": "click"}
    clicks = await asyncio.gather(*(shopper.post("/orders", json=body, headers=key) for _ in range(8)))
    made = {c.json()["id"] for c in clicks if c.status_code == 201}
    assert len(made) == 1
    assert {c.json()["type"] for c in clicks if c.status_code != 201} <= {"/problems/request-in-progress"}
    assert await till.shelf("MUG") == (50, 1)

    (order_id,) = made
    clicks = await asyncio.gather(*(pay(shopper, order_id, "card_slow", key="pay") for _ in range(8)))
    assert sorted(c.status_code for c in clicks) == [201, *[409] * 7]
    assert {c.json()["type"] for c in clicks if c.status_code == 409} == {"/problems/request-in-progress"}
    assert await till.charged(order_id) == 500
    assert await till.shelf("MUG") == (49, 0)


# Many hands at once


async def test_two_payments_of_one_order_at_once_charge_it_once(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 50)
    for cards in (["card_ok"] * 6, ["card_slow"] * 6, ["card_ok", "card_slow", "card_async"] * 2):
        made = await order(shopper, ("MUG", 1))
        tries = await asyncio.gather(*(pay(shopper, made["id"], card) for card in cards))
        assert sorted(t.status_code for t in tries) == [201, 409, 409, 409, 409, 409]
        assert {t.json()["type"] for t in tries if t.status_code == 409} <= {
            "/problems/payment-in-progress", "/problems/order-not-payable",
        }  # fmt: skip
        charges = await till.rows(
            "SELECT FROM sandbox.charges c JOIN payments p ON p.id::text = c.reference WHERE p.order_id = $1",
            made["id"],
        )
        assert len(charges) == 1


async def test_paying_beside_cancelling_leaves_nothing_charged(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 100)
    for card in ["card_ok"] * 6 + ["card_slow"] * 3:
        before, _ = await till.shelf("MUG")
        made = await order(shopper, ("MUG", 2))
        paid, cancelled = await asyncio.gather(
            pay(shopper, made["id"], card), shopper.post(f"/orders/{made['id']}/cancel")
        )
        assert cancelled.status_code == 200
        assert paid.status_code in (201, 409), paid.text
        assert (await look(shopper, made["id"]))["status"] == "cancelled"
        assert await till.shelf("MUG") == (before, 0)
        assert await till.charged(made["id"]) == 0


async def test_sixty_four_buyers_on_ten_pieces(sign_in: SignIn, till: Till) -> None:
    await till.stock("MUG", 10)
    buyers = [await sign_in() for _ in range(8)]
    body = {"items": [{"sku": "MUG", "qty": 1}]}
    answers = await asyncio.gather(*(buyers[n % 8].post("/orders", json=body) for n in range(64)))
    assert sum(a.status_code == 201 for a in answers) == 10
    assert sum(a.status_code == 409 for a in answers) == 54
    made = [(buyers[n % 8], a.json()["id"]) for n, a in enumerate(answers) if a.status_code == 201]
    paid = await asyncio.gather(*(pay(buyer, order_id) for buyer, order_id in made))
    assert [p.status_code for p in paid] == [201] * 10
    assert await till.shelf("MUG") == (0, 0)


async def test_everything_at_once_ends_without_a_deadlock_and_with_true_books(
    shop: Shop, sign_in: SignIn, staff: httpx.AsyncClient, till: Till
) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    skus = ["MUG", "PEN", "TEA"]
    for sku in skus:
        await till.stock(sku, 1000)
    buyers = [await sign_in() for _ in range(4)]

    async def buy(buyer: httpx.AsyncClient) -> list[int]:
        lines = [(sku, dice.randint(1, 3)) for sku in dice.sample(skus, 3)]
        made = await order(buyer, *lines)
        refund = f"/orders/{made['id']}/refunds"
        deeds = [
            pay(buyer, made["id"], dice.choice(["card_ok", "card_slow", "card_async"]), key=made["id"]),
            pay(buyer, made["id"], key=made["id"] + "2"),
            buyer.post(f"/orders/{made['id']}/cancel"),
            staff.post(refund, json={"amountCents": 100}),
            staff.post(refund, json={"restock": True}),
            staff.post(f"/orders/{made['id']}/ship"),
        ]
        dice.shuffle(deeds)
        return [answer.status_code for answer in await asyncio.gather(*deeds)]

    providers = open_providers(shop.settings, shop.stores.pg)

    async def sweep() -> None:
        for _ in range(5):
            await recover(replace(shop, clock=FixedClock(datetime.now(UTC) + timedelta(seconds=60))), providers)

    statuses, _ = await asyncio.gather(
        asyncio.gather(*(buy(buyers[n % 4]) for n in range(40))), asyncio.gather(*(sweep() for _ in range(2)))
    )
    assert {status for some in statuses for status in some} <= {200, 201, 409}
    clock = FixedClock(datetime.now(UTC))
    left = "SELECT FROM {} WHERE status = 'pending'"
    while any([await till.rows(left.format(table)) for table in ("orders", "payments", "payment_refunds")]):
        clock.advance(3600)
        await recover(replace(shop, clock=clock), providers)
    assert (await audit.check(shop, patience=0)).violations == ()
    for made in await till.rows("SELECT id, captured_cents - refunded_cents AS left FROM orders"):
        assert await till.charged(made["id"]) == made["left"]


async def test_whose_account_is_gone_is_told_so_and_nothing_is_reserved(shopper: httpx.AsyncClient, till: Till) -> None:
    await till.stock("MUG", 5)
    await till.rows("DELETE FROM users WHERE id = $1 RETURNING id", shopper.user_id)  # type: ignore[attr-defined]
    body = {"items": [{"sku": "MUG", "qty": 1}]}
    for headers in ({}, {"Idempotency-Key": "click"}):
        told = await shopper.post("/orders", json=body, headers=headers)
        assert (told.status_code, told.json()["type"]) == (401, "/problems/unauthenticated")
    assert await till.shelf("MUG") == (5, 0)


# Without Redis


async def test_without_redis_items_are_ordered_and_paid_all_the_same(
    app: FastAPI, shopper: httpx.AsyncClient, shop: Shop, till: Till
) -> None:
    await till.stock("MUG", 5)
    await shop.stores.redis.close()
    app.state.shop = away = _without_redis(shop)

    made = await order(shopper, ("MUG", 1))
    assert (await pay(shopper, made["id"])).status_code == 201
    assert await till.shelf("MUG") == (4, 0)
    no_cart = await shopper.post("/orders", json={})
    assert (no_cart.status_code, no_cart.json()["store"]) == (503, "redis")
    await away.stores.redis.close()


def _without_redis(shop: Shop) -> Shop:
    from quartet.stores.redis import RedisStore

    return replace(shop, stores=replace(shop.stores, redis=RedisStore("redis://127.0.0.1:1/0")))
