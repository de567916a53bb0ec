"""Spans of an Envoy sidecar: where it exports them to is its own environment's to say, and so in its node.

Source: Istio's OpenTelemetry tracing provider (MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider), its sampling
(all that a caller sampled or forces, a share of what begins here) and its length of a path.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

from envoy.config.trace.v3 import http_tracer_pb2, opentelemetry_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import pack

# In a node's metadata: ``url``, ``service`` and ``percent``.
TRACING = "PROXYLESS_TRACING"
# In the sidecar's own bootstrap.
COLLECTOR = "opentelemetry-collector"
_TIMEOUT, _LONGEST_PATH, _MAX_TEXT = 10.0, 256, 1024


@dataclass(frozen=True, slots=True)
class Tracing:
    """url: of a collector's traces (OTLP over HTTP). service: whose spans. percent: of the traces that begin here."""

    url: str
    service: str
    percent: float

    @classmethod
    def from_metadata(cls, fields: Any) -> Self | None:
        """``fields`` of a node's metadata Struct. None when nothing is asked for, or it makes no sense."""
        asked = fields[TRACING].struct_value.fields if TRACING in fields else {}
        url = asked["url"].string_value if "url" in asked else ""
        percent = asked["percent"].number_value if "percent" in asked else 0.0
        if not url.startswith("http://") or len(url) > _MAX_TEXT or not url.isprintable() or not url.isascii():
            return None
        if not math.isfinite(percent) or not 0 <= percent <= 100:
            return None
        return cls(url, asked["service"].string_value[:_MAX_TEXT] if "service" in asked else "", percent)


def trace(manager: hcm_pb2.HttpConnectionManager, tracing: Tracing | None) -> None:
    """A span for each request through ``manager`` that is sampled."""
    if tracing is None:
        return
    config = opentelemetry_pb2.OpenTelemetryConfig(service_name=tracing.service)
    config.http_service.http_uri.uri = tracing.url
    config.http_service.http_uri.cluster = COLLECTOR
    config.http_service.http_uri.timeout.CopyFrom(duration(_TIMEOUT))
    target = manager.tracing
    target.client_sampling.value = target.overall_sampling.value = 100.0
    target.random_sampling.value = tracing.percent
    target.max_path_tag_length.value = _LONGEST_PATH
    target.provider.CopyFrom(
        http_tracer_pb2.Tracing.Http(name="envoy.tracers.opentelemetry", typed_config=pack(config))
    )
