"""Named queries, migrations and cursors."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartet.kernel.errors import Invalid
from quartet.stores.files import Queries
from quartet.stores.migrate import find
from quartet.web.paging import Cursors


def test_a_query_is_found_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "queries.sql"
    file.write_text("-- name: one\n-- why\nSELECT 1;\n\n-- name: two\nSELECT 2")
    q = Queries(file)
    assert q.one == "-- why\nSELECT 1"
    assert q.two == "SELECT 2"
    with pytest.raises(AttributeError, match="no query named three"):
        _ = q.three


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "queries.sql"
    file.write_text("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;")
    with pytest.raises(ValueError, match="twice"):
        Queries(file)


def test_migrations_are_numbered_once_and_run_in_order() -> None:
    versions = [migration.version for migration in find()]
    numbered = [version for version in versions if version.isdigit()]
    assert versions[: len(numbered)] == sorted(numbered)
    assert len(versions) == len(set(versions)) > 5


def test_two_migrations_of_one_number_are_refused(tmp_path: Path) -> None:
    for room in "ab":
        (tmp_path / room / "schema").mkdir(parents=True)
        (tmp_path / room / "schema" / f"0001_{room}.sql").write_text("-- migrate:up\nSELECT 1;\n-- migrate:down\n")
    with pytest.raises(ValueError, match="numbered 0001"):
        find(tmp_path)


cursors = Cursors("a secret")


@given(st.lists(st.one_of(st.integers(-(2**53), 2**53), st.text(), st.none())))
def test_a_cursor_gives_back_what_it_was_made_of(values: list[object]) -> None:
    assert cursors.decode(cursors.encode(values, "orders"), "orders") == values


@given(st.data())
def test_a_cursor_cut_or_changed_is_refused(data: st.DataObject) -> None:
    cursor = cursors.encode(["2026-01-01T00:00:00Z", 17], "orders")
    at = data.draw(st.integers(0, len(cursor) - 1))
    letter = data.draw(st.sampled_from("Aa0-_Zz="))
    changed = cursor[:at] + letter + cursor[at + 1 :]
    for forged in {cursor[:at], changed} - {cursor}:
        with pytest.raises(Invalid):
            cursors.decode(forged, "orders")


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "é", "A" * 500])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(Invalid):
        cursors.decode(cursor)


def test_one_lists_cursor_does_not_open_another() -> None:
    with pytest.raises(Invalid):
        cursors.decode(cursors.encode([1], "orders"), "reviews")
