"""Access control: API keys, roles and the audit log. Stored in PostgreSQL."""

from quartet.access.model import LastAdmin, ValidKey, needed_scope
from quartet.access.service import (
    PREFIX,
    last_admin_guard,
    note_use,
    publish_revoked_keys,
    publish_roles,
    republish_revocations,
    set_roles,
    user_by_email,
    valid_key,
)
from quartet.access.store import forget, person

__all__ = [
    "PREFIX",
    "LastAdmin",
    "ValidKey",
    "forget",
    "last_admin_guard",
    "needed_scope",
    "note_use",
    "person",
    "publish_revoked_keys",
    "publish_roles",
    "republish_revocations",
    "set_roles",
    "user_by_email",
    "valid_key",
]
