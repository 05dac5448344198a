"""The application: every room's routes behind one gateway. A new room is one folder and one name in ROOMS."""

import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from quartet import __version__, cart
from quartet.gateway import system
from quartet.gateway.errors import add_error_handlers
from quartet.gateway.middleware import Gateway
from quartet.web.dependencies import Shop, signed

ROOMS = (
    "accounts",
    "catalog",
    "inventory",
    "orders",
    "payments",
    "checkout",
    "cart",
    "leaderboard",
    "search",
    "analytics",
    "sync",
)

OpenShop = Callable[[], AbstractAsyncContextManager[Shop]]


def create_app(open_shop: OpenShop, rooms: Sequence[str] = ROOMS) -> FastAPI:
    """The API of these rooms over the shop that `open_shop` opens at start-up. ValueError names unknown rooms."""
    unknown = sorted(set(rooms) - set(ROOMS))
    if unknown:
        raise ValueError(f"no such room: {', '.join(unknown)}; there are {', '.join(ROOMS)}")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_shop() as shop:
            app.state.shop = shop
            yield

    app = FastAPI(
        title="Quartet",
        version=__version__,
        summary="An e-commerce backend over PostgreSQL, MongoDB, Redis and Elasticsearch.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.merge_cart = cart.merge  # signing in lies below carts, so the house itself introduces them
    app.add_middleware(Gateway)
    add_error_handlers(app)
    app.include_router(system.router)
    for room in rooms:
        app.include_router(importlib.import_module(f"quartet.{room}.api").router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the bearer scheme on the routes that ask for a signed-in user."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schema.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        }
        for route in iter_route_contexts(app.routes):
            dependant = getattr(route, "dependant", None)
            if dependant is not None and _asks_for_user(dependant):
                for method in route.methods or ():
                    schema["paths"][route.path_format][method.lower()]["security"] = [{"bearer": []}]
        app.openapi_schema = schema
    return app.openapi_schema


def _asks_for_user(dependant: Dependant) -> bool:
    return dependant.call is signed or any(_asks_for_user(child) for child in dependant.dependencies)
