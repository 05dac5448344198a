"""The catalog as values: products, their categories and reviews, and the pure rules that apply to them."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from quartet.kernel.errors import Conflict, Forbidden
from quartet.kernel.fingerprints import bucket, fingerprint

Document = dict[str, Any]
Attrs = Mapping[str, Any]

# Members of the product in the API that the shop sets itself: a client may send them back, but not change them.
READ_ONLY = ("id", "currency", "ratings", "available", "updatedAt")
LONGEST_SLUG = 120
# Id, SKU and slug of the canary, the product by which freshness is measured: no client can name it or sees it.
CANARY = "~canary"
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


class SlugTaken(Conflict):
    """Another product has this slug (or has it as its SKU). Choose another slug, or omit it to have one made from the
    name."""

    slug, title = "slug-taken", "Another product has this slug"


class SkuTaken(Conflict):
    """Another product or variant has one of these SKUs already. `skus` lists them; a SKU must be unique."""

    slug, title = "sku-taken", "Another product has this SKU"


class CategoryInUse(Conflict):
    """The category still holds products or categories. Move them to another category first."""

    slug, title = "category-in-use", "The category is not empty"


class NotBought(Forbidden):
    """Only customers who have bought the product may review it, once the order is confirmed."""

    slug, title = "not-bought", "Only buyers may review a product"


class AlreadyReviewed(Conflict):
    """You have reviewed this product before; each customer has one review per product."""

    slug, title = "already-reviewed", "You have reviewed this product"


@dataclass(frozen=True)
class Image:
    """An image by its address: an http(s) URL or a path of this shop."""

    url: str
    alt: str = ""
    is_primary: bool = False


@dataclass(frozen=True)
class Variant:
    """One of the things that can be bought. Without a price: the product's, else the one in inventory."""

    sku: str
    attrs: Attrs = field(default_factory=dict)
    price_cents: int | None = None


@dataclass(frozen=True)
class Ratings:
    """The average, 0 to 5, of `count` votes."""

    avg: float = 0.0
    count: int = 0


@dataclass(frozen=True)
class Draft:
    """A product as given by staff or a loader. `published_at` None: unpublished; in the future: unpublished until then.
    Without a slug one is made from the name. `ratings` are votes from before the shop had reviews; reviews add to
    them."""

    sku: str
    name: str
    category: str
    slug: str | None = None
    brand: str | None = None
    description: str = ""
    images: Sequence[Image] = ()
    attrs: Attrs = field(default_factory=dict)
    variants: Sequence[Variant] = ()
    price_cents: int | None = None
    tags: Sequence[str] = ()
    published_at: datetime | None = None
    ratings: Ratings = Ratings()


@dataclass(frozen=True)
class Level:
    """Inventory's data for a SKU: price in minor units, pieces that can be bought now."""

    price_cents: int
    available: int


@dataclass(frozen=True)
class Category:
    """`attrs` is the JSON Schema (2020-12) of its products' attributes; `varying` are the attributes that some variant
    carries."""

    slug: str
    name: str
    parent: str | None
    attrs: Mapping[str, Any]
    varying: frozenset[str] = frozenset()
    version: int = 1


@dataclass(frozen=True)
class Card:
    """How a SKU is shown in a cart or an order: a variant's name carries its attributes (`Everyday Tee, black, M`)."""

    name: str
    slug: str
    image: str | None


def slugify(name: str) -> str:
    """`Café crème, 1 kg` becomes `cafe-creme-1-kg`; letters without an ASCII form are dropped; if nothing is left,
    `product`."""
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:LONGEST_SLUG].strip("-") or "product"


def millis(moment: datetime) -> datetime:
    """In UTC, truncated to MongoDB's milliseconds, so that a response now equals what is read later."""
    moment = moment.astimezone(UTC)
    return moment - timedelta(microseconds=moment.microsecond % 1000)


def epoch_ms(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def sellable(draft: Draft) -> dict[str, tuple[str, int | None]]:
    """Name and price of every SKU that can be bought: the variants', or the product's own when it has none."""
    if not draft.variants:
        return {draft.sku: (draft.name, draft.price_cents)}
    return {
        v.sku: (
            variant_name(draft.name, v.attrs),
            v.price_cents if v.price_cents is not None else draft.price_cents,
        )
        for v in draft.variants
    }


def variant_name(name: str, attrs: Attrs) -> str:
    """The name in an order line: `Everyday Tee, black, M`."""
    return ", ".join([name, *(str(value) for value in attrs.values())])


def references(draft: Draft, slug: str) -> list[str]:
    """Everything by which a client can name the product: its SKU, slug, variants' SKUs."""
    return list(dict.fromkeys([draft.sku, slug, *(v.sku for v in draft.variants)]))


def document(draft: Draft, slug: str, levels: Mapping[str, Level]) -> Document:
    """The MongoDB document of a draft, without id, ratings, version and dates of change.

    `keys`, `options` and `publishedMs` are derived: the references by which it is found, the attributes of each thing
    that can be bought, and the time of publication as a number, which every engine compares quickly.
    """
    published = millis(draft.published_at) if draft.published_at else None
    found: Document = {
        "sku": draft.sku,
        "name": draft.name,
        "slug": slug,
        "category": draft.category,
        "brand": draft.brand,
        "description": draft.description,
        "images": [{"url": i.url, "alt": i.alt, "isPrimary": i.is_primary} for i in draft.images],
        "attrs": dict(draft.attrs),
        "variants": [{"sku": v.sku, "attrs": dict(v.attrs)} for v in draft.variants],
        "tags": list(dict.fromkeys(draft.tags)),
        "publishedAt": published,
        "publishedMs": epoch_ms(published) if published else None,
        "keys": references(draft, slug),
        "options": [{**draft.attrs, **v.attrs} for v in draft.variants] or [dict(draft.attrs)],
    }
    return found | copies(found, levels)


def new_document(id_: str, draft: Draft, slug: str, levels: Mapping[str, Level]) -> Document:
    """The same for a new product, with its id and its ratings from the draft."""
    ratings = asdict(draft.ratings)
    return {"_id": id_, **document(draft, slug, levels), "ratings": ratings, "ratingsBefore": ratings}


def canary(written_ms: int) -> Document:
    """The canary's document; its image holds the time of the write. It is never published, and has no word that could
    become a spelling suggestion."""
    draft = Draft(CANARY, "~", "", images=[Image(f"/{written_ms}")], published_at=_NEVER)
    return new_document(CANARY, draft, CANARY, {CANARY: Level(0, 0)})


def canary_written_ms(picture: str) -> int:
    """The time of the write in the canary's image."""
    return int(picture.removeprefix("/"))


def with_version(found: Document, version: int, moment: datetime) -> Document:
    """The document with this version and time of change, and the fields derived from them."""
    product = {**found, "version": version, "updatedAt": moment}
    return product | comparison_fields(product)


def comparison_fields(found: Document) -> Document:
    """The fields by which many documents are compared at once. Two states of a product have different fingerprints,
    even if it was deleted and created again between them."""
    state = f"{found['_id']} {found['version']} {epoch_ms(found['updatedAt'])}"
    return {"bucket": bucket(found["_id"]), "fingerprint": fingerprint(state.encode())}


def copies(found: Document, levels: Mapping[str, Level]) -> Document:
    """The fields copied from inventory: each variant's price and available pieces, the lowest price, the sum of
    pieces."""
    if not found["variants"]:
        level = levels[found["sku"]]
        return {"priceCents": level.price_cents, "available": level.available}
    variants = [
        {
            "sku": v["sku"],
            "attrs": v["attrs"],
            "priceCents": levels[v["sku"]].price_cents,
            "available": levels[v["sku"]].available,
        }
        for v in found["variants"]
    ]
    return {
        "variants": variants,
        "priceCents": min(v["priceCents"] for v in variants),
        "available": sum(v["available"] for v in variants),
    }


def present_levels(found: Document) -> dict[str, Level]:
    """Price and stock by SKU, as copied into the document."""
    rows = found["variants"] or [found]
    return {row["sku"]: Level(row["priceCents"], row["available"]) for row in rows}


def rated(base: Mapping[str, Any], stars: int, count: int) -> Ratings:
    """The earlier votes `base` and `count` reviews, whose `stars` add up to the given sum. Average to two decimals."""
    votes = base["count"] + count
    total = base["avg"] * base["count"] + stars
    return Ratings(round(total / votes, 2) if votes else 0.0, votes)


def is_published(found: Document, now: datetime) -> bool:
    """Whether shoppers may see the product."""
    published: datetime | None = found["publishedAt"]
    return published is not None and published <= now


def sellable_skus(found: Document) -> list[str]:
    """The SKUs of a product (its document or its wire form) that can be bought, and so have a row in inventory."""
    return [row["sku"] for row in found["variants"] or [found]]


def etag(found: Document) -> str:
    """A strong ETag. It includes the document's id, since a slug may later name another document."""
    return f'"{found["_id"][-12:]}-{found["version"]}"'


def wire(found: Document, currency: str) -> Document:
    """The product as in API responses (api.md)."""
    shown = (
        "sku", "name", "slug", "category", "brand", "description", "images", "attrs", "variants", "priceCents"
    )  # fmt: skip
    return {
        "id": found["_id"],
        **{name: found[name] for name in shown},
        "currency": currency,
        "tags": found["tags"],
        "ratings": found["ratings"],
        "available": found["available"],
        "publishedAt": found["publishedAt"],
        "updatedAt": found["updatedAt"],
    }


def card(product: Document, sku: str) -> Card:
    """The card of one of the product's SKUs, from its document or its wire form."""
    attrs: Attrs = next((v["attrs"] for v in product["variants"] if v["sku"] == sku), {})
    return Card(variant_name(product["name"], attrs), product["slug"], primary_image(product))


def names(product: Document) -> dict[str, str]:
    """The name of each of the product's SKUs in inventory and order lines."""
    return {sku: card(product, sku).name for sku in sellable_skus(product)}


def primary_image(product: Mapping[str, Any]) -> str | None:
    """The URL of the image to show where there is room for one."""
    images = product["images"]
    return next((i["url"] for i in images if i["isPrimary"]), images[0]["url"] if images else None)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: given members replace, null removes, objects merge, everything else is replaced as a whole."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def and_below(parents: Mapping[str, str | None], slugs: Iterable[str]) -> list[str]:
    """These categories and all their descendants; `parents` maps each category to its parent."""
    children: dict[str | None, list[str]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    found = list(dict.fromkeys(slugs))
    for slug in found:  # grows while it is walked
        found += [child for child in children.get(slug, ()) if child not in found]
    return found
