"""Carts in Redis: a hash each, SKU to quantity. Every change is one script, so none is lost between two clicks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from quartet.cart.model import MOST_LINES, MOST_PIECES, CartFull, Owner, name_of
from quartet.kernel.steps import Step, unwatched
from quartet.stores.files import lua
from quartet.stores.redis import RedisStore

ADD = lua(__file__, "add.lua")
TAKE = lua(__file__, "take.lua")
PREPARE = lua(__file__, "prepare.lua")
RECEIVE = lua(__file__, "receive.lua")

_DAY = 86_400
# How long it is remembered that an event took its pieces out: longer than the outbox ever retries.
BOUGHT_SECONDS = 30 * _DAY


@dataclass(frozen=True)
class Carts:
    """All carts of a shop; `days` an untouched one is kept."""

    redis: RedisStore
    days: int
    step: Step = unwatched

    async def lines(self, owner: Owner) -> dict[str, int]:
        """What is in it; looking keeps it alive."""
        found, _ = await self.redis.pipeline([("HGETALL", key(owner)), ("EXPIRE", key(owner), self._ttl)])
        return {sku: int(qty) for sku, qty in found.items()}

    async def add(self, owner: Owner, sku: str, qty: int) -> dict[str, int]:
        """Adds; answers the whole cart. Raises CartFull and changes nothing."""
        return await self._change(owner, sku, qty, "add")

    async def put(self, owner: Owner, sku: str, qty: int) -> dict[str, int]:
        """Sets, 0 removes; answers the whole cart. Raises CartFull and changes nothing."""
        return await self._change(owner, sku, qty, "set")

    async def clear(self, owner: Owner) -> None:
        """Empties it."""
        await self.redis.call("DEL", key(owner))

    async def merge(self, token: str, user_id: UUID) -> None:
        """A guest's cart becomes part of a user's. The user's has all of it at once (RECEIVE); since the two carts may
        lie on two servers, a note at the guest's goes before and is taken away after. Stopped at any point, the next
        call for this token finishes it, and no piece is lost or counted twice."""
        ours = uuid4().hex
        while note := await self._prepare(token, user_id, ours):
            await self.step("merge noted")
            merge_id, to, items = note
            flat = _flat(items)
            mark = f"{key(to)}:merged:{merge_id}"
            # The mark outlives the guest's note, else a merge found late could be counted again.
            await self.redis.run(RECEIVE, [key(to), mark], [2 * self._ttl, MOST_PIECES, self._ttl, *flat])
            await self.step("merge received")
            keys = [key(token), _note(token), _moved(key(token))]
            await self.redis.run(TAKE, keys, ["settle", merge_id, *flat])
            await self.step("merge settled")
            if merge_id == ours:  # and not one that was left unfinished, after which there may be more
                return

    async def _prepare(self, token: str, user_id: UUID, ours: str) -> tuple[str, UUID, dict[str, int]] | None:
        reply = await self.redis.run(PREPARE, [key(token), _note(token)], [ours, str(user_id), self._ttl])
        note = _pairs(reply)
        if not note:
            return None
        merge_id, to = note.pop(":id"), UUID(note.pop(":user"))
        return merge_id, to, {sku: int(qty) for sku, qty in note.items()}

    async def _change(self, owner: Owner, sku: str, qty: int, how: str) -> dict[str, int]:
        keys = [key(owner), _moved(key(owner))]
        said, *rest = await self.redis.run(ADD, keys, [sku, qty, how, MOST_PIECES, MOST_LINES, self._ttl])
        if said == "qty":
            raise _full("qty", f"at most {MOST_PIECES} of one thing fit into a cart, and there are {rest[0]} in it")
        if said == "lines":
            raise _full("sku", f"at most {MOST_LINES} different things fit into a cart")
        return {sku: int(qty) for sku, qty in _pairs(rest).items()}

    @property
    def _ttl(self) -> int:
        return self.days * _DAY


async def lines(redis: RedisStore, owner: Owner) -> dict[str, int]:
    """What is in a cart: SKU to quantity."""
    return {sku: int(qty) for sku, qty in (await redis.call("HGETALL", key(owner))).items()}


async def take_bought(redis: RedisStore, whose: UUID | str, items: Mapping[str, int], event_id: UUID | str) -> bool:
    """Takes what was bought out of a cart, a user's or a guest's by its name, once for each event (the order's id will
    do); what was put in meanwhile stays. Where the guest's became part of a user's since, out of that. False: done
    before."""
    held = _key(whose)
    if isinstance(whose, str):
        to, done = await redis.pipeline([("GET", _moved(held)), ("EXISTS", _bought(held, event_id))])
        held = _key(UUID(to)) if to and not done else held
    return bool(await redis.run(TAKE, [held, _bought(held, event_id)], ["once", BOUGHT_SECONDS, *_flat(items)]))


def key(owner: Owner) -> str:
    """`cart:{<user id>}` or `cart:{guest:<name>}`: no token can name a user's cart, and none is readable in Redis."""
    return _key(owner if isinstance(owner, UUID) else name_of(owner))


def _key(whose: UUID | str) -> str:
    return f"cart:{{{whose}}}" if isinstance(whose, UUID) else f"cart:{{guest:{whose}}}"


def _moved(cart: str) -> str:
    """Names the user who has what was in a guest's cart, until that has something again."""
    return f"{cart}:moved"


def _bought(cart: str, event_id: UUID | str) -> str:
    return f"{cart}:bought:{event_id}"


def _note(token: str) -> str:
    return f"{key(token)}:merge"


def _flat(items: Mapping[str, int]) -> list[str | int]:
    return [part for line in items.items() for part in line]


def _pairs(reply: Iterable[Any]) -> dict[str, str]:
    parts = iter(reply)
    return dict(zip(parts, parts, strict=True))


def _full(field: str, message: str) -> CartFull:
    return CartFull(f"{field}: {message}", errors=[{"field": field, "message": message}])
