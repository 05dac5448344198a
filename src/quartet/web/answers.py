"""Answers as bytes: pydantic writes the JSON once, nothing is serialised twice."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import Response
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from quartet.kernel.errors import Problem
from quartet.web.shapes import ProblemShape

JSON = "application/json"
PROBLEM = "application/problem+json"

# What a route gives back, for those who make one without knowing the framework.
Answer = Response


def answer(shape: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The shape as JSON."""
    body = shape.__pydantic_serializer__.to_json(shape, by_alias=True)
    return Response(body, status, dict(headers) if headers else None, JSON)


def nothing() -> Response:
    """204."""
    return Response(status_code=204)


def problem_response(problem: Problem, instance: str = "") -> Response:
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


def _by_status(kinds: Iterable[type[Problem]]) -> dict[int, list[type[Problem]]]:
    groups: dict[int, list[type[Problem]]] = {}
    for kind in kinds:
        groups.setdefault(kind.status, []).append(kind)
    return groups
