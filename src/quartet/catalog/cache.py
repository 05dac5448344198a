"""Products in Redis: `product:<sku or slug>` holds the ready answer for fifteen minutes at most.

An entry is `<id> <version> <JSON>`, with a further space before the JSON under a reference that shows its product but
is not sold: whoever orders looks at no more than that. What else lies under such a key, by a slip or by another program
in the same Redis, is as if it were not there. What is not there yet is put by the reader that holds the *lease*, a
marker under the same key (Nishtala et al., "Scaling Memcache at Facebook", 2013, 3.2.1). A change deletes entry and
lease alike, so whatever a reader fetched before the change can no longer be put: this needs no tombstones,
and stays right when Redis restarts or evicts, since without the marker nothing is put at all. A sale changes only the
copies of price and stock, so the worker puts the newer page in the place of the older: what sells most would else be
read anew after each sale.
"""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha1
from uuid import uuid4

from quartet.stores.files import Script, lua
from quartet.stores.redis import Arg, RedisStore, ScriptForgotten

FILL = lua(__file__, "fill.lua")
DROP = lua(__file__, "drop.lua")
RENEW = lua(__file__, "renew.lua")

# Longer than a read of MongoDB takes, short enough that a reader's death costs little.
LEASE_SECONDS = 10
_LEASE = "lease "
# An id, a version and the spaces behind them; a lease has none.
_HEAD = re.compile(r"([\w-]+) ([0-9]{1,18}) ( ?)(?=\{)", re.ASCII)
LONGEST_HEAD = 99


def key(reference: str) -> str:
    """One key a reference; every script touches one, so Redis Cluster serves them unchanged."""
    return f"product:{reference}"


def entry(product_id: str, version: int, body: bytes, *, sold: bool = True) -> bytes:
    """What is stored."""
    return b"%b %d %b%b" % (product_id.encode(), version, b"" if sold else b" ", body)


def read(found: str | None) -> tuple[str, int, str] | None:
    """Id, version and JSON of an entry; None for nothing, a lease and what is no entry."""
    head = _HEAD.match(found or "")
    return (head[1], int(head[2]), head.string[head.end() :]) if head else None


async def get(redis: RedisStore, references: Sequence[str]) -> dict[str, tuple[str, int, str]]:
    """Those that are there, in one round trip. Raises StoreUnavailable."""
    replies = await redis.pipeline([("GET", key(reference)) for reference in references])
    return {ref: hit for ref, reply in zip(references, replies, strict=True) if (hit := read(reply))}


async def heads(redis: RedisStore, references: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Id and version of those that are there, without the kilobytes behind them. Raises StoreUnavailable."""
    return {reference: (head[1], int(head[2])) for reference, head in (await _heads(redis, references)).items()}


async def sold(redis: RedisStore, skus: Sequence[str]) -> set[str]:
    """Those that are there and are sold. Raises StoreUnavailable."""
    return {sku for sku, head in (await _heads(redis, skus)).items() if not head[3]}


async def _heads(redis: RedisStore, references: Sequence[str]) -> dict[str, re.Match[str]]:
    replies = await redis.pipeline([("GETRANGE", key(reference), 0, LONGEST_HEAD) for reference in references])
    return {ref: head for ref, reply in zip(references, replies, strict=True) if (head := _HEAD.match(reply))}


async def get_with_life(redis: RedisStore, reference: str) -> tuple[tuple[str, int, str] | None, int]:
    """One as `read` gives it, and the seconds that it is still kept. Raises StoreUnavailable."""
    found, life = await redis.pipeline([("GET", key(reference)), ("TTL", key(reference))])
    return read(found), int(life)


async def lease(redis: RedisStore, references: Sequence[str]) -> dict[str, str]:
    """The leases that are ours, for the references that nobody else is fetching. Take them *before* reading MongoDB."""
    marker = _LEASE + uuid4().hex
    taken = await redis.pipeline([("SET", key(r), marker, "NX", "EX", LEASE_SECONDS) for r in references])
    return {reference: marker for reference, reply in zip(references, taken, strict=True) if reply}


async def fill(redis: RedisStore, leases: Mapping[str, str], entries: Mapping[str, bytes], seconds: int) -> bool:
    """Puts entries under the leases held, and gives the other leases back; whether there were any and all were held.
    Raises StoreUnavailable."""
    calls = {ref: (marker, entries.get(ref, b""), seconds) for ref, marker in leases.items()}
    replies = await _run_each(redis, FILL, calls)
    return bool(replies) and all(replies)


async def drop(
    redis: RedisStore, changed: Mapping[str, tuple[str, int | None]], entries: Mapping[str, bytes] | None = None
) -> None:
    """Takes what these changes have made old out of the cache, in one round trip: by reference, the product's id and
    version, None of one that is gone. `entries`: of that version only these stay, as far as they are known. Raises
    StoreUnavailable."""
    entries = entries or {}
    # Under many references there is the same one.
    digests = {entry: sha1(entry, usedforsecurity=False).hexdigest() for entry in set(entries.values())}
    known = {ref: digests[entry] for ref, entry in entries.items()}
    calls = {
        ref: (product_id, "" if version is None else version, known.get(ref, ""))
        for ref, (product_id, version) in changed.items()
    }
    await _run_each(redis, DROP, calls)


async def renew(redis: RedisStore, pages: Mapping[str, tuple[str, int, bytes]]) -> None:
    """Puts newer pages of products in the place of older ones: by reference, id, version and entry. Raises
    StoreUnavailable."""
    references = list(pages)
    # Most are not kept at all, and a page has kilobytes.
    heads = await redis.pipeline([("GETRANGE", key(reference), 0, 0) for reference in references])
    kept = {reference: pages[reference] for reference, head in zip(references, heads, strict=True) if head}
    await _run_each(redis, RENEW, kept)


async def _run_each(redis: RedisStore, script: Script, calls: Mapping[str, Sequence[Arg]]) -> list[int]:
    """The script on each reference's key, in one round trip."""
    if not calls:
        return []
    # As text: a number of 64 bits has a class of its own in MongoDB's driver, which Redis' does not take.
    told = {key(ref): [str(one) if isinstance(one, int) else one for one in given] for ref, given in calls.items()}
    try:
        return await redis.pipeline([("EVALSHA", script.sha, 1, at, *arguments) for at, arguments in told.items()])
    except ScriptForgotten:  # the server restarted: each once more, whole
        return [await redis.run(script, [at], arguments) for at, arguments in told.items()]
