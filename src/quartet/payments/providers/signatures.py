"""The webhook signature of Stripe, used by the sandbox as well: a header `t=<unix seconds>,v1=<hex>`, where v1 is
HMAC-SHA256 of `<t>.<body>` over the body's exact bytes. A header may have several v1, and a shop several secrets: while
a secret is being rotated, both are valid."""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

from quartet.payments.model import BadSignature

TOLERANCE_SECONDS = 300


def sign(body: bytes, secret: str, now: datetime) -> str:
    """The header's value for these bytes at this time."""
    at = int(now.timestamp())
    return f"t={at},v1={_mac(secret, at, body)}"


def check(header: str, body: bytes, secrets: Sequence[str], now: datetime) -> None:
    """Raises BadSignature if no signature was made with one of the secrets, or if its time is more than five minutes
    off."""
    parts = [part.strip().partition("=")[::2] for part in header.split(",")]
    at = next((value for name, value in parts if name == "t"), "")
    if not (at.isascii() and at.isdigit() and len(at) <= 12):
        raise BadSignature("send the signature as t=<unix seconds>,v1=<hex>")
    given = [value.encode() for name, value in parts if name == "v1"]
    # Every pair is compared, each in constant time: the duration reveals nothing.
    good = [hmac.compare_digest(_mac(secret, int(at), body).encode(), mac) for secret in secrets for mac in given[:8]]
    if not any(good):
        raise BadSignature("the signature does not belong to this body")
    if abs(now.timestamp() - int(at)) > TOLERANCE_SECONDS:
        raise BadSignature(f"the signature is more than {TOLERANCE_SECONDS} seconds old")


def _mac(secret: str, at: int, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
