"""Health, metrics, pictures, and the pages that explain problems."""

import asyncio
import html
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi import Path as PathParameter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import HTMLResponse

from quartet import sync
from quartet.gateway.security import docs_page
from quartet.kernel.errors import NotFound, Problem, StoreUnavailable
from quartet.stores import migrate
from quartet.stores.guard import Guard, State
from quartet.stores.postgres import Postgres
from quartet.web.answers import answer, problems
from quartet.web.dependencies import ShopDep
from quartet.web.shapes import Shape

router = APIRouter(tags=["system"])

# Readiness fails without these; without the others parts of the shop still work.
NEEDED = {"postgres", "mongodb"}
# What still works while a store is down; docs/operations.md has the full table.
MEANWHILE = {
    "postgres": "products, lists, categories and search stay up; nothing is bought, and nobody signs in",
    "mongodb": "product pages that are cached are shown with their age, search stays up, carts are priced by "
    "inventory, and what is in stock is bought and paid",
    "redis": "products come from MongoDB, each process limits by itself, strictly who signs in and pays, carts and "
    "leaderboards are closed, and orders that name their items are placed and paid",
    "search": "categories, brands and beginnings of names are listed from MongoDB, marked degraded, and all but other "
    "searches works",
}
PING_SECONDS = 2.0
IMAGES = Path(__file__).resolve().parent.parent / "demo" / "images"


class StoreHealth(Shape):
    """`latencyMs` until it has answered; `breaker` of the process that answers; `meanwhile`: what works without it."""

    status: Literal["up", "down"]
    breaker: State
    latency_ms: float
    version: str | None = None
    error: str | None = None
    meanwhile: str | None = None


class Health(Shape):
    """`degraded`: something is down that the shop can do without for a while."""

    status: Literal["ready", "degraded", "unavailable"]
    stores: dict[str, StoreHealth]


class Alive(Shape):
    """The process answers."""

    status: Literal["live"] = "live"


@router.get("/health/live", response_model=Alive)
async def live() -> Response:
    """The process answers; says nothing of its stores."""
    return answer(Alive())


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health}})
async def ready(shop: ShopDep) -> Response:
    """Each store's state; 503 when one is gone that requests cannot do without, or PostgreSQL lacks migrations."""
    stores = shop.stores
    pings = {
        stores.pg.guard: _migrated(stores.pg),
        stores.mongo.guard: stores.mongo.ping(),
        stores.redis.guard: stores.redis.ping(),
        stores.search.guard: stores.search.ping(),
    }
    found = await asyncio.gather(*(_health(guard, ping) for guard, ping in pings.items()))
    health = {guard.store: state for guard, state in zip(pings, found, strict=True)}
    down = {name for name, state in health.items() if state.status == "down"}
    status: Literal["ready", "degraded", "unavailable"] = (
        "unavailable" if down & NEEDED else "degraded" if down else "ready"
    )
    headers = {"Retry-After": "2"} if status == "unavailable" else None
    return answer(Health(status=status, stores=health), 503 if status == "unavailable" else 200, headers)


async def _migrated(pg: Postgres) -> str:
    """Pings PostgreSQL, and checks the migrations, which a process could not do if it started while PostgreSQL was
    down. Raises StoreUnavailable."""
    if missing := await migrate.lacking(pg):
        raise StoreUnavailable("postgres", missing)
    return await pg.ping()


async def _health(guard: Guard, ping: Coroutine[None, None, str]) -> StoreHealth:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PING_SECONDS):
            version = await ping
    except Exception as error:  # whatever the cause, the store can't be used now
        reason = error.detail if isinstance(error, Problem) else type(error).__name__
        return StoreHealth(
            status="down",
            breaker=guard.state,
            latency_ms=_ms(started),
            error=reason,
            meanwhile=MEANWHILE[guard.store],
        )
    return StoreHealth(status="up", breaker=guard.state, latency_ms=_ms(started), version=version)


def _ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(shop: ShopDep) -> Response:
    """Prometheus' text format: this process's own figures, and of the work that waits what PostgreSQL knows."""
    await sync.measure(shop)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The OpenAPI document for people."""
    return HTMLResponse(docs_page())


@router.get(
    "/problems/{slug}", response_class=Response, responses={200: {"content": {"text/html": {}}}, **problems(NotFound)}
)
async def explain(slug: Annotated[str, PathParameter(max_length=64)]) -> Response:
    """What a problem's `type` means and what to do about it."""
    kind = next((kind for kind in Problem.kinds() if kind.slug == slug), None)
    if kind is None:
        raise NotFound(f"no problem is called {slug}")
    title, text = html.escape(kind.title), html.escape(" ".join((kind.__doc__ or "").split()))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1><p>Status {kind.status}, <code>{html.escape(slug)}</code></p><p>{text}</p></html>"
    )
    return Response(page, media_type="text/html")


@router.get(
    "/images/{name}", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}, **problems(NotFound)}
)
async def image(name: Annotated[str, PathParameter(pattern=r"^[a-z0-9][a-z0-9-]*\.svg$", max_length=120)]) -> Response:
    """A picture of the demo catalog."""
    path = IMAGES / name
    if not path.is_file():
        raise NotFound(f"no picture is called {name}")
    # Not a FileResponse, which refuses a malformed range in plain text.
    return Response(path.read_bytes(), media_type="image/svg+xml", headers={"Cache-Control": "public, max-age=86400"})
