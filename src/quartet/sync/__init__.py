"""Synchronisation: changes in the systems of record reach search, catalog copies, caches, carts and the leaderboard.

`run_worker` does it continuously; `catch_up` once, in this process; `reindex` rebuilds the search index.
"""

from quartet.sync.compare import differing, repair
from quartet.sync.metrics import measure
from quartet.sync.products import with_current_levels
from quartet.sync.reindex import ask as ask_reindex
from quartet.sync.reindex import last as last_rebuild
from quartet.sync.reindex import reindex
from quartet.sync.service import (
    catch_up,
    dead_letters,
    drop_dead_letter,
    replay_dead_letters,
    reset_after_restore,
)
from quartet.sync.worker import run_worker

__all__ = [
    "ask_reindex",
    "catch_up",
    "dead_letters",
    "differing",
    "drop_dead_letter",
    "last_rebuild",
    "measure",
    "reindex",
    "repair",
    "replay_dead_letters",
    "reset_after_restore",
    "run_worker",
    "with_current_levels",
]
