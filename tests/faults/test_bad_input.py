"""What no client should send, sent to every route of the OpenAPI document: each value is refused by name, and nothing
of it is ever the shop's own fault. A new route is held to this by being there."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from furnished import Furnished, Json, furnish, new_token

from conftest import SignIn
from quartet import sync
from quartet.gateway import create_app
from quartet.web.dependencies import Shop

WRITING = ("post", "put", "patch")
BODY_LIMIT = 64 * 1024
PRODUCT_LIMIT = 1024 * 1024
PROBLEM = "application/problem+json"
NO_TEXTS: list[Any] = [{"$gt": ""}, {"$ne": None}, [], 7, True, "a\0b", "a\ud800b", "\udfff"]
NO_INTEGERS: list[Any] = [1.5, "2", "", True, [], {}, {"$gt": 0}]


class Document:
    """The OpenAPI document, as far as these tests read it."""

    def __init__(self, document: Json) -> None:
        self.json = document

    def operations(self, *methods: str) -> Iterator[tuple[str, str, Json]]:
        """Method, path and operation."""
        for path, operations in self.json["paths"].items():
            for method, operation in operations.items():
                if method in methods or not methods:
                    yield method, path, operation

    def body(self, method: str, path: str) -> Json | None:
        """The schema of a request's body. A patch is any object of what a PUT takes."""
        operations = self.json["paths"][path]
        content = operations[method].get("requestBody", {}).get("content")
        if content is None:
            return None
        schema = self.resolved(next(iter(content.values()))["schema"])
        if not schema.get("properties") and method == "patch":
            return self.body("put", path)
        return schema

    def resolved(self, schema: Json) -> Json:
        """Without `$ref`, and without the null of what may be left out."""
        if "$ref" in schema:
            return self.resolved(self.json["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
        for choice in schema.get("anyOf", []):
            if choice.get("type") != "null":
                return self.resolved({**choice, **{k: v for k, v in schema.items() if k == "examples"}})
        return schema

    def example(self, schema: Json) -> Any:
        """A value that fits, with every field there is."""
        schema = self.resolved(schema)
        if schema.get("examples") or "const" in schema or "enum" in schema:
            return next(iter(schema.get("examples") or schema.get("enum") or [schema.get("const")]))
        match schema.get("type"):
            case "object":
                return {name: self.example(part) for name, part in schema.get("properties", {}).items()}
            case "array":
                return [self.example(schema["items"])]
            case "integer" | "number":
                return schema.get("minimum", 1) or 1
            case "boolean":
                return False
            case "string":
                formats = {"uuid": str(uuid4()), "date-time": "2026-01-31T12:00:00Z"}
                return formats.get(schema.get("format", ""), "a" * max(schema.get("minLength", 1), 3))
        return {}

    def fields(self, schema: Json, where: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Json]]:
        """Every text and every whole number in a body, and where it stands."""
        schema = self.resolved(schema)
        if schema.get("type") == "array":
            yield from self.fields(schema["items"], (*where, 0))
        elif schema.get("type") == "object":
            for name, part in schema.get("properties", {}).items():
                yield from self.fields(part, (*where, name))
        else:
            yield where, schema


@pytest.fixture(scope="module")
def document() -> Document:
    """What every shop says of itself; to write it down takes half a second."""
    return Document(create_app(lambda: None).openapi())  # type: ignore[arg-type, return-value]


@pytest.fixture
async def furnished(admin: httpx.AsyncClient, shopper: httpx.AsyncClient) -> Furnished:
    """A shop with one of everything; the shopper's orders are in it."""
    return await furnish(admin, shopper)


def addressed(path: str, furnished: Furnished, **others: str) -> str:
    """The path with what there is in its places."""
    places = {name: furnished.known_at(path, name) for name in re.findall(r"{(\w+)}", path)}
    for name, known in places.items():
        path = path.replace(f"{{{name}}}", others.get(name, known[0] if known else f"{{{name}}}"))
    return path


def put(body: Any, where: tuple[str | int, ...], value: Any) -> Any:
    """The body with one value changed."""
    if not where:
        return value
    head, *rest = where
    if isinstance(body, list):
        return [put(body[0], tuple(rest), value)]
    return {**body, head: put(body.get(head), tuple(rest), value)}


def refused(answer: httpx.Response, *statuses: int, field: str | None = None) -> str:
    """Empty, or what is wrong with the answer."""
    asked = f"{answer.request.method} {answer.request.url.raw_path.decode()[:120]} {answer.request.content[:160]!r}"
    said = f"{asked}\n    → {answer.status_code} {answer.text[:300]}"
    if answer.status_code not in statuses or answer.headers.get("content-type") != PROBLEM:
        return said
    named = {error["field"] for error in answer.json().get("errors", [])}
    if field is None or field in named or "is read-only" in said:
        return ""
    return f"{said}\n    does not name {field}"


def all_good(faults: list[str]) -> None:
    wrong = [fault for fault in faults if fault]
    assert not wrong, f"{len(wrong)} of {len(faults)}, such as\n" + "\n".join(wrong[:30])


def nested(opening: bytes, closing: bytes, depth: int = 1000) -> bytes:
    return opening * depth + b"1" + closing * depth


NOT_READABLE: dict[str, tuple[bytes, int]] = {
    "half an object": (b'{"sku": ', 400),
    "not JSON": (b"sku=MUG&qty=1", 400),
    "not UTF-8": (b'{"sku": "\xff\xfe"}', 400),
    "UTF-16": ('{"sku": "MUG"}'.encode("utf-16"), 400),
    "a raw NUL": (b'{"sku": "M\0G"}', 400),
    "half an escape": (b'{"sku": "\\ud8"}', 400),
    "a lone surrogate": (b'{"sku": "\\ud800"}', 422),
    "surrogates the wrong way round": (b'{"sku": "\\uDC00\\uD800"}', 422),
    "a name of a lone surrogate": (b'{"a": {"\\ud800": 1}}', 422),
    "a NUL a thousand deep": (b'{"a": ' + b"[" * 1000 + b'"\\u0000"' + b"]" * 1000 + b"}", 400),
    "a surrogate nine hundred deep": (b'{"a": ' + b"[" * 900 + b'"\\ud800"' + b"]" * 900 + b"}", 400),
    "a surrogate a hundred thousand deep": (b'{"a": ' + b"[" * 30_000 + b'"\\ud800"' + b"]" * 30_000 + b"}", 400),
    "not a number": (b'{"qty": NaN}', 400),
    "infinity": (b'{"qty": Infinity}', 400),
    "a thousand lists": (nested(b"[", b"]"), 400),
    "a thousand objects": (nested(b'{"a":', b"}"), 400),
    "a hundred thousand lists": (nested(b"[", b"]", 30_000), 400),
    "a thousand in a field": (b'{"attrs": ' + nested(b'{"a":', b"}") + b"}", 400),
    "two documents": (b"{}{}", 400),
}


async def test_a_body_that_cannot_be_read_is_refused_everywhere(
    admin: httpx.AsyncClient, document: Document, furnished: Furnished
) -> None:
    faults = []
    for method, path, _ in document.operations(*WRITING):
        url = addressed(path, furnished)
        if path.startswith("/webhooks/"):
            continue
        for body, status in NOT_READABLE.values():
            faults.append(refused(await send(admin, method, url, body), status))
        limit = PRODUCT_LIMIT if path.startswith("/products") else BODY_LIMIT
        large = b'{"name": "' + b"x" * limit + b'"}'
        faults.append(refused(await send(admin, method, url, large), 413))
        faults.append(refused(await send(admin, method, url, streamed(large)), 413))
        faults.append(refused(await admin.request(method, url, data={"sku": "MUG"}), 415))
    all_good(faults)


async def send(client: httpx.AsyncClient, method: str, url: str, body: Any) -> httpx.Response:
    answer = await client.request(method, url, content=body, headers={"Content-Type": "application/json"})
    answer.request._content = body if isinstance(body, bytes) else b"(streamed)"
    return answer


async def streamed(body: bytes) -> Any:
    for start in range(0, len(body), 8192):
        yield body[start : start + 8192]


async def test_what_is_json_but_no_object_is_refused(
    admin: httpx.AsyncClient, document: Document, furnished: Furnished
) -> None:
    faults = []
    for method, path, operation in document.operations(*WRITING):
        if document.body(method, path) is not None:
            may_be_left_out = not operation["requestBody"].get("required")
            for body in (b"[]", b"1", b'"text"', b"true", b"[{}]", *([] if may_be_left_out else [b"null", b""])):
                answer = await send(admin, method, addressed(path, furnished), body)
                faults.append(refused(answer, 422))
    all_good(faults)


async def test_what_is_no_text_is_refused_where_a_text_belongs(
    admin: httpx.AsyncClient, document: Document, furnished: Furnished
) -> None:
    faults = []
    for url, method, body, where, schema in every_field(document, furnished):
        if schema.get("type") == "string":
            for value in NO_TEXTS:
                raw = json.dumps(put(body, where, value)).encode()
                answer = await send(admin, method, url, raw)
                faults.append(refused(answer, 422, field=".".join(map(str, where))))
            longest = schema.get("maxLength")
            answer = await admin.request(method, url, json=put(body, where, "x" * ((longest or 50_000) + 1)))
            bounded = longest or schema.get("format") or "enum" in schema or "const" in schema
            faults.append(refused(answer, 422, field=".".join(map(str, where))) if bounded else never_ours(answer))
    all_good(faults)


async def test_what_is_no_quantity_is_refused_where_a_number_belongs(
    admin: httpx.AsyncClient, document: Document, furnished: Furnished
) -> None:
    faults = []
    for url, method, body, where, schema in every_field(document, furnished):
        if schema.get("type") != "integer":
            continue
        field = ".".join(map(str, where))
        for value in NO_INTEGERS:
            answer = await admin.request(method, url, json=put(body, where, value))
            faults.append(refused(answer, 422, field=field))
        for value in (0, -1, 10**9, 2**63, -(2**63) - 1, 10**30):
            answer = await admin.request(method, url, json=put(body, where, value))
            fits = schema.get("minimum", value) <= value <= schema.get("maximum", value)
            faults.append(never_ours(answer) if fits else refused(answer, 422, field=field))
    all_good(faults)


async def test_a_field_that_is_not_known_is_refused(
    admin: httpx.AsyncClient, document: Document, furnished: Furnished
) -> None:
    faults = []
    for method, path, _ in document.operations(*WRITING):
        if (schema := document.body(method, path)) is not None:
            url = addressed(path, furnished)
            for name in ("surprise", "$where", "__proto__", "isAdmin"):
                known = {} if method == "patch" else document.example(schema)
                answer = await admin.request(method, url, json={**known, name: 1})
                faults.append(refused(answer, 422, field=name))
    all_good(faults)


def every_field(
    document: Document, furnished: Furnished
) -> Iterator[tuple[str, str, Any, tuple[str | int, ...], Json]]:
    """Address, method, a body that fits, and a field of it."""
    for method, path, _ in document.operations(*WRITING):
        schema = document.body(method, path)
        if schema is not None:
            whole = document.example(schema)
            for where, part in document.fields(schema):
                body = {where[0]: whole[where[0]]} if method == "patch" else whole
                yield addressed(path, furnished), method, body, where, part


async def test_what_people_read_is_not_blank(
    admin: httpx.AsyncClient, document: Document, furnished: Furnished
) -> None:
    faults = []
    for url, method, body, where, _ in every_field(document, furnished):
        if where and where[-1] in ("name", "title", "reason"):
            answer = await admin.request(method, url, json=put(body, where, " \t\u00a0"))
            faults.append(refused(answer, 422, field=".".join(str(part) for part in where)))
    assert len(faults) >= 8
    all_good(faults)


def never_ours(answer: httpx.Response) -> str:
    """Empty unless the shop itself failed; a refusal is a problem."""
    if answer.is_success or answer.status_code == 304:
        return ""
    return refused(answer, *range(400, 500))


# Addresses

ODD = [
    "not-a-uuid", "1", "-1", "0" * 3000, "x" * 60_000, "%00", "a%00b", "%FF%FE", "%ED%A0%80", "%F0%9F%A6%86",
    "%2e%2e%2f", "' OR 1=1 --", "%24gt", "{%22$gt%22:%22%22}", "*", "%0d%0aX-Evil:%201", "%20",
    "00000000-0000-0000-0000-000000000000",
]  # fmt: skip


async def test_odd_addresses_are_never_a_fault(
    admin: httpx.AsyncClient, document: Document, furnished: Furnished
) -> None:
    faults = []
    for method, path, operation in document.operations():
        for parameter in operation.get("parameters", []):
            if parameter["in"] != "path":
                continue
            schema = document.body(method, path)
            body = {"json": document.example(schema)} if schema else {}
            for odd in ODD:
                url = addressed(path, furnished, **{parameter["name"]: odd})
                answer = await admin.request(method, url, **body)
                is_id = parameter["schema"].get("format") == "uuid"
                faults.append(refused(answer, 404, 422) if is_id else never_ours(answer))
                if "%00" in odd or "%FF" in odd or "%ED" in odd:
                    faults.append(refused(answer, 404, 422))
    all_good(faults)


async def test_odd_query_parameters_are_never_a_fault(
    admin: httpx.AsyncClient, document: Document, furnished: Furnished
) -> None:
    faults = []
    for method, path, operation in document.operations("get"):
        for parameter in operation.get("parameters", []):
            if parameter["in"] != "query":
                continue
            name, schema = parameter["name"], document.resolved(parameter["schema"])
            url = addressed(path, furnished)
            for odd in [*ODD[:3], *ODD[4:], "", "1.5", "true", "9" * 40, "1e400", "NaN", "2011-02-30", "x" * 9000]:
                answer = await admin.request(method, f"{url}?{name}={odd}")
                faults.append(never_ours(answer))
                if schema.get("type") == "integer" and odd not in ("1", "-1"):
                    faults.append(refused(answer, 422, field=name))
            faults.append(never_ours(await admin.request(method, f"{url}?{name}=1&{name}=2")))
            faults.append(never_ours(await admin.request(method, f"{url}?{name}[$gt]=")))
    assert len(faults) > 200
    all_good(faults)


async def test_attribute_filters_of_any_kind_are_never_a_fault(client: httpx.AsyncClient, furnished: Furnished) -> None:
    names = [
        "ram_gb",
        "ram_gb.gte",
        "ram_gb.nonsense",
        "$where",
        "a.b.c",
        "",
        ".",
        "color",
        "x" * 500,
        "ram_gb.$gt",
        "%00",
    ]
    faults = []
    for path in ("/products", "/search"):
        for name in names:
            for value in ("", "1", "1e999", "-0", "black", "{}", "x" * 5000, "%00", "9" * 400, "1.5", "٣", "1_0", " 1"):
                faults.append(never_ours(await client.get(f"{path}?category=things&attrs.{name}={value}")))
        many = "&".join(f"attrs.a{i}=1" for i in range(500))
        faults.append(refused(await client.get(f"{path}?{many}"), 422))
    all_good(faults)


# Cursors


async def test_a_cursor_that_was_cut_or_forged_opens_no_list(
    admin: httpx.AsyncClient,
    shopper: httpx.AsyncClient,
    sign_in: SignIn,
    document: Document,
    furnished: Furnished,
    shop: Shop,
) -> None:
    other = await sign_in()
    await new_token(shop, admin.user_id, "admin")  # type: ignore[attr-defined]
    lists, genuine, one = [], {}, {}
    bought = {"orderId": "", "provider": "sandbox", "paymentMethod": "card_ok"}
    made = await other.post("/orders", json={"items": [{"sku": "MUG", "qty": 1}]})
    await other.post("/payments", json=bought | {"orderId": made.json()["id"]})
    assert (await other.post("/products/MUG/reviews", json={"rating": 1, "title": "B", "body": "C"})).status_code == 201
    for name in ("one", "another"):
        assert (await admin.post("/api-keys", json={"name": name, "scopes": ["orders:read"]})).status_code == 201
    hooks = [
        (await admin.post("/webhook-endpoints", json={"url": "https://1.1.1.1/", "events": ["*"]})).json()["id"]
        for _ in range(2)
    ]
    for _ in range(2):
        assert (await admin.post(f"/webhook-endpoints/{hooks[0]}/test")).status_code == 202
    for word in ("mug", "cup"):
        assert (await admin.post("/search/synonyms", json={"words": [word, "beaker"]})).status_code == 201
        assert (await admin.post("/search/rules", json={"query": word, "pinned": ["MUG"]})).status_code == 201
    assert (await admin.put("/categories/others", json={"name": "Others"})).status_code == 201
    await sync.catch_up(shop)
    for _, path, operation in document.operations("get"):
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        if "cursor" in names:
            url = addressed(path.replace("/webhook-endpoints/{id}", f"/webhook-endpoints/{hooks[0]}"), furnished)
            one[url] = {"limit" if "limit" in names else "size": 1}
            first = await admin.get(url, params=one[url])
            lists.append(url)
            genuine[url] = first.json()["nextCursor"]
    assert len(lists) >= 5
    assert all(genuine.values()), genuine
    faults = []
    for url in lists:
        cursor = genuine[url]
        assert (await admin.get(url, params={**one[url], "cursor": cursor})).status_code == 200
        forged = [
            cursor[:-1], cursor[1:], cursor[: len(cursor) // 2], cursor + "A", cursor + "=", cursor.swapcase(),
            cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB"), "A" * len(cursor), "x", "", " ", "null", "%", "é",
            "🦆", "[]", cursor * 2, "A" * 512, *(genuine[u] for u in lists if u != url),
        ]  # fmt: skip
        for wrong in forged:
            faults.append(refused(await admin.get(url, params={**one[url], "cursor": wrong}), 422, field="cursor"))
    all_good(faults)
    mine = (await shopper.get("/orders", params={"limit": 1})).json()["nextCursor"]
    all_good([refused(await other.get("/orders", params={"cursor": mine}), 422, field="cursor")])


# Headers


async def test_odd_idempotency_keys_are_refused_or_kept(
    admin: httpx.AsyncClient, document: Document, furnished: Furnished
) -> None:
    faults, routes = [], 0
    for method, path, operation in document.operations(*WRITING):
        if not any(p["name"].lower() == "idempotency-key" for p in operation.get("parameters", [])):
            continue
        routes += 1
        url, schema = addressed(path, furnished), document.body(method, path)
        body = {"json": document.example(schema)} if schema else {}
        for key in (b"", b"k" * 256, b"k" * 5000):
            answer = await admin.request(method, url, **body, headers={b"Idempotency-Key": key})
            faults.append(refused(answer, 422, field="Idempotency-Key"))
        for key in (
            "ключ-é-🦆".encode(),
            b"k" * 255,
            b"'; DROP TABLE orders; --",
            b"\xff\xfe",
            b"{}",
            "é".encode() * 255,
        ):
            answers = [await admin.request(method, url, **body, headers={b"Idempotency-Key": key}) for _ in range(2)]
            faults += [never_ours(answer) for answer in answers]
            if "idempotent-replayed" in answers[1].headers:
                faults.append("" if answers[0].content == answers[1].content else f"{url}: another answer")
    assert routes >= 4
    all_good(faults)


ODD_HEADERS = ("Authorization", "X-Cart-Token", "X-Request-Id", "If-Match", "If-None-Match", "Content-Length", "Accept")


async def test_odd_headers_are_never_a_fault(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, furnished: Furnished
) -> None:
    odd = [
        b"", b"Bearer", b"Bearer  ", b"Bearer a.b.c", b"Basic YTpi", b"\xff\xfe", "🦆".encode(), b"x" * 20_000, b'"',
        b"*", b"W/", b'"",,"', b"Bearer " + b"." * 3000, b"a,b;c", "²".encode("latin-1"), b"-1", b"9" * 40,
        b"Bearer eyJhbGciOiJub25lIn0.e30.",
    ]  # fmt: skip
    faults = []
    for header, value in itertools.product(ODD_HEADERS, odd):
        who = client if header == "Authorization" else admin
        sent: Any = {header: value}
        faults.append(never_ours(await who.get("/products/MUG", headers=sent)))
        faults.append(never_ours(await client.get("/cart", headers=sent)))
        faults.append(never_ours(await who.patch("/products/MUG", headers=sent, json={"brand": "Clay & Co"})))
        faults.append(never_ours(await who.post("/cart/items", headers=sent, json={"sku": "MUG", "qty": 1})))
    all_good(faults)


async def test_a_webhook_of_anything_is_refused(client: httpx.AsyncClient) -> None:
    signatures: list[Any] = [
        None,
        b"",
        b"t=,v1=",
        b"t=1,v1=" + b"0" * 64,
        b"\xff",
        b"t=9999999999999999999,v1=a",
        b"t=1" * 999,
    ]
    faults = []
    for body, _ in NOT_READABLE.values():
        for signature in signatures:
            headers: Any = {} if signature is None else {"Sandbox-Signature": signature}
            faults.append(refused(await client.post("/webhooks/sandbox", content=body, headers=headers), 400))
    faults.append(refused(await client.post("/webhooks/sandbox", content=b"x" * (BODY_LIMIT + 1)), 413))
    faults.append(refused(await client.post("/webhooks/nobody", content=b"{}"), 404))
    all_good(faults)
