"""Product search: full text, filters, facets and suggestions, answered by Elasticsearch or OpenSearch.

`sync` keeps the index: it asks `document` how a product is kept, and writes it with `put`.
"""

from quartet.search.model import Found, Wanted, document
from quartet.search.store import build_next, find, go_live, is_current, next_alias, prepare, put, stored, suggest, sweep

__all__ = [
    "Found",
    "Wanted",
    "build_next",
    "document",
    "find",
    "go_live",
    "is_current",
    "next_alias",
    "prepare",
    "put",
    "stored",
    "suggest",
    "sweep",
]
