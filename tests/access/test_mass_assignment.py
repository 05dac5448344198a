"""Nobody writes a column by naming it: every name of every table and document, sent in every body, is refused."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic.alias_generators import to_camel, to_snake

from floor import Floor, Json, made
from quartet import catalog
from quartet.stores.files import json_file

WRITING = ("post", "put", "patch")
# Bodies that are signed by others, and read as they stand.
SIGNED = {"/webhooks/{provider}"}


async def test_no_column_is_written_by_naming_it(floor: Floor) -> None:
    names = await _names(floor)
    assert {"passwordHash", "password_hash", "refundedCents", "ratingsBefore", "roles", "isAdmin"} <= names
    document = floor.app.openapi()
    order_id = (await floor.payment())["orderId"]
    things = {
        "sku": await floor.product(), "slug": await floor.category(), "token": "spent", "id": order_id,
        "deliveryId": order_id,
    }  # fmt: skip
    before, asked, faults = await _everything(floor), 0, []
    for method, path, schema in _bodies(document):
        target = re.sub(r"\{(\w+)\}", lambda name: things[name[1]], path)
        for where, fields in _objects(document, schema):
            injected = sorted(names - fields)
            body: Any = dict.fromkeys(injected, "1")
            for step in reversed(where):
                body = {step: body} if isinstance(step, str) else [body]
            answer = await floor.admin.request(method, target, json=body)
            asked += 1
            named = {error["field"] for error in answer.json().get("errors", [])}
            missed = {".".join(map(str, (*where, name))) for name in injected} - named
            if ".".join(map(str, where)) in named:  # refused as a whole: it is read-only
                missed = set()
            if answer.status_code != 422 or missed:
                faults.append(f"{method} {path} {where}: {answer.status_code}, silent about {sorted(missed)[:8]}")
    print(f"{asked} bodies, {len(names)} names")
    assert asked >= 20
    assert not faults, "\n".join(faults)
    assert await _everything(floor) == before


async def test_a_good_body_with_one_name_too_many_changes_nothing(floor: Floor) -> None:
    """The rest being right does not let it through."""
    person = {"email": "ada@example.com", "password": "correct horse battery"}
    for extra in (
        "roles",
        "plan",
        "id",
        "emailVerifiedAt",
        "email_verified_at",
        "isStaff",
        "createdAt",
        "passwordHash",
    ):
        answer = await floor.guest.post("/users", json=person | {extra: ["admin"]})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, extra)
        answer = await floor.shopper.patch("/users/me", json={"displayName": "Ada", extra: ["admin"]})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, extra)
    assert (await made(floor.shopper.get("/users/me")))["roles"] == []
    line = {"sku": await floor.sku(), "qty": 1}
    for extra in ("unitPriceCents", "priceCents", "price", "unit_price_cents"):
        answer = await floor.shopper.post("/orders", json={"items": [line | {extra: 1}]})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, f"items.0.{extra}")
    for extra in ("status", "userId", "totalCents", "expiresAt", "capturedCents", "number"):
        answer = await floor.shopper.post("/orders", json={"items": [line], extra: 1})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, extra)
    assert (await made(floor.shopper.get("/orders")))["items"] == []


async def _names(floor: Floor) -> set[str]:
    """Columns, fields of documents, and what frameworks have been fooled with, each as it is and in both cases."""
    async with floor.shop.stores.pg.read() as read:
        rows = await read.fetch(
            """SELECT DISTINCT column_name FROM information_schema.columns
               WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"""
        )
    found = {str(row["column_name"]) for row in rows} | {"is_admin", "is_staff", "admin", "role", "__proto__", "user"}
    for name in ("products", "categories", "reviews"):
        found |= set(_fields(json_file(catalog.__file__, f"{name}.json")))
    return {name for each in found for name in (each, to_camel(each), to_snake(each))} - {""}


def _fields(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from _fields(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _fields(part)


def _bodies(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, operations in document["paths"].items():
        for method in WRITING:
            content = operations.get(method, {}).get("requestBody", {}).get("content", {})
            if "application/json" in content and path not in SIGNED:
                schema = content["application/json"]["schema"]
                if method == "patch" and not _resolved(document, schema).get("properties"):  # a merge patch
                    schema = operations["put"]["requestBody"]["content"]["application/json"]["schema"]
                yield method, path, schema


def _objects(document: Json, schema: Json, where: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, set[str]]]:
    """Every object in a body, where it stands, and the members that it has."""
    schema = _resolved(document, schema)
    if schema.get("type") == "array":
        yield from _objects(document, schema["items"], (*where, 0))
    elif "properties" in schema:
        yield where, set(schema["properties"])
        for name, part in schema["properties"].items():
            yield from _objects(document, part, (*where, name))


def _resolved(document: Json, schema: Json) -> Json:
    if "$ref" in schema:
        return _resolved(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    for choice in schema.get("anyOf", []):
        if choice.get("type") != "null":
            return _resolved(document, choice)
    return schema


async def _everything(floor: Floor) -> dict[str, str]:
    """A digest of every table and collection."""
    found: dict[str, str] = {}
    async with floor.shop.stores.pg.read() as read:
        tables = await read.fetch(
            """SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.tables
               WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'"""
        )
        for (name,) in tables:
            found[name] = await read.fetchval(
                f"SELECT coalesce(md5(string_agg(t::text, chr(10) ORDER BY t::text)), '') FROM {name} t"
            )
    for path in ("/products?limit=100", "/categories"):
        items = (await made(floor.admin.get(path)))["items"]
        found[path] = hashlib.md5(json.dumps(items, sort_keys=True).encode()).hexdigest()
    return found
