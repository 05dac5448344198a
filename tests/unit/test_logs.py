"""A line of the log is JSON, whatever is told."""

import json
import subprocess
import sys
from typing import Any
from uuid import UUID

import pytest

_TELL = """
import structlog
from uuid import UUID
from quartet.web import logs
logs.configure("info", as_json=True)
log = structlog.get_logger("test")
log.info("told", {members})
"""


def _told(members: str) -> dict[str, Any]:
    told = subprocess.run([sys.executable, "-c", _TELL.format(members=members)], capture_output=True, check=True)
    [line] = told.stderr.splitlines()
    said: dict[str, Any] = json.loads(line)
    return said


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ("path='/search', status=200, user=None", {"path": "/search", "status": 200, "user": None}),
        ("password='x', access_token='y', n=1", {"password": "***", "access_token": "***", "n": 1}),
        ("error=ValueError('bad')", {"error": "ValueError('bad')"}),
        ("big=2**70, half='\\ud83d', by={1: 'one'}", {"big": 2**70, "half": "\ud83d", "by": {"1": "one"}}),
        (f"id=UUID('{UUID(int=7)}')", {"id": str(UUID(int=7))}),
    ],
)
def test_a_line_is_json_without_secrets(members: str, said: dict[str, Any]) -> None:
    line = _told(members)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "told", "level": "info", **said}
