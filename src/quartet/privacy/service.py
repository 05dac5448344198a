"""Erasing a person's data.

What PostgreSQL holds is erased in one transaction, with the event `user.erased`; the relay then calls `forget` for the
other stores and retries until all of it succeeded, so a crash anywhere still ends with everything erased. Orders,
payments and the ledger stay, as the law demands; they refer to an emptied row of `users`.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from quartet import (
    access,
    accounts,
    addresses,
    cart,
    catalog,
    hooks,
    leaderboard,
    merchandising,
    notify,
    orders,
    payments,
)
from quartet.privacy.model import OrdersOpen
from quartet.stores import letters, outbox
from quartet.web import idempotency
from quartet.web.answers import plain_json
from quartet.web.dependencies import Principal, Shop

# A user without a password confirms the erasure by a recent sign-in.
FRESH = timedelta(minutes=15)
_PAGE = 100
_SESSIONS = 1000
_OF_REVIEW = ("productId", "rating", "title", "body", "author", "createdAt")

Json = dict[str, Any]


async def erase(shop: Shop, principal: Principal, password: str | None, device: accounts.Device) -> None:
    """Erases the user's data; every session ends. Raises Unauthenticated (gone, or not signed in recently), Invalid
    (the password), OrdersOpen, LastAdmin, TooManyAttempts, Busy."""
    user = await accounts.confirm_owner(shop, principal, password, device, fresh=FRESH)
    proven = user.email if user.email_verified else None
    now = shop.clock.now()
    with access.last_admin_guard():
        async with shop.stores.pg.tx() as tx:
            # Orders' rows are locked first, as everywhere; then none of their payments can start or end meanwhile.
            await orders.lock_of_person(tx, user.id, proven)
            # This waits for orders, keys and addresses that the user is just creating, so that they are found; later
            # ones are refused.
            ended = await accounts.erase(tx, user.id, now)
            theirs = await orders.lock_of_person(tx, user.id, proven)
            if await payments.any_open(tx, theirs):
                raise OrdersOpen()
            await orders.forget(tx, theirs, now)
            await payments.forget(tx, theirs)
            await merchandising.forget_lines(tx, theirs)
            await idempotency.forget_person(tx, user.id, theirs)
            # By the orders' ids alone: an address that is not verified may be somebody else's.
            await outbox.forget_orders(tx, theirs)
            await hooks.forget_orders(tx, theirs)
            await notify.forget_orders(tx, theirs)
            await letters.forget_person(tx, user.id, theirs)
            keys = await access.forget(tx, user.id, now)
            await addresses.forget(tx, user.id)
            await outbox.emit(tx, "user.erased", str(user.id), {"user_id": str(user.id)})
    await shop.step("person erased")
    await accounts.refuse_tokens_of(shop, user.id, ended)
    await access.publish_revoked_keys(shop, keys)


async def forget(shop: Shop, user_id: UUID) -> None:
    """Erases what other stores hold about an erased user; idempotent. Raises StoreUnavailable."""
    await accounts.refuse_erased(shop, user_id)
    await shop.step("tokens refused")
    await cart.forget(shop, user_id)
    await shop.step("cart forgotten")
    await leaderboard.forget(shop, user_id)
    await shop.step("points forgotten")
    await catalog.forget_author(shop.stores.mongo, user_id)
    await shop.step("reviews unsigned")


async def export(shop: Shop, principal: Principal) -> AsyncIterator[bytes]:
    """Everything held about the user as one JSON object, piece by piece: no more than a page of orders and some hundred
    reviews are in memory at once. Raises Unauthenticated and StoreUnavailable before the first piece."""
    profile, sessions = await accounts.personal_data(shop, principal, _SESSIONS)
    async with shop.stores.pg.read() as read:
        places = await addresses.of_user(read, principal.user_id)
    lines = await cart.lines(shop.stores.redis, principal.user_id)
    points = {period: await leaderboard.place_of(shop, period, principal.user_id) for period in leaderboard.PERIODS}
    small = {
        "profile": profile,
        "sessions": sessions,
        "addresses": places,
        "cart": [{"sku": sku, "qty": qty} for sku, qty in lines.items()],
        "points": {period: place.xp if place else 0 for period, place in points.items()},
    }
    reviews = _listed(_reviews(shop, principal.user_id))
    # Every store is read before the first piece is sent: an outage is then an error, not an answer that breaks off.
    first_reviews = await anext(reviews, b"")
    yield plain_json(small)[:-1] + b',"orders":['
    async for piece in _listed(_orders(shop, profile)):
        yield piece
    yield b'],"reviews":[' + first_reviews
    async for piece in reviews:
        yield piece
    yield b"]}"


async def _orders(shop: Shop, user: accounts.User) -> AsyncIterator[list[Json]]:
    """The user's orders, and guest orders with their verified address. Each page is read on a connection of its own: a
    slow client holds none."""
    before, proven = orders.NEWEST, user.email if user.email_verified else None
    while True:
        async with shop.stores.pg.read() as read:
            page = await orders.page(read, limit=_PAGE, before=before, user_id=user.id, email=proven)
        yield [_wire(order) for order in page]
        if len(page) < _PAGE:
            return
        before = orders.Before(page[-1].created_at, page[-1].id)


def _wire(order: orders.Order) -> Json:
    return orders.OrderShape.model_validate(order).model_dump(mode="json", by_alias=True)


async def _reviews(shop: Shop, user_id: UUID) -> AsyncIterator[list[Json]]:
    async for some in catalog.reviews_by(shop.stores.mongo, user_id):
        yield [{name: review[name] for name in _OF_REVIEW} for review in some]


async def _listed(pages: AsyncIterator[list[Json]]) -> AsyncIterator[bytes]:
    comma = b""
    async for page in pages:
        if page:
            yield comma + plain_json(page)[1:-1]
            comma = b","
