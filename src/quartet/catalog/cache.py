"""The product cache in Redis: `product:<sku or slug>` holds the ready response body, by default for fifteen minutes.

An entry is `<id> <version> <JSON>`, with one more space before the JSON if the reference leads to the product but can't
be ordered itself (a slug, or the SKU of a product with variants): checkout reads only this head. Any other value under
such a key, by a mistake or from another program in the same Redis, counts as a miss.

After a miss the entry is written by the reader that holds the *lease*, a marker under the same key (Nishtala et al.,
"Scaling Memcache at Facebook", 2013, 3.2.1). A change deletes entry and lease alike, so what a reader fetched before
the change can no longer be written. This needs no tombstones, and stays correct when Redis restarts or evicts, since
nothing is written without the marker. A sale changes only the copies of price and stock; the worker then replaces the
entry by the newer one, since otherwise best-sellers would miss after each sale.
"""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha1
from uuid import uuid4

from quartet.stores.files import Script, lua
from quartet.stores.redis import Arg, RedisStore, ScriptMissing

FILL = lua(__file__, "fill.lua")
DROP = lua(__file__, "drop.lua")
RENEW = lua(__file__, "renew.lua")

# Longer than a read of MongoDB takes; short, since after a reader's crash nothing is cached until its lease expires.
LEASE_SECONDS = 10
_LEASE = "lease "
# The head of an entry: id, version, spaces. A lease does not match.
_HEAD = re.compile(r"([\w-]+) ([0-9]{1,18}) ( ?)(?=\{)", re.ASCII)
LONGEST_HEAD = 99


def key(reference: str) -> str:
    """One key per reference; every script touches only one, so Redis Cluster can run them."""
    return f"product:{reference}"


def entry(product_id: str, version: int, body: bytes, *, sold: bool = True) -> bytes:
    """The value of an entry. `sold`: the product can be ordered under this reference."""
    return b"%b %d %b%b" % (product_id.encode(), version, b"" if sold else b" ", body)


def read(found: str | None) -> tuple[str, int, str] | None:
    """Id, version and JSON of an entry; None for a missing key, a lease and anything else."""
    head = _HEAD.match(found or "")
    return (head[1], int(head[2]), head.string[head.end() :]) if head else None


async def get(redis: RedisStore, references: Sequence[str]) -> dict[str, tuple[str, int, str]]:
    """The cache hits, in one round trip. Raises StoreUnavailable."""
    replies = await redis.pipeline([("GET", key(reference)) for reference in references])
    return {ref: hit for ref, reply in zip(references, replies, strict=True) if (hit := read(reply))}


async def heads(redis: RedisStore, references: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Id and version of the cache hits, without transferring the bodies. Raises StoreUnavailable."""
    return {reference: (head[1], int(head[2])) for reference, head in (await _heads(redis, references)).items()}


async def sold(redis: RedisStore, skus: Sequence[str]) -> set[str]:
    """Those of the SKUs that are cached and can be ordered. Raises StoreUnavailable."""
    return {sku for sku, head in (await _heads(redis, skus)).items() if not head[3]}


async def _heads(redis: RedisStore, references: Sequence[str]) -> dict[str, re.Match[str]]:
    replies = await redis.pipeline([("GETRANGE", key(reference), 0, LONGEST_HEAD) for reference in references])
    return {ref: head for ref, reply in zip(references, replies, strict=True) if (head := _HEAD.match(reply))}


async def get_with_life(redis: RedisStore, reference: str) -> tuple[tuple[str, int, str] | None, int]:
    """One entry as from `read`, and its remaining TTL in seconds. Raises StoreUnavailable."""
    found, life = await redis.pipeline([("GET", key(reference)), ("TTL", key(reference))])
    return read(found), int(life)


async def lease(redis: RedisStore, references: Sequence[str]) -> dict[str, str]:
    """Takes leases; returns those granted, for references that nobody else is fetching. Call it *before* reading
    MongoDB."""
    marker = _LEASE + uuid4().hex
    taken = await redis.pipeline([("SET", key(r), marker, "NX", "EX", LEASE_SECONDS) for r in references])
    return {reference: marker for reference, reply in zip(references, taken, strict=True) if reply}


async def fill(redis: RedisStore, leases: Mapping[str, str], entries: Mapping[str, bytes], seconds: int) -> bool:
    """Writes entries under the leases still held, and releases leases without an entry. False if one of the leases was
    lost, or there were none. Raises StoreUnavailable."""
    calls = {ref: (marker, entries.get(ref, b""), seconds) for ref, marker in leases.items()}
    replies = await _run_each(redis, FILL, calls)
    return bool(replies) and all(replies)


async def drop(
    redis: RedisStore, changed: Mapping[str, tuple[str, int | None]], entries: Mapping[str, bytes] | None = None
) -> None:
    """Deletes the entries that these changes have made stale, in one round trip. `changed`: by reference, the product's
    id and version, None if it was deleted. `entries`: if given for a reference, an entry of the same version stays only
    if it equals this. Raises StoreUnavailable."""
    entries = entries or {}
    # Many references share the same entry: hash it once.
    digests = {entry: sha1(entry, usedforsecurity=False).hexdigest() for entry in set(entries.values())}
    known = {ref: digests[entry] for ref, entry in entries.items()}
    calls = {
        ref: (product_id, "" if version is None else version, known.get(ref, ""))
        for ref, (product_id, version) in changed.items()
    }
    await _run_each(redis, DROP, calls)


async def renew(redis: RedisStore, pages: Mapping[str, tuple[str, int, bytes]]) -> None:
    """Replaces cached entries by newer ones: by reference, id, version and entry. Raises StoreUnavailable."""
    references = list(pages)
    # Most are not cached, and an entry has kilobytes: send only those that are.
    heads = await redis.pipeline([("GETRANGE", key(reference), 0, 0) for reference in references])
    kept = {reference: pages[reference] for reference, head in zip(references, heads, strict=True) if head}
    await _run_each(redis, RENEW, kept)


async def _run_each(redis: RedisStore, script: Script, calls: Mapping[str, Sequence[Arg]]) -> list[int]:
    """Runs the script on each reference's key, in one round trip."""
    if not calls:
        return []
    # As text: MongoDB's driver has a class of its own for 64-bit numbers, which Redis' driver does not accept.
    told = {key(ref): [str(one) if isinstance(one, int) else one for one in given] for ref, given in calls.items()}
    try:
        return await redis.pipeline([("EVALSHA", script.sha, 1, at, *arguments) for at, arguments in told.items()])
    except ScriptMissing:  # the server restarted: run each again, sending the script
        return [await redis.run(script, [at], arguments) for at, arguments in told.items()]
