"""What the shop earned and what lies on its shelves: read-only SQL over PostgreSQL."""

from quartet.analytics.store import revenue

__all__ = ["revenue"]
