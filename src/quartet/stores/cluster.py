"""A client of Redis Cluster: it reads from any server which one holds a key's slot, and follows slots that move.

A pipeline is split by server and sent to all of them at the same time. A command that a server did not execute because
the key is elsewhere (MOVED, ASK) is sent to the other; one that no server can execute because its keys are being moved
(TRYAGAIN) is retried a moment later. A command sent to a server that then died has an unknown outcome and is never sent
again. Keys that one script or command reads together share a hash tag `{…}` in their names, which puts them into one
slot."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import parse_url
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from quartet.stores import resp

Command = Sequence[Any]
Address = tuple[str, int]

SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
# Redirects that a command follows at most. Two do if a key moves; more are needed only while slots are redistributed.
MAX_REDIRECTS = 5
# While a slot is being moved, a command's keys may be split between two servers, and the new one can't say of any key
# that it does not exist (TRYAGAIN). The command is retried at this interval, for as long as a call may take.
TRY_AGAIN_SECONDS = 0.02

_OF_ANY = frozenset({"PING", "INFO", "TIME", "CLUSTER"})
_OF_ALL = frozenset({"KEYS", "FLUSHDB"})


def is_cluster(url: str) -> bool:
    """Whether the URL's scheme is that of a cluster."""
    return urlsplit(url).scheme in SCHEMES


class Cluster:
    """One connection to each server. `redis+cluster://user:password@host:port,host:port` names some of them."""

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        login, at, hosts = rest.partition("/")[0].rpartition("@")
        self._where = parse_url(f"{SCHEMES[scheme]}://{login}{at}all")
        self._seeds = [(each.hostname or "", each.port or 6379) for each in map(_host, hosts.split(","))]
        self._servers: dict[Address, resp.Server] = {}
        self._owners: list[Address | None] = []
        self._refreshing: asyncio.Task[None] | None = None

    async def send(self, commands: Sequence[Command]) -> "list[asyncio.Future[Any]]":
        """Sends the commands; returns a future of each reply, in order. Raises ConnectionLost, and Refused if no server
        accepts the login."""
        if not self._owners:
            await self._refresh_slot_map()
        return [self._ask_at_once(command) or _reply_of(self._ask(command)) for command in commands]

    async def receive(
        self, commands: Sequence[Command], replies: "Sequence[asyncio.Future[Any]]", brief: bool
    ) -> list[Any]:
        """The replies, after redirects, in which errors are `Refused` objects. `brief`: the caller has a fallback.
        Raises ConnectionLost, Refused."""
        loop = asyncio.get_running_loop()
        # A caller with a fallback does not wait for a slot to be moved.
        until = 0.0 if brief else loop.time() + resp.CALL_SECONDS
        found = []
        for command, reply in zip(commands, replies, strict=True):
            said = await self._after_redirects(command, reply)
            while _is_try_again(said) and loop.time() < until:
                await asyncio.sleep(TRY_AGAIN_SECONDS)
                said = await self._after_redirects(command, await self._ask_owner(command))
            found.append(said)
        return found

    async def each(self, command: Command) -> list[Any]:
        """The reply of every master. Raises ConnectionLost, Refused."""
        if not self._owners:
            await self._refresh_slot_map()
        return [await (await self._server(each).open()).ask(command) for each in self._masters()]

    async def probe(self) -> None:
        """Returns when any server answers. Raises ConnectionLost, Refused."""
        error: Exception = resp.ConnectionLost()
        asked = [asyncio.create_task(resp.Server(self._at(address)).probe()) for address in self._known()]
        try:
            for answer in asyncio.as_completed(asked):  # in parallel: one may hang while others answer
                try:
                    return await answer
                except (resp.ConnectionLost, resp.Refused) as its:
                    error = its
        finally:
            for each in asked:
                each.add_done_callback(resp.retrieve_exception)
                each.cancel()
        raise error

    def close(self) -> None:
        """Closes all connections; whoever waits for the slot map gets ConnectionLost."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        for server in self._servers.values():
            server.close()

    def _ask_at_once(self, command: Command) -> "asyncio.Future[Any] | None":
        """Sends the command without a task, if it goes to one server whose connection is open; else None."""
        if _name(command) in _OF_ALL or _name(command) == "SCAN":
            return None
        address = self._owners[_slot(command)]
        server = self._servers.get(address) if address else None
        return server.opened.ask(command) if server and server.opened else None

    async def _after_redirects(self, command: Command, reply: "asyncio.Future[Any]") -> Any:
        """The reply; if that is a redirect, the reply of the server that it names."""
        try:
            said = await reply
        except resp.ConnectionLost:
            self._start_refresh()
            raise
        redirect = _redirect_of(said)
        return said if redirect is None else await self._follow_redirects(command, *redirect)

    async def _ask(self, command: Command) -> Any:
        if _name(command) in _OF_ALL:
            return await self._ask_all(command)
        if _name(command) == "SCAN":
            return await self._scan(command)
        return await self._after_redirects(command, await self._ask_owner(command))

    async def _ask_owner(self, command: Command) -> "asyncio.Future[Any]":
        """Sends the command to its slot's owner; returns a future of the reply."""
        owner = self._owner(command)
        try:
            opened = await self._server(owner).open()
        except resp.ConnectionLost:  # nothing was sent yet, so another server may be asked, if the slot has a new owner
            await self._refresh_slot_map()
            if self._owner(command) == owner:
                raise
            opened = await self._server(self._owner(command)).open()
        return opened.ask(command)

    async def _follow_redirects(self, command: Command, address: Address, for_good: bool) -> Any:
        for _ in range(MAX_REDIRECTS):
            if for_good:
                self._owners[_slot(command)] = address
                self._start_refresh()
            opened = await self._server(address).open()
            if not for_good:
                opened.ask(("ASKING",))
            said = await opened.ask(command)
            redirect = _redirect_of(said)
            if redirect is None:
                return said
            address, for_good = redirect
        return said

    async def _ask_all(self, command: Command) -> Any:
        """Sends the command to every master; replies that are lists are concatenated, else the first is returned, or
        the first error."""
        replies = await self.each(command)
        if all(isinstance(reply, list) for reply in replies):
            return [one for reply in replies for one in reply]
        return next((reply for reply in replies if isinstance(reply, resp.Refused)), replies[0])

    async def _scan(self, command: Command) -> Any:
        """SCAN over one master after the other; the cursor is `<number of the master>/<its cursor>`."""
        at, _, cursor = str(command[1]).rpartition("/")
        masters, here = self._masters(), int(at or 0)
        if here >= len(masters):  # there are fewer masters than when the scan began
            return ["0", []]
        said = await (await self._server(masters[here]).open()).ask(("SCAN", cursor, *command[2:]))
        if isinstance(said, resp.Refused):
            return said
        here += said[0] == "0"
        return ["0" if here == len(masters) else f"{here}/{said[0]}", said[1]]

    def _owner(self, command: Command) -> Address:
        owner = self._owners[_slot(command)]
        if owner is None:  # no server owns this slot
            raise resp.ConnectionLost
        return owner

    def _masters(self) -> list[Address]:
        return sorted({owner for owner in self._owners if owner is not None})

    def _known(self) -> list[Address]:
        """All known servers, connected ones first, since trying one that is down can take a second."""
        opened = [address for address, server in self._servers.items() if server.opened]
        return list(dict.fromkeys([*opened, *self._servers, *self._seeds]))

    def _drop_former_servers(self) -> None:
        """Forgets servers that are no longer in the slot map: if servers restart under new addresses, the old ones
        would be tried for ever."""
        needed = {*self._masters(), *self._seeds}
        for address, server in list(self._servers.items()):
            if address not in needed and server.is_at_rest:
                del self._servers[address]
                server.close()

    def _server(self, address: Address) -> resp.Server:
        if address not in self._servers:
            self._servers[address] = resp.Server(self._at(address))
        return self._servers[address]

    def _at(self, address: Address) -> dict[str, Any]:
        return {**self._where, "host": address[0], "port": address[1]}

    async def _refresh_slot_map(self) -> None:
        """Reads the slot map, once for all concurrent callers. Raises ConnectionLost, Refused."""
        await resp.result_of(self._start_refresh())

    def _start_refresh(self) -> "asyncio.Task[None]":
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._read_slot_map())
            self._refreshing.add_done_callback(resp.retrieve_exception)
        return self._refreshing

    async def _read_slot_map(self) -> None:
        """Reads the slot map from the first server that answers and is not cut off from the others; the very first time
        from any that answers. Raises ConnectionLost, Refused."""
        error: Exception = resp.ConnectionLost()
        for address in self._known():
            try:
                opened = await self._server(address).open()
                state = await opened.ask(("CLUSTER", "INFO"))
                told = await opened.ask(("CLUSTER", "SLOTS"))
            except (resp.ConnectionLost, resp.Refused) as its:
                error = its
                continue
            if isinstance(told, resp.Refused):
                error = told
            elif told and ("cluster_state:ok" in state or not self._owners):
                self._owners = _owners(told, address)
                self._drop_former_servers()
                return
        raise error


def _reply_of(asking: Coroutine[Any, Any, Any]) -> "asyncio.Future[Any]":
    """A future of the coroutine's result, which others may complete earlier, such as with an exception."""
    loop = asyncio.get_running_loop()
    task, reply = loop.create_task(asking), loop.create_future()

    def done(task: "asyncio.Task[Any]") -> None:
        if task.cancelled() or reply.done():
            resp.retrieve_exception(task)
        elif error := task.exception():
            reply.set_exception(error)
            reply.exception()
        else:
            reply.set_result(task.result())

    task.add_done_callback(done)
    return reply


def _owners(told: Sequence[Any], by: Address) -> list[Address | None]:
    """The owner of each slot, from the reply `told` to `CLUSTER SLOTS`; without a host it is the server `by` itself."""
    owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_ in told:
        owners[first : last + 1] = [(host or by[0], int(port))] * (last - first + 1)
    return owners


def _name(command: Command) -> str:
    return str(command[0]).upper()


def _slot(command: Command) -> int:
    """The slot of the command's first key; slot 0 for a command without keys."""
    name = _name(command)
    if name in _OF_ANY:
        return 0
    key = command[3] if name in ("EVAL", "EVALSHA") else command[1]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def _redirect_of(said: Any) -> tuple[Address, bool] | None:
    """The address in a redirect, and whether it is permanent (`MOVED 3999 127.0.0.1:6381`) or not (`ASK …`). None for
    any other reply."""
    if not isinstance(said, resp.Refused):
        return None
    kind, *rest = str(said).split()
    if kind not in ("MOVED", "ASK"):
        return None
    host, _, port = rest[1].rpartition(":")
    return (host, int(port)), kind == "MOVED"


def _is_try_again(said: Any) -> bool:
    """Whether the command was not executed because its keys are split between two servers (TRYAGAIN)."""
    return isinstance(said, resp.Refused) and str(said).startswith("TRYAGAIN")


def _host(text: str) -> Any:
    return urlsplit(f"//{text}")
