"""Pushes our series on a schedule, in OpenTelemetry's data model, through its exporters. Imports the SDK."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from proxyless.telemetry.grpc_metrics import GrpcMetrics
from proxyless.telemetry.metrics import COUNTER, HISTOGRAMS, Distribution, Metrics

log = logging.getLogger("proxyless.telemetry")

_SCOPE = InstrumentationScope("proxyless")
_CUMULATIVE = AggregationTemporality.CUMULATIVE
_INTERVAL = 60.0
_CLOSE_TIMEOUT = 3.0


def metrics_data(metrics: Metrics, resource: Resource, grpc: GrpcMetrics | None = None) -> MetricsData | None:
    """Everything counted so far, None when nothing was."""
    found = _istio(metrics) + (_grpc(grpc) if grpc is not None else [])
    if not found:
        return None
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, found, "")], "")])


def _istio(metrics: Metrics) -> list[Metric]:
    series = metrics.collect()
    if not series:
        return []
    now, start = time.time_ns(), metrics.started
    # No unit: Istio's names carry theirs, and a backend that appends units would put it there twice.
    counter = Metric(
        COUNTER.name,
        COUNTER.description,
        "",
        Sum([NumberDataPoint(one.labels, start, now, one.count) for one in series], _CUMULATIVE, is_monotonic=True),
    )
    histograms = [
        Metric(
            instrument.name,
            instrument.description,
            "",
            Histogram([_point(one.labels, one.count, pick(one), start, now) for one in series], _CUMULATIVE),
        )
        for instrument, pick in HISTOGRAMS
    ]
    return [counter, *histograms]


def _grpc(metrics: GrpcMetrics) -> list[Metric]:
    now, start = time.time_ns(), metrics.started
    found = []
    for instrument, points in metrics.collect():
        data: Sum | Histogram
        if instrument.bounds:
            filled = [(one.labels, one.count, one.values) for one in points if one.values is not None]
            data = Histogram([_point(*one, start, now) for one in filled], _CUMULATIVE)
        else:
            counted = [NumberDataPoint(dict(one.labels), start, now, one.count) for one in points]
            data = Sum(counted, _CUMULATIVE, is_monotonic=True)
        found.append(Metric(instrument.name, instrument.description, instrument.unit, data))
    return found


def _point(labels: Mapping[str, str], count: int, values: Distribution, start: int, now: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=dict(labels),
        start_time_unix_nano=start,
        time_unix_nano=now,
        count=count,
        sum=values.total,
        bucket_counts=values.buckets,
        explicit_bounds=values.bounds,
        min=values.minimum,
        max=values.maximum,
    )


class Pusher:
    """A daemon thread that exports every OTEL_METRIC_EXPORT_INTERVAL milliseconds (60 000) and once more on ``close``.

    A forked child gets a thread of its own, as threads do not survive a fork.
    """

    def __init__(
        self,
        exporters: Sequence[MetricExporter],
        read: Callable[[], MetricsData | None],
        environ: Mapping[str, str],
    ) -> None:
        self._exporters = exporters
        self._read = read
        self._interval = _seconds(environ.get("OTEL_METRIC_EXPORT_INTERVAL", ""))
        self._start()
        restart = weakref.WeakMethod(self._restart)

        def after_fork() -> None:
            if (method := restart()) is not None:
                method()

        os.register_at_fork(after_in_child=after_fork)

    def _start(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxyless-otlp", daemon=True)
        self._thread.start()

    def _restart(self) -> None:
        if not self._stop.is_set():
            self._start()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._export()
        self._export()

    def _export(self) -> None:
        data = self._read()
        if data is None:
            return
        for exporter in self._exporters:
            try:
                exporter.export(data)
            except Exception as error:  # an exporter must never end the thread
                log.warning("metrics could not be exported: %s: %s", type(error).__name__, error)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(_CLOSE_TIMEOUT)
        for exporter in self._exporters:
            exporter.shutdown(timeout_millis=_CLOSE_TIMEOUT * 1000)


def _seconds(milliseconds: str) -> float:
    try:
        value = float(milliseconds) / 1000 if milliseconds else _INTERVAL
    except ValueError:
        value = 0.0
    if value > 0:
        return value
    log.warning("OTEL_METRIC_EXPORT_INTERVAL=%r is not a number of milliseconds: using 60000", milliseconds[:40])
    return _INTERVAL
