"""Access tokens: JWT, HS256 and nothing else, for one audience, with every claim demanded."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt

from quartet.kernel.errors import Unauthenticated
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Principal

ALGORITHM = "HS256"
AUDIENCE = "quartet"
_CLAIMS = ["exp", "iat", "aud", "sub", "sid", "roles"]


def issue(settings: Settings, principal: Principal, now: datetime) -> str:
    """A token good for `settings.access_ttl` seconds from `now`."""
    claims = {
        "sub": str(principal.user_id),
        "sid": str(principal.session_id),
        "roles": sorted(principal.roles),
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + timedelta(seconds=settings.access_ttl),
    }
    return jwt.encode(claims, settings.secret.get_secret_value(), ALGORITHM)


def read(settings: Settings, token: str, now: datetime) -> tuple[Principal, datetime]:
    """Who it names and when it ends; Unauthenticated when it is not good at `now`."""
    try:
        claims = jwt.decode(
            token,
            settings.secret.get_secret_value(),
            [ALGORITHM],
            audience=AUDIENCE,
            options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
        )
        ends = datetime.fromtimestamp(claims["exp"], UTC)
        principal = Principal(UUID(claims["sub"]), frozenset(claims["roles"]), UUID(claims["sid"]))
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError, OverflowError):
        raise Unauthenticated("the access token is not valid") from None
    if ends <= now:
        raise Unauthenticated("the access token has expired")
    return principal, ends
