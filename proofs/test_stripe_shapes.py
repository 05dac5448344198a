"""Every request that the shop sends to Stripe, held against Stripe's own OpenAPI document by their stripe-mock, which
refuses what the document does not know. It is built here from its Go module, at a version that stays the same."""

import inspect
import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from quartet.devstores import free_port
from quartet.kernel.ids import new_id
from quartet.kernel.settings import Settings
from quartet.payments import Charge, Hold, RefundRequest
from quartet.payments.providers import stripe as provider
from quartet.payments.providers.stripe import Stripe

MODULE = "github.com/stripe/stripe-mock"
VERSION = "v0.197.0"
pytestmark = pytest.mark.timeout(900)  # whoever comes first builds it
BUILT = Path(__file__).resolve().parents[1] / ".quartet" / "stripe-mock" / VERSION


@pytest.fixture(scope="module")
def program() -> Path:
    """The built program; the first time takes a minute or several."""
    found = BUILT / "stripe-mock"
    if not found.exists():
        go = shutil.which("go")
        assert go, "Go is needed to build stripe-mock: install it"
        built = subprocess.run(
            [go, "install", f"{MODULE}@{VERSION}"],
            env=os.environ | {"GOBIN": str(BUILT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert built.returncode == 0, built.stderr
    return found


@pytest.fixture(scope="module")
def url(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """It listens on a free port of this machine."""
    port = free_port()
    log = tmp_path_factory.mktemp("stripe-mock") / "log"
    with log.open("w") as out:
        mock = subprocess.Popen([program, "-http-addr", f"127.0.0.1:{port}"], stdout=out, stderr=out)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                for _ in range(300):
                    assert mock.poll() is None, log.read_text()
                    try:
                        client.get("/v1/refunds", headers={"Authorization": "Bearer sk_test_123"})
                        break
                    except httpx.TransportError:
                        time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            mock.terminate()
            mock.wait(10)


class Noted:
    """A part of Stripe's SDK, or one of its calls by name. Every list has a second page, so that it is asked for."""

    def __init__(self, inner: Any, name: str, asked: set[str]) -> None:
        self._inner, self._name, self._asked = inner, name, asked

    def __getattr__(self, name: str) -> "Noted":
        return Noted(getattr(self._inner, name), f"{self._name}.{name}".strip("."), self._asked)

    async def __call__(self, *args: Any) -> Any:
        found = await self._inner(*args)
        after = ".after" if "starting_after" in args[0] else ""
        self._asked.add(f"{self._name}{after}")
        if self._name.endswith("list_async") and not after:
            found.has_more = True
        return found


@pytest.fixture(scope="module")
def asked() -> set[str]:
    """What the document has let pass."""
    return set()


@pytest.fixture
async def stripe(url: str, asked: set[str]) -> AsyncIterator[Stripe]:
    settings = Settings(_env_file=None, stripe_secret_key=SecretStr("sk_test_123"), stripe_api_url=url)
    stripe = Stripe(settings)
    stripe._api = Noted(stripe._api, "", asked)
    yield stripe
    await stripe.close()


@pytest.mark.parametrize("capture", [True, False])
async def test_a_charge(stripe: Stripe, capture: bool) -> None:
    charge = Charge(str(new_id()), 1325, "GBP", "pm_card_visa", capture=capture, return_url="https://shop.example/back")
    outcome = await stripe.authorise(charge)
    assert outcome.provider_ref is not None
    assert outcome.provider_ref.startswith("pi_")


async def test_a_capture_a_cancellation_and_a_refund(stripe: Stripe) -> None:
    hold = Hold(str(new_id()), "pi_123", 1325, "GBP")
    assert (await stripe.capture(hold)).provider_ref
    assert (await stripe.void(hold)).provider_ref
    back = RefundRequest(str(new_id()), hold.reference, "pi_123", 300, "GBP")
    refunded = await stripe.refund(back)
    assert refunded.provider_ref is not None
    assert refunded.provider_ref.startswith("re_")


async def test_looking_up_and_going_through_the_books(stripe: Stripe) -> None:
    assert (await stripe.look_up(str(new_id()), "pi_123")) is not None
    assert await stripe.look_up(str(new_id())) is None
    assert await stripe.look_up_refund(RefundRequest(str(new_id()), str(new_id()), "pi_123", 300, "GBP")) is None
    now = datetime.now(UTC)
    kinds = [entry.kind async for entry in stripe.entries(now - timedelta(days=1), now)]
    assert set(kinds) == {"charge", "refund"}


def test_no_other_request_is_sent(asked: set[str]) -> None:
    calls = re.findall(r"self\._api\.(\w+\.\w+_async)", inspect.getsource(provider))
    assert asked == {*calls, *(f"{call}.after" for call in calls if call.endswith("list_async"))}


async def test_the_document_does_refuse_what_it_does_not_know(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answer = await client.post(
            "/v1/payment_intents",
            data={"amount": "1325", "currency": "gbp", "capture": "later"},
            headers={"Authorization": "Bearer sk_test_123"},
        )
    assert answer.status_code == 400, answer.text
