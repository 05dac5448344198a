"""Forgetting a person in every store, and handing over what is held about one. Owns no store; speaks to all of them.

A new table, key or collection that holds something of a person is forgotten here too; `tests/flows/test_privacy.py`
looks through every store for what was left.
"""

from quartet.privacy.service import forget

__all__ = ["forget"]
