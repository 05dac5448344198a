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

# Of the wire's product: kept by the shop, so a client may send them back but not set them.
READ_ONLY = ("id", "currency", "ratings", "available", "updatedAt")
LONGEST_SLUG = 120
# Id, SKU and slug of the product by which freshness is measured: no client can name it, and none is shown it.
CANARY = "~canary"
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


class SlugTaken(Conflict):
    """Another product is found under this slug (or has it as its SKU). Choose another slug, or leave it out and one is
    made from the name."""

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
    """A picture by its address: http(s) or a path of this shop."""

    url: str
    alt: str = ""
    is_primary: bool = False


@dataclass(frozen=True)
class Variant:
    """One of the things that can be bought. No price: the product's, else the one that inventory has."""

    sku: str
    attrs: Attrs = field(default_factory=dict)
    price_cents: int | None = None


@dataclass(frozen=True)
class Ratings:
    """Average of 0 to 5, of `count` votes."""

    avg: float = 0.0
    count: int = 0


@dataclass(frozen=True)
class Draft:
    """A product as somebody wrote it down. `published_at` None keeps it out of the shop, a future moment until then;
    no slug: one is made from the name. `ratings` are votes from before the shop had reviews; reviews add to them."""

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
    """What inventory says of a SKU: price in minor units, pieces that one can buy now."""

    price_cents: int
    available: int


@dataclass(frozen=True)
class Category:
    """`attrs` is the JSON Schema (2020-12) that its products' attributes follow; `varying` are those among them that
    some variant carries."""

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
    """`Café crème, 1 kg` becomes `cafe-creme-1-kg`; letters that have no ASCII form are dropped, nothing left is
    `product`."""
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:LONGEST_SLUG].strip("-") or "product"


def millis(moment: datetime) -> datetime:
    """In UTC, cut to the milliseconds that MongoDB keeps, so that what is answered now is what is read later."""
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
    """As an order line reads: `Everyday Tee, black, M`."""
    return ", ".join([name, *(str(value) for value in attrs.values())])


def references(draft: Draft, slug: str) -> list[str]:
    """Everything that a shopper may call the product by."""
    return list(dict.fromkeys([draft.sku, slug, *(v.sku for v in draft.variants)]))


def document(draft: Draft, slug: str, levels: Mapping[str, Level]) -> Document:
    """The MongoDB document of a draft, without what identifies, rates and dates it.

    `keys`, `options` and `publishedMs` are derived: what it is found by, the attributes of each thing one can choose,
    and the publication as a number, which every engine compares quickly.
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
    """The same of a product that is new, with its id and its votes from before."""
    ratings = asdict(draft.ratings)
    return {"_id": id_, **document(draft, slug, levels), "ratings": ratings, "ratingsBefore": ratings}


def canary(song: int) -> Document:
    """The canary, with its song on its picture. It is never published, and has no word that a search could take for a
    spelling."""
    draft = Draft(CANARY, "~", "", images=[Image(f"/{song}")], published_at=_NEVER)
    return new_document(CANARY, draft, CANARY, {CANARY: Level(0, 0)})


def song_of(picture: str) -> int:
    """What the canary's picture says."""
    return int(picture.removeprefix("/"))


def numbered(found: Document, version: int, moment: datetime) -> Document:
    """The document as that version of it, of that moment."""
    product = {**found, "version": version, "updatedAt": moment}
    return product | compared_by(product)


def compared_by(found: Document) -> Document:
    """The fields by which many documents are compared at once. No two states of a product share a fingerprint, even
    when it was deleted and put in again between them."""
    state = f"{found['_id']} {found['version']} {epoch_ms(found['updatedAt'])}"
    return {"bucket": bucket(found["_id"]), "fingerprint": fingerprint(state.encode())}


def copies(found: Document, levels: Mapping[str, Level]) -> Document:
    """The fields that repeat inventory: a variant's price and pieces, the lowest price, all pieces."""
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
    """The copies as they stand in the document."""
    rows = found["variants"] or [found]
    return {row["sku"]: Level(row["priceCents"], row["available"]) for row in rows}


def rated(base: Mapping[str, Any], stars: int, count: int) -> Ratings:
    """The votes from before and the reviews' `stars` in all: `count` of them. The average to two places."""
    votes = base["count"] + count
    total = base["avg"] * base["count"] + stars
    return Ratings(round(total / votes, 2) if votes else 0.0, votes)


def is_published(found: Document, now: datetime) -> bool:
    """Whether shoppers may see it."""
    published: datetime | None = found["publishedAt"]
    return published is not None and published <= now


def sellable_skus(found: Document) -> list[str]:
    """Of a product as its document or its wire form: what inventory keeps a row of, and one can buy."""
    return [row["sku"] for row in found["variants"] or [found]]


def etag(found: Document) -> str:
    """Strong: it names the document and its version, since a slug may come to name another document."""
    return f'"{found["_id"][-12:]}-{found["version"]}"'


def wire(found: Document, currency: str) -> Document:
    """The product as clients see it (api.md)."""
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
    """What inventory calls each of the product's SKUs, and an order its line."""
    return {sku: card(product, sku).name for sku in sellable_skus(product)}


def primary_image(product: Mapping[str, Any]) -> str | None:
    """The address of the picture to show where there is room for one."""
    images = product["images"]
    return next((i["url"] for i in images if i["isPrimary"]), images[0]["url"] if images else None)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: members given replace, null removes, objects merge, everything else is replaced whole."""
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
    """These categories and all those below them; `parents` gives each category's parent."""
    children: dict[str | None, list[str]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    found = list(dict.fromkeys(slugs))
    for slug in found:  # which grows
        found += [child for child in children.get(slug, ()) if child not in found]
    return found
