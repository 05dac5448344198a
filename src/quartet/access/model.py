"""Scopes of API keys, and what keys and entries of the audit log are."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet.kernel.errors import Conflict, Forbidden

# The one table of scopes: by the first word of an address, the room whose `read` (GET) or `write` a key needs there.
ROOMS = {
    "analytics": "analytics",
    "bestsellers": "catalog",
    "categories": "catalog",
    "inventory": "inventory",
    "leaderboard": "leaderboard",
    "orders": "orders",
    "payments": "payments",
    "products": "catalog",
    "search": "catalog",
    "sync": "sync",
    "users": "users",
    "webhook-endpoints": "webhooks",
}
# Where anybody may, and so every key.
OPEN = {"docs", "health", "images", "metrics", "openapi.json", "problems", "webhooks"}
# What only people do: shoppers for themselves, admins with keys, roles and the audit log.
PERSONAL = {"api-keys", "audit-log", "cart", "email-verifications", "password-resets", "sessions"}
_PERSONAL_ROUTES = re.compile(
    r"POST /(users|orders|orders/claim|payments|products/[^/]+/reviews)|\w+ /users/(me(/.*)?|[^/]+/roles)"
    r"|GET /leaderboard/me"
)

SCOPES = frozenset(f"{room}:{what}" for room in ROOMS.values() for what in ("read", "write"))


@dataclass(frozen=True)
class ApiKey:
    """A key as its administrators see it; the key itself is not kept anywhere."""

    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    created_by: UUID | None
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class GoodKey:
    """What the gateway has to know of a key that is good now."""

    id: UUID
    scopes: frozenset[str]
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True)
class Entry:
    """Something staff did: `actor` is a user's id, or `key:` and an API key's; `before` and `after` are as the act
    knew them."""

    id: int
    at: datetime
    actor: str
    action: str
    subject_kind: str
    subject_id: str
    before: Any
    after: Any
    request_id: str


class LastAdmin(Conflict):
    """The shop would be left without an administrator. Give somebody else the role first."""

    slug, title = "last-admin", "The last administrator stays"


def needed_scope(method: str, path: str) -> str | None:
    """The scope an API key needs for this call; None where none is needed. Raises Forbidden for what is not for keys
    at all, which is also every address that the table does not know."""
    word = path.split("/", 2)[1] if path.startswith("/") else ""
    if word in OPEN:
        return None
    if word not in ROOMS or _PERSONAL_ROUTES.fullmatch(f"{method} {path}"):
        raise Forbidden("this is for people, not for API keys")
    return f"{ROOMS[word]}:{'read' if method in ('GET', 'HEAD', 'OPTIONS') else 'write'}"
