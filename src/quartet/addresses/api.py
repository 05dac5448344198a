"""Routes of addresses."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import AfterValidator, Field, StringConstraints

from quartet.addresses import store
from quartet.addresses.model import COUNTRIES, Address, TooManyAddresses
from quartet.kernel.errors import Invalid, NotFound, StoreUnavailable, Unauthenticated
from quartet.web.answers import answer, nothing, problems
from quartet.web.dependencies import PathId, ShopDep, Signed
from quartet.web.paging import Page
from quartet.web.shapes import Body, Bool, NoBody, Shape, one_line, trimmed

router = APIRouter(prefix="/users/me/addresses", tags=["addresses"])

_ALWAYS = (Unauthenticated, Invalid, StoreUnavailable)


def _assigned(value: str) -> str:
    if value not in COUNTRIES:
        raise ValueError("must be a country's two letters in ISO 3166-1, such as GB")
    return value


Short = Annotated[str, trimmed(100), AfterValidator(one_line)]
Line = Annotated[str, trimmed(200), AfterValidator(one_line)]
PostalCode = Annotated[str, trimmed(20), AfterValidator(one_line)]
Phone = Annotated[str, StringConstraints(strict=True, pattern=r"^\+?[0-9][0-9 ()./-]{2,30}$")]
Country = Annotated[
    str, StringConstraints(strict=True, pattern=r"^[A-Z]{2}$"), AfterValidator(_assigned), Field(examples=["GB"])
]


class NewAddress(Body):
    """The first address is the default, whatever `isDefault` says."""

    name: Short
    line1: Line
    line2: Line | None = None
    city: Short
    region: Short | None = None
    postal_code: PostalCode
    country: Country
    phone: Phone | None = None
    is_default: Bool = False


class AddressPatch(Body):
    """Omitted members stay unchanged; null removes `line2`, `region` or `phone`."""

    name: Short = ""
    line1: Line = ""
    line2: Line | None = None
    city: Short = ""
    region: Short | None = None
    postal_code: PostalCode = ""
    country: Country = ""
    phone: Phone | None = None
    is_default: Bool = False


class AddressShape(Shape):
    """An address as its owner sees it."""

    id: UUID
    name: str
    line1: str
    line2: str | None
    city: str
    region: str | None
    postal_code: str
    country: str
    phone: str | None
    is_default: bool
    created_at: datetime
    updated_at: datetime


def _answer(address: Address, status: int = 200) -> Response:
    return answer(AddressShape.model_validate(address), status)


@router.get("", response_model=Page[AddressShape], responses=problems(Unauthenticated, StoreUnavailable))
async def list_addresses(shop: ShopDep, principal: Signed) -> Response:
    """All your addresses on one page, the default first, then the newest."""
    async with shop.stores.pg.read() as read:
        found = await store.of_user(read, principal.user_id)
    return answer(Page[AddressShape](items=[AddressShape.model_validate(address) for address in found]))


@router.post("", status_code=201, response_model=AddressShape, responses=problems(TooManyAddresses, *_ALWAYS))
async def post_address(shop: ShopDep, principal: Signed, body: NewAddress) -> Response:
    """Adds an address. The first one is the default."""
    async with shop.stores.pg.tx() as tx:
        return _answer(await store.add(tx, principal.user_id, body.model_dump(), shop.clock.now()), 201)


@router.get("/{id}", response_model=AddressShape, responses=problems(NotFound, *_ALWAYS))
async def get_address(shop: ShopDep, principal: Signed, address_id: PathId) -> Response:
    """One of your addresses."""
    async with shop.stores.pg.read() as read:
        return _answer(await store.get(read, principal.user_id, address_id))


@router.patch("/{id}", response_model=AddressShape, responses=problems(NotFound, *_ALWAYS))
async def patch_address(shop: ShopDep, principal: Signed, address_id: PathId, body: AddressPatch) -> Response:
    """Changes an address. Making it the default replaces the present default."""
    given = body.model_dump(include=body.model_fields_set)
    async with shop.stores.pg.tx() as tx:
        return _answer(await store.change(tx, principal.user_id, address_id, given, shop.clock.now()))


@router.delete("/{id}", status_code=204, responses=problems(NotFound, *_ALWAYS))
async def delete_address(shop: ShopDep, principal: Signed, address_id: PathId, _: NoBody = None) -> Response:
    """Deletes an address. If it was the default, the newest of the others becomes the default."""
    async with shop.stores.pg.tx() as tx:
        await store.remove(tx, principal.user_id, address_id)
    return nothing()
