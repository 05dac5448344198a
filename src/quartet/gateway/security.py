"""Security headers of every answer."""

import base64
import re
from collections.abc import Iterable
from functools import cache
from hashlib import sha256

from fastapi.openapi.docs import get_swagger_ui_html

_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_FEATURES = ("camera", "geolocation", "microphone", "payment", "usb", "browsing-topics")
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", ", ".join(f"{feature}=()" for feature in _FEATURES).encode()),
]
_POLICY, _RESOURCE = b"content-security-policy", b"cross-origin-resource-policy"
# A year. Other hosts of the domain are not ours to decide about.
_SECURE = (b"strict-transport-security", b"max-age=31536000")
_API = [*_ALWAYS, (_POLICY, _NOTHING.encode()), (_RESOURCE, b"same-origin")]
# Pictures may be shown by a shop's pages on another host.
_PICTURES = [*_ALWAYS, (_POLICY, _NOTHING.encode()), (_RESOURCE, b"cross-origin")]


def security_headers(path: str, is_secure: bool) -> list[tuple[bytes, bytes]]:
    """For the answer at this address; `is_secure` where the shop is reached by https alone."""
    headers = _PICTURES if path.startswith("/images/") else _docs_headers() if path == "/docs" else _API
    return [*headers, _SECURE] if is_secure else headers


def as_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as HTTP writes them."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


@cache
def _docs_headers() -> list[tuple[bytes, bytes]]:
    """The API's documentation is one page with a script of its own, let in by its digest, and what that loads."""
    page = docs_page().decode()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    loads, pictures = "https://cdn.jsdelivr.net", "https://fastapi.tiangolo.com"
    policy = (
        f"{_NOTHING}; script-src 'sha256-{digest}' {loads}; style-src 'unsafe-inline' {loads}; "
        f"img-src 'self' data: {pictures}; connect-src 'self'"
    )
    return [*_ALWAYS, (_POLICY, policy.encode()), (_RESOURCE, b"same-origin")]


@cache
def docs_page() -> bytes:
    """The page and not the response, which gets its headers anew each time it is sent."""
    return bytes(get_swagger_ui_html(openapi_url="/openapi.json", title="Quartet").body)
