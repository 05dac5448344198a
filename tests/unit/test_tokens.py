"""Access tokens: only ours, only whole, only in time."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
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


KID = {"kid": tokens.key_id(SECRET)}


def _claims(**other: Any) -> dict[str, Any]:
    claims = {
        "sub": str(PRINCIPAL.user_id),
        "sid": str(PRINCIPAL.session_id),
        "roles": ["staff"],
        "aud": "quartet",
        "iat": NOW,
        "exp": NOW + timedelta(seconds=900),
    }
    return {name: value for name, value in (claims | other).items() if value is not None}


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


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


def test_a_token_is_good_until_its_last_second(settings: Settings) -> None:
    token = tokens.issue(settings, PRINCIPAL, NOW)
    tokens.read(settings, token, NOW + timedelta(seconds=899))
    with pytest.raises(Unauthenticated):
        tokens.read(settings, token, NOW + timedelta(seconds=900))


def test_a_flipped_bit_anywhere_is_noticed(settings: Settings) -> None:
    token = tokens.issue(settings, PRINCIPAL, NOW)
    parts = token.split(".")
    for part in range(3):
        raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
        for bit in range(len(raw) * 8):
            raw[bit // 8] ^= 1 << bit % 8
            forged = ".".join([*parts[:part], _unpadded(bytes(raw)), *parts[part + 1 :]])
            raw[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Unauthenticated):
                tokens.read(settings, forged, NOW)


def test_no_other_algorithm_is_taken(settings: Settings) -> None:
    payload = _unpadded(json.dumps(_claims(iat=1, exp=4_000_000_000)).encode())
    for name in ("none", "None", "NONE"):
        header = _unpadded(json.dumps({"alg": name, "typ": "JWT"} | KID).encode())
        for signature in ("", _unpadded(b"x" * 32)):
            with pytest.raises(Unauthenticated):
                tokens.read(settings, f"{header}.{payload}.{signature}", NOW)
    for algorithm in ("HS384", "HS512"):
        with pytest.raises(Unauthenticated):
            tokens.read(settings, jwt.encode(_claims(), SECRET * 2, algorithm, KID), NOW)


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("key", ["another secret of at least 32 characters", "quartet", "0"])
def test_another_key_opens_nothing(settings: Settings, key: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.read(settings, jwt.encode(_claims(), key, "HS256", KID), NOW)


@pytest.mark.parametrize(
    "other",
    [
        {"aud": "another shop"},
        {"aud": None},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"sid": None},
        {"roles": None},
        {"sub": "nobody"},
        {"sub": 1},
        {"sid": "no session"},
        {"sid": ["x"]},
        {"roles": 7},
        {"roles": [["admin"]]},
        {"exp": "tomorrow"},
        {"exp": 10**30},
        {"exp": -(10**30)},
        {"exp": NOW - timedelta(seconds=1)},
    ],
)
def test_a_token_of_ours_needs_every_claim(settings: Settings, other: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        tokens.read(settings, jwt.encode(_claims(**other), SECRET, "HS256", KID), NOW)


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "Bearer", "é.é.é", "a" * 10_000, "\ud800"])
def test_what_is_no_token_is_refused(settings: Settings, text: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.read(settings, text, NOW)
