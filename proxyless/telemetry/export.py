"""What is pushed out of the process: metrics and spans, to the exporters the environment names. Imports the SDK."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

from proxyless.telemetry.exporters import metrics_exporters, traces_exporters
from proxyless.telemetry.grpc_metrics import GrpcMetrics
from proxyless.telemetry.labels import Own
from proxyless.telemetry.metrics import Metrics
from proxyless.telemetry.otlp import Pusher, metrics_data
from proxyless.telemetry.tracing import Tracer

log = logging.getLogger("proxyless.telemetry")


class Exports:
    """The push side of one mesh's telemetry. ``tracer`` is None when no exporter takes spans."""

    def __init__(self, metrics: Metrics, grpc: GrpcMetrics | None, own: Own, environ: Mapping[str, str]) -> None:
        resource = _resource(own, environ)
        exporters = [_metric_exporter(name) for name in metrics_exporters(environ)]
        processors = [_span_processor(name) for name in traces_exporters(environ)]
        self._pusher = Pusher(exporters, partial(metrics_data, metrics, resource, grpc), environ) if exporters else None
        self.tracer = Tracer(resource, processors) if processors else None
        if environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "") == "grpc":
            log.warning(
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: this process pushes over HTTP (grpcio does not survive a fork); "
                "point OTEL_EXPORTER_OTLP_ENDPOINT at the collector's HTTP port, usually 4318"
            )

    def close(self) -> None:
        if self._pusher is not None:
            self._pusher.close()
        if self.tracer is not None:
            self.tracer.shutdown()


def _resource(own: Own, environ: Mapping[str, str]) -> Resource:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what the mesh knows."""
    given = {part.partition("=")[0].strip() for part in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")}
    known = {"service.namespace": own.labels.namespace, "service.version": own.labels.version}
    if own.service and not environ.get("OTEL_SERVICE_NAME"):
        known["service.name"] = f"{own.service}.{own.labels.namespace}"
    return Resource.create({key: value for key, value in known.items() if key not in given})


# OTLP as JSON, which OTLP/HTTP receivers take as well: xds-protos installs old copies of opentelemetry-proto's modules
# over the real ones, so the binary exporter cannot even be imported beside it.
def _metric_exporter(name: str) -> MetricExporter:
    if name == "console":
        return ConsoleMetricExporter()
    from opentelemetry.exporter.otlp.json.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


def _span_processor(name: str) -> SpanProcessor:
    if name == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter())
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter())
