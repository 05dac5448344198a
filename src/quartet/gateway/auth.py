"""Authentication: the bearer token, the API key or the pages' cookie, read once per request."""

import asyncio
import hashlib
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from quartet import access, accounts
from quartet.accounts import cookies, tokens
from quartet.gateway.limits import SAFE, Limiter
from quartet.kernel.errors import Forbidden, StoreUnavailable, Unauthenticated
from quartet.web.dependencies import Principal, Shop
from quartet.web.limits import Revoked

if TYPE_CHECKING:
    from starlette.datastructures import Headers

_MAX_CACHED = 10_000
# How long a process caches an API key, or the session of an outdated cookie, as read from PostgreSQL.
CACHE_SECONDS = 5.0


class Authenticator:
    """Verifies tokens. A verified token is cached until it expires, since verifying it costs 30 µs; an API key is
    cached for `CACHE_SECONDS`, by its hash."""

    def __init__(self, shop: Shop, limiter: Limiter) -> None:
        self._shop, self._limiter = shop, limiter
        self._known: dict[str, tuple[Principal, datetime]] = {}
        self._keys: dict[bytes, tuple[access.ValidKey, float]] = {}
        self._pages: dict[str, tuple[Principal | None, datetime]] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def principal(self, headers: "Headers", address: str) -> Principal | None:
        """None for a guest. Raises Unauthenticated for an invalid token or key, TooManyRequests for a client that tries
        many."""
        authorization = headers.get("authorization")
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        token = token.lstrip(" ")  # RFC 9110, 11.4: one space or more
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("the Authorization header must read `Bearer <access token>`")
        return await self._key(token, address) if token.startswith(access.PREFIX) else self._token(token)

    def _token(self, token: str) -> Principal:
        now = self._shop.clock.now()
        known = self._known.get(token)
        if known is None:
            known = tokens.read(self._shop.settings, token, now)
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[token] = known
        principal, ends = known
        if ends <= now:
            self._known.pop(token, None)
            raise Unauthenticated("the access token has expired")
        return principal

    async def _key(self, text: str, address: str) -> Principal:
        digest = hashlib.sha256(text.encode()).digest()
        key, until = self._keys.get(digest) or (None, 0.0)
        if key is None or until <= time.monotonic():
            await self._limiter.count_guess(address)
            self._keys.pop(digest, None)
            key = await access.valid_key(self._shop, text)
            if key is not None:
                self._remember(digest, key)
        if key is None or (key.expires_at is not None and key.expires_at <= self._shop.clock.now()):
            raise Unauthenticated("the API key is not valid")
        return Principal(key.id, frozenset({"staff"}), key.id, key.scopes)

    def _remember(self, digest: bytes, key: access.ValidKey) -> None:
        if len(self._keys) >= _MAX_CACHED:
            self._keys.clear()
        self._keys[digest] = (key, time.monotonic() + CACHE_SECONDS)
        note = asyncio.create_task(access.note_use(self._shop, key))  # in the background
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def visitor(self, headers: "Headers", method: str) -> tuple[Principal | None, list[str]]:
        """Authentication by cookie, and `Set-Cookie` values for the answer. A browser with an invalid cookie is treated
        as a guest, and the cookie is deleted. Raises CsrfRefused, StoreUnavailable."""
        settings, now = self._shop.settings, self._shop.clock.now()
        text = cookies.found(settings, headers.get("cookie"))
        if text is None:
            return None, []
        try:
            principal, cached_until = self._pages.get(text) or tokens.read_cookie(settings, text, now)
        except Unauthenticated:
            principal = None
        if principal is None:
            return None, cookies.closed(settings)
        if len(self._pages) >= _MAX_CACHED:
            self._pages.clear()
        self._pages[text] = (principal, cached_until)
        if method not in SAFE:
            cookies.check_page(settings, headers, principal.session_id)
        if cached_until > now:
            return principal, []
        try:
            present, set_cookies = await self._slide(principal)
        except StoreUnavailable:
            # The session can't be checked: users may still read, but not staff, who can do more harm.
            if method in SAFE and not principal.is_staff:
                return principal, []
            raise
        # A page's pictures are still requested with the old cookie: cached, so that not each of them is looked up. An
        # ended session (None) stays ended.
        self._pages[text] = (present, now + timedelta(seconds=CACHE_SECONDS))
        return present, set_cookies

    async def renew(self, principal: Principal, why: Revoked) -> tuple[Principal | None, list[str]]:
        """The same for an outdated cookie: the browser is a guest if the session has ended, and gets a new cookie if
        the roles have changed."""
        if why is Revoked.ENDED:
            return None, cookies.closed(self._shop.settings)
        present, set_cookies = await self._slide(principal)
        if present is not None:
            await access.publish_roles(self._shop, present.user_id, present.roles)
        return present, set_cookies

    async def _slide(self, principal: Principal) -> tuple[Principal | None, list[str]]:
        """Extends a cookie's session (sliding expiry) and reads its present roles; None if it has ended."""
        settings, now = self._shop.settings, self._shop.clock.now()
        async with self._shop.stores.pg.once() as tx:
            ends = now + timedelta(seconds=settings.refresh_ttl)
            roles = await accounts.extend_session(tx, principal.session_id, now, ends)
        if roles is None:
            return None, cookies.closed(settings)
        present = replace(principal, roles=roles)
        return present, cookies.opened(settings, present, now)

    async def revoked(self, principal: Principal | None) -> Revoked | None:
        """Checks the session in PostgreSQL while Redis is down. If PostgreSQL is down too, shoppers are let through;
        for staff, who can do more harm, it raises StoreUnavailable. API keys are not checked: they are cached for
        seconds only."""
        if principal is None or principal.scopes is not None:
            return None
        if self._shop.stores.pg.guard.is_doubtful and not principal.is_staff:
            return None
        try:
            return await self._ask(principal)
        except StoreUnavailable:
            if principal.is_staff:
                raise
            return None

    async def _ask(self, principal: Principal) -> Revoked | None:
        async with self._shop.stores.pg.read() as read:
            roles = await accounts.roles_of_session(read, principal.session_id, self._shop.clock.now())
        if roles == principal.roles:
            return None
        return Revoked.ENDED if roles is None else Revoked.OTHER_ROLES

    async def refuse_revoked(self, principal: Principal, why: Revoked | None) -> None:
        """For a session or key that is revoked, or whose roles have changed, according to Redis. Roles are checked in
        PostgreSQL, since two changes may have reached Redis in the wrong order: if they are unchanged there, Redis is
        corrected. Else raises Unauthenticated."""
        if why is Revoked.OTHER_ROLES:
            why = await self._ask(principal)
        if why is None:
            await access.publish_roles(self._shop, principal.user_id, principal.roles)
            return
        if why is Revoked.OTHER_ROLES:
            raise Unauthenticated("your roles have changed: renew the access token")
        raise Unauthenticated("this session has ended" if principal.scopes is None else "the API key is not valid")


def check_scope(principal: Principal | None, method: str, path: str) -> None:
    """Raises Forbidden naming the scope that an API key lacks."""
    if principal is not None and principal.scopes is not None:
        needed = access.needed_scope(method, path)
        if needed is not None and needed not in principal.scopes:
            raise Forbidden(f"this API key lacks the scope {needed}", scope=needed)
