"""Health, metrics, pictures, and the pages that explain problems."""

import asyncio
import html
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi import Path as PathParameter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import HTMLResponse

from quartet import sync
from quartet.gateway.meanwhile import MEANWHILE
from quartet.gateway.security import docs_page
from quartet.kernel.errors import NotFound, Problem
from quartet.stores.guard import State
from quartet.web.answers import answer, problems
from quartet.web.dependencies import ShopDep
from quartet.web.shapes import Shape

router = APIRouter(tags=["system"])

# Without these no request can be answered rightly; without the others parts of the shop still work.
NEEDED = {"postgres", "mongodb"}
PING_SECONDS = 2.0
IMAGES = Path(__file__).resolve().parent.parent / "demo" / "images"


class StoreHealth(Shape):
    """`latencyMs` of one round trip; `breaker` of the process that answers; `meanwhile`: what works without it."""

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
    """Each store's state; 503 when one is gone that requests cannot do without."""
    stores = shop.stores
    pinged: tuple[Any, ...] = (stores.pg, stores.mongo, stores.redis, stores.search)
    found = await asyncio.gather(*(_ping(store) for store in pinged))
    health = {store.guard.store: state for store, state in zip(pinged, found, strict=True)}
    down = {name for name, state in health.items() if state.status == "down"}
    status: Literal["ready", "degraded", "unavailable"] = (
        "unavailable" if down & NEEDED else "degraded" if down else "ready"
    )
    headers = {"Retry-After": "2"} if status == "unavailable" else None
    return answer(Health(status=status, stores=health), 503 if status == "unavailable" else 200, headers)


async def _ping(store: Any) -> StoreHealth:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PING_SECONDS):
            version = await store.ping()
    except Exception as error:  # whatever it is, the store is of no use now
        reason = error.detail if isinstance(error, Problem) else type(error).__name__
        guard = store.guard
        return StoreHealth(
            status="down",
            breaker=guard.state,
            latency_ms=_ms(started),
            error=reason,
            meanwhile=MEANWHILE[guard.store],
        )
    return StoreHealth(status="up", breaker=store.guard.state, latency_ms=_ms(started), version=version)


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
