"""Every act of staff leaves its entry, with before and after, and nobody can take one away."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from floor import Floor, Json, Route, made, routes, walked
from quartet.access import store
from quartet.kernel.settings import Settings
from quartet.stores import open_stores
from quartet.stores.migrate import Migration, find, migrate
from quartet.stores.postgres import Postgres
from quartet.web import trail
from quartet.web.dependencies import Shop

Act = Callable[[Floor], Awaitable[tuple[str, Json | None]]]


async def _put_item(floor: Floor) -> tuple[str, Json | None]:
    return f"/inventory/{await floor.sku()}", {"name": "Renamed", "unitPriceCents": 900, "stock": 7}


async def _move(floor: Floor) -> tuple[str, Json | None]:
    return f"/inventory/{await floor.sku()}/movements", {"delta": 3, "reason": "received"}


async def _ship(floor: Floor) -> tuple[str, Json | None]:
    return f"/orders/{(await floor.payment())['orderId']}/ship", None


async def _deliver(floor: Floor) -> tuple[str, Json | None]:
    return f"/orders/{await floor.shipped()}/deliver", None


async def _refund(floor: Floor) -> tuple[str, Json | None]:
    return f"/orders/{(await floor.payment())['orderId']}/refunds", {"amountCents": 100}


async def _cancel(floor: Floor) -> tuple[str, Json | None]:
    return f"/orders/{await floor.order()}/cancel", None


async def _capture(floor: Floor) -> tuple[str, Json | None]:
    return f"/payments/{await floor.held()}/capture", None


async def _settle(floor: Floor) -> tuple[str, Json | None]:
    payment = (await floor.payment())["id"]
    async with floor.shop.stores.pg.once() as tx:
        await tx.execute(
            """INSERT INTO payment_contests (payment_id, provider_ref, reason, amount_cents, contested_at)
               VALUES ($1, 'du_1', 'dispute', 100, now())""",
            UUID(payment),
        )
    return f"/payments/{payment}/settle", {"note": "the bank was wrong", "contests": ["du_1"]}


async def _create_product(floor: Floor) -> tuple[str, Json | None]:
    body = {"sku": f"NEW-{uuid4().hex[:6]}", "name": "New", "category": await floor.category(), "priceCents": 100}
    return "/products", body


async def _replace_product(floor: Floor) -> tuple[str, Json | None]:
    sku = await floor.product()
    present = await made(floor.admin.get(f"/products/{sku}"))
    return f"/products/{sku}", {"name": "Replaced", "category": present["category"], "priceCents": 800}


async def _patch_product(floor: Floor) -> tuple[str, Json | None]:
    return f"/products/{await floor.product()}", {"description": "Holds tea."}


async def _delete_product(floor: Floor) -> tuple[str, Json | None]:
    return f"/products/{await floor.product()}", None


async def _put_category(_floor: Floor) -> tuple[str, Json | None]:
    return f"/categories/new-{uuid4().hex[:6]}", {"name": "New"}


async def _delete_category(floor: Floor) -> tuple[str, Json | None]:
    return f"/categories/{await floor.category()}", None


async def _give(floor: Floor) -> tuple[str, Json | None]:
    user_id = str(floor.shopper.user_id)  # type: ignore[attr-defined]
    return "/leaderboard/xp", {"userId": user_id, "xp": 5, "eventId": uuid4().hex}


async def _reindex(_floor: Floor) -> tuple[str, Json | None]:
    return "/sync/reindex", None


async def _replay(floor: Floor) -> tuple[str, Json | None]:
    async with floor.shop.stores.pg.tx() as tx:
        await tx.execute(
            "INSERT INTO dead_letters (pipeline, key, payload, reason) VALUES ('outbox', $1, $2, 'test')",
            str(uuid4()), {"topic": "user.erased", "key": "x", "payload": {}},
        )  # fmt: skip
    return "/sync/dead-letters/replay", None


async def _drop(floor: Floor) -> tuple[str, Json | None]:
    async with floor.shop.stores.pg.tx() as tx:
        letter = await tx.fetchval(
            "INSERT INTO dead_letters (pipeline, key, reason) VALUES ('outbox', $1, 'test') RETURNING id", str(uuid4())
        )
    return f"/sync/dead-letters/{letter}", None


async def _create_key(_floor: Floor) -> tuple[str, Json | None]:
    return "/api-keys", {"name": "till", "scopes": ["orders:read"]}


async def _revoke_key(floor: Floor) -> tuple[str, Json | None]:
    body = {"name": "till", "scopes": ["orders:read"]}
    return f"/api-keys/{(await made(floor.admin.post('/api-keys', json=body)))['id']}", None


async def _set_roles(floor: Floor) -> tuple[str, Json | None]:
    return f"/users/{floor.shopper.user_id}/roles", {"roles": ["staff"]}  # type: ignore[attr-defined]


async def _rebuild(_floor: Floor) -> tuple[str, Json | None]:
    return "/leaderboard/rebuild", None


async def _endpoint(floor: Floor) -> str:
    body = {"url": "https://1.1.1.1/hooks", "events": ["*"]}
    return f"/webhook-endpoints/{(await made(floor.staff.post('/webhook-endpoints', json=body)))['id']}"


async def _create_endpoint(_floor: Floor) -> tuple[str, Json | None]:
    return "/webhook-endpoints", {"url": "https://1.1.1.1/hooks", "events": ["order.placed"]}


async def _change_endpoint(floor: Floor) -> tuple[str, Json | None]:
    return await _endpoint(floor), {"events": ["order.placed"]}


async def _remove_endpoint(floor: Floor) -> tuple[str, Json | None]:
    return await _endpoint(floor), None


async def _rotate_secret(floor: Floor) -> tuple[str, Json | None]:
    return f"{await _endpoint(floor)}/rotate-secret", None


async def _test_endpoint(floor: Floor) -> tuple[str, Json | None]:
    return f"{await _endpoint(floor)}/test", None


async def _redeliver(floor: Floor) -> tuple[str, Json | None]:
    path = await _endpoint(floor)
    return f"{path}/deliveries/{(await made(floor.staff.post(f'{path}/test')))['id']}/redeliver", None


async def _add_synonyms(_floor: Floor) -> tuple[str, Json | None]:
    return "/search/synonyms", {"words": ["sofa", "couch"]}


async def _drop_synonyms(floor: Floor) -> tuple[str, Json | None]:
    added = await made(floor.staff.post("/search/synonyms", json={"words": ["sofa"], "means": ["couch"]}))
    return f"/search/synonyms/{added['id']}", None


async def _put_rule(floor: Floor) -> tuple[str, Json | None]:
    return "/search/rules", {"query": "gift", "pinned": [await floor.product()]}


async def _drop_rule(floor: Floor) -> tuple[str, Json | None]:
    rule = await made(floor.staff.post("/search/rules", json={"query": "rope", "hidden": [await floor.product()]}))
    return f"/search/rules/{rule['id']}", None


async def _set_ranking(_floor: Floor) -> tuple[str, Json | None]:
    return "/search/ranking", {"mostBoost": 0.5, "leastUnits": 2, "days": 30}


# Every route that staff alone may use to change something, what its entry is called, and how to bring the act about.
ACTS: dict[Route, tuple[str, Act]] = {
    ("PUT", "/inventory/{sku}"): ("inventory.put", _put_item),
    ("POST", "/inventory/{sku}/movements"): ("inventory.move", _move),
    ("POST", "/orders/{id}/ship"): ("order.ship", _ship),
    ("POST", "/orders/{id}/deliver"): ("order.deliver", _deliver),
    ("POST", "/orders/{id}/refunds"): ("order.refund", _refund),
    ("POST", "/orders/{id}/cancel"): ("order.cancel", _cancel),
    ("POST", "/payments/{id}/capture"): ("payment.capture", _capture),
    ("POST", "/payments/{id}/settle"): ("payment.settle", _settle),
    ("POST", "/products"): ("product.create", _create_product),
    ("PUT", "/products/{sku}"): ("product.change", _replace_product),
    ("PATCH", "/products/{sku}"): ("product.change", _patch_product),
    ("DELETE", "/products/{sku}"): ("product.delete", _delete_product),
    ("PUT", "/categories/{slug}"): ("category.put", _put_category),
    ("DELETE", "/categories/{slug}"): ("category.delete", _delete_category),
    ("POST", "/leaderboard/xp"): ("leaderboard.give", _give),
    ("POST", "/leaderboard/rebuild"): ("leaderboard.rebuild", _rebuild),
    ("POST", "/sync/reindex"): ("sync.reindex", _reindex),
    ("POST", "/sync/dead-letters/replay"): ("sync.replay", _replay),
    ("POST", "/api-keys"): ("api-key.create", _create_key),
    ("DELETE", "/api-keys/{id}"): ("api-key.revoke", _revoke_key),
    ("PATCH", "/users/{id}/roles"): ("user.roles", _set_roles),
    ("DELETE", "/sync/dead-letters/{id}"): ("sync.drop", _drop),
    ("POST", "/search/synonyms"): ("synonyms.add", _add_synonyms),
    ("DELETE", "/search/synonyms/{id}"): ("synonyms.drop", _drop_synonyms),
    ("POST", "/search/rules"): ("search-rule.put", _put_rule),
    ("DELETE", "/search/rules/{id}"): ("search-rule.drop", _drop_rule),
    ("PUT", "/search/ranking"): ("search-ranking.set", _set_ranking),
    ("POST", "/webhook-endpoints"): ("webhook.create", _create_endpoint),
    ("PATCH", "/webhook-endpoints/{id}"): ("webhook.change", _change_endpoint),
    ("DELETE", "/webhook-endpoints/{id}"): ("webhook.remove", _remove_endpoint),
    ("POST", "/webhook-endpoints/{id}/rotate-secret"): ("webhook.rotate", _rotate_secret),
    ("POST", "/webhook-endpoints/{id}/test"): ("webhook.test", _test_endpoint),
    ("POST", "/webhook-endpoints/{id}/deliveries/{deliveryId}/redeliver"): ("webhook.redeliver", _redeliver),
}
# Not staff's alone; theirs too.
SHARED: set[Route] = {("POST", "/orders/{id}/cancel")}


def test_every_act_of_staff_is_listed_here(floor: Floor) -> None:
    acts = {route for route, who in routes(floor.app) if who in ("staff", "admin") and route[0] != "GET"}
    assert acts == ACTS.keys() - SHARED


async def test_every_act_of_staff_leaves_an_entry(floor: Floor) -> None:
    for route, (action, prepare) in ACTS.items():
        path, body = await prepare(floor)
        request_id = f"act-{uuid4().hex[:8]}"
        answer = await floor.admin.request(route[0], path, json=body, headers={"X-Request-Id": request_id})
        assert answer.is_success, (route, answer.text)
        entries = (await made(floor.admin.get("/audit-log", params={"limit": 100})))["items"]
        mine = [entry for entry in entries if entry["requestId"] == request_id]
        assert [entry["action"] for entry in mine if entry["action"] == action] == [action], (route, mine)
        (entry,) = (entry for entry in mine if entry["action"] == action)
        assert entry["actor"] == str(floor.admin.user_id)  # type: ignore[attr-defined]
        assert entry["before"] != entry["after"], route
        subject = f"{entry['subject']['kind']}:{entry['subject']['id']}"
        assert entry in (await made(floor.admin.get("/audit-log", params={"subject": subject})))["items"]


async def test_a_cancellation_says_what_had_gone_back_before_and_what_goes_with_it(floor: Floor) -> None:
    payment = await floor.payment()
    order = f"/orders/{payment['orderId']}"
    await made(floor.staff.post(f"{order}/refunds", json={"amountCents": 1}))
    await made(floor.staff.post(f"{order}/cancel"))
    (entry,) = await _entries(floor.shop, "order.cancel")
    assert entry.before == {"status": "confirmed", "refundedCents": 1}
    assert entry.after == {"status": "cancelled", "amountCents": payment["amountCents"] - 1}


async def test_a_refused_act_leaves_no_entry_and_a_failed_one_leaves_two(floor: Floor) -> None:
    order_id = await floor.order()
    assert (await floor.staff.post(f"/orders/{order_id}/ship")).status_code == 409
    sku = await floor.sku()
    assert (await floor.staff.post(f"/inventory/{sku}/movements", json={"delta": -1000, "reason": "x"})).is_error
    assert not await _entries(floor.shop, "order.ship")
    assert not await _entries(floor.shop, "inventory.move")
    with pytest.raises(RuntimeError):
        async with trail.attempt(floor.shop, "somebody", "product.change", "product", "X", after={"name": "X"}):
            raise RuntimeError("the store went away")
    assert [entry.after for entry in await _entries(floor.shop, "product.change")] == [{"name": "X"}]
    assert [entry.after for entry in await _entries(floor.shop, "product.change.failed")] == [
        {"reason": "RuntimeError"}
    ]


async def test_a_repeated_act_is_one_act(floor: Floor) -> None:
    sku, headers = await floor.sku(), {"Idempotency-Key": "once"}
    for _ in range(3):
        body = {"delta": 1, "reason": "received"}
        await made(floor.staff.post(f"/inventory/{sku}/movements", json=body, headers=headers))
    (entry,) = await _entries(floor.shop, "inventory.move")
    assert entry.before["stock"] == 100


async def test_before_and_after_are_what_the_act_saw(floor: Floor) -> None:
    sku = await floor.sku(5)
    await made(floor.staff.put(f"/inventory/{sku}", json={"name": "Mug", "unitPriceCents": 900, "stock": 8}))
    (entry,) = await _entries(floor.shop, "inventory.put")
    assert (entry.before["unitPriceCents"], entry.after["unitPriceCents"]) == (500, 900)
    assert entry.after["updatedAt"].endswith("Z")
    assert not [name for name in entry.after if "_" in name]
    assert (entry.before["stock"], entry.after["stock"]) == (5, 8)


async def test_no_secret_gets_into_an_entry(floor: Floor) -> None:
    held = {"name": "kept", "password_hash": "x", "nested": [{"accessToken": "y", "webhookSecret": "z", "ok": 1}]}
    async with floor.shop.stores.pg.tx() as tx:
        await trail.record(tx, "somebody", "test.act", "thing", 1, after=held)
    (entry,) = await _entries(floor.shop, "test.act")
    assert entry.after == {"name": "kept", "nested": [{"ok": 1}]}


async def test_the_log_is_read_by_page_and_by_filter(floor: Floor) -> None:
    skus = [await floor.sku() for _ in range(5)]
    for client in (floor.staff, floor.admin):
        for sku in skus:
            await made(client.post(f"/inventory/{sku}/movements", json={"delta": 1, "reason": "received"}))
    seen = await walked(floor.admin, "/audit-log", 3, action="inventory.move")
    assert [entry["subject"]["id"] for entry in seen] == [*reversed(skus), *reversed(skus)]
    mine = {"actor": str(floor.staff.user_id), "subject": f"sku:{skus[0]}"}  # type: ignore[attr-defined]
    assert len((await made(floor.admin.get("/audit-log", params=mine)))["items"]) == 1
    assert not (await made(floor.admin.get("/audit-log", params={"to": "2020-01-01"})))["items"]
    assert (await floor.admin.get("/audit-log", params={"subject": "order"})).status_code == 422
    assert (await floor.staff.get("/audit-log")).status_code == 403


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (store.Filter(), "audit_log_at"),
        (store.Filter(actor="someone 7", action="act.1"), "audit_log_actor"),
        (store.Filter(actor="someone 7", subject=("thing", "70")), "audit_log_subject"),
        (store.Filter(action="act.1"), "audit_log_action"),
    ],
)
async def test_each_filter_has_its_index(shop: Shop, wanted: store.Filter, index: str) -> None:
    plans: list[str] = []

    class Explains:
        async def fetch(self, sql: str, *args: Any) -> list[Any]:
            async with shop.stores.pg.tx() as tx:
                await tx.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                plans.extend(row[0] for row in await tx.fetch("EXPLAIN " + sql, *args))
            return []

    async with shop.stores.pg.tx() as tx:
        await tx.execute(
            """INSERT INTO audit_log (actor, action, subject_kind, subject_id, request_id)
               SELECT 'someone ' || n % 500, 'act.' || n % 40, 'thing', n % 900, '' FROM generate_series(1, 20000) n"""
        )
        await tx.execute("ANALYZE audit_log")
    span = (store.NEWEST.at.replace(year=2000), store.NEWEST.at)
    await store.entries(Explains(), wanted, since=span[0], until=span[1], limit=20)  # type: ignore[arg-type]
    assert index in "\n".join(plans), plans


async def test_what_is_long_ago_is_not_looked_for_among_all_that_came_since() -> None:
    """The index is entered at the end of the time, or at the entry shown last."""
    begins: list[tuple[Any, ...]] = []

    class Notes:
        async def fetch(self, sql: str, *args: Any) -> list[Any]:
            begins.append(args[:2])
            return []

    since, until, shown = (store.NEWEST.at.replace(year=year) for year in (2020, 2022, 2021))
    for before in (store.NEWEST, store.Before(shown, 7)):
        await store.entries(Notes(), store.Filter(), since=since, until=until, before=before, limit=20)  # type: ignore[arg-type]
    assert begins == [(until, 0), (shown, 7)]


# Append-only, by grant and by trigger


@pytest.mark.parametrize(
    "sql", ["UPDATE audit_log SET actor = 'nobody'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
async def test_not_even_the_owner_changes_the_log_by_mistake(settings: Settings, sql: str) -> None:
    owner = await asyncpg.connect(settings.postgres_url)
    try:
        with pytest.raises(asyncpg.PostgresError, match="only ever added to"):
            await owner.execute(sql)
    finally:
        await owner.close()


async def test_the_shop_sells_as_a_role_that_can_only_add_to_its_logs(floor: Floor, settings: Settings) -> None:
    sku = await floor.sku()
    name = f"clerk_{uuid4().hex[:8]}"
    owner = await asyncpg.connect(settings.postgres_url)
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'for this test' IN ROLE quartet_app")
    place = urlsplit(settings.postgres_url or "")
    url = place._replace(netloc=f"{name}:for%20this%20test@{place.hostname}:{place.port}").geturl()
    try:
        async with open_stores(settings.model_copy(update={"postgres_url": url})) as stores:
            floor.app.state.shop = Shop(settings, stores, mail=floor.shop.mail)
            await _sell(floor, sku)
        clerk = await asyncpg.connect(url)
        try:
            assert await clerk.fetchval("SELECT count(*) FROM audit_log") > 0
            for table in ("audit_log", "inventory_movements"):
                for sql in (f"UPDATE {table} SET actor = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table}"):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
                        await clerk.execute(sql)
            for sql in (
                "ALTER TABLE audit_log DISABLE TRIGGER ALL", "DROP TABLE audit_log", "TRUNCATE orders",
                "DELETE FROM schema_migrations", "CREATE TABLE mine (id int)", "SET ROLE quartet", "DROP TABLE orders",
            ):  # fmt: skip
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await clerk.execute(sql)
            # What a later migration makes is covered too.
            await owner.execute("CREATE TABLE fresh (id INT GENERATED ALWAYS AS IDENTITY, word TEXT)")
            await clerk.execute("INSERT INTO fresh (word) VALUES ('hello')")
        finally:
            await clerk.close()
    finally:
        floor.app.state.shop = floor.shop
        await owner.execute(f"DROP ROLE {name}")
        await owner.close()


async def test_only_the_owner_migrates_and_whoever_needs_not_may_ask(settings: Settings) -> None:
    """The shop's own role, whose URL is in the environment of every process."""
    name = f"clerk_{uuid4().hex[:8]}"
    owner = await asyncpg.connect(settings.postgres_url)
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'for this test' IN ROLE quartet_app")
    place = urlsplit(settings.postgres_url or "")
    pg = Postgres(place._replace(netloc=f"{name}:for%20this%20test@{place.hostname}:{place.port}").geturl(), size=1)
    try:
        assert await migrate(pg) == []
        newer = [*find(), Migration("9998", "shelves", "CREATE TABLE shelves (id int)")]
        changed = [replace(m, version="app_role@other") if m.name == "app_role" else m for m in find()]
        for missing in (newer, changed):
            with pytest.raises(ValueError, match="is for the database's owner"):
                await migrate(pg, missing)
        await owner.execute("DROP TABLE schema_migrations")
        with pytest.raises(ValueError, match="is for the database's owner"):
            await migrate(pg)
    finally:
        await pg.close()
        await owner.execute(f"DROP ROLE {name}")
        await owner.close()


async def _sell(floor: Floor, sku: str) -> None:
    """A whole purchase, from sign-up to refund."""
    person = {"email": "ada@example.com", "password": "correct horse battery"}
    await made(floor.guest.post("/users", json=person))
    signed = await made(floor.guest.post("/sessions", json=person))
    headers = {"Authorization": f"Bearer {signed['accessToken']}"}
    order = await made(floor.guest.post("/orders", json={"items": [{"sku": sku, "qty": 2}]}, headers=headers))
    payment = {"orderId": order["id"], "provider": "sandbox", "paymentMethod": "card_ok"}
    await made(floor.guest.post("/payments", json=payment, headers=headers | {"Idempotency-Key": "k"}))
    await made(floor.staff.post(f"/inventory/{sku}/movements", json={"delta": 5, "reason": "received"}))
    await made(floor.staff.post(f"/orders/{order['id']}/ship"))
    await made(floor.staff.post(f"/orders/{order['id']}/refunds", json={"restock": True}))
    await made(floor.guest.delete("/sessions/current", headers=headers))


async def test_a_database_whose_owner_may_not_create_roles_is_migrated_all_the_same(settings: Settings) -> None:
    """In a cluster without the role: here one of another name."""
    name = f"owner_{uuid4().hex[:8]}"
    admin = await asyncpg.connect(settings.postgres_url)
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'for this test'")
    await admin.execute(f"CREATE DATABASE {name} OWNER {name}")
    place = urlsplit(settings.postgres_url or "")
    url = place._replace(netloc=f"{name}:for%20this%20test@{place.hostname}:{place.port}", path=f"/{name}").geturl()
    pg = Postgres(url, size=1)
    try:
        absent = [
            m if m.name != "app_role" else type(m)(m.version, m.name, m.up.replace("quartet_app", f"{name}_app"))
            for m in find()
        ]
        assert "app_role" in (await migrate(pg, absent) or ())
        said: list[str] = []
        owner = await asyncpg.connect(url)
        owner.add_log_listener(lambda _, message: said.append(message.message))
        await owner.execute(absent[[m.name for m in absent].index("app_role")].up)
        await owner.close()
        assert any("may not create the role" in line for line in said), said
    finally:
        await pg.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"DROP ROLE {name}")
        await admin.close()


async def _entries(shop: Shop, action: str) -> list[Any]:
    async with shop.stores.pg.read() as read:
        span = (store.NEWEST.at.replace(year=2000), store.NEWEST.at)
        return await store.entries(read, store.Filter(action=action), since=span[0], until=span[1], limit=100)
