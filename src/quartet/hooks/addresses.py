"""Which addresses webhooks may be sent to. An endpoint's URL comes from outside, and the shop runs inside: it must not
be used to reach internal services (server-side request forgery, SSRF)."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

RESOLVE_SECONDS = 5.0
LONGEST_URL = 2000

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

# Whatever the version of Python knows to be private, reserved, local or shared: these, addresses that stand for
# another's (6to4 and its relays, Teredo, NAT64, IPv4 written as IPv6), and where clouds answer about themselves.
_NEVER = [
    ip_network(text)
    for text in (
        "0.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15",
        "::/8", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16",
        "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
]  # fmt: skip


class Refused(Exception):
    """This address is none of those that the shop sends to."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """The machine's own resolver. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def is_public(text: str, *, loopback: bool = False) -> bool:
    """Whether it is a host of the open Internet; with `loopback`, this machine is one too."""
    address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    if loopback and address.is_loopback:
        return "%" not in text
    return (
        "%" not in text
        and address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_unspecified)
        and not any(address.version == net.version and address in net for net in _NEVER)
    )


async def public_addresses(host: str, port: int, resolver: Resolve, *, loopback: bool) -> Sequence[str]:
    """Every address of the host, all of them public: a name that also leads inside is refused whole. Raises Refused."""
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await resolver(host, port)
    except (OSError, UnicodeError) as error:
        raise Refused("the name has no address") from error
    if not found:
        raise Refused("the name has no address")
    if not all(is_public(address, loopback=loopback) for address in found):
        raise Refused("the address is not a public one")
    return found


def parse(url: str, *, loopback: bool = False) -> httpx.URL:
    """An address to send to: https, a name, the usual port or one above 1023, nobody's password. With `loopback`, http
    as well. Raises Refused with the reason."""
    if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise Refused(f"must be an address of at most {LONGEST_URL} plain characters")
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise Refused("is not an address") from error
    if found.scheme != "https" and not (loopback and found.scheme == "http"):
        raise Refused("must begin with https://")
    if not found.host:
        raise Refused("names no host")
    if found.userinfo:
        raise Refused("must not hold a name or a password")
    if found.fragment:
        raise Refused("must not have a fragment")
    if found.port is not None and not 1024 <= found.port <= 65535:  # the usual one is None
        raise Refused("must use port 443 or one above 1023")
    return found
