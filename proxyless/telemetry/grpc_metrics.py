"""gRPC's own metrics, beside Istio's where a user asks for them.

Names, labels, units and buckets: gRFC A66. Off unless ``PROXYLESS_GRPC_METRICS`` is true. Sizes are those of messages
before compression: grpcio does not tell others.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from proxyless.engine.record import CallRecord
from proxyless.telemetry.grpc_status import attempt_status, status_name
from proxyless.telemetry.metrics import MAX_SERIES, OVERFLOW, Distribution, reset_after_fork
from proxyless.telemetry.observation import Ending

log = logging.getLogger("proxyless.telemetry")

VARIABLE = "PROXYLESS_GRPC_METRICS"
# The method of an RPC that nobody serves: its name is the caller's invention.
OTHER = "other"
_LATENCY = (
    *(0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01),
    *(0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
)
_SIZE = (0.0, *(float(1 << power) for power in (10, 11, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32)))


@dataclass(frozen=True, slots=True)
class Instrument:
    """A histogram with ``bounds``, without any a counter."""

    name: str
    unit: str
    description: str
    bounds: tuple[float, ...] = ()


ATTEMPT_STARTED = Instrument("grpc.client.attempt.started", "{attempt}", "Attempts started.")
ATTEMPT_DURATION = Instrument("grpc.client.attempt.duration", "s", "Duration of attempts.", _LATENCY)
ATTEMPT_SENT = Instrument(
    "grpc.client.attempt.sent_total_compressed_message_size", "By", "Request messages of an attempt.", _SIZE
)
ATTEMPT_RECEIVED = Instrument(
    "grpc.client.attempt.rcvd_total_compressed_message_size", "By", "Response messages of an attempt.", _SIZE
)
CALL_DURATION = Instrument("grpc.client.call.duration", "s", "Duration of calls.", _LATENCY)
SERVER_STARTED = Instrument("grpc.server.call.started", "{call}", "Calls started.")
SERVER_DURATION = Instrument("grpc.server.call.duration", "s", "Duration of served calls.", _LATENCY)
SERVER_SENT = Instrument(
    "grpc.server.call.sent_total_compressed_message_size", "By", "Response messages of a served call.", _SIZE
)
SERVER_RECEIVED = Instrument(
    "grpc.server.call.rcvd_total_compressed_message_size", "By", "Request messages of a served call.", _SIZE
)
INSTRUMENTS = (
    *(ATTEMPT_STARTED, ATTEMPT_DURATION, ATTEMPT_SENT, ATTEMPT_RECEIVED, CALL_DURATION),
    *(SERVER_STARTED, SERVER_DURATION, SERVER_SENT, SERVER_RECEIVED),
)
_NO_ANSWER = Ending(0)
_Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Point:
    """One label set of an instrument. values: of a histogram."""

    labels: Mapping[str, str]
    count: int = 0
    values: Distribution | None = None


class GrpcMetrics:
    """All series of one mesh. Any thread may record. A forked child starts from zero."""

    def __init__(self, limit: int = MAX_SERIES) -> None:
        self._limit = limit
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        # The garbage collector may end a forgotten call in a thread that is just counting another.
        self._lock = threading.RLock()
        self._points: dict[Instrument, dict[_Labels, Point]] = {one: {} for one in INSTRUMENTS}
        self.started = time.time_ns()

    def attempt_started(self, method: str, target: str) -> None:
        with self._lock:
            self._add(ATTEMPT_STARTED, _client(method, target))

    def attempts_ended(self, method: str, target: str, record: CallRecord, ending: Ending = _NO_ANSWER) -> None:
        """ending: of the call, if the last attempt was its answer. Only that one brought messages."""
        now = time.monotonic()
        with self._lock:
            for attempt in record.attempts:
                last = attempt is record.attempts[-1]
                failure = attempt.failure
                over = attempt.ended is not None and (not last or failure is not None)
                ended = attempt.ended if over and attempt.ended is not None else now
                labels = (
                    *_client(method, target),
                    (
                        "grpc.status",
                        attempt_status(attempt, attempt.grpc_status or (ending.grpc_status if last else "")),
                    ),
                )
                sent = ending.request_bytes if failure is None or failure.request_sent else 0
                self._add(ATTEMPT_DURATION, labels, ended - attempt.started)
                self._add(ATTEMPT_SENT, labels, sent)
                self._add(ATTEMPT_RECEIVED, labels, ending.response_bytes if last and failure is None else 0)

    def call_ended(self, method: str, target: str, status: str, seconds: float) -> None:
        with self._lock:
            self._add(CALL_DURATION, (*_client(method, target), ("grpc.status", status_name(status))), seconds)

    def server_started(self, method: str) -> None:
        with self._lock:
            self._add(SERVER_STARTED, (("grpc.method", method),))

    def server_ended(self, method: str, ending: Ending, seconds: float) -> None:
        labels = (("grpc.method", method), ("grpc.status", status_name(ending.grpc_status)))
        with self._lock:
            self._add(SERVER_DURATION, labels, seconds)
            self._add(SERVER_SENT, labels, ending.response_bytes)
            self._add(SERVER_RECEIVED, labels, ending.request_bytes)

    def collect(self) -> list[tuple[Instrument, list[Point]]]:
        """A copy of every series, of the instruments that have any."""
        with self._lock:
            return [
                (
                    instrument,
                    [Point(one.labels, one.count, one.values and one.values.copy()) for one in list(points.values())],
                )
                for instrument, points in self._points.items()
                if points
            ]

    def _add(self, instrument: Instrument, labels: _Labels, value: float = 0.0) -> None:
        points = self._points[instrument]
        point = points.get(labels)
        if point is None:
            if len(points) >= self._limit:
                labels = tuple(OVERFLOW.items())
            values = Distribution(instrument.bounds) if instrument.bounds else None
            point = points.setdefault(labels, Point(dict(labels), 0, values))
        point.count += 1
        if point.values is not None:
            point.values.record(value)


def _client(method: str, target: str) -> _Labels:
    # The target of a channel in its canonical form.
    return ("grpc.method", method), ("grpc.target", f"dns:///{target}")


def from_environment(environ: Mapping[str, str]) -> GrpcMetrics | None:
    value = environ.get(VARIABLE, "").strip().lower()
    if value not in ("", "true", "1", "false", "0"):
        log.warning("%s=%r is neither true nor false: gRPC's own metrics stay off", VARIABLE, value[:40])
    return GrpcMetrics() if value in ("true", "1") else None
