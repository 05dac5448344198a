"""How shoppers of the replay behave towards a shop that answers this or that, and which baskets they buy."""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartet.retail.dataset import COLUMNS, SHIPPED
from quartet.retail.replay import Basket, Outcome, baskets, percentile, replay

HEARTS = Basket("536365", (("85123A", 6), ("71053", 2)))


class Counter:
    """A shop's till as a transport: each path has its answers in order, the last one again and again."""

    def __init__(self, answers: dict[str, list[httpx.Response]]) -> None:
        usual = {
            "/users": [httpx.Response(201)],
            "/sessions": [httpx.Response(201, json={"accessToken": "token"})],
            "/cart/items": [httpx.Response(200)],
            "/cart": [httpx.Response(204)],
            "/orders": [httpx.Response(201, json={"id": "1", "totalCents": 1530})],
            "/payments": [httpx.Response(201, json={"status": "succeeded"})],
        }
        self._answers = usual | answers
        self.asked: defaultdict[str, list[httpx.Request]] = defaultdict(list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answers = self._answers[request.url.path]
        self.asked[request.url.path].append(request)
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def bought(counter: Counter, *wanted: Basket, buyers: int = 1) -> Any:
    async with httpx.AsyncClient(transport=httpx.MockTransport(counter), base_url="http://shop") as http:
        return await replay(http, wanted, buyers)


def problem(status: int, slug: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"type": f"/problems/{slug}"}, headers=headers)


async def test_a_basket_is_filled_line_by_line_ordered_and_paid() -> None:
    counter = Counter({})
    result = await bought(counter, HEARTS)
    assert result.outcomes == {Outcome.CONFIRMED: 1}
    assert (result.units, result.cents) == (8, 1530)
    assert [request.content for request in counter.asked["/cart/items"]] == [
        b'{"sku":"85123A","qty":6}', b'{"sku":"71053","qty":2}'
    ]  # fmt: skip
    assert counter.asked["/payments"][0].headers["Authorization"] == "Bearer token"
    assert {step: len(times) for step, times in result.latencies.items()} == {
        "sign up": 1, "sign in": 1, "add to cart": 2, "order": 1, "pay": 1,
    }  # fmt: skip


async def test_a_busy_shop_is_asked_again_with_the_same_key() -> None:
    busy = problem(503, "store-unavailable", **{"Retry-After": "0"})
    paid = httpx.Response(201, json={"status": "succeeded"})
    counter = Counter({"/payments": [busy, problem(429, "too-many-requests", **{"Retry-After": "0"}), paid]})
    result = await bought(counter, HEARTS)
    assert (result.outcomes, result.waits) == ({Outcome.CONFIRMED: 1}, 2)
    assert len({request.headers["Idempotency-Key"] for request in counter.asked["/payments"]}) == 1


async def test_an_expired_token_is_renewed_on_the_way() -> None:
    counter = Counter({"/cart/items": [problem(401, "unauthenticated"), httpx.Response(200)]})
    assert (await bought(counter, HEARTS)).outcomes == {Outcome.CONFIRMED: 1}
    assert len(counter.asked["/sessions"]) == 2


@pytest.mark.parametrize(
    ("path", "answer", "outcome"),
    [
        ("/cart/items", problem(404, "not-found"), Outcome.UNKNOWN),
        ("/cart/items", problem(422, "invalid"), Outcome.TOO_MANY),
        ("/cart/items", problem(500, "unexpected"), Outcome.FAILED),
        ("/orders", problem(409, "insufficient-stock"), Outcome.SHORT),
        ("/orders", problem(422, "unknown-sku"), Outcome.UNKNOWN),
        ("/orders", problem(504, "timed-out"), Outcome.FAILED),
        ("/payments", problem(402, "payment-declined"), Outcome.DECLINED),
        ("/payments", httpx.Response(201, json={"status": "pending"}), Outcome.FAILED),
        ("/payments", httpx.Response(502, text="no JSON"), Outcome.FAILED),
    ],
)
async def test_every_other_end_is_named_and_the_cart_emptied(path: str, answer: httpx.Response, outcome: str) -> None:
    counter = Counter({path: [answer]})
    result = await bought(counter, HEARTS, HEARTS)
    assert result.outcomes == {outcome: 2}
    assert [request.method for request in counter.asked["/cart"]] == ["DELETE", "DELETE"]
    assert bool(result.failures) == (outcome == Outcome.FAILED)


async def test_buyers_share_the_baskets_and_each_has_an_account() -> None:
    counter = Counter({})
    result = await bought(counter, *[HEARTS] * 7, buyers=3)
    assert result.outcomes == {Outcome.CONFIRMED: 7}
    assert len({request.content for request in counter.asked["/users"]}) == 3


async def test_a_shop_that_takes_no_new_customers_sells_nothing() -> None:
    result = await bought(Counter({"/users": [problem(500, "unexpected")]}), HEARTS, HEARTS)
    assert result.outcomes == {Outcome.FAILED: 2}
    assert result.failures == {"sign up: 500 unexpected": 1}


def test_baskets_hold_goods_only_lines_of_one_sku_together(tmp_path: Path) -> None:
    def line(invoice: str, sku: str, quantity: int, at: str = "2010-12-01 08:26:00") -> list[Any]:
        return [invoice, sku, sku, quantity, at, "2.55", "17850", "France"]

    file = tmp_path / "retail.csv"
    with file.open("w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([
            COLUMNS, line("1", "85123A", 6), line("1", "85123a", 2), line("1", "POST", 1), line("C2", "85123A", -6),
            line("3", "POST", 1), line("4", "71053", 1), line("5", "71053", 1, "2011-01-01 08:00:00"),
        ])  # fmt: skip
    drawn = baskets(file, "2010-12", 2, seed=1)
    assert sorted(drawn, key=lambda basket: basket.invoice) == [
        Basket("1", (("85123A", 8),)), Basket("4", (("71053", 1),))
    ]  # fmt: skip
    assert len(baskets(file, "2010-12", 5, seed=1)) == 5
    assert baskets(file, "1999-01", 5, seed=1) == []


def test_the_same_seed_draws_the_same_baskets() -> None:
    first, again, other = (baskets(SHIPPED, "2010-12", 50, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len({basket.invoice for basket in first}) == 50


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_the_least_value_that_covers_its_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)
