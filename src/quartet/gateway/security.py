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
# A year. Without includeSubDomains, since the domain's other hosts are not the shop's.
_SECURE = (b"strict-transport-security", b"max-age=31536000")
_API = [*_ALWAYS, (_POLICY, _NOTHING.encode()), (_RESOURCE, b"same-origin")]
# A storefront on another host may embed pictures.
_PICTURES = [*_ALWAYS, (_POLICY, _NOTHING.encode()), (_RESOURCE, b"cross-origin")]


def security_headers(path: str, is_secure: bool) -> list[tuple[bytes, bytes]]:
    """The headers of a response at this path; `is_secure`: the shop is served over HTTPS only."""
    headers = _PICTURES if path.startswith("/images/") else _docs_headers() if path == "/docs" else _API
    return [*headers, _SECURE] if is_secure else headers


def as_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as lines of HTTP/1.1."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


@cache
def _docs_headers() -> list[tuple[bytes, bytes]]:
    """The content security policy of the API documentation, a page with an inline script, which is allowed by its hash,
    and resources from two other hosts."""
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
    """The page's bytes, not a Response object: headers are added to that each time it is sent."""
    return bytes(get_swagger_ui_html(openapi_url="/openapi.json", title="Quartet").body)
