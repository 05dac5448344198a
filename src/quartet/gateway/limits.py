"""How many requests a minute: by class of route, for a user, else for an address (IPv6 by /64)."""

import ipaddress
import time

from quartet.kernel.errors import StoreUnavailable, Unauthenticated
from quartet.kernel.settings import Settings
from quartet.stores.redis import RedisStore
from quartet.web import limits
from quartet.web.dependencies import Principal
from quartet.web.limits import Taken

_READING = {"GET", "HEAD", "OPTIONS"}
_UNLIMITED = ("/health", "/metrics", "/docs", "/openapi.json", "/problems", "/webhooks", "/images")
# After Redis failed, ask again only this much later: a shop without limits is better than one that waits.
_REST_SECONDS = 1.0


def class_of(method: str, path: str) -> str | None:
    """`auth`, `pay`, `search`, `browse`, `write`, or None for routes without a limit."""
    if path.startswith(_UNLIMITED):
        return None
    if path.startswith("/search"):
        return "search"
    if method in _READING:
        return "browse"
    if path.startswith(("/sessions", "/users", "/password-resets")) and path != "/sessions/current":
        return "auth"
    if path.startswith(("/orders", "/payments")):
        return "pay"
    return "write"


def address_group(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one, since one customer has all of it."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if ip.version == 6:
        mapped = ip.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((ip, 64), strict=False).network_address)
    return str(ip)


class Limiter:
    """One round trip to Redis a request: the window, and whether the session has ended. Fails open."""

    def __init__(self, settings: Settings, redis: RedisStore) -> None:
        self._limits = {
            "browse": settings.limit_browse,
            "search": settings.limit_search,
            "write": settings.limit_write,
            "auth": settings.limit_auth,
            "pay": settings.limit_pay,
        }
        self._redis = redis
        self._rests_until = 0.0

    async def check(self, method: str, path: str, principal: Principal | None, address: str) -> Taken | None:
        """None where no limit applies or Redis is away. Raises Unauthenticated when the session was ended."""
        kind = class_of(method, path)
        if kind is None or time.monotonic() < self._rests_until:
            return None
        limit = self._limits[kind]
        try:
            if principal is None:
                return await limits.take(self._redis, f"{kind}:{address_group(address)}", limit)
            taken = await limits.take_signed(self._redis, kind, principal.user_id, principal.session_id, limit)
        except StoreUnavailable:
            self._rests_until = time.monotonic() + _REST_SECONDS
            return None
        if taken is None:
            raise Unauthenticated("this session has ended")
        return taken
