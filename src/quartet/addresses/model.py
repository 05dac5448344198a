"""A postal address and its limits."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from quartet.kernel.errors import Conflict

MOST = 50
# ISO 3166-1 alpha-2: the 249 assigned codes.
COUNTRIES = frozenset(Path(__file__).with_name("countries.txt").read_text(encoding="ascii").split())


@dataclass(frozen=True)
class Address:
    """A user's address; if a user has any, exactly one is the default."""

    id: UUID
    name: str
    line1: str
    line2: str | None
    city: str
    region: str | None
    postal_code: str
    country: str
    phone: str | None
    is_default: bool
    created_at: datetime
    updated_at: datetime


class TooManyAddresses(Conflict):
    """You have 50 addresses already, which is the maximum. Delete one that you no longer use."""

    slug, title = "too-many-addresses", "You have as many addresses as are kept"
