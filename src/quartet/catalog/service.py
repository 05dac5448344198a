"""Writing the catalog: products, including the copies of their price and stock, reviews, categories."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from uuid import UUID, uuid5
from weakref import WeakValueDictionary

from quartet import accounts, inventory, orders
from quartet.catalog import attributes, pages, store
from quartet.catalog.attributes import Fault
from quartet.catalog.model import (
    CANARY,
    LONGEST_SLUG,
    AlreadyReviewed,
    Category,
    CategoryInUse,
    Document,
    Draft,
    Level,
    NotBought,
    SkuTaken,
    SlugTaken,
    and_below,
    canary,
    comparison_fields,
    copies,
    document,
    epoch_ms,
    etag,
    is_published,
    millis,
    new_document,
    present_levels,
    rated,
    references,
    sellable,
    sellable_skus,
    slugify,
    with_version,
)
from quartet.kernel.errors import Conflict, NotFound, PreconditionFailed, StoreUnavailable, invalid
from quartet.kernel.ids import new_id
from quartet.stores.mongo import DuplicateKey, Mongo
from quartet.stores.postgres import Tx
from quartet.web import trail
from quartet.web.dependencies import Shop
from quartet.web.paging import PageQuery

# The ids of loaded products are derived from their SKU (UUID 5), so that loading the same catalog again finds them.
NAMESPACE = UUID("5f7a3a3e-6a0c-5d0f-8a44-1f0f7f5d6c21")
# How often a write is retried after a version conflict before it raises Conflict.
_ATTEMPTS = 60

Edit = Callable[[Document], Draft]


class _OvertakenError(Exception):
    """A version conflict: another write came between; retry."""


# Writers of one product in this process take turns; between processes the version decides (optimistic locking). Without
# turns, fifty concurrent writers would each read and fail up to fifty times.
_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


@asynccontextmanager
async def _turn(sku: str) -> AsyncIterator[None]:
    lock = _turns.setdefault(sku, asyncio.Lock())
    async with lock:
        yield


@asynccontextmanager
async def _claimed(mongo: Mongo, claims: store.Claims) -> AsyncIterator[Callable[[], None]]:
    """Wraps a write that has claimed references, and releases them if it fails. The block calls the yielded function
    just before it writes to MongoDB. If that write's outcome is unknown (timeout, cancellation), the claims are kept,
    since the product may exist and could not be found without them; if it doesn't, others can claim them a minute
    later."""
    is_asked = False

    def asking() -> None:
        nonlocal is_asked
        is_asked = True

    try:
        yield asking
    except BaseException as error:
        if not (is_asked and isinstance(error, StoreUnavailable | asyncio.CancelledError)):
            await store.abandon(mongo, claims)
        raise


async def create_product(shop: Shop, draft: Draft, *, actor: str) -> Document:
    """Creates a product; returns its document. Its prices are stored in inventory, whose rows it creates (stock 0).

    Raises Invalid naming fields, SlugTaken, SkuTaken, StoreUnavailable.
    """
    mongo = shop.stores.mongo
    category = await _check(shop, draft)
    await _record_varying(shop, category, draft)
    now = millis(shop.clock.now())
    product_id = str(new_id())
    slug, claims = await _claim(shop, product_id, draft)
    try:
        async with _claimed(mongo, claims) as asking:
            levels = await _levels(shop, draft, None, actor)
            product = with_version(new_document(product_id, draft, slug, levels), 1, now)
            async with trail.attempt(shop, actor, "product.create", "product", draft.sku, after=product):
                asking()
                await store.insert(mongo, product)
    except DuplicateKey:
        raise SkuTaken(f"{draft.sku} or {slug} is taken", skus=[draft.sku]) from None
    await pages.forget(shop, product["keys"], product_id, None)
    return product


async def change_product(shop: Shop, sku: str, edit: Edit, *, if_match: str | None, actor: str) -> Document:
    """Replaces the product by what `edit` makes of its current document; returns the new document, or the current one
    if nothing changes. Concurrent changes are applied one after the other; with `if_match` the second is refused.

    Raises NotFound, PreconditionFailed, Invalid, SlugTaken, SkuTaken, Conflict, StoreUnavailable.
    """
    async with _turn(sku):
        for attempt in range(_ATTEMPTS):
            found = await _present(shop, sku, if_match)
            changed = await _change_once(shop, found, edit(found), actor)
            if changed is not None:
                return changed
            if if_match is not None:
                raise PreconditionFailed()
            await asyncio.sleep(random.uniform(0, 0.005 * (attempt + 1)))
    raise Conflict(f"{sku} is being changed too often right now")


async def _present(shop: Shop, sku: str, if_match: str | None) -> Document:
    found = await store.by_sku(shop.stores.mongo, sku)
    if found is None:
        raise NotFound(f"there is no product {sku}")
    if if_match is not None and if_match.strip() != "*" and etag(found) not in map(str.strip, if_match.split(",")):
        raise PreconditionFailed(f"the present version is {etag(found)}")
    return found


async def _change_once(shop: Shop, found: Document, draft: Draft, actor: str) -> Document | None:
    """None on a version conflict."""
    mongo = shop.stores.mongo
    category = await _check(shop, draft, found)
    await _record_varying(shop, category, draft)
    slug = draft.slug or found["slug"]
    fresh = [key for key in references(draft, slug) if key not in found["keys"]]
    claims = await store.claim(mongo, found["_id"], fresh, shop.clock.now())
    _refuse_taken(slug, claims.taken)
    async with _claimed(mongo, claims) as asking:
        levels = await _levels(shop, draft, found, actor)
        product = {**found, **document(draft, slug, levels)}
        if product == found:
            return found
        product = with_version(product, found["version"] + 1, millis(shop.clock.now()))
        gone = await store.marks(mongo, found["_id"], set(found["keys"]) - set(product["keys"]))
        try:
            async with trail.attempt(
                shop, actor, "product.change", "product", found["sku"], before=found, after=product
            ):
                await store.withdraw(mongo, set(sellable_skus(found)) - set(sellable_skus(product)))
                asking()
                if not await store.replace(mongo, product, found["version"]):
                    raise _OvertakenError
        except _OvertakenError:
            return None
    if await pages.forget(shop, {*found["keys"], *product["keys"]}, product["_id"], product["version"]):
        await store.release(mongo, gone)  # else kept, so that the worker knows which cache entries to delete
    return product


async def delete_product(shop: Shop, sku: str, *, if_match: str | None, actor: str = "system") -> None:
    """Deletes a product from the catalog, with its reviews; inventory keeps its rows, which orders refer to, but they
    can't be ordered any more.

    Raises NotFound, PreconditionFailed, Conflict, StoreUnavailable.
    """
    mongo = shop.stores.mongo
    async with _turn(sku):
        for _ in range(_ATTEMPTS):
            found = await _present(shop, sku, if_match)
            gone = await store.marks(mongo, found["_id"], found["keys"])
            with suppress(_OvertakenError):
                async with trail.attempt(shop, actor, "product.delete", "product", sku, before=found):
                    await store.withdraw(mongo, sellable_skus(found))
                    if not await store.delete(mongo, found):
                        raise _OvertakenError
                if await pages.forget(shop, found["keys"], found["_id"], None):
                    await store.release(mongo, gone)
                return
    raise Conflict(f"{sku} is being changed too often right now")


async def load_products(shop: Shop, drafts: Sequence[Draft], levels: Mapping[str, Level]) -> int:
    """Bulk insert for loaders; returns how many products were new. Existing ones, and those whose SKU or slug is taken,
    are skipped, so an interrupted load can be repeated. A draft without a slug gets one from its name and SKU. The
    caller writes inventory: `levels` gives each sellable SKU's price and stock there. Attributes are validated; Invalid
    names product and field.
    """
    mongo = shop.stores.mongo
    categories = {category.slug: category for category in await store.categories(mongo)}
    varying: dict[str, set[str]] = {}
    products: list[Document] = []
    now = millis(shop.clock.now())
    for draft in drafts:
        attributes.refuse([Fault(f"{draft.sku}: {f.field}", f.message) for f in _faults(draft, categories)])
        varying.setdefault(draft.category, set()).update(*(v.attrs for v in draft.variants))
        product = new_document(loaded_id(draft.sku), draft, draft.slug or _slug_with(draft, draft.sku), levels)
        # The id may have belonged to a product deleted since: its cached pages must have a lower version than this.
        products.append(with_version(product, epoch_ms(now), now))
    for slug, names in varying.items():
        await store.record_varying(mongo, slug, names)
    return len(await store.insert_new(mongo, products, now))


async def put_canary(shop: Shop, written_ms: int) -> None:
    """Writes this time into the canary's image, by the same path as any product change. Raises StoreUnavailable."""
    mongo = shop.stores.mongo
    while True:
        found = await store.by_ids(mongo, [CANARY])
        now = millis(shop.clock.now())
        if not found:
            await store.insert_new(mongo, [with_version(canary(written_ms), 1, now)], now)
            return
        product = with_version({**found[0], "images": canary(written_ms)["images"]}, found[0]["version"] + 1, now)
        if await store.replace(mongo, product, found[0]["version"]):
            return


def loaded_id(sku: str) -> str:
    """The id of a product loaded with this SKU."""
    return str(uuid5(NAMESPACE, sku))


def with_levels(product: Document, levels: Mapping[str, Level]) -> Document:
    """The document with current price and stock, and with the fields for comparison, in case it was written without
    them. A SKU unknown to inventory can't be bought: it gets stock 0 and keeps its last price."""
    last = present_levels(product)
    present = {sku: levels.get(sku) or Level(level.price_cents, 0) for sku, level in last.items()}
    return product | copies(product, present) | comparison_fields(product)


@dataclass(frozen=True)
class Copied:
    """Documents after a refresh of their copies. `ours`: each is exactly as written here, without a version
    conflict."""

    documents: list[Document]
    ours: bool = True


async def refresh_copies(shop: Shop, stale: Sequence[tuple[Document, Document]]) -> Copied:
    """Writes documents with refreshed copies of price and stock, given as pairs (document read, document refreshed);
    the caller updates the cache (`renew_cached`).

    The first of each pair must have been read *before* inventory was. The second is written only over the same version;
    on a conflict both are read again, so a slow refresh can't put older numbers over newer ones. Raises
    StoreUnavailable.
    """
    written = await _write_copies(shop, stale)
    if written is not None:
        return Copied(written)
    return Copied(await _refresh_again(shop, {product["_id"]: fresh for product, fresh in stale}), ours=False)


async def _write_copies(shop: Shop, stale: Sequence[tuple[Document, Document]]) -> list[Document] | None:
    """None on a version conflict; some of them may be written then."""
    now = millis(shop.clock.now())
    written = [with_version(fresh, product["version"] + 1, now) for product, fresh in stale]
    return written if not written or await store.replace_all(shop.stores.mongo, written) else None


async def _refresh_again(shop: Shop, documents: dict[str, Document]) -> list[Document]:
    """Retries until there is no conflict; returns the final documents. Each time all are read together: one by one, a
    conflict on one of them would cost several round trips for each. Products deleted meanwhile are returned as given;
    the change stream reports the deletion."""
    while True:
        products = await store.by_ids(shop.stores.mongo, documents.keys())
        async with shop.stores.pg.read() as read:
            items = await inventory.prices(read, {sku for product in products for sku in sellable_skus(product)})
        levels = {sku: Level(item.unit_price_cents, item.available) for sku, item in items.items()}
        fresh = [with_levels(product, levels) for product in products]
        pairs = zip(products, fresh, strict=True)
        written = await _write_copies(shop, [(product, now) for product, now in pairs if now != product])
        if written is not None:
            return list((documents | {product["_id"]: product for product in [*fresh, *written]}).values())


# Reviews


async def add_review(shop: Shop, user_id: UUID, reference: str, *, rating: int, title: str, body: str) -> Document:
    """Adds a review and updates the product's ratings. Raises NotFound, NotBought, AlreadyReviewed,
    StoreUnavailable."""
    product = await _published(shop, reference)
    async with shop.stores.pg.read() as read:
        if not await orders.has_bought(read, user_id, product["keys"]):
            raise NotBought()
        author = (await accounts.names(read, [user_id])).get(user_id)
    review = {
        "_id": store.review_id(product["_id"], user_id),
        "publicId": str(new_id()),  # `_id` contains the customer's id, which must stay private
        "productId": product["_id"],
        "userId": str(user_id),
        "author": author,
        "rating": rating,
        "title": title,
        "body": body,
        "createdAt": millis(shop.clock.now()),
    }
    fresh = await store.insert_review(shop.stores.mongo, review)
    await follow_reviews(shop, product["_id"])  # also after a duplicate: a crash may have left it undone
    async with shop.stores.pg.read() as read:
        if author and not await accounts.names(read, [user_id]):  # erased meanwhile, perhaps before the insert
            await store.forget_author(shop.stores.mongo, user_id)
            review["author"] = None
    if not fresh:
        raise AlreadyReviewed()
    return review


async def list_reviews(shop: Shop, reference: str, paging: PageQuery) -> tuple[Sequence[Document], str | None]:
    """Reviews, newest first, and the cursor of the next page. Raises NotFound, Invalid, StoreUnavailable."""
    product = await _published(shop, reference)
    scope = f"reviews:{product['_id']}"
    after = shop.cursors.start(paging, scope, None, str)
    found = await store.reviews(shop.stores.mongo, product["_id"], after, paging.limit + 1)
    return shop.cursors.cut(found, paging, scope, lambda last: [last["publicId"]])


async def _published(shop: Shop, reference: str) -> Document:
    product = await store.find(shop.stores.mongo, reference)
    if product is None or not is_published(product, shop.clock.now()):
        raise NotFound(f"there is no product {reference}")
    return product


async def follow_reviews(shop: Shop, product_id: str) -> None:
    """Recomputes `ratings` from the reviews and the earlier votes. Of concurrent callers, the last to write has seen
    every review."""
    mongo = shop.stores.mongo
    while found := await store.by_ids(mongo, [product_id]):
        [product] = found
        ratings = asdict(rated(product["ratingsBefore"], *await store.stars(mongo, product_id)))
        if ratings == product["ratings"]:
            return
        fresh = with_version({**product, "ratings": ratings}, product["version"] + 1, millis(shop.clock.now()))
        if await store.replace(mongo, fresh, product["version"]):
            await pages.forget(shop, fresh["keys"], product_id, fresh["version"])
            return
        await asyncio.sleep(random.uniform(0, 0.01))


# Categories


async def put_category(shop: Shop, category: Category, *, actor: str = "system") -> bool:
    """Creates or replaces a category; True if it is new. Its products are validated against a changed schema only when
    their attributes, variants or category change. Raises Invalid naming `attrs…` or `parent`."""
    attributes.check_schema(category.attrs)
    mongo = shop.stores.mongo
    if category.parent is not None:
        # Two concurrent calls that make two categories each other's parent may both pass. Code that walks the tree
        # tolerates such a cycle, and moving one of the two resolves it.
        parents = await store.parents(mongo)
        if category.parent in and_below(parents, [category.slug]):
            raise invalid("parent", "a category can't stand below itself")
        if category.parent not in parents:
            raise invalid("parent", f"there is no category {category.parent}")
    before = await store.category(mongo, category.slug)
    async with trail.attempt(shop, actor, "category.put", "category", category.slug, before=before, after=category):
        return await store.put_category(mongo, category)


async def delete_category(shop: Shop, slug: str, *, actor: str) -> None:
    """Deletes an empty category. Raises NotFound, CategoryInUse."""
    mongo = shop.stores.mongo
    if await store.category_in_use(mongo, slug):
        raise CategoryInUse()
    before = await store.category(mongo, slug)
    if before is None:
        raise NotFound(f"there is no category {slug}")
    async with trail.attempt(shop, actor, "category.delete", "category", slug, before=before):
        if not await store.delete_category(mongo, slug):
            raise NotFound(f"there is no category {slug}")


# Rules that need a store


async def _check(shop: Shop, draft: Draft, found: Document | None = None) -> Category:
    category = await store.category(shop.stores.mongo, draft.category)
    if category is None or found is None or not _is_same_to_schema(draft, found):
        attributes.refuse(_faults(draft, {category.slug: category} if category else {}))
    assert category is not None
    return category


def _is_same_to_schema(draft: Draft, found: Document) -> bool:
    """Whether category, attributes and variants are unchanged: then a schema that was replaced since can't refuse what
    the change does not touch."""
    now = [draft.category, draft.attrs, [[variant.sku, variant.attrs] for variant in draft.variants]]
    stored = [found["category"], found["attrs"], [[variant["sku"], variant["attrs"]] for variant in found["variants"]]]
    return attributes.are_same(now, stored)


def _faults(draft: Draft, categories: Mapping[str, Category]) -> list[Fault]:
    """All validation errors of the draft."""
    category = categories.get(draft.category)
    if category is None:
        return [Fault("category", f"there is no category {draft.category}")]
    skus = [variant.sku for variant in draft.variants]
    faults = [Fault(f"variants.{i}.sku", "is given twice") for i, sku in enumerate(skus) if sku in skus[:i]]
    faults += attributes.plain_faults(draft.attrs, "attrs", lists=True)
    for i, variant in enumerate(draft.variants):
        faults += attributes.plain_faults(variant.attrs, f"variants.{i}.attrs", lists=False)
    if faults:
        return faults
    shared = attributes.attribute_faults(category, draft.attrs, "attrs", own=())
    if not draft.variants:
        return list(dict.fromkeys(shared))
    # The product's own attributes are validated too, though each variant may override them; what the product lacks, the
    # variants may have.
    faults = [fault for fault in shared if fault.field.removeprefix("attrs.") in draft.attrs]
    for i, variant in enumerate(draft.variants):
        merged = {**draft.attrs, **variant.attrs}
        faults += attributes.attribute_faults(category, merged, f"variants.{i}.attrs", own=variant.attrs)
    return list(dict.fromkeys(faults))


async def _record_varying(shop: Shop, category: Category, draft: Draft) -> None:
    names = {name for variant in draft.variants for name in variant.attrs}
    if not names <= category.varying:
        await store.record_varying(shop.stores.mongo, category.slug, names)


async def _claim(shop: Shop, product_id: str, draft: Draft) -> tuple[str, store.Claims]:
    """Claims the draft's references. If a slug made from the name is taken, the SKU is appended, and if that is taken
    too (`A-1` and `A.1` give the same slug), the id instead."""
    made = [slugify(draft.name), _slug_with(draft, draft.sku), _slug_with(draft, product_id[-12:])]
    slugs = [draft.slug] if draft.slug else made
    for slug in slugs:
        claims = await store.claim(shop.stores.mongo, product_id, references(draft, slug), shop.clock.now())
        if set(claims.taken) != {slug} or slug is slugs[-1]:
            break
    _refuse_taken(slug, claims.taken)
    return slug, claims


def _slug_with(draft: Draft, ending: str) -> str:
    return slugify(f"{draft.name[: LONGEST_SLUG - 1 - len(ending)]}-{ending}")


def _refuse_taken(slug: str, taken: Collection[str]) -> None:
    skus = [sku for sku in taken if sku != slug]
    if skus:
        raise SkuTaken(f"{', '.join(skus)} is taken", skus=skus)
    if taken:
        raise SlugTaken(f"{slug} is taken")


async def _levels(shop: Shop, draft: Draft, found: Document | None, actor: str) -> dict[str, Level]:
    """Writes changed names and prices to inventory; returns price and stock of every sellable SKU.

    A price equal to the document's copy is not written: inventory may have a newer one.
    """
    wanted = sellable(draft)
    before = present_levels(found) if found else {}
    if found is not None and _is_same_to_inventory(draft, found):
        return before
    items: dict[str, inventory.Item] = {}
    async with shop.stores.pg.tx() as tx:
        known = await inventory.lock(tx, wanted)
        for place, sku in sorted(enumerate(wanted), key=lambda each: each[1]):  # the lock order of orders: no deadlock
            name, price = wanted[sku]
            last = before.get(sku)
            if sku in known and (price is None or (last is not None and price == last.price_cents)):
                renamed = await inventory.rename(tx, sku, name, category=draft.category)
                items[sku] = renamed or known[sku]
                await _record(tx, actor, known[sku], items[sku])
                continue
            if price is None and last is not None:
                price = last.price_cents
            if price is None:
                field = f"variants.{place}.priceCents" if draft.variants else "priceCents"
                raise invalid(field, f"is required, since inventory has no price of {sku}")
            items[sku], _ = await inventory.put(
                tx, sku, name, price, currency=shop.settings.currency, actor=actor, category=draft.category
            )
            await _record(tx, actor, known.get(sku), items[sku])
    return {sku: Level(item.unit_price_cents, item.available) for sku, item in items.items()}


async def _record(tx: Tx, actor: str, before: inventory.Item | None, after: inventory.Item) -> None:
    await trail.record(tx, actor, "inventory.put", "sku", after.sku, before=before, after=after)


def _is_same_to_inventory(draft: Draft, found: Document) -> bool:
    """Whether names, category and prices are unchanged: then inventory is not called, and PostgreSQL may be down."""
    wanted, before = sellable(draft), present_levels(found)
    return (
        (found["name"], found["category"]) == (draft.name, draft.category)
        and {v["sku"]: v["attrs"] for v in found["variants"]} == {v.sku: dict(v.attrs) for v in draft.variants}
        and all(price in (None, before[sku].price_cents) for sku, (_, price) in wanted.items())
    )
