"""The tests' own shop and helpers, for proofs that take longer than anybody waits for a test."""

import importlib.util
import sys
from pathlib import Path

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
               "test_limits", "test_mongo_contract", "test_reach", "test_stores_down", "outages",
               "engines"):  # fmt: skip
    pytest.register_assert_rewrite(reused)

# Theirs under another name, and all of it here too, since their helpers say `from conftest import …`.
_spec = importlib.util.spec_from_file_location("shop_fixtures", TESTS / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_theirs = sys.modules["shop_fixtures"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_theirs)
globals().update({name: value for name, value in vars(_theirs).items() if not name.startswith("__")})
