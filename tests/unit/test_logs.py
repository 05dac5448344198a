"""A line of the log is JSON, whatever is told."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

_TELL = """
import structlog
from uuid import UUID
from quartet.web import logs
logs.configure({level!r}, as_json={as_json})
log = structlog.get_logger("test")
{call}
"""


def _said(level: str, call: str) -> list[dict[str, Any]]:
    code = _TELL.format(level=level, as_json=True, call=call)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return [json.loads(line) for line in told.stderr.splitlines()]


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
    [line] = _said("info", f"log.info('told', {members})")
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "told", "level": "info", **said}


@pytest.mark.parametrize(("level", "lines"), [("info", 1), ("warning", 0)])
def test_a_requests_line_is_as_all_others(level: str, lines: int) -> None:
    """Though it takes a shorter way."""
    members = "method='GET', path='/products/\\ud83d', status=200, ms=0.1, user=None"
    by_gateway, by_others = (
        _said(level, f"logs.log_request({members})"),
        _said(level, f"log.info('request', {members})"),
    )
    assert [line.pop("timestamp")[-1:] for line in by_gateway + by_others] == ["Z"] * 2 * lines
    assert by_gateway == by_others
    assert len(by_gateway) == lines


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
@pytest.mark.parametrize("as_json", [True, False])
def test_a_full_disk_keeps_nobody_from_anything(as_json: bool) -> None:
    """Else a search that was kept ready is refused, and what is done is answered as if it had failed."""
    many = "for _ in range(500): {}"
    for call in ("logs.log_request(path='/search')", "log.warning('told')"):
        code = _TELL.format(level="info", as_json=as_json, call=f"{many.format(call)}\nprint('done')")
        with Path("/dev/full").open("w") as full:
            told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, check=False)
        assert told.stdout == b"done\n", call
