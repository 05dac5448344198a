"""Product search: full text, filters, facets and suggestions, answered by Elasticsearch or OpenSearch.

`sync` keeps the index up to date: `document` turns a product into its search document, and `put` writes it.
"""

from quartet.search.documents import document
from quartet.search.model import Tier, Wanted
from quartet.search.service import invalidate_answers, similar_products
from quartet.search.store import (
    abandon_next,
    add_new_fields,
    alike,
    build_next,
    find,
    fingerprints,
    found_by_ids,
    go_live,
    is_current,
    make_ready,
    next_alias,
    next_index,
    prepare,
    prepare_rollback,
    put,
    stored,
    suggest,
    sums,
)

__all__ = [
    "Tier",
    "Wanted",
    "abandon_next",
    "add_new_fields",
    "alike",
    "build_next",
    "document",
    "find",
    "fingerprints",
    "found_by_ids",
    "go_live",
    "invalidate_answers",
    "is_current",
    "make_ready",
    "next_alias",
    "next_index",
    "prepare",
    "prepare_rollback",
    "put",
    "similar_products",
    "stored",
    "suggest",
    "sums",
]
