"""Where our trace context meets the application's own OpenTelemetry, if it has loaded any."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from proxyless.telemetry.context import RequestContext, current
from proxyless.telemetry.trace_context import TraceContext

_API = "opentelemetry.trace"


def application_span() -> TraceContext | None:
    """The application's current span, so that calls made inside it hang under it."""
    api = sys.modules.get(_API)
    if api is None:
        return None
    span = api.get_current_span()
    if (ours := getattr(span, "served", None)) is not None:
        return ours  # type: ignore[no-any-return]
    if span is api.INVALID_SPAN:
        return None
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return TraceContext(
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        bool(context.trace_flags & 1),
        context.trace_state.to_header(),
    )


class serving:  # used like a function; as a generator it would cost each request three calls more
    """Makes ``context`` the current one in a ``with`` block, for our calls and for spans that the application starts
    with OpenTelemetry's API.
    """

    __slots__ = ("_context", "_detach", "_token")

    def __init__(self, context: RequestContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = current.set(self._context)
        self._detach = _attach(self._context.trace) if _API in sys.modules else None

    def __exit__(self, *_: object) -> None:
        if self._detach is not None:
            self._detach()
        current.reset(self._token)


def serve_from_here(context: RequestContext) -> None:
    """As ``serving``, in a task that does nothing else: what is set ends with it, so nothing is put back."""
    current.set(context)
    if _API in sys.modules:
        attach, with_span, served_span, _ = _open_telemetry()
        attach(with_span(served_span(context.trace)))


def _attach(trace: TraceContext) -> Callable[[], None]:
    attach, with_span, served_span, detach = _open_telemetry()
    return functools.partial(detach, attach(with_span(served_span(trace))))


@functools.cache
def _open_telemetry() -> tuple[Callable[[Any], Any], Callable[[Any], Any], type[Any], Callable[[Any], None]]:
    """What a request needs of it; it is imported only if the application, or an exporter, has done so."""
    api = sys.modules[_API]
    # The API imports it itself.
    otel_context = sys.modules["opentelemetry.context"]

    class ServedSpan(api.NonRecordingSpan):  # type: ignore[misc, name-defined]
        """Our server span to the application's OpenTelemetry, in its terms once it asks: most requests never do."""

        def __init__(self, served: TraceContext) -> None:
            self.served = served

        def get_span_context(self) -> Any:
            trace = self.served
            return api.SpanContext(
                int(trace.trace_id, 16),
                int(trace.span_id, 16),
                is_remote=False,
                trace_flags=api.TraceFlags(int(trace.sampled)),
                trace_state=api.TraceState.from_header([trace.state]) if trace.state else None,
            )

        def __repr__(self) -> str:
            return f"ServedSpan({self.served!r})"

    return otel_context.attach, api.set_span_in_context, ServedSpan, otel_context.detach
