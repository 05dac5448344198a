"""The signature of the sandbox's webhooks."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quartet.kernel.errors import BadRequest
from quartet.kernel.settings import Settings
from quartet.payments import BadSignature, Outcome
from quartet.payments.providers.sandbox import SIGNATURE, Sandbox

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _sandbox(**settings: Any) -> Sandbox:
    return Sandbox(Settings(_env_file=None, secret="s" * 32, **settings), None)  # type: ignore[arg-type]


async def test_what_it_signs_it_reads() -> None:
    sandbox = _sandbox()
    body = sandbox.event("our reference", Outcome("sb_1", "failed", "card_declined"))
    event = await sandbox.parse_webhook({SIGNATURE: sandbox.sign(body, NOW)}, body, NOW)
    assert event.kind == "charge.failed"
    assert event.reference == "our reference"
    assert event.outcome == Outcome("sb_1", "failed", "card_declined")
    again = sandbox.event("our reference", Outcome("sb_1", "failed", "card_declined"))
    assert (await sandbox.parse_webhook({SIGNATURE: sandbox.sign(again, NOW)}, again, NOW)).id == event.id


@pytest.mark.parametrize("seconds", [-300, 0, 300])
async def test_five_minutes_either_way_are_near_enough(seconds: int) -> None:
    sandbox = _sandbox()
    body = sandbox.event("r", Outcome("sb_1", "succeeded"))
    signed = sandbox.sign(body, NOW + timedelta(seconds=seconds))
    assert (await sandbox.parse_webhook({SIGNATURE: signed}, body, NOW)).outcome


@pytest.mark.parametrize("seconds", [-301, 301])
async def test_more_is_not(seconds: int) -> None:
    sandbox = _sandbox()
    body = sandbox.event("r", Outcome("sb_1", "succeeded"))
    with pytest.raises(BadSignature):
        await sandbox.parse_webhook({SIGNATURE: sandbox.sign(body, NOW + timedelta(seconds=seconds))}, body, NOW)


async def test_one_byte_one_secret_or_one_second_makes_another_signature() -> None:
    sandbox = _sandbox()
    body = sandbox.event("r", Outcome("sb_1", "succeeded"))
    signed = sandbox.sign(body, NOW)
    other = _sandbox(sandbox_webhook_secret="another").sign(body, NOW)
    earlier = signed.replace(f"t={int(NOW.timestamp())}", f"t={int(NOW.timestamp()) - 1}")
    for signature, sent in ((signed, body + b"\n"), (other, body), (earlier, body), ("", body), (signed[:-1], body)):
        with pytest.raises(BadSignature):
            await sandbox.parse_webhook({SIGNATURE: signature}, sent, NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"id": "e", "type": "charge.succeeded", "data": []}',
        b'{"id": 5, "type": "charge.succeeded", "data": {"reference": "r", "chargeId": "c"}}',
        b'{"id": "e", "type": "charge.succeeded", "data": {"reference": 5, "chargeId": "c"}}',
        b'{"id": "e", "type": "charge.succeeded", "data": {"reference": "r", "chargeId": ["c"]}}',
        b'{"id": "e", "type": "charge.failed", "data": {"reference": "r", "chargeId": "c", "declineCode": {}, "x": 1}}',
        b'{"id": "e", "type": "charge.failed", "data": {"reference": "r", "chargeId": "c", "declineCode": 5}}',
        b'{"id": "\\u0000", "type": "charge.succeeded", "data": {"reference": "r", "chargeId": "c"}}',
        b'{"id": "e", "type": ["charge.succeeded"]}',
    ],
)
async def test_a_signed_body_that_is_no_event_is_a_bad_request(body: bytes) -> None:
    sandbox = _sandbox()
    with pytest.raises(BadRequest):
        await sandbox.parse_webhook({SIGNATURE: sandbox.sign(body, NOW)}, body, NOW)
