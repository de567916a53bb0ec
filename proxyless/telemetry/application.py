"""Where our trace context meets the application's own OpenTelemetry, if it has loaded any."""

from __future__ import annotations

import contextvars
import functools
import sys
from collections.abc import Callable
from typing import Any

from proxyless.telemetry.context import RequestContext, current
from proxyless.telemetry.trace_context import TraceContext

_API = "opentelemetry.trace"


def application_span() -> TraceContext | None:
    """The application's current span, so that calls made inside it hang under it."""
    api = _open_telemetry()
    if api is None:
        return None
    span = api.current_span()
    if (ours := getattr(span, "served", None)) is not None:
        return ours  # type: ignore[no-any-return]
    if span is api.nothing:
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
        api = _open_telemetry()
        self._detach = api.attach(self._context.trace) if api is not None else None

    def __exit__(self, *_: object) -> None:
        if self._detach is not None:
            self._detach()
        current.reset(self._token)


def serve_from_here(context: RequestContext) -> None:
    """As ``serving``, in a task that does nothing else: what is set ends with it, so nothing is put back."""
    current.set(context)
    if (api := _loaded[0] if _loaded else _open_telemetry()) is not None:
        api.enter(context.trace)


class _OpenTelemetry:
    """What a request needs of the API; it is imported only if the application, or an exporter, has done so.

    Each request comes by here twice, and the API's way to its context variable leads through five functions. So the
    variable is looked for once: it is the one that ``attach`` sets.
    """

    def __init__(self) -> None:
        api = sys.modules[_API]
        # The API imports it itself.
        context = sys.modules["opentelemetry.context"]
        self.nothing = api.INVALID_SPAN
        self._attach, self._detach = context.attach, context.detach
        self._get_current_span, self._with_span = api.get_current_span, api.set_span_in_context
        probe = api.set_span_in_context(self.nothing, context.Context())
        self._kind, self._key = type(probe), next(iter(probe))
        self._variable = contextvars.copy_context().run(_variable_of, context.attach, probe)
        self._served = _served_span(api)

    def current_span(self) -> Any:
        if self._variable is None:
            return self._get_current_span()
        return self._variable.get().get(self._key, self.nothing)

    def enter(self, trace: TraceContext) -> None:
        """Until the end of this task."""
        span = self._served(trace)
        if self._variable is None:
            self._attach(self._with_span(span))
        else:
            self._variable.set(self._kind({**self._variable.get(), self._key: span}))

    def attach(self, trace: TraceContext) -> Callable[[], None]:
        """Until what is returned is called."""
        return functools.partial(self._detach, self._attach(self._with_span(self._served(trace))))


_loaded: list[_OpenTelemetry] = []


def _open_telemetry() -> _OpenTelemetry | None:
    """None while the application has not loaded it, all of it: another thread may just be importing it."""
    if _loaded:
        return _loaded[0]
    module = sys.modules.get(_API)
    if module is None or getattr(module.__spec__, "_initializing", False):
        return None
    _loaded.append(_OpenTelemetry())
    return _loaded[0]


def _variable_of(attach: Callable[[Any], object], probe: Any) -> contextvars.ContextVar[Any] | None:
    """None where contexts are kept in another way (``OTEL_PYTHON_CONTEXT``)."""
    attach(probe)
    return next((variable for variable, value in contextvars.copy_context().items() if value is probe), None)


def _served_span(api: Any) -> Callable[[TraceContext], Any]:
    class ServedSpan(api.NonRecordingSpan):  # type: ignore[misc]
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

    return ServedSpan
