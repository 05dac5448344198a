"""Models of requests and responses: camelCase in JSON, snake_case in Python; unknown fields of a body are refused."""

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
    """Refuses values nested more than `MAX_DEPTH` deep (MongoDB allows 100), and numbers outside 64 bits, which no
    store takes."""
    for depth, level in enumerate(levels(value), 1):
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} deep")
        if any(isinstance(n, int | float) and not -MAX_BIGINT <= n <= MAX_BIGINT for n in level):
            raise ValueError("has a number beyond 64 bits")
    return value


def levels(value: Any) -> Iterator[list[Any]]:
    """A JSON value level by level (breadth-first): the value itself, its members, their members, and so on."""
    level = [value]
    while level:
        yield level
        nested = [node for node in level if isinstance(node, dict | list)]
        level = [child for node in nested for child in (node.values() if isinstance(node, dict) else node)]


# Strict: else pydantic would accept true, which is an int in Python, and "2" as numbers.
Int = StrictInt
Bool = StrictBool
Str = StrictStr
Qty = Annotated[StrictInt, Field(ge=1, le=999)]
Cents = Annotated[StrictInt, Field(ge=0, le=100_000_000_000)]
# Without a blank at the end: two SKUs that differ only in that look the same.
Sku = Annotated[
    str,
    StringConstraints(
        strict=True, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9]([A-Za-z0-9 ._\-]*[A-Za-z0-9._\-])?$"
    ),
]
# For look-ups: text that can't be a SKU is not found, rather than a malformed request.
AnySku = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200)]
Currency = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Z]{3}$")]
JsonObject = Annotated[dict[str, Any], AfterValidator(_storable)]


def text(longest: int, shortest: int = 1) -> Any:
    """A string type of bounded length: `name: Annotated[str, text(200)]`."""
    return StringConstraints(strict=True, min_length=shortest, max_length=longest)


def words(longest: int) -> Any:
    """The same for text that people read, such as a name: not blanks only."""
    return StringConstraints(strict=True, min_length=1, max_length=longest, pattern=r"\S")


def trimmed(longest: int) -> Any:
    """The same without surrounding whitespace: `Annotated[str, trimmed(100), AfterValidator(one_line)]`."""
    return StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=longest, pattern=r"\S")


# Zero-width joiners: invisible, but needed for Persian, Hindi and many emoji.
_JOINERS = str.maketrans("", "", "\u200c\u200d")


def one_line(value: str) -> str:
    """Refuses text that is not one line of visible characters: for names, which other people's pages show."""
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
