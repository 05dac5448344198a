"""`Idempotency-Key`: the first answer is stored in the transaction that it protects, and sent again byte for byte.

One transaction: `async with transaction(shop, key) as slot`, return `slot.replay` if there is one, work in `slot.tx`,
`return await slot.keep(answer)`. Two, with an outside call between them: `await slot.start()` in the first, or
`unclaimed` where SQL does all of it, and `await finish(tx, owner, key, answer)` in the second; meanwhile the same
key is answered 409, and recovery from a crash between them finishes the key too. A refusal (4xx) is stored as a first
answer too, but not that of an invalid request (`Invalid`; other 422s are stored), a server error (5xx), or a user who
is erased just now (401), of whom nothing must be left.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import Depends, Request, Response

from quartet.kernel.errors import IdempotencyKeyReused, Invalid, Problem, RequestInProgress, Unauthenticated, invalid
from quartet.stores.files import queries
from quartet.stores.postgres import Postgres, Record, Tx
from quartet.web.answers import problem_response
from quartet.web.dependencies import Sent, Shop, anyone, reads

q = queries(__file__)

# The length of the shop's random tokens; a shorter one might be guessed.
_SECRET_ENOUGH = 43
_LONGEST = 255
_SENT = Sent("Idempotency-Key", "Repeat the request safely with the same key.", {"minLength": 1, "maxLength": _LONGEST})


@dataclass(frozen=True)
class RequestKey:
    """A key as sent: its owner, and a fingerprint of the request."""

    owner: str
    key: str
    fingerprint: bytes
    request_id: str = ""


@reads(_SENT)
async def _request_key(request: Request) -> RequestKey | None:
    sent = set(request.headers.getlist(_SENT.name))
    if not sent:
        return None
    if len(sent) > 1:
        raise invalid("Idempotency-Key", "is given twice")
    key = _characters(sent.pop())
    if not 1 <= len(key) <= _LONGEST or "\0" in key:
        raise invalid("Idempotency-Key", f"must have 1 to {_LONGEST} characters, none of them NUL")
    body = await request.body()
    canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS) if body else b""
    asked = f"{request.method} {request.scope['path']}\n".encode() + canonical
    principal = await anyone(request)
    owner = f"user:{principal.user_id}" if principal else _guest(request, body)
    request_id = request.scope.get("request_id", "")
    return RequestKey(owner, key, hashlib.sha256(asked).digest(), request_id)


def _characters(sent: str) -> str:
    """Decodes the header as UTF-8, if it is valid, instead of the framework's Latin-1, so that the limit counts
    characters and not bytes."""
    try:
        return sent.encode("latin-1").decode()
    except UnicodeDecodeError:
        return sent


def _guest(request: Request, body: bytes) -> str:
    """A guest's keys belong to what only that guest holds: the order's token, else the cart's. Without either, guests
    are distinguished by IP address and the e-mail address in the body."""
    for name in ("x-order-token", "x-cart-token"):
        token = request.headers.get(name, "")
        if len(token) >= _SECRET_ENOUGH:
            return f"guest:{hashlib.sha256(token.encode()).hexdigest()}"
    value = orjson.loads(body) if body else None
    email = value.get("email") if isinstance(value, dict) else None
    known = orjson.dumps([request.scope.get("address"), email.strip().lower() if isinstance(email, str) else None])
    return f"guest:{hashlib.sha256(known).hexdigest()}"


IdempotencyKey = Annotated[RequestKey | None, Depends(_request_key)]


@dataclass(frozen=True)
class Slot:
    """The transaction, and where to store this request's answer in it; `replay` is the first answer if there is one."""

    tx: Tx
    key: RequestKey | None
    replay: Response | None = None

    async def keep(self, response: Response) -> Response:
        """Stores the answer in the transaction and returns it."""
        if self.key is not None:
            await _take(self.tx, self.key, *to_keep(response))
        return response

    async def start(self) -> None:
        """Marks the key as running, for work that outlives this transaction."""
        if self.key is not None:
            await _take(self.tx, self.key, None, None, None)


@asynccontextmanager
async def transaction(shop: Shop, key: RequestKey | None) -> AsyncIterator[Slot]:
    """A transaction with the key claimed in it; a refusal raised inside rolls it back and is stored in a transaction of
    its own. Without a key nothing is stored. Raises IdempotencyKeyReused, RequestInProgress."""
    async with unclaimed(shop, key) as slot:
        if key is None:
            yield slot
        else:
            yield Slot(slot.tx, key, first_answer(key, await slot.tx.fetchrow(q.claim, key.owner, key.key)))


@asynccontextmanager
async def unclaimed(shop: Shop, key: RequestKey | None, *, once: bool = False) -> AsyncIterator[Slot]:
    """The same for work that claims the key itself, by `claim_request` in its first statement, whose result is passed
    to `first_answer`. `once`: this statement is all of the work, and needs no BEGIN and COMMIT."""
    pg = shop.stores.pg
    try:
        async with pg.once() if once else pg.tx() as tx:
            yield Slot(tx, key)
    except (IdempotencyKeyReused, RequestInProgress, Invalid, Unauthenticated):
        raise
    except Problem as problem:
        if key is not None and problem.status < 500:
            await _keep_refusal(shop.stores.pg, key, problem)
            await shop.step("refusal kept")
        raise


async def _keep_refusal(pg: Postgres, key: RequestKey, problem: Problem) -> None:
    # A concurrent request with the same key may have been answered since our claim, and be the reason for the refusal
    # (the order is paid: by that request). Its answer stands; RequestInProgress makes the client retry and receive it.
    async with pg.once() as tx:
        await _take(tx, key, *to_keep(problem_response(problem, key.request_id)))


async def refuse(shop: Shop, key: RequestKey | None, refusal: Problem) -> Response:
    """The key's first answer, if there is one, since the reason for the refusal may not have existed then. Else raises
    the refusal."""
    if key is None:
        raise refusal
    async with transaction(shop, key) as slot:
        if slot.replay is not None:
            return slot.replay
        raise refusal


def first_answer(key: RequestKey, row: Record) -> Response | None:
    """Reads the result of `claim_request`, the columns `claimed_by`, `fingerprint`, `answered`, `headers` and `body`;
    None if the key is free. Raises IdempotencyKeyReused, RequestInProgress."""
    if row["claimed_by"] is None:
        return None
    if row["fingerprint"] is not None and row["fingerprint"] != key.fingerprint:
        raise IdempotencyKeyReused()
    if row["answered"] is None:
        raise RequestInProgress()
    return Response(row["body"], row["answered"], {**row["headers"], "Idempotent-Replayed": "true"})


async def finish(tx: Tx, owner: str, key: str, response: Response) -> None:
    """Stores the answer under a started key, for the request that started it or, by recovery, for one that died; a key
    that has an answer keeps it."""
    await tx.execute(q.finish, owner, key, *to_keep(response))


async def release(tx: Tx, owner: str, key: str) -> None:
    """Frees a started key whose work did not happen, so that the request can be repeated."""
    await tx.execute(q.release, owner, key)


async def forget_person(tx: Tx, user_id: UUID, order_ids: Sequence[UUID]) -> None:
    """Deletes stored answers to an erased person, and those that contain an order of theirs."""
    await tx.execute(q.forget_person, str(user_id), order_ids)


async def sweep(tx: Tx) -> None:
    """Deletes keys older than 24 hours."""
    await tx.execute(q.sweep)


def to_keep(response: Response) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body, as `take_request` and `finish_request` store them."""
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return response.status_code, headers, bytes(response.body)


async def _take(
    tx: Tx, key: RequestKey, status: int | None, headers: dict[str, str] | None, body: bytes | None
) -> None:
    if not await tx.fetchval(q.take, key.owner, key.key, key.fingerprint, status, headers, body):
        raise RequestInProgress()
