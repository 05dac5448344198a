"""The tests' own shop and helpers, for proofs that take longer than anybody waits for a test."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TESTS = Path(__file__).resolve().parent.parent / "tests"

sys.path.append(str(TESTS))
FOLDERS = ("rooms", "stores", "stores/search", "stores/postgres", "stores/redis", "stores/mongo", "faults", "flows")
for folder in FOLDERS:
    sys.path.insert(0, str(TESTS / folder))
for reused in ("test_shop_machine", "test_api_kill", "test_worker_kill", "test_sync", "test_search", "test_engine",
               "test_queries", "test_replica", "test_connections", "test_analytics", "test_place_order", "test_races",
               "test_storms", "test_history", "crowd", "use_cases", "test_step_kill", "test_cut", "test_expiry",
               "till", "furnished", "own_stores", "converging", "test_cluster", "test_cart", "test_leaderboard",
               "test_limits", "test_mongo_contract", "test_reach", "test_stores_down", "test_store_kills",
               "outages"):  # fmt: skip
    pytest.register_assert_rewrite(reused)


def fixtures_of(path: Path, name: str) -> ModuleType:
    """A conftest of the tests', under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Here, too, since their helpers say `from conftest import …`.
_theirs = fixtures_of(TESTS / "conftest.py", "shop_fixtures")
globals().update({name: value for name, value in vars(_theirs).items() if not name.startswith("__")})
