"""What an account is, and the rules of e-mail addresses and passwords."""

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
    """Somebody with an account; `roles` may hold `staff` and `admin`. `pending_email` is to be their address once it is
    proved."""

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
    """Where a request comes from: `user_agent` as sent, cut to 200 characters, and the address, "" where it is not
    known. Of the address only its network is kept."""

    user_agent: str | None = None
    address: str = ""

    @property
    def network(self) -> str | None:
        """An IPv4 /24 or IPv6 /48."""
        return network_of(self.address)


UNKNOWN_DEVICE = Device()


@dataclass(frozen=True)
class Session:
    """A sign-in as its owner gets it: the refresh token is not kept anywhere else."""

    id: UUID
    refresh_token: str


@dataclass(frozen=True)
class OpenSession:
    """A sign-in as it is listed. `last_used_at`: when its tokens were last renewed."""

    id: UUID
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    user_agent: str | None
    network: str | None


@dataclass(frozen=True)
class SignedIn:
    """What a client gets for good credentials: `expires_in` is the access token's life in seconds."""

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
    password is checked, not even the right one. A link by POST /password-resets unlocks the account at once."""

    slug, title = "too-many-attempts", "Too many wrong passwords"


class VerificationGone(Problem):
    """The link was used, has expired, or was sent for an address that the account no longer claims. Request a new one
    with POST /email-verifications."""

    slug, status, title = "verification-gone", 410, "This link is spent or has expired"


class ResetGone(Problem):
    """The link was used or has expired. Request a new one with POST /password-resets."""

    slug, status, title = "reset-gone", 410, "This link is spent or has expired"


def valid_email(text: str) -> str:
    """The address as accounts are found by it. Raises Invalid naming `email`."""
    try:
        # Strictly: no mail server takes more than 64 characters before the @. The test environment only adds the domain
        # .test, which nobody outside can own.
        found = validate_email(text.strip(), check_deliverability=False, test_environment=True, strict=True)
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
