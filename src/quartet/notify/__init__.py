"""E-mails about what happened, each once, by template. Held in PostgreSQL until they are sent.

The relay calls `keep` in the transaction that forgets the events; the worker calls `deliver`.
"""

from quartet.notify.service import PIPELINE, check, deliver, keep
from quartet.notify.store import drop, forget_orders, revive, sweep, waiting

__all__ = [
    "PIPELINE",
    "check",
    "deliver",
    "drop",
    "forget_orders",
    "keep",
    "revive",
    "sweep",
    "waiting",
]
