"""What an account is, and the rules of addresses and passwords."""

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from email_validator import EmailNotValidError, validate_email

from quartet.kernel.errors import Conflict, Problem, TooManyRequests, Unauthenticated, invalid

SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 128
LONGEST_NAME = 100

COMMON_PASSWORDS = frozenset(Path(__file__).with_name("common_passwords.txt").read_text(encoding="utf-8").split())


@dataclass(frozen=True)
class User:
    """Somebody with an account; `roles` may hold `staff` and `admin`."""

    id: UUID
    email: str
    display_name: str | None
    plan: str
    roles: frozenset[str]
    created_at: datetime


@dataclass(frozen=True)
class Session:
    """A sign-in as its owner gets it: the refresh token is not kept anywhere else."""

    id: UUID
    refresh_token: str


@dataclass(frozen=True)
class SignedIn:
    """What a client gets for good credentials: `expires_in` is the access token's life in seconds."""

    user_id: UUID
    access_token: str
    refresh_token: str
    expires_in: int


class EmailTaken(Conflict):
    """There is an account with this e-mail address already. Sign in with it, or ask for a new password with
    POST /password-resets."""

    slug, title = "email-taken", "This address has an account already"


class WrongCredentials(Unauthenticated):
    """The address and the password do not belong together. Whether the address has an account is not said."""

    slug, title = "wrong-credentials", "Wrong address or password"


class RefreshRefused(Unauthenticated):
    """The refresh token is spent, expired or not one of ours; when it was spent before, its session has ended for
    everyone who holds a token of it. Sign in again."""

    slug, title = "refresh-refused", "Sign in again"


class TooManyAttempts(TooManyRequests):
    """Too many wrong passwords for this address. Wait for `Retry-After` seconds."""

    slug, title = "too-many-attempts", "Too many wrong passwords"


class ResetGone(Problem):
    """The link is spent or has expired. Ask for a new one with POST /password-resets."""

    slug: ClassVar[str] = "reset-gone"
    status: ClassVar[int] = 410
    title: ClassVar[str] = "This link is spent or has expired"


def valid_email(text: str) -> str:
    """The address as accounts are found by it. Raises Invalid naming `email`."""
    try:
        # The test environment only adds the domain .test, which nobody outside can own.
        found = validate_email(text.strip(), check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise invalid("email", str(error)) from None
    return found.normalized.lower()


def known_email(text: str) -> str:
    """The same for an address that only has to be found; one that is none finds nobody."""
    try:
        found = validate_email(text.strip(), check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        return text.strip().lower()
    return found.normalized.lower()


def normal_password(password: str) -> str:
    """One password typed on two keyboards is one password (NIST SP 800-63B, 3.1.1.2: NFKC before hashing)."""
    return unicodedata.normalize("NFKC", password)


def refuse_weak(password: str, email: str, field: str = "password") -> None:
    """Length, the commonest, and one's own address; no rules of composition (NIST SP 800-63B). Raises Invalid."""
    plain = normal_password(password).casefold()
    if not SHORTEST_PASSWORD <= len(plain) <= LONGEST_PASSWORD:
        raise invalid(field, f"must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    if len(set(plain)) < 3 or plain in COMMON_PASSWORDS:
        raise invalid(field, "is one of the first that somebody would try; choose another")
    if plain in (email, email.partition("@")[0]):
        raise invalid(field, "must not be your e-mail address")
