"""A cart as it is shown: lines from Redis, current prices from inventory, names and pictures from the catalog."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from quartet import catalog, inventory
from quartet.cart.model import Cart, Line, Owner, good_token
from quartet.cart.store import Carts
from quartet.cart.store import lines as cart_lines
from quartet.kernel.errors import NotFound, StoreUnavailable
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.cart")


async def show(shop: Shop, owner: Owner) -> Cart:
    """The cart at current prices. Without the catalog it is shown with inventory's names and no pictures."""
    return await _priced(shop, await _carts(shop).lines(owner))


async def add(shop: Shop, owner: Owner, sku: str, qty: int) -> Cart:
    """Raises NotFound for what is not sold, CartFull (nothing is changed)."""
    info = await _sold(shop, owner, sku)
    return await _priced(shop, await _carts(shop).add(owner, sku, qty), info)


async def put(shop: Shop, owner: Owner, sku: str, qty: int) -> Cart:
    """Sets the quantity, 0 removes. Raises NotFound for what is not sold, CartFull (nothing is changed)."""
    info = await _sold(shop, owner, sku) if qty > 0 else None
    return await _priced(shop, await _carts(shop).put(owner, sku, qty), info)


async def clear(shop: Shop, owner: Owner) -> None:
    """Empties the cart."""
    await _carts(shop).clear(owner)


async def forget(shop: Shop, user_id: UUID) -> None:
    """An erased user has no cart, and gets none again."""
    await _carts(shop).forget(user_id)


async def contents(shop: Shop, owner: Owner) -> dict[str, int]:
    """The contents of a cart that is about to be ordered: SKU to quantity. Reading renews its TTL."""
    return await _carts(shop).lines(owner)


async def merge(shop: Shop, token: str | None, user_id: UUID) -> None:
    """A guest's cart becomes part of the user's; a token that we did not issue names no cart."""
    if good := good_token(token):
        await _carts(shop).merge(good, user_id)


def _carts(shop: Shop) -> Carts:
    return Carts(shop.stores.redis, shop.settings.cart_days, shop.step)


@dataclass(frozen=True)
class _ProductInfo:
    """What is known of the SKUs asked for; `cards` is None while the catalog is down. `hidden`: SKUs that inventory has
    and the catalog does not publish."""

    asked: frozenset[str]
    items: dict[str, inventory.Item]
    cards: dict[str, catalog.Card] | None
    hidden: frozenset[str]


async def _product_info(shop: Shop, skus: Iterable[str]) -> _ProductInfo:
    asked = frozenset(skus)
    items, cards = await asyncio.gather(_items(shop, asked), _cards(shop, asked))
    bare = items.keys() - cards.keys() if cards is not None else ()
    hidden = await catalog.hidden_skus(shop, bare) if bare else ()
    return _ProductInfo(asked, items, cards, frozenset(hidden))


async def _sold(shop: Shop, owner: Owner, sku: str) -> _ProductInfo:
    """Raises NotFound for what is not sold. Reads everything in the cart at once, so that it can be shown afterwards
    without another call."""
    info = await _product_info(shop, [*await cart_lines(shop.stores.redis, owner), sku])
    hidden = info.hidden
    if info.cards is None and sku not in await catalog.cards(shop, [sku]):  # the catalog was only slow
        hidden = frozenset(await catalog.hidden_skus(shop, [sku]))
    # As an order does, it takes what inventory alone has, and nothing that the catalog keeps from being seen.
    if sku not in info.items or sku in hidden:
        raise NotFound(
            f"the shop sells nothing as {sku}", errors=[{"field": "sku", "message": "is not sold in this shop"}]
        )
    return info


async def _priced(shop: Shop, lines: Mapping[str, int], info: _ProductInfo | None = None) -> Cart:
    if not lines:
        return Cart([], shop.settings.currency)
    if info is None or not lines.keys() <= info.asked:  # another tab was quicker
        info = await _product_info(shop, lines)
    items = {sku: info.items[sku] for sku in lines if sku in info.items}
    cards = info.cards or {}
    currencies = {item.currency for item in items.values()}
    currency = shop.settings.currency if shop.settings.currency in currencies or not currencies else min(currencies)
    shown = [
        _line(sku, qty, items.get(sku), cards.get(sku), currency, is_hidden=sku in info.hidden)
        for sku, qty in lines.items()
    ]
    return Cart(shown, currency)


def _line(
    sku: str, qty: int, item: inventory.Item | None, card: catalog.Card | None, currency: str, *, is_hidden: bool
) -> Line:
    """What is no longer sold, or is sold in another currency than the rest, can't be bought with it: 0 available."""
    name = card.name if card else item.name if item else sku
    slug, image = (card.slug, card.image) if card else (None, None)
    if item is None or item.currency != currency:
        return Line(sku, qty, name, slug, image, 0, 0)
    return Line(sku, qty, name, slug, image, item.unit_price_cents, 0 if is_hidden else item.available)


async def _items(shop: Shop, skus: Iterable[str]) -> dict[str, inventory.Item]:
    async with shop.stores.pg.read() as read:
        return await inventory.prices(read, skus)


async def _cards(shop: Shop, skus: Iterable[str]) -> dict[str, catalog.Card] | None:
    """None while the catalog is down: a cart without pictures is better than none."""
    try:
        return await catalog.cards(shop, skus, brief=True)
    except StoreUnavailable:
        log.warning("cart_without_catalog")
        return None
