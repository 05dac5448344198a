"""argon2id in a process of its own, which imports nothing of the shop: one line of JSON in, one out, until the shop
ends. Passwords arrive through the pipe, so no process list shows them."""

import json
import os
import sys
from collections.abc import Callable
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# OWASP's Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
_ARGON2 = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

# Niceness: the shop has priority over hashing for the cores.
NICER = 5


def make(password: str) -> str:
    """The argon2id hash."""
    return _ARGON2.hash(password)


def check(password: str, password_hash: str | None) -> tuple[bool, str | None]:
    """Whether the password is right, and a new hash if the given one was made with other parameters than today's. Takes
    the same time if there is no account or no password."""
    if not _matches(password, password_hash):
        return False, None
    stale = password_hash is not None and _ARGON2.check_needs_rehash(password_hash)
    return True, make(password) if stale else None


def _matches(password: str, password_hash: str | None) -> bool:
    decoy = _decoy()
    try:
        matches = _ARGON2.verify(password_hash or decoy, password)
    except (VerificationError, InvalidHashError):
        return False
    return matches and password_hash is not None


@cache
def _decoy() -> str:
    """A hash for accounts that have none, so that checking takes as long for them."""
    return make("nobody has this password")


def _serve() -> None:
    os.nice(NICER)
    work: dict[str, Callable[..., object]] = {"make": make, "check": check}
    for line in sys.stdin.buffer:
        name, *given = json.loads(line)
        print(json.dumps(work[name](*given)), flush=True)


if __name__ == "__main__":
    _serve()
