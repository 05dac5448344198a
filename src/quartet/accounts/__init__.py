"""People: users, sessions, passwords, roles. Held in PostgreSQL.

To make an account: `hashed = await hash_password(settings, password)` outside the transaction, then
`await create_user(tx, email, hashed, display_name, roles=(…))`.
"""

from quartet.accounts.model import (
    Device,
    EmailTaken,
    OpenSession,
    SignedIn,
    TooManyAttempts,
    User,
    WrongCredentials,
    valid_email,
)
from quartet.accounts.passwords import Busy, hash_password, place
from quartet.accounts.service import (
    confirm_owner,
    create_user,
    erase,
    give_password,
    held,
    mint_reset,
    mint_verification,
    refuse_erased,
    refuse_tokens_of,
    sign_in,
    sign_out,
    sign_up,
    start_session,
)
from quartet.accounts.store import (
    address,
    by_email,
    exists,
    known_emails,
    lock,
    names,
    proven_email,
    roles_of_session,
    set_roles,
    slide,
    sweep,
)

__all__ = [
    "Busy",
    "Device",
    "EmailTaken",
    "OpenSession",
    "SignedIn",
    "TooManyAttempts",
    "User",
    "WrongCredentials",
    "address",
    "by_email",
    "confirm_owner",
    "create_user",
    "erase",
    "exists",
    "give_password",
    "hash_password",
    "held",
    "known_emails",
    "lock",
    "mint_reset",
    "mint_verification",
    "names",
    "place",
    "proven_email",
    "refuse_erased",
    "refuse_tokens_of",
    "roles_of_session",
    "set_roles",
    "sign_in",
    "sign_out",
    "sign_up",
    "slide",
    "start_session",
    "sweep",
    "valid_email",
]
