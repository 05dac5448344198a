"""The consumers of each topic (docs/events.md).

Delivery is at least once: a consumer may get the same event again, after a crash or a replay, and recognises it by its
id or the order's. If one fails, the event is retried later, and later events of the same key wait for it; no others do.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from quartet import cart, hooks, leaderboard, merchandising, notify, privacy
from quartet.stores.outbox import Event
from quartet.stores.postgres import Tx
from quartet.web.dependencies import Shop

Consumer = Callable[[Shop, Event], Awaitable[None]]
Keeper = Callable[[Tx, Sequence[Event]], Awaitable[None]]


async def _empty_cart_of_bought(shop: Shop, event: Event) -> None:
    """Removes the bought items from the user's cart, or from the guest's, which the event names."""
    user_id, name = event.payload["user_id"], event.payload.get("guest_cart")
    if (whose := UUID(user_id) if user_id else name) is None:
        return
    bought = {line["sku"]: 0 for line in event.payload["items"]}
    for line in event.payload["items"]:
        bought[line["sku"]] += line["qty"]
    await cart.take_bought(shop.stores.redis, whose, bought, event.payload["order_id"])


async def _count_points(shop: Shop, event: Event) -> None:
    """Sets an order's points to what was paid less refunds; idempotent per order. Guests get none, having no name to
    show, and a guest order claimed after its confirmation gets none either."""
    told = event.payload
    since = told.get("confirmed_at") or (event.created_at.isoformat() if event.topic == "order.confirmed" else None)
    if told["user_id"] is None or since is None:
        return
    at, claimed = datetime.fromisoformat(since), told.get("claimed_at")
    if claimed is not None and datetime.fromisoformat(claimed) >= at:
        return
    left = 0 if event.topic == "order.cancelled" else told["total_cents"] - told.get("refunded_cents", 0)
    await leaderboard.settle_order(
        shop, told["order_id"], UUID(told["user_id"]), left_cents=left, currency=told["currency"], confirmed_at=at
    )


async def _forget_person(shop: Shop, event: Event) -> None:
    await privacy.forget(shop, UUID(event.payload["user_id"]))


async def _can_be_mailed(_shop: Shop, event: Event) -> None:
    """Raises if no e-mail can be made of the event: e-mails are stored for the whole batch in one transaction, which
    one bad event must not fail."""
    notify.check(event)


CONSUMERS: Mapping[str, tuple[Consumer, ...]] = {
    "order.confirmed": (_can_be_mailed, _empty_cart_of_bought, _count_points),
    "order.cancelled": (_can_be_mailed, _count_points),
    "order.refunded": (_can_be_mailed, _count_points),
    "payment.returned": (_can_be_mailed,),
    "user.email_change_asked": (_can_be_mailed,),
    "user.password_changed": (_can_be_mailed,),
    "user.reset_asked": (_can_be_mailed,),
    "user.verify_asked": (_can_be_mailed,),
    "user.erased": (_forget_person,),
    "webhook.disabled": (_can_be_mailed,),
}

# The topics that this version knows. Events of other topics, written by a newer version, are left to its workers.
TOPICS = frozenset({*CONSUMERS, *hooks.EVENTS, "canary.sung"})

# Consumers that store what they need in PostgreSQL, in bulk: they get the events of every topic.
KEEPERS: tuple[Keeper, ...] = (notify.keep, hooks.keep, merchandising.keep)
