"""The worker's state in PostgreSQL: leases, positions, what search is known to have, rebuilds, freshness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)


class LeaseLost(Exception):
    """Another worker has taken over this one's lease; nothing was saved."""


@dataclass(frozen=True)
class Lease:
    """Pieces of work leased to one worker, each with its fencing token. Without any it always holds: for work done
    once, outside the workers."""

    tokens: Mapping[str, int] = field(default_factory=dict)


NO_LEASE = Lease()


@dataclass(frozen=True)
class Batch:
    """A batch's number (the version it writes with), whether it also writes to an index that is being built, and which
    index is live, named by the id of its rebuild."""

    version: int
    rebuilding: bool
    home: int


@dataclass(frozen=True)
class Note:
    """What a batch has read of a product and is about to write. `seen` is the fingerprint of the catalog's document,
    `fingerprint` that of search's, 0 if there is none; `digest` is of the search document; `levels` has price and stock
    by SKU."""

    product_id: str
    digest: bytes
    bucket: int
    seen: int
    fingerprint: int
    levels: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Position:
    """A pipeline's position, and its counters."""

    pipeline: str
    token: Any = None
    caught_up_at: datetime | None = None
    batches: int = 0
    items: int = 0
    retries: int = 0


@dataclass(frozen=True)
class Rebuild:
    """A rebuild of the search index; `total` and `done` count products, `rate` is in products per second. `error`: why
    it failed or, while it is building, why it can't go live yet. All buckets below `upto` are in `index_name`;
    `without`: products given up for this rebuild."""

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
        """The estimated time left at the current rate; None before that is known, and unless it is building."""
        if self.state != "building" or not self.rate:
            return None
        return max(self.total - self.done, 0) / self.rate


async def heartbeat(tx: Tx, worker: str, pieces: Sequence[str], seconds: float) -> dict[str, int]:
    """The heartbeat of a worker; returns the pieces leased to it for `seconds`, with their fencing tokens."""
    return {row["piece"]: row["token"] for row in await tx.fetch(q.heartbeat, worker, pieces, seconds)}


async def release_leases(tx: Tx, worker: str, pieces: Sequence[str]) -> None:
    """Releases these pieces immediately."""
    await tx.execute(q.release_leases, worker, pieces)


async def sweep_workers(tx: Tx) -> None:
    """Deletes workers whose heartbeat ended long ago."""
    await tx.execute(q.sweep_workers)


async def begin_batch(tx: Tx) -> Batch:
    """Draws a batch's number; must come before it reads anything."""
    return Batch(**await tx.fetchrow(q.begin_batch))


async def note(tx: Tx, batch: Batch, notes: Sequence[Note], *, believe: bool) -> tuple[set[str], bool]:
    """Records what the batch is about to write; returns the ids for which search is certain to have exactly that
    already, and whether no other batch has begun since. Without `believe` none is certain, and none will be until
    `confirm_written`."""
    columns = zip(*((n.product_id, n.digest, n.bucket, n.seen, n.fingerprint, n.levels) for n in notes), strict=True)
    ids, digests, *others = columns
    rows = await tx.fetch(q.note, ids, digests, batch.version, batch.home, believe, *others)
    return {row["product_id"] for row in rows if row["sure"]}, all(row["latest"] for row in rows)


async def confirm_written(tx: Tx, batch: Batch, pipeline: str, ids: Sequence[str]) -> None:
    """Marks these as certain, unless a newer batch has noted them since: the engine has acknowledged the batch's write.
    Their dead letters are deleted."""
    await tx.execute(q.confirm_written, ids, batch.version, pipeline)


async def is_newest(read: Read, version: int, ids: Sequence[str]) -> bool:
    """Whether the batch with this number is the newest noted one for any of these."""
    found: bool = await read.fetchval(q.is_newest, version, ids)
    return found


async def mark_uncertain(tx: Tx, ids: Sequence[str]) -> None:
    """Marks all of these as uncertain."""
    await tx.execute(q.mark_uncertain, ids)


async def sums(
    read: Read, low: int, high: int, *, each: bool = False
) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]:
    """Number of products and sum of fingerprints in these buckets, as last read from the catalog and as search should
    have them: for `each` bucket that has any, or for all together under `low`."""
    rows = await read.fetch(q.sums, low, high, each)
    seen = {row["bucket"]: (row["seen"], row["seen_sum"]) for row in rows}
    return seen, {row["bucket"]: (row["wanted"], row["wanted_sum"]) for row in rows}


async def fingerprints(read: Read, low: int, high: int) -> dict[str, tuple[int, int]]:
    """The fingerprints of each product in these buckets, by id: as last read from the catalog, and as search should
    have it."""
    rows = await read.fetch(q.fingerprints, low, high)
    return {row["product_id"]: (row["seen"], row["fingerprint"]) for row in rows}


async def stale_levels(read: Read, low: int, high: int) -> dict[str, tuple[int, int, int]]:
    """The products in these buckets whose price or stock in inventory differs from what the latest batch read; by id:
    that batch's number, and the sums of the differing SKUs' current prices and pieces."""
    rows = await read.fetch(q.stale_levels, low, high)
    return {row["product_id"]: (row["version"], row["cents"], row["pieces"]) for row in rows}


async def database_time(read: Read) -> datetime:
    """The current time by the database's clock."""
    found: datetime = await read.fetchval(q.database_time)
    return found


async def caught_up(read: Read) -> datetime | None:
    """The time until which all changes of the catalog have been processed."""
    found: datetime | None = await read.fetchval(q.caught_up)
    return found


async def position(read: Read, pipeline: str) -> Any:
    """The token to resume from, or None."""
    return await read.fetchval(q.position, pipeline)


async def save_position(
    tx: Tx, pipeline: str, token: Any, *, caught_up_at: datetime | None, items: int, lease: Lease = NO_LEASE
) -> None:
    """Saves the position: everything up to `token` is acknowledged. Raises LeaseLost if it is another worker's by
    now."""
    pieces, tokens = list(lease.tokens), list(lease.tokens.values())
    if await tx.execute(q.save_position, pipeline, token, caught_up_at, items, pieces, tokens) == "INSERT 0 0":
        raise LeaseLost(", ".join(pieces))


async def skip_versions(tx: Tx) -> None:
    """Makes all later numbers higher than any that search may have from before a restore."""
    await tx.execute(q.skip_versions)


async def discard_position(tx: Tx, pipeline: str, lease: Lease = NO_LEASE) -> None:
    """Discards the token, which can't be resumed from, unless it is another worker's by now."""
    await tx.execute(q.discard_position, pipeline, list(lease.tokens), list(lease.tokens.values()))


async def count_retry(tx: Tx, pipeline: str) -> None:
    """Counts a failed try."""
    await tx.execute(q.count_retry, pipeline)


async def positions(read: Read) -> list[Position]:
    """Every pipeline's position."""
    return [Position(**row) for row in await read.fetch(q.positions)]


async def ask_rebuild(tx: Tx, reason: str, *, back: bool = False) -> Rebuild:
    """Requests a rebuild; returns the one open now: the new one, or one that was open before."""
    await tx.execute(q.ask_rebuild, reason, "back" if back else "new")
    return Rebuild(**await tx.fetchrow(q.last_rebuild))


async def get_rebuild(read: Read, id_: int) -> Rebuild:
    """An existing rebuild."""
    return Rebuild(**await read.fetchrow(q.get_rebuild, id_))


async def open_rebuild(read: Read) -> Rebuild | None:
    """The rebuild that is requested or being built."""
    row = await read.fetchrow(q.open_rebuild)
    return Rebuild(**row) if row else None


async def last_rebuild(read: Read) -> Rebuild | None:
    """The latest rebuild, in whatever state."""
    row = await read.fetchrow(q.last_rebuild)
    return Rebuild(**row) if row else None


async def begin_rebuild(tx: Tx, rebuild: Rebuild, index: str, total: int) -> None:
    """Marks the rebuild as building: from now on every batch writes to that index too."""
    await tx.execute(q.begin_rebuild, rebuild.id, index, total)


async def advance_rebuild(tx: Tx, rebuild: Rebuild, upto: int, done: int, rate: float) -> None:
    """Saves the progress: all buckets below `upto` are in the index."""
    await tx.execute(q.advance_rebuild, rebuild.id, upto, done, rate)


async def block_rebuild(tx: Tx, rebuild: Rebuild, why: str) -> None:
    """Records why it can't go live yet."""
    await tx.execute(q.block_rebuild, rebuild.id, why)


async def exclude_from_rebuild(tx: Tx, product_id: str) -> None:
    """Lets the index being built, if any, go live without this product."""
    await tx.execute(q.exclude_from_rebuild, product_id)


async def count_blocking_letters(read: Read, rebuild: Rebuild, pipeline: str) -> int:
    """The number of dead letters that keep it from going live."""
    found: int = await read.fetchval(q.count_blocking_letters, pipeline, rebuild.id)
    return found


async def end_rebuild(tx: Tx, rebuild: Rebuild, error: str | None) -> None:
    """Ends the rebuild: done, or failed with this error."""
    await tx.execute(q.end_rebuild, rebuild.id, error)


@dataclass(frozen=True)
class HistogramBucket:
    """One bucket of a histogram, up to `bound` seconds: number and total seconds of all samples ever, and the number
    `lately`, in the last five minutes."""

    what: str
    bound: float
    n: int
    seconds: float
    lately: int


@dataclass(frozen=True)
class CanaryState:
    """The times of the canary's latest write, and of the latest one found, in milliseconds since 1970."""

    what: str
    written_ms: int
    found_ms: int


async def observe(tx: Tx, samples: Sequence[tuple[str, float, int, float]]) -> None:
    """Adds samples to the histogram: (what, bound, number, total seconds) each."""
    await tx.execute(q.observe, *map(list, zip(*samples, strict=True)))


async def freshness(read: Read) -> list[HistogramBucket]:
    """The histograms, sorted by kind and bound."""
    return [HistogramBucket(**row) for row in await read.fetch(q.freshness)]


async def sweep_freshness(tx: Tx) -> None:
    """Merges per-minute rows older than an hour into one row per bound: totals never decrease."""
    await tx.execute(q.sweep_freshness)


async def record_canary_write(tx: Tx, what: str, written_ms: int) -> None:
    """Records a new write; the time of that of `stock` is the canary's price."""
    await tx.execute(q.record_canary_write, what, written_ms)


async def record_canary_found(tx: Tx, what: str, written_ms: int) -> None:
    """Records that search has found this write."""
    await tx.execute(q.record_canary_found, what, written_ms)


async def canary_states(read: Read) -> list[CanaryState]:
    """The canary's latest writes, of each kind."""
    return [CanaryState(**row) for row in await read.fetch(q.canary_states)]


async def canary_price(read: Read) -> int:
    """The canary's price."""
    return await read.fetchval(q.canary_price) or 0
