"""Spans of gRPC calls, by OpenTelemetry's semantic conventions for RPC and gRPC; attempts have their own (gRFC A72)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import trace as api
from opentelemetry.trace import SpanKind, Status, StatusCode

from proxyless.engine.record import PHASES
from proxyless.engine.request import Request
from proxyless.telemetry.grpc_status import SERVER_ERRORS, attempt_status, status_name
from proxyless.telemetry.labels import flag_letters
from proxyless.telemetry.trace_context import TraceContext

if TYPE_CHECKING:
    from proxyless.engine.record import AttemptRecord, CallRecord
    from proxyless.telemetry.observation import Ending
    from proxyless.telemetry.tracing import Tracer

LIMIT = 1024


def method_of(head: Request) -> str:
    """``package.Service/Method``."""
    return head.path[1 : LIMIT + 1]


def attributes(head: Request) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "rpc.system.name": "grpc",
        "rpc.method": method_of(head),
        "istio.request_id": head.header("x-request-id") or "",
    }
    host, _, port = head.target.rpartition(":")
    found["server.address"] = host
    if port.isdigit():
        found["server.port"] = int(port)
    return found


class RpcSpan:
    """One recorded call, of a client or a server. A client's has a span for each attempt."""

    __slots__ = ("_attempts", "_head", "_previous", "_span", "_tracer")

    def __init__(self, tracer: Tracer, span: api.Span, head: Request) -> None:
        self._tracer = tracer
        self._span = span
        self._head = head
        self._attempts: dict[int, api.Span] = {}
        self._previous = 0

    def attempt(self, number: int, context: TraceContext, parent: TraceContext) -> None:
        """The next attempt begins; ``context`` is what it carries."""
        self._attempts[number] = self._tracer.begin(
            f"Attempt.{method_of(self._head)}",
            context,
            parent,
            SpanKind.INTERNAL,
            {"rpc.system.name": "grpc", "previous-rpc-attempts": self._previous},
        )
        self._previous += 1

    def end_attempts(self, record: CallRecord, status: str) -> None:
        """status: the gRPC status of the last one if it was the answer, "" if it was not."""
        # Attempts carry monotonic seconds, spans want Unix nanoseconds.
        now_monotonic, now = time.monotonic(), time.time_ns()
        for attempt in record.attempts:
            span = self._attempts.pop(attempt.number, None)
            if span is not None:
                # The last one goes on after its head, unless it failed.
                over = attempt is not record.attempts[-1] or attempt.failure is not None
                ended = attempt.ended if over else None
                at = now if ended is None else now - int((now_monotonic - ended) * 1e9)
                _end_attempt(span, attempt, attempt.grpc_status or status, at)

    def end_client(self, record: CallRecord, ending: Ending) -> None:
        self.end_attempts(record, ending.grpc_status)
        span = self._span
        for name, seconds in record.phases().items():
            span.set_attribute(f"proxyless.phase.{name}", seconds)
        if record.cluster is not None:
            span.set_attribute("upstream_cluster", record.cluster.name)
        if record.attempts:
            last = record.attempts[-1]
            span.set_attribute("network.peer.address", last.endpoint.address)
            span.set_attribute("network.peer.port", last.endpoint.port)
        self._finish(ending, None)

    def end_server(self, peer: str, ending: Ending) -> None:
        if peer:
            self._span.set_attribute("istio.source_principal", peer)
        self._finish(ending, SERVER_ERRORS)

    def _finish(self, ending: Ending, errors: frozenset[str] | None) -> None:
        """errors: None for every status that is not OK."""
        span, name = self._span, status_name(ending.grpc_status)
        span.set_attribute("rpc.response.status_code", name)
        span.set_attribute("response_flags", flag_letters(ending.flags))
        if ending.reason:
            span.set_attribute("istio.response_code_details", ending.reason[:LIMIT])
        if name != "OK" if errors is None else name in errors:
            span.set_attribute("error.type", name)
            span.set_status(Status(StatusCode.ERROR, ending.error[:LIMIT] or None))
        span.end()


def _end_attempt(span: api.Span, attempt: AttemptRecord, status: str, at: int) -> None:
    span.set_attribute("network.peer.address", attempt.endpoint.address)
    span.set_attribute("network.peer.port", attempt.endpoint.port)
    if attempt.peer:
        span.set_attribute("peer.identity", attempt.peer)
    if attempt.hedge:
        span.set_attribute("proxyless.hedge", True)
    if attempt.lost:
        span.set_attribute("proxyless.lost", True)
    for phase in PHASES:
        if (seconds := getattr(attempt, phase)) is not None:
            span.set_attribute(f"proxyless.phase.{phase}", seconds)
    name = attempt_status(attempt, status)
    span.set_attribute("rpc.response.status_code", name)
    if name != "OK":
        detail = attempt.failure.detail[:LIMIT] if attempt.failure is not None else None
        span.set_attribute("error.type", name)
        span.set_status(Status(StatusCode.ERROR, detail))
    span.end(end_time=at)
