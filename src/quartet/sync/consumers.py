"""Who consumes what: the table of consumers by topic (docs/events.md).

Delivery is at least once: a consumer may get the same event again, after a crash or a replay, and recognises it by its
id or the order's. When one fails, the event is retried later, with all later events of the same key, and nothing else.
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
    """The user's, else the guest's by its name."""
    user_id, name = event.payload["user_id"], event.payload.get("guest_cart")
    if (whose := UUID(user_id) if user_id else name) is None:
        return
    bought = {line["sku"]: 0 for line in event.payload["items"]}
    for line in event.payload["items"]:
        bought[line["sku"]] += line["qty"]
    await cart.take_bought(shop.stores.redis, whose, bought, event.payload["order_id"])


async def _count_points(shop: Shop, event: Event) -> None:
    """What is left of the money, once for each order. A guest has no name to be shown under, and who claims the order
    of a guest later gets no points for it."""
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
    """An e-mail is written down with the whole batch, so what is wrong with one event must be told before."""
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

# All that this version knows. What a newer one writes meanwhile is left to its workers.
TOPICS = frozenset({*CONSUMERS, *hooks.EVENTS, "canary.sung"})

# These keep what they hear in PostgreSQL, of every topic, many events at once.
KEEPERS: tuple[Keeper, ...] = (notify.keep, hooks.keep, merchandising.keep)
