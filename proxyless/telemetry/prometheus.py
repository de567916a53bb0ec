"""Our series as Prometheus text, from a registry of their own: several meshes may live in one process."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxyless.telemetry.metrics import BOUNDS, COUNTER, HISTOGRAMS, Metrics

# As Envoy prints them: 1, not 1.0.
_LE = (*(f"{bound:g}" if bound < 1 else str(int(bound)) for bound in BOUNDS), "+Inf")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Series(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        series = self._metrics.collect()
        if not series:
            return
        names = list(dict.fromkeys(name for one in series for name in one.labels))
        rows = [[one.labels.get(name, "") for name in names] for one in series]
        counter = CounterMetricFamily(COUNTER.name, COUNTER.description, labels=names)
        for row, one in zip(rows, series, strict=True):
            counter.add_metric(row, one.count)
        yield counter
        for instrument, pick in HISTOGRAMS:
            family = HistogramMetricFamily(instrument.name, instrument.description, labels=names)
            for row, one in zip(rows, series, strict=True):
                values = pick(one)
                buckets = list(zip(_LE, accumulate(values.buckets), strict=True))
                family.add_metric(row, buckets, values.total)
            yield family


class Prometheus:
    """The text exposition of one mesh's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Series(metrics))

    def text(self) -> bytes:
        return generate_latest(self._registry)
