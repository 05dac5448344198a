"""Sessions of web pages: a signed cookie, and a CSRF token (OWASP's signed double-submit cookie).

The cookie is a token with an audience of its own, so it can't be used as an access token, nor the other way round. For
`access_ttl` seconds it is trusted like an access token; after that the gateway asks PostgreSQL whether the session is
still open, and issues a fresh one.
"""

import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from urllib.parse import urlsplit
from uuid import UUID

from quartet.accounts import tokens
from quartet.kernel.errors import Forbidden
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Principal

SESSION, CSRF = "quartet_session", "quartet_csrf"
HEADER = "X-CSRF-Token"


class CsrfRefused(Forbidden):
    """A page's request that changes something must prove that it comes from this shop: send the value of the cookie
    `quartet_csrf` as `X-CSRF-Token`, from a page of this shop. Requests with a bearer token need neither."""

    slug, title = "csrf", "This request may not come from a page of ours"


def found(settings: Settings, header: str | None) -> str | None:
    """The session cookie in this `Cookie` header."""
    return _read(settings, header, SESSION)


def opened(settings: Settings, principal: Principal, now: datetime, csrf: str | None = None) -> list[str]:
    """`Set-Cookie` values for a session that begins or continues. The second cookie is readable by the page's own
    script."""
    session = tokens.issue(settings, principal, now, tokens.PAGES)
    csrf = csrf or csrf_token(settings, principal.session_id)
    age = f"Max-Age={settings.refresh_ttl}"
    return [
        f"{_name(settings, SESSION)}={session}; {age}; HttpOnly{_common(settings)}",
        f"{_name(settings, CSRF)}={csrf}; {age}{_common(settings)}",
    ]


def closed(settings: Settings) -> list[str]:
    """`Set-Cookie` values that delete both."""
    return [f"{_name(settings, name)}=; Max-Age=0{_common(settings)}" for name in (SESSION, CSRF)]


def csrf_token(settings: Settings, session_id: UUID) -> str:
    """Random, and signed together with the session's id: another session's token is not valid here."""
    drawn = secrets.token_urlsafe(24)
    return f"{drawn}.{_signed(settings.secret.get_secret_value(), session_id, drawn)}"


def check_page(settings: Settings, headers: Mapping[str, str], session_id: UUID) -> None:
    """Checks a request authenticated by cookie before it changes anything. Raises CsrfRefused."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        raise CsrfRefused("the request does not say which page it comes from")
    if site not in (None, "same-origin") or (origin is not None and origin not in _origins(settings, headers)):
        raise CsrfRefused("the request comes from a page that is not ours")
    sent, kept = headers.get(HEADER.lower(), ""), _read(settings, headers.get("cookie"), CSRF) or ""
    if not sent.isascii() or not kept.isascii() or not hmac.compare_digest(sent, kept):
        raise CsrfRefused(f"{HEADER} is not what the cookie says")
    drawn, _, signature = sent.partition(".")
    if not any(hmac.compare_digest(signature, _signed(key, session_id, drawn)) for key in settings.all_secrets()):
        raise CsrfRefused(f"{HEADER} is not this session's")


def _signed(secret: str, session_id: UUID, drawn: str) -> str:
    return hmac.digest(b"csrf:" + secret.encode(), f"{session_id}!{drawn}".encode(), sha256).hex()


def _origins(settings: Settings, headers: Mapping[str, str]) -> set[str]:
    """The origins of the shop's public URL and of the host that this request was sent to."""
    public = urlsplit(settings.base_url)
    return {f"{public.scheme}://{public.netloc}", f"{public.scheme}://{headers.get('host', '')}"}


def _name(settings: Settings, name: str) -> str:
    """`__Host-`: no other host of the domain can set it (RFC 6265bis, 4.1.3.2)."""
    return f"__Host-{name}" if settings.is_secure else name


def _common(settings: Settings) -> str:
    return "; Path=/; SameSite=Lax" + ("; Secure" if settings.is_secure else "")


def _read(settings: Settings, header: str | None, name: str) -> str | None:
    wanted = _name(settings, name)
    for part in (header or "").split(";"):
        given, _, value = part.strip().partition("=")
        if given == wanted:
            return value or None
    return None
