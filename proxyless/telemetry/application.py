"""Where our trace context meets the application's own OpenTelemetry, if it has loaded any."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proxyless.telemetry.context import RequestContext, current
from proxyless.telemetry.trace_context import TraceContext


def application_span() -> TraceContext | None:
    """The application's current span, so that calls made inside it hang under it."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return TraceContext(
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        bool(context.trace_flags & 1),
        context.trace_state.to_header(),
    )


@contextmanager
def serving(context: RequestContext) -> Iterator[None]:
    """Make ``context`` the current one, for our calls and for spans the application starts with OpenTelemetry's API."""
    token = current.set(context)
    detach = _attach(context.trace)
    try:
        yield
    finally:
        detach()
        current.reset(token)


def _nothing() -> None:
    pass


def _attach(trace: TraceContext) -> Callable[[], None]:
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return _nothing
    from opentelemetry import context as otel_context

    span_context = api.SpanContext(
        int(trace.trace_id, 16),
        int(trace.span_id, 16),
        is_remote=False,
        trace_flags=api.TraceFlags(int(trace.sampled)),
        trace_state=api.TraceState.from_header([trace.state]) if trace.state else None,
    )
    token = otel_context.attach(api.set_span_in_context(api.NonRecordingSpan(span_context)))
    return lambda: otel_context.detach(token)
