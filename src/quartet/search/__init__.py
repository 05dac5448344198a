"""Product search: full text, filters, facets and suggestions, answered by Elasticsearch or OpenSearch."""

from quartet.search.store import prepare

__all__ = ["prepare"]
