"""Routes of the inventory, for staff."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import AfterValidator, Field

from quartet.inventory import store
from quartet.inventory.model import MAX_STOCK, Movement, StockOutOfBounds
from quartet.kernel.errors import (
    Forbidden,
    IdempotencyKeyReused,
    Invalid,
    NotFound,
    RequestInProgress,
    StoreUnavailable,
    Unauthenticated,
)
from quartet.kernel.texts import composed
from quartet.web import idempotency, trail
from quartet.web.answers import answer, problems
from quartet.web.dependencies import ShopDep, Staff
from quartet.web.idempotency import IdempotencyKey
from quartet.web.paging import Page, Paging
from quartet.web.shapes import MAX_BIGINT, Body, Cents, Int, Shape, Sku, text, words

router = APIRouter(prefix="/inventory", tags=["inventory"])

_STAFF = (Unauthenticated, Forbidden, Invalid, StoreUnavailable)
SkuPath = Annotated[Sku, Path(description="A sellable SKU.")]


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("must not be 0")
    return value


class ItemShape(Shape):
    """`available` is what can be bought now: `stock` less `reserved`."""

    sku: str
    name: str
    stock: int
    reserved: int
    available: int
    unit_price_cents: int
    currency: str
    updated_at: datetime


class MovementShape(Shape):
    """`delta` is the change of stock, `reservedDelta` that of the pieces reserved by open orders; `by` is a user's id
    or a part of the shop."""

    id: int
    sku: str
    delta: int
    reserved_delta: int
    reason: str
    note: str | None
    order_id: UUID | None
    by: str
    created_at: datetime


class PutItem(Body):
    """Without `stock` the stock is unchanged."""

    name: Annotated[str, words(300), AfterValidator(composed)]
    unit_price_cents: Cents
    stock: Annotated[Int, Field(ge=0, le=MAX_STOCK)] | None = None


class Move(Body):
    """`reason`: received, adjusted, returned, damaged, … in a word or two."""

    delta: Annotated[Int, Field(ge=-MAX_STOCK, le=MAX_STOCK), AfterValidator(_not_zero)]
    reason: Annotated[str, words(60)]
    note: Annotated[str, text(1000)] | None = None


def _movement(movement: Movement) -> MovementShape:
    return MovementShape.model_validate({**vars(movement), "delta": movement.stock_delta, "by": movement.actor})


@router.get("", response_model=Page[ItemShape], responses=problems(*_STAFF))
async def list_items(
    shop: ShopDep,
    _: Staff,
    paging: Paging,
    below_available: Annotated[
        int | None, Query(alias="belowAvailable", ge=0, le=MAX_STOCK, description="Fewer than so many available.")
    ] = None,
    q: Annotated[
        str | None, Query(max_length=100, description="Part of the SKU or the name."), AfterValidator(composed)
    ] = None,
) -> Response:
    """Items in SKU order."""
    scope = f"inventory:{below_available}:{q}"
    after = shop.cursors.start(paging, scope, "", str)
    async with shop.stores.pg.read() as read:
        items = await store.page(read, after=after, limit=paging.limit + 1, below=below_available, text=q or None)
    shown, more = shop.cursors.cut(items, paging, scope, lambda last: [last.sku])
    return answer(Page[ItemShape](items=[ItemShape.model_validate(item) for item in shown], next_cursor=more))


@router.get("/{sku}", response_model=ItemShape, responses=problems(NotFound, *_STAFF))
async def get_item(shop: ShopDep, _: Staff, sku: SkuPath) -> Response:
    """An item by its SKU."""
    async with shop.stores.pg.read() as read:
        return answer(ItemShape.model_validate(await store.get(read, sku)))


@router.put(
    "/{sku}",
    response_model=ItemShape,
    responses={201: {"model": ItemShape, "description": "It is new."}, **problems(StockOutOfBounds, *_STAFF)},
)
async def put_item(shop: ShopDep, principal: Staff, sku: SkuPath, body: PutItem) -> Response:
    """Creates or changes an item, priced in the shop's currency."""
    async with shop.stores.pg.tx() as tx:
        before = (await store.lock(tx, [sku])).get(sku)
        item, created = await store.put(
            tx, sku, body.name, body.unit_price_cents, stock=body.stock,
            currency=shop.settings.currency, actor=principal.actor,
        )  # fmt: skip
        await trail.record(tx, principal.actor, "inventory.put", "sku", sku, before=before, after=item)
    return answer(ItemShape.model_validate(item), 201 if created else 200)


@router.post(
    "/{sku}/movements",
    status_code=201,
    response_model=MovementShape,
    responses=problems(NotFound, StockOutOfBounds, IdempotencyKeyReused, RequestInProgress, *_STAFF),
)
async def post_movement(shop: ShopDep, principal: Staff, sku: SkuPath, body: Move, key: IdempotencyKey) -> Response:
    """Changes the stock and records why. 409 if it would fall below what open orders have reserved."""
    async with idempotency.transaction(shop, key) as slot:
        if slot.replay is not None:
            return slot.replay
        before = (await store.lock(slot.tx, [sku])).get(sku)
        moved = await store.move(slot.tx, sku, body.delta, body.reason, note=body.note, actor=principal.actor)
        await trail.record(slot.tx, principal.actor, "inventory.move", "sku", sku, before=before, after=moved)
        return await slot.keep(answer(_movement(moved), 201))


@router.get("/{sku}/movements", response_model=Page[MovementShape], responses=problems(NotFound, *_STAFF))
async def list_movements(shop: ShopDep, _: Staff, sku: SkuPath, paging: Paging) -> Response:
    """The ledger, newest first; its sums equal the item."""
    scope = f"movements:{sku}"
    before = shop.cursors.start(paging, scope, MAX_BIGINT, int)
    async with shop.stores.pg.read() as read:
        await store.get(read, sku)
        found = await store.movements(read, sku, before=before, limit=paging.limit + 1)
    shown, more = shop.cursors.cut(found, paging, scope, lambda last: [last.id])
    return answer(Page[MovementShape](items=[_movement(entry) for entry in shown], next_cursor=more))
