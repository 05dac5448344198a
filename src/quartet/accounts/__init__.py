"""People: users, sessions, passwords, roles. Held in PostgreSQL.

To make an account: `hashed = await hash_password(settings, password)` outside the transaction, then
`await create_user(tx, email, hashed, display_name, roles=(…))`.
"""

from quartet.accounts.model import EmailTaken, SignedIn, User, WrongCredentials
from quartet.accounts.passwords import hash_password
from quartet.accounts.service import create_user, give_password, sign_in, sign_out, sign_up, start_session
from quartet.accounts.store import exists, known_emails, names, sweep

__all__ = [
    "EmailTaken",
    "SignedIn",
    "User",
    "WrongCredentials",
    "create_user",
    "exists",
    "give_password",
    "hash_password",
    "known_emails",
    "names",
    "sign_in",
    "sign_out",
    "sign_up",
    "start_session",
    "sweep",
]
