"""Responses as bytes: pydantic serialises the JSON once, and FastAPI does not serialise it again."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import orjson
from fastapi import Response
from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from starlette.datastructures import Headers

from quartet.kernel.errors import Problem
from quartet.web.shapes import ProblemShape

JSON = "application/json"
PROBLEM = "application/problem+json"


# What a route returns, for modules that make one without importing the framework.
Answer = Response


class AtHand(NamedTuple):
    """JSON that a room has cached for a GET, and its own headers, without those that every response gets."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def response(self) -> Response:
        """As a Response, for a request that the server did not answer directly."""
        response = Response(self.body, media_type=JSON)
        response.raw_headers.extend(self.headers)
        return response


def answer(shape: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The shape as JSON."""
    return Response(as_json(shape), status, headers, JSON)


def as_json(shape: BaseModel) -> bytes:
    """The shape's JSON as bytes, for answers that are stored or cached."""
    return shape.__pydantic_serializer__.to_json(shape, by_alias=True)


def plain_json(value: object) -> bytes:
    """Any value as the API's JSON: dataclasses with names in camelCase, sets as sorted lists, and types that JSON does
    not have as text."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_UTC_Z)


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {to_camel(field.name): getattr(value, field.name) for field in fields(value)}
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def nothing() -> Response:
    """A response with status 204."""
    return Response(status_code=204)


def has_tag(headers: Headers, tag: str) -> bool:
    """Whether If-None-Match names the tag (weak comparison, RFC 9110, 13.1.2). Repeated headers form one list."""
    given = [each.strip() for line in headers.getlist("if-none-match") for each in line.split(",")]
    return given == ["*"] or tag in (each.removeprefix("W/") for each in given)


def problem_response(problem: Problem, instance: str) -> Response:
    """RFC 9457: `type`, `title`, `status`, `detail`, `instance` and the kind's own members."""
    body: dict[str, Any] = {
        "type": f"/problems/{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
    }
    body |= {to_camel(name): value for name, value in problem.members.items()}
    return Response(orjson.dumps(body, default=str), problem.status, problem.headers, PROBLEM)


def problems(*kinds: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route, for the OpenAPI document: `responses=problems(NotFound, Conflict)`."""
    found: dict[int | str, dict[str, Any]] = {}
    for status, group in _by_status(kinds).items():
        found[status] = {
            "model": ProblemShape,
            "content": {PROBLEM: {}},
            "description": "; ".join(f"`{kind.slug}`: {kind.title}" for kind in group),
        }
    return found


def with_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """The same for response headers, with a description of each: `responses={200: with_headers({"ETag": "…"})}`."""
    return {"headers": {name: {"description": says, "schema": {"type": "string"}} for name, says in headers.items()}}


def _by_status(kinds: Iterable[type[Problem]]) -> dict[int, list[type[Problem]]]:
    groups: dict[int, list[type[Problem]]] = {}
    for kind in kinds:
        groups.setdefault(kind.status, []).append(kind)
    return groups
