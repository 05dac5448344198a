"""Between any two effects of a purchase stands a step, and every step is one that the crash tests kill at."""

import ast
import inspect
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from use_cases import STEPS, USE_CASES, LocalHouse, ask, finished, prepared, told, without_delay

import quartet
from quartet.kernel.settings import Settings
from quartet.stores import Stores
from quartet.stores.files import Script
from quartet.stores.postgres import Postgres, Tx
from quartet.stores.redis import Arg, Command, RedisStore
from quartet.web import limits
from quartet.web.dependencies import Shop


class Notes:
    """The steps that were passed, and every effect that was followed by none before the next one."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.faults: list[str] = []
        self.deaf_to: str | None = None
        self._last: ContextVar[str | None] = ContextVar("last", default=None)  # each task has its own
        self._bare: set[str] = set()

    def effect(self, what: str) -> None:
        """Something happened that a crash does not undo."""
        if (before := self._last.get()) in self._bare:
            self.faults.append(f"no step between {before} and {what}")
            self._bare.discard(before or "")
        name = f"{what} (after {self.steps[-1:]})"
        self._last.set(name)
        self._bare.add(name)

    async def step(self, name: str) -> None:
        """For the shop."""
        if name == self.deaf_to:
            return
        self.steps.append(name)
        self._bare.discard(self._last.get() or "")
        self._last.set(None)

    def begin(self) -> None:
        """Forgets what was."""
        self.steps, self.faults, self.deaf_to, self._bare = [], [], None, set()
        self._last.set(None)

    def found(self) -> list[str]:
        """What is wrong, when the use case is over."""
        return self.faults + [f"no step after {what}" for what in sorted(self._bare)]


class NotedPostgres(Postgres):
    """A transaction that wrote something is an effect."""

    def __init__(self, settings: Settings, notes: Notes) -> None:
        super().__init__(settings.postgres_url or "")
        self._notes = notes

    @asynccontextmanager
    async def tx(self, seconds: float | None = None) -> AsyncIterator[Tx]:
        async with super().tx(seconds) as tx:
            yield tx
            wrote = await tx.fetchval("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
        if wrote:
            self._notes.effect("a commit")

    @asynccontextmanager
    async def once(self, seconds: float | None = None) -> AsyncIterator[Tx]:
        async with self.tx(seconds) as tx:
            yield tx


class NotedRedis(RedisStore):
    """A command that writes is an effect; counting requests is not."""

    def __init__(self, settings: Settings, notes: Notes) -> None:
        super().__init__(settings.redis_url or "")
        self._notes = notes

    async def call(self, *command: Arg) -> Any:
        found = await super().call(*command)
        if command[0] not in ("GET", "HGET", "HGETALL", "EVAL", "EVALSHA"):  # `run` tells its own
            self._notes.effect(f"Redis {command[0]!s}")
        return found

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Arg] = ()) -> Any:
        found = await super().run(script, keys, args)
        if script is not limits.SCRIPT:
            self._notes.effect(f"a script on {keys[0]}")
        return found

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        found = await super().pipeline(commands)
        if {command[0] for command in commands} <= {"GET", "GETRANGE", "EXISTS"}:  # only looks
            return found
        self._notes.effect(f"Redis {commands[0][0]!s} and others")
        return found


class Noted:
    """Whatever is asked of the thing inside, and takes time, is an effect, but for looking into a store."""

    _LOOKS = ("find_one", "find", "scan", "count", "aggregate", "search", "get", "ping")

    def __init__(self, inner: Any, notes: Notes) -> None:
        self._inner, self._notes = inner, notes

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name == "collection":
            return lambda *args: Noted(found(*args), self._notes)
        if name in self._LOOKS or not inspect.iscoroutinefunction(found):
            return found

        async def noted(*args: Any, **named: Any) -> Any:
            try:
                return await found(*args, **named)
            finally:
                self._notes.effect(f"{type(self._inner).__name__}.{name}")

        return noted


class NotedHouse(LocalHouse):
    """Every way out of it is watched."""

    def __init__(self, shop: Shop) -> None:
        self.notes = notes = Notes()
        stores: Any = shop.stores
        watched: Any = (
            NotedPostgres(shop.settings, notes), Noted(stores.mongo, notes), NotedRedis(shop.settings, notes),
            Noted(stores.search, notes),
        )  # fmt: skip
        super().__init__(shop, Stores(*watched))
        self.providers["sandbox"] = Noted(self.providers["sandbox"], notes)
        self.held = replace(self.held, mail=Noted(shop.mail, notes))

    async def step(self, name: str) -> None:
        await super().step(name)
        await self.notes.step(name)

    async def close(self) -> None:
        await super().close()
        await self.held.stores.pg.close()
        await self.held.stores.redis.close()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return without_delay(settings)


@pytest.fixture
async def houses(shop: Shop) -> AsyncIterator[Mapping[bool, NotedHouse]]:
    """One that captures by hand, and one that does not."""
    made = {}
    for manual in (False, True):
        settings = shop.settings.model_copy(update={"payment_capture": "manual" if manual else "automatic"})
        made[manual] = NotedHouse(replace(shop, settings=settings))
    yield made
    for house in made.values():
        await house.close()


async def test_between_any_two_effects_stands_a_step_with_a_name(houses: Mapping[bool, NotedHouse]) -> None:
    for name, case in USE_CASES.items():
        house = houses[case.manual]
        for keyed in case.keyed:
            corner = await prepared(house, case)
            house.notes.begin()
            answer = await ask(house, corner, case.act, "key" if keyed else None)
            with told(f"{name}, {'with' if keyed else 'without'} a key"):
                assert house.notes.found() == []
                assert tuple(house.notes.steps) == case.passes(keyed=keyed)
                assert (answer.status_code if answer is not None else 0) == case.status
                await finished(house, corner, case)
                assert await corner.stands() == case.ends


async def test_a_step_left_out_is_missed(houses: Mapping[bool, NotedHouse]) -> None:
    house = houses[False]
    for name in ("order", "pay", "cancel paid", "refund all", "webhook", "order what is short"):
        for step in USE_CASES[name].steps:
            corner = await prepared(house, USE_CASES[name])
            house.notes.begin()
            house.notes.deaf_to = step
            await ask(house, corner, USE_CASES[name].act, "key")
            assert len(house.notes.found()) == 1, (name, step)


def test_every_step_in_the_code_of_the_purchase_is_killed_at() -> None:
    """A step that no use case comes to would never be tried."""
    source = Path(quartet.__file__).parent
    files = [*(source / "checkout").glob("*.py"), *(source / "notify").glob("*.py")]
    files += [source / "web" / "idempotency.py", source / "sync" / "relay.py"]
    assert {name for file in files for name in _steps_of(file)} == STEPS


def _steps_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
            (name,) = node.args
            assert isinstance(name, ast.Constant), f"{file.name}: a step's name is a plain word"
            assert isinstance(name.value, str), f"{file.name}: {name.value!r}"
            yield name.value
