"""The catalog as staff fill it and shoppers browse it."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from unicodedata import normalize
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from showcase import LAPTOPS, SHIRTS, at, fields, hours, laptop, load, make_categories, put, skus, tee, thinkpad

from floor import walked
from quartet import catalog, inventory
from quartet.catalog import store
from quartet.catalog.pages import SORTS, list_products
from quartet.kernel.errors import Invalid, StoreUnavailable
from quartet.web.dependencies import Shop
from quartet.web.paging import PageQuery

Json = dict[str, Any]
Client = httpx.AsyncClient


@pytest.fixture(autouse=True)
async def categories(shop: Shop) -> None:
    await make_categories(shop)


# One product


async def test_a_new_product_is_shown_by_everything_that_names_it(staff: Client, client: Client) -> None:
    made = await staff.post("/products", json=tee())
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/products/TEE"
    for reference in ("TEE", "everyday-tee", "TEE-RED-M", "TEE-BLACK-L"):
        shown = await client.get(f"/products/{reference}")
        assert (shown.status_code, shown.json()) == (200, made.json())
        assert shown.headers["etag"] == made.headers["etag"]
    assert (await client.get("/products/tee")).status_code == 404


async def test_a_product_carries_the_briefs_fields_and_its_price(staff: Client, app: FastAPI) -> None:
    (product,) = await put(staff, thinkpad())
    assert product.keys() == {
        "id", "sku", "name", "slug", "category", "brand", "description", "images", "attrs", "variants", "priceCents",
        "currency", "tags", "ratings", "available", "publishedAt", "updatedAt",
    }  # fmt: skip
    assert product["slug"] == "thinkpad-x1-carbon-gen-12"
    assert (product["priceCents"], product["currency"], product["available"]) == (164900, "GBP", 0)
    document = app.openapi()
    schema = {"$ref": "#/components/schemas/ProductShape", "components": document["components"]}
    Draft202012Validator(schema).validate(product)


async def test_a_product_with_variants_shows_the_lowest_price_and_all_pieces(shop: Shop, staff: Client) -> None:
    async with shop.stores.pg.tx() as tx:
        for sku, pieces in (("TEE-BLACK-L", 3), ("TEE-RED-M", 4)):
            await inventory.put(tx, sku, "a shirt", 1, currency="GBP", actor="test", stock=pieces)
    (product,) = await put(staff, tee())
    assert (product["priceCents"], product["available"]) == (1700, 7)
    assert [v["available"] for v in product["variants"]] == [3, 4]
    async with shop.stores.pg.read() as read:
        rows = await inventory.prices(read, ["TEE", "TEE-BLACK-L", "TEE-RED-M"])
    assert {sku: (row.name, row.unit_price_cents, row.stock) for sku, row in rows.items()} == {
        "TEE-BLACK-L": ("Everyday Tee, black, L", 1900, 3),
        "TEE-RED-M": ("Everyday Tee, red, M", 1700, 4),
    }


async def test_a_slug_made_from_the_name_gives_way_where_it_is_taken(staff: Client) -> None:
    first, second, third = await put(staff, thinkpad(), thinkpad(sku="LAPTOP-002"), thinkpad(sku="LAPTOP.002"))
    assert first["slug"] == "thinkpad-x1-carbon-gen-12"
    assert second["slug"] == "thinkpad-x1-carbon-gen-12-laptop-002"
    assert third["slug"] == f"thinkpad-x1-carbon-gen-12-{third['id'][-12:]}"


TAKEN: list[tuple[Json, str, list[str] | None]] = [
    ({"sku": "OTHER", "slug": "everyday-tee"}, "slug-taken", None),
    ({"sku": "TEE"}, "sku-taken", ["TEE"]),
    ({"sku": "TEE-RED-M"}, "sku-taken", ["TEE-RED-M"]),
    ({"sku": "everyday-tee", "slug": "other"}, "sku-taken", ["everyday-tee"]),
    ({"sku": "OTHER", "variants": [{"sku": "TEE", "attrs": {"ram_gb": 8}}]}, "sku-taken", ["TEE"]),
    (
        {
            "sku": "OTHER",
            "variants": [{"sku": "NEW", "attrs": {"ram_gb": 8}}, {"sku": "TEE-RED-M", "attrs": {"ram_gb": 9}}],
        },
        "sku-taken",
        ["TEE-RED-M"],
    ),
]


async def test_what_names_one_product_names_no_other(staff: Client) -> None:
    await put(staff, tee())
    for second, slug, taken in TAKEN:
        refused = await staff.post("/products", json=thinkpad(**second))
        assert (refused.status_code, refused.json()["type"]) == (409, f"/problems/{slug}")
        assert refused.json().get("skus") == taken
        # What the refused one had claimed is free again.
        await put(staff, thinkpad(sku="NEW", slug="other"))
        await staff.delete("/products/NEW")


async def test_of_many_who_want_one_slug_at_once_one_has_it(staff: Client) -> None:
    answers = await asyncio.gather(
        *(staff.post("/products", json=thinkpad(sku=f"L{i}", slug="the-one")) for i in range(12))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 11


async def test_names_given_up_can_be_taken_again(staff: Client, client: Client) -> None:
    await put(staff, tee())
    moved = await staff.patch("/products/TEE", json={"slug": "plain-tee", "variants": tee()["variants"][:1]})
    assert moved.status_code == 200, moved.text
    await put(staff, thinkpad(sku="TEE-RED-M", slug="everyday-tee"))
    assert (await staff.delete("/products/TEE")).status_code == 204
    for reference in ("TEE", "plain-tee", "TEE-BLACK-L"):
        assert (await client.get(f"/products/{reference}")).status_code == 404
    await put(staff, tee(slug="plain-tee", variants=tee()["variants"][:1]))


@pytest.mark.parametrize("write", ["insert", "replace"])
async def test_a_product_whose_write_was_not_heard_to_succeed_keeps_its_names(
    shop: Shop, staff: Client, client: Client, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    await make_categories(shop)
    if write == "replace":
        await put(staff, tee(slug="before"))
    do = getattr(store, write)

    async def cut(*args: object) -> None:
        await do(*args)
        raise StoreUnavailable("mongodb")

    monkeypatch.setattr(store, write, cut)
    sent = tee(slug="after")
    path = "/products" if write == "insert" else "/products/TEE"
    answer = await staff.request("POST" if write == "insert" else "PUT", path, json=sent)
    assert answer.status_code == 503
    assert (await client.get("/products/after")).json()["sku"] == "TEE"
    monkeypatch.undo()
    again = await staff.request("POST" if write == "insert" else "PUT", path, json=sent)
    assert again.status_code == (409 if write == "insert" else 200)


async def test_a_write_that_was_never_sent_keeps_no_name(
    shop: Shop, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_categories(shop)

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("postgres")

    monkeypatch.setattr(inventory, "put", away)
    assert (await staff.post("/products", json=tee())).status_code == 503
    monkeypatch.undo()
    assert (await staff.post("/products", json=tee())).status_code == 201


async def test_a_claim_that_a_crash_left_is_taken_over_in_time(shop: Shop) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    mongo = shop.stores.mongo
    assert not (await store.claim(mongo, "died", ["SKU"], now)).taken
    assert (await store.claim(mongo, "other", ["FREE", "SKU"], now + hours(0.01))).taken == ("SKU",)
    assert not (await store.claim(mongo, "third", ["FREE"], now)).taken  # the refused write kept nothing
    assert not (await store.claim(mongo, "other", ["SKU"], now + hours(1))).taken
    assert await store.product_ids_of_skus(mongo, ["SKU"]) == {"SKU": "other"}


# Prices


async def test_a_price_is_a_command_to_inventory(shop: Shop, staff: Client) -> None:
    await put(staff, thinkpad())
    changed = await staff.patch("/products/LAPTOP-001", json={"priceCents": 150000, "name": "ThinkPad"})
    assert changed.json()["priceCents"] == 150000
    async with shop.stores.pg.read() as read:
        row = await inventory.get(read, "LAPTOP-001")
    assert (row.name, row.unit_price_cents, row.currency, row.category) == ("ThinkPad", 150000, "GBP", "laptops")


async def test_a_price_that_only_repeats_the_copy_is_none(shop: Shop, staff: Client) -> None:
    """Inventory raised the price and the copy lags: neither a new description nor the page sent back lowers it."""
    (product,) = await put(staff, thinkpad())
    async with shop.stores.pg.tx() as tx:
        await inventory.put(tx, "LAPTOP-001", product["name"], 170000, currency="GBP", actor="test", stock=5)
    await staff.patch("/products/LAPTOP-001", json={"description": "New."})
    await staff.put("/products/LAPTOP-001", json=product)
    renamed = await staff.patch("/products/LAPTOP-001", json={"name": "ThinkPad"})
    assert (renamed.json()["priceCents"], renamed.json()["available"]) == (170000, 5)
    async with shop.stores.pg.read() as read:
        row = await inventory.get(read, "LAPTOP-001")
    assert (row.name, row.unit_price_cents, row.stock) == ("ThinkPad", 170000, 5)


async def test_without_a_price_inventorys_holds_and_without_that_it_is_asked_for(shop: Shop, staff: Client) -> None:
    async with shop.stores.pg.tx() as tx:
        await inventory.put(tx, "LAPTOP-001", "a laptop", 99, currency="GBP", actor="test", stock=2)
    (product,) = await put(staff, thinkpad(priceCents=None))
    assert (product["priceCents"], product["available"]) == (99, 2)
    refused = await staff.post("/products", json=thinkpad(sku="LAPTOP-002", priceCents=None))
    assert (refused.status_code, fields(refused)) == (422, ["priceCents"])
    refused = await staff.post("/products", json=tee(variants=[{"sku": "A", "attrs": {"color": "x", "size": "S"}}]))
    assert (refused.status_code, fields(refused)) == (422, ["variants.0.priceCents"])
    await put(staff, thinkpad(sku="LAPTOP-002"))  # nothing of the refused one is left


async def test_copies_follow_inventory_and_an_old_reading_never_wins(shop: Shop, staff: Client) -> None:
    await put(staff, tee())
    (old,) = await catalog.by_ids(shop.stores.mongo, [(await store.by_sku(shop.stores.mongo, "TEE") or {})["_id"]])
    stale = catalog.with_levels(old, {sku: catalog.Level(1, 1) for sku in catalog.sellable_skus(old)})
    async with shop.stores.pg.tx() as tx:
        await inventory.put(tx, "TEE-RED-M", "red", 1500, currency="GBP", actor="test", stock=9)
    new = catalog.with_levels(old, {"TEE-RED-M": catalog.Level(1500, 9)})
    (fresh,) = (await catalog.refresh_copies(shop, [(old, new)])).documents
    assert (fresh["priceCents"], fresh["available"], fresh["version"]) == (1500, 9, 2)
    assert (await catalog.refresh_copies(shop, [(old, stale)])).documents == [fresh]
    assert (await catalog.refresh_copies(shop, [])).documents == []


async def test_copies_of_several_are_refreshed_though_one_is_changed_meanwhile(
    shop: Shop, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And read again together: not each by itself."""
    by_ids, reads = store.by_ids, []

    async def counted(mongo: Any, ids: Any) -> Any:
        reads.append(set(ids))
        return await by_ids(mongo, ids)

    for sku in ("A", "B", "C"):
        await put(staff, thinkpad(sku=sku, slug=f"laptop-{sku.lower()}"))
    read = [await store.by_sku(shop.stores.mongo, sku) or {} for sku in ("A", "B", "C")]
    async with shop.stores.pg.tx() as tx:
        for sku in ("A", "B", "C"):
            await inventory.move(tx, sku, 4, "received", actor="test")
    assert (await staff.patch("/products/B", json={"name": "Quicker"})).status_code == 200
    levels = {sku: catalog.Level(164900, 4) for sku in ("A", "B", "C")}
    monkeypatch.setattr(store, "by_ids", counted)
    copied = await catalog.refresh_copies(shop, [(old, catalog.with_levels(old, levels)) for old in read])
    assert not copied.ours
    assert reads == [{old["_id"] for old in read}]
    present = [await store.by_sku(shop.stores.mongo, sku) or {} for sku in ("A", "B", "C")]
    assert copied.documents == present
    assert [(p["available"], p["version"]) for p in present] == [(4, 2)] * 3
    assert present[1]["name"] == "Quicker"


# Changing


async def test_fifty_patches_at_once_all_take_effect(staff: Client) -> None:
    await put(staff, thinkpad(tags=[], attrs={"ram_gb": 1}))
    names = [f"Client {i}" for i in range(25)]
    answers = await asyncio.gather(
        *(staff.patch("/products/LAPTOP-001", json={"attrs": {"ram_gb": i + 2}}) for i in range(25)),
        *(staff.patch("/products/LAPTOP-001", json={"brand": name}) for name in names),
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["etag"] for answer in answers}) == 50
    product = (await staff.get("/products/LAPTOP-001")).json()
    assert product["brand"] in names
    assert product["attrs"]["ram_gb"] > 1


async def test_writers_in_different_processes_lose_nothing_either(shop: Shop, staff: Client) -> None:
    """Without the turns that writers of one process take: only the version stands between them."""
    await put(staff, thinkpad())
    found = await store.by_sku(shop.stores.mongo, "LAPTOP-001")
    assert found is not None

    async def raise_ram() -> None:
        while True:
            now = await store.by_sku(shop.stores.mongo, "LAPTOP-001")
            assert now is not None
            attrs = {**now["attrs"], "ram_gb": now["attrs"]["ram_gb"] + 1}
            if await store.replace(
                shop.stores.mongo, {**now, "attrs": attrs, "version": now["version"] + 1}, now["version"]
            ):
                return

    await asyncio.gather(*(raise_ram() for _ in range(10)))
    now = await store.by_sku(shop.stores.mongo, "LAPTOP-001")
    assert now is not None
    assert (now["attrs"]["ram_gb"], now["version"]) == (42, 11)


async def test_if_match_lets_only_the_first_of_two_editors_through(staff: Client) -> None:
    await put(staff, thinkpad())
    seen = (await staff.get("/products/LAPTOP-001")).headers["etag"]
    first, second = await asyncio.gather(
        *(
            staff.patch("/products/LAPTOP-001", json={"brand": brand}, headers={"If-Match": seen})
            for brand in ("One", "Two")
        )
    )
    assert sorted((first.status_code, second.status_code)) == [200, 412]
    for call in (
        staff.put("/products/LAPTOP-001", json=thinkpad(), headers={"If-Match": seen}),
        staff.delete("/products/LAPTOP-001", headers={"If-Match": f'"x", {seen}'}),
    ):
        assert (await call).status_code == 412
    winner = next(answer for answer in (first, second) if answer.status_code == 200)
    assert (
        await staff.delete("/products/LAPTOP-001", headers={"If-Match": f'"x", {winner.headers["etag"]}'})
    ).status_code == 204


async def test_several_lines_of_if_match_are_one_list(staff: Client) -> None:
    (product,) = await put(staff, thinkpad())
    seen = (await staff.get(f"/products/{product['sku']}")).headers["etag"]
    lines = [("If-Match", '"x"'), ("If-Match", seen)]
    changed = await staff.patch("/products/LAPTOP-001", json={"brand": "One"}, headers=lines)
    assert changed.status_code == 200, changed.text
    assert (await staff.patch("/products/LAPTOP-001", json={"brand": "Two"}, headers=lines)).status_code == 412


async def test_what_was_got_can_be_put_back_and_changes_nothing(staff: Client) -> None:
    await put(staff, tee())
    got = await staff.get("/products/TEE")
    back = await staff.put("/products/TEE", json=got.json())
    assert (back.status_code, back.json(), back.headers["etag"]) == (200, got.json(), got.headers["etag"])


async def test_put_replaces_all_but_slug_publication_and_price(staff: Client) -> None:
    (product,) = await put(staff, thinkpad())
    answer = await staff.put(
        "/products/LAPTOP-001", json={"name": "Bare", "category": "laptops", "attrs": {"ram_gb": 8}}
    )
    assert answer.status_code == 200, answer.text
    kept = (
        "id",
        "sku",
        "slug",
        "publishedAt",
        "priceCents",
        "currency",
        "category",
        "available",
        "ratings",
        "variants",
    )
    expected = {name: product[name] for name in kept}
    expected |= {"name": "Bare", "attrs": {"ram_gb": 8}, "brand": None, "description": "", "images": [], "tags": []}
    assert {name: value for name, value in answer.json().items() if name != "updatedAt"} == expected


async def test_a_patch_takes_an_attribute_away(staff: Client) -> None:
    await put(staff, thinkpad())
    patched = await staff.patch(
        "/products/LAPTOP-001",
        content=b'{"attrs": {"cpu": null, "touch": true}, "brand": null}',
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert patched.status_code == 200, patched.text
    assert (patched.json()["attrs"], patched.json()["brand"]) == (
        {"ram_gb": 32, "weight_kg": 1.12, "touch": True}, None
    )  # fmt: skip


# Publication


async def test_drafts_and_products_of_the_future_are_staffs_alone(
    staff: Client, client: Client, shopper: Client
) -> None:
    later = (datetime.now(UTC) + hours(1)).isoformat()
    await put(staff, thinkpad(publishedAt=None), thinkpad(sku="LAPTOP-002", publishedAt=later))
    for sku in ("LAPTOP-001", "LAPTOP-002"):
        assert (await client.get(f"/products/{sku}")).status_code == 404
        assert (await shopper.get(f"/products/{sku}")).status_code == 404
        assert (await client.get(f"/products/{sku}/reviews")).status_code == 404
        seen = await staff.get(f"/products/{sku}")
        assert (seen.status_code, seen.headers["cache-control"]) == (200, "private, no-store")
    assert await skus(client, "") == []
    await staff.patch("/products/LAPTOP-001", json={"publishedAt": "2024-02-01T10:00:00+02:00"})
    assert (await client.get("/products/LAPTOP-001")).json()["publishedAt"] == "2024-02-01T08:00:00Z"
    assert await skus(client, "") == ["LAPTOP-001"]
    await staff.patch("/products/LAPTOP-001", json={"publishedAt": None})
    assert (await client.get("/products/LAPTOP-001")).status_code == 404


# Lists


async def test_the_briefs_query_finds_laptops_with_32_gb_by_rating(shop: Shop, client: Client) -> None:
    rated = {"A": (16, 4.9), "B": (32, 4.1), "C": (64, 4.7), "D": (32, 4.8), "E": (31, 5.0)}
    await load(
        shop,
        *(laptop(sku, attrs={"ram_gb": ram}, ratings=catalog.Ratings(avg, 10)) for sku, (ram, avg) in rated.items()),
        laptop("DRAFT", attrs={"ram_gb": 128}, published_at=None, ratings=catalog.Ratings(5.0, 10)),
    )
    assert await skus(client, "category=laptops&attrs.ram_gb.gte=32&sort=-rating") == ["D", "C", "B"]
    # And as the brief writes it, to MongoDB itself.
    found = await shop.stores.mongo.collection("products").find(
        {"category": "laptops", "attrs.ram_gb": {"$gte": 32}, "publishedAt": {"$lte": datetime.now(UTC)}},
        sort=[("ratings.avg", -1)],
        limit=20,
    )
    assert [product["sku"] for product in found] == ["D", "C", "B"]


async def test_attributes_filter_by_the_type_that_the_category_gives_them(shop: Shop, client: Client) -> None:
    await load(
        shop,
        laptop("A", attrs={"ram_gb": 8, "weight_kg": 1.5, "touch": True, "cpu": "$gt", "ports": ["usb", "hdmi"]}),
        laptop("B", attrs={"ram_gb": 16, "weight_kg": 2, "touch": False, "cpu": "i7", "ports": ["usb"]}),
        laptop("C", attrs={"ram_gb": 32, "weight_kg": 2.5, "cpu": "i9 'x' \"y\""}),
    )
    queries = {
        "attrs.ram_gb=16": "B",
        "attrs.ram_gb.eq=16": "B",
        "attrs.ram_gb.gt=8&attrs.ram_gb.lt=32": "B",
        "attrs.ram_gb.gte=8&attrs.ram_gb.lte=16": "AB",
        "attrs.weight_kg=2": "B",
        "attrs.weight_kg.gte=2": "BC",
        "attrs.weight_kg.lt=2.0": "A",
        "attrs.touch=true": "A",
        "attrs.touch=false": "B",
        "attrs.cpu=%24gt": "A",
        "attrs.cpu=i9%20%27x%27%20%22y%22": "C",
        "attrs.cpu=i": "",
        "attrs.ports=usb": "AB",
        "attrs.ports=hdmi": "A",
    }
    found = {query: "".join(await skus(client, f"category=laptops&sort=name&{query}")) for query in queries}
    assert found == queries


async def test_several_attributes_hold_of_one_and_the_same_variant(staff: Client, client: Client) -> None:
    await put(staff, tee(), tee(sku="PLAIN", slug="plain", attrs={"material": "wool", "color": "black", "size": "M"},
                                variants=[], priceCents=1))  # fmt: skip
    assert await skus(client, "category=shirts&attrs.color=black&attrs.size=L") == ["TEE"]
    assert await skus(client, "category=shirts&attrs.color=black&attrs.size=M") == ["PLAIN"]
    assert await skus(client, "category=shirts&attrs.color=black&sort=price") == ["PLAIN", "TEE"]
    assert await skus(client, "category=shirts&attrs.color=red&attrs.material=cotton") == ["TEE"]
    assert await skus(client, "attrs.color=red") == ["TEE"]


async def test_a_category_includes_those_below_it(shop: Shop, client: Client) -> None:
    for slug, parent in (("goods", None), ("electronics", "goods"), ("empty", None)):
        body = {**LAPTOPS, "name": slug, "parent": parent}
        await catalog.put_category(shop, catalog.Category(slug=slug, **body))
    await catalog.put_category(shop, catalog.Category(slug="laptops", **{**LAPTOPS, "parent": "electronics"}))
    await load(shop, laptop("A"), laptop("B", category="electronics"))
    assert await skus(client, "category=goods&sort=name") == ["A", "B"]
    assert await skus(client, "category=laptops") == ["A"]
    assert await skus(client, "category=goods&attrs.ram_gb=16&sort=-name") == ["B", "A"]
    assert await skus(client, "category=empty") == []
    assert await skus(client, "category=unheard-of") == []


async def test_letters_with_marks_are_found_in_either_spelling(staff: Client, client: Client) -> None:
    together = {"brand": "Café", "tag": "größe", "attrs.cpu": "é"}
    apart = {name: normalize("NFD", text) for name, text in together.items()}
    assert apart != together
    for sku, spelling in (("ONE", together), ("TWO", apart)):
        attrs = {"ram_gb": 8, "cpu": spelling["attrs.cpu"]}
        body = thinkpad(sku=sku, slug=sku.lower(), brand=spelling["brand"], tags=[spelling["tag"]], attrs=attrs)
        (product,) = await put(staff, body)
        patched = await staff.patch(f"/products/{sku}", json={"brand": spelling["brand"]})
        assert product["brand"] == patched.json()["brand"] == "Café"
    for spelling in (together, apart):
        for name, text in spelling.items():
            asked = {name: text, "category": "laptops", "sort": "name"}
            found = (await client.get("/products", params=asked)).json()["items"]
            assert sorted(item["sku"] for item in found) == ["ONE", "TWO"], asked


async def test_blanks_around_a_name_a_brand_or_a_tag_are_cut_off(staff: Client, client: Client) -> None:
    (made,) = await put(staff, thinkpad(name=" ThinkPad\n", brand="Lenovo ", tags=["\tlight", "light office "]))
    patched = (await staff.patch(f"/products/{made['sku']}", json={"brand": "\u00a0Lenovo"})).json()
    for product in (made, patched):
        assert (product["name"], product["brand"], product["tags"]) == ("ThinkPad", "Lenovo", ["light", "light office"])
    assert await skus(client, "brand=Lenovo&tag=light") == [made["sku"]]
    for blank in ({"name": " "}, {"brand": "\u00a0"}, {"tags": ["\n"]}):
        assert (await staff.patch(f"/products/{made['sku']}", json=blank)).status_code == 422


async def test_a_sku_does_not_end_in_a_blank(staff: Client) -> None:
    for body in (thinkpad(sku="A "), thinkpad(sku="A", variants=[{"sku": "A 1 ", "attrs": {}, "priceCents": 1}])):
        answer = await staff.post("/products", json=body)
        assert answer.status_code == 422, answer.text
    assert (await staff.put("/inventory/A%20", json={"name": "A", "unitPriceCents": 1})).status_code == 422
    assert (await staff.put("/inventory/A%20B", json={"name": "A", "unitPriceCents": 1})).status_code == 201


async def test_brand_and_tag_filter_as_they_are_written(shop: Shop, client: Client) -> None:
    await load(shop, laptop("A", brand="Lenovo", tags=["office", "light"]), laptop("B", brand="Dell", tags=["office"]))
    assert await skus(client, "brand=Lenovo") == ["A"]
    assert await skus(client, "brand=.*") == []
    assert await skus(client, "tag=light") == ["A"]
    assert await skus(client, "tag=office&sort=name") == ["A", "B"]
    assert await skus(client, "tag=offic") == []
    assert await skus(client, "tag=" + quote('{"$gt": ""}')) == []


ORDERS: dict[str, Any] = {
    "rating": lambda p: p["ratings"]["avg"],
    "price": lambda p: p["priceCents"],
    "newest": lambda p: p["publishedAt"],
    "oldest": lambda p: p["publishedAt"],
    "name": lambda p: p["name"],
}


async def test_pages_show_every_product_once_and_in_order(shop: Shop, client: Client) -> None:
    drafts = [
        laptop(
            f"L{i:02}",
            name=f"Laptop {i % 4}",
            slug=f"l-{i}",
            ratings=catalog.Ratings((i % 3) / 2, 2),
            published_at=datetime(2025, 1, 1 + i % 5, tzinfo=UTC),
        )
        for i in range(17)
    ]
    for price in (100, 200, 300):
        await load(shop, *drafts[price // 100 - 1 :: 3], price=price)
    for sort in SORTS:
        shown = await walked(client, "/products", 4, category="laptops", sort=sort)
        assert sorted(item["sku"] for item in shown) == [draft.sku for draft in drafts]
        order = [ORDERS[sort.removeprefix("-")](item) for item in shown]
        assert order == sorted(order, reverse=sort in ("-rating", "-price", "newest", "-newest", "-name")), sort


async def test_a_cursor_opens_only_the_list_that_gave_it(shop: Shop, client: Client) -> None:
    await load(shop, laptop("A"), laptop("B"))
    cursor = (await client.get("/products?sort=name&limit=1")).json()["nextCursor"]
    assert await skus(client, f"sort=name&limit=1&cursor={cursor}") == ["B"]
    others = (f"sort=price&cursor={cursor}", f"sort=name&category=laptops&cursor={cursor}")
    for query in (*others, f"sort=name&cursor={cursor[:-2]}", f"sort=name&cursor=x{cursor}"):
        answer = await client.get(f"/products?{query}")
        assert (answer.status_code, fields(answer)) == (422, ["cursor"])


UNKNOWN: list[tuple[str, str]] = [
    ("category=laptops&attrs.wings=2", "attrs.wings"),
    ("category=laptops&attrs.color=black", "attrs.color"),
    ("category=unheard-of&attrs.ram_gb=2", "attrs.ram_gb"),
    ("attrs.wings=2", "attrs.wings"),
    ("attrs.=2", "attrs."),
    ("attrs.ram_gb%27=2", "attrs.ram_gb'"),
    ("attrs.$where=2", "attrs.$where"),
    ("attrs.ram_gb.gte=x", "attrs.ram_gb.gte"),
    ("attrs.ram_gb=1.5", "attrs.ram_gb"),
    ("attrs.ram_gb=99999999999999999999", "attrs.ram_gb"),
    ("attrs.weight_kg=nan", "attrs.weight_kg"),
    ("attrs.weight_kg=inf", "attrs.weight_kg"),
    ("attrs.touch=1", "attrs.touch"),
    ("attrs.cpu.gte=i7", "attrs.cpu.gte"),
    ("attrs.ports.gt=1", "attrs.ports.gt"),
    ("attrs.ram_gb.regex=1", "attrs.ram_gb.regex"),
    ("attrs.ram_gb.gte.lt=1", "attrs.ram_gb.gte.lt"),
    ("attrs.ram_gb=1&attrs.ram_gb=2", "attrs.ram_gb"),
    ("sort=cheapest", "sort"),
    ("sort=name&sort=price", "sort"),
    ("limit=0", "limit"),
    ("limit=101", "limit"),
    ("limit=many", "limit"),
    ("cursor=abc", "cursor"),
    ("category=", "category"),
    ("brand=" + "x" * 201, "brand"),
    ("brand=a%00b", "brand"),
    ("colour=black", "colour"),
    ("category[$ne]=x", "category[$ne]"),
    ("&".join(f"attrs.a{i}=1" for i in range(11)), "attrs"),
]


async def test_a_list_refuses_what_it_does_not_know(client: Client) -> None:
    told = {}
    for query, _ in UNKNOWN:
        answer = await client.get(f"/products?{query}")
        told[query] = (answer.status_code, fields(answer))
    assert told == {query: (422, [field]) for query, field in UNKNOWN}


# Bad products


BAD: list[tuple[Json, str]] = [
    ({"attrs": {}}, "attrs.ram_gb"),
    ({"attrs": {"ram_gb": "32"}}, "attrs.ram_gb"),
    ({"attrs": {"ram_gb": True}}, "attrs.ram_gb"),
    ({"attrs": {"ram_gb": 0}}, "attrs.ram_gb"),
    ({"attrs": {"ram_gb": 8, "wings": 2}}, "attrs.wings"),
    ({"attrs": {"ram_gb": 8, "cpu": "x" * 41}}, "attrs.cpu"),
    ({"attrs": {"ram_gb": {"$gt": ""}}}, "attrs.ram_gb"),
    ({"attrs": {"ram_gb": 8, "$where": "1"}}, "attrs.$where"),
    ({"attrs": {"ram_gb": 8, "a.b": 1}}, "attrs.a.b"),
    ({"attrs": {"ram_gb": 2**63}}, "attrs"),
    ({"attrs": {"ram_gb": 8, "ports": ["usb", 1]}}, "attrs.ports"),
    ({"attrs": {"ram_gb": 8, "ports": ["usb", {"$in": []}]}}, "attrs.ports.1"),
    ({"attrs": {"ram_gb": 8, "ports": ["x"] * 101}}, "attrs.ports"),
    ({"attrs": []}, "attrs"),
    ({"category": "unheard-of"}, "category"),
    ({"category": {"$gt": ""}}, "category"),
    ({"category": None}, "category"),
    ({"sku": ""}, "sku"),
    ({"sku": "a/b"}, "sku"),
    ({"sku": "a "}, "sku"),
    ({"sku": "x" * 65}, "sku"),
    ({"sku": {"$ne": None}}, "sku"),
    ({"sku": None}, "sku"),
    ({"name": ""}, "name"),
    ({"name": "x" * 201}, "name"),
    ({"name": 5}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"slug": "Not A Slug"}, "slug"),
    ({"slug": "a--b"}, "slug"),
    ({"brand": ""}, "brand"),
    ({"description": "x" * 20_001}, "description"),
    ({"images": [{"url": "javascript:alert(1)"}]}, "images.0.url"),
    ({"images": [{"url": "//evil.test/x.png"}]}, "images.0.url"),
    ({"images": [{"url": "/x.png", "isPrimary": "yes"}]}, "images.0.isPrimary"),
    ({"images": [{"url": "/x.png", "width": 5}]}, "images.0.width"),
    ({"images": {}}, "images"),
    ({"priceCents": -1}, "priceCents"),
    ({"priceCents": 1.5}, "priceCents"),
    ({"priceCents": "5"}, "priceCents"),
    ({"priceCents": True}, "priceCents"),
    ({"priceCents": 10**12}, "priceCents"),
    ({"priceCents": 10**40}, "priceCents"),
    ({"currency": "USD"}, "currency"),
    ({"tags": ["ok", ""]}, "tags.1"),
    ({"tags": "laptop"}, "tags"),
    ({"tags": ["x"] * 51}, "tags"),
    ({"publishedAt": 5}, "publishedAt"),
    ({"publishedAt": "yesterday"}, "publishedAt"),
    ({"publishedAt": "1577836800"}, "publishedAt"),
    ({"publishedAt": "2026-01-31T12:00:00"}, "publishedAt"),
    ({"publishedAt": "0001-01-01T00:00:00+14:00"}, "publishedAt"),
    ({"publishedAt": "9999-12-31T23:59:59-14:00"}, "publishedAt"),
    ({"variants": [{"sku": "V", "attrs": {"ram_gb": 8}}] * 2}, "variants.1.sku"),
    ({"variants": [{"sku": "V", "attrs": {"ram_gb": "big"}}]}, "variants.0.attrs.ram_gb"),
    ({"variants": [{"sku": "V", "attrs": {"ports": ["usb"]}}]}, "variants.0.attrs.ports"),
    ({"variants": [{"sku": "V", "price": 1}]}, "variants.0.price"),
    ({"variants": [{"attrs": {}}]}, "variants.0.sku"),
    ({"variants": [7]}, "variants.0"),
    ({"version": 7}, "version"),
    ({"stock": 7}, "stock"),
    ({"price_cents": 7}, "price_cents"),
]


async def test_a_bad_product_is_refused_naming_the_field(staff: Client, client: Client) -> None:
    wrong = []
    for changes, field in BAD:
        answer = await staff.post("/products", json=thinkpad(**changes))
        if answer.status_code != 422 or field not in fields(answer):
            wrong.append((changes, answer.text))
    assert await skus(client, "") == []
    await put(staff, thinkpad())
    for changes, field in BAD:
        if changes == {"sku": None}:
            continue  # the path has it
        body = {name: value for name, value in thinkpad(**changes).items() if name != "sku" or "sku" in changes}
        answer = await staff.put("/products/LAPTOP-001", json=body)
        if answer.status_code != 422 or field not in fields(answer):
            wrong.append((changes, answer.text))
    assert wrong == []


PATCHES: list[tuple[Any, int, str]] = [
    ({"id": "another"}, 422, "id"),
    ({"ratings": {"avg": 5, "count": 9}}, 422, "ratings"),
    ({"available": 9}, 422, "available"),
    ({"available": None}, 422, "available"),
    ({"updatedAt": "2020-01-01T00:00:00Z"}, 422, "updatedAt"),
    ({"currency": "USD"}, 422, "currency"),
    ({"sku": "OTHER"}, 422, "sku"),
    ({"name": None}, 422, "name"),
    ({"attrs": {"ram_gb": None}}, 422, "attrs.ram_gb"),
    ({"attrs": None}, 422, "attrs.ram_gb"),
    ({"version": 3}, 422, "version"),
    ({"$set": {"name": "x"}}, 422, "$set"),
    ({"category": "shirts"}, 422, "attrs.color"),
    ([], 422, "body"),
    ("x", 422, "body"),
    ({"ratings": {"avg": 0.0, "count": 0}, "available": 0, "currency": "GBP"}, 200, ""),
]


async def test_a_patch_is_held_to_the_same_rules(staff: Client) -> None:
    (product,) = await put(staff, thinkpad())
    wrong = []
    for patch, status, field in PATCHES:
        answer = await staff.patch("/products/LAPTOP-001", json=patch)
        if answer.status_code != status or (field and field not in fields(answer)):
            wrong.append((patch, answer.status_code, answer.text))
    assert wrong == []
    assert (await staff.get("/products/LAPTOP-001")).json() == product


async def test_the_price_of_what_comes_in_variants_is_changed_in_these(staff: Client) -> None:
    (product,) = await put(staff, tee())
    refused = await staff.patch("/products/TEE", json={"priceCents": 1500})
    assert (refused.status_code, fields(refused)) == (422, ["priceCents"])
    assert (await staff.patch("/products/TEE", json={"priceCents": product["priceCents"]})).json() == product
    cheaper = [{**variant, "priceCents": 1500} for variant in product["variants"]]
    changed = (await staff.patch("/products/TEE", json={"priceCents": 1500, "variants": cheaper})).json()
    assert (changed["priceCents"], [v["priceCents"] for v in changed["variants"]]) == (1500, [1500, 1500])


async def test_a_variant_that_a_patch_names_without_a_price_keeps_its_own(shop: Shop, staff: Client) -> None:
    await put(staff, tee())
    bare = [{"sku": variant["sku"], "attrs": variant["attrs"]} for variant in tee()["variants"]]
    new = {"sku": "TEE-RED-S", "attrs": {"color": "red", "size": "S"}}
    patched = await staff.patch("/products/TEE", json={"variants": [*bare, new]})
    assert {v["sku"]: v["priceCents"] for v in patched.json()["variants"]} == {
        "TEE-BLACK-L": 1900,
        "TEE-RED-M": 1700,
        "TEE-RED-S": 1700,
    }
    async with shop.stores.pg.read() as read:
        assert (await inventory.get(read, "TEE-BLACK-L")).unit_price_cents == 1900
    patched = await staff.patch("/products/TEE", json={"variants": bare, "priceCents": 1500})
    assert {v["priceCents"] for v in patched.json()["variants"]} == {1500}


async def test_what_variants_replace_is_held_to_the_schema_too(staff: Client) -> None:
    refused = await staff.post("/products", json=tee(attrs={**tee()["attrs"], "size": "XXXL"}))
    assert (refused.status_code, fields(refused)) == (422, ["attrs.size"])


async def test_each_thing_that_is_wrong_is_told_once(staff: Client) -> None:
    refused = await staff.post("/products", json=tee(variants=[], attrs={}, priceCents=1900))
    assert sorted(fields(refused)) == ["attrs.color", "attrs.material", "attrs.size"]


async def test_bodies_have_bounds(staff: Client) -> None:
    big = thinkpad(description="x" * 19_000, images=[{"url": "/" + "y" * 1900, "alt": ""}] * 50)
    assert (await staff.post("/products", json=big)).status_code == 201
    assert (await staff.post("/products", content=b'"' + b"x" * 2**20 + b'"')).status_code in (413, 415)
    deep = b'{"attrs":' + b'{"a":' * 1000 + b"1" + b"}" * 1001
    headers = {"Content-Type": "application/json"}
    assert (await staff.post("/products", content=deep, headers=headers)).status_code == 400
    nested: Json = {}
    for _ in range(14):
        nested = {"a": nested}
    answer = await staff.post("/products", json=thinkpad(sku="D", attrs=nested))
    assert (answer.status_code, fields(answer)) == (422, ["attrs"])
    for content in (b"", b"{", b"[1", b'"\\ud800"', b"\xff"):
        assert (await staff.post("/products", content=content, headers=headers)).status_code in (400, 422)


async def test_what_is_not_there_is_not_found(staff: Client, client: Client) -> None:
    for reference in ("NOPE", "nope", "a b", "$ne", quote("{}"), "x" * 300, "лампа"):
        assert (await client.get(f"/products/{reference}")).status_code in (404, 422)
    for answer in (
        await staff.put("/products/NOPE", json=thinkpad(sku="NOPE")),
        await staff.patch("/products/NOPE", json={"name": "x"}),
        await staff.delete("/products/NOPE"),
        await staff.get("/products/NOPE/reviews"),
        await staff.get("/categories/nope"),
        await staff.delete("/categories/nope"),
    ):
        assert answer.status_code == 404
    await put(staff, tee())
    assert (await staff.delete("/products/TEE-RED-M")).status_code == 404  # a variant is not the product
    assert (await client.get("/products/TEE")).status_code == 200


# Categories


async def test_a_category_is_made_listed_changed_and_deleted(staff: Client, client: Client) -> None:
    body = {"name": "Lamps", "parent": None, "attrs": {"type": "object", "properties": {"watt": {"type": "number"}}}}
    made = await staff.put("/categories/lamps", json=body)
    assert (made.status_code, made.json()) == (201, {"slug": "lamps", **body})
    assert (await staff.put("/categories/lamps", json=made.json() | {"name": "Light"})).status_code == 200
    listed = (await client.get("/categories")).json()
    assert [category["slug"] for category in listed["items"]] == ["lamps", "laptops", "shirts"]
    assert (await client.get("/categories/lamps")).json() == {"slug": "lamps", **body, "name": "Light"}
    await put(staff, thinkpad(category="lamps", attrs={"watt": 3}))
    in_use = await staff.delete("/categories/lamps")
    assert (in_use.status_code, in_use.json()["type"]) == (409, "/problems/category-in-use")
    await staff.delete("/products/LAPTOP-001")
    assert (await staff.delete("/categories/lamps")).status_code == 204
    assert (await client.get("/categories/lamps")).status_code == 404


async def test_categories_come_in_pages_where_a_limit_is_given(client: Client) -> None:
    whole = (await client.get("/categories")).json()
    first = (await client.get("/categories", params={"limit": 1})).json()
    rest = (await client.get("/categories", params={"limit": 1, "cursor": first["nextCursor"]})).json()
    assert first["items"] + rest["items"] == whole["items"]
    assert (len(first["items"]), rest["nextCursor"], whole["nextCursor"]) == (1, None, None)
    for bad in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"cursor": "x"}):
        refused = await client.get("/categories", params=bad)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, *bad)


async def test_categories_form_a_tree(staff: Client) -> None:
    for slug, parent, status in (
        ("a", None, 201), ("b", "a", 201), ("a", "b", 422), ("a", "a", 422), ("c", "nope", 422), ("c", "b", 201)
    ):  # fmt: skip
        answer = await staff.put(f"/categories/{slug}", json={"name": slug, "parent": parent})
        assert answer.status_code == status, answer.text
        if status == 422:
            assert fields(answer) == ["parent"]
    assert (await staff.delete("/categories/b")).status_code == 409


async def test_categories_put_below_each_other_at_once_can_be_parted(shop: Shop, staff: Client) -> None:
    for slug, parent in (("a", None), ("b", "a"), ("a", "b")):
        await store.put_category(shop.stores.mongo, catalog.Category(slug, slug, parent, {"type": "object"}))
    await put(staff, thinkpad())
    assert (await staff.put("/products/LAPTOP-001", json=thinkpad(category="a"))).is_success
    assert await skus(staff, "category=b") == ["LAPTOP-001"]
    for slug, parent, status in (
        ("c", "a", 201), ("a", "b", 422), ("a", "c", 422), ("b", None, 200), ("a", "b", 200), ("b", "c", 422)
    ):  # fmt: skip
        answer = await staff.put(f"/categories/{slug}", json={"name": slug, "parent": parent})
        assert answer.status_code == status, answer.text


async def test_a_schema_is_of_an_object_said_or_not(staff: Client) -> None:
    for schema in ({}, {"properties": {"size": {"type": "string"}}}):
        answer = await staff.put("/categories/plain", json={"name": "Plain", "attrs": schema})
        assert answer.is_success, answer.text
        assert answer.json()["attrs"] == {"type": "object"} | schema
        assert (await staff.get("/categories/plain")).json() == answer.json()


async def test_an_attribute_has_the_type_of_the_values_that_it_may_have(staff: Client, client: Client) -> None:
    shades, sizes = {"enum": ["red", "blue", None]}, {"enum": [1, 1.5, 2]}
    attributes = {"shade": shades, "size": sizes, "lit": {"const": True}, "for": {"type": "array", "items": shades}}
    body = {"name": "Lamps", "attrs": {"type": "object", "properties": attributes}}
    assert (await staff.put("/categories/lamps", json=body)).status_code == 201
    lamp = {"shade": "red", "size": 1.5, "lit": True, "for": ["blue"]}
    await put(staff, thinkpad(category="lamps", attrs=lamp))
    other = await staff.post("/products", json=thinkpad(sku="OTHER", category="lamps", attrs={"shade": "green"}))
    assert (other.status_code, fields(other)) == (422, ["attrs.shade"])
    for asked in ("attrs.shade=red", "attrs.size.gte=1.5", "attrs.lit=true", "attrs.for=blue"):
        assert await skus(client, f"category=lamps&{asked}") == ["LAPTOP-001"], asked


SCHEMAS: list[tuple[Any, str]] = [
    ({"type": "object", "properties": {"a": {"enum": ["red", 1]}}}, "attrs.properties.a.type"),
    ({"type": "object", "properties": {"a": {"enum": [{"red": 1}]}}}, "attrs.properties.a.type"),
    ({"type": "array"}, "attrs.type"),
    ({"type": "object", "properties": []}, "attrs.properties"),
    ({"type": "object", "properties": {"a": 5}}, "attrs.properties.a"),
    ({"type": "object", "properties": {"a": {"type": "thing"}}}, "attrs.properties.a.type"),
    ({"type": "object", "properties": {"a": {"type": "object"}}}, "attrs.properties.a.type"),
    ({"type": "object", "properties": {"a": {}}}, "attrs.properties.a.type"),
    ({"type": "object", "properties": {"a": {"type": "array"}}}, "attrs.properties.a.type"),
    ({"type": "object", "properties": {"a'b": {"type": "string"}}}, "attrs.properties.a'b"),
    ({"type": "object", "properties": {"a.b": {"type": "string"}}}, "attrs.properties.a.b"),
    ({"type": "object", "properties": {"$gt": {"type": "string"}}}, "attrs.properties.$gt"),
    ({"type": "object", "properties": {"a": {"type": "integer", "minimum": "1"}}}, "attrs.properties.a.minimum"),
    ({"type": "object", "properties": {"a": {"$ref": "http://evil.test/x"}}}, "attrs.properties.a.$ref"),
    ({"type": "object", "allOf": [{"$ref": "#"}]}, "attrs.allOf.0.$ref"),
    ({"type": "object", "$id": "http://evil.test/"}, "attrs.$id"),
    ({"type": "object", "$schema": "http://json-schema.org/draft-04/schema#"}, "attrs.$schema"),
    ({"type": "object", "$schema": 4}, "attrs.$schema"),
    ({"type": "object", "$schema": []}, "attrs.$schema"),
    ({"type": "object", "$schema": {}}, "attrs.$schema"),
    ({"type": "object", "required": "a"}, "attrs.required"),
    (
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}},
        "attrs.properties.a.pattern",
    ),
    (
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[z-a]$"}}},
        "attrs.properties.a.pattern",
    ),
    ({"type": "object", "patternProperties": {"(a+)+$": {}}}, "attrs.patternProperties"),
    ({"type": "object", "properties": {f"a{i}": {"type": "string"} for i in range(101)}}, "attrs.properties"),
    ([], "attrs"),
    ("x", "attrs"),
]


async def test_a_categorys_schema_is_checked(staff: Client) -> None:
    wrong = []
    for schema, field in SCHEMAS:
        answer = await staff.put("/categories/things", json={"name": "Things", "attrs": schema})
        if answer.status_code != 422 or field not in fields(answer):
            wrong.append((schema, answer.text))
    assert wrong == []


async def _become_stricter(staff: Client) -> None:
    """A laptop and a shirt that are on sale lack what their categories now require."""
    await put(staff, thinkpad(attrs={"ram_gb": 32}))
    await put(staff, tee())
    for slug, category, new in (("laptops", LAPTOPS, "touch"), ("shirts", SHIRTS, "fit")):
        known = category["attrs"]
        properties = {**known["properties"], new: known["properties"].get(new, {"type": "string"})}
        stricter = {**category, "attrs": {**known, "properties": properties, "required": [*known["required"], new]}}
        assert (await staff.put(f"/categories/{slug}", json=stricter)).status_code == 200


async def test_a_stricter_schema_refuses_no_change_of_anything_else(staff: Client) -> None:
    await _become_stricter(staff)
    changes: list[Json] = [{"name": "x"}, {"priceCents": 4711}, {"tags": ["y"]}, {"publishedAt": None}, {"attrs": {}}]
    for change in changes:
        changed = await staff.patch("/products/LAPTOP-001", json=change)
        assert changed.status_code == 200, (change, changed.text)
    whole = changed.json() | {"name": "z"}
    assert (await staff.put("/products/LAPTOP-001", json=whole)).status_code == 200
    dearer = [variant | {"priceCents": 2000} for variant in tee()["variants"]]
    assert (await staff.patch("/products/TEE", json={"variants": dearer})).json()["priceCents"] == 2000


async def test_a_stricter_schema_holds_once_attributes_variants_or_category_change(staff: Client) -> None:
    await _become_stricter(staff)
    changes: list[tuple[str, Json, str]] = [
        ("LAPTOP-001", {"attrs": {"cpu": "fast"}}, "attrs.touch"),
        ("LAPTOP-001", {"priceCents": 1, "attrs": {"ram_gb": 64}}, "attrs.touch"),
        ("LAPTOP-001", {"variants": [{"sku": "LAPTOP-002"}]}, "attrs.touch"),
        ("LAPTOP-001", {"category": "shirts"}, "attrs.fit"),
        ("TEE", {"variants": tee()["variants"][:1]}, "attrs.fit"),
        ("TEE", {"variants": [tee()["variants"][0] | {"attrs": {"color": "blue", "size": "L"}}]}, "attrs.fit"),
    ]
    for sku, change, missing in changes:
        refused = await staff.patch(f"/products/{sku}", json=change)
        assert refused.status_code == 422 and missing in fields(refused), (change, refused.text)
    mended = await staff.patch("/products/LAPTOP-001", json={"attrs": {"touch": True}})
    assert mended.status_code == 200, mended.text
    refused = await staff.patch("/products/LAPTOP-001", json={"attrs": {"touch": 1}})  # which Python calls equal
    assert fields(refused) == ["attrs.touch"]


# Loading


async def test_a_load_can_be_run_again_and_takes_nothing_from_others(shop: Shop, client: Client, staff: Client) -> None:
    await put(staff, thinkpad(sku="MINE", slug="taken"))
    levels = {sku: catalog.Level(100, 1) for sku in ("A", "B", "C")}
    drafts = [laptop("A"), laptop("B", slug="taken"), laptop("C", name="Laptop A")]
    assert await catalog.load_products(shop, drafts, levels) == 2
    assert await catalog.load_products(shop, drafts, levels) == 0
    assert await skus(client, "sort=name") == ["A", "C", "MINE"]
    assert (await client.get("/products/laptop-a-c")).json()["sku"] == "C"
    with pytest.raises(Invalid) as refused:
        await catalog.load_products(shop, [laptop("D", attrs={})], {"D": catalog.Level(1, 1)})
    assert refused.value.members["errors"][0]["field"] == "D: attrs.ram_gb"


async def test_cards_show_each_sku_and_only_what_is_published(shop: Shop, staff: Client) -> None:
    await put(staff, tee(), thinkpad(), thinkpad(sku="DRAFT", publishedAt=None))
    for _ in ("from MongoDB", "from Redis"):
        assert await catalog.cards(shop, ["TEE-RED-M", "LAPTOP-001", "DRAFT", "NOPE", "TEE-RED-M"]) == {
            "TEE-RED-M": catalog.Card("Everyday Tee, red, M", "everyday-tee", None),
            "LAPTOP-001": catalog.Card(
                "ThinkPad X1 Carbon Gen 12", "thinkpad-x1-carbon-gen-12", "/images/thinkpad-x1-front.jpg"
            ),
        }
    assert await catalog.cards(shop, []) == {}


async def test_a_scheduled_product_appears_in_lists_at_its_hour(shop: Shop) -> None:
    then, clock = at(shop, datetime(2025, 1, 1, tzinfo=UTC) - hours(1))
    await load(then, laptop("A"))
    assert (await list_products(then, [], PageQuery(5, None)))[0] == []
    clock.advance(3600)
    assert [p["sku"] for p in (await list_products(then, [], PageQuery(5, None)))[0]] == ["A"]
