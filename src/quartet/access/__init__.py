"""Access control: API keys, roles and the audit log. Stored in PostgreSQL."""

from quartet.access.model import GoodKey, LastAdmin, needed_scope
from quartet.access.service import (
    PREFIX,
    an_admin_stays,
    good_key,
    note_use,
    of_address,
    set_roles,
    tell_again,
    tell_revoked,
    tell_roles,
)
from quartet.access.store import forget, person

__all__ = [
    "PREFIX",
    "GoodKey",
    "LastAdmin",
    "an_admin_stays",
    "forget",
    "good_key",
    "needed_scope",
    "note_use",
    "of_address",
    "person",
    "set_roles",
    "tell_again",
    "tell_revoked",
    "tell_roles",
]
