"""What is checked, and what a check finds."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

# In the order in which they are checked. Those of PostgreSQL alone are queries of the same name.
POSTGRES_RULES = {
    "reserved_is_held": "what is reserved is what pending orders hold",
    "ledger_equals_rows": "the ledger of movements adds up to stock and reserved",
    "totals_equal_lines": "an order costs what its lines cost",
    "payments_equal_orders": "orders are paid by their payments, and none twice",
    "refunds_equal_orders": "what was given back is the sum of its refunds",
    "refunds_equal_payments": "what was given back of a payment is the sum of its refunds",
    "pieces_equal_refunds": "no piece is refunded twice, and those put back are the ledger's",
    "history_leads_to_status": "an order's history leads to its status",
    "nothing_overdue": "no unpaid order keeps stock past its time",
}
RULES = POSTGRES_RULES | {
    "copies_equal_inventory": "the catalog shows inventory's prices and stock",
    "search_equals_catalog": "every published product is in search once, as of its last version, and nothing else is",
    "cache_is_not_older": "no cached product is older than its document",
}


@dataclass(frozen=True, order=True)
class Finding:
    """A rule that does not hold for `subject` (a SKU, an order's id, a cache key)."""

    rule: str
    subject: str
    finding: str


@dataclass(frozen=True)
class Report:
    """`checked`: how many things each rule was held against. `mended`: what was wrong and is not any more."""

    checked: dict[str, int]
    violations: tuple[Finding, ...]
    mended: tuple[Finding, ...] = ()


def differences(shown: Json, true: Json) -> str:
    """The top-level fields that differ, with both values: `priceCents is 100, should be 120`."""
    names = [name for name in sorted({*shown, *true}) if shown.get(name) != true.get(name)]
    return "; ".join(f"{name} is {_short(shown.get(name))}, should be {_short(true.get(name))}" for name in names)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
