"""The scopes of API keys, and the types of keys and audit log entries."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet.kernel.errors import Conflict, Forbidden

# The only table of scopes: by the first segment of a path, the room whose `read` (GET) or `write` scope a key needs
# there.
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
# Open to anybody, and so to every key.
OPEN = {"docs", "health", "images", "metrics", "openapi.json", "problems", "webhooks"}
# For people only: shoppers for themselves, admins with keys, roles and the audit log.
PERSONAL = {"api-keys", "audit-log", "cart", "email-verifications", "password-resets", "sessions"}
_PERSONAL_ROUTES = re.compile(
    r"POST /(users|orders|orders/claim|payments|products/[^/]+/reviews)|\w+ /users/(me(/.*)?|[^/]+/roles)"
    r"|GET /leaderboard/me"
)

SCOPES = frozenset(f"{room}:{what}" for room in ROOMS.values() for what in ("read", "write"))


@dataclass(frozen=True)
class ApiKey:
    """A key as shown to admins; the key itself is stored nowhere."""

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
class ValidKey:
    """What the gateway needs of a key that is valid now."""

    id: UUID
    scopes: frozenset[str]
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True)
class Entry:
    """A change by staff: `actor` is a user's id, or `key:` and an API key's id; `before` and `after` are as recorded
    with the change."""

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
    """The shop would be left without an administrator. Give somebody else the role `admin` first."""

    slug, title = "last-admin", "The last administrator stays"


def needed_scope(method: str, path: str) -> str | None:
    """The scope that an API key needs for this call; None if it needs none. Raises Forbidden for calls that keys can't
    make, which include every path that the table does not list."""
    word = path.split("/", 2)[1] if path.startswith("/") else ""
    if word in OPEN:
        return None
    if word not in ROOMS or _PERSONAL_ROUTES.fullmatch(f"{method} {path}"):
        raise Forbidden("this is for people, not for API keys")
    return f"{ROOMS[word]}:{'read' if method in ('GET', 'HEAD', 'OPTIONS') else 'write'}"
