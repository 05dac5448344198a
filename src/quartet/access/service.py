"""Creating and revoking API keys, and assigning roles."""

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from quartet import accounts
from quartet.access import store
from quartet.access.model import SCOPES, ApiKey, LastAdmin, ValidKey
from quartet.kernel.errors import NotFound, StoreUnavailable, invalid
from quartet.kernel.ids import new_id
from quartet.stores.postgres import Violation
from quartet.stores.redis import Arg, Command
from quartet.web import limits, trail
from quartet.web.dependencies import Principal, Shop

log = structlog.get_logger("quartet.access")

PREFIX = "qk_"
_SHOWN = len(PREFIX) + 8
# Longer than any process caches that a key was valid.
_MARK_SECONDS = 60
_USE_NOTED = timedelta(minutes=1)
# Holds the time up to which Redis knows everything that invalidates access tokens.
_PUBLISHED_AT = "access:told"
# A change may become visible this much later than its own timestamp: transactions last, and clocks differ.
_UNSEEN = timedelta(minutes=1)
_AT_ONCE = 1000


async def create_key(
    shop: Shop, principal: Principal, name: str, scopes: Iterable[str], expires_at: datetime | None
) -> tuple[ApiKey, str]:
    """A new key and its text, which is never shown again. Raises Invalid naming `scopes` or `expiresAt`."""
    unknown = sorted(set(scopes) - SCOPES)
    if unknown:
        raise invalid("scopes", f"there is no scope {unknown[0]}; there are {', '.join(sorted(SCOPES))}")
    now = shop.clock.now()
    if expires_at is not None and expires_at <= now:
        raise invalid("expiresAt", "must be in the future")
    text = PREFIX + secrets.token_urlsafe(32)
    async with shop.stores.pg.tx() as tx:
        key = await store.insert_key(
            tx, new_id(), name, prefix=text[:_SHOWN], key_hash=_digest(text), scopes=set(scopes),
            now=now, by=principal.user_id, expires_at=expires_at,
        )  # fmt: skip
        await trail.record(tx, principal.actor, "api-key.create", "api-key", key.id, after=key)
    return key, text


async def revoke_key(shop: Shop, principal: Principal, key_id: UUID) -> None:
    """Takes effect at once in every process while Redis is up; without it when they no longer cache the key (seconds).
    Raises NotFound."""
    now = shop.clock.now()
    async with shop.stores.pg.tx() as tx:
        key = await store.revoke_key(tx, key_id, now)
        if key is None:
            raise NotFound(f"there is no API key {key_id}")
        if key.revoked_at == now:
            before = replace(key, revoked_at=None)
            await trail.record(tx, principal.actor, "api-key.revoke", "api-key", key_id, before=before, after=key)
    await publish_revoked_keys(shop, [key_id])


async def publish_revoked_keys(shop: Shop, key_ids: Iterable[UUID]) -> None:
    """Tells every process, while Redis is up."""
    for key_id in key_ids:
        await _publish(shop, "SET", limits.session_key(key_id, key_id), "ended", "EX", _MARK_SECONDS)


async def valid_key(shop: Shop, text: str) -> ValidKey | None:
    """The key as PostgreSQL has it; None if it is not valid now."""
    async with shop.stores.pg.read() as read:
        return await store.valid_key(read, _digest(text), shop.clock.now())


async def note_use(shop: Shop, key: ValidKey) -> None:
    """Records a use of the key, at most once a minute; if PostgreSQL is down, the next use is recorded instead. Meant
    to run when no caller waits."""
    now = shop.clock.now()
    if key.last_used_at is not None and key.last_used_at > now - _USE_NOTED:
        return
    try:
        async with shop.stores.pg.once() as tx:
            await store.note_use(tx, key.id, now)
    except StoreUnavailable:
        log.warning("use_not_noted", api_key=str(key.id))


async def user_by_email(shop: Shop, email: str) -> accounts.User:
    """The user with this address. Raises NotFound."""
    async with shop.stores.pg.read() as read:
        found = await accounts.user_by_email(read, accounts.known_email(email))
    if found is None:
        raise NotFound(f"nobody has an account by {email}")
    return found[0]


async def set_roles(shop: Shop, user_id: UUID, roles: frozenset[str], *, actor: str) -> accounts.User:
    """Takes effect at once: tokens with other roles are refused, and renewed ones have the new roles. Raises NotFound,
    LastAdmin."""
    with last_admin_guard():
        async with shop.stores.pg.tx() as tx:
            found = await accounts.lock(tx, user_id)
            if found is None:
                raise NotFound(f"there is no user {user_id}")
            user = await accounts.set_roles(tx, user_id, roles, shop.clock.now())
            if user.roles != found.roles:
                await trail.record(
                    tx, actor, "user.roles", "user", user_id,
                    before={"roles": found.roles}, after={"roles": user.roles},
                )  # fmt: skip
    await publish_roles(shop, user_id, user.roles)
    return user


@contextmanager
def last_admin_guard() -> Iterator[None]:
    """Around a transaction that removes roles: raises LastAdmin if the database refuses."""
    try:
        yield
    except Violation as refusal:
        if refusal.sqlstate != "QT015":
            raise
        raise LastAdmin() from refusal


async def publish_roles(shop: Shop, user_id: UUID, roles: frozenset[str]) -> None:
    """Makes every process check this user's tokens with other roles against PostgreSQL, for as long as there can be
    any."""
    await _publish(shop, *_roles_mark(shop, user_id, roles))


async def republish_revocations(shop: Shop, *, all_of_it: bool = False) -> None:
    """Tells Redis of the sessions that have ended and the roles that were changed since it was last told; of all whose
    marks would still be live, if it does not know when that was, or with `all_of_it`. Needed when Redis was down or has
    lost data, or when a process died between ending a session and telling Redis. Raises StoreUnavailable."""
    now = shop.clock.now()
    since = now - timedelta(seconds=limits.marker_ttl(shop.settings.access_ttl))
    if not all_of_it and (published := await shop.stores.redis.call("GET", _PUBLISHED_AT)) is not None:
        since = max(since, datetime.fromisoformat(published) - _UNSEEN)
    async with shop.stores.pg.read() as read:
        ended = await accounts.ended_since(read, since)
    await _publish_all(shop, [accounts.session_ended_command(shop, user, session) for user, session in ended])
    known: dict[UUID, frozenset[str]] = {}
    while (changed := await _roles_since(shop, since)) != known:  # until no role has changed meanwhile
        await _publish_all(shop, [_roles_mark(shop, user, roles) for user, roles in changed.items()])
        known = changed
    await shop.stores.redis.call("SET", _PUBLISHED_AT, now.isoformat(), "EX", shop.settings.access_ttl)


async def _roles_since(shop: Shop, since: datetime) -> dict[UUID, frozenset[str]]:
    async with shop.stores.pg.read() as read:
        return dict(await accounts.roles_changed_since(read, since))


async def _publish_all(shop: Shop, marks: Sequence[Command]) -> None:
    for first in range(0, len(marks), _AT_ONCE):
        await shop.stores.redis.pipeline(marks[first : first + _AT_ONCE])


def _roles_mark(shop: Shop, user_id: UUID, roles: frozenset[str]) -> Command:
    seconds = limits.marker_ttl(shop.settings.access_ttl)
    return "SET", limits.roles_key(user_id), limits.joined_roles(roles), "EX", seconds


async def _publish(shop: Shop, *command: Arg) -> None:
    try:
        await shop.stores.redis.call(*command)
    except StoreUnavailable:
        log.warning("change_of_access_not_announced", what=str(command[1]))


def _digest(text: str) -> bytes:
    """Plain SHA-256 is enough for 256 random bits."""
    return hashlib.sha256(text.encode()).digest()
