"""Product search: full text, filters, facets and suggestions, answered by Elasticsearch or OpenSearch.

`sync` keeps the index: it asks `document` how a product is kept, and writes it with `put`.
"""

from quartet.search.model import Found, Wanted, document
from quartet.search.store import (
    build_next,
    find,
    found_by_ids,
    go_live,
    is_current,
    next_alias,
    prepare,
    put,
    stored,
    suggest,
    sweep,
)

__all__ = [
    "Found",
    "Wanted",
    "build_next",
    "document",
    "find",
    "found_by_ids",
    "go_live",
    "is_current",
    "next_alias",
    "prepare",
    "put",
    "stored",
    "suggest",
    "sweep",
]
