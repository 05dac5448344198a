"""The application: every room's routes behind one gateway. A new room is one folder and one name in ROOMS."""

import importlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from quartet import __version__, cart, merchandising
from quartet.gateway import document, system
from quartet.gateway.errors import add_error_handlers
from quartet.gateway.middleware import Gateway
from quartet.web.dependencies import Shop

ROOMS = (
    "accounts",
    "addresses",
    "access",
    "catalog",
    "inventory",
    "orders",
    "payments",
    "checkout",
    "privacy",
    "cart",
    "leaderboard",
    "search",
    "merchandising",
    "discovery",
    "analytics",
    "hooks",
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
            await merchandising.write_log(shop)

    app = FastAPI(
        title="Quartet",
        version=__version__,
        summary="An e-commerce backend over PostgreSQL, MongoDB, Redis and Elasticsearch.",
        lifespan=lifespan,
        # Else FastAPI checks at each request whether there is a listener; metrics and log are the gateway's.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        redirect_slashes=False,
        docs_url=None,  # served by system.py, with its own content security policy
        redoc_url=None,
    )
    app.state.merge_cart = cart.merge  # accounts may not import cart: sign-in finds it here
    apis = [importlib.import_module(f"quartet.{room}.api") for room in rooms]
    routes = [route for api in apis for route in api.router.routes]
    offered = {path: find for api in apis for path, find in getattr(api, "AT_HAND", {}).items()}
    gateway = Gateway({route.path: (route, offered[route.path]) for route in routes if route.path in offered})
    app.state.at_once = gateway.at_once
    app.add_middleware(gateway.around)
    add_error_handlers(app)
    app.router.routes += [*system.router.routes, *routes]
    app.router.middleware_stack = _by_first_word(app.router)  # type: ignore[assignment]
    app.openapi = lambda: document.openapi(app)  # type: ignore[method-assign]
    return app


def _by_first_word(router: APIRouter) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]:
    """A router that matches only the routes whose path has the same first segment. The framework's router tries all of
    them, and included ones twice: 0.1 ms per request, as much as many use cases take. It still answers 404 and 405. A
    path that a route spells out (`/orders/claim`) never matches another route's `{id}`."""
    known: defaultdict[str, list[BaseRoute]] = defaultdict(list)
    spelt: defaultdict[str, list[BaseRoute]] = defaultdict(list)
    for route in router.routes:
        path = getattr(route, "path", "")
        known[_first_word(path)].append(route)
        if "{" not in path:
            spelt[path].append(route)
    others = router.middleware_stack

    async def find(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            same: Sequence[BaseRoute] = spelt.get(path, ())
            for route in same or known.get(_first_word(path), ()):
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found)
                    await route.handle(scope, receive, send)
                    return
            if same:
                scope["route"] = same[0]  # for the metrics
                await same[0].handle(scope, receive, send)  # answers 405
                return
        await others(scope, receive, send)

    return find


def _first_word(path: str) -> str:
    """`orders` of `/orders/{id}`."""
    return path.split("/", 2)[1] if "/" in path else path
