"""Requests that run at the same time, in several processes, and are let go one statement at a time.

A steered request stops before every statement and COMMIT that it sends to PostgreSQL, every command to Redis and every
step of the shop (`kernel/steps.py`). The test process decides who goes on, by dice whose seed it prints. So an
interleaving that one would wait a year for comes up in a second, and comes up again.

Two kinds of dice take turns. At every stop everybody alike; or the first of a row goes on, and goes to the end of the
row at a stop drawn before, so that it stands still there until the others have passed (after Burckhardt and others, "A
Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). Whoever waits inside PostgreSQL for
another's lock comes to no stop; after a moment the others go on without it.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from quartet.kernel.steps import Step
from quartet.stores.files import Script
from quartet.stores.postgres import Postgres, Read, Tx
from quartet.stores.redis import Command, RedisStore
from quartet.web.dependencies import Shop

HEADER = "x-steered"
# `<round>.<name>` of the request at work; empty for whatever is not steered.
WHO: ContextVar[str] = ContextVar("who", default="")
# Nobody came to a stop for so long: whoever is under way waits for a lock. The first stop is a whole request away.
PATIENCE_SECONDS = 0.02
FIRST_PATIENCE_SECONDS = 0.25
LONGEST_SECONDS = 30.0


@dataclass(frozen=True)
class Variant:
    """How a shop is to be broken, so that an attack shows what it can find. Nothing of the source is touched.

    `statements`: replacements in what is sent to PostgreSQL, (pattern, text); `scripts`: the same in Lua scripts;
    `functions`: the same in functions of the database, (name, pattern, text); `ddl`: run in the database before;
    `unscoped`: every statement commits by itself, as where a framework forgot the transaction.
    """

    statements: tuple[tuple[str, str], ...] = ()
    scripts: tuple[tuple[str, str], ...] = ()
    functions: tuple[tuple[str, str, str], ...] = ()
    ddl: tuple[str, ...] = ()
    unscoped: bool = False

    def statement(self, sql: str) -> str:
        """The statement that is sent in place of this one."""
        for pattern, text in self.statements:
            sql = re.sub(pattern, text, sql)
        return sql

    def script(self, script: Script) -> Script:
        """The script that is run in place of this one; it has no hash yet, so the server takes it whole."""
        text = script.text
        for pattern, new in self.scripts:
            text = re.sub(pattern, new, text)
        return script if text == script.text else Script(text, "0" * 40)

    async def break_in(self, pg: Postgres) -> list[str]:
        """Breaks the database; answers the functions as they were. An AssertionError says which change does not apply
        any more."""
        sound = []
        async with pg.tx() as tx:
            for sql in self.ddl:
                await tx.execute(sql)
            for name, pattern, text in self.functions:
                was = await tx.fetchval("SELECT pg_get_functiondef($1::regproc)", name)
                now = re.sub(pattern, text, was)
                assert now != was, f"{name} has nothing like {pattern}"
                await tx.execute(now)
                sound.append(was)
        return sound[::-1]


SOUND = Variant()


class _SteeredTx(Tx):
    """Stops before every statement."""

    def __init__(self, inner: Read, stop: Step, variant: Variant) -> None:
        super().__init__(inner._connection)
        self._stop, self._variant = stop, variant

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        return await super().fetch(await self._at(sql), *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        return await super().fetchrow(await self._at(sql), *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return await super().fetchval(await self._at(sql), *args)

    async def execute(self, sql: str, *args: Any) -> str:
        return await super().execute(await self._at(sql), *args)

    async def _at(self, sql: str) -> str:
        if WHO.get():
            await self._stop(" ".join(re.sub(r"--.*", "", sql).split())[:70])
        return self._variant.statement(sql)


class SteeredPostgres(Postgres):
    """Stops before every statement and every COMMIT."""

    def __init__(self, url: str, stop: Step, variant: Variant) -> None:
        super().__init__(url)
        self._stop, self._variant = stop, variant

    @asynccontextmanager
    async def read(self, seconds: float | None = None) -> AsyncIterator[Read]:
        async with super().read(seconds) as read:
            yield _SteeredTx(read, self._stop, self._variant)

    @asynccontextmanager
    async def once(self, seconds: float | None = None) -> AsyncIterator[Tx]:
        async with super().once(seconds) as tx:
            yield _SteeredTx(tx, self._stop, self._variant)

    @asynccontextmanager
    async def tx(self, seconds: float | None = None) -> AsyncIterator[Tx]:
        async with super().once(seconds) if self._variant.unscoped else super().tx(seconds) as tx:
            yield _SteeredTx(tx, self._stop, self._variant)
            await self._stop("COMMIT")


class SteeredRedis(RedisStore):
    """Stops before every command that is not the limiter's."""

    def __init__(self, url: str, stop: Step, variant: Variant) -> None:
        super().__init__(url)
        self._stop, self._variant = stop, variant

    async def call(self, *command: Any) -> Any:
        await self._stop(" ".join(str(part) for part in command[:2])[:70].partition("\n")[0])
        return await super().call(*command)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        if not keys[0].startswith("limit:"):
            await self._stop(f"script on {keys[0]}")
        return await super().run(self._variant.script(script), keys, args)

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        await self._stop(" ".join(str(part) for part in commands[0][:2])[:70])
        return await super().pipeline(commands)


@asynccontextmanager
async def steered(shop: Shop, stop: Step, variant: Variant = SOUND) -> AsyncIterator[Shop]:
    """The same shop, stopping wherever `stop` lets it."""
    settings = shop.settings
    assert settings.postgres_url and settings.redis_url
    pg = SteeredPostgres(settings.postgres_url, stop, variant)
    redis = SteeredRedis(settings.redis_url, stop, variant)
    try:
        yield replace(shop, stores=replace(shop.stores, pg=pg, redis=redis), step=stop)
    finally:
        await pg.close()
        await redis.close()


class Line:
    """A process's end of the line to the helm: `await line.stop("COMMIT")` returns when this request may go on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._count = reader, writer, count()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def listen(self) -> None:
        """For as long as there is a helm."""
        async for said in self._reader:
            self._waiting.pop(int(said)).set_result(None)
        for future in self._waiting.values():
            future.set_result(None)
        self._writer.close()

    async def stop(self, at: str) -> None:
        """Whatever is not steered goes on at once."""
        if not (who := WHO.get()) or self._writer.is_closing():
            return
        number = next(self._count)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps([number, who, at]).encode() + b"\n")
        await self._waiting[number]


@dataclass
class Schedule:
    """Who goes on, in one round. `trace` is what happened, in order."""

    dice: random.Random
    trace: list[str] = field(default_factory=list)
    _stopped: dict[str, list[tuple[str, asyncio.Future[None]]]] = field(default_factory=dict)
    _blocked: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def stop(self, who: str, at: str) -> None:
        """Returns when it is this one's turn."""
        turn = asyncio.get_running_loop().create_future()
        self._stopped.setdefault(who, []).append((at, turn))
        self._blocked.discard(who)
        self._seen.add(who)
        self._news.set()
        await turn

    async def run(self, calls: Mapping[str, Callable[[], Awaitable[Any]]]) -> dict[str, Any]:
        """Makes all the calls; answers what they answered."""
        tasks = {who: asyncio.create_task(_named(call)) for who, call in calls.items()}
        for task in tasks.values():
            task.add_done_callback(lambda _: self._news.set())
        choose = self._in_a_row(tuple(calls)) if self.dice.random() < 0.5 else self._alike()
        next(choose)
        async with asyncio.timeout(LONGEST_SECONDS):
            while alive := {who for who, task in tasks.items() if not task.done()}:
                under_way = alive - self._stopped.keys()
                if under_way - self._blocked or not self._stopped:
                    await self._wait_for_news(under_way)
                    continue
                who = choose.send(sorted(self._stopped))
                at, turn = self._stopped[who].pop(self.dice.randrange(len(self._stopped[who])))
                if not self._stopped[who]:
                    del self._stopped[who]
                self.trace.append(f"{who}: {at}")
                turn.set_result(None)
                await asyncio.sleep(0)
        return {who: task.result() for who, task in tasks.items()}

    def let_go(self) -> None:
        """The round is over, whoever is left goes on."""
        for stops in self._stopped.values():
            for _, turn in stops:
                if not turn.done():
                    turn.set_result(None)
        self._stopped.clear()

    async def _wait_for_news(self, under_way: set[str]) -> None:
        patience = PATIENCE_SECONDS if under_way <= self._seen else FIRST_PATIENCE_SECONDS
        try:
            async with asyncio.timeout(patience if self._stopped else None):
                await self._news.wait()
        except TimeoutError:
            self._blocked |= under_way
            self.trace += [f"{who}: …" for who in sorted(under_way)]
        self._news.clear()

    def _alike(self) -> Generator[Any, list[str], None]:
        stopped: list[str] = yield
        while True:
            stopped = yield self.dice.choice(stopped)

    def _in_a_row(self, names: tuple[str, ...]) -> Generator[Any, list[str], None]:
        row = self.dice.sample(names, len(names))
        patience = {name: self.dice.randrange(12) for name in names if self.dice.random() < 0.7}
        stopped: list[str] = yield
        while True:
            first = min(stopped, key=row.index)
            if patience.get(first) == 0:
                row.remove(first)
                row.append(first)
            patience[first] = patience.get(first, 0) - 1
            stopped = yield min(stopped, key=row.index)


async def _named(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


class Helm:
    """Where every process's line ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._schedules: dict[str, Schedule] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def schedule(self, name: str, dice: random.Random) -> AsyncIterator[Schedule]:
        """A round of this name."""
        schedule = self._schedules[name] = Schedule(dice)
        try:
            yield schedule
        finally:
            del self._schedules[name]
            schedule.let_go()

    async def stop(self, at: str) -> None:
        """For what is steered in this very process."""
        await self._stop(WHO.get(), at)

    async def _stop(self, who: str, at: str) -> None:
        round_, _, name = who.partition(".")
        if schedule := self._schedules.get(round_):
            await schedule.stop(name, at)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def pass_on(number: int, who: str, at: str) -> None:
            await self._stop(who, at)
            writer.write(b"%d\n" % number)

        async for line in reader:
            task = asyncio.create_task(pass_on(*json.loads(line)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        writer.close()


@asynccontextmanager
async def at_the_helm(folder: Path) -> AsyncIterator[Helm]:
    """A helm whose socket lies in that folder, whose path must be short."""
    helm = Helm(folder / "helm")
    server = await asyncio.start_unix_server(helm._serve, helm.path)
    try:
        yield helm
    finally:
        server.close()
