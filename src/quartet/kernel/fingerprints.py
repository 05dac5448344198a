"""Checksums by which many things are compared at once: two sets are the same if the sums of their fingerprints are.

Each side stores a thing's bucket and fingerprint beside it and adds up the fingerprints of a bucket itself. A single
difference is missed once in four thousand million times. A sum stays exact in a double, which is what search engines
add with, for two million things.
"""

from hashlib import blake2b
from zlib import crc32

BUCKETS = 1 << 16


def bucket(id_: str) -> int:
    """Where an id belongs, 0 to `BUCKETS` - 1; for good."""
    return crc32(id_.encode()) % BUCKETS


def fingerprint(content: bytes) -> int:
    """Of 32 bits, and never 0, which stands for what is not there."""
    return int.from_bytes(blake2b(content, digest_size=4).digest()) or 1
