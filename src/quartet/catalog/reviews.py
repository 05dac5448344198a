"""What buyers say of a product: one review each, which the product's ratings follow."""

from datetime import datetime
from uuid import UUID

from quartet import accounts, orders
from quartet.catalog import store
from quartet.catalog.model import AlreadyReviewed, Document, NotBought, is_published, millis
from quartet.catalog.service import follow_reviews
from quartet.kernel.errors import NotFound
from quartet.kernel.ids import new_id
from quartet.web.dependencies import Shop


async def add_review(shop: Shop, user_id: UUID, reference: str, *, rating: int, title: str, body: str) -> Document:
    """Raises NotFound, NotBought, AlreadyReviewed, StoreUnavailable."""
    product = await _published(shop, reference)
    async with shop.stores.pg.read() as read:
        if not await orders.has_bought(read, user_id, product["keys"]):
            raise NotBought()
        author = (await accounts.names(read, [user_id])).get(user_id)
    review = {
        "_id": store.review_id(product["_id"], user_id),
        "publicId": str(new_id()),  # the key names the customer, who stays unnamed to others
        "productId": product["_id"],
        "userId": str(user_id),
        "author": author,
        "rating": rating,
        "title": title,
        "body": body,
        "createdAt": millis(shop.clock.now()),
    }
    fresh = await store.insert_review(shop.stores.mongo, review)
    await follow_reviews(shop, product["_id"])  # also mends what a crash between the two left undone
    if not fresh:
        raise AlreadyReviewed()
    return review


async def list_reviews(
    shop: Shop, reference: str, *, limit: int, cursor: str | None
) -> tuple[list[Document], str | None]:
    """The newest first, and the cursor of the next page. Raises NotFound, Invalid, StoreUnavailable."""
    product = await _published(shop, reference)
    scope = f"reviews:{product['_id']}"
    after = None
    if cursor is not None:
        at, user = shop.cursors.decode(cursor, scope)
        after = (datetime.fromisoformat(at), user)
    found = await store.reviews(shop.stores.mongo, product["_id"], after, limit + 1)
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], shop.cursors.encode([last["createdAt"].isoformat(), last["userId"]], scope)


async def _published(shop: Shop, reference: str) -> Document:
    product = await store.find(shop.stores.mongo, reference)
    if product is None or not is_published(product, shop.clock.now()):
        raise NotFound(f"there is no product {reference}")
    return product
