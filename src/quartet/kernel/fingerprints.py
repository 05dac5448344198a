"""Checksums for comparing many items at once: two sets are equal if the sums of their fingerprints are.

Each side stores an item's bucket and fingerprint with it and adds up the fingerprints of each bucket itself. A single
difference is missed once in four thousand million times. A sum stays exact in a double, which search engines add with,
for up to two million items.
"""

from hashlib import blake2b
from zlib import crc32

BUCKETS = 1 << 16


def bucket(id_: str) -> int:
    """The bucket of an id, 0 to `BUCKETS` - 1; it must never change."""
    return crc32(id_.encode()) % BUCKETS


def fingerprint(content: bytes) -> int:
    """A fingerprint of 32 bits, never 0, which stands for a missing item."""
    return int.from_bytes(blake2b(content, digest_size=4).digest()) or 1
