"""Carts in Redis: a hash each, SKU to quantity. Every change is one Lua script, so concurrent changes lose nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from quartet.cart.model import MOST_LINES, MOST_PIECES, CartFull, Owner, name_of
from quartet.kernel.steps import Step, unwatched
from quartet.stores.files import Script, lua
from quartet.stores.redis import Arg, RedisStore

ADD = lua(__file__, "add.lua")
LOOK = lua(__file__, "look.lua")
CLEAR = lua(__file__, "clear.lua")
TAKE = lua(__file__, "take.lua")
PREPARE = lua(__file__, "prepare.lua")
RECEIVE = lua(__file__, "receive.lua")
SETTLE = lua(__file__, "settle.lua")

_DAY = 86_400
# How long it is remembered that an event took its pieces out, whose a guest's cart became, and that a merge was called
# off: longer than the outbox ever retries, a payment stays pending, or a process is slow.
REMEMBERED_SECONDS = 30 * _DAY
# A guest's cart that nobody comes back to: one costs a stranger a single call.
NEW_GUEST_DAYS = 2
# A cart with more lines takes in no other: merges alone know no limit of lines.
MOST_LINES_TO_MERGE = 1000
# A merge is called off by whoever comes to the guest's cart in between; after so many the next call may have it.
_TRIES = 3


@dataclass(frozen=True)
class Carts:
    """All carts of a shop; `days` is the TTL of an unused one."""

    redis: RedisStore
    days: int
    step: Step = unwatched

    async def lines(self, owner: Owner) -> dict[str, int]:
        """What is in it; looking keeps it alive."""
        _, *held = await _run(self.redis, LOOK, key(owner), [], [self._ttl])
        return _lines(held)

    async def add(self, owner: Owner, sku: str, qty: int) -> dict[str, int]:
        """Adds; returns the whole cart. Raises CartFull and changes nothing."""
        return await self._change(owner, sku, qty, "add")

    async def put(self, owner: Owner, sku: str, qty: int) -> dict[str, int]:
        """Sets, 0 removes; returns the whole cart. Raises CartFull and changes nothing."""
        return await self._change(owner, sku, qty, "set")

    async def clear(self, owner: Owner) -> None:
        """Empties it."""
        await _run(self.redis, CLEAR, key(owner), [], [])

    async def forget(self, user_id: UUID) -> None:
        """Empties the cart of an erased user and leaves a tombstone: a late merge or request adds nothing again."""
        await self.redis.call("SET", _gone(key(user_id)), 1, "EX", 2 * self._ttl)
        await self.redis.call("DEL", key(user_id))

    async def merge(self, token: str, user_id: UUID) -> None:
        """A guest's cart becomes part of a user's. The user's gets all of it at once (RECEIVE); since the two carts may
        lie on two servers, a note at the guest's is written before and removed after. Stopped at any point, the next
        call to the guest's cart ends it, and no piece is lost or counted twice. If the user's cart can't take in more,
        or the user was erased, the guest's stays as it is."""
        theirs, ours = key(token), key(user_id)
        for _ in range(_TRIES):
            note = f"{user_id} {uuid4().hex}"
            _, *held = await _run(self.redis, PREPARE, theirs, [], [note, self._ttl])
            if not held:
                return
            await self.step("merge noted")
            # The fate outlives the guest's note, else a merge found late could be counted again.
            args: list[Arg] = [2 * self._ttl, MOST_LINES_TO_MERGE, MOST_PIECES, self._ttl, *held]
            fate = await self.redis.run(RECEIVE, [ours, _fate(note), _gone(ours)], args)
            await self.step("merge received")
            await _settle(self.redis, theirs, note, fate)
            await self.step("merge settled")
            if fate != "off":
                return

    async def _change(self, owner: Owner, sku: str, qty: int, how: str) -> dict[str, int]:
        held = key(owner)
        days = self.days if isinstance(owner, UUID) else min(self.days, NEW_GUEST_DAYS)
        args: list[Arg] = [sku, qty, how, MOST_PIECES, MOST_LINES, self._ttl, days * _DAY]
        said, *rest = await _run(self.redis, ADD, held, [_moved(held), _gone(held)], args)
        if said == "qty":
            raise _full("qty", f"at most {MOST_PIECES} of one thing fit into a cart, and there are {rest[0]} in it")
        if said == "lines":
            raise _full("sku", f"at most {MOST_LINES} different things fit into a cart")
        return _lines(rest)

    @property
    def _ttl(self) -> int:
        return self.days * _DAY


async def lines(redis: RedisStore, owner: Owner) -> dict[str, int]:
    """What is in a cart: SKU to quantity. Unlike `Carts.lines` it changes nothing: it neither keeps the cart alive nor
    ends a merge."""
    return {sku: int(qty) for sku, qty in (await redis.call("HGETALL", key(owner))).items()}


async def take_bought(redis: RedisStore, whose: UUID | str, items: Mapping[str, int], event_id: UUID | str) -> bool:
    """Removes what was bought from a cart, a user's or a guest's by its name, once per event (the order's id will do);
    what was added meanwhile stays. If the guest's became part of a user's since, from that. False: done before."""
    held = _key(whose)
    flat = [part for line in items.items() for part in line]
    said, *user = await _run(
        redis, TAKE, held, [_moved(held), f"{held}:bought:{event_id}"], [REMEMBERED_SECONDS, *flat]
    )
    if said == "moved":
        return await take_bought(redis, UUID(user[0]), items, event_id)
    return said == "taken"


async def _run(redis: RedisStore, script: Script, cart: str, more: Sequence[str], args: Sequence[Arg]) -> list[str]:
    """The result of a script on a cart. A merge in progress, or left unfinished, is ended before: called off, if the
    user's side has not received its pieces by now. The call that began it may be dead or only slow; it learns of that
    there."""
    while True:
        reply: list[str] = await redis.run(script, [cart, f"{cart}:merging", *more], args)
        if reply[0] != "merging":
            return reply
        note = reply[1]
        fate = await redis.call("SET", _fate(note), "off", "NX", "EX", REMEMBERED_SECONDS, "GET")
        await _settle(redis, cart, note, fate or "off")


async def _settle(redis: RedisStore, cart: str, note: str, fate: str) -> None:
    await redis.run(SETTLE, [cart, f"{cart}:merging", _moved(cart)], [note, fate, REMEMBERED_SECONDS])


def key(owner: Owner) -> str:
    """`cart:{<user id>}` or `cart:{guest:<name>}`: no token can name a user's cart, and none is readable in Redis."""
    return _key(owner if isinstance(owner, UUID) else name_of(owner))


def _key(whose: UUID | str) -> str:
    return f"cart:{{{whose}}}" if isinstance(whose, UUID) else f"cart:{{guest:{whose}}}"


def _moved(cart: str) -> str:
    """Names the user who has what was in a guest's cart, until that has something again."""
    return f"{cart}:moved"


def _gone(cart: str) -> str:
    """The tombstone of an erased user's cart."""
    return f"{cart}:gone"


def _fate(note: str) -> str:
    """Records at the user's side the outcome of a merge: 'in' or 'off', whichever comes first."""
    user_id, merge_id = note.split()
    return f"{_key(UUID(user_id))}:merged:{merge_id}"


def _lines(reply: Iterable[str]) -> dict[str, int]:
    parts = iter(reply)
    return {sku: int(qty) for sku, qty in zip(parts, parts, strict=True)}


def _full(field: str, message: str) -> CartFull:
    return CartFull(f"{field}: {message}", errors=[{"field": field, "message": message}])
