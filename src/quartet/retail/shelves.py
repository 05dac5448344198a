"""What the retailer sold, put into the catalog."""

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
    """Puts these goods on sale, at inventory's price and stock of now; answers how many products were new. Charges such
    as postage have a row in inventory, for their orders' sake, but no page in the shop."""
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
    """The product page of a SKU, as far as its name tells."""
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
    """The parent first, as they have to be made. All gifts share one schema: their names tell no more."""
    shelves: dict[str, Any] = json_file(__file__, "categories.json")
    parent, attrs = shelves["parent"], shelves["attrs"]
    yield catalog.Category(parent["slug"], parent["name"], None, attrs)
    for slug, name in shelves["categories"].items():
        yield catalog.Category(slug, name, parent["slug"], attrs)


async def _add_categories(shop: Shop) -> None:
    """Only the missing ones: staff may have changed the others."""
    present = {category.slug for category in await catalog.categories(shop.stores.mongo)}
    for category in categories():
        if category.slug not in present:
            await catalog.put_category(shop, category)
