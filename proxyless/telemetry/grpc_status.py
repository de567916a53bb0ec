"""gRPC's status codes by name (grpc.io, "Status codes and their use in gRPC"), without grpcio."""

from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import FailureKind

_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
# What OpenTelemetry's conventions for gRPC call an error of the server.
SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
CANCELLED = "CANCELLED"


def status_name(number: str) -> str:
    """number: as in ``grpc-status``; "" (there was none, as the caller went) is CANCELLED."""
    if not number:
        return CANCELLED
    code = int(number) if number.isascii() and number.isdigit() else len(_NAMES)
    return _NAMES[code] if code < len(_NAMES) else "UNKNOWN"


def attempt_status(attempt: AttemptRecord, status: str) -> str:
    """The name of an attempt's status. status: what is known of it, "" if nothing is."""
    failure = attempt.failure
    if failure is None:
        return status_name(status)
    return "DEADLINE_EXCEEDED" if failure.kind is FailureKind.TIMEOUT else "UNAVAILABLE"
