"""Users, sessions and password resets in PostgreSQL."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet.accounts.model import EmailTaken, User
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)


def _user(row: Any) -> User:
    return User(row["id"], row["email"], row["display_name"], row["plan"], frozenset(row["roles"]), row["created_at"])


async def insert_user(
    tx: Tx,
    user_id: UUID,
    email: str,
    *,
    password_hash: str | None,
    display_name: str | None,
    roles: Iterable[str],
    created_at: datetime | None,
) -> User:
    """Raises EmailTaken, and leaves the transaction usable."""
    row = await tx.fetchrow(q.create_user, user_id, email, password_hash, display_name, sorted(roles), created_at)
    if row is None:
        raise EmailTaken(f"there is an account for {email} already")
    return _user(row)


async def user_by_id(read: Read, user_id: UUID) -> tuple[User, str | None] | None:
    """The user and the hash of the password."""
    row = await read.fetchrow(q.user_by_id, user_id)
    return (_user(row), row["password_hash"]) if row else None


async def user_by_email(read: Read, email: str) -> tuple[User, str | None] | None:
    """The user and the hash of the password; `email` in lower case."""
    row = await read.fetchrow(q.user_by_email, email)
    return (_user(row), row["password_hash"]) if row else None


async def exists(read: Read, user_id: UUID) -> bool:
    """Whether there is such a user."""
    return bool(await read.fetchval(q.user_exists, user_id))


async def known_emails(read: Read, emails: Iterable[str]) -> set[str]:
    """Those of the addresses (in lower case) that have an account."""
    return {row["email"] for row in await read.fetch(q.known_emails, list(emails))}


async def names(read: Read, ids: Iterable[UUID]) -> dict[UUID, str]:
    """Display names of those who have one, in one query."""
    return {row["id"]: row["display_name"] for row in await read.fetch(q.names, list(ids))}


async def rename(tx: Tx, user_id: UUID, display_name: str | None) -> User | None:
    """None when there is no such user."""
    row = await tx.fetchrow(q.rename, user_id, display_name)
    return _user(row) if row else None


async def start_session(
    tx: Tx,
    session_id: UUID,
    user_id: UUID,
    *,
    token_hash: bytes,
    now: datetime,
    expires_at: datetime,
    checked_hash: str | None,
) -> bool:
    """False when the user is gone or has another password than `checked_hash` by now (None: not asked)."""
    found = await tx.fetchval(q.start_session, session_id, user_id, token_hash, now, expires_at, checked_hash)
    return found is not None


async def rotate(
    tx: Tx, session_id: UUID, old_hash: bytes, new_hash: bytes, *, now: datetime, expires_at: datetime
) -> tuple[UUID, frozenset[str], bool] | None:
    """Who it is, their roles, and whether the token was good (else the session has just ended).

    None: there is no such session, or it has ended."""
    row = await tx.fetchrow(q.rotate, session_id, old_hash, new_hash, now, expires_at)
    return (row["user_id"], frozenset(row["roles"]), row["ended_at"] is None) if row else None


async def end_session(tx: Tx, session_id: UUID, now: datetime) -> None:
    """Ends it, once or many times the same."""
    await tx.execute(q.end_session, session_id, now)


async def end_sessions(tx: Tx, user_id: UUID, now: datetime, but: UUID | None = None) -> list[UUID]:
    """Ends all of a user's sessions but one; answers those it ended."""
    return [row["id"] for row in await tx.fetch(q.end_sessions, user_id, now, but)]


async def set_password(tx: Tx, user_id: UUID, password_hash: str) -> None:
    """Sets it, whatever it was."""
    await tx.execute(q.set_password, user_id, password_hash)


async def replace_password(tx: Tx, user_id: UUID, old_hash: str, new_hash: str) -> bool:
    """False when the old one is no longer the present one."""
    return bool(await tx.execute(q.replace_password, user_id, old_hash, new_hash) == "UPDATE 1")


async def keep_reset(tx: Tx, token_hash: bytes, user_id: UUID, expires_at: datetime) -> None:
    """Remembers a reset by the hash of its token."""
    await tx.execute(q.keep_reset, token_hash, user_id, expires_at)


async def find_reset(read: Read, token_hash: bytes, now: datetime) -> tuple[UUID, str] | None:
    """Whose it is and their address; None when spent, expired or never given."""
    row = await read.fetchrow(q.find_reset, token_hash, now)
    return (row["user_id"], row["email"]) if row else None


async def spend_reset(tx: Tx, token_hash: bytes, now: datetime) -> bool:
    """False when somebody spent it first."""
    return await tx.fetchval(q.spend_reset, token_hash, now) is not None


async def drop_resets(tx: Tx, user_id: UUID) -> None:
    """The other links in the user's mailbox open nothing any more."""
    await tx.execute(q.drop_resets, user_id)


async def sweep(tx: Tx, now: datetime) -> None:
    """Forgets sessions and resets that have run out."""
    await tx.execute(q.sweep_sessions, now)
    await tx.execute(q.sweep_resets, now)
