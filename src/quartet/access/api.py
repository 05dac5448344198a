"""Routes of API keys, roles and the audit log."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from quartet import accounts
from quartet.access import service, store
from quartet.access.model import SCOPES, Entry, LastAdmin
from quartet.accounts import PersonShape
from quartet.kernel.errors import Forbidden, Invalid, NotFound, StoreUnavailable, Unauthenticated
from quartet.web.answers import answer, nothing, problems
from quartet.web.dependencies import Admin, PathId, ShopDep, Staff
from quartet.web.moments import From, To, in_utc, span, text_only
from quartet.web.paging import Page, Paging
from quartet.web.shapes import Body, NoBody, Shape, text, words

router = APIRouter(tags=["access"])

_ADMIN = (Unauthenticated, Forbidden, Invalid, StoreUnavailable)


class NewKey(Body):
    """`scopes` have the form `<room>:read` or `<room>:write`. Without `expiresAt` the key is valid until it is
    revoked."""

    name: Annotated[str, words(100)]
    scopes: Annotated[
        list[Annotated[str, text(40), Field(json_schema_extra={"enum": sorted(SCOPES)})]],
        Field(min_length=1, max_length=len(SCOPES)),
    ]
    expires_at: Annotated[AwareDatetime, BeforeValidator(text_only), AfterValidator(in_utc)] | None = None


class KeyShape(Shape):
    """`prefix` is the beginning of the key, to recognise it by. `lastUsedAt` is exact to a minute."""

    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    created_by: UUID | None
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKeyShape(KeyShape):
    """`key` is shown only here."""

    key: str


class RolesBody(Body):
    """All of the user's roles; an empty list makes a plain customer."""

    roles: Annotated[list[Literal["staff", "admin"]], Field(max_length=2)]


class SubjectShape(Shape):
    """What was changed: `kind` is such as `order`; `id` is an order's or user's id, a SKU, a slug."""

    kind: str
    id: str


class EntryShape(Shape):
    """`actor` is a user's id, or `key:` and an API key's id. An `action` that ends in `.failed` means that the change
    recorded by the entry before it failed."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: SubjectShape
    before: Any
    after: Any
    request_id: str


@router.post("/api-keys", status_code=201, response_model=NewKeyShape, responses=problems(*_ADMIN))
async def create_key(shop: ShopDep, principal: Admin, body: NewKey) -> Response:
    """Creates an API key for a staff program, sent as `Authorization: Bearer qk_…`. The key is shown only here."""
    key, secret = await service.create_key(shop, principal, body.name, body.scopes, body.expires_at)
    return answer(NewKeyShape.model_validate({**vars(key), "key": secret}), 201, {"Cache-Control": "no-store"})


@router.get("/api-keys", response_model=Page[KeyShape], responses=problems(*_ADMIN))
async def list_keys(shop: ShopDep, _: Admin, paging: Paging) -> Response:
    """API keys, newest first, including revoked ones."""
    before = shop.cursors.start(paging, "api-keys", None, UUID)
    async with shop.stores.pg.read() as read:
        found = await store.keys(read, before=before, limit=paging.limit + 1)
    shown, more = shop.cursors.cut(found, paging, "api-keys", lambda last: [last.id])
    return answer(Page[KeyShape](items=[KeyShape.model_validate(key) for key in shown], next_cursor=more))


@router.delete("/api-keys/{id}", status_code=204, responses=problems(NotFound, *_ADMIN))
async def revoke_key(shop: ShopDep, principal: Admin, key_id: PathId, _: NoBody = None) -> Response:
    """Revokes the key at once."""
    await service.revoke_key(shop, principal, key_id)
    return nothing()


@router.get("/users", response_model=Page[PersonShape], responses=problems(*_ADMIN))
async def list_people(
    shop: ShopDep,
    _: Staff,
    paging: Paging,
    email: Annotated[str, Query(max_length=320, description="How the address begins.")] = "",
) -> Response:
    """Accounts, sorted by address."""
    scope = f"users:{email}"
    after = shop.cursors.start(paging, scope, "", str)
    async with shop.stores.pg.read() as read:
        found = await accounts.by_email(read, email.lower(), after=after, limit=paging.limit + 1)
    shown, more = shop.cursors.cut(found, paging, scope, lambda last: [last.email])
    return answer(Page[PersonShape](items=[PersonShape.of(user) for user in shown], next_cursor=more))


@router.patch("/users/{id}/roles", response_model=PersonShape, responses=problems(NotFound, LastAdmin, *_ADMIN))
async def set_roles(shop: ShopDep, principal: Admin, user_id: PathId, body: RolesBody) -> Response:
    """Sets a user's roles, at once: an access token that states other roles is refused until it is renewed."""
    return answer(PersonShape.of(await service.set_roles(shop, user_id, frozenset(body.roles), actor=principal.actor)))


@router.get("/audit-log", response_model=Page[EntryShape], responses=problems(*_ADMIN))
async def list_entries(
    shop: ShopDep,
    _: Admin,
    paging: Paging,
    *,
    actor: Annotated[str | None, Query(max_length=100, description="A user's id, or `key:` and an API key's.")] = None,
    subject: Annotated[
        str | None, Query(max_length=300, pattern=r"^[^:]+:.+$", description="Kind and id, as `order:0197…`.")
    ] = None,
    action: Annotated[str | None, Query(max_length=100, description="Such as `order.ship`.")] = None,
    start: From = None,
    end: To = None,
) -> Response:
    """Changes made by staff, newest first."""
    since, until = span(start, end)
    kind, _colon, subject_id = (subject or "").partition(":")
    wanted = store.Filter(actor, (kind, subject_id) if subject else None, action)
    scope = f"audit:{actor}:{subject}:{action}:{start}:{end}"
    before = shop.cursors.start(
        paging, scope, store.NEWEST, lambda at, id_: store.Before(datetime.fromisoformat(at), id_)
    )
    async with shop.stores.pg.read() as read:
        found = await store.entries(read, wanted, since=since, until=until, before=before, limit=paging.limit + 1)
    shown, more = shop.cursors.cut(found, paging, scope, lambda last: [last.at.isoformat(), last.id])
    return answer(Page[EntryShape](items=[_entry(entry) for entry in shown], next_cursor=more))


def _entry(entry: Entry) -> EntryShape:
    subject = SubjectShape(kind=entry.subject_kind, id=entry.subject_id)
    return EntryShape.model_validate({**vars(entry), "subject": subject})
