"""Fixtures of the flows."""

import pytest
from till import Till

from quartet.web.dependencies import Shop


@pytest.fixture
def till(shop: Shop) -> Till:
    """The shop as its owner sees it."""
    return Till(shop)
