"""Redis or Valkey: commands, pipelines and Lua scripts; a command or script is atomic. Connection errors are raised as
StoreUnavailable."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

from redis.asyncio.connection import parse_url

from quartet.kernel.errors import StoreUnavailable
from quartet.stores import resp
from quartet.stores.cluster import Cluster, is_cluster
from quartet.stores.files import Script
from quartet.stores.guard import Guard
from quartet.stores.timing import Timed

P = ParamSpec("P")
T = TypeVar("T")
Arg = str | bytes | int | float
Command = Sequence[Arg]

PROBE_SECONDS = 1.0
MOST_CALLS = 2000
# A share of the time until the store is doubtful (see guard.py).
SILENCE = 1 / 4

# Error replies of a server that is up but can't serve us now: loading its data, out of memory, disk full, a replica
# without its master, a master without its replicas, a script that does not end, refused logins, slots that move faster
# than we follow.
_REFUSING = (
    "LOADING", "OOM", "MISCONF", "MASTERDOWN", "READONLY", "NOREPLICAS", "BUSY ", "NOAUTH", "WRONGPASS", "DENIED",
    "CLUSTERDOWN", "TRYAGAIN", "MOVED ", "ASK ", "ERR max number of clients",
)  # fmt: skip
_VERSION = re.compile(r"^(?:valkey|redis)_version:(\S+)", re.MULTILINE)
_POLICY = re.compile(r"^maxmemory_policy:(\S+)", re.MULTILINE)


class ScriptMissing(Exception):
    """The server does not have a script of this hash, as after a restart; `run` then sends its text."""


class RedisStore:
    """One connection (or one to each server of a cluster), opened at first use, and again after it was lost; replies
    are text, and a map is a dict.

    A call with an unknown outcome is never retried here; callers may retry idempotent ones."""

    def __init__(self, url: str, *, doubt: float = 0.04) -> None:
        """`doubt`: seconds without any answer until callers with a fallback use it."""
        self._server = Cluster(url) if is_cluster(url) else resp.Standalone(parse_url(url))
        self._is_brief = False
        self.guard = Guard(
            "redis",
            self._server.probe,
            (resp.ConnectionLost, StoreUnavailable),
            doubt=doubt,
            silence=doubt * SILENCE,
            patience=PROBE_SECONDS,
            places=MOST_CALLS,
        )

    @cached_property
    def brief(self) -> "RedisStore":
        """The same for callers with a fallback: calls fail as soon as it is doubtful whether the server is up."""
        brief = copy(self)
        brief._is_brief = True
        return brief

    async def call(self, *command: Arg) -> Any:
        """One command: `await redis.call("HGETALL", key)`."""
        [reply] = await self._ask([command])
        return _sound(reply)

    async def fail_fast(self, ask: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `ask`, for callers with an equal fallback. Raises StoreUnavailable as soon as the server has
        not answered anything for some milliseconds; `ask` is not cancelled then, but its result is dropped."""
        if self.guard.is_silent:
            raise StoreUnavailable("redis")
        asking = asyncio.create_task(ask(*args, **kwargs))
        done = asking.get_loop().create_future()

        def tell(answered: "asyncio.Task[T]") -> None:
            resp.retrieve_exception(answered)
            if not done.done():
                done.set_result(None)

        asking.add_done_callback(tell)
        self.guard.fail_fast.add(done)
        try:
            await done
        finally:
            self.guard.fail_fast.discard(done)
        return asking.result()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Arg] = ()) -> Any:
        """Runs a Lua script, which is atomic: by its hash, or by its text if the server does not have it."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args)
        except ScriptMissing:
            return await self.call("EVAL", script.text, len(keys), *keys, *args)

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands in one round trip, not atomic together."""
        return [_sound(reply) for reply in await self._ask(commands)]

    async def ping(self) -> str:
        """The server's version."""
        versions = _VERSION.findall(await self.call("INFO", "server"))
        return str(versions[-1])

    async def policies(self) -> set[str]:
        """The eviction policies of the server, or of a cluster's masters: `noeviction`, `allkeys-lru`, … Read from
        INFO, since CONFIG is often forbidden. Raises StoreUnavailable."""
        try:
            with self.guard.call(), Timed("redis"):
                told = await self._server.each(("INFO", "memory"))
        except (resp.ConnectionLost, resp.Refused) as error:
            raise StoreUnavailable("redis") from error
        return {policy for said in told for policy in _POLICY.findall(_sound(said))}

    async def close(self) -> None:
        """Closes the connection."""
        self.guard.close()
        self._server.close()

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, in which errors are `Refused` objects. Raises StoreUnavailable."""
        try:
            with self.guard.call(brief=self._is_brief), Timed("redis"):
                try:
                    replies = await self._server.send(commands)
                    receiving = self._server.receive(commands, replies, self._is_brief)
                    return await (self._briefly(replies, receiving) if self._is_brief else receiving)
                except resp.Refused as refusal:  # of the login, or the server is no master
                    raise StoreUnavailable("redis") from refusal
        except resp.ConnectionLost as error:
            raise StoreUnavailable("redis") from error

    async def _briefly(
        self, replies: "list[asyncio.Future[Any]]", receiving: Coroutine[Any, Any, list[Any]]
    ) -> list[Any]:
        self.guard.brief.update(replies)
        try:
            return await receiving
        finally:
            self.guard.brief.difference_update(replies)


def _sound(reply: Any) -> Any:
    """Returns the reply, or raises it if it is an error."""
    if not isinstance(reply, resp.Refused):
        return reply
    text = str(reply)
    if text.startswith("NOSCRIPT"):
        raise ScriptMissing from reply
    if text.startswith(_REFUSING):
        raise StoreUnavailable("redis") from reply
    raise reply
