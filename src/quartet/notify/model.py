"""E-mails as they are stored, and as they are rendered."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

Json = dict[str, Any]


@dataclass(frozen=True)
class Mail:
    """An e-mail that waits; without a `user_id` it is a guest's. `attempts` counts the present one."""

    id: int
    event_id: UUID
    kind: str
    user_id: UUID | None
    args: Json
    attempts: int
    created_at: datetime

    def message_id(self, host: str, *, anew: bool) -> str:
        """The same at every try: a receiver that got it twice can tell (RFC 5322, 3.6.4). `anew`: each try says
        something else, and the latest counts."""
        return f"<{self.event_id}.{self.kind}{f'.{self.attempts}' if anew else ''}@{host}>"


@dataclass(frozen=True)
class MailContent:
    """What is needed to write it: the recipient, and what its templates speak of. `anew`: that differs at each try."""

    to: str
    args: Json
    anew: bool = False


@dataclass(frozen=True)
class RenderedMail:
    """An e-mail as it leaves."""

    subject: str
    text: str
    html: str
