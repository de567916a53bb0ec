"""Our series as Prometheus text, from a registry of their own: several meshes may live in one process."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxyless.telemetry import grpc_metrics
from proxyless.telemetry.grpc_metrics import GrpcMetrics
from proxyless.telemetry.metrics import BOUNDS, COUNTER, HISTOGRAMS, Metrics

# As Envoy prints them: 1, not 1.0.
_LE = (*(f"{bound:g}" if bound < 1 else str(int(bound)) for bound in BOUNDS), "+Inf")
_SUFFIX = {"s": "_seconds", "By": "_bytes"}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Series(Collector):
    def __init__(self, metrics: Metrics, grpc: GrpcMetrics | None) -> None:
        self._metrics = metrics
        self._grpc = grpc

    def collect(self) -> Iterator[Metric]:
        yield from self._istio()
        if self._grpc is not None:
            for instrument, points in self._grpc.collect():
                yield _family(instrument, points)

    def _istio(self) -> Iterator[Metric]:
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


def _family(instrument: grpc_metrics.Instrument, points: list[grpc_metrics.Point]) -> Metric:
    """As OpenTelemetry's Prometheus exporter names them: dots become underscores, and the unit a suffix."""
    name = instrument.name.replace(".", "_") + _SUFFIX.get(instrument.unit, "")
    labels = list(dict.fromkeys(label for one in points for label in one.labels))
    names = [label.replace(".", "_") for label in labels]
    rows = [[one.labels.get(label, "") for label in labels] for one in points]
    if not instrument.bounds:
        counter = CounterMetricFamily(name, instrument.description, labels=names)
        for row, one in zip(rows, points, strict=True):
            counter.add_metric(row, one.count)
        return counter
    family = HistogramMetricFamily(name, instrument.description, labels=names)
    marks = [*(repr(bound) for bound in instrument.bounds), "+Inf"]
    for row, one in zip(rows, points, strict=True):
        assert one.values is not None
        family.add_metric(row, list(zip(marks, accumulate(one.values.buckets), strict=True)), one.values.total)
    return family


class Prometheus:
    """The text exposition of one mesh's metrics."""

    def __init__(self, metrics: Metrics, grpc: GrpcMetrics | None = None) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Series(metrics, grpc))

    def text(self) -> bytes:
        return generate_latest(self._registry)
