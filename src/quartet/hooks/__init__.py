"""Webhooks to shops' own systems, signed as Standard Webhooks has it. Held in PostgreSQL until they are taken.

The relay calls `keep` in the transaction that takes the events out of the outbox; the worker keeps `run` running.
"""

from quartet.hooks.delivery import keep, run
from quartet.hooks.model import EVENTS
from quartet.hooks.store import breakers, forget_orders, sweep, waiting

__all__ = [
    "EVENTS",
    "breakers",
    "forget_orders",
    "keep",
    "run",
    "sweep",
    "waiting",
]
