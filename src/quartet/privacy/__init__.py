"""Erasing a person's data in every store, and exporting it. Owns no store; calls all packages that hold such data.

A new table, key or collection with personal data must be erased here too; `tests/flows/test_privacy.py` searches every
store for leftovers.
"""

from quartet.privacy.service import forget

__all__ = ["forget"]
