"""How a product becomes a search document."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson

from quartet.catalog import primary_image
from quartet.kernel.fingerprints import bucket, fingerprint
from quartet.kernel.texts import fold, has_digit
from quartet.search import words
from quartet.search.attributes import tokens

Json = dict[str, Any]


def document(product: Mapping[str, Any]) -> Json | None:
    """The whole search document of a catalog product; None for a draft, which must not be found. It holds nothing that
    no search queries or returns, since each field means a write to the index whenever it changes; so there is no exact
    stock in it.

    A product to be published in the future is indexed: queries compare the date with the current time.
    """
    published: datetime | None = product["publishedAt"]
    if published is None:
        return None
    name, brand = product["name"], product["brand"] or ""
    choices = choices_of(product)
    in_stock = [choice for choice in choices if choice["available"] > 0]
    attrs = tokens_of(choices)
    everything = (product, *product["variants"])
    named, by = words.index_text(name), fold(brand)
    if name.lower().startswith(brand.lower()):
        shown = named
    else:  # a brand without a digit adds no measure
        shown = words.index_text(f"{brand} {name}") if has_digit(by) else f"{by} {named}"
    more = [*product["tags"], product["category"].replace("-", " "), *words.pairs(fold(name))]
    for choice in everything:
        more += (*words.of_sku(choice["sku"]), *words.of_attrs(choice["attrs"]))
    kept: Json = {
        "id": product["_id"],
        "sku": product["sku"],
        "skus": sorted({choice["sku"].lower() for choice in everything}),
        "name": name,
        "slug": product["slug"],
        "category": product["category"],
        "brand": product["brand"],
        "description": product["description"],
        "words": {
            "name": named,
            "brand": by,
            "more": " ".join(dict.fromkeys(map(words.index_text_cached, more))),
            "description": words.index_text(product["description"]),
        },
        "suggest": shown,
        "begun": sorted(words.word_prefixes(shown)),
        "priceCents": product["priceCents"],
        "rating": product["ratings"]["avg"],
        "attrs": attrs,
        "attrsInStock": attrs if len(in_stock) == len(choices) else tokens_of(in_stock),
        "image": primary_image(product),
        "inStock": product["available"] > 0,
        "publishedAt": published.isoformat(),
    }
    # The comparison between index and catalog sums these over many documents at once.
    return kept | {"bucket": bucket(product["_id"]), "fingerprint": fingerprint(orjson.dumps(kept))}


def choices_of(product: Mapping[str, Any]) -> list[Json]:
    """What can be bought of a product: its variants, each with the product's attributes where it has none of its own;
    or, without variants, the product."""
    chosen = [{**variant, "attrs": {**product["attrs"], **variant["attrs"]}} for variant in product["variants"]]
    return chosen or [dict(product)]


def tokens_of(choices: Iterable[Mapping[str, Any]]) -> list[str]:
    """The distinct tokens of all of these, sorted."""
    return sorted({text for choice in choices for text in tokens(choice["attrs"])})
