"""Metrics for Prometheus about pending and finished work, read from PostgreSQL by whichever process is scraped; and the
state of this process's circuit breakers."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import structlog
from prometheus_client import REGISTRY, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from quartet import hooks, notify
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import letters, outbox, tallies
from quartet.stores.breakers import BREAKERS
from quartet.sync import changes, freshness, products, relay, store
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.sync")

# However often /metrics is requested, PostgreSQL is read no more often than this.
FRESH_SECONDS = 5.0
PATIENCE_SECONDS = 2.0

LAG = Gauge("quartet_sync_lag_seconds", "How far a pipeline is behind.", ["pipeline"])
PENDING = Gauge("quartet_sync_pending", "What waits in a pipeline.", ["pipeline"])
DEAD = Gauge("quartet_sync_dead_letters", "What could not be carried.", ["pipeline"])
TOPIC_LAG = Gauge("quartet_outbox_lag_seconds", "How long the oldest event of a topic has waited.", ["topic"])
TOPIC_PENDING = Gauge("quartet_outbox_pending", "Events of a topic that wait.", ["topic"])
ENDPOINTS = Gauge("quartet_webhook_endpoints", "Webhook endpoints by the state of their breaker.", ["breaker"])
MEASURED = Gauge("quartet_measured", "Whether PostgreSQL could be asked for the figures of this list.")

AGE = Gauge("quartet_search_freshness_age_seconds", "How old the newest canary is that a search finds.", ["of"])

_LABELLED = (LAG, PENDING, DEAD, TOPIC_LAG, TOPIC_PENDING, ENDPOINTS, AGE)


@dataclass
class _Measured:
    at: float = -FRESH_SECONDS


class FreshnessHistogram(Collector):
    """The histogram of freshness, counted by all workers together in PostgreSQL."""

    rows: Sequence[store.HistogramBucket] = ()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(
            "quartet_search_freshness_seconds", "From a write to its being found, and to the cache.", labels=["of"]
        )
        for what in freshness.WHAT:
            ns = {row.bound: row.n for row in self.rows if row.what == what}
            upto = accumulate(ns.get(bound, 0) for bound in freshness.BOUNDS)
            buckets = [
                (f"{bound:g}".replace("inf", "+Inf"), n) for bound, n in zip(freshness.BOUNDS, upto, strict=True)
            ]
            family.add_metric([what], buckets, sum(row.seconds for row in self.rows if row.what == what))
        yield family


class Done(Collector):
    """Counters of the whole shop, not of this process. None while PostgreSQL can't be read."""

    tallies: Mapping[str, int] | None = None

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield self._by_outcome(
            "quartet_mails", "E-mails by outcome, since the shop was opened.", "mails", ("sent", "failed", "dropped")
        )
        yield self._by_outcome(
            "quartet_webhook_deliveries", "Tries at webhooks by outcome; dead: given up.", "webhooks",
            ("delivered", "failed", "dead"),
        )  # fmt: skip

    def _by_outcome(self, name: str, text: str, what: str, outcomes: Sequence[str]) -> CounterMetricFamily:
        family = CounterMetricFamily(name, text, labels=["outcome"])
        if self.tallies is not None:
            for outcome in outcomes:
                family.add_metric([outcome], self.tallies.get(f"{what}.{outcome}", 0))
        return family


TOOK, DONE = FreshnessHistogram(), Done()
REGISTRY.register(TOOK)
REGISTRY.register(DONE)


async def measure(shop: Shop) -> None:
    """Updates the gauges, at most every few seconds. While PostgreSQL is down they are empty rather than stale. Also
    makes the metrics of the circuit breakers show this shop's, which are always current."""
    BREAKERS.guards = shop.stores.guards
    now, measured = time.monotonic(), shop.stores.singleton(_Measured)
    if now - measured.at < FRESH_SECONDS:
        return
    measured.at = now
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await _measure(shop)
    except (StoreUnavailable, TimeoutError) as away:
        for gauge in _LABELLED:
            gauge.clear()
        DONE.tallies = None
        MEASURED.set(0)
        log.warning("not measured", error=repr(away))


async def _measure(shop: Shop) -> None:
    async with shop.stores.pg.read() as read:
        positions = await store.positions(read)
        dead = await letters.counts(read)
        topics = await outbox.depth_by_topic(read)
        mails = await notify.waiting(read)
        deliveries = await hooks.waiting(read)
        breakers = await hooks.breakers(read, shop.clock.now())
        DONE.tallies = await tallies.counted(read)
        TOOK.rows = await store.freshness(read)
        canary = await store.canary_states(read)
    now = shop.clock.now()
    for gauge in _LABELLED:
        gauge.clear()
    for position in positions:
        if position.caught_up_at is not None:
            LAG.labels(position.pipeline).set((now - position.caught_up_at).total_seconds())
    waiting = {
        relay.PIPELINE: (sum(n for n, _ in topics.values()), min((at for _, at in topics.values()), default=None)),
        notify.PIPELINE: mails,
        "webhooks": deliveries,
    }
    for pipeline, (pending, oldest) in waiting.items():
        PENDING.labels(pipeline).set(pending)
        LAG.labels(pipeline).set((now - oldest).total_seconds() if oldest else 0)
    for topic, (pending, since) in topics.items():
        TOPIC_PENDING.labels(topic).set(pending)
        TOPIC_LAG.labels(topic).set((now - since).total_seconds())
    for pipeline in (changes.PIPELINE, products.PIPELINE, relay.PIPELINE, notify.PIPELINE):
        DEAD.labels(pipeline).set(dead.get(pipeline, 0))
    for state in ("closed", "open", "half-open", "disabled"):
        ENDPOINTS.labels(state).set(breakers.get(state, 0))
    for fresh in freshness.summary(TOOK.rows, canary, now.timestamp()):
        if fresh.age_seconds is not None:
            AGE.labels(fresh.what).set(fresh.age_seconds)
    MEASURED.set(1)
