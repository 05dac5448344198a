"""Adds the retailer's products to the catalog."""

from collections.abc import Iterator, Mapping
from typing import Any

from quartet import catalog, inventory
from quartet.kernel.watch import Watch
from quartet.retail import naming
from quartet.retail.model import SERVICES, Goods, product_name
from quartet.retail.report import Stage
from quartet.stores.files import json_file
from quartet.web.dependencies import Shop

_DRAFTS_A_WRITE = 250


async def fill(shop: Shop, goods: Mapping[str, Goods], watch: Watch) -> int:
    """Creates products for these goods, with inventory's current price and stock; returns how many were new. Charges
    such as postage get no product, only a row in inventory, to which order lines refer."""
    await _add_categories(shop)
    drafts = [draft(sku, found) for sku, found in goods.items() if sku not in SERVICES]
    new = 0
    for start in range(0, len(drafts), _DRAFTS_A_WRITE):
        batch = drafts[start : start + _DRAFTS_A_WRITE]
        async with shop.stores.pg.read() as read:
            items = await inventory.prices(read, [each.sku for each in batch])
        levels = {sku: catalog.Level(item.unit_price_cents, item.available) for sku, item in items.items()}
        new += await catalog.load_products(shop, batch, levels)
        watch(Stage.SHELVES, start + len(batch), len(drafts))
    return new


def draft(sku: str, goods: Goods) -> catalog.Draft:
    """The product of a SKU, with what can be derived from its name."""
    name, attrs = product_name(sku, goods.name), naming.attributes(goods.name)
    return catalog.Draft(
        sku=sku,
        name=name,
        slug=naming.slug(name, sku),
        category=naming.category(goods.name),
        description=naming.description(name, attrs),
        attrs=attrs,
        tags=naming.tags(goods.name),
        published_at=goods.first_sold,
    )


def categories() -> Iterator[catalog.Category]:
    """The parent first, since it has to exist before the others. All share one schema."""
    shelves: dict[str, Any] = json_file(__file__, "categories.json")
    parent, attrs = shelves["parent"], shelves["attrs"]
    yield catalog.Category(parent["slug"], parent["name"], None, attrs)
    for slug, name in shelves["categories"].items():
        yield catalog.Category(slug, name, parent["slug"], attrs)


async def _add_categories(shop: Shop) -> None:
    """Creates only missing categories: staff may have changed the others."""
    present = {category.slug for category in await catalog.categories(shop.stores.mongo)}
    for category in categories():
        if category.slug not in present:
            await catalog.put_category(shop, category)
