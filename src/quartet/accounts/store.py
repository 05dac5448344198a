"""Users, sessions and e-mailed links in PostgreSQL."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from quartet.accounts.model import Device, EmailTaken, OpenSession, User
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx, Violation

q = queries(__file__)

Purpose = Literal["reset", "verify"]


def _user(row: Any) -> User:
    return User(
        row["id"],
        row["email"],
        row["display_name"],
        row["plan"],
        frozenset(row["roles"]),
        row["created_at"],
        row["email_verified_at"] is not None,
        row["pending_email"],
    )


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
    """Raises EmailTaken; the transaction stays usable."""
    row = await tx.fetchrow(q.create_user, user_id, email, password_hash, display_name, sorted(roles), created_at)
    if row is None:
        raise EmailTaken(f"there is an account for {email} already")
    return _user(row)


async def user_by_id(read: Read, user_id: UUID) -> tuple[User, str | None] | None:
    """The user and the password's hash."""
    row = await read.fetchrow(q.user_by_id, user_id)
    return (_user(row), row["password_hash"]) if row else None


async def user_by_email(read: Read, email: str) -> tuple[User, str | None] | None:
    """The user and the password's hash; `email` in lower case."""
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


async def address(read: Read, user_id: UUID, *, pending: bool = False) -> str | None:
    """The e-mail address, or the one waiting to be verified (`pending`); None if the user does not exist (any more)."""
    found: str | None = await read.fetchval(q.address, user_id, pending)
    return found


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
    device: Device,
) -> bool:
    """False if the user is gone or their password hash is no longer `checked_hash` (None: not checked)."""
    seen = (device.user_agent, device.network)
    found = await tx.fetchval(q.start_session, session_id, user_id, token_hash, now, expires_at, checked_hash, *seen)
    return found is not None


async def rotate(
    tx: Tx, session_id: UUID, old_hash: bytes, new_hash: bytes, *, now: datetime, expires_at: datetime, device: Device
) -> tuple[UUID, frozenset[str], bool] | None:
    """The user, their roles, and whether the token was valid (else the session has just ended).

    None: there is no such session, or it has ended.
    """
    seen = (device.user_agent, device.network)
    row = await tx.fetchrow(q.rotate, session_id, old_hash, new_hash, now, expires_at, *seen)
    return (row["user_id"], frozenset(row["roles"]), row["ended_at"] is None) if row else None


async def open_sessions(read: Read, user_id: UUID, now: datetime, before: UUID | None, limit: int) -> list[OpenSession]:
    """Newest first; only those that began before session `before`, if it is given."""
    rows = await read.fetch(q.sessions, user_id, now, before, limit)
    return [OpenSession(**row) for row in rows]


async def end_own_session(tx: Tx, session_id: UUID, user_id: UUID, now: datetime) -> bool:
    """False when the user has no such session."""
    return await tx.fetchval(q.end_own_session, session_id, user_id, now) is not None


async def end_session(tx: Tx, session_id: UUID, now: datetime) -> None:
    """Ends the session; idempotent."""
    await tx.execute(q.end_session, session_id, now)


async def end_sessions(tx: Tx, user_id: UUID, now: datetime, but: UUID | None = None) -> list[UUID]:
    """Ends all of a user's sessions but one; returns those it ended."""
    return [row["id"] for row in await tx.fetch(q.end_sessions, user_id, now, but)]


async def set_password(tx: Tx, user_id: UUID, password_hash: str) -> None:
    """Sets the password, whatever it was."""
    await tx.execute(q.set_password, user_id, password_hash)


async def replace_password(tx: Tx, user_id: UUID, old_hash: str, new_hash: str) -> bool:
    """Replaces the password; False if the old hash is no longer the current one."""
    return bool(await tx.execute(q.replace_password, user_id, old_hash, new_hash) == "UPDATE 1")


async def ask_reset(tx: Tx, email: str) -> None:
    """Tells the worker that a password-reset link was requested."""
    await tx.execute(q.ask_reset, email)


async def mint_link(
    tx: Tx, purpose: Purpose, token_hash: bytes, user_id: UUID, address: str, *, expires_at: datetime
) -> str | None:
    """Stores the hash of a link's token; returns the display name for the e-mail, which may be empty. None if the
    address is not the user's (any more), or there is nothing to verify."""
    mint = q.mint_reset if purpose == "reset" else q.mint_verification
    name: str | None = await tx.fetchval(mint, user_id, token_hash, expires_at, address)
    return name


async def find_link(read: Read, token_hash: bytes, purpose: Purpose, now: datetime) -> tuple[UUID, str] | None:
    """The link's user and the address it was sent to; None if it was used, has expired or never existed."""
    row = await read.fetchrow(q.find_link, token_hash, purpose, now)
    return (row["user_id"], row["email"]) if row else None


async def spend_link(tx: Tx, token_hash: bytes, purpose: Purpose, now: datetime) -> bool:
    """Uses up the link; False if it was used before or has expired."""
    return await tx.fetchval(q.spend_link, token_hash, purpose, now) is not None


async def drop_what_was_asked(tx: Tx, user_id: UUID) -> None:
    """After a change of password: links that reset it, and a pending change of address, become void."""
    await tx.execute(q.drop_resets, user_id)
    await tx.execute(q.drop_email_change, user_id)


async def lock_password(tx: Tx, user_id: UUID, password_hash: str) -> bool:
    """False if the password is another one by now; else it can't change before the transaction ends."""
    return await tx.fetchval(q.lock_password, user_id, password_hash) is not None


async def verified_email(read: Read, user_id: UUID) -> str | None:
    """The account's address if it is verified, else None."""
    found: str | None = await read.fetchval(q.verified_email, user_id)
    return found


async def want_email(tx: Tx, user_id: UUID, email: str) -> User:
    """Makes the address pending: it becomes the account's once it is verified. Raises EmailTaken."""
    row = await tx.fetchrow(q.want_email, user_id, email)
    if row is None:
        raise EmailTaken(f"there is an account for {email} already")
    return _user(row)


async def prove_email(tx: Tx, user_id: UUID, email: str, now: datetime) -> bool:
    """Makes the address the account's, verified; False if the account no longer wants it. Raises EmailTaken, which
    makes the transaction unusable."""
    try:
        proved = await tx.fetchval(q.prove_email, user_id, email, now) is not None
        await tx.execute(q.drop_resets_elsewhere, user_id, email)
        return proved
    except Violation as violation:
        if violation.constraint != "users_email_key":
            raise
        raise EmailTaken(f"there is an account for {email} already") from None


async def sweep(tx: Tx, now: datetime) -> None:
    """Deletes expired sessions and links, at most 5,000 of each."""
    await tx.execute(q.sweep_sessions, now)
    await tx.execute(q.sweep_links, now)


async def by_email(read: Read, beginning: str, *, after: str, limit: int) -> list[User]:
    """Users sorted by address: those whose address begins with `beginning` and comes after `after`; both in lower
    case."""
    return [_user(row) for row in await read.fetch(q.by_email, beginning, after, limit)]


async def lock(tx: Tx, user_id: UUID) -> User | None:
    """The user, with the row locked until the transaction ends."""
    row = await tx.fetchrow(q.lock_user, user_id)
    return _user(row) if row else None


async def set_roles(tx: Tx, user_id: UUID, roles: frozenset[str], now: datetime) -> User:
    """Sets the roles of an existing user. Raises Violation QT015 if it would leave the shop without an admin."""
    return _user(await tx.fetchrow(q.set_roles, user_id, sorted(roles), now))


async def ended_since(read: Read, since: datetime) -> list[tuple[UUID, UUID]]:
    """User and session of the sessions that have ended since."""
    return [(row["user_id"], row["id"]) for row in await read.fetch(q.sessions_ended_since, since)]


async def roles_changed_since(read: Read, since: datetime) -> list[tuple[UUID, frozenset[str]]]:
    """The current roles of users whose roles were changed since."""
    return [(row["id"], frozenset(row["roles"])) for row in await read.fetch(q.roles_changed_since, since)]


async def roles_of_session(read: Read, session_id: UUID, now: datetime) -> frozenset[str] | None:
    """The current roles of the session's user; None if the session has ended."""
    roles = await read.fetchval(q.roles_of_session, session_id, now)
    return None if roles is None else frozenset(roles)


async def extend_session(tx: Tx, session_id: UUID, now: datetime, expires_at: datetime) -> frozenset[str] | None:
    """Extends the session; the current roles of its user, or None if it has ended."""
    roles = await tx.fetchval(q.extend_session, session_id, now, expires_at)
    return None if roles is None else frozenset(roles)


async def session_began(read: Read, session_id: UUID) -> datetime | None:
    """When the session began; None if it has ended."""
    found: datetime | None = await read.fetchval(q.session_began, session_id)
    return found


async def erase(tx: Tx, user_id: UUID, now: datetime) -> list[UUID] | None:
    """Erases the user's personal data; returns the user's sessions, all ended. None: there is no such user."""
    if await tx.fetchval(q.erase, user_id, now) is None:
        return None
    await tx.execute(q.drop_links, user_id)
    return [row["id"] for row in await tx.fetch(q.erase_sessions, user_id, now)]


async def sessions_of_erased(read: Read, user_id: UUID) -> list[UUID]:
    """An erased user's sessions, whose tokens must be refused."""
    return [row["id"] for row in await read.fetch(q.sessions_of_erased, user_id)]
