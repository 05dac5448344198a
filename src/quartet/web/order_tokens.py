"""A guest's token for one order, derived from its id and the secret, so that no table is needed."""

import base64
import hashlib
import hmac
from uuid import UUID


class OrderTokens:
    """Issues and verifies tokens: HMAC-SHA256 of the order's id under a key derived from the secret. Those of a retired
    secret are still valid."""

    def __init__(self, secret: str, *retired: str) -> None:
        self._keys = [hashlib.sha256(b"order:" + each.encode()).digest() for each in (secret, *retired)]

    def issue(self, order_id: UUID) -> str:
        """The order's token, always the same one; 43 characters."""
        return _token(self._keys[0], order_id)

    def opens(self, order_id: UUID, token: str | None) -> bool:
        """Whether this is the order's token."""
        if not token:
            return False
        given = token.encode()
        return any(hmac.compare_digest(given, _token(key, order_id).encode()) for key in self._keys)


def _token(key: bytes, order_id: UUID) -> str:
    return base64.urlsafe_b64encode(hmac.digest(key, order_id.bytes, "sha256")).decode().rstrip("=")
