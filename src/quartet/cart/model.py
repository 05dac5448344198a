"""What a cart is."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from uuid import UUID

from quartet.kernel.errors import Invalid

MOST_PIECES = 999
MOST_LINES = 200

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")

# A user's cart is found by the user's id, a guest's by the token that only the guest has.
Owner = UUID | str


@dataclass(frozen=True)
class Line:
    """`available` is what one can buy now: 0 for what is sold out or no longer sold. What has no price any more costs 0
    and can't be ordered; it stays to be seen and removed."""

    sku: str
    qty: int
    name: str
    slug: str | None
    image: str | None
    unit_price_cents: int
    available: int

    @property
    def line_total_cents(self) -> int:
        """In minor units."""
        return self.qty * self.unit_price_cents


@dataclass(frozen=True)
class Cart:
    """Lines in the order in which they were put in, at the prices of now; one currency."""

    items: list[Line]
    currency: str

    @property
    def item_count(self) -> int:
        """Pieces, not lines."""
        return sum(line.qty for line in self.items)

    @property
    def total_cents(self) -> int:
        """In minor units."""
        return sum(line.line_total_cents for line in self.items)


class CartFull(Invalid):
    """The cart would hold more of one thing, or more different things, than a cart may. Nothing was changed."""

    slug, title = "cart-full", "The cart can't hold that much"


def new_token() -> str:
    """A guest's key to the cart: 256 random bits."""
    return secrets.token_urlsafe(32)


def name_of(token: str) -> str:
    """What a guest's cart is called where the token need not be known: a digest, which names it and opens nothing."""
    return hashlib.sha256(token.encode()).hexdigest()


def good_token(token: str | None) -> str | None:
    """The token if it has the form of ours."""
    return token if token and _TOKEN.fullmatch(token) else None
