"""`quartet check`: silent over a sound shop, and names what is wrong when something is."""

from dataclasses import replace
from typing import Any

import pytest

from quartet import audit, sync
from quartet.audit import service
from quartet.demo import seed
from quartet.stores import mongo, postgres
from quartet.stores.postgres import Postgres
from quartet.web.dependencies import Shop


@pytest.fixture
async def sound(shop: Shop) -> Shop:
    """The demo shop, with search caught up and a product in the cache."""
    await seed(shop)
    await sync.catch_up(shop)
    await shop.stores.search.refresh(shop.settings.search_alias)
    return shop


async def _violations(shop: Shop) -> list[tuple[str, str]]:
    await shop.stores.search.refresh(shop.settings.search_alias)
    report = await audit.check(shop, patience=0)
    return [(found.rule, found.finding) for found in report.violations]


async def test_a_sound_shop_has_nothing_to_be_named(sound: Shop) -> None:
    report = await audit.check(sound, patience=0)
    assert report.violations == ()
    assert report.checked["search_equals_catalog"] > 90
    assert report.checked["ledger_equals_rows"] > 90
    assert set(report.checked) == set(audit.RULES)


async def test_a_rule_may_take_longer_than_any_other_call(sound: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large shop it goes through millions of rows."""
    monkeypatch.setattr(postgres, "CALL_SECONDS", 1.0)
    slow = "SELECT 'all' AS subject, 'found' AS finding FROM pg_sleep(1.5)"
    monkeypatch.setitem(service.q.texts, "nothing_overdue", slow)
    pg = Postgres(sound.settings.postgres_url or "")
    report = await audit.check(replace(sound, stores=replace(sound.stores, pg=pg)), patience=0)
    await pg.close()
    assert [(found.rule, found.finding) for found in report.violations] == [("nothing_overdue", "found")]


async def _by_hand(shop: Shop, sql: str) -> None:
    """As somebody with a database client might."""
    async with shop.stores.pg.tx() as tx:
        await tx.execute("SET LOCAL session_replication_role = replica")
        await tx.execute(sql)


async def test_stock_changed_behind_the_ledgers_back_is_named(sound: Shop) -> None:
    await _by_hand(sound, "UPDATE inventory SET stock = stock + 5, reserved = 3 WHERE sku = 'LAPTOP-001'")
    found = dict(await _violations(sound))
    assert "pending orders hold 0" in found["reserved_is_held"]
    assert "reserved 3" in found["ledger_equals_rows"]
    assert "copies_equal_inventory" in found


async def test_a_price_copy_that_did_not_follow_is_named(sound: Shop) -> None:
    products = sound.stores.mongo.collection("products")
    await products.update_one({"sku": "LAPTOP-001"}, {"$set": {"priceCents": 1}})
    found = dict(await _violations(sound))
    assert found["copies_equal_inventory"].startswith("LAPTOP-001: priceCents is 1, should be ")


async def _laptop(shop: Shop) -> dict[str, Any]:
    found: mongo.Document | None = await shop.stores.mongo.collection("products").find_one({"sku": "LAPTOP-001"})
    assert found is not None
    return found


async def test_search_that_misses_changes_is_named(sound: Shop) -> None:
    alias = sound.settings.search_alias
    laptop = await _laptop(sound)
    await sound.stores.search.bulk(alias, [({"delete": {"_id": laptop["_id"]}}, None)])
    assert ("search_equals_catalog", "LAPTOP-001 is not in search") in await _violations(sound)
    ghost = {"id": "zzz", "sku": "GHOST-1", "name": "ghost"}
    await sound.stores.search.bulk(alias, [({"index": {"_id": "zzz"}}, ghost)])
    assert ("search_equals_catalog", "GHOST-1 is deleted, yet in search") in await _violations(sound)


async def test_a_draft_in_search_is_named(sound: Shop) -> None:
    await sound.stores.mongo.collection("products").update_one({"sku": "LAPTOP-001"}, {"$set": {"publishedAt": None}})
    assert ("search_equals_catalog", "LAPTOP-001 is a draft, yet in search") in await _violations(sound)


async def test_a_cached_product_older_than_its_document_is_named(sound: Shop) -> None:
    laptop = await _laptop(sound)
    await sound.stores.redis.call("SET", "product:LAPTOP-001", f"{laptop['_id']} 0 {{}}")
    await sound.stores.redis.call("SET", "product:gone", "no-such-id 7 {}")
    found = [finding for rule, finding in await _violations(sound) if rule == "cache_is_not_older"]
    assert any("product:LAPTOP-001 holds version 0" in finding for finding in found)
    assert any("product:gone holds version 7, the product is deleted" in finding for finding in found)


@pytest.mark.parametrize("quick", [False, True])
async def test_what_is_wrong_in_copies_search_and_cache_is_named_and_mended(sound: Shop, quick: bool) -> None:
    alias, laptop = sound.settings.search_alias, await _laptop(sound)
    await sound.stores.search.bulk(alias, [({"delete": {"_id": laptop["_id"]}}, None)])
    await sound.stores.search.bulk(alias, [({"index": {"_id": "zzz"}}, {"id": "zzz", "sku": "GHOST-1"})])
    await sound.stores.search.refresh(alias)
    await sound.stores.redis.call("SET", "product:LAPTOP-001", f"{laptop['_id']} 0 {{}}")
    await sound.stores.redis.call("SET", "product:gone", "no-such-id 7 {}")
    await _by_hand(sound, "UPDATE inventory SET unit_price_cents = 123 WHERE sku = 'LAPTOP-002'")
    only_told = await audit.check(sound, patience=0, quick=quick)
    assert (len(only_told.violations), only_told.mended) == (6, ())
    report = await audit.check(sound, patience=0, quick=quick, repair=True)
    assert {(found.rule, found.finding) for found in report.mended} == {
        (found.rule, found.finding) for found in only_told.violations
    }
    assert report.violations == ()
    assert (await audit.check(sound, patience=0)).violations == ()


async def test_what_a_repair_cannot_mend_is_left_over(sound: Shop) -> None:
    laptop = await _laptop(sound)
    ratings = {"avg": "very good", "count": 1}
    await sound.stores.mongo.collection("products").update_one({"_id": laptop["_id"]}, {"$set": {"ratings": ratings}})
    await _by_hand(sound, "UPDATE inventory SET reserved = 3, stock = 9 WHERE sku = 'LAPTOP-002'")
    report = await audit.check(sound, patience=0, repair=True)
    left = {(found.rule, found.subject) for found in report.violations}
    assert ("search_equals_catalog", laptop["_id"]) in left
    assert ("reserved_is_held", "LAPTOP-002") in left
    assert [found.finding.split(":")[0] for found in report.mended if found.rule == "copies_equal_inventory"] == [
        "LAPTOP-002"
    ]


async def test_orders_whose_money_does_not_add_up_are_named(sound: Shop) -> None:
    await _by_hand(
        sound,
        """
        INSERT INTO users (id, email) VALUES ('00000000-0000-0000-0000-000000000001', 'odd@example.com');
        INSERT INTO orders (id, user_id, status, total_cents, captured_cents, refunded_cents, currency, expires_at)
        VALUES
            ('00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-000000000001', 'confirmed', 500, 500, 100,
             'GBP', NULL),
            ('00000000-0000-0000-0000-00000000000b', '00000000-0000-0000-0000-000000000001', 'pending', 0, 0, 0, 'GBP',
             now() - interval '1 hour');
        INSERT INTO order_items (order_id, sku, quantity, unit_price_cents, product_name, refunded_qty) VALUES
            ('00000000-0000-0000-0000-00000000000a', 'LAPTOP-001', 1, 400, 'x', 1);
        INSERT INTO order_history (order_id, from_status, to_status) VALUES
            ('00000000-0000-0000-0000-00000000000a', 'pending', 'cancelled');
        INSERT INTO payments (order_id, provider, provider_ref, amount_cents, status, refunded_cents) VALUES
            ('00000000-0000-0000-0000-00000000000a', 'x', 'y', 400, 'succeeded', 100)
        """,
    )
    found = {rule for rule, _ in await _violations(sound)}
    assert found >= {
        "totals_equal_lines",
        "payments_equal_orders",
        "refunds_equal_orders",
        "refunds_equal_payments",
        "pieces_equal_refunds",
        "history_leads_to_status",
        "nothing_overdue",
    }
