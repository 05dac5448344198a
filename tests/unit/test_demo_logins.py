"""The file of demo logins: for its owner's eyes, whole or not there."""

import json
import re
from pathlib import Path

import pytest

from quartet.demo.logins import FILE, keep, kept, new_password


def test_what_is_kept_is_found_again_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    keep(folder, {"shopper@demo.test": "first"})
    keep(folder, {"shopper@demo.test": "first", "staff@demo.test": "second"})
    assert kept(folder) == {"shopper@demo.test": "first", "staff@demo.test": "second"}
    assert json.loads((folder / FILE).read_text()) == kept(folder)
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in folder.iterdir()] == [FILE]


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    keep(tmp_path, {"shopper@demo.test": "first"})
    with pytest.raises(TypeError):
        keep(tmp_path, {"shopper@demo.test": object()})  # type: ignore[dict-item]
    assert kept(tmp_path) == {"shopper@demo.test": "first"}
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"shopper@demo.test": 7}'])
def test_a_spoiled_file_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert kept(tmp_path) == {}


def test_passwords_differ_and_can_be_typed() -> None:
    drawn = {new_password() for _ in range(200)}
    assert len(drawn) == 200
    assert all(re.fullmatch(r"[a-z2-9]{4}(-[a-z2-9]{4}){3}", password) for password in drawn)
