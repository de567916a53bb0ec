"""The application's OpenTelemetry and ours see each other's spans, and what it keeps in its context stays."""

import contextvars
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from opentelemetry import baggage, context, trace

from proxyless.telemetry import application
from proxyless.telemetry.application import application_span, serve_from_here, serving
from proxyless.telemetry.context import RequestContext, current
from proxyless.telemetry.trace_context import TraceContext

OURS = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True, "vendor=1")


def request() -> RequestContext:
    return RequestContext(OURS, "an-id")


@pytest.fixture(params=["its variable", "its functions"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the variable that OpenTelemetry keeps its contexts in is known, or they are kept in another way."""
    monkeypatch.setattr(application, "_loaded", [])
    if request.param == "its functions":
        monkeypatch.setattr(application, "_variable_of", lambda attach, probe: None)


def alone(function: Callable[[], None]) -> None:
    """As a task of its own."""
    contextvars.copy_context().run(function)


def test_the_served_request_is_the_applications_current_span() -> None:
    def handler() -> None:
        serve_from_here(request())
        span = trace.get_current_span()
        assert trace.format_trace_id(span.get_span_context().trace_id) == OURS.trace_id
        assert trace.format_span_id(span.get_span_context().span_id) == OURS.span_id
        assert span.get_span_context().trace_flags.sampled
        assert span.get_span_context().trace_state.to_header() == "vendor=1"
        assert application_span() is OURS

    alone(handler)
    assert application_span() is None


def test_what_the_application_has_in_its_context_stays() -> None:
    def handler() -> None:
        context.attach(baggage.set_baggage("tenant", "blue"))
        serve_from_here(request())
        assert baggage.get_baggage("tenant") == "blue"
        assert application_span() is OURS

    alone(handler)
    assert baggage.get_baggage("tenant") is None


def test_a_captured_context_is_that_requests() -> None:
    """The application may carry it to another thread, where nothing of ours is."""
    captured: list[Any] = []

    def handler() -> None:
        serve_from_here(request())
        captured.append(context.get_current())

    alone(handler)
    assert trace.get_current_span(captured[0]).get_span_context().span_id == int(OURS.span_id, 16)


def test_a_span_of_the_application_in_a_request() -> None:
    def handler() -> None:
        serve_from_here(request())
        inner = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1))
        with trace.use_span(trace.NonRecordingSpan(inner)):
            assert application_span() == TraceContext(f"{1:032x}", f"{2:016x}", True)
        assert application_span() is OURS

    alone(handler)


def test_a_block_puts_back_what_was() -> None:
    def handler() -> None:
        with serving(request()):
            assert application_span() is OURS
        assert application_span() is None
        assert current.get() is None

    alone(handler)


def test_no_span_is_asked_of_what_is_not_loaded_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread imports it just now: it is there, and has nothing."""
    half = ModuleType("opentelemetry.trace")
    half.__spec__ = type("Spec", (), {"_initializing": True})()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", half)

    def handler() -> None:
        serve_from_here(request())
        assert application_span() is None

    alone(handler)
