"""What telemetry tells of gRPC calls: spans of calls and attempts, statuses made here, gRPC's own metrics."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_client_support import Backend, FakeRuntime, cluster, forward, perform, retrying, world
from opentelemetry.sdk.metrics.export import Histogram
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from proxyless.model.cluster import Cluster
from proxyless.model.route import Fault, FaultAbort, Mirror
from proxyless.telemetry.otlp import metrics_data
from proxyless.telemetry.telemetry import Telemetry
from proxyless.telemetry.tracing import Tracer

Start = Callable[..., Backend]
METHOD = "test.Echo/Fail"


def traced(*clusters: Cluster, sampled: bool = True, **action: Any) -> tuple[FakeRuntime, InMemorySpanExporter]:
    runtime = FakeRuntime(world(clusters, forward("ratings", **action)))
    environ = {"OTEL_TRACES_SAMPLER": "always_on" if sampled else "always_off"}
    runtime.telemetry = Telemetry(service="productpage", environ=environ)
    spans = InMemorySpanExporter()
    tracer = Tracer(Resource.create({}), [SimpleSpanProcessor(spans)])
    runtime.telemetry._exports = SimpleNamespace(tracer=tracer, close=tracer.shutdown)  # type: ignore[assignment]
    return runtime, spans


def test_a_span_for_the_call_and_one_for_each_attempt(api: str, backend: Start) -> None:
    server = backend()
    server.failures = 2
    runtime, exported = traced(cluster(server.port), retry=retrying("unavailable"))
    assert perform(api, runtime, "unary_unary", "Fail", b"x").code is grpc.StatusCode.OK
    *attempts, call = exported.get_finished_spans()
    assert (call.name, call.kind) == (METHOD, SpanKind.CLIENT)
    found = dict(call.attributes or {})
    for name, value in {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
        "server.address": "ratings",
        "server.port": 50051,
        "network.peer.port": server.port,
        "upstream_cluster": "ratings",
    }.items():
        assert found[name] == value
    assert call.status.status_code is StatusCode.UNSET
    assert not any(name.startswith(("http.", "url.")) for name in found)
    assert [(one.name, one.kind) for one in attempts] == [(f"Attempt.{METHOD}", SpanKind.INTERNAL)] * 3
    told = [dict(one.attributes or {}) for one in attempts]
    assert [one["rpc.response.status_code"] for one in told] == ["UNAVAILABLE", "UNAVAILABLE", "OK"]
    assert [one["previous-rpc-attempts"] for one in told] == [0, 1, 2]
    assert [one.status.status_code for one in attempts] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    # What goes over the wire is the attempt's, and the attempt is the call's.
    for attempt, (_, metadata) in zip(attempts, server.calls, strict=True):
        assert attempt.parent is not None and call.context is not None and attempt.context is not None
        assert attempt.parent.span_id == call.context.span_id
        assert metadata["traceparent"] == f"00-{call.context.trace_id:032x}-{attempt.context.span_id:016x}-01"
        assert (
            attempt.start_time is not None and attempt.end_time is not None and attempt.start_time <= attempt.end_time
        )


def test_a_call_that_fails(api: str, backend: Start) -> None:
    runtime, exported = traced(cluster(backend().port))
    perform(api, runtime, "unary_unary", "Status", b"5 nothing")
    attempt, call = exported.get_finished_spans()
    for one in (attempt, call):
        assert (one.attributes or {})["rpc.response.status_code"] == "NOT_FOUND"
        assert (one.attributes or {})["error.type"] == "NOT_FOUND"
        assert one.status.status_code is StatusCode.ERROR


def test_no_connection_is_an_attempt_too(api: str, backend: Start) -> None:
    server = backend()
    server.stop().wait(60)
    runtime, exported = traced(cluster(server.port))
    perform(api, runtime, "unary_unary", "Unary", b"")
    attempt, call = exported.get_finished_spans()
    assert (attempt.attributes or {})["rpc.response.status_code"] == "UNAVAILABLE"
    assert (call.attributes or {})["response_flags"] == "UF"


def test_nothing_is_built_of_what_is_not_sampled(api: str, backend: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = backend()
    runtime, exported = traced(cluster(server.port), sampled=False)
    monkeypatch.setattr(Telemetry, "attempt", None)
    perform(api, runtime, "unary_unary", "Unary", b"")
    assert exported.get_finished_spans() == ()
    assert server.calls[0][1]["traceparent"].endswith("-00")


def test_a_copy_is_in_no_trace(api: str, backend: Start) -> None:
    server, other = backend(), backend()
    runtime, exported = traced(
        cluster(server.port), cluster(other.port, name="next"), mirrors=(Mirror("next", traced=False),)
    )
    perform(api, runtime, "unary_unary", "Unary", b"")
    assert len(exported.get_finished_spans()) == 2
    assert [metadata["traceparent"][-2:] for _, metadata in server.calls] == ["01"]
    assert [metadata["traceparent"][-2:] for _, metadata in other.calls] in ([], ["00"])


@pytest.mark.parametrize("why", ["no answer about the target", "no route", "fault", "no endpoint", "deadline"])
def test_statuses_made_here_are_counted(api: str, backend: Start, why: str) -> None:
    server = backend()
    how: dict[str, Any] = {}
    expected = 14
    runtime = FakeRuntime(world([cluster(server.port)]))
    match why:
        case "no answer about the target":
            runtime.unknown.add("nobody:80")
            how["target"] = "nobody:80"
        case "no route":
            runtime = FakeRuntime(world([cluster(server.port)], forward("ratings", prefix="/other/")))
        case "fault":
            fault = Fault(abort=FaultAbort(1_000_000, grpc_status=8))
            runtime = FakeRuntime(world([cluster(server.port)], forward("ratings", route={"fault": fault})))
            expected = 8
        case "no endpoint":
            runtime = FakeRuntime(world([cluster()]))
        case "deadline":
            how["timeout"] = 0.0
            expected = 4
    found = perform(api, runtime, "unary_unary", "Sleep", b"", **how)
    assert found.code.value[0] == expected
    (line,) = [line for line in runtime.metrics().splitlines() if line.startswith("istio_requests_total{")]
    assert f'grpc_response_status="{expected}"' in line and 'request_protocol="grpc"' in line


def grpc_lines(runtime: FakeRuntime) -> dict[tuple[str, str], float]:
    """The samples of gRPC's own metrics by name and status, without buckets."""
    found = {}
    for line in runtime.metrics().splitlines():
        if line.startswith("grpc_") and "_bucket" not in line:
            name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()  # type: ignore[union-attr]
            told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            assert (told["grpc_method"], told["grpc_target"]) == (METHOD, "dns:///ratings:50051")
            found[name, told.get("grpc_status", "")] = float(value)
    return found


def test_grpcs_own_metrics(api: str, backend: Start) -> None:
    server = backend()
    server.failures = 2
    runtime = FakeRuntime(world([cluster(server.port)], forward("ratings", retry=retrying("unavailable"))))
    perform(api, runtime, "unary_unary", "Fail", b"", timeout=60)
    assert "grpc_client" not in runtime.metrics()
    server.failures = 2
    runtime.telemetry = Telemetry(service="productpage", environ={"PROXYLESS_GRPC_METRICS": "true"})
    perform(api, runtime, "unary_unary", "Fail", b"12345")
    found = grpc_lines(runtime)
    sent = "grpc_client_attempt_sent_total_compressed_message_size_bytes"
    received = "grpc_client_attempt_rcvd_total_compressed_message_size_bytes"
    assert {key: value for key, value in found.items() if "duration" not in key[0]} == {
        ("grpc_client_attempt_started_total", ""): 3,
        (f"{sent}_count", "UNAVAILABLE"): 2,
        (f"{sent}_sum", "UNAVAILABLE"): 10,
        (f"{sent}_count", "OK"): 1,
        (f"{sent}_sum", "OK"): 5,
        (f"{received}_count", "UNAVAILABLE"): 2,
        (f"{received}_sum", "UNAVAILABLE"): 0,
        (f"{received}_count", "OK"): 1,
        (f"{received}_sum", "OK"): 5,
    }
    assert found["grpc_client_attempt_duration_seconds_count", "UNAVAILABLE"] == 2
    assert found["grpc_client_call_duration_seconds_count", "OK"] == 1
    assert (
        found["grpc_client_call_duration_seconds_sum", "OK"] >= found["grpc_client_attempt_duration_seconds_sum", "OK"]
    )

    data = metrics_data(runtime.telemetry.metrics, Resource.create({}), runtime.telemetry.grpc)
    assert data is not None
    metrics = {one.name: one for one in data.resource_metrics[0].scope_metrics[0].metrics}
    assert metrics["grpc.client.attempt.started"].unit == "{attempt}"
    duration = metrics["grpc.client.call.duration"]
    assert isinstance(duration.data, Histogram)
    (point,) = duration.data.data_points
    assert (duration.unit, point.count, len(point.explicit_bounds), len(point.bucket_counts)) == ("s", 1, 41, 42)
    assert point.attributes == {"grpc.method": METHOD, "grpc.target": "dns:///ratings:50051", "grpc.status": "OK"}


def test_rounds_of_a_call_that_waits_are_attempts_of_one_call(api: str, backend: Start) -> None:
    server = backend()
    server.stop().wait(60)
    runtime, exported = traced(cluster(server.port))
    runtime.telemetry.grpc = Telemetry(service="x", environ={"PROXYLESS_GRPC_METRICS": "1"}).grpc
    found = perform(api, runtime, "unary_unary", "Fail", b"", wait_for_ready=True, timeout=0.4)
    assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED
    *attempts, call = exported.get_finished_spans()
    assert (call.attributes or {})["rpc.response.status_code"] == "DEADLINE_EXCEEDED"
    lines = grpc_lines(runtime)
    assert lines.get(("grpc_client_attempt_started_total", ""), 0) == len(attempts)
    ended = sum(value for (name, _), value in lines.items() if name == "grpc_client_attempt_duration_seconds_count")
    assert ended == len(attempts)
