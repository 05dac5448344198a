"""Users' postal addresses. Stored in PostgreSQL."""

from quartet.addresses.store import forget, of_user

__all__ = ["forget", "of_user"]
