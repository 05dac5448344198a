"""Shapes on the wire: camelCase outside, snake_case inside; unknown fields of a body are refused."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, StringConstraints
from pydantic.alias_generators import to_camel

MAX_DEPTH = 12
MAX_BIGINT = 2**63 - 1


class Shape(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True)


class Body(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_alias=True, validate_by_name=False, extra="forbid")


class Nothing(Body):
    """For calls without fields: one that is sent is refused, so that nobody believes it had an effect."""


NoBody = Nothing | None


def _storable(value: Any) -> Any:
    """Refuses what is nested deeper than any attribute needs (MongoDB itself stops at 100), and numbers that no store
    takes."""
    for depth, level in enumerate(levels(value), 1):
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} deep")
        if any(isinstance(n, int | float) and not -MAX_BIGINT <= n <= MAX_BIGINT for n in level):
            raise ValueError("has a number beyond 64 bits")
    return value


def levels(value: Any) -> Iterator[list[Any]]:
    """What a value of JSON holds, from the outside in: itself, its members, theirs, and so on."""
    level = [value]
    while level:
        yield level
        nested = [node for node in level if isinstance(node, dict | list)]
        level = [child for node in nested for child in (node.values() if isinstance(node, dict) else node)]


# bool is an int in Python and "2" is a number to a lax parser; neither is a quantity to a shop.
Int = StrictInt
Bool = StrictBool
Str = StrictStr
Qty = Annotated[StrictInt, Field(ge=1, le=999)]
Cents = Annotated[StrictInt, Field(ge=0, le=100_000_000_000)]
# With a blank at its end it would be another one, that nobody can tell from the first.
Sku = Annotated[
    str,
    StringConstraints(
        strict=True, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9]([A-Za-z0-9 ._\-]*[A-Za-z0-9._\-])?$"
    ),
]
# Where somebody only asks for one: what can't be a SKU is one that nobody has, and not a malformed request.
AnySku = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200)]
Currency = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Z]{3}$")]
JsonObject = Annotated[dict[str, Any], AfterValidator(_storable)]


def text(longest: int, shortest: int = 1) -> Any:
    """A string type of bounded length: `name: Annotated[str, text(200)]`."""
    return StringConstraints(strict=True, min_length=shortest, max_length=longest)


def words(longest: int) -> Any:
    """The same for what people read, such as a name: blanks alone are none."""
    return StringConstraints(strict=True, min_length=1, max_length=longest, pattern=r"\S")


def trimmed(longest: int) -> Any:
    """The same where what surrounds it is cut off: `Annotated[str, trimmed(100), AfterValidator(one_line)]`."""
    return StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=longest, pattern=r"\S")


# They show nothing by themselves, but Persian, Hindi and many an emoji are written with them.
_JOINERS = str.maketrans("", "", "\u200c\u200d")


def one_line(value: str) -> str:
    """Refuses what is not one line of characters that show: for a name, which stands in other people's pages."""
    shown = value.translate(_JOINERS)
    if not shown or not shown.isprintable():
        raise ValueError("must be one line without control characters")
    return value


class ProblemShape(BaseModel):
    """RFC 9457 problem details; some kinds carry further members."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
