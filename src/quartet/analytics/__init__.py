"""Reports on revenue, stock and searches: read-only SQL over PostgreSQL."""

from quartet.analytics.store import revenue

__all__ = ["revenue"]
