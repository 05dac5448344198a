"""The sliding-window limiter: one atomic script, the server's clock, constant memory a client."""

from dataclasses import dataclass
from uuid import UUID

from quartet.stores.files import lua
from quartet.stores.redis import RedisStore

SCRIPT = lua(__file__, "limit.lua")


@dataclass(frozen=True)
class Taken:
    """What is left: `reset` is the seconds until a request would pass again, or the window is new."""

    allowed: bool
    limit: int
    remaining: int
    reset: int


async def take(
    redis: RedisStore, name: str, limit: int, *, window: int = 60, cost: int = 1, now_ms: int | None = None
) -> Taken:
    """Counts `cost` requests of `name` when they fit into `limit` per sliding `window` seconds.

    `cost=0` only looks. `now_ms` is for tests; the server's clock otherwise, since clients' clocks differ.
    """
    return _taken(await redis.run(SCRIPT, [key(name)], [limit, window * 1000, cost, now_ms or ""]), limit)


def key(name: str) -> str:
    """The limiter's key; `name` alone picks the slot."""
    return f"limit:{{{name}}}"


def session_key(user_id: UUID, session_id: UUID) -> str:
    """The mark that a session has ended; in one slot with its user's counts."""
    return f"session:{{{user_id}}}:{session_id}"


async def take_signed(
    redis: RedisStore, kind: str, user_id: UUID, session_id: UUID, limit: int, *, window: int = 60
) -> Taken | None:
    """The same for a signed-in user's requests of one kind; None when the session has ended."""
    keys = [f"limit:{{{user_id}}}:{kind}", session_key(user_id, session_id)]
    reply = await redis.run(SCRIPT, keys, [limit, window * 1000, 1, ""])
    return None if reply[0] < 0 else _taken(reply, limit)


def _taken(reply: list[int], limit: int) -> Taken:
    allowed, remaining, reset_ms = reply
    return Taken(bool(allowed), limit, remaining, -(-reset_ms // 1000))
