"""Istio's HTTPFaultInjection as Envoy's fault filter (gRFC A33)."""

from envoy.extensions.filters.http.fault.v3 import fault_pb2 as http

from proxyless.control_plane.resources.virtual_service import HTTPFaultInjection
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.matchers import fraction

FILTER = "envoy.filters.http.fault"

# In the order of their numbers.
_GRPC_STATUSES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


def fault(asked: HTTPFaultInjection, notes: Notes, origin: str) -> http.HTTPFault | None:
    """None when it comes to nothing. Without a percentage no request is affected (Istio's API reference, Envoy)."""
    result = http.HTTPFault()
    if (delay := asked.delay) is not None:
        share = delay.percentage.value if delay.percentage is not None else float(delay.percent)
        if delay.fixed_delay is None:
            notes.add(f"{origin}: fault.delay.exponentialDelay is not supported by Envoy, only fixedDelay")
        # Envoy refuses a delay of 0.
        elif delay.fixed_delay > 0:
            result.delay.fixed_delay.CopyFrom(duration(delay.fixed_delay))
            result.delay.percentage.CopyFrom(fraction(share))
    if (abort := asked.abort) is not None:
        filled = http.FaultAbort(percentage=fraction(abort.percentage.value if abort.percentage else 0.0))
        if abort.http_status is not None and 200 <= abort.http_status < 600:
            filled.http_status = abort.http_status
            result.abort.CopyFrom(filled)
        elif abort.grpc_status is not None and (code := _grpc_status(abort.grpc_status)) is not None:
            filled.grpc_status = code
            result.abort.CopyFrom(filled)
        else:
            notes.add(f"{origin}: fault.abort needs an httpStatus from 200 to 599 or the name of a gRPC status")
    return result if result.HasField("delay") or result.HasField("abort") else None


def _grpc_status(text: str) -> int | None:
    if text.upper() in _GRPC_STATUSES:
        return _GRPC_STATUSES.index(text.upper())
    return int(text) if text.isascii() and text.isdigit() and int(text[:3]) < len(_GRPC_STATUSES) else None
