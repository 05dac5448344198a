"""Access tokens: only ours, only whole, only in time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import jwt
import pytest
from pydantic import SecretStr

from quartet.accounts import tokens
from quartet.kernel.errors import Invalid, Unauthenticated
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Principal
from quartet.web.paging import Cursors

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OTHER = "the secret that came after, also of 32 characters"
SECRET = "a secret of at least thirty-two characters"
PRINCIPAL = Principal(uuid4(), frozenset({"staff"}), uuid4())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, secret=SECRET, data_dir=tmp_path)


def test_a_secret_can_be_changed_while_people_are_signed_in(settings: Settings) -> None:
    token = tokens.issue(settings, PRINCIPAL, NOW)
    rotated = settings.model_copy(update={"secret": SecretStr(OTHER), "secrets_retired": (SecretStr(SECRET),)})
    assert tokens.read(rotated, token, NOW)[0] == PRINCIPAL
    fresh = tokens.issue(rotated, PRINCIPAL, NOW)
    assert jwt.get_unverified_header(fresh)["kid"] == tokens.key_id(OTHER)
    assert tokens.read(rotated, fresh, NOW)[0] == PRINCIPAL
    for reader, spent in ((rotated.model_copy(update={"secrets_retired": ()}), token), (settings, fresh)):
        with pytest.raises(Unauthenticated):
            tokens.read(reader, spent, NOW)


def test_cursors_outlive_a_change_of_secret() -> None:
    cursor = Cursors(SECRET).encode([7], "list")
    assert Cursors(OTHER, SECRET).decode(cursor, "list") == [7]
    with pytest.raises(Invalid):
        Cursors(OTHER).decode(cursor, "list")


def test_what_is_issued_is_read_back(settings: Settings) -> None:
    token = tokens.issue(settings, PRINCIPAL, NOW)
    assert tokens.read(settings, token, NOW) == (PRINCIPAL, NOW + timedelta(seconds=900))


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "Bearer", "é.é.é", "a" * 10_000, "\ud800"])
def test_what_is_no_token_is_refused(settings: Settings, text: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.read(settings, text, NOW)
