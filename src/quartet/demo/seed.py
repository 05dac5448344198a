"""Fills an empty shop with demo data: prices and stock, categories, products, and three logins."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from quartet import accounts, catalog, inventory
from quartet.demo.logins import LOGINS, keep, kept, new_password
from quartet.demo.model import load, sellables
from quartet.kernel.watch import Watch, unwatched
from quartet.web.dependencies import Shop

ACTOR = "demo"


@dataclass(frozen=True)
class SeedReport:
    """How many of each were new, and the demo logins: passwords by address."""

    skus: int
    categories: int
    products: int
    people: int
    logins: Mapping[str, str]


async def seed(shop: Shop, watch: Watch = unwatched) -> SeedReport:
    """Loads what is missing; idempotent. Raises StoreUnavailable.

    The users are created last, so that their existence shows that an earlier run was complete: from then on the data
    is the shop's, and what staff delete stays deleted. It is filled again only if no demo category is left.
    """
    skus = categories = products = 0
    if not await _was_finished(shop):
        skus = await _stock(shop, watch)
        categories = await _categories(shop)
        products = await _products(shop, watch)
    people, logins = await _people(shop)
    return SeedReport(skus, categories, products, people, logins)


async def _was_finished(shop: Shop) -> bool:
    emails = {login.email for login in LOGINS}
    async with shop.stores.pg.read() as read:
        if await accounts.known_emails(read, emails) != emails:
            return False
    ours = {category["slug"] for category in load().categories}
    return any(category.slug in ours for category in await catalog.categories(shop.stores.mongo))


async def _stock(shop: Shop, watch: Watch) -> int:
    """Creates missing rows of inventory; existing ones are left alone, since pieces may have been sold."""
    wanted = sorted((row, product["category"]) for product in load().products for row in sellables(product))
    async with shop.stores.pg.tx() as tx:
        known = await inventory.prices(tx, [row.sku for row, _ in wanted])
        missing = [(row, category) for row, category in wanted if row.sku not in known]
        for done, (row, category) in enumerate(missing, 1):
            await inventory.put(
                tx, row.sku, row.name, row.price_cents, stock=row.stock, category=category,
                currency=shop.settings.currency, actor=ACTOR,
            )  # fmt: skip
            watch("Stocking the shelves", done, len(missing))
    return len(missing)


async def _categories(shop: Shop) -> int:
    known = {category.slug for category in await catalog.categories(shop.stores.mongo)}
    missing = [category for category in load().categories if category["slug"] not in known]
    for category in missing:
        await catalog.put_category(shop, catalog.Category(**category))
    return len(missing)


async def _products(shop: Shop, watch: Watch) -> int:
    """Loads products category by category, with inventory's current prices and stock."""
    products, done, new = load().products, 0, 0
    for _, group in groupby(products, key=lambda product: str(product["category"])):
        shelf = list(group)
        async with shop.stores.pg.read() as read:
            items = await inventory.prices(read, [row.sku for product in shelf for row in sellables(product)])
        levels = {sku: catalog.Level(item.unit_price_cents, item.available) for sku, item in items.items()}
        new += await catalog.load_products(shop, [_draft(product) for product in shelf], levels)
        done += len(shelf)
        watch("Filling the catalog", done, len(products))
    return new


def _draft(product: Mapping[str, Any]) -> catalog.Draft:
    published = product["publishedAt"]
    return catalog.Draft(
        sku=product["sku"],
        name=product["name"],
        category=product["category"],
        slug=product["slug"],
        brand=product["brand"],
        description=product["description"],
        images=[catalog.Image(image["url"], image["alt"], image["isPrimary"]) for image in product["images"]],
        attrs=product["attrs"],
        variants=[catalog.Variant(v["sku"], v["attrs"], v["priceCents"]) for v in product["variants"]],
        price_cents=product["priceCents"],
        tags=product["tags"],
        published_at=datetime.fromisoformat(published) if published else None,
        ratings=catalog.Ratings(product["ratings"]["avg"], product["ratings"]["count"]),
    )


async def _people(shop: Shop) -> tuple[int, dict[str, str]]:
    """Creates missing users; returns how many, and all passwords: from the file, else new ones.

    The file is written after the accounts: after a crash in between, the next start finds accounts without a password
    in the file, and sets new ones. In the other order the file could hold passwords that don't work.
    """
    before = kept(shop.settings.data_dir)
    async with shop.stores.pg.read() as read:
        known = await accounts.known_emails(read, [login.email for login in LOGINS])
    passwords = dict(before)
    for login in LOGINS:
        password = passwords.setdefault(login.email, new_password())
        if login.email not in known:
            hashed = await accounts.hash_password(shop, password)
            async with shop.stores.pg.tx() as tx:
                await accounts.create_user(
                    tx, login.email, hashed, login.name, roles=login.roles, created_at=shop.clock.now()
                )
        elif login.email not in before:
            await accounts.give_password(shop, login.email, password)
    if passwords != before:
        keep(shop.settings.data_dir, passwords)
    return len(LOGINS) - len(known), passwords
