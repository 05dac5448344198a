"""Use cases of accounts."""

import base64
import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from quartet import orders
from quartet.accounts import lockout, passwords, store, tokens
from quartet.accounts.model import (
    UNKNOWN_DEVICE,
    Device,
    OpenSession,
    RefreshRefused,
    ResetGone,
    Session,
    SignedIn,
    User,
    VerificationGone,
    WrongCredentials,
    known_email,
    refuse_weak,
    valid_email,
)
from quartet.kernel.errors import NotFound, StoreUnavailable, TooManyRequests, Unauthenticated, invalid
from quartet.kernel.ids import new_id
from quartet.kernel.settings import Settings
from quartet.stores import outbox
from quartet.stores.postgres import Tx
from quartet.stores.redis import Command
from quartet.web import limits
from quartet.web.dependencies import Principal, Shop

log = structlog.get_logger("quartet.accounts")

RESET_LIFE = timedelta(hours=1)
VERIFICATION_LIFE = timedelta(hours=24)
MAILS_AN_HOUR = 10
_TOKEN_BYTES = 32
# A sign-in starts over when the hash changes during it.
_TRIES = 3


async def create_user(
    tx: Tx,
    email: str,
    password_hash: str | None,
    display_name: str | None = None,
    *,
    roles: Iterable[str] = (),
    created_at: datetime | None = None,
) -> User:
    """Creates an account; without a hash (`await hash_password(shop, …)`, beforehand) nobody can sign in to it by
    password. Raises Invalid for a bad address, EmailTaken (the transaction stays usable)."""
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
    hashed = await passwords.hash_password(shop, password)
    async with shop.stores.pg.tx() as tx:
        user = await create_user(tx, address, hashed, display_name, created_at=shop.clock.now())
        await _ask_verification(tx, user.id, address)
    return user


async def sign_in(shop: Shop, email: str, password: str, device: Device = UNKNOWN_DEVICE) -> SignedIn:
    """Raises WrongCredentials (for an unknown address as well, and after the same time), TooManyAttempts, Busy."""
    address = known_email(email)
    async with passwords.place(shop):
        for _ in range(_TRIES):
            async with shop.stores.pg.read() as read:
                user, hashed = await store.user_by_email(read, address) or (None, None)
            renewed = await _check_password(shop, address, password, hashed, device)
            assert user is not None
            await shop.step("password checked")
            session = await _begin_session(shop, user, hashed, renewed, device)
            if session is not None:
                return _signed_in(shop.settings, user.id, user.roles, session, shop.clock.now())
    raise WrongCredentials()


async def _begin_session(
    shop: Shop, user: User, hashed: str | None, renewed: str | None, device: Device
) -> Session | None:
    """None if the stored hash is no longer the one that was checked, perhaps because another sign-in has just renewed
    it."""
    now = shop.clock.now()
    try:
        async with shop.stores.pg.once() if renewed is None else shop.stores.pg.tx() as tx:
            if renewed is not None and hashed is not None:
                hashed = renewed if await store.replace_password(tx, user.id, hashed, renewed) else hashed
            return await start_session(tx, user.id, now, shop.settings, checked_hash=hashed, device=device)
    except WrongCredentials:
        return None


async def start_session(
    tx: Tx,
    user_id: UUID,
    now: datetime,
    settings: Settings,
    *,
    checked_hash: str | None = None,
    device: Device = UNKNOWN_DEVICE,
) -> Session:
    """A new session. With `checked_hash`, only while that is still the user's hash; else raises WrongCredentials."""
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
        device=device,
    )
    if not opened:
        raise WrongCredentials()
    return session


async def refresh(shop: Shop, refresh_token: str, device: Device = UNKNOWN_DEVICE) -> SignedIn:
    """Exchanges the latest refresh token for new tokens. One that was used before ends its session. Raises
    RefreshRefused."""
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
            device=device,
        )
    if found is None:
        raise RefreshRefused()
    user_id, roles, good = found
    if not good:
        log.warning("refresh_token_reused", user=str(user_id), session=str(session_id))
        await refuse_tokens_of(shop, user_id, [session_id])
        raise RefreshRefused()
    return _signed_in(shop.settings, user_id, roles, session, now)


async def sign_out(shop: Shop, principal: Principal) -> None:
    """Ends the session: its refresh token at once and for good, its access tokens at once or, without Redis, within
    seconds."""
    async with shop.stores.pg.once() as tx:
        await store.end_session(tx, principal.session_id, shop.clock.now())
    await refuse_tokens_of(shop, principal.user_id, [principal.session_id])


async def sessions(shop: Shop, principal: Principal, before: UUID | None, limit: int) -> list[OpenSession]:
    """The user's open sessions, newest first; only those that began before session `before`, if it is given."""
    async with shop.stores.pg.read() as read:
        return await store.open_sessions(read, principal.user_id, shop.clock.now(), before, limit)


async def end_own_session(shop: Shop, principal: Principal, session_id: UUID) -> None:
    """Ends one of the user's sessions: its tokens are no longer valid. Raises NotFound, also for another user's."""
    async with shop.stores.pg.once() as tx:
        if not await store.end_own_session(tx, session_id, principal.user_id, shop.clock.now()):
            raise NotFound(f"you have no session {session_id}")
    await refuse_tokens_of(shop, principal.user_id, [session_id])


async def end_other_sessions(shop: Shop, principal: Principal) -> None:
    """Ends all of the user's sessions but this one."""
    async with shop.stores.pg.once() as tx:
        ended = await store.end_sessions(tx, principal.user_id, shop.clock.now(), but=principal.session_id)
    await refuse_tokens_of(shop, principal.user_id, ended)


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


async def change_password(shop: Shop, principal: Principal, current: str, new: str, device: Device) -> None:
    """Sets a new password and ends every other session. Raises Invalid (naming the field), TooManyAttempts, Busy."""
    user, hashed = await _me(shop, principal)
    refuse_weak(new, user.email, "newPassword")
    await _confirm(shop, user, hashed, current, device, field="currentPassword")
    assert hashed is not None
    fresh = await passwords.hash_password(shop, new)
    async with shop.stores.pg.tx() as tx:
        if not await store.replace_password(tx, user.id, hashed, fresh):
            raise invalid("currentPassword", "was changed a moment ago")
        await _tell_password(tx, user.id)
        ended = await store.end_sessions(tx, user.id, shop.clock.now(), but=principal.session_id)
    await refuse_tokens_of(shop, user.id, ended)


async def ask_reset(shop: Shop, email: str) -> None:
    """Requests an e-mail with a password-reset link, if the address has an account; the same work and the same answer
    if not."""
    async with shop.stores.pg.once() as tx:
        await store.ask_reset(tx, known_email(email))


async def mint_reset(tx: Tx, user_id: UUID, address: str, now: datetime) -> tuple[str, str] | None:
    """Generates the token of a password-reset link when the e-mail is sent to this address: (display name, empty unless
    the address is verified; token). Only its hash is stored, and the previous token becomes invalid. None: the address
    is not the user's any more."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    name = await store.mint_link(tx, "reset", _hash(token), user_id, address, expires_at=now + RESET_LIFE)
    return None if name is None else (name, token)


async def mint_verification(tx: Tx, user_id: UUID, address: str, now: datetime) -> tuple[str, str] | None:
    """The same for a link that verifies the address. None: there is nothing to verify, or by now another address."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    name = await store.mint_link(tx, "verify", _hash(token), user_id, address, expires_at=now + VERIFICATION_LIFE)
    return None if name is None else (name, token)


async def reset_password(shop: Shop, token: str, password: str) -> None:
    """Sets a new password and ends every session. Raises ResetGone, Invalid (weak), Busy; a weak password does not use
    up the token."""
    hashed_token = _hash(token)
    async with shop.stores.pg.read() as read:
        found = await store.find_link(read, hashed_token, "reset", shop.clock.now())
    if found is None:
        raise ResetGone()
    user_id, email = found
    refuse_weak(password, email)
    hashed = await passwords.hash_password(shop, password)
    now = shop.clock.now()
    async with shop.stores.pg.tx() as tx:
        await orders.claim(tx, email, user_id)  # reading the e-mail verifies the address; orders' rows are locked first
        await store.set_password(tx, user_id, hashed)
        if not await store.spend_link(tx, hashed_token, "reset", now):
            raise ResetGone()
        await _tell_password(tx, user_id)
        await store.prove_email(tx, user_id, email, now)
        ended = await store.end_sessions(tx, user_id, now)
    await shop.step("password reset")
    await lockout.forget(shop.stores, shop.settings, email)
    await refuse_tokens_of(shop, user_id, ended)


async def ask_verification(shop: Shop, principal: Principal) -> None:
    """Sends the verification link again. Raises TooManyRequests."""
    await _refuse_many_mails(shop, principal.user_id)
    async with shop.stores.pg.tx() as tx:
        address = await store.address(tx, principal.user_id, pending=True)
        if address is not None:
            await _ask_verification(tx, principal.user_id, address)


async def change_email(shop: Shop, principal: Principal, email: str, password: str, device: Device) -> User:
    """Sends a link to the new address, which replaces the old one once the link is used; the old address is notified.
    Raises Invalid (naming the field), EmailTaken, TooManyAttempts, TooManyRequests, Busy."""
    address = valid_email(email)
    user, hashed = await _me(shop, principal)
    await _confirm(shop, user, hashed, password, device)
    assert hashed is not None
    await _refuse_many_mails(shop, user.id)
    async with shop.stores.pg.tx() as tx:
        if not await store.lock_password(tx, user.id, hashed):
            raise invalid("password", "was changed a moment ago")
        user = await store.want_email(tx, user.id, address)
        if user.pending_email is not None:
            await outbox.emit(tx, "user.email_change_asked", str(user.id), {"user_id": str(user.id)})
            await _ask_verification(tx, user.id, address)
    return user


async def _confirm(
    shop: Shop, user: User, hashed: str | None, password: str, device: Device, *, field: str = "password"
) -> None:
    """Confirms the user by password. Raises Invalid naming `field`, TooManyAttempts, Busy."""
    try:
        async with passwords.place(shop):
            await _check_password(shop, user.email, password, hashed, device)
    except WrongCredentials:
        raise invalid(field, "is not your password") from None


async def verify_email(shop: Shop, token: str) -> None:
    """The address that the link was sent to becomes the account's, verified, and every guest order with it the user's.
    Raises VerificationGone, EmailTaken."""
    hashed, now = _hash(token), shop.clock.now()
    async with shop.stores.pg.tx() as tx:
        found = await store.find_link(tx, hashed, "verify", now)
        if found is None:
            raise VerificationGone()
        user_id, email = found
        await orders.claim(tx, email, user_id)  # an order's row is locked before its user's, as when one is placed
        if not await store.prove_email(tx, user_id, email, now) or not await store.spend_link(
            tx, hashed, "verify", now
        ):
            raise VerificationGone()


async def _ask_verification(tx: Tx, user_id: UUID, address: str) -> None:
    """No link goes to an address that the account is to have only since then: the present one might not have been
    notified yet."""
    payload = {"user_id": str(user_id), "address": address_digest(user_id, address)}
    await outbox.emit(tx, "user.verify_asked", str(user_id), payload)


def address_digest(user_id: UUID, address: str) -> str:
    """A digest that tells whether a user's address is still the one that it was made of, without keeping that."""
    return hashlib.sha256(f"{user_id} {address}".encode()).hexdigest()


async def _tell_password(tx: Tx, user_id: UUID) -> None:
    """After a change of password: what was requested under the old one is void, and the owner is notified."""
    await store.drop_what_was_asked(tx, user_id)
    await outbox.emit(tx, "user.password_changed", str(user_id), {"user_id": str(user_id)})


async def give_password(shop: Shop, email: str, password: str) -> bool:
    """Sets a new password without the old one, for the shop's operator; ends every session. False: no such account.
    Raises Invalid (weak), Busy."""
    address = known_email(email)
    refuse_weak(password, address)
    hashed = await passwords.hash_password(shop, password)
    async with shop.stores.pg.tx() as tx:
        found = await store.user_by_email(tx, address)
        if found is None:
            return False
        user_id = found[0].id
        await store.set_password(tx, user_id, hashed)
        await _tell_password(tx, user_id)
        ended = await store.end_sessions(tx, user_id, shop.clock.now())
    await refuse_tokens_of(shop, user_id, ended)
    return True


async def _me(shop: Shop, principal: Principal) -> tuple[User, str | None]:
    async with shop.stores.pg.read() as read:
        found = await store.user_by_id(read, principal.user_id)
    if found is None:
        raise Unauthenticated("this account is gone")
    return found


async def _check_password(shop: Shop, email: str, password: str, hashed: str | None, device: Device) -> str | None:
    """A new hash, if the old one was made with other parameters than today's. Hold a place in the queue; the lockout is
    checked again when a hasher is free, since many tries may have failed meanwhile. Raises WrongCredentials,
    TooManyAttempts, Busy."""
    buckets = lockout.buckets_of(shop.settings, email, device.address)
    await lockout.check(shop.stores, buckets)
    queue = passwords.hashing_queue(shop)
    async with queue.free_hasher:
        tried = await lockout.count_try(shop.stores, buckets)
        is_right, renewed = await passwords.check(queue, password, hashed)
    if not is_right:
        raise WrongCredentials()
    await lockout.record_success(shop.stores, tried)
    return renewed


async def _refuse_many_mails(shop: Shop, user_id: UUID) -> None:
    try:
        taken = await limits.take(shop.stores.redis, f"verifications:{user_id}", MAILS_AN_HOUR, window=3600)
    except StoreUnavailable:  # without Redis there is no such limit
        return
    if not taken.allowed:
        raise TooManyRequests("enough e-mails for now", retry_after=taken.reset)


async def confirm_owner(
    shop: Shop, principal: Principal, password: str | None, device: Device, *, fresh: timedelta
) -> User:
    """Confirms the user by password or, for an account without one, by a sign-in no older than `fresh`. Raises Invalid
    naming `password`, Unauthenticated, TooManyAttempts, Busy."""
    user, hashed = await _me(shop, principal)
    if hashed is not None:
        if password is None:
            raise invalid("password", "is missing")
        await _confirm(shop, user, hashed, password, device)
        return user
    async with shop.stores.pg.read() as read:
        began = await store.session_began(read, principal.session_id)
    if began is None or began <= shop.clock.now() - fresh:
        raise Unauthenticated("sign in again first")
    return user


async def erase(tx: Tx, user_id: UUID, now: datetime) -> list[UUID]:
    """Erases the user's personal data; returns the sessions that this ended. Raises Unauthenticated if it is already
    erased."""
    ended = await store.erase(tx, user_id, now)
    if ended is None:
        raise Unauthenticated("this account is gone")
    return ended


async def refuse_erased(shop: Shop, user_id: UUID) -> None:
    """Invalidates the access tokens of an erased user. Raises StoreUnavailable."""
    async with shop.stores.pg.read() as read:
        ended = await store.sessions_of_erased(read, user_id)
    await shop.stores.redis.pipeline([session_ended_command(shop, user_id, session) for session in ended])


async def personal_data(shop: Shop, principal: Principal, sessions: int) -> tuple[User, list[OpenSession]]:
    """The data that accounts hold about a user, with at most so many of the newest sessions. Raises Unauthenticated."""
    user, _ = await _me(shop, principal)
    async with shop.stores.pg.read() as read:
        return user, await store.open_sessions(read, user.id, shop.clock.now(), None, sessions)


async def refuse_tokens_of(shop: Shop, user_id: UUID, sessions: list[UUID]) -> None:
    """Makes the gateway refuse these sessions' access tokens at once; if that fails,
    `access.republish_revocations` does it later."""
    if not sessions:
        return
    await shop.step("sessions ended")
    try:
        await shop.stores.redis.pipeline([session_ended_command(shop, user_id, session) for session in sessions])
    except StoreUnavailable:
        log.warning("session_end_not_announced", sessions=len(sessions))


def session_ended_command(shop: Shop, user_id: UUID, session_id: UUID) -> Command:
    """The Redis command that marks a session as ended."""
    seconds = limits.marker_ttl(shop.settings.access_ttl)
    return "SET", limits.session_key(user_id, session_id), "ended", "EX", seconds


def _signed_in(settings: Settings, user_id: UUID, roles: frozenset[str], session: Session, now: datetime) -> SignedIn:
    principal = Principal(user_id, roles, session.id)
    return SignedIn(principal, tokens.issue(settings, principal, now), session.refresh_token, settings.access_ttl)


def _new_session(session_id: UUID) -> Session:
    """The token contains its session's id, so that a used token can be told from one that never existed."""
    name = base64.urlsafe_b64encode(session_id.bytes).decode().rstrip("=")
    return Session(session_id, f"{name}.{secrets.token_urlsafe(_TOKEN_BYTES)}")


def _session_of(refresh_token: str) -> UUID | None:
    name, dot, secret = refresh_token.partition(".")
    try:
        raw = base64.urlsafe_b64decode(name + "==")
        return UUID(bytes=raw) if dot and secret else None
    except ValueError:
        return None


def _hash(token: str) -> bytes:
    """Plain SHA-256 is enough for 256 random bits."""
    return hashlib.sha256(token.encode()).digest()
