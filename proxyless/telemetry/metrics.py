"""Istio's standard metrics, counted in place: one ``Series`` per distinct label set, found by a tuple.

Names, labels and meaning: https://istio.io/latest/docs/reference/config/metrics/. Why not the SDK's instruments: each
of them hashes its thirty labels on every call; here the labels are put together once and a request costs one look-up.
``otlp`` and ``prometheus`` turn the series into OpenTelemetry's data model and into text when somebody reads them.
"""

import os
import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

# Envoy's default histogram buckets, which Istio's histograms use (envoy: source/common/stats/histogram_impl.cc).
BOUNDS: tuple[float, ...] = (
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300000.0,
    600000.0,
    1800000.0,
    3600000.0,
)
# OpenTelemetry's own cardinality limit; what is beyond it is counted together.
MAX_SERIES = 2000
OVERFLOW = {"otel_metric_overflow": "true"}
# What names a series: a key to find it by, and its labels for when it is new.
Labelled = tuple[Hashable, Callable[[], Mapping[str, str]]]
# Requests that are counted at once.
_MANY = 64


class Distribution:
    """A histogram."""

    __slots__ = ("bounds", "buckets", "maximum", "minimum", "total")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.minimum = float("inf")
        self.maximum = 0.0

    def record(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.total += value
        # Not min() and max(): every request comes by here three times.
        if value < self.minimum:  # noqa: PLR1730
            self.minimum = value
        if value > self.maximum:  # noqa: PLR1730
            self.maximum = value

    def record_all(self, values: Sequence[float]) -> None:
        """Many at once, at least one."""
        low, high = min(values), max(values)
        first = bisect_left(self.bounds, low)
        if high <= low or first == bisect_left(self.bounds, high):
            # Sizes are often the same, durations alike.
            self.buckets[first] += len(values)
        else:
            for value in values:
                self.buckets[bisect_left(self.bounds, value)] += 1
        self.total += sum(values)
        self.minimum = min(self.minimum, low)
        self.maximum = max(self.maximum, high)

    def copy(self) -> "Distribution":
        other = Distribution(self.bounds)
        other.buckets, other.total = list(self.buckets), self.total
        other.minimum, other.maximum = self.minimum, self.maximum
        return other


@dataclass(frozen=True, slots=True)
class Instrument:
    name: str
    description: str


class Series:
    """One label set of the four request metrics.

    waiting: requests that are not counted yet, each with its milliseconds and the bytes of request and response.
    """

    __slots__ = ("count", "duration", "labels", "request_bytes", "response_bytes", "waiting")

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = dict(labels)
        self.count = 0
        self.duration = Distribution()
        self.request_bytes = Distribution()
        self.response_bytes = Distribution()
        self.waiting: list[tuple[float, int, int]] = []

    def settle(self) -> None:
        """Count those that wait. Other threads may append meanwhile: each step on the list is one C operation."""
        batch = self.waiting[:]
        if batch:
            del self.waiting[: len(batch)]
            durations, requests, responses = zip(*batch, strict=True)
            self.count += len(batch)
            self.duration.record_all(durations)
            self.request_bytes.record_all(requests)
            self.response_bytes.record_all(responses)

    def copy(self) -> "Series":
        other = Series(self.labels)
        other.count = self.count
        other.duration = self.duration.copy()
        other.request_bytes, other.response_bytes = self.request_bytes.copy(), self.response_bytes.copy()
        return other


COUNTER = Instrument("istio_requests_total", "Requests handled by the mesh.")
HISTOGRAMS: tuple[tuple[Instrument, Callable[[Series], Distribution]], ...] = (
    (
        Instrument("istio_request_duration_milliseconds", "Duration of requests, in milliseconds."),
        lambda series: series.duration,
    ),
    (Instrument("istio_request_bytes", "HTTP request body sizes."), lambda series: series.request_bytes),
    (Instrument("istio_response_bytes", "HTTP response body sizes."), lambda series: series.response_bytes),
)


class Metrics:
    """All series of one mesh. Any thread may record. A forked child starts from zero: its parent reports the rest."""

    def __init__(self, limit: int = MAX_SERIES) -> None:
        self._limit = limit
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        self._lock = threading.Lock()
        self.known: dict[Hashable, Series] = {}  # by what ``series`` was asked for
        self._later: list[tuple[Callable[..., Labelled], tuple[object, ...], tuple[float, int, int]]] = []
        self.started = time.time_ns()

    def record(
        self,
        label: Callable[..., Labelled],
        told: tuple[object, ...],
        milliseconds: float,
        request_bytes: int,
        response_bytes: int,
    ) -> None:
        """Count one request in the series that ``label(*told)`` names; its labels are asked for the first time only.

        Not at once: requests come one by one, with other code between, and counting many in a loop costs a fraction.
        """
        later = self._later
        later.append((label, told, (milliseconds, request_bytes, response_bytes)))
        # The lock is not waited for: this may be the thread that has it, ending a call that it forgot to close from
        # within an allocation. Whoever records next, or collects, counts the rest.
        if len(later) >= _MANY and self._lock.acquire(blocking=False):
            try:
                self._name()
            finally:
                self._lock.release()

    def series(self, key: Hashable, labels: Callable[..., Mapping[str, str]], *told: object) -> Series:
        """The series ``key``, whose labels are ``labels(*told)`` if it is new."""
        found = self.known.get(key)
        if found is None:
            if len(self.known) >= self._limit:
                key, labels, told = "overflow", OVERFLOW.copy, ()
            found = self.known.setdefault(key, Series(labels(*told)))
        return found

    def count(self, series: Series, milliseconds: float, request_bytes: int, response_bytes: int) -> None:
        """As ``record``, for who has the series at hand."""
        waiting = series.waiting
        waiting.append((milliseconds, request_bytes, response_bytes))
        if len(waiting) >= _MANY and self._lock.acquire(blocking=False):
            try:
                series.settle()
            finally:
                self._lock.release()

    def collect(self) -> list[Series]:
        """A copy of every series, consistent in itself."""
        with self._lock:
            self._name()
            found = list(self.known.values())
            for series in found:
                series.settle()
            return [series.copy() for series in found]

    def counts(self) -> list[tuple[Mapping[str, str], int]]:
        """The labels of every series, and how many requests it has."""
        with self._lock:
            self._name()
            for series in self.known.values():
                series.settle()
            return [(series.labels, series.count) for series in self.known.values()]

    def _name(self) -> None:
        """Find the series of all that was recorded. The lock is held; others may append, as in ``Series.settle``."""
        batch = self._later[:]
        del self._later[: len(batch)]
        touched: dict[Hashable, Series] = {}
        for label, told, counted in batch:
            key, labels = label(*told)
            series = touched[key] = touched.get(key) or self.series(key, labels)
            series.waiting.append(counted)
        for series in touched.values():
            series.settle()


class Resettable(Protocol):
    def reset(self) -> None: ...


_alive: "weakref.WeakSet[Resettable]" = weakref.WeakSet()


def reset_after_fork(metrics: Resettable) -> None:
    """In a forked child, as long as it lives."""
    _alive.add(metrics)


def _after_fork() -> None:
    for metrics in list(_alive):
        metrics.reset()


os.register_at_fork(after_in_child=_after_fork)
