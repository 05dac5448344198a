"""Who is asking, and the shop they ask. All coroutines: FastAPI sends plain functions to a thread, which costs more
than most of our requests."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request

from quartet.kernel.clock import Clock, SystemClock
from quartet.kernel.errors import Forbidden, Unauthenticated
from quartet.kernel.settings import Settings
from quartet.stores import Stores
from quartet.stores.mail import Mailer, mailer
from quartet.web.paging import Cursors


@dataclass(frozen=True)
class Shop:
    """Everything a use case may need; opened once a process and passed down."""

    settings: Settings
    stores: Stores
    clock: Clock = field(default_factory=SystemClock)
    mail: Mailer = field(default_factory=lambda: mailer("console:", ""))

    @cached_property
    def cursors(self) -> Cursors:
        """Signs this shop's cursors."""
        return Cursors(self.settings.secret.get_secret_value())


@dataclass(frozen=True)
class Principal:
    """A signed-in user, as the access token says."""

    user_id: UUID
    roles: frozenset[str]
    session_id: UUID

    @property
    def is_staff(self) -> bool:
        """Admins are staff too."""
        return bool(self.roles & {"staff", "admin"})

    @property
    def is_admin(self) -> bool:
        """May do everything."""
        return "admin" in self.roles


async def get_shop(request: Request) -> Shop:
    """The shop this application serves."""
    shop: Shop = request.app.state.shop
    return shop


async def anyone(request: Request) -> Principal | None:
    """The gateway has read the token already; None for a guest."""
    principal: Principal | None = request.scope.get("principal")
    return principal


async def signed(principal: Annotated[Principal | None, Depends(anyone)]) -> Principal:
    """A signed-in user, or 401."""
    if principal is None:
        raise Unauthenticated()
    return principal


async def staff(principal: Annotated[Principal, Depends(signed)]) -> Principal:
    """Staff or admin, or 403."""
    if not principal.is_staff:
        raise Forbidden()
    return principal


async def admin(principal: Annotated[Principal, Depends(signed)]) -> Principal:
    """Admin, or 403."""
    if not principal.is_admin:
        raise Forbidden()
    return principal


# `{id}` in a path.
PathId = Annotated[UUID, Path(alias="id")]

ShopDep = Annotated[Shop, Depends(get_shop)]
Anyone = Annotated[Principal | None, Depends(anyone)]
Signed = Annotated[Principal, Depends(signed)]
Staff = Annotated[Principal, Depends(staff)]
Admin = Annotated[Principal, Depends(admin)]
