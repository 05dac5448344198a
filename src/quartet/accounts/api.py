"""Routes of accounts."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import structlog
from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import Field, StringConstraints
from starlette.background import BackgroundTask

from quartet.accounts import service
from quartet.accounts.model import (
    LONGEST_NAME,
    LONGEST_PASSWORD,
    SHORTEST_PASSWORD,
    EmailTaken,
    RefreshRefused,
    ResetGone,
    SignedIn,
    TooManyAttempts,
    User,
    WrongCredentials,
)
from quartet.accounts.passwords import Busy
from quartet.kernel.errors import Invalid, StoreUnavailable, TooManyRequests, Unauthenticated
from quartet.web.answers import answer, nothing, problems
from quartet.web.dependencies import ShopDep, Signed
from quartet.web.shapes import Body, Shape, Str, text

router = APIRouter(tags=["accounts"])
log = structlog.get_logger("quartet.accounts")

# Wide enough for any address or password; what is good is decided by the rules in model.py, in words.
Email = Annotated[str, text(320), Field(examples=["ada@example.com"], json_schema_extra={"format": "email"})]
Password = Annotated[str, text(1024), Field(examples=["correct horse battery"])]
FreshPassword = Annotated[str, text(LONGEST_PASSWORD, SHORTEST_PASSWORD), Field(examples=["correct horse battery"])]
DisplayName = Annotated[
    str, StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=LONGEST_NAME)
]
Token = Annotated[Str, Field(max_length=256)]


class NewUser(Body):
    email: Email
    password: FreshPassword
    display_name: DisplayName | None = None


class UserPatch(Body):
    """What is left out stays; null takes the name away."""

    display_name: DisplayName | None = None


class Credentials(Body):
    email: Email
    password: Password


class RefreshBody(Body):
    refresh_token: Token


class PasswordChange(Body):
    current_password: Password
    new_password: FreshPassword


class ResetRequest(Body):
    email: Email


class NewPassword(Body):
    password: FreshPassword


class UserShape(Shape):
    """An account as its owner sees it."""

    id: UUID
    email: str
    display_name: str | None
    plan: str
    roles: list[str]
    created_at: datetime


class TokenShape(Shape):
    """`expiresIn` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in: int


def _user(user: User, status: int = 200) -> Response:
    return answer(UserShape.model_validate({**vars(user), "roles": sorted(user.roles)}), status)


def _tokens(signed: SignedIn) -> Response:
    shape = TokenShape(
        access_token=signed.access_token, refresh_token=signed.refresh_token, expires_in=signed.expires_in
    )
    return answer(shape, 201, {"Cache-Control": "no-store"})


@router.post(
    "/users",
    status_code=201,
    response_model=UserShape,
    responses=problems(EmailTaken, Invalid, Busy, TooManyRequests, StoreUnavailable),
)
async def sign_up(shop: ShopDep, body: NewUser) -> Response:
    """Makes an account. The password needs 8 characters and must not be a common one."""
    return _user(await service.sign_up(shop, body.email, body.password, body.display_name), 201)


@router.post(
    "/sessions",
    status_code=201,
    response_model=TokenShape,
    responses=problems(WrongCredentials, Invalid, TooManyAttempts, Busy, StoreUnavailable),
)
async def sign_in(
    request: Request,
    shop: ShopDep,
    body: Credentials,
    x_cart_token: Annotated[str | None, Header(description="A guest's cart, to become part of the user's.")] = None,
) -> Response:
    """Signs in."""
    signed = await service.sign_in(shop, body.email, body.password)
    if x_cart_token:
        try:
            await request.app.state.merge_cart(shop, x_cart_token, signed.user_id)
        except Exception:  # whatever it is, it must not keep somebody out; the cart merges when it is next looked at
            log.exception("cart_not_merged", user=str(signed.user_id))
    return _tokens(signed)


@router.post(
    "/sessions/refresh",
    status_code=201,
    response_model=TokenShape,
    responses=problems(RefreshRefused, Invalid, StoreUnavailable),
)
async def refresh(shop: ShopDep, body: RefreshBody) -> Response:
    """Exchanges the refresh token for new tokens; the old one is spent, and using it again ends the session."""
    return _tokens(await service.refresh(shop, body.refresh_token))


@router.delete("/sessions/current", status_code=204, responses=problems(Unauthenticated, StoreUnavailable))
async def sign_out(shop: ShopDep, principal: Signed) -> Response:
    """Signs out: the session's tokens are good no longer."""
    await service.sign_out(shop, principal)
    return nothing()


@router.get("/users/me", response_model=UserShape, responses=problems(Unauthenticated, StoreUnavailable))
async def get_me(shop: ShopDep, principal: Signed) -> Response:
    """Your own account."""
    return _user(await service.me(shop, principal))


@router.patch("/users/me", response_model=UserShape, responses=problems(Unauthenticated, Invalid, StoreUnavailable))
async def patch_me(shop: ShopDep, principal: Signed, body: UserPatch) -> Response:
    """Changes your own account."""
    if "display_name" not in body.model_fields_set:
        return _user(await service.me(shop, principal))
    return _user(await service.rename(shop, principal, body.display_name))


@router.post(
    "/users/me/password",
    status_code=204,
    responses=problems(Unauthenticated, Invalid, TooManyAttempts, Busy, StoreUnavailable),
)
async def change_password(shop: ShopDep, principal: Signed, body: PasswordChange) -> Response:
    """Changes your password; every other session ends."""
    await service.change_password(shop, principal, body.current_password, body.new_password)
    return nothing()


@router.post(
    "/password-resets",
    status_code=202,
    response_class=Response,
    responses=problems(Invalid, TooManyRequests, StoreUnavailable),
)
async def request_reset(shop: ShopDep, body: ResetRequest) -> Response:
    """Sends a link for a new password, if the address has an account; the answer does not say whether."""
    user_id = await service.request_reset(shop, body.email)
    sending = BackgroundTask(service.send_reset, shop, user_id) if user_id else None
    return Response(status_code=202, background=sending)


@router.post(
    "/password-resets/{token}", status_code=204, responses=problems(ResetGone, Invalid, Busy, StoreUnavailable)
)
async def reset_password(shop: ShopDep, token: Annotated[str, Path(max_length=128)], body: NewPassword) -> Response:
    """Sets a new password by the token of the link; every session ends."""
    await service.reset_password(shop, token, body.password)
    return nothing()
