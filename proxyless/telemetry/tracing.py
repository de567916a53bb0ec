"""Spans of the requests that are traced, through OpenTelemetry's SDK. Loaded only when an exporter is configured."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from proxyless.engine.record import PHASES
from proxyless.engine.request import Request
from proxyless.telemetry import rpc_tracing
from proxyless.telemetry.labels import flag_letters, protocol
from proxyless.telemetry.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from proxyless.engine.record import CallRecord
    from proxyless.telemetry.observation import Ending

_ATTRIBUTE_LIMIT = 1024


class _GivenIds(IdGenerator):
    """Hands the SDK the ids that we already sent on the wire; set in the same thread just before the span starts."""

    def __init__(self) -> None:
        self.next = threading.local()

    def generate_span_id(self) -> int:
        return int(self.next.context.span_id, 16)

    def generate_trace_id(self) -> int:
        return int(self.next.context.trace_id, 16)


class Tracer:
    """Makes spans for trace contexts that were sampled."""

    def __init__(self, resource: Resource, processors: list[SpanProcessor]) -> None:
        self._ids = _GivenIds()
        # Sampling was decided before (see sampling.py): what comes here is recorded.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        for processor in processors:
            self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("proxyless")

    def start(
        self, context: TraceContext, parent: TraceContext | None, head: Request, *, server: bool
    ) -> Span | rpc_tracing.RpcSpan:
        """A span named as OpenTelemetry's HTTP conventions ask when no route template is known: by its method."""
        kind = SpanKind.SERVER if server else SpanKind.CLIENT
        if protocol(head) == "grpc":
            span = self.begin(rpc_tracing.method_of(head), context, parent, kind, rpc_tracing.attributes(head))
            return rpc_tracing.RpcSpan(self, span, head)
        return Span(self.begin(head.method, context, parent, kind, _attributes(head, server)))

    def begin(
        self,
        name: str,
        context: TraceContext,
        parent: TraceContext | None,
        kind: SpanKind,
        attributes: dict[str, str | int],
    ) -> api.Span:
        self._ids.next.context = context
        return self._tracer.start_span(
            name,
            context=api.set_span_in_context(api.NonRecordingSpan(_span_context(parent))) if parent else Context(),
            kind=kind,
            attributes=attributes,
        )

    def shutdown(self) -> None:
        self._provider.shutdown()


class Span:
    """One recorded span."""

    __slots__ = ("_span",)

    def __init__(self, span: api.Span) -> None:
        self._span = span

    def end_client(self, record: CallRecord, ending: Ending) -> None:
        span = self._span
        # Attempts carry monotonic seconds, events want Unix nanoseconds.
        now_monotonic, now = time.monotonic(), time.time_ns()
        for attempt in record.attempts:
            outcome: dict[str, Any] = {
                "attempt": attempt.number,
                "server.address": attempt.endpoint.address,
                "server.port": attempt.endpoint.port,
            }
            if attempt.status is not None:
                outcome["http.response.status_code"] = attempt.status
            if attempt.failure is not None:
                outcome["error.type"] = attempt.failure.kind.value
                outcome["error.message"] = attempt.failure.detail[:_ATTRIBUTE_LIMIT]
            if attempt.peer:
                outcome["peer.identity"] = attempt.peer
            if attempt.hedge:
                outcome["proxyless.hedge"] = True
            if attempt.lost:
                outcome["proxyless.lost"] = True
            for phase in PHASES:
                if (seconds := getattr(attempt, phase)) is not None:
                    outcome[f"proxyless.phase.{phase}"] = seconds
            at = now - int((now_monotonic - attempt.started) * 1e9)
            span.add_event("attempt", outcome, timestamp=at)
        for name, seconds in record.phases().items():
            span.set_attribute(f"proxyless.phase.{name}", seconds)
        if record.cluster is not None:
            span.set_attribute("upstream_cluster", record.cluster.name)
        if record.attempts:
            last = record.attempts[-1]
            span.set_attribute("network.peer.address", last.endpoint.address)
            span.set_attribute("network.peer.port", last.endpoint.port)
            if len(record.attempts) > 1:
                span.set_attribute("http.request.resend_count", len(record.attempts) - 1)
        # A client span is an error from 400 on (OpenTelemetry HTTP semantic conventions, "Status").
        self._finish(ending, 400)

    def end_server(self, peer: str, ending: Ending) -> None:
        if peer:
            self._span.set_attribute("istio.source_principal", peer)
        self._finish(ending, 500)

    def _finish(self, ending: Ending, failed_from: int) -> None:
        span, status, error = self._span, ending.status, ending.error[:_ATTRIBUTE_LIMIT]
        if status:
            span.set_attribute("http.response.status_code", status)
        span.set_attribute("response_flags", flag_letters(ending.flags))
        if ending.reason:
            span.set_attribute("istio.response_code_details", ending.reason[:_ATTRIBUTE_LIMIT])
        if error or not status or status >= failed_from:
            span.set_attribute("error.type", error or str(status))
            span.set_status(Status(StatusCode.ERROR, error or None))
        span.end()


def _attributes(head: Request, server: bool) -> dict[str, str | int]:
    """OpenTelemetry's semantic conventions for HTTP spans."""
    found: dict[str, str | int] = {
        "http.request.method": head.method,
        "istio.request_id": head.header("x-request-id") or "",
    }
    host, _, port = head.target.rpartition(":")
    found["server.address"] = host
    if port.isdigit():
        found["server.port"] = int(port)
    if server:
        found["url.scheme"] = head.scheme
        found["url.path"] = head.path_only[:_ATTRIBUTE_LIMIT]
    else:
        # Without the query: it is where secrets travel.
        found["url.full"] = f"{head.scheme}://{head.authority}{head.path_only}"[:_ATTRIBUTE_LIMIT]
    agent = head.header("user-agent")
    if agent:
        found["user_agent.original"] = agent[:_ATTRIBUTE_LIMIT]
    return found


def _span_context(context: TraceContext) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(context.sampled)),
        trace_state=TraceState.from_header([context.state]) if context.state else None,
    )
