"""Where people have things sent."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from conftest import SignIn
from quartet.addresses.model import COUNTRIES

HOME = {
    "name": "Ada Lovelace",
    "line1": "12 St James's Square",
    "city": "London",
    "postalCode": "SW1Y 4JH",
    "country": "GB",
}
EMPTY = {"line2": None, "region": None, "phone": None}


async def _add(client: httpx.AsyncClient, **other: Any) -> dict[str, Any]:
    answer = await client.post("/users/me/addresses", json={**HOME, **other})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def _all(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/users/me/addresses")
    assert answer.status_code == 200
    assert answer.json()["nextCursor"] is None
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def test_an_address_is_kept_changed_and_deleted(shopper: httpx.AsyncClient) -> None:
    home = await _add(shopper, phone="+44 20 7946 0000", line2="  Second floor ")
    plain = {name: value for name, value in home.items() if name not in ("id", "createdAt", "updatedAt")}
    assert plain == {**HOME, **EMPTY, "phone": "+44 20 7946 0000", "line2": "Second floor", "isDefault": True}
    where = f"/users/me/addresses/{home['id']}"
    assert (await shopper.get(where)).json() == home
    moved = await shopper.patch(where, json={"city": "Ockham", "line2": None})
    assert moved.status_code == 200
    assert {**moved.json(), "updatedAt": ""} == {**home, "city": "Ockham", "line2": None, "updatedAt": ""}
    assert (await shopper.patch(where, json={})).json()["city"] == "Ockham"
    assert (await shopper.delete(where)).status_code == 204
    assert (await shopper.get(where)).status_code == 404
    assert await _all(shopper) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("country", "XX"), ("country", "gb"), ("country", "GBR"), ("country", None), ("name", ""), ("name", "   "),
        ("name", "A\nda"), ("line1", "x" * 201), ("city", None), ("city", 7), ("postalCode", "x" * 21),
        ("phone", "call me"), ("phone", ""), ("isDefault", "yes"), ("isDefault", None), ("userId", str(UUID(int=7))),
    ],
)  # fmt: skip
async def test_a_bad_field_is_named(shopper: httpx.AsyncClient, field: str, value: Any) -> None:
    home = await _add(shopper)
    for call in (
        shopper.post("/users/me/addresses", json={**HOME, field: value}),
        shopper.patch(f"/users/me/addresses/{home['id']}", json={field: value}),
    ):
        answer = await call
        assert answer.status_code == 422, answer.text
        assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_every_country_there_is_can_be_sent_to() -> None:
    assert len(COUNTRIES) == 249
    assert {"GB", "DE", "US", "JP", "AX", "SX", "SS"} <= COUNTRIES
    assert not {"UK", "EU", "AN", "SU", "XK"} & COUNTRIES


async def test_exactly_one_is_the_default_whatever_happens_at_once(shopper: httpx.AsyncClient) -> None:
    added = await asyncio.gather(*(_add(shopper, name=f"House {n}", isDefault=n % 3 == 0) for n in range(12)))
    ids = [address["id"] for address in added]
    for _ in range(3):
        calls = [shopper.patch(f"/users/me/addresses/{one}", json={"isDefault": True}) for one in ids[:8]]
        calls += [shopper.delete(f"/users/me/addresses/{one}") for one in ids[8:9]]
        answers = await asyncio.gather(*calls)
        assert {answer.status_code for answer in answers} <= {200, 204, 404}
        assert [address["isDefault"] for address in await _all(shopper)].count(True) == 1
    while left := await _all(shopper):
        assert left[0]["isDefault"]
        assert [address["isDefault"] for address in left].count(True) == 1
        assert (await shopper.delete(f"/users/me/addresses/{left[0]['id']}")).status_code == 204


async def test_the_default_is_one_until_another_is(shopper: httpx.AsyncClient) -> None:
    first, second = await _add(shopper), await _add(shopper, isDefault=False)
    where = f"/users/me/addresses/{first['id']}"
    assert (first["isDefault"], second["isDefault"]) == (True, False)
    refused = await shopper.patch(where, json={"isDefault": False})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "isDefault"
    made = await shopper.patch(f"/users/me/addresses/{second['id']}", json={"isDefault": True})
    assert made.json()["isDefault"]
    assert not (await shopper.get(where)).json()["isDefault"]


async def test_there_is_an_end_to_what_is_kept(shopper: httpx.AsyncClient) -> None:
    for n in range(48):
        await _add(shopper, name=f"House {n}")
    calls = [shopper.post("/users/me/addresses", json=HOME) for _ in range(6)]
    answers = await asyncio.gather(*calls)
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [409] * 4
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["type"] == "/problems/too-many-addresses"


async def test_anothers_address_is_not_there(shopper: httpx.AsyncClient, sign_in: SignIn) -> None:
    home = await _add(shopper)
    where = f"/users/me/addresses/{home['id']}"
    other, colleague = await sign_in(), await sign_in("admin")
    for stranger in (other, colleague):
        assert (await stranger.get(where)).status_code == 404
        assert (await stranger.patch(where, json={"city": "Ockham"})).status_code == 404
        assert (await stranger.delete(where)).status_code == 404
        assert await _all(stranger) == []
    assert (await shopper.get(where)).json() == home
