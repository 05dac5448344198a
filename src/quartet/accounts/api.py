"""Routes of accounts."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Header, Path, Request, Response
from pydantic import AfterValidator, Field

from quartet.accounts import cookies, service
from quartet.accounts.model import (
    LONGEST_NAME,
    LONGEST_PASSWORD,
    LONGEST_USER_AGENT,
    SHORTEST_PASSWORD,
    Device,
    EmailTaken,
    OpenSession,
    RefreshRefused,
    ResetGone,
    SignedIn,
    TooManyAttempts,
    User,
    VerificationGone,
    WrongCredentials,
)
from quartet.accounts.passwords import Busy
from quartet.kernel.errors import Invalid, NotFound, StoreUnavailable, TooManyRequests, Unauthenticated
from quartet.web.answers import answer, nothing, problems
from quartet.web.dependencies import PathId, Shop, ShopDep, Signed
from quartet.web.paging import Page, Paging
from quartet.web.shapes import Body, Bool, NoBody, Shape, Str, one_line, text, trimmed

router = APIRouter(tags=["accounts"])
log = structlog.get_logger("quartet.accounts")

# Wide enough for any address or password; the rules in model.py decide which are valid, and say why not.
Email = Annotated[str, text(320), Field(examples=["ada@example.com"], json_schema_extra={"format": "email"})]
Password = Annotated[str, text(1024), Field(examples=["correct horse battery"])]
FreshPassword = Annotated[str, text(LONGEST_PASSWORD, SHORTEST_PASSWORD), Field(examples=["correct horse battery"])]
DisplayName = Annotated[str, trimmed(LONGEST_NAME), AfterValidator(one_line)]
# Wide enough for an access token sent by mistake, so that it is refused for not being a refresh token, not for its
# length.
Token = Annotated[Str, Field(max_length=4096)]


class NewUser(Body):
    email: Email
    password: FreshPassword
    display_name: DisplayName | None = None


class UserPatch(Body):
    """Omitted members stay unchanged; null removes the name."""

    display_name: DisplayName | None = None


class Credentials(Body):
    """`cookie`: for web pages. The session is put into a cookie that scripts cannot read, and no tokens are
    returned."""

    email: Email
    password: Password
    cookie: Bool = False


class RefreshBody(Body):
    refresh_token: Token


class PasswordChange(Body):
    current_password: Password
    new_password: FreshPassword


class EmailChange(Body):
    email: Email
    password: Password


class ResetRequest(Body):
    email: Email


class NewPassword(Body):
    password: FreshPassword


class PersonShape(Shape):
    """An account as staff see it."""

    id: UUID
    email: str
    email_verified: bool
    display_name: str | None
    plan: str
    roles: list[str]
    created_at: datetime

    @classmethod
    def of(cls, user: User) -> Self:
        """The shape of this user."""
        return cls.model_validate({**vars(user), "roles": sorted(user.roles)})


class UserShape(PersonShape):
    """An account as its owner sees it."""

    pending_email: str | None


class PageSessionShape(Shape):
    """For web pages: the session is in a cookie. `csrfToken`, also in the cookie `quartet_csrf`, has to be sent as
    `X-CSRF-Token` with every request that changes something."""

    csrf_token: str
    expires_in: int


class SessionShape(Shape):
    """A session. `lastUsedAt`: when its tokens were last renewed; `network`: an IPv4 /24 or IPv6 /48."""

    id: UUID
    current: bool
    user_agent: str | None
    network: str | None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


class TokenShape(Shape):
    """`expiresIn` is the access token's lifetime in seconds."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in: int


def _user(user: User, status: int = 200) -> Response:
    return answer(UserShape.of(user), status)


def _page_session(shop: Shop, signed: SignedIn) -> Response:
    """The refresh token is not sent: the cookie replaces it."""
    settings = shop.settings
    csrf = cookies.csrf_token(settings, signed.principal.session_id)
    shape = PageSessionShape(csrf_token=csrf, expires_in=settings.refresh_ttl)
    response = answer(shape, 201, {"Cache-Control": "no-store"})
    for cookie in cookies.opened(settings, signed.principal, shop.clock.now(), csrf):
        response.headers.append("Set-Cookie", cookie)
    return response


def _session(session: OpenSession, current: UUID) -> SessionShape:
    return SessionShape.model_validate({**vars(session), "current": session.id == current})


async def _device(request: Request) -> Device:
    agent = request.headers.get("user-agent", "")[:LONGEST_USER_AGENT]
    return Device("".join(c for c in agent if c.isprintable()) or None, request.scope["address"])


DeviceDep = Annotated[Device, Depends(_device)]
MailedToken = Annotated[str, Path(max_length=128)]


def _tokens(signed: SignedIn) -> Response:
    return answer(TokenShape.model_validate(signed), 201, {"Cache-Control": "no-store"})


@router.post(
    "/users",
    status_code=201,
    response_model=UserShape,
    responses=problems(EmailTaken, Invalid, Busy, TooManyRequests, StoreUnavailable),
)
async def sign_up(shop: ShopDep, body: NewUser) -> Response:
    """Creates an account. The password needs 8 characters and must not be a common one."""
    return _user(await service.sign_up(shop, body.email, body.password, body.display_name), 201)


@router.post(
    "/sessions",
    status_code=201,
    response_model=TokenShape | PageSessionShape,
    responses=problems(WrongCredentials, Invalid, TooManyAttempts, Busy, StoreUnavailable),
)
async def sign_in(
    request: Request,
    shop: ShopDep,
    device: DeviceDep,
    body: Credentials,
    x_cart_token: Annotated[
        str | None, Header(alias="X-Cart-Token", description="A guest's cart, to become part of the user's.")
    ] = None,
) -> Response:
    """Signs in."""
    signed = await service.sign_in(shop, body.email, body.password, device)
    if x_cart_token:
        try:
            await request.app.state.merge_cart(shop, x_cart_token, signed.principal.user_id)
        except Exception:  # no failure here may prevent a sign-in; the cart is merged when it is next read
            log.exception("cart_not_merged", user=str(signed.principal.user_id))
    return _page_session(shop, signed) if body.cookie else _tokens(signed)


@router.post(
    "/sessions/refresh",
    status_code=201,
    response_model=TokenShape,
    responses=problems(RefreshRefused, Invalid, StoreUnavailable),
)
async def refresh(shop: ShopDep, device: DeviceDep, body: RefreshBody) -> Response:
    """Exchanges the refresh token for new tokens; the old one is used up, and using it again ends the session."""
    return _tokens(await service.refresh(shop, body.refresh_token, device))


@router.delete("/sessions/current", status_code=204, responses=problems(Unauthenticated, StoreUnavailable))
async def sign_out(shop: ShopDep, principal: Signed, _: NoBody = None) -> Response:
    """Signs out: the session's tokens are no longer valid."""
    await service.sign_out(shop, principal)
    response = nothing()
    for cookie in cookies.closed(shop.settings):
        response.headers.append("Set-Cookie", cookie)
    return response


@router.get(
    "/users/me/sessions",
    response_model=Page[SessionShape],
    responses=problems(Unauthenticated, Invalid, StoreUnavailable),
)
async def list_sessions(shop: ShopDep, principal: Signed, paging: Paging) -> Response:
    """Your open sessions, newest first."""
    scope = f"sessions:{principal.user_id}"
    before = shop.cursors.start(paging, scope, None, UUID)
    found = await service.sessions(shop, principal, before, paging.limit + 1)
    shown, more = shop.cursors.cut(found, paging, scope, lambda last: [last.id])
    items = [_session(session, principal.session_id) for session in shown]
    return answer(Page[SessionShape](items=items, next_cursor=more))


@router.delete("/users/me/sessions", status_code=204, responses=problems(Unauthenticated, StoreUnavailable))
async def end_other_sessions(shop: ShopDep, principal: Signed, _: NoBody = None) -> Response:
    """Ends every session but this one."""
    await service.end_other_sessions(shop, principal)
    return nothing()


@router.delete(
    "/users/me/sessions/{id}", status_code=204, responses=problems(NotFound, Unauthenticated, StoreUnavailable)
)
async def end_own_session(shop: ShopDep, principal: Signed, session_id: PathId, _: NoBody = None) -> Response:
    """Ends one of your sessions: its tokens are no longer valid."""
    await service.end_own_session(shop, principal, session_id)
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
async def change_password(shop: ShopDep, principal: Signed, device: DeviceDep, body: PasswordChange) -> Response:
    """Changes your password; every other session ends."""
    await service.change_password(shop, principal, body.current_password, body.new_password, device)
    return nothing()


@router.post(
    "/users/me/email",
    status_code=202,
    response_model=UserShape,
    responses=problems(EmailTaken, Unauthenticated, Invalid, TooManyAttempts, TooManyRequests, Busy, StoreUnavailable),
)
async def change_email(shop: ShopDep, principal: Signed, device: DeviceDep, body: EmailChange) -> Response:
    """Sends a link to the new address; it becomes the account's once the link is used. Sending the present address
    cancels a pending change."""
    return _user(await service.change_email(shop, principal, body.email, body.password, device), 202)


@router.post(
    "/password-resets",
    status_code=202,
    response_class=Response,
    responses=problems(Invalid, TooManyRequests, StoreUnavailable),
)
async def ask_reset(shop: ShopDep, body: ResetRequest) -> Response:
    """Sends a link for a new password, if the address has an account; the answer does not say whether."""
    await service.ask_reset(shop, body.email)
    return Response(status_code=202)


@router.post(
    "/password-resets/{token}", status_code=204, responses=problems(ResetGone, Invalid, Busy, StoreUnavailable)
)
async def reset_password(shop: ShopDep, token: MailedToken, body: NewPassword) -> Response:
    """Sets a new password with the token of the link; every session ends."""
    await service.reset_password(shop, token, body.password)
    return nothing()


@router.post(
    "/email-verifications",
    status_code=202,
    response_class=Response,
    responses=problems(Unauthenticated, TooManyRequests, StoreUnavailable),
)
async def ask_verification(shop: ShopDep, principal: Signed, _: NoBody = None) -> Response:
    """Sends the link that verifies your address again, if it is not verified yet; ten times an hour at most."""
    await service.ask_verification(shop, principal)
    return Response(status_code=202)


@router.post(
    "/email-verifications/{token}", status_code=204, responses=problems(VerificationGone, EmailTaken, StoreUnavailable)
)
async def verify_email(shop: ShopDep, token: MailedToken, _: NoBody = None) -> Response:
    """Verifies an address with the token of the link. If it is a new address, it becomes the account's."""
    await service.verify_email(shop, token)
    return nothing()
