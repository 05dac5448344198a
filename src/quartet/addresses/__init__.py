"""Where people have things sent. Held in PostgreSQL."""

from quartet.addresses.model import Address
from quartet.addresses.store import forget, of_user

__all__ = ["Address", "forget", "of_user"]
