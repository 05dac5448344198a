"""The audit log: what staff did, with before and after, written in the same transaction as the change.

`await trail.record(tx, principal.actor, "order.ship", "order", order.id, before=…, after=…)`. Changes in other stores
have no such transaction: there `async with trail.attempt(…)` writes the entry first, and a second one if the change
fails, so that no change is ever without an entry. Refer to people by id: entries stay when a person is erased.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import orjson
import structlog

from quartet.kernel.errors import Problem, StoreUnavailable
from quartet.stores.files import queries
from quartet.stores.postgres import Tx
from quartet.web.answers import plain_json
from quartet.web.dependencies import Shop
from quartet.web.logs import is_secret

log = structlog.get_logger("quartet.trail")

q = queries(__file__)

# The request that is being answered; the gateway sets it.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

_FAILURE_SECONDS = 2.0


async def record(
    tx: Tx, actor: str, action: str, kind: str, subject: object, *, before: object = None, after: object = None
) -> None:
    """`actor` is `principal.actor`, `action` a room and a verb, `kind` and `subject` what it was done to. `before` and
    `after` are JSON values or dataclasses; members whose names suggest a secret are left out."""
    await tx.execute(q.record, actor, action, kind, str(subject), _plain(before), _plain(after), REQUEST_ID.get())


@asynccontextmanager
async def attempt(
    shop: Shop, actor: str, action: str, kind: str, subject: object, *, before: object = None, after: object = None
) -> AsyncIterator[None]:
    """Writes the entry, then runs the block; if that raises, a second entry `….failed` says why. Raises
    StoreUnavailable if the entry can't be written; then the block has not run."""
    async with shop.stores.pg.once() as tx:
        await record(tx, actor, action, kind, subject, before=before, after=after)
    await shop.step("act announced")
    try:
        yield
    except BaseException as error:
        reason = error.slug if isinstance(error, Problem) else type(error).__name__
        try:
            async with asyncio.timeout(_FAILURE_SECONDS), shop.stores.pg.once() as tx:
                await record(tx, actor, f"{action}.failed", kind, subject, after={"reason": reason})
        except (StoreUnavailable, TimeoutError):
            log.error("failure_not_recorded", action=action, kind=kind, subject=str(subject), reason=reason)
        raise


def _plain(value: object) -> Any:
    return _without_secrets(orjson.loads(plain_json(value)))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(member) for name, member in value.items() if not is_secret(name)}
    return [_without_secrets(member) for member in value] if isinstance(value, list) else value
