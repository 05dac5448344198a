"""Structured logs: one JSON object a line on standard error, and nothing secret in it."""

import json
import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
import structlog

_LINKS = ("/password-resets/", "/email-verifications/")
_LINK = re.compile(f"^({'|'.join(_LINKS)}).+", re.DOTALL)
_SECRET = ("password", "token", "secret", "authorization", "cookie", "signature", "idempotency", "hash", "csrf")


def _log_request(**members: Any) -> None:
    structlog.get_logger("quartet.gateway").info("request", **members)


# Logs a request; its arguments are the members of the log line, none of which may be secret.
log_request: Callable[..., None] = _log_request


def configure(level: str, *, as_json: bool) -> None:
    """Configures logging; called once by each long-running command. `as_json`: else lines for people."""
    global log_request  # noqa: PLW0603 — for the whole process, as structlog's own configuration is
    if level.upper() not in ("DEBUG", "INFO"):
        log_request = _log_nothing
    else:
        log_request = _write_request if as_json else _log_request
    renderer: Any = _line if as_json else structlog.dev.ConsoleRenderer()
    kind: Any = structlog.BytesLoggerFactory if as_json else structlog.PrintLoggerFactory
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=kind(_ErrorIgnoringStream(sys.stderr.buffer if as_json else sys.stderr)),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    for chatty in (
        "opensearch",
        "elastic_transport",
        "httpx",
        "httpcore",
        "pymongo",
        "stripe",
        "aiosmtplib",
        "uvicorn.access",
    ):
        logging.getLogger(chatty).setLevel(logging.ERROR)


class _ErrorIgnoringStream:
    """Ignores a stream's write errors, such as of a full disk or a closed pipe, so that logging never fails a call."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, said: str | bytes) -> None:
        with suppress(OSError):
            self._stream.write(said)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


@lru_cache(1_000)  # every request's line has the same names
def is_secret(name: str) -> bool:
    """Whether a value of this name must not be logged."""
    return any(word in name.lower() for word in _SECRET)


def without_token(path: str) -> str:
    """A path as it may be logged: the last segment of a link in an e-mail gives access to an account."""
    return _LINK.sub(r"\1***", path) if path.startswith(_LINKS) else path


def _line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    """Serialises by orjson, since there is a line per request; what it can't serialise, by the slower json."""
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z)
    except TypeError:  # a lone surrogate, or a number of more than 64 bits
        return json.dumps(event, default=_said).encode()


def _said(value: object) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else repr(value)


def _write_request(**members: Any) -> None:
    """Writes the same line as structlog would, whose logger and processors cost as much as the rest of answering from
    memory."""
    members |= {"event": "request", "level": "info", "timestamp": datetime.now(UTC)}
    line = _line(None, "info", members) + b"\n"
    try:  # as _ErrorIgnoringStream does, only faster
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
    except OSError:
        pass


def _log_nothing(**_: Any) -> None:
    """Used if the log level excludes requests: checking that through structlog costs as much as logging."""


def _without_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event:
        if is_secret(name):
            event[name] = "***"
    return event
