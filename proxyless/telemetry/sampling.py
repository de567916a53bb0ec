"""Which requests are traced. Decided before a span exists, so that the others cost nothing.

``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG`` as OpenTelemetry's specification has them; without them
Istio's default: 1% of the traces that start here and every trace whose caller sampled it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

log = logging.getLogger("proxyless.telemetry")

DEFAULT_RATIO = 0.01
_MAX = 1 << 64


@dataclass(frozen=True, slots=True)
class Sampling:
    """parent_based: a caller's decision stands. ratio: the share of the others, 0 to 1, decided by trace id."""

    ratio: float = DEFAULT_RATIO
    parent_based: bool = True
    _below: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        below = round(self.ratio * _MAX)
        # Hex digits of equal number are in the order of what they mean, and "g" comes after them all.
        object.__setattr__(self, "_below", f"{below:016x}" if below < _MAX else "g")

    def decide(self, trace_id: str, parent: bool | None) -> bool:
        """``parent``: the caller's decision, None when there is no caller."""
        if parent is not None and self.parent_based:
            return parent
        # TraceIdRatioBased: the low 64 bits, so that a lower ratio samples a subset of what a higher one does.
        return trace_id[16:] < self._below


def from_environment(environ: Mapping[str, str]) -> Sampling:
    """An unknown name or a bad number is reported once and falls back to the default, as the specification asks."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if not name:
        return Sampling()
    parent_based = name.startswith("parentbased_")
    match name.removeprefix("parentbased_"):
        case "always_on":
            return Sampling(1.0, parent_based)
        case "always_off":
            return Sampling(0.0, parent_based)
        case "traceidratio":
            text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
            try:
                ratio = float(text) if text else 1.0
            except ValueError:
                ratio = -1.0
            if 0 <= ratio <= 1:
                return Sampling(ratio, parent_based)
            log.warning("OTEL_TRACES_SAMPLER_ARG=%r is not a number from 0 to 1: sampling 100%%", text[:40])
            return Sampling(1.0, parent_based)
    log.warning(
        "OTEL_TRACES_SAMPLER=%r is not known here (always_on, always_off, traceidratio, each also with parentbased_): "
        "sampling Istio's 1%%",
        name[:40],
    )
    return Sampling()
