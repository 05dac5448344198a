"""The search log (what was searched, opened and bought), and what staff set for queries: synonyms, rules, ranking."""

from quartet.merchandising.model import (
    SEARCH_ID,
    ReportOrder,
    Ruling,
    read_id,
)
from quartet.merchandising.rules import MOST_ALTERNATIVES, offers, recent_stamp, ruling
from quartet.merchandising.service import count_queries, credit_late, keep, note_opened, note_search, sweep, write_log
from quartet.merchandising.store import expect, forget_lines, report
from quartet.merchandising.typeahead import FEWEST_LETTERS

__all__ = [
    "FEWEST_LETTERS",
    "MOST_ALTERNATIVES",
    "SEARCH_ID",
    "ReportOrder",
    "Ruling",
    "count_queries",
    "credit_late",
    "expect",
    "forget_lines",
    "keep",
    "note_opened",
    "note_search",
    "offers",
    "read_id",
    "recent_stamp",
    "report",
    "ruling",
    "sweep",
    "write_log",
]
