"""The connections to the oldest PostgreSQL that the shop is promised for, and a replica of it."""

import pytest
from test_connections import *  # noqa: F403
from test_replica import *  # noqa: F403


@pytest.fixture(scope="session")  # type: ignore[no-redef]  # in place of the one from above
def major() -> int:
    """Of which version."""
    return 15


@pytest.fixture(scope="session")
def servers(servers: dict[str, str], pair: "Pair") -> dict[str, str]:  # noqa: F405
    """The four stores, with that version."""
    return {**servers, "postgres": pair.primary.server.url}
