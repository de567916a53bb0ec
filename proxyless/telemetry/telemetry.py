"""The one object that the transports tell about requests. OpenTelemetry's SDK is loaded on demand."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from proxyless.engine.request import Request
from proxyless.engine.steps import Flag
from proxyless.model.spiffe import SpiffeId
from proxyless.telemetry import access_log, grpc_metrics, sampling
from proxyless.telemetry import labels as label_sets
from proxyless.telemetry.application import application_span
from proxyless.telemetry.context import RequestContext, current
from proxyless.telemetry.deadline import TIMEOUT_HEADERS, patience
from proxyless.telemetry.exporters import metrics_exporters, traces_exporters
from proxyless.telemetry.grpc_status import SERVER_ERRORS, status_name
from proxyless.telemetry.load_recorders import ServerMetricRecorder
from proxyless.telemetry.metrics import Metrics
from proxyless.telemetry.observation import ClientObservation, Connection, Ending, ServerObservation
from proxyless.telemetry.request_id import acceptable, new_request_id
from proxyless.telemetry.trace_context import (
    NO_FORMATS,
    TRACE_HEADERS,
    Formats,
    Incoming,
    TraceContext,
    extract,
    incoming,
    inject,
    new_span_id,
    new_trace,
)
from proxyless.telemetry.workload import describe

if TYPE_CHECKING:
    from proxyless.engine.record import CallRecord
    from proxyless.telemetry.export import Exports
    from proxyless.telemetry.prometheus import Prometheus
    from proxyless.telemetry.rpc_tracing import RpcSpan
    from proxyless.telemetry.tracing import Span

_NO_TRACE = Incoming()
# What is read of the headers of a request that arrives.
READ_HEADERS = TRACE_HEADERS | TIMEOUT_HEADERS | {"x-request-id"}
# What goes on from a request to those made for it; an application may say it itself.
_CARRIED = TRACE_HEADERS | {"x-request-id"}


class Telemetry:
    """Metrics, spans, trace context and access log of one mesh identity.

    service, namespace, service_account, labels, trust_domain: who this workload is. cluster: Istio's ``*_cluster``.
    environ: where the ``OTEL_*`` variables are read, ``os.environ`` unless given. Safe to use from any thread.
    """

    def __init__(
        self,
        *,
        service: str,
        namespace: str = "default",
        service_account: str = "default",
        labels: Mapping[str, str] | None = None,
        trust_domain: str = "cluster.local",
        cluster: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        own = {"app": service, **(labels or {})} if service else dict(labels or {})
        workload = own.get("service.istio.io/workload-name", "") or service
        principal = str(SpiffeId(trust_domain, namespace, service_account))
        described = describe(own, workload=workload, namespace=namespace, cluster=cluster)
        self.own = label_sets.Own(described, principal, service)
        self.metrics = Metrics()
        self._enabled = self._environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"
        self.grpc = grpc_metrics.from_environment(self._environ) if self._enabled else None
        self._sampling = sampling.from_environment(self._environ)
        self.server_metrics = ServerMetricRecorder(self._served)
        self._prometheus: Prometheus | None = None
        self._exports: Exports | None = None
        # Read early, imported only if something is to be pushed: the SDK takes longer to import than we do.
        if self._enabled and (metrics_exporters(self._environ) or traces_exporters(self._environ)):
            from proxyless.telemetry.export import Exports

            self._exports = Exports(self.metrics, self.grpc, self.own, self._environ)

    def identify(self, spiffe_id: SpiffeId) -> None:
        """Say which identity this workload proves to its peers, once it has one (its trust domain may be news)."""
        self.own = replace(self.own, principal=str(spiffe_id))

    # Calls this workload makes

    def begin_client(self, request: Request) -> ClientObservation:
        """Start observing a call: continues the request being served (trace, request id, deadline) in ``request``.

        A trace context or request id that the application set itself stands, and becomes the parent.
        """
        served = current.get()
        headers = request.headers
        own_trace, own_id = False, ""
        for name, value in headers:
            if name in _CARRIED:
                if name == "x-request-id":
                    own_id = value
                else:
                    own_trace = True
        if served is not None and served.deadline is not None:
            own_deadline = request.deadline
            request.deadline = served.deadline if own_deadline is None else min(served.deadline, own_deadline)
        came = extract(headers) if own_trace else _NO_TRACE
        parent, decided = came.context, came.sampled
        if parent is None:
            parent = application_span()
            if served is not None:
                # The application's span knows no B3: what came in as B3 goes out as B3, whoever is the parent.
                parent = served.trace if parent is None else parent._replace(formats=served.trace.formats)
            if parent is not None:
                decided = parent.sampled
        request_id = own_id
        if not own_id:
            request_id = served.request_id if served is not None else new_request_id()
            headers.append(("x-request-id", request_id))
        trace, span = self._next((parent, decided, came.formats), request, False)
        # The application's own context stands unless we add a span between it and the server.
        if not own_trace:
            headers += inject(trace)
        elif span is not None or parent is None:
            headers[:] = [line for line in headers if line[0] not in TRACE_HEADERS]
            headers += inject(trace)
        return ClientObservation(self, request, trace, request_id, span)

    def begin_copy(self, copy: Request, seen: ClientObservation, *, traced: bool) -> ClientObservation:
        """Start observing a copy of the call ``seen``, which is mirrored; it has no span of its own.

        traced: False if the copy's server shall not record it either.
        """
        trace = seen.trace
        if trace.sampled and not traced:
            trace = trace._replace(sampled=False)
            copy.headers[:] = [line for line in copy.headers if line[0] not in TRACE_HEADERS]
            copy.headers += inject(trace)
        return ClientObservation(self, copy, trace, seen.request_id, None)

    def attempt(self, seen: ClientObservation, number: int, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Called by ``ClientObservation.attempt``. In a trace that we record, an attempt has a span of its own."""
        if self.grpc is not None:
            self.grpc.attempt_started(seen.request.path[1:], seen.request.target)
        if seen.span is None:
            return headers
        trace = seen.trace._replace(span_id=new_span_id())
        cast("RpcSpan", seen.span).attempt(number, trace, seen.trace)
        return [line for line in headers if line[0] not in TRACE_HEADERS] + inject(trace)

    def attempts_over(self, seen: ClientObservation, record: CallRecord) -> None:
        """Called by ``ClientObservation.attempts_over``."""
        if self.grpc is not None:
            self.grpc.attempts_ended(seen.request.path[1:], seen.request.target, record)
        if seen.span is not None:
            cast("RpcSpan", seen.span).end_attempts(record, "")

    def end_client(self, seen: ClientObservation, record: CallRecord, ending: Ending) -> None:
        """Called by ``ClientObservation.end``."""
        seconds = time.monotonic() - seen.started
        if self._enabled:
            request = seen.request
            told = self.own, request.target, label_sets.protocol(request), record, ending
            self.metrics.record(label_sets.client, told, seconds * 1000, ending.request_bytes, ending.response_bytes)
        if seen.rpc and self.grpc is not None:
            method, target = seen.request.path[1:], seen.request.target
            self.grpc.attempts_ended(method, target, record, ending)
            self.grpc.call_ended(method, target, ending.grpc_status, seconds)
        if seen.span is not None:
            seen.span.end_client(record, ending)
        if access_log.enabled():
            access_log.outbound(seen, record, ending, seconds)

    # Requests this workload serves

    def begin_server(
        self, head: Request, connection: Connection, lines: Sequence[tuple[str, str]] | None = None, method: str = ""
    ) -> ServerObservation:
        """Start observing a served request. Only an authenticated caller may set a deadline.

        lines: those of the headers whose names are in ``READ_HEADERS``, from a caller that has them at hand.
        method: see ServerObservation.
        """
        if lines is None:
            lines = [line for line in head.headers if line[0] in READ_HEADERS]
        came, request_id, deadline = _NO_TRACE, "", None
        if lines:
            of_trace: list[tuple[str, str]] = []
            of_time: list[tuple[str, str]] = []
            for line in lines:
                name = line[0]
                if name == "x-request-id":
                    request_id = f"{request_id},{line[1]}" if request_id else line[1]
                elif name in TIMEOUT_HEADERS:
                    of_time.append(line)
                else:
                    of_trace.append(line)
            came = incoming(of_trace)
            if request_id and not acceptable(request_id):
                request_id = ""
            # A plaintext caller could make us give up on its request early, which harms only itself; but a deadline
            # also flows on to calls whose work others may share, so it counts only from an authenticated one.
            if of_time and connection.peer is not None and (waits := patience(of_time)) is not None:
                deadline = time.monotonic() + waits
        trace, span = self._next(came, head, True)
        context = RequestContext(trace, request_id or new_request_id(), deadline, connection.peer)
        if method and self.grpc is not None:
            self.grpc.server_started(method)
        return ServerObservation(self, head, connection, context, span, method)

    def end_server(  # noqa: PLR0917  an ``Ending`` by its fields: most requests need none
        self,
        seen: ServerObservation,
        status: int,
        flags: tuple[Flag, ...],
        request_bytes: int,
        response_bytes: int,
        reason: str,
        error: str,
        grpc_status: str,
    ) -> None:
        """Called by ``ServerObservation.end``."""
        seconds = time.monotonic() - seen.started
        if self._enabled:
            own, connection, metrics = self.own, seen.connection, self.metrics
            kind = label_sets.protocol(seen.head) if seen.head.content_type else "http"
            # What the series' labels are made of: strings whose hashes are known, and a number.
            key = "destination", own.principal, connection.principal, kind, status, flags, grpc_status
            series = metrics.known.get(key)
            if series is None:
                series = metrics.series(key, label_sets.server, own, kind, connection, status, flags, grpc_status)
            metrics.count(series, seconds * 1000, request_bytes, response_bytes)
        logged = access_log.enabled()
        if seen.span is None and not logged and not seen.method:
            return
        ending = Ending(status, flags, request_bytes, response_bytes, reason, error, grpc_status)
        if seen.method and self.grpc is not None:
            self.grpc.server_ended(seen.method, ending, seconds)
        if seen.span is not None:
            seen.span.end_server(seen.connection.principal, ending)
        if logged:
            access_log.inbound(seen, ending, seconds)

    def _served(self) -> tuple[int, int]:
        """How many requests this workload has served, and to how many of them its answer was an error of its own."""
        requests = errors = 0
        for labels, count in self.metrics.counts():
            if labels.get("reporter") == "destination":
                requests += count
                code, grpc_status = labels["response_code"], labels["grpc_response_status"]
                if code[0] == "5" or (grpc_status and status_name(grpc_status) in SERVER_ERRORS):
                    errors += count
        return requests, errors

    # What others read

    def prometheus(self) -> bytes:
        """All metrics in Prometheus' text format, ``b""`` when OTEL_SDK_DISABLED is true."""
        if not self._enabled:
            return b""
        if self._prometheus is None:
            from proxyless.telemetry.prometheus import Prometheus

            self._prometheus = Prometheus(self.metrics, self.grpc)
        return self._prometheus.text()

    def close(self) -> None:
        """Send what is left to the exporters and stop them. Idempotent; blocks at most a few seconds."""
        exports, self._exports = self._exports, None
        if exports is not None:
            exports.close()

    def _next(
        self, came: tuple[TraceContext | None, bool | None, Formats], head: Request, server: bool
    ) -> tuple[TraceContext, Span | RpcSpan | None]:
        """The trace context that goes on from here, and our span in it if one is recorded.

        Without a span of ours the parent goes on as it came, so that what follows hangs under a span that exists.
        came: see Incoming.
        """
        parent, decided, formats = came
        if parent is None:
            trace = new_trace()
            sampled = self._sampling.decide(trace.trace_id, decided)
            if sampled or formats is not NO_FORMATS:
                trace = trace._replace(sampled=sampled, formats=formats)
        else:
            sampled = self._sampling.decide(parent.trace_id, decided)
            trace = parent if sampled == parent.sampled else parent._replace(sampled=sampled)
        tracer = self._exports.tracer if self._exports is not None else None
        if tracer is None or not trace.sampled:
            return trace, None
        if parent is not None:
            trace = trace._replace(span_id=new_span_id())
        return trace, tracer.start(trace, parent, head, server=server)
