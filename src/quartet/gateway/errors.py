"""Turns every error into problem+json that says what to do, without internal details."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from quartet.kernel.errors import BadRequest, Forbidden, Invalid, MethodNotAllowed, NotFound, Problem, Unauthenticated
from quartet.web.answers import problem_response

log = structlog.get_logger("quartet.gateway")

_BY_STATUS: dict[int, type[Problem]] = {
    400: BadRequest, 401: Unauthenticated, 403: Forbidden, 404: NotFound, 405: MethodNotAllowed
}  # fmt: skip


def add_error_handlers(app: FastAPI) -> None:
    """Registers the handlers; all other exceptions are caught by the gateway's middleware."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        return problem_response(problem, request.scope.get("request_id", ""))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return problem_response(from_validation(error.errors()), request.scope.get("request_id", ""))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        kind = _BY_STATUS.get(error.status_code, BadRequest)
        headers = dict(error.headers or {})
        if kind is MethodNotAllowed:
            headers["Allow"] = ", ".join(_allowed(app, request.url.path))
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        response = problem_response(kind(), request.scope.get("request_id", ""))
        response.headers.update(headers)
        return response


def _allowed(app: FastAPI, path: str) -> list[str]:
    """Every method of this path; the framework names only those of the first route that matches."""
    at: defaultdict[str, set[str]] = defaultdict(set)
    for route in iter_route_contexts(app.routes):
        at[route.path_format or ""] |= set(route.methods or ())
    found = [at[path]] if path in at else [methods for like, methods in at.items() if compile_path(like)[0].match(path)]
    methods = {"OPTIONS"}.union(*found)
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def from_validation(errors: Sequence[Any]) -> Problem:
    """pydantic's findings as one problem naming each field; the values themselves are not sent back."""
    found = [{"field": _field(error["loc"]), "message": _message(error)} for error in errors]
    if any(error["type"] == "json_invalid" for error in errors):
        return BadRequest("the body is not JSON")
    return Invalid("; ".join(f"{e['field']}: {e['message']}" for e in found[:5]), errors=found)


def _field(location: Sequence[str | int]) -> str:
    """`("body", "items", 0, "qty")` becomes `items.0.qty`."""
    parts = [str(part) for part in location[1:]] or [str(part) for part in location[:1]]
    return ".".join(parts) or "body"  # a member whose name is empty


def _message(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
