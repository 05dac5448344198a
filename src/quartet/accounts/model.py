"""Accounts, their errors, and the rules for e-mail addresses and passwords."""

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from email_validator import EmailNotValidError, validate_email

from quartet.kernel.errors import Conflict, Problem, TooManyRequests, Unauthenticated, invalid
from quartet.web.dependencies import Principal
from quartet.web.limits import network_of

SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 128
LONGEST_NAME = 100
LONGEST_USER_AGENT = 200

COMMON_PASSWORDS = frozenset(Path(__file__).with_name("common_passwords.txt").read_text(encoding="utf-8").split())


@dataclass(frozen=True)
class User:
    """A user; `roles` may contain `staff` and `admin`. `pending_email` replaces `email` once it is verified."""

    id: UUID
    email: str
    display_name: str | None
    plan: str
    roles: frozenset[str]
    created_at: datetime
    email_verified: bool = False
    pending_email: str | None = None


@dataclass(frozen=True)
class Device:
    """Where a request comes from: `user_agent` as sent, cut to 200 characters, and the IP address, "" if unknown. Only
    the address's network is stored."""

    user_agent: str | None = None
    address: str = ""

    @property
    def network(self) -> str | None:
        """The address's IPv4 /24 or IPv6 /48."""
        return network_of(self.address)


UNKNOWN_DEVICE = Device()


@dataclass(frozen=True)
class Session:
    """A session as given to its owner: the refresh token itself is stored nowhere else."""

    id: UUID
    refresh_token: str


@dataclass(frozen=True)
class OpenSession:
    """A session as listed. `last_used_at`: when its tokens were last renewed."""

    id: UUID
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    user_agent: str | None
    network: str | None


@dataclass(frozen=True)
class SignedIn:
    """What a client gets for valid credentials: `expires_in` is the access token's lifetime in seconds."""

    principal: Principal
    access_token: str
    refresh_token: str
    expires_in: int


class EmailTaken(Conflict):
    """There is an account with this e-mail address already. Sign in with it, or ask for a new password with
    POST /password-resets."""

    slug, title = "email-taken", "This address has an account already"


class WrongCredentials(Unauthenticated):
    """Wrong e-mail address or password. Whether the address has an account is not disclosed."""

    slug, title = "wrong-credentials", "Wrong address or password"


class RefreshRefused(Unauthenticated):
    """The refresh token was used before, has expired or is invalid; if it was used before, its session has been ended
    for every holder of one of its tokens. Sign in again."""

    slug, title = "refresh-refused", "Sign in again"


class TooManyAttempts(TooManyRequests):
    """Too many wrong passwords, for this account or from your IP address. Wait for `Retry-After` seconds; until then no
    password is checked, not even the right one. Setting a new password by a link from POST /password-resets unlocks the
    account at once."""

    slug, title = "too-many-attempts", "Too many wrong passwords"


class VerificationGone(Problem):
    """The link was used, has expired, or was sent for an address that the account no longer claims. Request a new one
    with POST /email-verifications."""

    slug, status, title = "verification-gone", 410, "This link is spent or has expired"


class ResetGone(Problem):
    """The link was used, has expired, or was replaced by a newer one or by a change of password. Request a new one with
    POST /password-resets."""

    slug, status, title = "reset-gone", 410, "This link is spent or has expired"


def valid_email(text: str) -> str:
    """The address in the normalised form by which accounts are found. Raises Invalid naming `email`."""
    try:
        # Strict: no mail server takes more than 64 characters before the @. The test environment only adds the domain
        # .test, which nobody can register.
        found = validate_email(text.strip(), check_deliverability=False, test_environment=True, strict=True)
    except EmailNotValidError as error:
        raise invalid("email", str(error)) from None
    return found.normalized.lower()


def known_email(text: str) -> str:
    """The same for an address that is only looked up; an invalid one matches no account."""
    try:
        found = validate_email(text.strip(), check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        return text.strip().lower()
    return found.normalized.lower()


def normal_password(password: str) -> str:
    """The same password typed on two keyboards has to match (NIST SP 800-63B, 3.1.1.2: NFKC before hashing)."""
    return unicodedata.normalize("NFKC", password)


def refuse_weak(password: str, email: str, field: str = "password") -> None:
    """Checks the length, common passwords and the account's own address; no composition rules (NIST SP 800-63B). Raises
    Invalid naming `field`."""
    plain = normal_password(password).casefold()
    if not SHORTEST_PASSWORD <= len(plain) <= LONGEST_PASSWORD:
        raise invalid(field, f"must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    if len(set(plain)) < 3 or plain in COMMON_PASSWORDS:
        raise invalid(field, "is one of the first that somebody would try; choose another")
    if plain in (email, email.partition("@")[0]):
        raise invalid(field, "must not be your e-mail address")
