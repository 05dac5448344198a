"""Tests import fixtures by the bare name of their file, whatever folders share a run."""

import sys
from pathlib import Path


def test_whoever_imports_from_conftest_here_means_the_one_of_all_tests() -> None:
    assert Path(sys.modules["conftest"].__file__ or "") == Path(__file__).resolve().parents[2] / "conftest.py"
