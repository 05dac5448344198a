"""The outbox: events written where they happen, drained in order by one relay at a time."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet.stores.files import queries
from quartet.stores.postgres import Tx

q = queries(__file__)


@dataclass(frozen=True)
class Event:
    """Something that happened. `event_id` is what consumers remember to count it once."""

    id: int
    event_id: UUID
    topic: str
    key: str
    payload: dict[str, Any]
    attempts: int
    created_at: datetime


async def emit(tx: Tx, topic: str, key: str, payload: dict[str, Any]) -> None:
    """Writes an event into the transaction that makes it true."""
    await tx.execute(q.emit, topic, key, payload)
