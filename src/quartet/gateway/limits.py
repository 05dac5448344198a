"""Rate limits by class of route: per user, and for guests per IP address (IPv6: per /64)."""

from functools import partial

from prometheus_client import Counter

from quartet.kernel.errors import StoreUnavailable, TooManyRequests
from quartet.kernel.settings import Settings
from quartet.stores.redis import RedisStore
from quartet.web import limits
from quartet.web.dependencies import Principal
from quartet.web.limits import Revoked, Share, Taken, address_group

# Methods that change nothing (RFC 9110, 9.2.1).
SAFE = {"GET", "HEAD", "OPTIONS"}
_OF_ACCOUNTS = ("/sessions", "/users", "/password-resets", "/email-verifications")
_HASHING = {"/sessions", "/users", "/users/me/password", "/users/me/email"}
_UNLIMITED = ("/health", "/metrics", "/docs", "/openapi.json", "/problems", "/webhooks", "/images")
# Requests of these classes do not wait for a Redis that does not answer, and a guest's are counted several at once, in
# advance. A signed-in user's are not, since each round trip also checks whether the session has ended.
_LOOKING = {"browse", "search"}
# While Redis is down, each process allows a tenth of these limits, and all of the others.
_STRICT = {"auth": 10, "pay": 10}

COUNTED_LOCALLY = Counter(
    "quartet_rate_limit_alone_total", "Requests counted by this process alone, because Redis was away."
)


def class_of(method: str, path: str) -> str | None:
    """`auth`, `pay`, `search`, `browse`, `write`, or None for routes without a limit."""
    if path.startswith(_UNLIMITED):
        return None
    if path.startswith("/search"):
        return "search"
    if method in SAFE:
        return "browse"
    if path.startswith(_OF_ACCOUNTS) and path != "/sessions/current":
        return "auth"
    if path.startswith(("/orders", "/payments")):
        return "pay"
    return "write"


def hashes(method: str, path: str) -> bool:
    """Whether the route checks or makes a password hash, which takes longer than anything else in the shop."""
    return method == "POST" and (path in _HASHING or path.startswith("/password-resets/"))


def is_for_anyone(method: str, path: str) -> bool:
    """Whether an invalid token is ignored here: a client that signs in or refreshes its token may still send that of a
    session that has ended."""
    if method == "POST" and path in ("/sessions", "/sessions/refresh", "/users", "/password-resets"):
        return True
    return path.startswith((*_UNLIMITED, "/password-resets/", "/email-verifications/"))


class Limiter:
    """Makes one round trip to Redis per request, which counts it and checks whether the session has ended; for guests
    who browse, one for several requests. While Redis is down each process counts by itself: with lower limits for
    passwords and payments, since there may be many processes."""

    def __init__(self, settings: Settings, redis: RedisStore) -> None:
        self._limits = {
            "browse": settings.limit_browse,
            "search": settings.limit_search,
            "write": settings.limit_write,
            "auth": settings.limit_auth,
            "pay": settings.limit_pay,
        }
        self._redis = redis.brief
        self._local_window = limits.LocalWindow()
        self._shares = limits.Shares(redis.brief)

    def at_hand(self, path: str, address: str) -> Share | None:
        """For a guest's GET: the share from which it can be counted without a round trip, if there is one."""
        kind = class_of("GET", path)
        if kind not in _LOOKING:
            return None
        return self._shares.at_hand(f"{kind}:{address_group(address)}")

    async def check(self, method: str, path: str, principal: Principal | None, address: str) -> Taken | Revoked | None:
        """Counts the request. None where no limit applies; Revoked if the session has ended or the roles are no longer
        those of the token, which a result that `is_local` has not checked."""
        kind = class_of(method, path)
        if kind is None:
            return None
        limit = self._limits[kind]
        try:
            if principal is not None:
                user, session, roles = principal.user_id, principal.session_id, principal.roles
                taking = partial(limits.take_for_user, self._redis, kind, user, session, limit, roles=roles)
                return await (self._redis.fail_fast(taking) if kind in _LOOKING else taking())
            name = f"{kind}:{address_group(address)}"
            return await (self._shares.take(name, limit) if kind in _LOOKING else limits.take(self._redis, name, limit))
        except StoreUnavailable:
            COUNTED_LOCALLY.inc()
            who = address_group(address) if principal is None else principal.user_id
            return self._local_window.take(f"{kind}:{who}", max(1, limit // _STRICT.get(kind, 1)))

    async def count_guess(self, address: str) -> None:
        """Counts an API key that is not cached, by IP address, to limit guessing. Raises TooManyRequests."""
        taken = await self.check("POST", "/sessions", None, address)
        if isinstance(taken, Taken) and not taken.allowed:
            raise TooManyRequests(retry_after=taken.reset)
