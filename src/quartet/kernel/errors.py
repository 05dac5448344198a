"""All errors of the API: each class is a kind of problem, and its docstring the text of the page that explains it.

A problem is sent as RFC 9457 `application/problem+json`; `slug` becomes its `type` (`/problems/{slug}`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar


class Problem(Exception):
    """The request conflicts with the shop's rules or its present state."""

    slug: ClassVar[str] = "problem"
    status: ClassVar[int] = 400
    title: ClassVar[str] = "The request could not be carried out"
    retry_after: int | None = None  # seconds; None if a retry does not help

    def __init__(self, detail: str = "", **members: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.members = members

    @property
    def headers(self) -> dict[str, str]:
        """The problem's own response headers."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @classmethod
    def kinds(cls) -> Iterator[type["Problem"]]:
        """Every kind of problem in the modules that are loaded, each once."""
        for kind in cls.__subclasses__():
            yield kind
            yield from kind.kinds()


class BadRequest(Problem):
    """The request could not be read: its body is not JSON, is nested too deeply, or a header is malformed.
    Send UTF-8 JSON and look at `detail`."""

    slug, status, title = "bad-request", 400, "The request could not be read"


class Invalid(Problem):
    """One or more values are not valid for this call. `errors` names each field and says what is wrong with it;
    correct those and send the request again."""

    slug, status, title = "invalid", 422, "Some values are not valid"


class Unauthenticated(Problem):
    """The call needs a signed-in user. Sign in with POST /sessions and send the access token as
    `Authorization: Bearer …`; when it has expired, use POST /sessions/refresh."""

    slug, status, title = "unauthenticated", 401, "Sign in first"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="quartet"'}


class Forbidden(Problem):
    """You are signed in, but your role does not allow this call; or your API key lacks the scope that `scope` names; or
    the call is not open to API keys at all."""

    slug, status, title = "forbidden", 403, "Your role does not allow this"


class NotFound(Problem):
    """There is nothing at this address, or nothing that you may see."""

    slug, status, title = "not-found", 404, "Not found"


class MethodNotAllowed(Problem):
    """The address exists, but not for this method; the `Allow` header lists those it answers."""

    slug, status, title = "method-not-allowed", 405, "Method not allowed"


class Conflict(Problem):
    """The request conflicts with the present state. Read the state again before you retry."""

    slug, status, title = "conflict", 409, "The present state does not allow this"


class PreconditionFailed(Problem):
    """`If-Match` names another version than the present one: somebody changed it meanwhile.
    Read it again, apply your change and send the new `ETag`."""

    slug, status, title = "precondition-failed", 412, "It was changed meanwhile"


class TooLarge(Problem):
    """The body is larger than this call takes (64 KB; products 1 MB)."""

    slug, status, title = "too-large", 413, "The body is too large"


class UnsupportedMediaType(Problem):
    """The body's `Content-Type` is not one this call takes. Send `application/json`."""

    slug, status, title = "unsupported-media-type", 415, "Send application/json"


class TooManyRequests(Problem):
    """Too many requests: more in a minute than allowed, too many searches at the same time, or too many verification
    e-mails in an hour. Wait for `Retry-After` seconds."""

    slug, status, title = "too-many-requests", 429, "Too many requests"

    def __init__(self, detail: str = "", *, retry_after: int = 1, **members: Any) -> None:
        super().__init__(detail, **members)
        self.retry_after = retry_after


class Unexpected(Problem):
    """An internal error. It has been logged under the request id in `instance`; quote that id."""

    slug, status, title = "unexpected", 500, "Something went wrong on our side"


class StoreUnavailable(Problem):
    """A store that this call needs does not answer. Nothing is lost; whether a write took effect may be unknown.
    Try again after `Retry-After` seconds with the same `Idempotency-Key`."""

    slug, status, title = "store-unavailable", 503, "A store does not answer"
    retry_after = 2

    def __init__(self, store: str, detail: str = "", *, is_unauthorized: bool = False) -> None:
        """`is_unauthorized`, known for MongoDB and search only: the store rejects our login, so that waiting does not
        help."""
        super().__init__(detail or f"{store} does not answer right now", store=store)
        self.store, self.is_unauthorized = store, is_unauthorized


class TimedOut(Problem):
    """The call took longer than its limit. Its outcome is unknown: read the state, or repeat it with the same
    `Idempotency-Key`."""

    slug, status, title = "timed-out", 504, "The call took too long"


class IdempotencyKeyReused(Problem):
    """The same `Idempotency-Key` was used before for another request. Use a new key for a new request."""

    slug, status, title = "idempotency-key-reused", 422, "This Idempotency-Key belongs to another request"


class RequestInProgress(Problem):
    """The first request with this `Idempotency-Key` is still running. Repeat it in a moment with the same key."""

    slug, status, title = "request-in-progress", 409, "The first request with this key is still running"
    retry_after = 1


def invalid(field: str, message: str) -> Invalid:
    """An Invalid of one field: `raise invalid("qty", "must be 1 to 999")`. `field` may be empty, for a query parameter
    without a name (`?=1`)."""
    field = field or "(no name)"
    return Invalid(f"{field}: {message}", errors=[{"field": field, "message": message}])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a ValueError that names the file or folder: an OSError would be taken for a
    store's."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} can't be written: {error.strerror}") from error
