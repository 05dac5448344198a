"""Access tokens: JWT, HS256 only, for one audience, with every claim required.

A token names its key by `kid`, a digest of the key: the current secret signs, retired ones still verify. A `kid` is
only ever compared with those of these few keys.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

import jwt

from quartet.kernel.errors import Unauthenticated
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Principal

ALGORITHM = "HS256"
AUDIENCE = "quartet"
PAGES = "quartet-pages"  # audience of the session cookie, which lives as long as a refresh token
_CLAIMS = ["exp", "iat", "aud", "sub", "sid", "roles"]


def issue(settings: Settings, principal: Principal, now: datetime, audience: str = AUDIENCE) -> str:
    """A token valid for `settings.access_ttl` seconds from `now`; for the audience PAGES, `refresh_ttl`."""
    seconds = settings.access_ttl if audience == AUDIENCE else settings.refresh_ttl
    claims = {
        "sub": str(principal.user_id),
        "sid": str(principal.session_id),
        "roles": sorted(principal.roles),
        "aud": audience,
        "iat": now,
        "exp": now + timedelta(seconds=seconds),
    }
    secret = settings.secret.get_secret_value()
    return jwt.encode(claims, secret, ALGORITHM, {"kid": key_id(secret)})


def read(settings: Settings, token: str, now: datetime) -> tuple[Principal, datetime]:
    """The token's principal and expiry. Raises Unauthenticated if it is not valid at `now`."""
    principal, _begun, ends = _read(settings, token, now, AUDIENCE)
    return principal, ends


def read_cookie(settings: Settings, token: str, now: datetime) -> tuple[Principal, datetime]:
    """The session cookie's principal, and until when it is trusted without asking PostgreSQL. Raises Unauthenticated as
    `read`."""
    principal, begun, _ends = _read(settings, token, now, PAGES)
    return principal, begun + timedelta(seconds=settings.access_ttl)


def _read(settings: Settings, token: str, now: datetime, audience: str) -> tuple[Principal, datetime, datetime]:
    try:
        claims = jwt.decode(
            token,
            _key_of(settings, token),
            [ALGORITHM],
            audience=audience,
            options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
        )
        begun, ends = datetime.fromtimestamp(claims["iat"], UTC), datetime.fromtimestamp(claims["exp"], UTC)
        principal = Principal(UUID(claims["sub"]), frozenset(claims["roles"]), UUID(claims["sid"]))
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError, OverflowError):
        raise Unauthenticated("the access token is not valid") from None
    if ends <= now:
        raise Unauthenticated("the access token has expired")
    return principal, begun, ends


@lru_cache(maxsize=64)
def key_id(secret: str) -> str:
    """A key's id: 96 bits of a digest, which reveal nothing about the key."""
    return hashlib.sha256(b"kid:" + secret.encode()).hexdigest()[:24]


def _key_of(settings: Settings, token: str) -> str:
    """The key that the token says it was signed with. Raises InvalidTokenError if it is not one of ours."""
    kid = jwt.get_unverified_header(token).get("kid")
    for secret in settings.all_secrets():
        if key_id(secret) == kid:
            return secret
    raise jwt.InvalidTokenError("no such key")
