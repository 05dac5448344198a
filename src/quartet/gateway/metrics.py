"""Requests by route, for Prometheus.

Counted by the event loop's thread alone, so without the locks of prometheus_client's own metrics: these took 2 µs, a
twentieth of what an answer from memory costs.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, inf)


@dataclass(slots=True)
class _Route:
    """`buckets`: requests by the first of the `BOUNDS` that they kept."""

    statuses: dict[int, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))
    seconds: float = 0.0


class Requests(Collector):
    """Counts of answers, and histograms of the seconds that they took."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], _Route] = {}

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an answer."""
        counted = self._routes.get((method, route))
        if counted is None:
            counted = self._routes[method, route] = _Route()
        counted.statuses[status] = counted.statuses.get(status, 0) + 1
        counted.buckets[bisect_left(BOUNDS, seconds)] += 1
        counted.seconds += seconds

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Both metrics."""
        labels = ["method", "route"]
        answers = CounterMetricFamily(
            "quartet_http_requests", "Answers by route and status.", labels=[*labels, "status"]
        )
        took = HistogramMetricFamily("quartet_http_request_seconds", "Time to answer, by route.", labels=labels)
        for of, counted in self._routes.items():
            for status, n in counted.statuses.items():
                answers.add_metric([*of, str(status)], n)
            upto = zip(map(floatToGoString, BOUNDS), accumulate(counted.buckets), strict=True)
            took.add_metric(of, list(upto), counted.seconds)
        yield answers
        yield took


REQUESTS = Requests()
REGISTRY.register(REQUESTS)
