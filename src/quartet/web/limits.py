"""The sliding-window limiter: one atomic script, the server's clock, constant memory a client."""

from dataclasses import dataclass

from quartet.stores.files import lua
from quartet.stores.redis import Command, RedisStore

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
    return read_reply(await redis.run(SCRIPT, [key(name)], [limit, window * 1000, cost, now_ms or ""]), limit)


def key(name: str) -> str:
    """The limiter's key; `name` alone picks the slot."""
    return f"limit:{{{name}}}"


def command(name: str, limit: int, *, window: int = 60) -> Command:
    """The same as a command for a pipeline; its reply goes through `read_reply`."""
    return ("EVALSHA", SCRIPT.sha, 1, key(name), limit, window * 1000, 1, "")


def read_reply(reply: list[int], limit: int) -> Taken:
    """The script's reply as a value."""
    allowed, remaining, reset_ms = reply
    return Taken(bool(allowed), limit, remaining, -(-reset_ms // 1000))
