"""Accounts: users, sessions, passwords, roles. Stored in PostgreSQL.

To create an account: `hashed = await hash_password(shop, password)` outside the transaction, then `await
create_user(tx, email, hashed, display_name, roles=(…))`.
"""

from quartet.accounts.api import PersonShape, UserShape
from quartet.accounts.model import (
    Device,
    EmailTaken,
    TooManyAttempts,
    User,
    WrongCredentials,
    known_email,
    valid_email,
)
from quartet.accounts.passwords import Busy, hash_password, place
from quartet.accounts.service import (
    address_digest,
    confirm_owner,
    create_user,
    erase,
    give_password,
    mint_reset,
    mint_verification,
    personal_data,
    refuse_erased,
    refuse_tokens_of,
    session_ended_command,
    start_session,
)
from quartet.accounts.store import (
    address,
    by_email,
    ended_since,
    exists,
    extend_session,
    known_emails,
    lock,
    names,
    roles_changed_since,
    roles_of_session,
    set_roles,
    sweep,
    user_by_email,
    verified_email,
)

__all__ = [
    "Busy",
    "Device",
    "EmailTaken",
    "PersonShape",
    "TooManyAttempts",
    "User",
    "UserShape",
    "WrongCredentials",
    "address",
    "address_digest",
    "by_email",
    "confirm_owner",
    "create_user",
    "ended_since",
    "erase",
    "exists",
    "extend_session",
    "give_password",
    "hash_password",
    "known_email",
    "known_emails",
    "lock",
    "mint_reset",
    "mint_verification",
    "names",
    "personal_data",
    "place",
    "refuse_erased",
    "refuse_tokens_of",
    "roles_changed_since",
    "roles_of_session",
    "session_ended_command",
    "set_roles",
    "start_session",
    "sweep",
    "user_by_email",
    "valid_email",
    "verified_email",
]
