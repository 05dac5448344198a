"""Redis or Valkey by redis-py: commands, pipelines and Lua scripts, each atomic; driver errors stop here."""

from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.files import Script
from quartet.stores.timing import Timed

Arg = str | bytes | int | float
Command = Sequence[Arg]

_GONE = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError)
# Replies of a server that runs but can't serve: loading, out of memory, disk full, a replica without its master.
_REFUSING = ("LOADING", "OOM", "MISCONF", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "BUSY ")


class ScriptForgotten(Exception):
    """The server no longer knows a script by its hash (it restarted); `run` sends it whole again."""


class RedisStore:
    """A pool of connections; replies are text."""

    def __init__(self, url: str, *, size: int = 32) -> None:
        # No retry of a call whose outcome is unknown: callers whose calls are idempotent repeat them themselves.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=size,
            timeout=1,
            decode_responses=True,
            socket_connect_timeout=1,
            socket_timeout=1,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),
        )
        self._client: Any = Redis(connection_pool=pool)

    async def call(self, *command: Arg) -> Any:
        """One command: `await redis.call("HGETALL", key)`; a map reply is a dict."""
        try:
            with Timed("redis"):
                return await self._client.execute_command(*command)
        except Exception as error:
            raise _named(error) from error

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Arg] = ()) -> Any:
        """A Lua script, atomic. Known by its hash; sent whole when the server has forgotten it (a restart)."""
        try:
            with Timed("redis"):
                return await self._client.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
        except exceptions.NoScriptError:
            return await self.call("EVAL", script.text, len(keys), *keys, *args)
        except Exception as error:
            raise _named(error) from error

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands in one round trip, not atomic together."""
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                with Timed("redis"):
                    found: list[Any] = await pipe.execute()
                return found
        except Exception as error:
            raise _named(error) from error

    async def ping(self) -> str:
        """The server's version."""
        found = await self.call("INFO", "server")
        return str(found.get("valkey_version") or found.get("redis_version"))

    async def close(self) -> None:
        """Closes every connection."""
        await self._client.aclose(close_connection_pool=True)


def _named(error: Exception) -> Exception:
    if isinstance(error, exceptions.NoScriptError):
        return ScriptForgotten()
    if isinstance(error, _GONE) or (isinstance(error, exceptions.RedisError) and str(error).startswith(_REFUSING)):
        return StoreUnavailable("redis")
    return error
