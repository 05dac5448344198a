"""An order: from the lines that are sent, or the cart, to reserved stock."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from quartet import accounts, cart, catalog, inventory, merchandising, orders
from quartet.checkout import answers
from quartet.kernel.errors import Problem, StoreUnavailable, Unauthenticated, invalid
from quartet.web import idempotency
from quartet.web.answers import Answer
from quartet.web.dependencies import Shop, Visitor
from quartet.web.idempotency import RequestKey

Lines = Sequence[tuple[str, int]]


async def place(
    shop: Shop,
    visitor: Visitor,
    items: Lines | None,
    metadata: Mapping[str, Any],
    key: RequestKey | None,
    *,
    email: str | None,
    expected: int | None,
    found_by: Sequence[tuple[str, UUID]] = (),
) -> Answer:
    """Reserves stock and creates the order: of `items` (SKU, pieces), else of the buyer's cart. A guest has an `email`,
    and gets the order's token; `expected` is the total in cents that the buyer was shown, `found_by` the search that
    led to a SKU.

    Raises InsufficientStock, UnknownSku, MixedCurrencies, PriceChanged, Unauthenticated (a guest without an address),
    Invalid (nothing to order, or an address from a signed-in user), and StoreUnavailable if the cart is ordered and
    Redis is down.
    """
    buyer = _buyer(visitor, email)
    lines = await _to_order(shop, visitor, items)
    if isinstance(lines, Problem):
        return await idempotency.refuse(shop, key, lines)
    hold = timedelta(seconds=shop.settings.order_hold_seconds)
    async with idempotency.unclaimed(shop, key, once=key is None and not found_by) as slot:
        asked = (slot.tx, buyer, lines, metadata)
        if key is None:
            order = await orders.place(*asked, hold=hold, expected=expected)
        else:
            placed = await orders.place_under_key(*asked, key=key, hold=hold, expected=expected)
            if isinstance(placed, Answer):
                return placed
            order = placed
        if found_by:
            await merchandising.expect(slot.tx, order.id, found_by)
        token = shop.order_tokens.issue(order.id) if order.email else None
        answer = await slot.keep(answers.of_new_order(order, token))
    await shop.step("order placed")
    return answer


async def _to_order(shop: Shop, visitor: Visitor, items: Lines | None) -> Lines | Problem:
    """The lines to order, or the reason to refuse, if PostgreSQL alone can't know it: the cart can't be read, or the
    catalog does not show a product, which then is not sold. Returned, not raised: it matters only if the key has no
    answer yet."""
    try:
        lines = await _cart_lines(shop, visitor) if items is None else items
    except StoreUnavailable as away:
        return away
    if not lines:
        return invalid("items", "are missing, and the cart is empty" if items is None else "must not be empty")
    skus = [sku for sku, _ in lines]
    hidden = await catalog.hidden_skus(shop, skus)
    if not hidden:
        return lines
    async with shop.stores.pg.read() as read:
        known = await inventory.prices(read, skus)
    return orders.UnknownSku.of([sku for sku in dict.fromkeys(skus) if sku in hidden or sku not in known])


async def _cart_lines(shop: Shop, visitor: Visitor) -> Lines:
    """A user's cart, after merging a guest's cart that is sent along, or a guest's own."""
    token = cart.good_token(visitor.cart_token)
    owner = visitor.user_id or token
    if visitor.user_id is not None:
        await cart.merge(shop, token, visitor.user_id)
    return list((await cart.contents(shop, owner)).items()) if owner else []


def _buyer(visitor: Visitor, email: str | None) -> UUID | orders.Guest:
    if visitor.user_id is not None:
        if email is not None:
            raise invalid("email", "must not be given: the order is the account's")
        return visitor.user_id
    if email is None:
        raise Unauthenticated("sign in, or give an email to order without an account")
    token = cart.good_token(visitor.cart_token)
    return orders.Guest(accounts.valid_email(email), token and cart.name_of(token))
