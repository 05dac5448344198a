"""What people do with their accounts."""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from quartet.accounts import passwords, store, tokens
from quartet.accounts.model import (
    RefreshRefused,
    ResetGone,
    Session,
    SignedIn,
    TooManyAttempts,
    User,
    WrongCredentials,
    known_email,
    refuse_weak,
    valid_email,
)
from quartet.kernel.errors import StoreUnavailable, Unauthenticated, invalid
from quartet.kernel.ids import new_id
from quartet.kernel.settings import Settings
from quartet.stores.postgres import Tx
from quartet.stores.redis import RedisStore
from quartet.web import limits
from quartet.web.dependencies import Principal, Shop

log = structlog.get_logger("quartet.accounts")

RESET_LIFE = timedelta(hours=1)
RESETS_AN_HOUR = 10
_TOKEN_BYTES = 32


async def create_user(
    tx: Tx,
    email: str,
    password_hash: str | None,
    display_name: str | None = None,
    *,
    roles: Iterable[str] = (),
    created_at: datetime | None = None,
) -> User:
    """An account; without a hash (`await hash_password(settings, …)`, beforehand) nobody can sign in to it by password.
    Raises Invalid for a bad address, EmailTaken (the transaction stays usable)."""
    return await store.insert_user(
        tx,
        new_id(),
        valid_email(email),
        password_hash=password_hash,
        display_name=display_name,
        roles=roles,
        created_at=created_at,
    )


async def sign_up(shop: Shop, email: str, password: str, display_name: str | None) -> User:
    """Raises Invalid (bad address, weak password), EmailTaken, Busy."""
    address = valid_email(email)
    refuse_weak(password, address)
    hashed = await passwords.hash_password(shop.settings, password)
    async with shop.stores.pg.once() as tx:
        return await create_user(tx, address, hashed, display_name, created_at=shop.clock.now())


async def sign_in(shop: Shop, email: str, password: str) -> SignedIn:
    """Raises WrongCredentials, the same and as slow for an unknown address; TooManyAttempts, Busy."""
    address = known_email(email)
    async with shop.stores.pg.read() as read:
        found = await store.user_by_email(read, address)
    user, hashed = found or (None, None)
    await _check_password(shop, address, password, hashed)
    if user is None:
        raise WrongCredentials()
    now = shop.clock.now()
    async with shop.stores.pg.once() as tx:
        session = await start_session(tx, user.id, now, shop.settings, checked_hash=hashed)
    return _signed_in(shop.settings, user.id, user.roles, session, now)


async def start_session(
    tx: Tx, user_id: UUID, now: datetime, settings: Settings, *, checked_hash: str | None = None
) -> Session:
    """A new sign-in. With `checked_hash`, only while that is still the user's password; else WrongCredentials."""
    session = _new_session(new_id())
    expires = now + timedelta(seconds=settings.refresh_ttl)
    opened = await store.start_session(
        tx,
        session.id,
        user_id,
        token_hash=_hash(session.refresh_token),
        now=now,
        expires_at=expires,
        checked_hash=checked_hash,
    )
    if not opened:
        raise WrongCredentials()
    return session


async def refresh(shop: Shop, refresh_token: str) -> SignedIn:
    """New tokens for the latest one. A spent one ends its session. Raises RefreshRefused."""
    session_id = _session_of(refresh_token)
    if session_id is None:
        raise RefreshRefused()
    session, now = _new_session(session_id), shop.clock.now()
    async with shop.stores.pg.once() as tx:
        found = await store.rotate(
            tx,
            session_id,
            _hash(refresh_token),
            _hash(session.refresh_token),
            now=now,
            expires_at=now + timedelta(seconds=shop.settings.refresh_ttl),
        )
    if found is None:
        raise RefreshRefused()
    user_id, roles, good = found
    if not good:
        log.warning("refresh_token_reused", user=str(user_id), session=str(session_id))
        await _refuse_tokens_of(shop, user_id, [session_id])
        raise RefreshRefused()
    return _signed_in(shop.settings, user_id, roles, session, now)


async def sign_out(shop: Shop, principal: Principal) -> None:
    """Ends the session: its refresh token at once for good, its access tokens at once while Redis is up."""
    async with shop.stores.pg.once() as tx:
        await store.end_session(tx, principal.session_id, shop.clock.now())
    await _refuse_tokens_of(shop, principal.user_id, [principal.session_id])


async def me(shop: Shop, principal: Principal) -> User:
    """Raises Unauthenticated when the account is gone."""
    return (await _me(shop, principal))[0]


async def rename(shop: Shop, principal: Principal, display_name: str | None) -> User:
    """Raises Unauthenticated when the account is gone."""
    async with shop.stores.pg.once() as tx:
        user = await store.rename(tx, principal.user_id, display_name)
    if user is None:
        raise Unauthenticated("this account is gone")
    return user


async def change_password(shop: Shop, principal: Principal, current: str, new: str) -> None:
    """Ends every other session. Raises Invalid (naming the field), TooManyAttempts, Busy."""
    user, hashed = await _me(shop, principal)
    refuse_weak(new, user.email, "newPassword")
    try:
        await _check_password(shop, user.email, current, hashed)
    except WrongCredentials:
        raise invalid("currentPassword", "is not your password") from None
    assert hashed is not None
    fresh = await passwords.hash_password(shop.settings, new)
    async with shop.stores.pg.tx() as tx:
        if not await store.replace_password(tx, user.id, hashed, fresh):
            raise invalid("currentPassword", "was changed a moment ago")
        await store.drop_resets(tx, user.id)
        ended = await store.end_sessions(tx, user.id, shop.clock.now(), but=principal.session_id)
    await _refuse_tokens_of(shop, user.id, ended)


async def request_reset(shop: Shop, email: str) -> UUID | None:
    """Whether there is somebody to write to, for `send_reset`: the caller answers first, so that a known address takes
    no longer than an unknown one."""
    async with shop.stores.pg.read() as read:
        found = await store.user_by_email(read, known_email(email))
    return found[0].id if found else None


async def send_reset(shop: Shop, user_id: UUID) -> None:
    """Sends a link good once, for an hour. What goes wrong is logged: whoever asked has been answered."""
    try:
        if not await _may_have_reset(shop, user_id):
            return
        token = _secret()
        async with shop.stores.pg.tx() as tx:
            found = await store.user_by_id(tx, user_id)
            if found is None:
                return
            await store.keep_reset(tx, _hash(token), user_id, shop.clock.now() + RESET_LIFE)
        link = f"{shop.settings.base_url.rstrip('/')}/password-resets/{token}"
        await shop.mail.send(found[0].email, "Choose a new password", _RESET_TEXT.format(link=link))
    except (StoreUnavailable, OSError) as error:
        log.error("reset_not_sent", user=str(user_id), error=str(error))


_RESET_TEXT = """Somebody asked for a new password for your account.

If it was you, choose one here within an hour; the link works once:

{link}

If it was not, ignore this message: nothing has changed.
"""


async def reset_password(shop: Shop, token: str, password: str) -> None:
    """Ends every session. Raises ResetGone, Invalid (weak), Busy; a weak password does not spend the token."""
    hashed_token = _hash(token)
    async with shop.stores.pg.read() as read:
        found = await store.find_reset(read, hashed_token, shop.clock.now())
    if found is None:
        raise ResetGone()
    user_id, email = found
    refuse_weak(password, email)
    hashed = await passwords.hash_password(shop.settings, password)
    now = shop.clock.now()
    async with shop.stores.pg.tx() as tx:
        # The user's row first: two links of one user would else wait for one another's.
        await store.set_password(tx, user_id, hashed)
        if not await store.spend_reset(tx, hashed_token, now):
            raise ResetGone()
        await store.drop_resets(tx, user_id)
        ended = await store.end_sessions(tx, user_id, now)
    await _refuse_tokens_of(shop, user_id, ended)


async def give_password(shop: Shop, email: str, password: str) -> bool:
    """A new password without the old one, for whoever runs the shop; ends every session. False: no such account.
    Raises Invalid (weak), Busy."""
    address = known_email(email)
    refuse_weak(password, address)
    hashed = await passwords.hash_password(shop.settings, password)
    async with shop.stores.pg.tx() as tx:
        found = await store.user_by_email(tx, address)
        if found is None:
            return False
        user_id = found[0].id
        await store.set_password(tx, user_id, hashed)
        await store.drop_resets(tx, user_id)
        ended = await store.end_sessions(tx, user_id, shop.clock.now())
    await _refuse_tokens_of(shop, user_id, ended)
    return True


async def _me(shop: Shop, principal: Principal) -> tuple[User, str | None]:
    async with shop.stores.pg.read() as read:
        found = await store.user_by_id(read, principal.user_id)
    if found is None:
        raise Unauthenticated("this account is gone")
    return found


async def _check_password(shop: Shop, address: str, password: str, hashed: str | None) -> None:
    """Counts what is wrong; looks again when its turn comes, since many may have failed while this one waited."""
    redis, limit = shop.stores.redis, shop.settings.limit_sign_in_failures
    await _refuse_after_failures(redis, address, limit)
    queue = passwords.turns(shop.settings)
    async with queue.turn():
        await _refuse_after_failures(redis, address, limit)
        if await passwords.is_right(queue, password, hashed):
            return
        await _take(redis, _failures_of(address), limit)
    raise WrongCredentials()


async def _refuse_after_failures(redis: RedisStore, address: str, limit: int) -> None:
    taken = await _take(redis, _failures_of(address), limit, cost=0)
    if taken is not None and not taken.allowed:
        raise TooManyAttempts(retry_after=max(1, taken.reset))


def _failures_of(address: str) -> str:
    """Hashed: whoever reads Redis' keys need not learn who our customers are."""
    return f"failures:{hashlib.sha256(address.encode()).hexdigest()[:32]}"


async def _may_have_reset(shop: Shop, user_id: UUID) -> bool:
    taken = await _take(shop.stores.redis, f"resets:{user_id}", RESETS_AN_HOUR, window=3600)
    return taken is None or taken.allowed


async def _take(redis: RedisStore, name: str, limit: int, *, window: int = 60, cost: int = 1) -> limits.Taken | None:
    """None while Redis is away: signing in goes on without this limit."""
    try:
        return await limits.take(redis, name, limit, window=window, cost=cost)
    except StoreUnavailable:
        return None


async def _refuse_tokens_of(shop: Shop, user_id: UUID, sessions: list[UUID]) -> None:
    """Tells the gateway, which refuses their access tokens at once. Without Redis they live out their minutes."""
    if not sessions:
        return
    ttl = shop.settings.access_ttl
    try:
        await shop.stores.redis.pipeline(
            [("SET", limits.session_key(user_id, session), "ended", "EX", ttl) for session in sessions]
        )
    except StoreUnavailable:
        log.warning("session_end_not_announced", sessions=len(sessions))


def _signed_in(settings: Settings, user_id: UUID, roles: frozenset[str], session: Session, now: datetime) -> SignedIn:
    access = tokens.issue(settings, Principal(user_id, roles, session.id), now)
    return SignedIn(user_id, access, session.refresh_token, settings.access_ttl)


def _new_session(session_id: UUID) -> Session:
    """The token names its session, so that a spent one can be told from one that never was."""
    return Session(session_id, f"{_base64(session_id.bytes)}.{_secret()}")


def _session_of(refresh_token: str) -> UUID | None:
    name, dot, secret = refresh_token.partition(".")
    try:
        raw = base64.urlsafe_b64decode(name + "==")
        return UUID(bytes=raw) if dot and secret else None
    except (ValueError, binascii.Error):
        return None


def _secret() -> str:
    return _base64(secrets.token_bytes(_TOKEN_BYTES))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _hash(token: str) -> bytes:
    """Plain SHA-256 will do for 256 random bits."""
    return hashlib.sha256(token.encode()).digest()
