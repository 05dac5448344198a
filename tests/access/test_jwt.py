"""Attacks on access tokens, through the door: only what this shop signed, whole, in time, by a key it still holds."""

import base64
import hmac
import json
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from floor import Floor, made
from quartet.accounts import tokens
from quartet.kernel.clock import FixedClock
from quartet.kernel.errors import Unauthenticated
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Principal

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET, RETIRED = "the present secret, of 32 characters and more", "the secret before, of 32 characters and more"
SHOP = Settings(_env_file=None, secret=SecretStr(SECRET), secrets_retired=(SecretStr(RETIRED),))
SOMEONE = Principal(uuid4(), frozenset({"admin"}), uuid4())
GOOD = tokens.issue(SHOP, SOMEONE, NOW)
CLAIMS: dict[str, Any] = jwt.decode(GOOD, options={"verify_signature": False})
KID = tokens.key_id(SECRET)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _made(header: dict[str, Any], claims: dict[str, Any] | None = None, key: bytes = SECRET.encode()) -> str:
    """By hand, since a library would refuse to."""
    signed = f"{_text(json.dumps(header).encode())}.{_text(json.dumps(claims or CLAIMS).encode())}"
    digest = {"HS512": "sha512", "HS384": "sha384"}.get(str(header.get("alg")), "sha256")
    return f"{signed}.{_text(hmac.digest(key, signed.encode(), digest))}"


def _opens(token: str) -> bool:
    try:
        tokens.read(SHOP, token, NOW)
    except Unauthenticated:
        return False
    return True


def test_the_forger_of_these_tests_could_make_a_good_one() -> None:
    assert _opens(GOOD)
    assert _opens(_made({"alg": "HS256", "typ": "JWT", "kid": KID}))
    assert _opens(_made({"alg": "HS256", "kid": tokens.key_id(RETIRED)}, key=RETIRED.encode()))


@pytest.mark.parametrize("algorithm", ["none", "nOnE", "", "HS384", "HS512", "RS256", "ES256", "PS256", None, 256])
def test_another_algorithm_opens_nothing(algorithm: object) -> None:
    header = {"alg": algorithm, "kid": KID}
    token = _made(header)
    assert not _opens(token)
    assert not _opens(token.rpartition(".")[0] + ".")
    assert not _opens(_made({"kid": KID}))


def test_a_public_key_is_no_secret_of_ours() -> None:
    """The confusion of RS256 with HS256: the verifier's own text taken for the key."""
    for key in (b"", KID.encode(), tokens.AUDIENCE.encode(), b"-----BEGIN PUBLIC KEY-----\n", SECRET[:-1].encode()):
        assert not _opens(_made({"alg": "HS256", "kid": KID}, key=key))
    jwk = {"kty": "oct", "k": _text(b"mine")}
    assert not _opens(_made({"alg": "HS256", "kid": KID, "jwk": jwk, "jku": "https://evil.example"}, key=b"mine"))


KIDS: list[object] = [
    None, "", " ", KID.upper(), KID + " ", KID[:-1], f" {KID}", [KID], {"kid": KID}, 0, 1, True, 1e400, "\0",
    f"{KID}\0",
    "../../../../dev/null", "/dev/null", "file:///dev/null", "https://evil.example/key", "' OR 1=1 --",
    "x' UNION SELECT 'mine' --", "${jndi:ldap://evil}", "é" * 100, "a" * 100_000, tokens.key_id("a removed secret"),
]  # fmt: skip


def test_a_key_is_only_ever_looked_up_among_ours() -> None:
    """Signed with what a careless shop would find there: nothing at all."""
    for kid in KIDS:
        for key in (b"", b"mine", SECRET.encode()):
            assert not _opens(_made({"alg": "HS256", "kid": kid}, key=key)), kid
    assert not _opens(_made({"alg": "HS256", "kid": tokens.key_id(RETIRED)}))  # the name of one, made with the other
    removed = SHOP.model_copy(update={"secrets_retired": ()})
    with pytest.raises(Unauthenticated):
        tokens.read(removed, _made({"alg": "HS256", "kid": tokens.key_id(RETIRED)}, key=RETIRED.encode()), NOW)


WRONG: list[dict[str, Any]] = [
    {"aud": "quartet-pages"}, {"aud": "another"}, {"aud": ["another"]}, {"aud": None}, {"sub": ""}, {"sub": None},
    {"sub": "x"}, {"sub": 1}, {"sid": None}, {"sid": 1}, {"sid": ["x"]}, {"roles": None}, {"roles": 1},
    {"roles": [{}]}, {"roles": [["admin"]]}, {"iat": None}, {"exp": None}, {"exp": "soon"}, {"exp": 1e30},
    {"exp": 10**30}, {"exp": -(10**30)}, {"exp": NOW.timestamp()}, {"exp": NOW.timestamp() - 1},
]  # fmt: skip


def test_every_claim_is_needed_and_has_to_make_sense() -> None:
    for wrong in WRONG:
        assert not _opens(_made({"alg": "HS256", "kid": KID}, CLAIMS | wrong)), wrong
    for name in CLAIMS:
        assert not _opens(_made({"alg": "HS256", "kid": KID}, {n: v for n, v in CLAIMS.items() if n != name})), name


def test_one_bit_flipped_anywhere_is_noticed() -> None:
    """Every bit of every character, the unused ones at the end of each part too."""
    for place in range(len(GOOD)):
        for bit in range(7):
            flipped = GOOD[:place] + chr(ord(GOOD[place]) ^ (1 << bit)) + GOOD[place + 1 :]
            assert not _opens(flipped), (place, bit)


@settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_a_token_changed_in_any_way_opens_nothing(data: Any) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 40)))
    put = data.draw(st.text(st.sampled_from("abcXYZ019-_.=+/ \0é"), max_size=6))
    changed = GOOD[:start] + put + GOOD[end:]
    if changed != GOOD:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not _opens(changed)


async def test_at_the_door_a_token_ends_to_the_second_and_with_its_session(floor: Floor) -> None:
    clock = FixedClock(datetime.now(UTC).replace(microsecond=0))
    floor.app.state.shop = shop = replace(floor.shop, clock=clock)
    person = {"email": "ada@example.com", "password": "correct horse battery"}
    await made(floor.guest.post("/users", json=person))
    signed = await made(floor.guest.post("/sessions", json=person))
    headers = {"Authorization": f"Bearer {signed['accessToken']}"}
    clock.advance(shop.settings.access_ttl - 1)
    assert (await floor.guest.get("/users/me", headers=headers)).status_code == 200
    clock.advance(1)
    assert (await floor.guest.get("/users/me", headers=headers)).status_code == 401
    fresh = await made(floor.guest.post("/sessions", json=person))
    headers = {"Authorization": f"Bearer {fresh['accessToken']}"}
    assert (await floor.guest.get("/users/me", headers=headers)).status_code == 200
    assert (await floor.guest.delete("/sessions/current", headers=headers)).status_code == 204
    ended = await floor.guest.get("/users/me", headers=headers)
    assert (ended.status_code, ended.json()["type"]) == (401, "/problems/unauthenticated")
    assert "RateLimit-Remaining" in ended.headers, "it counts as a guest"
    # A token for a session that never was, signed by ourselves, as somebody with the secret could: a known risk that
    # rotation ends. Everything that money or people hang on asks PostgreSQL all the same.
    forged = tokens.issue(shop.settings, Principal(uuid4(), frozenset(), uuid4()), clock.now() + timedelta(seconds=1))
    assert (await floor.guest.get("/users/me", headers={"Authorization": f"Bearer {forged}"})).status_code == 401
