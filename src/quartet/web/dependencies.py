"""Dependencies of routes: the authenticated client, and the shop. All are coroutines: FastAPI runs plain functions in a
thread, which costs more than most of our requests.

Injecting a header or a dependency's result costs the framework 10 to 20 µs. On a purchase's path, dependencies read
headers from the request themselves, declared by `reads`, and routes get the shop from the request."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Path, Request

from quartet.kernel.clock import Clock, SystemClock
from quartet.kernel.errors import Forbidden, Unauthenticated
from quartet.kernel.settings import Settings
from quartet.kernel.steps import Step, unwatched
from quartet.stores import Stores
from quartet.stores.mail import Mailer, mailer
from quartet.web.limits import address_group
from quartet.web.order_tokens import OrderTokens
from quartet.web.paging import Cursors

Dependency = TypeVar("Dependency", bound=Callable[..., Any])


@dataclass(frozen=True)
class Sent:
    """A request header for the OpenAPI document; `schema`: additions to its JSON schema."""

    name: str
    description: str
    schema: dict[str, Any] = field(default_factory=dict)


CART_TOKEN = Sent("X-Cart-Token", "A guest's key to the cart, as the first answer gave it.")
ORDER_TOKEN = Sent("X-Order-Token", "A guest's key to the order, `orderToken` of the answer to POST /orders.")

# For the OpenAPI document, which can't see what dependencies read from the request: all of these read the authenticated
# client, and the headers listed.
READ_BY: dict[Callable[..., Any], tuple[Sent, ...]] = {}


def reads(*headers: Sent) -> Callable[[Dependency], Dependency]:
    """Marks a dependency that reads the authenticated client, or that it is a guest, and these headers from the request
    itself."""

    def mark(dependency: Dependency) -> Dependency:
        READ_BY[dependency] = headers
        return dependency

    return mark


@dataclass(frozen=True)
class Shop:
    """Everything a use case may need; created once per process and passed down."""

    settings: Settings
    stores: Stores
    clock: Clock = field(default_factory=SystemClock)
    mail: Mailer = field(default_factory=lambda: mailer("console:", ""))
    step: Step = unwatched

    @cached_property
    def cursors(self) -> Cursors:
        """Signs this shop's cursors."""
        return Cursors(*self.settings.all_secrets())

    @cached_property
    def order_tokens(self) -> OrderTokens:
        """Issues and verifies guests' order tokens."""
        return OrderTokens(*self.settings.all_secrets())


@dataclass(frozen=True)
class Principal:
    """A signed-in user, as the access token says; or an API key, whose id stands for user and session, and which acts
    as staff within its `scopes`."""

    user_id: UUID
    roles: frozenset[str]
    session_id: UUID
    scopes: frozenset[str] | None = None

    @property
    def actor(self) -> str:
        """The name used in ledgers, histories and the audit log."""
        return str(self.user_id) if self.scopes is None else f"key:{self.user_id}"

    @property
    def is_staff(self) -> bool:
        """Admins are staff too."""
        return bool(self.roles & {"staff", "admin"})

    @property
    def is_admin(self) -> bool:
        """Whether it is an admin."""
        return "admin" in self.roles


def client_of(request: Request) -> str:
    """The client for fair sharing: the user, or the guest's IP address."""
    principal: Principal | None = request.scope.get("principal")
    return str(principal.user_id) if principal else address_group(request.scope["address"])


async def get_shop(request: Request) -> Shop:
    """The shop this application serves."""
    shop: Shop = request.app.state.shop
    return shop


@reads()
async def anyone(request: Request) -> Principal | None:
    """The principal that the gateway has authenticated; None for a guest."""
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


@dataclass(frozen=True)
class Visitor:
    """The client that accesses an order: a user, or a guest with an order's token."""

    principal: Principal | None
    order_token: str | None
    cart_token: str | None

    @property
    def user_id(self) -> UUID | None:
        """None for a guest."""
        return None if self.principal is None else self.principal.user_id

    @property
    def by(self) -> str:
        """The name used in an order's history."""
        return "guest" if self.principal is None else self.principal.actor

    def may_see(self, shop: Shop, order_id: UUID, user_id: UUID | None, email: str | None) -> bool:
        """Staff see every order, a user their own; a guest's order, which has an e-mail address instead of a user, is
        open to whoever holds its token."""
        if self.principal is not None and (self.principal.is_staff or self.principal.user_id == user_id):
            return True
        return email is not None and shop.order_tokens.opens(order_id, self.order_token)


@reads(ORDER_TOKEN, CART_TOKEN)
async def visitor(request: Request) -> Visitor:
    """Anyone, with the tokens sent along."""
    headers = request.headers
    return Visitor(await anyone(request), headers.get(ORDER_TOKEN.name), headers.get(CART_TOKEN.name))


@reads(ORDER_TOKEN, CART_TOKEN)
async def buyer(request: Request) -> Visitor:
    """A user, or a guest with an order's token, whichever order it is for; 401 with neither."""
    who = await visitor(request)
    if who.principal is None and not who.order_token:
        raise Unauthenticated("sign in, or send the order's X-Order-Token")
    return who


# `{id}` in a path.
PathId = Annotated[UUID, Path(alias="id")]

ShopDep = Annotated[Shop, Depends(get_shop)]
Anyone = Annotated[Principal | None, Depends(anyone)]
Visiting = Annotated[Visitor, Depends(visitor)]
Buying = Annotated[Visitor, Depends(buyer)]
Signed = Annotated[Principal, Depends(signed)]
Staff = Annotated[Principal, Depends(staff)]
Admin = Annotated[Principal, Depends(admin)]
