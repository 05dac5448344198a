"""A retailer's year becomes the shop's history, to the last digit."""

import csv
import io
import itertools
import lzma
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from quartet import audit, retail, sync
from quartet.cli import open_shop
from quartet.kernel.errors import Conflict, Invalid
from quartet.retail.dataset import COLUMNS
from quartet.retail.model import id_of
from quartet.stores.postgres import Record
from quartet.web.dependencies import Shop

HEART = ["85123A", "WHITE HANGING HEART T-LIGHT HOLDER"]
TINS = ["22720", "SET OF 3 CAKE TINS PANTRY DESIGN"]


def line(
    invoice: str, sku: list[str], quantity: int, price: str, *, at: str = "2010-12-01 08:26:00", customer: str = "17850"
) -> list[str]:
    return [invoice, *sku, str(quantity), at, price, customer, "United Kingdom"]


def written(folder: Path, *lines: list[str]) -> Path:
    file = folder / "retail.csv"
    with file.open("w", encoding="utf-8", newline="") as text:
        csv.writer(text).writerows([COLUMNS, *lines])
    return file


async def rows(shop: Shop, sql: str) -> list[Record]:
    async with shop.stores.pg.read() as read:
        return await read.fetch(sql)


async def state(shop: Shop) -> list[str]:
    """Everything the import writes, as text."""
    tables = ("users", "inventory", "inventory_movements", "orders", "order_items", "order_history", "payments",
              "refunds", "refund_items", "payment_refunds", "credits", "retail_months")  # fmt: skip
    found = [
        str(row["line"])
        for table in tables
        for row in await rows(shop, f"SELECT t::text AS line FROM {table} t ORDER BY 1")
    ]
    return found + [
        str(product) for product in await shop.stores.mongo.collection("products").find({}, sort=[("_id", 1)])
    ]


async def ledger_differs(shop: Shop) -> list[Record]:
    return await rows(
        shop,
        "SELECT sku FROM inventory LEFT JOIN inventory_movements USING (sku) GROUP BY sku"
        " HAVING coalesce(sum(stock_delta), 0) <> min(stock) OR coalesce(sum(reserved_delta), 0) <> min(reserved)",
    )


def december(folder: Path) -> tuple[Path, list[list[str]]]:
    """The shipped file's first month, as a file of its own."""
    with lzma.open(retail.SHIPPED, "rt", encoding="utf-8", newline="") as text:
        rows = csv.reader(text)
        next(rows)
        lines = list(itertools.takewhile(lambda row: row[COLUMNS.index("at")] < "2011", rows))
    return written(folder, *lines), lines


async def test_a_month_of_the_file_is_in_the_revenue_report_to_the_last_digit(
    shop: Shop, staff: httpx.AsyncClient, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    file, lines = december(tmp_path)
    everything = sum((int(row[3]) * Decimal(row[5]) for row in lines), Decimal())
    assert (len(lines), everything) == (42_481, Decimal("748957.020"))

    report = await retail.import_retail(shop, file)
    assert (report.everything.lines, retail.pounds(report.everything.mills)) == (len(lines), everything)
    with report.refused_file.open(encoding="utf-8") as told:
        refused = list(csv.DictReader(told))
    assert all(int(row["quantity"]) * Decimal(row["unit_price"]) == Decimal(row["amount"]) for row in refused)
    query = {"from": "2010-12-01", "to": "2010-12-31", "groupBy": "month", "currency": "GBP"}
    revenue = (await staff.get("/analytics/revenue", params=query)).raise_for_status().json()
    net = Decimal(revenue["totals"]["netCents"]).scaleb(-2)
    assert net + sum(Decimal(row["amount"]) for row in refused) == everything
    assert [item["key"] for item in revenue["items"]] == ["2010-12"]
    assert (await retail.verify(shop, file)).holds
    assert (await audit.check(shop)).violations == ()

    found = (await client.get("/search", params={"q": "white hanging heart", "attrs.color": "white"})).json()
    assert "85123A" in {item["sku"] for item in found["items"]}
    page = (await client.get("/products/85123A")).raise_for_status().json()
    assert (page["name"], page["attrs"]) == ("White Hanging Heart T-Light Holder", {"color": "white"})
    assert (page["priceCents"], page["available"] > 0) == (295, True)

    before = await state(shop)
    again = await retail.import_retail(shop, file)
    assert await state(shop) == before
    assert (again.written, again.everything) == ([], report.everything)


async def test_an_invoice_becomes_a_delivered_order_of_its_day(
    shop: Shop, staff: httpx.AsyncClient, tmp_path: Path
) -> None:
    file = written(
        tmp_path,
        line("536365", HEART, 6, "2.55"),
        line("536365", TINS, 1, "4.95"),
        line("536365", HEART, 2, "2.10"),
        line("536365", ["POST", "POSTAGE"], 1, "18.00"),
    )
    await retail.import_retail(shop, file)

    order = (await staff.get(f"/orders/{id_of('order', '536365')}")).raise_for_status().json()
    assert (order["status"], order["totalCents"], order["currency"]) == ("delivered", 1530 + 495 + 420 + 1800, "GBP")
    assert order["createdAt"].startswith("2010-12-01T08:26:00")
    assert [(item["sku"], item["qty"], item["unitPriceCents"]) for item in order["items"]] == [
        ("22720", 1, 495), ("85123A", 2, 210), ("85123A", 6, 255), ("POST", 1, 1800),
    ]  # fmt: skip
    assert [step["to"] for step in order["history"]] == ["pending", "confirmed", "shipped", "delivered"]
    assert [(payment["provider"], payment["amountCents"]) for payment in order["payments"]] == [("import", 4245)]
    assert (await staff.get("/products/POST")).status_code == 404, "postage is nothing to put in a cart"
    assert (await staff.get("/inventory/POST")).json()["available"] == 0


async def test_cancellations_are_refunds_where_a_sale_matches_and_credits_where_none_does(
    shop: Shop, staff: httpx.AsyncClient, tmp_path: Path
) -> None:
    day = "2010-12-02 10:00:00"
    file = written(
        tmp_path,
        line("536365", HEART, 6, "2.55"),
        line("536366", TINS, 2, "4.95"),
        line("C536379", HEART, -4, "2.55", at=day),
        line("C536380", HEART, -4, "2.55", at=day),
        line("C536381", TINS, -2, "4.95", at=day),
        line("C536382", ["D", "Discount"], -1, "27.50", at=day),
        line("C536383", TINS, -1, "4.95", at=day, customer=""),
    )
    report = await retail.import_retail(shop, file)
    assert (report.refunds.lines, report.refunds.mills) == (2, -(4 * 2550 + 2 * 4950))
    assert (report.credits.lines, report.credits.mills) == (3, -(4 * 2550 + 27_500 + 4_950))

    hearts = (await staff.get(f"/orders/{id_of('order', '536365')}")).json()
    assert (hearts["status"], hearts["refundedCents"]) == ("delivered", 1020)
    tins = (await staff.get(f"/orders/{id_of('order', '536366')}")).json()
    assert (tins["status"], tins["refundedCents"], tins["payments"][0]["status"]) == ("refunded", 990, "refunded")
    assert tins["history"][-1]["at"].startswith("2010-12-02T10:00:00")
    revenue = (await staff.get("/analytics/revenue", params={"from": "2010-12-02", "to": "2010-12-02"})).json()
    assert revenue["totals"]["refundedCents"] == 1020 + 990 + 1020 + 2750 + 495
    assert not await ledger_differs(shop)


async def test_pieces_that_were_taken_back_are_sold_no_more(shop: Shop, tmp_path: Path) -> None:
    """Also where a SKU stands on two lines of an order, and cancellations on several days take back of both."""
    file = written(
        tmp_path,
        line("536365", HEART, 6, "2.55"),
        line("536365", HEART, 5, "2.55"),
        line("536365", TINS, 2, "4.95"),
        line("C536379", HEART, -5, "2.55", at="2010-12-02 10:00:00"),
        line("C536380", HEART, -3, "2.55", at="2010-12-03 10:00:00"),
    )
    report = await retail.import_retail(shop, file)
    assert report.refunds.lines == 2
    async with shop.stores.pg.read() as read:
        rows = await read.fetch("SELECT sku, quantity - refunded_qty AS kept FROM order_items")
    kept: dict[str, int] = {}
    for row in rows:
        kept[row["sku"]] = kept.get(row["sku"], 0) + row["kept"]
    assert kept == {HEART[0]: 3, TINS[0]: 2}
    assert (await audit.check(shop)).violations == ()


async def test_months_can_come_in_any_order_and_what_is_booked_stays(shop: Shop, tmp_path: Path) -> None:
    file = written(
        tmp_path,
        line("1", HEART, 6, "2.55"),
        line("2", HEART, 6, "2.55", at="2011-01-05 08:00:00"),
        line("C3", HEART, -6, "2.55", at="2011-01-06 08:00:00"),
        line("C4", HEART, -6, "2.55", at="2011-01-07 08:00:00"),
        line("C5", HEART, -6, "2.55", at="2011-02-07 08:00:00"),
    )
    january = await retail.import_retail(shop, file, "2011-01")
    assert (january.refunds.lines, january.credits.lines) == (1, 1), "December's sale is not in the books yet"
    whole = await retail.import_retail(shop, file)
    assert whole.written == ["2010-12", "2011-02"]
    assert (whole.refunds.lines, whole.credits.lines) == (2, 1), "February takes back what January could not see"
    verified = await retail.verify(shop, file)
    assert verified.holds, list(verified.rows())
    before = await state(shop)
    await retail.import_retail(shop, file)
    assert await state(shop) == before


async def test_every_refused_line_is_told_with_its_reason(shop: Shop, tmp_path: Path) -> None:
    refused = [
        line("536365", ["AMAZONFEE", "AMAZON FEE"], 1, "13.5"),
        line("536365", HEART, 1, "0.0"),
        line("536365", HEART, -1, "0.0"),
        line("536365", ["PADS", "PADS"], 1, "0.001"),
        line("536365", HEART, 1, "-1.5"),
        line("536365", HEART, 0, "1.5"),
        ["536365", "85123A", "no price", "1"],
        line("536365", HEART, 2, "3.00", at="yesterday"),
    ]
    report = await retail.import_retail(shop, written(tmp_path, line("536365", HEART, 6, "2.55"), *refused))
    with report.refused_file.open(encoding="utf-8") as file:
        told = list(csv.DictReader(file))
    assert [(row["line"], row["reason"], row["amount"]) for row in told] == [
        ("3", "bookkeeping", "13.500"),
        ("4", "no-price", "0.000"),
        ("5", "stock-adjustment", "0.000"),
        ("6", "below-a-penny", "0.001"),
        ("7", "negative-price", "-1.500"),
        ("8", "sign", "0.000"),
        ("9", "unreadable", "0.000"),
        ("10", "unreadable", "6.000"),
    ]
    assert report.everything.lines == 9
    assert report.everything.mills == 6 * 2550 + 13_500 + 1 - 1_500 + 6_000


async def test_customers_come_without_a_password_and_the_unknown_as_one(
    shop: Shop, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    file = written(
        tmp_path,
        line("536365", HEART, 6, "2.55"),
        line("536366", HEART, 6, "2.55", customer=""),
        line("536367", HEART, 6, "2.55", customer=""),
    )
    await retail.import_retail(shop, file)
    users = await rows(shop, "SELECT email, password_hash, created_at::date::text AS since FROM users ORDER BY email")
    assert [tuple(user.values()) for user in users] == [
        ("customer-17850@retail.example", None, "2010-12-01"),
        ("unknown-customer@retail.example", None, "2010-12-01"),
    ]
    tried = await client.post("/sessions", json={"email": "customer-17850@retail.example", "password": "x" * 12})
    assert tried.status_code == 401


async def test_what_staff_delete_stays_deleted(shop: Shop, staff: httpx.AsyncClient, tmp_path: Path) -> None:
    file = written(tmp_path, line("536365", HEART, 6, "2.55"))
    await retail.import_retail(shop, file)
    assert (await staff.delete("/products/85123A")).status_code == 204
    await retail.import_retail(shop, file)
    assert (await staff.get("/products/85123A")).status_code == 404


async def test_shelves_left_empty_by_a_crash_are_filled_by_the_next_run(
    shop: Shop, staff: httpx.AsyncClient, tmp_path: Path
) -> None:
    file = written(tmp_path, line("536365", HEART, 6, "2.55"))
    await retail.import_retail(shop, file)
    await staff.delete("/products/85123A")
    async with shop.stores.pg.tx() as tx:
        await tx.execute("UPDATE retail_months SET shelved_at = NULL")  # as the transaction of the books leaves it
    report = await retail.import_retail(shop, file)
    assert (report.written, report.products) == ([], 1)
    assert (await staff.get("/products/85123A")).status_code == 200


async def test_search_that_is_away_follows_later(shop: Shop, tmp_path: Path) -> None:
    file = written(tmp_path, line("536365", HEART, 6, "2.55"))
    async with open_shop(shop.settings.model_copy(update={"search_url": "http://127.0.0.1:1"})) as lonely:
        report = await retail.import_retail(lonely, file)
    assert (report.written, report.products) == (["2010-12"], 1)
    await sync.catch_up(shop)
    assert not (await audit.check(shop)).violations


async def test_wrong_months_and_files_are_refused_in_plain_words(shop: Shop, tmp_path: Path) -> None:
    file = written(tmp_path, line("536365", HEART, 6, "2.55"))
    with pytest.raises(Invalid, match="2010-12"):
        await retail.import_retail(shop, file, "2009-01")
    with pytest.raises(Conflict, match="import"):
        await retail.verify(shop, file)
    await retail.import_retail(shop, file)
    other = written(tmp_path, line("536365", HEART, 7, "2.55"))
    with pytest.raises(Conflict, match="another file"):
        await retail.import_retail(shop, other)
    (tmp_path / "other.csv").write_text("id,name\n", encoding="utf-8")
    with pytest.raises(retail.NotTheRetailersFile):
        await retail.import_retail(shop, tmp_path / "other.csv")
    packed = lzma.compress(file.read_bytes())
    for broken in (packed[:-20], packed[:20] + b"?" + packed[21:], b"no archive"):
        (tmp_path / "broken.csv.xz").write_bytes(broken)
        with pytest.raises(retail.NotTheRetailersFile, match="broken"):
            await retail.import_retail(shop, tmp_path / "broken.csv.xz")
    for torn in (b'"' + b"x" * 200_000, b"\xff"):
        (tmp_path / "torn.csv").write_bytes(file.read_bytes() + torn)
        with pytest.raises(retail.NotTheRetailersFile, match="no CSV"):
            await retail.import_retail(shop, tmp_path / "torn.csv")


async def test_a_file_of_which_nothing_can_be_read_was_not_booked_before(shop: Shop, tmp_path: Path) -> None:
    async def told(*lines: list[str]) -> tuple[bool, str]:
        text = io.StringIO()
        went_well = await retail.run_import(
            shop, Console(file=text, width=200), written(tmp_path, *lines), None, verified=False
        )
        return went_well, text.getvalue()

    for lines in ([], [line("536365", HEART, 6, "2.55", at="yesterday"), ["536365", "85123A"]]):
        went_well, said = await told(*lines)
        assert not went_well
        assert "nothing of it could be read" in said
    for words in ("booked 2010-12", "all of it was booked before"):
        went_well, said = await told(line("536365", HEART, 6, "2.55"))
        assert went_well
        assert words in said


async def test_a_data_folder_that_cannot_be_written_is_named_and_nothing_is_booked(shop: Shop, tmp_path: Path) -> None:
    file = written(tmp_path, line("536365", HEART, 6, "2.55"))
    before = await state(shop)
    refused = shop.settings.data_dir / "import-refused-all.csv"
    refused.parent.mkdir(parents=True, exist_ok=True)
    refused.with_suffix(".part").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"import-refused-all.csv can't be written: No space left on device$"):
        await retail.import_retail(shop, file)
    assert await state(shop) == before
