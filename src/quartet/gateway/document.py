"""The OpenAPI document: FastAPI's, and the answers that the gateway adds to every route."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from quartet import access
from quartet.accounts import cookies
from quartet.gateway.limits import SAFE, class_of
from quartet.kernel.errors import (
    BadRequest,
    Forbidden,
    Invalid,
    Problem,
    TimedOut,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMediaType,
)
from quartet.web.answers import PROBLEM, problems, with_headers
from quartet.web.dependencies import READ_BY, Sent, signed
from quartet.web.shapes import ProblemShape

Json = dict[str, Any]

_PROBLEM_SCHEMA = {"$ref": f"#/components/schemas/{ProblemShape.__name__}"}
# Every route refuses an invalid token, and NUL or invalid UTF-8 in the URL.
_ALWAYS: tuple[type[Problem], ...] = (Unauthenticated, Invalid, TimedOut)
# Descriptions of headers that several routes share.
_IF_NONE_MATCH = Sent("If-None-Match", "The `ETag` that you have; 304 while it is the present one.")
_TAG = {"ETag": "Its version."}
_REPLAYED = {"Idempotent-Replayed": "`true` where this is the first answer to the key, given again."}
_RETRY = {"Retry-After": "How many seconds to wait."}
_WITH_BODY: tuple[type[Problem], ...] = (BadRequest, TooLarge, UnsupportedMediaType)


def openapi(app: FastAPI) -> Json:
    """The document of this application's routes, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        components = document.setdefault("components", {})
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": cookies.SESSION},
        }
        components.setdefault("schemas", {})[ProblemShape.__name__] = ProblemShape.model_json_schema()
        for route in iter_route_contexts(app.routes):
            path = route.path_format or ""
            operations = document["paths"].get(path, {})
            dependant = getattr(route, "dependant", None)
            for method in route.methods or ():
                if operation := operations.get(method.lower()):
                    asked = list(dict.fromkeys(_calls(dependant))) if dependant is not None else []
                    _add_refusals(operation, method, path)
                    _add_headers(operation, asked)
                    if security := _security(asked):
                        operation["security"] = security
        for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's schemas for 422, which ours replace
            components["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


def _add_refusals(operation: Json, method: str, path: str) -> None:
    kinds = _ALWAYS
    if class_of(method, path) is not None:
        kinds += (TooManyRequests,)
    if _asks_keys(method, path):
        kinds += (Forbidden,)
    if method not in SAFE:
        kinds += (cookies.CsrfRefused,)
    if method in ("POST", "PUT", "PATCH") or "requestBody" in operation:
        kinds += _WITH_BODY
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    for status, response in problems(*kinds).items():
        responses.setdefault(str(status), response)
    operation["responses"] = dict(sorted(responses.items()))
    for response in responses.values():
        response.pop("model", None)
        if PROBLEM in response.get("content", {}):
            response["content"] = {PROBLEM: {"schema": _PROBLEM_SCHEMA}}


def _add_headers(operation: Json, dependencies: Sequence[Any]) -> None:
    responses = operation["responses"]
    read = [sent for each in dependencies for sent in READ_BY.get(each, ())]
    if "304" in responses:
        read.append(_IF_NONE_MATCH)
    parameters = [*operation.get("parameters", []), *{sent.name: _parameter(sent) for sent in read}.values()]
    if parameters:
        operation["parameters"] = parameters
    asked = {parameter["name"] for parameter in parameters}
    for status, response in responses.items():
        said: dict[str, str] = {}
        if status in {"200", "304"} and asked & {"If-Match", "If-None-Match"}:
            said |= _TAG
        if status in {"200", "201", "402", "409"} and "Idempotency-Key" in asked:
            said |= _REPLAYED
        if status in {"429", "503"}:
            said |= _RETRY
        if said:
            response["headers"] = response.get("headers", {}) | with_headers(said)["headers"]


def _asks_keys(method: str, path: str) -> bool:
    """Whether API keys can be refused here: they need a scope, or are refused altogether."""
    try:
        return access.needed_scope(method, path) is not None
    except Forbidden:
        return True


def _parameter(sent: Sent) -> Json:
    return {
        "name": sent.name, "in": "header", "required": False, "schema": {"type": "string", **sent.schema},
        "description": sent.description,
    }  # fmt: skip


def _security(asked: Sequence[Any]) -> list[Json]:
    """The security schemes, optional where guests are allowed: without them, generated clients would send no token."""
    users: list[Json] = [{"bearer": []}, {"cookie": []}]
    if signed in asked:
        return users
    return [{}, *users] if not READ_BY.keys().isdisjoint(asked) else []


def _calls(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for child in dependant.dependencies:
        yield from _calls(child)
