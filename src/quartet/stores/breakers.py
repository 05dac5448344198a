"""This process's circuit breakers as Prometheus metrics, read at each scrape."""

from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from quartet.stores.guard import STATES, Guard


class Breakers(Collector):
    """Metrics of the stores' guards, and of `others` by name, of which the newest counts."""

    guards: Sequence[Guard] = ()

    def __init__(self) -> None:
        self.others: WeakValueDictionary[str, Guard] = WeakValueDictionary()

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "quartet_store_breaker", "1 at the state of this process's breaker of a store.", labels=["store", "state"]
        )
        openings = CounterMetricFamily(
            "quartet_store_breaker_openings", "How often this process's breaker opened.", labels=["store"]
        )
        calls = GaugeMetricFamily(
            "quartet_store_calls", "Calls to a store that this process waits for.", labels=["store"]
        )
        refused = CounterMetricFamily(
            "quartet_store_calls_refused",
            "Calls not sent: breaker open, every place taken (full), or who asked could do without (doubtful).",
            labels=["store", "why"],
        )
        for guard in (*self.guards, *self.others.values()):
            for state in STATES:
                states.add_metric([guard.store, state], state == guard.state)
            openings.add_metric([guard.store], guard.openings)
            calls.add_metric([guard.store], guard.calls)
            for why, times in guard.refused.items():
                refused.add_metric([guard.store, why], times)
        yield from (states, openings, calls, refused)


BREAKERS = Breakers()
REGISTRY.register(BREAKERS)


def register(guard: Guard) -> Guard:
    """Registers a guard other than a store's, such as a payment provider's or the mail server's, and returns it. It is
    reported as long as the object is referenced."""
    BREAKERS.others[guard.store] = guard
    return guard
