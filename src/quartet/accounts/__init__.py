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
    confirm_owner,
    create_user,
    end_mark,
    erase,
    give_password,
    held,
    mark_of,
    mint_reset,
    mint_verification,
    refuse_erased,
    refuse_tokens_of,
    start_session,
)
from quartet.accounts.store import (
    address,
    by_email,
    ended_since,
    exists,
    known_emails,
    lock,
    names,
    proven_email,
    roles_changed_since,
    roles_of_session,
    set_roles,
    slide,
    sweep,
    user_by_email,
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
    "by_email",
    "confirm_owner",
    "create_user",
    "end_mark",
    "ended_since",
    "erase",
    "exists",
    "give_password",
    "hash_password",
    "held",
    "known_email",
    "known_emails",
    "lock",
    "mark_of",
    "mint_reset",
    "mint_verification",
    "names",
    "place",
    "proven_email",
    "refuse_erased",
    "refuse_tokens_of",
    "roles_changed_since",
    "roles_of_session",
    "set_roles",
    "slide",
    "start_session",
    "sweep",
    "user_by_email",
    "valid_email",
]
