"""API keys and the audit log in PostgreSQL; other packages write the log by `web.trail`."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from quartet.access.model import ApiKey, Entry, ValidKey
from quartet.kernel.errors import Unauthenticated
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)


class Before(NamedTuple):
    """Where a page of entries begins: older than this one."""

    at: datetime
    id: int


NEWEST = Before(datetime(9999, 12, 31, tzinfo=UTC), 2**63 - 1)


class Filter(NamedTuple):
    """What to look for; None matches anything. `subject` is its kind and id."""

    actor: str | None = None
    subject: tuple[str, str] | None = None
    action: str | None = None


async def entries(
    read: Read, wanted: Filter, *, since: datetime, until: datetime, before: Before = NEWEST, limit: int
) -> list[Entry]:
    """Newest first."""
    # The index scan starts at this entry: a condition on the time alone would read all newer entries first.
    span = (*min(before, Before(until, 0)), since, until, limit)
    if wanted.subject is not None:
        rows = await read.fetch(q.entries_of_subject, *span, *wanted.subject, wanted.actor, wanted.action)
    elif wanted.actor is not None:
        rows = await read.fetch(q.entries_of_actor, *span, wanted.actor, wanted.action)
    elif wanted.action is not None:
        rows = await read.fetch(q.entries_of_action, *span, wanted.action)
    else:
        rows = await read.fetch(q.entries, *span)
    return [Entry(**row) for row in rows]


async def insert_key(
    tx: Tx,
    key_id: UUID,
    name: str,
    *,
    prefix: str,
    key_hash: bytes,
    scopes: Iterable[str],
    now: datetime,
    by: UUID,
    expires_at: datetime | None,
) -> ApiKey:
    """Stores a new key by its hash. Raises Unauthenticated if its creator's account is gone."""
    row = await tx.fetchrow(q.insert_key, key_id, name, prefix, key_hash, sorted(scopes), now, by, expires_at)
    if row is None:
        raise Unauthenticated("this account is gone")
    return ApiKey(**row)


async def keys(read: Read, *, before: UUID | None, limit: int) -> list[ApiKey]:
    """Newest first, including revoked ones."""
    return [ApiKey(**row) for row in await read.fetch(q.keys, before, limit)]


async def valid_key(read: Read, key_hash: bytes, now: datetime) -> ValidKey | None:
    """None if it is unknown, revoked or expired."""
    row = await read.fetchrow(q.valid_key, key_hash, now)
    return ValidKey(row["id"], frozenset(row["scopes"]), row["expires_at"], row["last_used_at"]) if row else None


async def revoke_key(tx: Tx, key_id: UUID, now: datetime) -> ApiKey | None:
    """None when there is no such key."""
    row = await tx.fetchrow(q.revoke_key, key_id, now)
    return ApiKey(**row) if row else None


async def note_use(tx: Tx, key_id: UUID, now: datetime) -> None:
    """Records a use of the key, unless one was recorded within the last minute."""
    await tx.execute(q.note_use, key_id, now)


async def person(read: Read, id_: UUID) -> UUID:
    """The user behind a principal's id: of an API key's id the user who created the key, else the user with that id."""
    found: UUID = await read.fetchval(q.person, id_)
    return found


async def forget(tx: Tx, user_id: UUID, now: datetime) -> list[UUID]:
    """Revokes the keys that the user created; returns their ids."""
    return [row["id"] for row in await tx.fetch(q.forget, user_id, now)]
