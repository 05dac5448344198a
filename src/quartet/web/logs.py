"""Structured logs: one JSON object a line on standard error, and nothing secret in it."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_LINK = re.compile(r"^(/(?:password-resets|email-verifications)/).+", re.DOTALL)
_SECRET = ("password", "token", "secret", "authorization", "cookie", "signature", "idempotency", "hash", "csrf")


def configure(level: str, *, as_json: bool) -> None:
    """Called once by each command that runs for long."""
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
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


def is_secret(name: str) -> bool:
    """Whether a value of this name is nobody's to read."""
    return any(word in name.lower() for word in _SECRET)


def without_token(path: str) -> str:
    """An address as it may be logged: the last part of a link in an e-mail opens an account."""
    return _LINK.sub(r"\1***", path)


def _without_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event:
        if is_secret(name):
            event[name] = "***"
    return event
