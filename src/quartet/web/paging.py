"""Paging of lists: `?limit=&cursor=`, `{"items": [...], "nextCursor": ...}`; cursors are signed against forgery."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import orjson
from fastapi import Depends, Query

from quartet.kernel.errors import invalid
from quartet.web.shapes import Shape

T = TypeVar("T")
Row = TypeVar("Row")
First = TypeVar("First")
Place = TypeVar("Place")

_SIGNATURE = 12


class Page(Shape, Generic[T]):
    """`nextCursor` is null on the last page."""

    items: list[T]
    next_cursor: str | None = None


@dataclass(frozen=True)
class PageQuery:
    """`limit` (1–100, default 20) and the cursor as sent."""

    limit: int
    cursor: str | None


async def _page_query(
    limit: Annotated[int, Query(ge=1, le=100, description="How many items.")] = 20,
    cursor: Annotated[str | None, Query(max_length=512, description="`nextCursor` of the page before.")] = None,
) -> PageQuery:
    return PageQuery(limit, cursor)


Paging = Annotated[PageQuery, Depends(_page_query)]


class Cursors:
    """Writes and reads cursors: JSON values of the last row shown, signed with HMAC-SHA256 cut to 96 bits."""

    def __init__(self, secret: str, *retired: str) -> None:
        """Cursors that a retired secret signed can be read."""
        self._keys = [hashlib.sha256(b"cursor:" + each.encode()).digest() for each in (secret, *retired)]

    def encode(self, values: list[Any], scope: str = "") -> str:
        """`scope` names the list, so that a cursor is valid for one list only."""
        data = orjson.dumps(values, default=str)
        return _text(_signature(self._keys[0], data, scope) + data)

    def start(self, paging: PageQuery, scope: str, first: First, place: Callable[..., Place]) -> First | Place:
        """Where a page begins: `place` of the cursor's values, or `first` without a cursor. Raises Invalid."""
        return first if paging.cursor is None else place(*self.decode(paging.cursor, scope))

    def cut(
        self, found: Sequence[Row], paging: PageQuery, scope: str, place: Callable[[Row], list[Any]]
    ) -> tuple[Sequence[Row], str | None]:
        """Splits `limit` + 1 rows found into the page and the cursor of the next page, which is None if there is no
        further row. `place` gives the cursor's values for the last row shown."""
        shown = found[: paging.limit]
        return shown, self.encode(place(shown[-1]), scope) if len(found) > paging.limit else None

    def decode(self, cursor: str, scope: str = "") -> list[Any]:
        """The values. Raises Invalid naming `cursor` if it is truncated, forged or of another list."""
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise invalid("cursor", "is not one that this list gave") from None
        signature, data = raw[:_SIGNATURE], raw[_SIGNATURE:]
        # Base64 can encode the same bytes in several ways; only ours is accepted.
        signed = any(hmac.compare_digest(signature, _signature(key, data, scope)) for key in self._keys)
        if _text(raw) != cursor or not signed:
            raise invalid("cursor", "is not one that this list gave")
        values: list[Any] = orjson.loads(data)
        return values


def _signature(key: bytes, data: bytes, scope: str) -> bytes:
    return hmac.digest(key, scope.encode() + b"\0" + data, "sha256")[:_SIGNATURE]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
