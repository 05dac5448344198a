"""Which addresses webhooks go to, and when an endpoint is left alone."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from quartet.hooks import addresses, model
from quartet.hooks.addresses import Refused, is_public, parse
from quartet.hooks.model import Delivery, Endpoint

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1", "127.8.8.8",
        "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192",
        "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:10.0.0.1",
        "::ffff:8.8.8.8", "::ffff:127.0.0.1", "64:ff9b::a00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1",
        "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2002:a00:1::", "2002:808:808::1",
        "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
        "2606:4700::1111%eth0",
    ],
)  # fmt: skip
def test_what_is_not_the_open_internet_is_never_sent_to(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "192.0.1.1", "198.20.0.1",
                                     "2606:4700:4700::1111", "2a00:1450:4001:830::200e"])  # fmt: skip
def test_what_is_the_open_internet_is(address: str) -> None:
    assert is_public(address)


def test_only_this_machine_is_allowed_where_a_developer_says_so() -> None:
    assert is_public("127.0.0.1", loopback=True)
    assert is_public("::1", loopback=True)
    for inside in ("10.0.0.1", "169.254.169.254", "0.0.0.0", "::ffff:127.0.0.1", "fe80::1"):
        assert not is_public(inside, loopback=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/a?b=c%20d",
        "https://example.com:443/",
        "https://example.com:8443/",
        "https://[2606:4700::1]/",
    ],
)
def test_an_address_of_the_usual_kind_is_taken(url: str) -> None:
    assert parse(url).scheme == "https"


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "//example.com/", "http://example.com/", "file:///etc/passwd", "gopher://example.com/",
        "https://", "https:///path", "https://user@example.com/", "https://a:b@example.com/", "https://example.com:22/",
        "https://example.com:80/",
        "https://example.com:0/", "https://example.com:65536/", "https://example.com:x/", "https://example.com/#a",
        "https://exa mple.com/", "https://example.com\\@evil.example/", "https://example.com/\n", "https://ex\0.com/",
        "https://exämple.com/", "https://[::1", f"https://example.com/{'a' * 2000}", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_an_address_that_could_mean_two_things_or_is_none_is_not(url: str) -> None:
    with pytest.raises(Refused):
        parse(url)


async def test_a_name_without_an_address_or_whose_look_up_hangs_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing(host: str, port: int) -> list[str]:
        return []

    async def fails(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(addresses, "RESOLVE_SECONDS", 0.05)
    for resolver in (nothing, fails, never):
        with pytest.raises(Refused):
            await addresses.public_addresses("a.example", 443, resolver, loopback=False)


def endpoint() -> Endpoint:
    return Endpoint(uuid4(), "https://a.example/", ("*",), None, b"salt", None, None, True, None, 0, 0, None, None,
                    uuid4(), NOW, NOW)  # fmt: skip


def test_the_breaker_opens_after_some_failures_in_a_row_and_a_yes_forgives_all() -> None:
    one = endpoint()
    for _ in range(model.FAILURES - 1):
        one = one.failed(NOW, 500)
    assert one.breaker(NOW) == "closed"
    assert one.succeeded().failures == 0
    one = one.failed(NOW, 500)
    assert one.breaker(NOW) == "open"
    assert one.failed(NOW, 500).opened == 1  # what was under way when it opened makes it no longer
    later = NOW + model.FIRST_PAUSE
    assert one.breaker(later) == "half-open"
    assert one.failed(later, None).open_until == later + 2 * model.FIRST_PAUSE
    assert one.succeeded().breaker(later) == "closed"


def test_a_refusal_opens_no_breaker_and_ends_what_failed_but_not_for_days() -> None:
    one = endpoint()
    for _ in range(2 * model.FAILURES):
        one = one.failed(NOW, 429)
    assert (one.breaker(NOW), one.opened) == ("open", 1)
    one = one.failed(NOW, 400)
    assert (one.breaker(NOW), one.failures, one.failing_since) == ("closed", 0, NOW)
    for hours in range(7, 84, 7):
        one = one.failed(NOW + timedelta(hours=hours), 404)
    assert not one.enabled


def test_one_that_fails_for_days_or_is_gone_is_switched_off() -> None:
    one = endpoint().failed(NOW, 500)
    assert one.failed(NOW + model.DISABLED_AFTER, 500).enabled
    off = one.failed(NOW + model.DISABLED_AFTER + timedelta(seconds=1), None)
    assert (off.enabled, off.breaker(NOW)) == (False, "disabled")
    assert endpoint().failed(NOW, 410).disabled_reason == "it answered 410 Gone"
    on = off.switched_on()
    assert (on.enabled, on.disabled_reason, on.failures, on.failing_since) == (True, None, 0, None)
    assert not replace(off, disabled_reason="mine").failed(NOW, 410).enabled


@pytest.mark.parametrize("status", [500, 404])
def test_what_was_not_taken_before_a_long_rest_switches_nothing_off(status: int) -> None:
    one = endpoint()
    for hour in range(24):
        one = one.failed(NOW + timedelta(hours=hour), status)
    later = NOW + timedelta(days=30)  # its one event was given up long ago, and this is the next
    again = one.failed(later, 503)
    assert (again.enabled, again.failures, again.failing_since, again.breaker(later)) == (True, 1, later, "closed")
    for hours in range(7, 100, 7):  # while something waits it is tried as often as this, and that is no rest
        one = one.failed(NOW + timedelta(hours=24 + hours), 503)
    assert not one.enabled


def test_tries_grow_apart_over_a_day() -> None:
    at, tries = NOW, 0
    delivery = Delivery(1, uuid4(), uuid4(), "t", "k", {}, NOW, "pending", 0, NOW, None, NOW + timedelta(days=1), None,
                        None, None, NOW, None)  # fmt: skip
    while True:
        tries += 1
        later = replace(delivery, attempts=tries).next_try(at)
        if later is None:
            break
        at = later
    assert 9 <= tries <= 14
    assert timedelta(hours=12) < at - NOW < timedelta(days=1)


def test_a_secret_needs_both_the_shops_and_the_salt() -> None:
    one = endpoint()
    secret = model.secret_of("s" * 40, one.id, b"salt")
    assert secret.startswith("whsec_")
    assert len(secret) == len("whsec_") + 44
    assert secret == model.secret_of("s" * 40, one.id, b"salt")
    others = {
        model.secret_of("t" * 40, one.id, b"salt"),
        model.secret_of("s" * 40, uuid4(), b"salt"),
        model.secret_of("s" * 40, one.id, b"pepper"),
    }
    assert len(others | {secret}) == 4


def test_however_often_it_is_rotated_a_header_holds_what_signs() -> None:
    one = endpoint()
    for n in range(100):
        one = one.rotated(bytes([n]) * model.SALT_BYTES, NOW)
    salts = [bytes([n]) * model.SALT_BYTES for n in range(99, 90, -1)]
    assert one.secrets(["s" * 40], NOW) == [model.secret_of("s" * 40, one.id, salt) for salt in salts]
