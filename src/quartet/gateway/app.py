"""The application: every room's routes behind one gateway. A new room is one folder and one name in ROOMS."""

import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from quartet import __version__, cart
from quartet.gateway import document, system
from quartet.gateway.errors import add_error_handlers
from quartet.gateway.middleware import Gateway
from quartet.web.dependencies import Shop

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
    app.openapi = lambda: document.openapi(app)  # type: ignore[method-assign]
    return app
