"""Which exporters the ``OTEL_*`` environment asks for. Pure reading; ``export`` builds them.

Source: OpenTelemetry's environment variable specification. One difference: with no endpoint and no exporter named,
nothing is pushed (the specification would push to localhost), as Istio sends nothing until a provider is configured.
"""

import logging
from collections.abc import Mapping

log = logging.getLogger("proxyless.telemetry")
_KNOWN = ("otlp", "console")


def metrics_exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    return _exporters(environ, "METRICS")


def traces_exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    return _exporters(environ, "TRACES")


def _exporters(environ: Mapping[str, str], signal: str) -> tuple[str, ...]:
    variable = f"OTEL_{signal}_EXPORTER"
    chosen = [name for part in environ.get(variable, "").split(",") if (name := part.strip().lower())]
    if chosen:
        # "prometheus" is always served, "none" asks for nothing.
        unknown = [name for name in chosen if name not in (*_KNOWN, "prometheus", "none")]
        if unknown:
            log.warning("%s: %s is not one of otlp, console, prometheus, none; it is left out", variable, unknown)
        return tuple(name for name in chosen if name in _KNOWN)
    endpoint = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return ("otlp",) if endpoint else ()
