"""Spans of a sidecar's Envoy: what the environment of the launcher says becomes Envoy's."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from proxyless.model.errors import ConfigurationError

# Both are known to the control plane, which has the listeners trace.
COLLECTOR, METADATA = "opentelemetry-collector", "PROXYLESS_TRACING"


@dataclass(frozen=True, slots=True)
class Tracing:
    """url: of a collector's traces (OTLP over HTTP). service: whose spans. percent: of the traces that begin here; what
    a caller has decided stands.

    Raises ConfigurationError for a URL that Envoy cannot export to.
    """

    url: str
    service: str
    percent: float

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            known = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        except ValueError:
            known = False
        if not known:
            raise ConfigurationError(
                f"OTEL_EXPORTER_OTLP_ENDPOINT: a sidecar cannot export spans to {self.url.rpartition('@')[2][:200]!r}; "
                "give the http:// address of a collector, or set OTEL_TRACES_EXPORTER=none"
            )

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    @property
    def metadata(self) -> dict[str, Any]:
        return {METADATA: {"url": self.url, "service": self.service, "percent": self.percent}}
