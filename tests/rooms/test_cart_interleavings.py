"""Merges of carts that stop, sleep and wake between any two calls to Redis, among everything else that may happen to a
guest's cart: no piece is lost, none is there twice, and what was bought or removed does not come back."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, permutations, product
from typing import Any
from uuid import UUID, uuid4

import pytest

from quartet import cart
from quartet.cart.store import Carts
from quartet.stores import resp
from quartet.stores.redis import Arg, RedisStore

MUG = "MUG"
ORDERED = 2
AT_ONCE, MOST_CALLS = 50, 100


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of thousands of calls are made: on a busy machine one of them may wait for longer than a second."""
    monkeypatch.setattr(resp, "CALL_SECONDS", 60.0)


@dataclass(frozen=True)
class Held:
    """How many mugs everybody has, and what is known besides: all that happens happens at once here."""

    guest: int = ORDERED
    ann: int = 0
    bob: int = 0
    moved: str | None = None
    ann_is_gone: bool = False
    is_bought: bool = False

    def after(self, what: str) -> "Held":
        """One of what may happen."""
        match what:
            case "ann merges" | "bob merges":
                who = what.removesuffix(" merges")
                if not self.guest or (self.ann_is_gone and who == "ann"):
                    return self
                received: dict[str, Any] = {who: getattr(self, who) + self.guest}
                return replace(self, guest=0, moved=who, **received)
            case "clear" | "none":
                return replace(self, guest=0)
            case "more":
                return replace(self, guest=self.guest + 1, moved=None)
            case "ann goes":
                return replace(self, ann=0, ann_is_gone=True)
            case "bought" if not self.is_bought:
                whose = self.moved or "guest"
                left: dict[str, Any] = {whose: max(0, getattr(self, whose) - ORDERED)}
                return replace(self, is_bought=True, **left)
        return self

    @property
    def mugs(self) -> tuple[int, int, int]:
        """What can be seen."""
        return self.guest, self.ann, self.bob


@dataclass
class Place:
    """A guest's cart with mugs in it, and two who may sign in with it."""

    redis: RedisStore
    token: str = field(default_factory=cart.new_token)
    people: dict[str, UUID] = field(default_factory=lambda: {"ann": uuid4(), "bob": uuid4()})
    sleepers: "list[Sleeper]" = field(default_factory=list)

    async def open(self) -> "Place":
        await Carts(self.redis, 1).add(self.token, MUG, ORDERED)
        return self

    async def do(self, what: str, redis: RedisStore | None = None) -> None:
        """One of what may happen, over this line."""
        redis = redis or self.redis
        carts = Carts(redis, 1)
        match what:
            case "ann merges" | "bob merges":
                await carts.merge(self.token, self.people[what.removesuffix(" merges")])
            case "look":
                await carts.lines(self.token)
            case "clear":
                await carts.clear(self.token)
            case "none":
                await carts.put(self.token, MUG, 0)
            case "more":
                await carts.add(self.token, MUG, 1)
            case "bought":
                await cart.take_bought(redis, cart.name_of(self.token), {MUG: ORDERED}, "order")
            case "ann goes":
                await carts.forget(self.people["ann"])
            case _:
                raise ValueError(what)

    async def mugs(self) -> tuple[int, int, int]:
        carts = Carts(self.redis, 1)
        owners: list[str | UUID] = [self.token, *self.people.values()]
        guest, ann, bob = [(await carts.lines(owner)).get(MUG, 0) for owner in owners]
        return guest, ann, bob


class Sleeper:
    """A merge that falls asleep at a step. It may never wake up."""

    def __init__(self, place: Place, who: str, step: str) -> None:
        self._place, self._who, self._at = place, who, step
        self._asleep, self._woken = asyncio.Event(), asyncio.Event()

    async def fall_asleep(self) -> bool:
        """False if there was nothing to merge."""
        carts = Carts(self._place.redis, 1, self._step)
        self._task = asyncio.create_task(carts.merge(self._place.token, self._place.people[self._who]))
        return await _until(self._asleep, self._task)

    async def wake(self) -> None:
        self._woken.set()
        await self._task

    async def die(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _step(self, name: str) -> None:
        if name == self._at:
            self._asleep.set()
            await self._woken.wait()


async def _until(event: asyncio.Event, task: "asyncio.Task[None]") -> bool:
    """Whether it came; not if the task ended without."""
    coming = asyncio.create_task(event.wait())
    await asyncio.wait([task, coming], return_when=asyncio.FIRST_COMPLETED)
    coming.cancel()
    return not task.done()


# --- one after the other ---------------------------------------------------------------------------------------------

ASLEEP = {f"{who} {step}": (who, f"merge {step}") for who in ("ann", "bob") for step in ("noted", "received")}
EVENTS = (*ASLEEP, "wake", "ann merges", "bob merges", "look", "clear", "none", "more", "bought", "ann goes")


@pytest.mark.parametrize("first", ["ann noted", "ann received"])
async def test_whatever_follows_a_merge_that_stopped_is_as_if_it_had_happened_whole_or_not_at_all(
    redis: RedisStore, first: str
) -> None:
    stories = [(first, *rest) for rest in product(EVENTS, repeat=3)]
    await _all(_told(redis, story) for story in stories)


async def _all(plays: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Each in a place of its own, so many at once."""
    rest = iter(plays)
    while batch := list(islice(rest, AT_ONCE)):
        await asyncio.gather(*batch)


async def _told(redis: RedisStore, story: Sequence[str]) -> None:
    place, held, sleepers = await Place(redis).open(), Held(), list[tuple[Sleeper, str]]()
    for what in story:
        if what == "wake":
            if sleepers:
                sleeper, still_to_come = sleepers.pop(0)
                await sleeper.wake()
                held = held.after(still_to_come)
        elif what in ASLEEP:
            who, step = ASLEEP[what]
            sleeper = Sleeper(place, who, step)
            if await sleeper.fall_asleep():
                is_noted = step == "merge noted"
                sleepers.append((sleeper, f"{who} merges" if is_noted else ""))
                held = held if is_noted else held.after(f"{who} merges")
        else:
            await place.do(what)
            held = held.after(what)
    for sleeper, _ in sleepers:
        await sleeper.die()
    assert await place.mugs() == held.mugs, story


# --- at the same time ------------------------------------------------------------------------------------------------

OTHERS = ("ann merges", "bob merges", "look", "clear", "none", "more", "bought", "ann goes")


class Gated(RedisStore):
    """Stops before every call until it is let on."""

    def __init__(self, redis: RedisStore, stop: Callable[[], Awaitable[None]]) -> None:
        self._real, self._stop = redis, stop

    async def call(self, *command: Arg) -> Any:
        await self._stop()
        return await self._real.call(*command)


class Actor:
    """Somebody who does one thing, call by call."""

    def __init__(self, place: Place, what: str) -> None:
        self._stopped, self._let_on = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(place.do(what, Gated(place.redis, self._stop)))

    async def _stop(self) -> None:
        self._stopped.set()
        await self._let_on.wait()
        self._let_on.clear()

    async def go_on(self, calls: int) -> None:
        """For so many calls, or to the end."""
        for _ in range(calls):
            if await _until(self._stopped, self._task):
                self._stopped.clear()
                self._let_on.set()
        if not await _until(self._stopped, self._task):
            self._task.result()


def _outcomes(begun: Held, whats: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """One after the other in any order; a merge that was called off again and again may be left to the next call."""
    for order in permutations(whats):
        for left_out in product(*([False, True] if what.endswith("merges") else [False] for what in order)):
            held = begun
            for what, is_left_out in zip(order, left_out, strict=True):
                held = held if is_left_out else held.after(what)
            yield held.mugs


@pytest.mark.parametrize("before", ["", "ann noted", "ann received"])
@pytest.mark.parametrize("other", OTHERS)
async def test_a_merge_beside_anything_ends_as_one_after_the_other_would(
    redis: RedisStore, other: str, before: str
) -> None:
    """Call by call, each standing still at any point until the other has come to any, also where a merge was left
    unfinished before."""
    whats = ("ann merges", other)
    begun = Held().after("ann merges") if before == "ann received" else Held()
    allowed = set(_outcomes(begun, whats))

    async def play(first: int, turns: Sequence[int]) -> None:
        place = await Place(redis).open()
        if before:
            sleeper = Sleeper(place, *ASLEEP[before])
            await sleeper.fall_asleep()
            await sleeper.die()
        actors = [Actor(place, what) for what in whats]
        for n, calls in enumerate([*turns, MOST_CALLS, MOST_CALLS]):
            await actors[(first + n) % 2].go_on(calls)
        assert await place.mugs() in allowed, (whats[first], turns)

    await _all(play(first, turns) for first, *turns in product([0, 1], range(5), range(1, 5), range(1, 5)))
