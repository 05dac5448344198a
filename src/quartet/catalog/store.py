"""The catalog in MongoDB, using only what works on every engine (docs/engines.md).

The collections `products`, `categories`, `reviews`, `withdrawn_skus`, and `product_references`: one document for each
SKU and slug that names a product. It keeps them unique over products *and* variants, and finds a product by any of them
with two lookups by key.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson

from quartet.catalog.attributes import Condition
from quartet.catalog.model import CANARY, Category, Document, and_below, epoch_ms
from quartet.kernel.ids import new_id
from quartet.stores.files import json_file
from quartet.stores.mongo import DuplicateKey, Mongo

PRODUCTS, CATEGORIES, REVIEWS, REFERENCES = "products", "categories", "reviews", "product_references"
# SKUs taken out of the catalog, of which inventory may still have pieces.
WITHDRAWN = "withdrawn_skus"
# The collections of a backup. References are rebuilt from the products, so that they are consistent.
COPIED = (PRODUCTS, CATEGORIES, REVIEWS, WITHDRAWN)

# One by category and memory; then one per sort order, each ending in the SKU: the order is total, so pages neither skip
# nor repeat.
_PRODUCT_INDEXES: list[tuple[list[tuple[str, int]], bool]] = [
    ([("category", 1), ("attrs.ram_gb", 1), ("ratings.avg", -1)], False),
    ([("slug", 1)], True),
    ([("tags", 1)], False),
    ([("sku", 1)], True),
    ([("brand", 1), ("ratings.avg", 1), ("sku", 1)], False),
    # Covers the queries of the comparison; scans go by it too, and can be resumed anywhere.
    ([("bucket", 1), ("fingerprint", 1)], False),
    *(
        ([*prefix, (field, 1), ("sku", 1)], False)
        for prefix in ([], [("category", 1)])
        for field in ("ratings.avg", "priceCents", "publishedMs", "name")
    ),
]
Stamp = tuple[int, datetime]
KeysAndCategory = tuple[list[str], str]
# A claim older than this whose product does not have the reference was left by a crash: no request runs that long.
CLAIM_MS = 60_000


async def prepare(mongo: Mongo) -> None:
    """Creates the collections with their validators, and the indexes. Idempotent."""
    validators = {name: json_file(__file__, f"{name}.json") for name in (PRODUCTS, CATEGORIES, REVIEWS)}
    for name in (PRODUCTS, CATEGORIES, REVIEWS, REFERENCES, WITHDRAWN):
        await mongo.ensure_collection(name, validators.get(name))
    await mongo.collection(PRODUCTS).create_indexes(*_PRODUCT_INDEXES)
    await mongo.collection(REVIEWS).create_indexes(
        ([("productId", 1), ("publicId", -1)], False), ([("userId", 1)], False)
    )
    await mongo.collection(REFERENCES).create_indexes(([("productId", 1)], False))


# Products


async def find(mongo: Mongo, reference: str, likely: str | None = None) -> Document | None:
    """The product that a SKU, a variant's SKU or a slug names now. `likely`: the id that it named before. That product
    is read first: if it still has the reference, it also holds the claim, and one look-up is enough."""
    if likely is not None:
        found = await mongo.collection(PRODUCTS).find_one({"_id": likely})
        if found is not None and reference in found["keys"]:
            return found
    claim = await mongo.collection(REFERENCES).find_one({"_id": reference}, ["productId"])
    if claim is None:
        return None
    found = await mongo.collection(PRODUCTS).find_one({"_id": claim["productId"]})
    # A claim may exist for a moment before its product is written, or after it is deleted.
    return found if found is not None and reference in found["keys"] else None


async def find_many(
    mongo: Mongo, references: Iterable[str], fields: Sequence[str] | None = None
) -> dict[str, Document]:
    """Products by reference; references without a product are left out. `fields`: a projection, which must include
    `keys`."""
    ids = await product_ids_of_skus(mongo, references)
    found = {doc["_id"]: doc for doc in await by_ids(mongo, set(ids.values()), fields)}
    return {ref: found[id_] for ref, id_ in ids.items() if id_ in found and ref in found[id_]["keys"]}


async def by_sku(mongo: Mongo, sku: str) -> Document | None:
    """The product with this SKU; a variant's SKU does not count."""
    return await mongo.collection(PRODUCTS).find_one({"sku": sku})


async def by_ids(mongo: Mongo, ids: Collection[str], fields: Sequence[str] | None = None) -> list[Document]:
    """The documents, unordered, without missing ones. `fields`: a projection."""
    if not ids:
        return []
    return await mongo.collection(PRODUCTS).find({"_id": {"$in": list(ids)}}, projection=fields)


def stamp(product: Document) -> Stamp:
    """Different for any two states of a product, even if it was deleted and created again between them."""
    return product["version"], product["updatedAt"]


async def stamps(mongo: Mongo, ids: Collection[str]) -> dict[str, Stamp]:
    """The current stamps of those that exist."""
    if not ids:
        return {}
    where = {"_id": {"$in": list(ids)}}
    found = await mongo.collection(PRODUCTS).find(where, projection=["version", "updatedAt"])
    return {product["_id"]: stamp(product) for product in found}


def keys_and_category(product: Document) -> KeysAndCategory:
    """The product's SKUs and slug, and its category."""
    return product["keys"], product["category"]


async def keys_and_categories(mongo: Mongo, ids: Collection[str]) -> dict[str, KeysAndCategory]:
    """The same of those products that exist."""
    where = {"_id": {"$in": list(ids)}}
    found = await mongo.collection(PRODUCTS).find(where, projection=["keys", "category"])
    return {product["_id"]: keys_and_category(product) for product in found}


async def ids_after(mongo: Mongo, after: str, size: int) -> list[str]:
    """The next ids in order."""
    where = {"_id": {"$gt": after}}
    found = await mongo.collection(PRODUCTS).find(where, sort=[("_id", 1)], limit=size, projection=["_id"])
    return [product["_id"] for product in found]


async def in_buckets(mongo: Mongo, low: int, high: int) -> list[Document]:
    """The documents of the buckets from `low` to below `high`, unordered; documents written without a bucket count in
    the first."""
    found = await mongo.collection(PRODUCTS).find(_within(low, high))
    return found + (await mongo.collection(PRODUCTS).find(_WITHOUT_BUCKET) if low == 0 else [])


async def fingerprints(mongo: Mongo, low: int, high: int) -> dict[str, int]:
    """The fingerprint of each document in these buckets, by id; 0 for one without."""
    names = ["fingerprint"]
    found = await mongo.collection(PRODUCTS).find(_within(low, high), projection=names)
    found += await mongo.collection(PRODUCTS).find(_WITHOUT_BUCKET, projection=names) if low == 0 else []
    return {product["_id"]: product.get("fingerprint") or 0 for product in found}


async def sums(mongo: Mongo, low: int, high: int, *, each: bool = False) -> dict[int, tuple[int, int]]:
    """Number of documents and sum of fingerprints: for `each` bucket that has any, or for all together under `low`.
    Documents without a bucket count in the first."""
    totals = await _totals(mongo, _within(low, high), "$bucket" if each else None, low)
    if low == 0:
        for lost, _ in (await _totals(mongo, _WITHOUT_BUCKET, None, 0)).values():
            number, total = totals.get(0, (0, 0))
            totals[0] = number + lost, total
    return totals


async def _totals(mongo: Mongo, where: Mapping[str, Any], by: str | None, otherwise: int) -> dict[int, tuple[int, int]]:
    group = {"_id": by, "n": {"$sum": 1}, "sum": {"$sum": "$fingerprint"}}
    found = await mongo.collection(PRODUCTS).aggregate([{"$match": where}, {"$group": group}])
    return {
        otherwise if row["_id"] is None else int(row["_id"]): (int(row["n"]), int(row["sum"] or 0)) for row in found
    }


_WITHOUT_BUCKET = {"bucket": None}


def _within(low: int, high: int) -> dict[str, Any]:
    return {"bucket": {"$gte": low, "$lt": high}}


def watch(mongo: Mongo, position: Any = None) -> AsyncGenerator[tuple[str | None, Any], None]:
    """The change stream of products: id of the changed product, and resume token (`Collection.watch`)."""
    return mongo.collection(PRODUCTS).watch(resume_after=position)


async def product_ids_of_skus(mongo: Mongo, skus: Iterable[str]) -> dict[str, str]:
    """The product id of each SKU (a product's or a variant's), for those that the catalog knows."""
    wanted = list(set(skus))
    if not wanted:
        return {}
    claims = await mongo.collection(REFERENCES).find({"_id": {"$in": wanted}})
    return {claim["_id"]: claim["productId"] for claim in claims}


async def references_of(mongo: Mongo, product_ids: Collection[str]) -> list[Document]:
    """All claims of these products: references that name them, did recently, or are about to."""
    return await mongo.collection(REFERENCES).find({"productId": {"$in": list(product_ids)}})


async def page(
    mongo: Mongo,
    where: Mapping[str, Any],
    *,
    sort: tuple[str, int],
    after: tuple[Any, str] | None,
    limit: int,
) -> list[Document]:
    """Keyset pagination: the next `limit` products in the order of a field and the SKU, after the last (value, SKU).

    Two plain range queries (first the rest with the same value, then those beyond) instead of one with `$or`: each
    uses an index on every engine.
    """
    products = mongo.collection(PRODUCTS)
    field, direction = sort
    order = [(field, direction), ("sku", direction)]
    if after is None:
        return await products.find(where, sort=order, limit=limit)
    beyond = "$gt" if direction > 0 else "$lt"
    value, sku = after
    found = await products.find({"$and": [where, {field: value, "sku": {beyond: sku}}]}, sort=order[1:], limit=limit)
    if len(found) < limit:
        rest = {"$and": [where, {field: {beyond: value}}]}
        found += await products.find(rest, sort=order, limit=limit - len(found))
    return found


async def listed(
    mongo: Mongo, where: Mapping[str, Any], *, order: Sequence[tuple[str, int]], skip: int, limit: int
) -> list[Document]:
    """At most `limit` products after the first `skip` in this order."""
    return await mongo.collection(PRODUCTS).find(where, sort=order, skip=skip, limit=limit)


def filter_of(
    *,
    published_by: datetime,
    categories: Collection[str] | None,
    brand: str | None = None,
    tag: str | None = None,
    attributes: Sequence[Condition] = (),
    varying: Collection[str] = (),
) -> dict[str, Any]:
    """The filter of a list. Attributes that variants of the category carry (`varying`) are matched in `options`, so
    that black and L have to be the same variant; others in `attrs`, where an index can be used."""
    where: dict[str, Any] = {"publishedMs": {"$lte": epoch_ms(published_by)}}
    if categories is not None:
        # With equality for a single category an index gives the sort order too.
        where["category"] = next(iter(categories)) if len(categories) == 1 else {"$in": sorted(categories)}
    if brand is not None:
        where["brand"] = brand
    if tag is not None:
        where["tags"] = {"$in": [tag]}  # an equality on an indexed array finds nothing on nx-27017
    option: dict[str, dict[str, Any]] = {}
    for condition in attributes:
        if condition.listed:
            where[f"attrs.{condition.name}"] = {"$in": [condition.value]}
        elif condition.name in varying:
            option.setdefault(condition.name, {})[f"${condition.op}"] = condition.value
        else:
            where.setdefault(f"attrs.{condition.name}", {})[f"${condition.op}"] = condition.value
    if option:
        where["options"] = {"$elemMatch": option}
    return where


async def insert(mongo: Mongo, product: Document) -> None:
    """Inserts a new document."""
    await mongo.collection(PRODUCTS).insert_one(product)


async def replace(mongo: Mongo, product: Document, version: int) -> bool:
    """Replaces the document if it still has this `version`; False on a conflict. Every change of a product replaces the
    whole document: nx-27017 turns a date in `$set` into text."""
    return await mongo.collection(PRODUCTS).replace_one({"_id": product["_id"], "version": version}, product)


async def replace_all(mongo: Mongo, products: Sequence[Document]) -> bool:
    """Replaces documents in one call, each if the stored one still has the previous version; False if there was any
    conflict: then some are written and some are not."""
    pairs = [({"_id": p["_id"], "version": p["version"] - 1}, p) for p in products]
    return await mongo.collection(PRODUCTS).replace_many(pairs) == len(pairs)


async def delete(mongo: Mongo, product: Document) -> bool:
    """Deletes the product, if it still has the version read, and its reviews; False on a conflict."""
    if not await mongo.collection(PRODUCTS).delete_one({"_id": product["_id"], "version": product["version"]}):
        return False
    await mongo.collection(REVIEWS).delete_many({"productId": product["_id"]})
    return True


# References


@dataclass(frozen=True)
class Claims:
    """The references that one write has newly claimed (`fresh`), and those that belong to other products (`taken`); if
    any are taken, nothing is claimed."""

    mark: str
    fresh: tuple[str, ...]
    taken: tuple[str, ...]


async def claim(mongo: Mongo, product_id: str, references: Collection[str], now: datetime) -> Claims:
    """Claims these references for the product, all or none."""
    mark = new_id().hex
    outcomes = {
        reference: await _claim_one(mongo, {"_id": reference, "productId": product_id, "mark": mark}, epoch_ms(now))
        for reference in sorted(references)
    }
    fresh, taken = (tuple(r for r, outcome in outcomes.items() if outcome == each) for each in ("fresh", "taken"))
    claims = Claims(mark, fresh, taken)
    if claims.taken:
        await abandon(mongo, claims)
    return claims


async def _claim_one(mongo: Mongo, claim: Document, now_ms: int) -> Literal["fresh", "ours", "taken"]:
    collection = mongo.collection(REFERENCES)
    claim["claimedMs"] = now_ms
    while True:
        try:
            await collection.insert_one(dict(claim))
            return "fresh"
        except DuplicateKey:
            held = await collection.find_one({"_id": claim["_id"]})
        if held is None:
            continue  # released just now
        ours = held["productId"] == claim["productId"]
        if not ours and not await _is_stale(mongo, held, now_ms):
            return "taken"
        # Our own claim gets a new mark, so that another write of the same product that releases it no longer matches.
        if await collection.replace_one(held, claim):
            return "ours" if ours else "fresh"


async def _is_stale(mongo: Mongo, held: Document, now_ms: int) -> bool:
    if now_ms - held["claimedMs"] < CLAIM_MS:
        return False
    holder = await mongo.collection(PRODUCTS).find_one({"_id": held["productId"]}, ["keys"])
    return holder is None or held["_id"] not in holder["keys"]


async def abandon(mongo: Mongo, claims: Claims) -> None:
    """Releases the claims of a failed write."""
    if claims.fresh:
        await mongo.collection(REFERENCES).delete_many({"_id": {"$in": list(claims.fresh)}, "mark": claims.mark})


async def marks(mongo: Mongo, product_id: str, references: Collection[str]) -> dict[str, str]:
    """The current marks of the product's claims on these references."""
    if not references:
        return {}
    found = await mongo.collection(REFERENCES).find({"_id": {"$in": list(references)}})
    return {claim["_id"]: claim["mark"] for claim in found if claim["productId"] == product_id}


async def release(mongo: Mongo, marked: Mapping[str, str]) -> None:
    """Releases claims that still have these marks; one with a new mark is in use again."""
    if marked:
        where = {"_id": {"$in": list(marked)}, "mark": {"$in": list(set(marked.values()))}}
        await mongo.collection(REFERENCES).delete_many(where)


async def sweep(mongo: Mongo, claims: Sequence[Document], now: datetime) -> None:
    """Releases claims that no product has, except young ones, which a request may be about to use. Reads the product
    again: it may have the reference again since, and a clock that is ahead takes a new claim for an old one."""
    stale = [claim for claim in claims if await _is_stale(mongo, claim, epoch_ms(now))]
    await release(mongo, {claim["_id"]: claim["mark"] for claim in stale})


async def withdraw(mongo: Mongo, skus: Iterable[str]) -> None:
    """Records that staff take these SKUs out of the catalog. The record has no effect on a SKU that a product has."""
    for sku in skus:
        with suppress(DuplicateKey):
            await mongo.collection(WITHDRAWN).insert_one({"_id": sku})


async def withdrawn(mongo: Mongo, skus: Collection[str]) -> set[str]:
    """Those of these SKUs that were ever withdrawn."""
    return {found["_id"] for found in await mongo.collection(WITHDRAWN).find({"_id": {"$in": list(skus)}})}


# Many at once


async def insert_new(mongo: Mongo, products: Sequence[Document], now: datetime) -> list[Document]:
    """Inserts those of the documents that are new, and returns them. A document whose SKU or slug is taken is skipped.

    For one loader at a time: references are first checked together and then claimed together.
    """
    wanted = [key for product in products for key in product["keys"]]
    held = await product_ids_of_skus(mongo, wanted)
    present = {doc["_id"] for doc in await by_ids(mongo, [p["_id"] for p in products])}
    fresh = [
        product
        for product in products
        if product["_id"] not in present
        and all(held.get(key, product["_id"]) == product["_id"] for key in product["keys"])
    ]
    await _claim_new(mongo, [(key, p["_id"]) for p in fresh for key in p["keys"] if key not in held], now)
    if fresh:
        await mongo.collection(PRODUCTS).insert_many(fresh)
    return fresh


async def _claim_new(mongo: Mongo, pairs: Sequence[tuple[str, str]], now: datetime) -> None:
    """Claims unclaimed references, given as (reference, product id)."""
    claims = [{"_id": key, "productId": id_, "mark": id_, "claimedMs": epoch_ms(now)} for key, id_ in pairs]
    if claims:
        await mongo.collection(REFERENCES).insert_many(claims)


async def clear(mongo: Mongo) -> None:
    """Deletes all documents; collections and indexes stay."""
    for name in (*COPIED, REFERENCES):
        await mongo.collection(name).delete_many({})


async def restore(mongo: Mongo, collection: str, documents: Sequence[Document], now: datetime) -> None:
    """Restores documents of a backup into a cleared collection; products together with their references. Except the
    canary: a worker may have created a new one meanwhile."""
    some = [document for document in documents if document["_id"] != CANARY]
    if collection == PRODUCTS:
        wanted = {key: product["_id"] for product in some for key in product["keys"]}
        held = await product_ids_of_skus(mongo, wanted)
        await _claim_new(mongo, [pair for pair in wanted.items() if pair[0] not in held], now)
    if some:
        await mongo.collection(collection).insert_many(some)


# Categories


async def category(mongo: Mongo, slug: str) -> Category | None:
    """One category."""
    found = await mongo.collection(CATEGORIES).find_one({"_id": slug})
    return _category(found) if found else None


async def categories(mongo: Mongo, slugs: Collection[str] | None = None) -> list[Category]:
    """These categories, or all, sorted by slug."""
    where = {} if slugs is None else {"_id": {"$in": list(slugs)}}
    return [_category(found) for found in await mongo.collection(CATEGORIES).find(where, sort=[("_id", 1)])]


async def parents(mongo: Mongo) -> dict[str, str | None]:
    """Each category's parent."""
    return {c["_id"]: c["parent"] for c in await mongo.collection(CATEGORIES).find({}, projection=["parent"])}


async def category_and_below(mongo: Mongo, slug: str) -> list[str]:
    """The slugs of a category and of its descendants."""
    return and_below(await parents(mongo), [slug])


def _category(found: Document) -> Category:
    return Category(
        found["_id"],
        found["name"],
        found["parent"],
        orjson.loads(found["attrs"]),
        frozenset(found["varying"]),
        found["version"],
    )


async def put_category(mongo: Mongo, value: Category) -> bool:
    """Creates or replaces the category; True if it is new. The schema is stored as JSON text: `$schema` and `$defs` are
    not valid field names, and the order of its members is worth keeping."""
    fields = {"name": value.name, "parent": value.parent, "attrs": orjson.dumps(value.attrs).decode()}
    collection = mongo.collection(CATEGORIES)
    while not await collection.update_one({"_id": value.slug}, {"$set": fields, "$inc": {"version": 1}}):
        try:
            await collection.insert_one({"_id": value.slug, **fields, "varying": sorted(value.varying), "version": 1})
            return True
        except DuplicateKey:
            continue  # created concurrently: update it
    return False


async def record_varying(mongo: Mongo, slug: str, names: Collection[str]) -> None:
    """Records that variants of the category carry these attributes; before the first such document is written."""
    collection = mongo.collection(CATEGORIES)
    while True:
        found = await collection.find_one({"_id": slug})
        if found is None or set(names) <= set(found["varying"]):
            return
        varying = sorted({*found["varying"], *names})
        where = {"_id": slug, "version": found["version"]}
        if await collection.update_one(where, {"$set": {"varying": varying}, "$inc": {"version": 1}}):
            return


async def category_in_use(mongo: Mongo, slug: str) -> bool:
    """Whether it holds a product or another category."""
    product, child = await asyncio.gather(
        mongo.collection(PRODUCTS).find_one({"category": slug}, ["_id"]),
        mongo.collection(CATEGORIES).find_one({"parent": slug}, ["_id"]),
    )
    return product is not None or child is not None


async def delete_category(mongo: Mongo, slug: str) -> bool:
    """Deletes a category; False if there was none."""
    return await mongo.collection(CATEGORIES).delete_one({"_id": slug})


# Reviews


async def insert_review(mongo: Mongo, review: Document) -> bool:
    """False if this customer has already reviewed the product."""
    try:
        await mongo.collection(REVIEWS).insert_one(review)
    except DuplicateKey:
        return False
    return True


async def reviews(mongo: Mongo, product_id: str, after: str | None, limit: int) -> list[Document]:
    """Reviews, newest first, after the last public id shown. These ids sort by time; the times themselves are not
    compared, since nx-27017 compares them by whole seconds."""
    where: dict[str, Any] = {"productId": product_id}
    if after is not None:
        where["publicId"] = {"$lt": after}
    return await mongo.collection(REVIEWS).find(where, sort=[("publicId", -1)], limit=limit)


async def reviews_by(mongo: Mongo, user_id: UUID) -> AsyncIterator[list[Document]]:
    """All reviews by a user, in batches of some hundreds."""
    async for some in mongo.collection(REVIEWS).scan({"userId": str(user_id)}):
        yield some


async def forget_author(mongo: Mongo, user_id: UUID) -> None:
    """Removes the user's name from their reviews, which stay."""
    async for some in reviews_by(mongo, user_id):
        for review in some:
            if review["author"] is not None:
                await mongo.collection(REVIEWS).update_one({"_id": review["_id"]}, {"$set": {"author": None}})


async def stars(mongo: Mongo, product_id: str) -> tuple[int, int]:
    """Sum of stars and number of a product's reviews."""
    found = await mongo.collection(REVIEWS).aggregate(
        [
            {"$match": {"productId": product_id}},
            {"$group": {"_id": "$productId", "stars": {"$sum": "$rating"}, "count": {"$sum": 1}}},
        ]
    )
    return (int(found[0]["stars"]), int(found[0]["count"])) if found else (0, 0)


def review_id(product_id: str, user_id: UUID) -> str:
    """The key of a review: product id and user id, so that each customer has one review per product."""
    return f"{product_id}:{user_id}"
