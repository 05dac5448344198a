"""What the worker knows in PostgreSQL: leases, positions, what search holds, rebuilds, freshness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)


class Overtaken(Exception):
    """Another worker has taken over what this one was doing; nothing was saved."""


@dataclass(frozen=True)
class Lease:
    """Pieces of work that are one worker's, each with its token. Without any it is nobody's and always holds: for what
    is done once, beside the workers."""

    tokens: Mapping[str, int] = field(default_factory=dict)


NOBODYS = Lease()


@dataclass(frozen=True)
class Draw:
    """A batch's number, whether it writes to an index in the making as well, and which index is live."""

    version: int
    rebuilding: bool
    home: int


@dataclass(frozen=True)
class Note:
    """What a batch saw of a product and is about to write of it. `seen` and `fingerprint` are those of the catalog's
    document and of search's, 0 where there is none; `levels` has price and pieces by SKU."""

    product_id: str
    digest: bytes
    bucket: int
    seen: int
    fingerprint: int
    levels: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Position:
    """How far a pipeline is, and what it has done so far."""

    pipeline: str
    token: Any = None
    caught_up_at: datetime | None = None
    batches: int = 0
    items: int = 0
    retries: int = 0


@dataclass(frozen=True)
class Rebuild:
    """A rebuild of the search index; `total` and `done` count products, `rate` is products a second. `error`: why it
    failed or, while it is building, why it does not go live yet. Everything below bucket `upto` is in `index_name`."""

    id: int
    state: Literal["asked", "building", "done", "failed"]
    kind: Literal["new", "back"]
    reason: str
    total: int
    done: int
    rate: float
    error: str | None
    index_name: str | None
    upto: int
    without: list[str]
    asked_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def seconds_left(self) -> float | None:
        """As it goes just now; None before that is known, and when it is over."""
        if self.state != "building" or not self.rate:
            return None
        return max(self.total - self.done, 0) / self.rate


async def beat(tx: Tx, worker: str, pieces: Sequence[str], seconds: float) -> dict[str, int]:
    """Says that the worker lives; answers those pieces that are its own for so many seconds, with their tokens."""
    return {row["piece"]: row["token"] for row in await tx.fetch(q.beat, worker, pieces, seconds)}


async def give_up(tx: Tx, worker: str, pieces: Sequence[str]) -> None:
    """Others may take these now."""
    await tx.execute(q.give_up, worker, pieces)


async def sweep_workers(tx: Tx) -> None:
    """Forgets workers that are long gone."""
    await tx.execute(q.sweep_workers)


async def draw(tx: Tx) -> Draw:
    """The next number; before anything is read."""
    return Draw(**await tx.fetchrow(q.draw))


async def note(tx: Tx, draw: Draw, notes: Sequence[Note], *, believe: bool) -> tuple[set[str], bool]:
    """Says what the batch is about to write; answers the ids that search is sure to hold just so already, and whether
    no other batch has begun since. Without `believe` none is sure, and none will be until `settle`."""
    columns = zip(*((n.product_id, n.digest, n.bucket, n.seen, n.fingerprint, n.levels) for n in notes), strict=True)
    ids, digests, *others = columns
    rows = await tx.fetch(q.note, ids, digests, draw.version, draw.home, believe, *others)
    return {row["product_id"] for row in rows if row["sure"]}, all(row["latest"] for row in rows)


async def settle(tx: Tx, draw: Draw, pipeline: str, ids: Sequence[str]) -> None:
    """The engine has acknowledged what the batch wrote of these."""
    await tx.execute(q.settle, ids, draw.version, pipeline)


async def is_newest(read: Read, version: int, ids: Sequence[str]) -> bool:
    """Whether of any of these the batch of this number is the newest that is known."""
    found: bool = await read.fetchval(q.is_newest, version, ids)
    return found


async def doubt(tx: Tx, ids: Sequence[str]) -> None:
    """Of none of these is search sure to hold what it should."""
    await tx.execute(q.doubt, ids)


async def sums(
    read: Read, low: int, high: int, *, each: bool = False
) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]:
    """How many products these buckets hold and the sum of their fingerprints, as the catalog was seen and as search
    should hold them: of `each` bucket that has any, or of all together under `low`."""
    rows = await read.fetch(q.sums, low, high, each)
    seen = {row["bucket"]: (row["seen"], row["seen_sum"]) for row in rows}
    return seen, {row["bucket"]: (row["wanted"], row["wanted_sum"]) for row in rows}


async def fingerprints(read: Read, low: int, high: int) -> dict[str, tuple[int, int]]:
    """Of each product in these buckets, by id: as the catalog was seen, and as search should hold it."""
    rows = await read.fetch(q.fingerprints, low, high)
    return {row["product_id"]: (row["seen"], row["fingerprint"]) for row in rows}


async def stale_levels(read: Read, low: int, high: int) -> dict[str, tuple[int, int, int]]:
    """The products in these buckets whose prices or pieces were other when they were seen last; by id, which batch saw
    them, and the sums of those that are other now."""
    rows = await read.fetch(q.stale_levels, low, high)
    return {row["product_id"]: (row["version"], row["cents"], row["pieces"]) for row in rows}


async def moment(read: Read) -> datetime:
    """The database's now."""
    found: datetime = await read.fetchval(q.moment)
    return found


async def caught_up(read: Read) -> datetime | None:
    """All changes of the catalog that had happened by then have been carried."""
    found: datetime | None = await read.fetchval(q.caught_up)
    return found


async def position(read: Read, pipeline: str) -> Any:
    """The token to resume from, or None."""
    return await read.fetchval(q.position, pipeline)


async def save(
    tx: Tx, pipeline: str, token: Any, *, caught_up_at: datetime | None, items: int, lease: Lease = NOBODYS
) -> None:
    """Everything up to `token` is acknowledged. Raises Overtaken when that is another's to say by now."""
    pieces, tokens = list(lease.tokens), list(lease.tokens.values())
    if await tx.execute(q.save, pipeline, token, caught_up_at, items, pieces, tokens) == "INSERT 0 0":
        raise Overtaken(", ".join(pieces))


async def leap(tx: Tx) -> None:
    """Numbers drawn from now on are higher than any that search may hold from another time."""
    await tx.execute(q.leap)


async def lose(tx: Tx, pipeline: str, lease: Lease = NOBODYS) -> None:
    """The token is of no use any more."""
    await tx.execute(q.lose, pipeline, list(lease.tokens), list(lease.tokens.values()))


async def count_retry(tx: Tx, pipeline: str) -> None:
    """One more try that failed."""
    await tx.execute(q.count_retry, pipeline)


async def positions(read: Read) -> list[Position]:
    """Every pipeline's."""
    return [Position(**row) for row in await read.fetch(q.positions)]


async def ask_rebuild(tx: Tx, reason: str, *, back: bool = False) -> Rebuild:
    """The one that is open now: a new one, or that which was asked for before."""
    await tx.execute(q.ask_rebuild, reason, "back" if back else "new")
    return Rebuild(**await tx.fetchrow(q.last_rebuild))


async def get_rebuild(read: Read, id_: int) -> Rebuild:
    """One that there is."""
    return Rebuild(**await read.fetchrow(q.get_rebuild, id_))


async def open_rebuild(read: Read) -> Rebuild | None:
    """What is asked for or under way."""
    row = await read.fetchrow(q.open_rebuild)
    return Rebuild(**row) if row else None


async def last_rebuild(read: Read) -> Rebuild | None:
    """The latest, whatever became of it."""
    row = await read.fetchrow(q.last_rebuild)
    return Rebuild(**row) if row else None


async def begin_rebuild(tx: Tx, rebuild: Rebuild, index: str, total: int) -> None:
    """From here on every batch writes to that index too."""
    await tx.execute(q.begin_rebuild, rebuild.id, index, total)


async def advance_rebuild(tx: Tx, rebuild: Rebuild, upto: int, done: int, rate: float) -> None:
    """All below bucket `upto` is in: where another goes on, and for those who watch."""
    await tx.execute(q.advance_rebuild, rebuild.id, upto, done, rate)


async def hold_rebuild(tx: Tx, rebuild: Rebuild, why: str) -> None:
    """It can't go live yet."""
    await tx.execute(q.hold_rebuild, rebuild.id, why)


async def leave_out(tx: Tx, product_id: str) -> None:
    """The index under way, if there is one, goes live without this product."""
    await tx.execute(q.leave_out, product_id)


async def in_the_way(read: Read, rebuild: Rebuild, pipeline: str) -> int:
    """How many dead letters keep it from going live."""
    found: int = await read.fetchval(q.in_the_way, pipeline, rebuild.id)
    return found


async def end_rebuild(tx: Tx, rebuild: Rebuild, error: str | None) -> None:
    """Done, or failed with the reason."""
    await tx.execute(q.end_rebuild, rebuild.id, error)


@dataclass(frozen=True)
class Took:
    """How often it took more than the bound before and up to this one: ever, those's seconds in all, and lately."""

    what: str
    bound: float
    n: int
    seconds: float
    lately: int


@dataclass(frozen=True)
class Song:
    """The canary's newest song, and the newest that was found, as milliseconds since 1970."""

    what: str
    sung: int
    heard: int


async def observe(tx: Tx, samples: Sequence[tuple[str, float, int, float]]) -> None:
    """What, up to how many seconds, how often, and how many seconds in all."""
    await tx.execute(q.observe, *map(list, zip(*samples, strict=True)))


async def freshness(read: Read) -> list[Took]:
    """By what, then by bound."""
    return [Took(**row) for row in await read.fetch(q.freshness)]


async def sweep_freshness(tx: Tx) -> None:
    """Forgets which minute it was, once that is long past."""
    await tx.execute(q.sweep_freshness)


async def sing(tx: Tx, what: str, song: int) -> None:
    """A new song; that of the stock is the canary's price."""
    await tx.execute(q.sing, what, song)


async def hear(tx: Tx, what: str, song: int) -> None:
    """It was found."""
    await tx.execute(q.hear, what, song)


async def songs(read: Read) -> list[Song]:
    """The newest of each kind."""
    return [Song(**row) for row in await read.fetch(q.songs)]


async def song(read: Read) -> int:
    """The canary's price."""
    return await read.fetchval(q.song) or 0
