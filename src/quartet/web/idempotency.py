"""`Idempotency-Key`: the first answer is kept in the transaction that it protects, and given again byte for byte.

One transaction: `slot = await claim(tx, key)`, return `slot.replay` if there is one, work, `await slot.keep(answer)`.
Two, with an outside call between them: `await slot.start()` in the first, `await finish(tx, key, answer)` in the
second; meanwhile the same key is answered 409, and whoever mends the crash between them finishes the key too.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import Depends, Header, Request, Response

from quartet.kernel.errors import IdempotencyKeyReused, RequestInProgress, invalid
from quartet.stores.files import queries
from quartet.stores.postgres import Tx
from quartet.web.dependencies import Principal, anyone

q = queries(__file__)


@dataclass(frozen=True)
class RequestKey:
    """A key as sent: whose it is, and what the request asked."""

    owner: str
    key: str
    fingerprint: bytes


async def _request_key(
    request: Request,
    principal: Annotated[Principal | None, Depends(anyone)],
    idempotency_key: Annotated[str | None, Header(description="Repeat the request safely with the same key.")] = None,
) -> RequestKey | None:
    if idempotency_key is None:
        return None
    if not 1 <= len(idempotency_key) <= 255:
        raise invalid("Idempotency-Key", "must have 1 to 255 characters")
    body = await request.body()
    canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS) if body else b""
    asked = f"{request.method} {request.url.path}\n".encode() + canonical
    owner = f"user:{principal.user_id}" if principal else f"guest:{request.headers.get('x-cart-token', '')}"
    return RequestKey(owner, idempotency_key, hashlib.sha256(asked).digest())


IdempotencyKey = Annotated[RequestKey | None, Depends(_request_key)]


@dataclass(frozen=True)
class Slot:
    """The place where this request's answer goes; `replay` is the first answer when there is one."""

    tx: Tx
    key: RequestKey | None
    replay: Response | None = None

    async def keep(self, response: Response) -> Response:
        """Keeps the answer in the transaction and hands it back."""
        if self.key is not None:
            await finish(self.tx, self.key, response)
        return response

    async def start(self) -> None:
        """Marks the key as running, for work that outlives this transaction."""
        if self.key is not None:
            await _keep(self.tx, self.key, None, None, None)


async def claim(tx: Tx, key: RequestKey | None) -> Slot:
    """Raises IdempotencyKeyReused, RequestInProgress. Without a key the slot is free and keeps nothing."""
    if key is None:
        return Slot(tx, None)
    row = await tx.fetchrow(q.claim, key.owner, key.key)
    if row["known"] and row["fingerprint"] != key.fingerprint:
        raise IdempotencyKeyReused()
    if not row["free"] or (row["known"] and row["status"] is None):
        raise RequestInProgress()
    if not row["known"]:
        return Slot(tx, key)
    headers = {**row["headers"], "Idempotent-Replayed": "true"}
    return Slot(tx, key, Response(row["body"], row["status"], headers))


async def finish(tx: Tx, key: RequestKey, response: Response) -> None:
    """Keeps the answer under a key that is free or was started by this very request."""
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    await _keep(tx, key, response.status_code, headers, bytes(response.body))


async def release(tx: Tx, key: RequestKey | None) -> None:
    """Frees a started key whose work did not happen, so that a repetition tries again."""
    if key is not None:
        await tx.execute(q.release, key.owner, key.key)


async def sweep(tx: Tx) -> None:
    """Forgets keys older than 24 hours."""
    await tx.execute(q.sweep)


async def _keep(
    tx: Tx, key: RequestKey, status: int | None, headers: dict[str, str] | None, body: bytes | None
) -> None:
    # None back: another request with this key committed between our claim and now.
    if await tx.fetchval(q.keep, key.owner, key.key, key.fingerprint, status, headers, body) is None:
        raise RequestInProgress()
