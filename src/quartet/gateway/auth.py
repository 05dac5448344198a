"""Who is asking: the bearer token, or the pages' session cookie, read once at the door."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from quartet.accounts import tokens
from quartet.kernel.errors import Unauthenticated
from quartet.web.dependencies import Principal, Shop

if TYPE_CHECKING:
    from starlette.datastructures import Headers

COOKIE = "quartet_session"
_REMEMBERED = 10_000


class Door:
    """Reads tokens. A token once verified is remembered to its end, since checking it again costs 30 µs a request."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._known: dict[str, tuple[Principal, datetime]] = {}

    def principal(self, headers: "Headers") -> Principal | None:
        """None for a guest; Unauthenticated for a token that is not good."""
        authorization = headers.get("authorization")
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("the Authorization header must read `Bearer <access token>`")
        now = self._shop.clock.now()
        principal, ends = self._known.get(token) or (None, datetime.min.replace(tzinfo=UTC))
        if principal is None:
            principal, ends = tokens.read(self._shop.settings, token, now)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[token] = (principal, ends)
        if ends <= now:
            self._known.pop(token, None)
            raise Unauthenticated("the access token has expired")
        return principal
